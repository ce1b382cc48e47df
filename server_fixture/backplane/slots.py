"""
What a slot of the memory backplane holds: a stream with its producers and fences, a bucket with its sessions.

Here live the values and the small moves inside one of them. The verbs never live here (see ``memory.py``). Rule numbers
are those of ``docs/protocol.md``.
"""

from __future__ import annotations

from bisect import bisect_right

import attrs

from server_fixture.backplane import Entry, Fence, ProducerState

MAX_STEP = 2.0
"""A pause between two operations of a bucket counts at most this long (rule 1)."""

INSTANCES = 8
"""So many instances' last attempts are remembered with a session."""

REMEMBERED = 600.0
"""An expired session answers ``expired`` rather than ``unknown`` for this long."""

_HOLES = 16


@attrs.define
class Producer:
    """
    What a stream knows of a producer.

    ``told`` is what a hello found before ``first`` settled it (seq, known). It is told again until the next message is
    stored: a lost welcome must not turn a forgotten producer into a known one (rule 11).
    """

    last: int = 0
    rejected: dict[int, str] = attrs.field(factory=dict)
    touched: float = 0.0
    offset: int = 0
    told: tuple[int, bool] | None = None


@attrs.define
class Stream:
    """One log with the producers and fences beside it; ``base`` is the end of what an older epoch left."""

    epoch: str
    base: int = 0
    last: int = 0
    log: list[Entry] = attrs.field(factory=list)
    origins: dict[int, tuple[str, int]] = attrs.field(factory=dict)
    holes: list[tuple[int, int]] = attrs.field(factory=list)
    producers: dict[str, Producer] = attrs.field(factory=dict)
    fences: dict[str, tuple[Fence, float]] = attrs.field(factory=dict)

    @property
    def first(self) -> int:
        return self.log[0].offset if self.log else self.last + 1

    def index(self, offset: int) -> int:
        """Return the index of the first entry above ``offset``."""
        return bisect_right(self.log, offset, key=lambda entry: entry.offset)

    def crc_at(self, offset: int) -> int | None:
        place = self.index(offset)
        return self.log[place - 1].crc if place and self.log[place - 1].offset == offset else None

    def matches(self, offset: int, crc: int | None) -> bool | None:
        """Compare with the message at ``offset``; one in a lifted hole is gone for certain, so it never matches."""
        if crc is None or offset == 0:
            return None
        here = self.crc_at(offset)
        if here is not None:
            return here == crc
        return False if any(low <= offset <= high for low, high in self.holes) else None

    def store(self, entry: Entry, origin: tuple[str, int] | None, retention: int) -> None:
        self.last += 1
        self.log.append(attrs.evolve(entry, offset=self.last))
        if origin is not None:
            self.origins[self.last] = origin
        if len(self.log) > retention:
            self.trim(self.log[-retention - 1].offset)

    def trim(self, upto: int) -> None:
        place = self.index(upto)
        for entry in self.log[:place]:
            self.origins.pop(entry.offset, None)
        del self.log[:place]

    def lift(self, offset: int) -> bool:
        """No offset is given twice under one epoch (rule 7)."""
        if offset <= self.last:
            return False
        self.holes = [*self.holes, (self.last + 1, offset)][-_HOLES:]
        self.last = offset
        return True

    def settle(self, producer: str, first: int, now: float) -> ProducerState:
        """``first`` settles everything below it; say what was known before (rule 2, rule 11)."""
        state = self.producers.get(producer)
        if state is None and first == 1:
            return ProducerState(producer=producer, seq=0, known=False)
        if state is None:
            state = self.producers[producer] = Producer(told=(0, False))
        if state.last < first - 1:
            state.told = state.told or (state.last, True)
            state.last = first - 1
        state.touched = now
        state.rejected = {seq: code for seq, code in state.rejected.items() if seq >= first}
        seq, known = state.told or (state.last, True)
        return ProducerState(producer=producer, seq=seq, known=known, rejected=tuple(sorted(state.rejected.items())))


@attrs.define
class Record:
    """A session: who owns it, under which fence, until when."""

    session: str
    principal: str
    fence: Fence
    expires: float
    confirmed: int = 0
    attempts: dict[str, int] = attrs.field(factory=dict)
    private: Stream | None = None
    past: list[tuple[Fence, int, dict[str, int]]] = attrs.field(factory=list)

    def note(self, instance: str, attempt: int) -> None:
        """Remember the attempt; the instance that was heard longest ago makes room."""
        self.attempts.pop(instance, None)
        self.attempts[instance] = attempt
        while len(self.attempts) > INSTANCES:
            del self.attempts[next(iter(self.attempts))]


@attrs.define
class Bucket:
    """The slot of some sessions, with a clock that counts only time in which it is used."""

    clock: float = 0.0
    seen: float | None = None
    records: dict[str, Record] = attrs.field(factory=dict)

    def advance(self, now: float) -> None:
        if self.seen is not None:
            self.clock += min(max(now - self.seen, 0.0), MAX_STEP)
        self.seen = now
        for session in [s for s, r in self.records.items() if r.expires + REMEMBERED <= self.clock]:
            del self.records[session]

    def living(self, session: str) -> Record | None:
        record = self.records.get(session)
        return None if record is None or record.expires <= self.clock else record
