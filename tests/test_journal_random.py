"""The journal against a model: random records, restarts, and copies as a SIGKILL leaves them, after every write."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_tools import (
    Clock,
    Model,
    accepted,
    copied,
    differences,
    handled,
    opened,
    quick_directory,
    restored_from,
    welcomed,
)

from resilient_ws.journal import writing
from resilient_ws.records import Forgotten, Record, SessionOver, Settled, Withdrawn

STREAMS = ("s", "t", "u")
PAYLOADS = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(4000, 9000).map(lambda size: "ä" * size),
    st.integers(100, 5000).map(bytes),
)
# What is done, as numbers to be read against the state: a record of a kind, on a stream, of so much.
DEEDS = st.one_of(
    st.tuples(st.just("accept"), st.integers(0, 2), st.lists(PAYLOADS, min_size=1, max_size=6)),
    st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 8)),
    st.tuples(st.just("withdraw"), st.integers(0, 9), st.sets(st.integers(0, 8), min_size=1, max_size=3)),
    st.tuples(st.just("handle"), st.integers(0, 30), st.integers(0, 1 << 53)),
    st.tuples(st.just("forget"), st.integers(0, 30), st.none()),
    st.tuples(st.just("welcome"), st.integers(0, 2), st.none()),
    st.tuples(st.just("end"), st.none(), st.none()),
)
WRITES = st.tuples(st.lists(DEEDS, max_size=6), st.booleans(), st.sampled_from(("go on", "again", "copy", "restart")))


class Device:
    """A journal and the model of it, through several lives."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "device.db"
        self.model = Model()
        self.clock = Clock()
        self.life = 0
        self.journal = opened(self.path, self.clock, instance="life 0")

    @property
    def producer(self) -> str:
        return f"{self.life:032d}"

    def record(self, kind: str, where: Any, what: Any) -> Record | None:
        """Make the record of a deed, None where there is nothing to do it to."""
        if kind == "accept":
            return self._accepted(STREAMS[where], what)
        if kind in ("settle", "withdraw"):
            return self._about_messages(kind, where, what)
        if kind == "handle":
            return handled(f"in/{where}", what)
        if kind == "forget":
            return Forgotten(f"in/{where}")
        if kind == "welcome":
            return welcomed(max(self.model.welcomes, default=0) + 1, at=self.clock.now, incarnation=f"store {where}")
        return SessionOver()

    def _accepted(self, stream: str, payloads: list[Any]) -> Record:
        lane = self.model.lanes.get((self.producer, stream), {})
        first = max(lane, default=self.settled.get((self.producer, stream), 0)) + 1
        waits_for = max(self.model.welcomes, default=0) + len(payloads) % 2
        welcome = max([waits_for, *(row[2] for row in lane.values())])
        return accepted(first, *payloads, producer=self.producer, stream=stream, at=self.clock.now, welcome=welcome)

    def _about_messages(self, kind: str, where: int, what: Any) -> Record | None:
        lanes = [(key, lane) for key, lane in self.model.lanes.items() if lane]
        if not lanes:
            return None
        key, lane = lanes[where % len(lanes)]
        seqs = sorted(lane)
        if kind == "settle":
            return Settled(*key, seqs[what % len(seqs)])
        return Withdrawn(*key, tuple(sorted({seqs[index % len(seqs)] for index in what})), "dropped")

    @property
    def settled(self) -> dict[tuple[str, str], int]:
        return {lane.key: lane.first - 1 for lane in self.journal._contents.lanes.values()}

    def write(self, deeds: list[Any], *, durable: bool) -> list[Record]:
        """Write what the deeds come to in one transaction; returns that."""
        records: list[Record] = []
        settled_to: dict[Any, int] = {}
        for deed in deeds:
            record = self.record(*deed)
            if record is None or (getattr(record, "producer", None), getattr(record, "stream", None)) in settled_to:
                continue  # the journal does not know yet what this group settles
            if isinstance(record, Settled):
                settled_to[record.producer, record.stream] = record.seq
            records.append(record)
            self.model.take(record)
        self.journal.write(records, durable=durable)
        return records

    def restart(self) -> None:
        self.journal.close()
        self.life += 1
        self.journal = opened(self.path, self.clock, instance=f"life {self.life}")


def live(directory: Path, writes: list[Any]) -> Iterator[str]:
    """Carry out writes, and yield every difference between what a restart would know and the model."""
    device = Device(directory)
    try:
        for number, (deeds, durable, then) in enumerate(writes):
            device.clock.advance(0.7)
            records = device.write(deeds, durable=durable)
            if then == "again":
                device.journal.write(records, durable=durable)
            elif then == "copy":
                left = copied(device.path, directory / f"copy {number}")
                yield from differences(device.model, restored_from(left, copy.copy(device.clock)))
            elif then == "restart":
                device.restart()
                yield from differences(device.model, device.journal.restored)
        device.restart()
        yield from differences(device.model, device.journal.restored)
        assert device.journal.opened.notes == ()
    finally:
        device.journal.close()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "CHECKPOINT_PAGES", 12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WRITES, min_size=1, max_size=25))
def test_a_restart_knows_what_the_model_knows(writes: list[Any]) -> None:
    """After any writes, closed or killed between any two of them."""
    with quick_directory() as place:
        assert list(live(place, writes)) == []


def test_a_journal_that_forgets_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The comparison finds each kind of record, when the journal leaves it out."""
    deeds = [
        ("accept", 0, ["one", b"two", "three"]), ("welcome", 1, None), ("handle", 1, 5), ("handle", 2, 6),
        ("withdraw", 0, {1}), ("settle", 0, 0), ("forget", 1, None),
    ]  # fmt: skip
    writes = [([deed], True, "go on") for deed in deeds]
    (tmp_path / "all").mkdir()
    assert list(live(tmp_path / "all", writes)) == []
    write = writing.Journal.write
    for left_out in (1, 3, 4, 5, 6):  # the first thing that was handled is forgotten in the end
        numbers = iter(range(100))

        def lossy(self: Any, records: Any, *, durable: bool, numbers: Any = numbers, left_out: int = left_out) -> None:
            write(self, [] if next(numbers) == left_out else records, durable=durable)

        place = tmp_path / str(left_out)
        place.mkdir()
        with monkeypatch.context() as patched:
            patched.setattr(writing.Journal, "write", lossy)
            assert list(live(place, writes)), f"nothing is missing without {deeds[left_out]}"
