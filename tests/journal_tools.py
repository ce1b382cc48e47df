"""What tests of the journal share: a clock, records, copies as a SIGKILL leaves them, and a model to compare with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from resilient_ws.frames import Payload, Position
from resilient_ws.journal import Journal, open_journal
from resilient_ws.records import (
    Accepted,
    Forgotten,
    Handled,
    Identity,
    Mark,
    Record,
    Restored,
    RestoredLane,
    SessionOver,
    Settled,
    Void,
    Welcomed,
    Withdrawn,
)

ONE, TWO = "1" * 32, "2" * 32
TOKEN = "canary-5c1e9f-token"
SIDES = ("", "-wal", "-shm", "-journal", ".lock")
GRAIN = 1.0
"""Seconds within which births may be taken for one."""


@attrs.define
class Clock:
    """Both clocks of a process, in seconds; they are set by hand."""

    now: float = 1000.0
    wall: float = 1_700_000_000.0

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds
        self.wall += seconds

    def read(self) -> float:
        """Return the time of the process."""
        return self.now

    def read_wall(self) -> float:
        """Return the time of the wall."""
        return self.wall


def opened(path: Path, clock: Clock | None = None, *, instance: str = "me", **changes: Any) -> Journal:
    """Open a journal, by a clock that stands still unless one is given."""
    clock = clock or Clock()
    return open_journal(path, instance=instance, clock=clock.read, wall=clock.read_wall, **changes)


def read_back(path: Path, clock: Clock | None = None, **changes: Any) -> Restored:
    """Return what a journal knows; it is open only for a moment."""
    journal = opened(path, clock, **changes)
    journal.close()
    return journal.restored


def accepted(*payloads: Payload, first: int = 1, at: float = 1000.0, welcome: int = 1, **where: str) -> Accepted:
    """Make a record of messages, of producer ONE and stream ``s`` unless told otherwise."""
    return Accepted(where.get("producer", ONE), where.get("stream", "s"), first, list(payloads), at, welcome)


def settled(seq: int, *, producer: str = ONE, stream: str = "s") -> Settled:
    """Make a record of an ack."""
    return Settled(producer, stream, seq)


def handled(offset: int, *, stream: str = "in", epoch: str = "e1", crc: int | None = 7) -> Handled:
    """Make a record of a position."""
    return Handled(stream, Position(epoch, offset), crc)


def welcomed(number: int = 1, *, at: float = 1000.0, incarnation: str = "i1", generation: int = 1) -> Welcomed:
    """Make a record of a welcome."""
    return Welcomed(number, at, incarnation, Identity("session", TOKEN, generation))


def items(restored: Restored) -> dict[tuple[str, str], tuple[int, list[Payload | Void]]]:
    """Return {(producer, stream): (first, messages)}."""
    return {(lane.producer, lane.stream): (lane.first, lane.items) for lane in restored.lanes}


def copied(path: Path, target: Path) -> Path:
    """Copy a journal as it lies on the disk, as a SIGKILL would leave it; returns the copy."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for side in SIDES[:-1]:
        source = path.with_name(path.name + side)
        copy = target / source.name
        copy.unlink(missing_ok=True)
        if source.exists():
            shutil.copy(source, copy)
            copy.chmod(0o600)
    return target / path.name


def on_disk(path: Path) -> dict[str, bytes]:
    """Return the bytes of everything in the directory of a journal, but for its lock."""
    return {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if not entry.name.endswith(".lock")}


# -- what a journal should know ---------------------------------------------------------------------------------------


@attrs.define
class Message:
    """One message: what it is, when it was accepted (wall time), and under which welcome it can have got out."""

    item: Payload | Void
    at: float
    welcome: int


@attrs.define
class Model:
    """A journal in memory, as simple as can be; times are the wall's."""

    lanes: dict[tuple[str, str], dict[int, Message]] = attrs.field(factory=dict)
    identity: Identity | None = None
    instances: list[str] = attrs.field(factory=list)
    positions: dict[str, Handled] = attrs.field(factory=dict)
    welcomes: dict[int, tuple[float, str]] = attrs.field(factory=dict)

    def put(self, records: Sequence[Record], offset: float) -> None:
        """Apply records; ``offset``: wall time less the process's."""
        for record in records:
            self._put(record, offset)

    def _put(self, record: Record, offset: float) -> None:
        match record:
            case Accepted(producer, stream, first, payloads, at, welcome):
                lane = self.lanes.setdefault((producer, stream), {})
                lane |= {seq: Message(payload, at + offset, welcome) for seq, payload in enumerate(payloads, first)}
            case Settled(producer, stream, seq):
                lane = self.lanes.get((producer, stream), {})
                for number in [number for number in lane if number <= seq]:
                    del lane[number]
            case Withdrawn(producer, stream, seqs, code):
                for number in seqs:
                    self.lanes[producer, stream][number].item = Void(code)
            case Handled():
                self.positions[record.stream] = record
            case Forgotten(stream):
                self.positions.pop(stream, None)
            case Welcomed(number, at, incarnation, identity):
                self.welcomes[number] = (at + offset, incarnation)
                self.identity = identity
            case SessionOver():
                self.identity = None

    def differences(self, restored: Restored, offset: float) -> list[str]:
        """Say in what a journal that was read back is not as it should be."""
        filled = {key: lane for key, lane in self.lanes.items() if lane}
        expected = {
            "identity": (self.identity, restored.identity),
            "instances": (frozenset(self.instances[-64:]), restored.instances),
            "positions": (self.positions, dict(restored.positions)),
            "welcomes": (max(self.welcomes, default=0), restored.welcomes),
            "lanes": (list(filled), [(lane.producer, lane.stream) for lane in restored.lanes]),
        }
        said = [f"{name}: {want!r}, read {got!r}" for name, (want, got) in expected.items() if want != got]
        if said:
            return said
        return [
            f"{key}: {what}"
            for (key, lane), got in zip(filled.items(), restored.lanes, strict=True)
            for what in self._lane_differences(lane, got, offset)
        ]

    def _lane_differences(self, lane: dict[int, Message], got: RestoredLane, offset: float) -> list[str]:
        if (min(lane), [message.item for message in lane.values()]) != (got.first, got.items):
            return [f"{lane!r}, read {got!r}"]
        said = []
        for seq, message in lane.items():
            birth = next(at for upto, at in got.births if seq <= upto) + offset
            if not -0.01 < message.at - birth < GRAIN + 0.01:
                said.append(f"message {seq} is of {message.at}, read {birth}")
            mark = next((mark for mark in got.marks if seq <= mark.seq), None)
            said += self._mark_differences(seq, message, mark, offset)
        return said

    def _mark_differences(self, seq: int, message: Message, mark: Mark | None, offset: float) -> list[str]:
        welcome = self.welcomes.get(message.welcome)
        if welcome is None or mark is None:
            return [] if welcome is None and mark is None else [f"message {seq}: {mark} for welcome {welcome}"]
        since = max(message.at, welcome[0])
        if mark.incarnation != welcome[1] or not -0.01 < since - mark.at - offset < GRAIN + 0.01:
            return [f"message {seq} can have been written since {since} to {welcome[1]}, read {mark}"]
        return []
