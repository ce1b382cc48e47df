"""
The memory backplane and a real store answer the same to any sequence of requests; planted differences are found.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import MemoryStore, RedisStore, Store, engine

from server_fixture.backplane import (
    Announce,
    Answer,
    Append,
    Confirm,
    EndSession,
    EnterSession,
    EnterStream,
    Entry,
    Fence,
    LivingNode,
    Publish,
    Read,
    Refresh,
    Request,
    Tick,
    TrimPrivate,
    bucket_of,
    scripts,
)

RETENTION = 4
PAYLOADS = [b"", b"a", b"bb", b"\x00\xff:"]
CRCS = [None, *(zlib.crc32(payload) for payload in PAYLOADS)]
_runs = itertools.count(1)

Step = Request | float | int
"""A request, seconds that pass, or the last offset of the stream that survives a loss."""


class Dice:
    """Draws steps that often meet each other: few names, small numbers, fences that are mostly the highest one."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._requests = [
            *[self.enter_session] * 2, self.refresh, self.confirm, self.end_session, self.trim_private, self.tick,
            *[self.enter_stream] * 4, *[self.append] * 5, *[self.publish] * 2, *[self.read] * 4,
            *[self.announce] * 2,
        ]  # fmt: skip

    def step(self) -> Step:
        if self._rng.random() < 0.1:
            return self._rng.choice([0.5, 1.9, 5.0, 20.0])
        if self._rng.random() < 0.05:
            return self.number()
        return self._rng.choice(self._requests)()

    def one(self, *choices: Any) -> Any:
        return self._rng.choice(choices)

    def number(self) -> int:
        return self._rng.randrange(10)

    def fence(self) -> Fence:
        if self._rng.random() < 0.7:
            return Fence(4, "b", 2)
        return Fence(self.one(1, 2, 3, 4), self.one("a", "b"), self.one(0, 1, 2))

    def entries(self, tombstones: bool) -> tuple[Entry, ...]:
        made = [Entry(self.one(*PAYLOADS), self.one(True, False)) for _ in range(self.one(0, 1, 1, 2, 3))]
        if tombstones and made and self.one(True, False, False):
            made[-1] = Entry(b"", False, code=self.one("no", "too large"))
        return tuple(made)

    def enter_session(self) -> Request:
        return EnterSession(
            session=self.one(None, "01one", "01one", "01two"), presented=self.one(None, 1, 2, 3, 4),
            new_session=self.one("01one", "01two"), instance=self.one("a", "b"), attempt=self.number(),
            principal=self.one("ann", "ann", "ann", "bob"), ttl=self.one(1.0, 60.0, 60.0),
        )  # fmt: skip

    def refresh(self) -> Request:
        return Refresh(session=self.one("01one", "01two"), fence=self.fence(), ttl=self.one(1.0, 60.0))

    def confirm(self) -> Request:
        return Confirm(session=self.one("01one", "01two"), generation=self.one(0, 1, 2, 3, 4))

    def end_session(self) -> Request:
        return EndSession(session=self.one("01one", "01two"), fence=self.fence())

    def trim_private(self) -> Request:
        return TrimPrivate(session="01one", fence=self.fence(), epoch=self.epoch(), offset=self.number())

    def tick(self) -> Request:
        return Tick(bucket=1)

    def stream(self) -> str:
        return str(self.one("x", "x", "x", "~01one"))

    def epoch(self) -> str:
        return str(self.one("current", "current", "current", "other"))

    def enter_stream(self) -> Request:
        producers = tuple((producer, 1 + self.number()) for producer in "pq" if self.one(True, False))
        return EnterStream(
            stream=self.stream(), session="01one", fence=self.fence(), producers=producers, held_epoch=self.epoch(),
            held_offset=self.one(None, 0, self.number()), held_crc=self.one(*CRCS),
            at=self.one("now", "earliest", None),
        )  # fmt: skip

    def append(self) -> Request:
        return Append(
            stream=self.stream(), session="01one", fence=self.fence(), producer=self.one("p", "p", "q"),
            first=1 + self.number(), entries=self.entries(True),
        )  # fmt: skip

    def publish(self) -> Request:
        return Publish(stream=self.stream(), entries=self.entries(False))

    def read(self) -> Request:
        return Read(
            stream=self.stream(), epoch=self.epoch(), after=self.number(), crc=self.one(*CRCS),
            max_messages=self.one(0, 1, 2, 9), max_bytes=self.one(0, 1, 2, 3, 99),
        )  # fmt: skip

    def announce(self) -> Request:
        node = LivingNode(
            name=self.one("n", "n10", "n2"), url=self.one("ws://a/", "ws://b/?c=d:e"), sessions=self.number(),
            accept_rate=1 + self.number(), is_draining=self.one(True, False),
        )  # fmt: skip
        return Announce(node=node, ttl=self.one(0.0, 1.0, 60.0, 60.0))


class Run:
    """One sequence of steps on one store, with names of its own; what may differ is made equal in the answers."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._suffix = f"{number:x}"
        self._epochs: dict[str, list[str]] = {}

    def step(self, step: Step) -> Answer | int | None:
        """Perform one step; give its answer without random parts."""
        if isinstance(step, float):
            return self._store.advance(step)
        if isinstance(step, int):
            return self._store.cut_tail(f"x{self._suffix}", step) if step < self._end() else None
        answer = self._store.run(self._named(step))
        return self._normal(answer, getattr(step, "stream", ""))

    def _end(self) -> int:
        request = Read(stream=f"x{self._suffix}", epoch="", after=0, crc=None, max_messages=0, max_bytes=0)
        answer: Any = self._store.run(request)
        return int(answer.last)

    def _named(self, request: Any) -> Any:
        names = ("session", "new_session", "stream")
        changes = {name: value + self._suffix for name in names if (value := getattr(request, name, None)) is not None}
        for name in ("epoch", "held_epoch"):
            if getattr(request, name, None) == "current":
                known = self._epochs.get(getattr(request, "stream", f"~{getattr(request, 'session', '')}"))
                changes[name] = known[-1] if known else "none yet"
        return attrs.evolve(request, **changes)

    def _normal(self, answer: Any, stream: str) -> Answer:
        changes: dict[str, Any] = {}
        if getattr(answer, "incarnation", None) is not None:
            changes["incarnation"] = "i"
        if getattr(answer, "session", None) is not None:
            changes["session"] = answer.session.removesuffix(self._suffix)
        epoch = getattr(answer, "epoch", None)
        if epoch:
            known = self._epochs.setdefault(stream, [])
            if epoch not in known:
                known.append(epoch)
            changes["epoch"] = str(known.index(epoch))
        return attrs.evolve(answer, **changes)


def compare(redis_store: RedisStore, rng: random.Random, length: int) -> None:
    """Take steps on both and compare each answer."""
    redis_store.admin.flushdb()
    memory = MemoryStore(RETENTION)
    dice, taken, created = Dice(rng), [], set()
    number = next(_runs)
    both = Run(memory, number), Run(redis_store, number)
    try:
        for place in range(length):
            step = dice.step()
            if isinstance(step, EnterSession):  # ids of new sessions are random: none comes twice
                step = attrs.evolve(step, new_session=f"01n{place}n") if step.new_session in created else step
                created.add(step.new_session)
            taken.append(step)
            expected, found = (run.step(step) for run in both)
            assert found == expected, "after these steps:\n" + "\n".join(map(str, taken))
    finally:
        memory.close()


def compare_long_runs(redis_store: RedisStore, seeds: Iterable[int]) -> None:
    """Compare one long run for each seed."""
    for seed in seeds:
        compare(redis_store, random.Random(seed), 300)


@pytest.fixture(scope="module")
def redis_store() -> Iterator[RedisStore]:
    """One real store for the module; runs keep apart by names."""
    with engine() as running:
        store = RedisStore(running.url, RETENTION)
        yield store
        store.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False), length=st.integers(1, 60))
def test_same_answers(redis_store: RedisStore, rng: random.Random, length: int) -> None:
    """Whatever is asked, in whatever order, both answer the same."""
    compare(redis_store, rng, length)


@pytest.mark.parametrize("seed", range(5))
def test_same_answers_in_long_runs(redis_store: RedisStore, seed: int) -> None:
    """Both still answer the same after many steps."""
    compare_long_runs(redis_store, [seed])


@pytest.mark.parametrize(
    ("script", "rule", "planted"),
    [
        ("APPEND", "for seq = p.last + 1, end_seq do", "for seq = first, end_seq do"),
        ("APPEND", "if newer then return {'old', newer} end", ""),
        ("APPEND", "p.last, p.told, p.known = seq, '', ''", "p.last = seq"),
        ("ENTER_STREAM", "    lift(last, held)\n", ""),
        ("ENTER_STREAM", "    p.last = first - 1\n", ""),
        ("ENTER_STREAM", "held = tonumber(ARGV[5])", "held = ARGV[5] ~= '0' and tonumber(ARGV[5]) or nil"),
        ("READ", "matches == '0' or", ""),
        ("READ", "or after < first - 1", ""),
        ("REFRESH", "if fence_less(fence, stands)", "if false"),
        ("ENTER_SESSION", "attempt <= tonumber(pair[2])", "attempt < tonumber(pair[2])"),
        ("ENTER_SESSION", "math.max(fence_of(r[4]).generation, presented or 0)", "fence_of(r[4]).generation"),
        ("ANNOUNCE", "if found[i] ~= name then", "if true then"),
        ("ANNOUNCE", "'-inf', num(now))", "'-inf', '0')"),
        ("ANNOUNCE", "num(now + ttl)", "num(now)"),
    ],
)
def test_planted_difference_is_found(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, script: str, rule: str, planted: str
) -> None:
    """The comparison can fail: each rule that is taken out of a script makes an answer differ."""
    text = getattr(scripts, script)
    assert text.count(rule) == 1
    monkeypatch.setattr(scripts, script, text.replace(rule, planted))
    with pytest.raises(AssertionError, match="after these steps"):
        compare_long_runs(redis_store, range(20))


def test_sessions_of_the_comparison_share_a_bucket() -> None:
    """Both sessions that the comparison uses, with any suffix, are in the bucket that it ticks."""
    assert {bucket_of("01one1f"), bucket_of("01two1f")} == {1}
