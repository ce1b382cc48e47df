"""Planted defects of the store: sessions, fences, logs. Its tokens are in ``tokens.py``."""

from __future__ import annotations

from typing import Any

import attrs

from server_fixture.backplane import (
    Done,
    EnterStream,
    Fence,
    ProducerState,
    SessionEntered,
    SessionUnknown,
    bucket_of,
)
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.slots import Bucket, Producer, Record, Stream
from tests.simulation.mutants.mutant import Mutant, replaced, together


def _no_fence_no_dedupe(original: Any) -> Any:
    """The fence in the slot and the comparison of seqs cover each other: only without both is anything stored twice."""

    def append(self: MemoryBackplane, r: Any, now: float) -> Any:
        slot = self._slot(r.stream)
        if slot is not None:
            slot.fences.pop(r.session, None)
            state = slot.producers.get(r.producer)
            if state is not None and state.last >= r.first:
                state.last = r.first - 1
        return original(self, r, now)

    return append


def _accept_hole(original: Any) -> Any:
    def append(self: MemoryBackplane, r: Any, now: float) -> Any:
        slot = self._slot(r.stream)
        if slot is not None:
            state = slot.producers.setdefault(r.producer, Producer())
            state.last = max(state.last, r.first - 1)
        return original(self, r, now)

    return append


def _ttl_counts_outage(original: Any) -> Any:
    def advance(self: Bucket, now: float) -> None:
        before = self.seen
        original(self, now)
        if before is not None:
            self.clock += max(now - before - 2.0, 0.0)

    return advance


def _no_attempt(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        for bucket in self._buckets:
            record = bucket.records.get(r.session or "")
            if record is not None:
                record.attempts.clear()
        return original(self, r, now)

    return enter


def _no_dedupe(original: Any) -> Any:
    def append(self: MemoryBackplane, r: Any, now: float) -> Any:
        slot = self._slot(r.stream)
        state = None if slot is None else slot.producers.get(r.producer)
        if state is not None and state.last >= r.first:
            state.last = r.first - 1
        return original(self, r, now)

    return append


def _reject_kills_later_ones(original: Any) -> Any:
    def append(self: MemoryBackplane, r: Any, now: float) -> Any:
        codes = [entry.code for entry in r.entries]
        rejected = next((place for place, code in enumerate(codes) if code is not None), len(codes))
        return original(self, attrs.evolve(r, entries=r.entries[: rejected + 1]), now)

    return append


def _no_first(original: Any) -> Any:
    def settle(self: Stream, producer: str, first: int, now: float) -> ProducerState:
        state = original(self, producer, 1, now)
        return attrs.evolve(state, rejected=tuple(one for one in state.rejected if one[0] >= first))

    return settle


def _no_first_of_unknown(original: Any) -> Any:
    def settle(self: Stream, producer: str, first: int, now: float) -> ProducerState:
        if producer not in self.producers:
            return ProducerState(producer=producer, seq=0, known=False)
        return original(self, producer, first, now)  # type: ignore[no-any-return]

    return settle


def _nothing_is_newer(original: Any) -> Any:
    return lambda self, slot, r, now: None


def _anybody_owns(original: Any) -> Any:
    def owned(self: MemoryBackplane, r: Any) -> Any:
        return self._buckets[bucket_of(r.session)].living(r.session) or SessionUnknown()

    return owned


def _hello_writes_no_fence(original: Any) -> Any:
    def raise_fence(self: MemoryBackplane, slot: Stream, r: Any, now: float) -> Any:
        before = slot.fences.get(r.session)
        newer = original(self, slot, r, now)
        if isinstance(r, EnterStream) and before is not None:
            slot.fences[r.session] = before
        elif isinstance(r, EnterStream):
            slot.fences.pop(r.session, None)
        return newer

    return raise_fence


def _same_fence_again(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        if isinstance(answer, SessionEntered) and answer.verdict == "resumed":
            record = self._buckets[bucket_of(answer.session)].records[answer.session]
            record.fence = record.past[-1][0]
            return attrs.evolve(answer, fence=record.fence)
        return answer

    return enter


def _trim_unfenced(original: Any) -> Any:
    def trim(self: MemoryBackplane, r: Any, now: float) -> Any:
        record = self._buckets[bucket_of(r.session)].living(r.session)
        return original(self, r if record is None else attrs.evolve(r, fence=record.fence), now)

    return trim


def _generation_alone(original: Any) -> Any:
    return lambda self, other: self.generation > other.generation


def _no_crc(original: Any) -> Any:
    def matches(self: Stream, offset: int, crc: int | None) -> bool | None:
        return None if original(self, offset, crc) is None or self.crc_at(offset) is not None else False

    return matches


def _no_crc_in_reads(original: Any) -> Any:
    return lambda self, r, now: original(self, attrs.evolve(r, crc=None), now)


def _no_lift(original: Any) -> Any:
    return lambda self, offset: False


def _writes_nothing_back(original: Any) -> Any:
    def refresh(self: MemoryBackplane, r: Any, now: float) -> Any:
        record = self._owned(r)
        if not isinstance(record, Record):
            return record
        record.expires = self._buckets[bucket_of(r.session)].clock + r.ttl
        return Done()

    return refresh


def _forgets_producers(original: Any) -> Any:
    def forget(self: MemoryBackplane, slot: Stream, now: float) -> None:
        for producer in [p for p, state in slot.producers.items() if state.touched < now - 1.0]:
            del slot.producers[producer]

    return forget


def _always_the_same(original: Any) -> Any:
    return lambda self: "0" * 32


_NO_DEDUPE = replaced(MemoryBackplane, "_append", _no_dedupe)
_NO_ENTER_FENCE = replaced(MemoryBackplane, "_raise_fence", _hello_writes_no_fence)
_NO_FENCE = together(
    replaced(MemoryBackplane, "_raise_fence", _nothing_is_newer), replaced(MemoryBackplane, "_owned", _anybody_owns)
)

MUTANTS = {
    "ttl_counts_outage": Mutant("1, 12", "store", replaced(Bucket, "advance", _ttl_counts_outage)),
    "no_dedupe": Mutant("2", "orphan", _NO_DEDUPE),
    "store_accepts_hole": Mutant("2", "swallow", replaced(MemoryBackplane, "_append", _accept_hole)),
    "reject_kills_later_ones": Mutant("2", "usual", replaced(MemoryBackplane, "_append", _reject_kills_later_ones)),
    "no_first": Mutant("2", "tail", replaced(Stream, "settle", _no_first)),
    "no_first_of_unknown": Mutant("2, 11", "tail", replaced(Stream, "settle", _no_first_of_unknown)),
    "store_forgets_producers": Mutant("2, 11", "store", replaced(
        MemoryBackplane, "_forget_producers", _forgets_producers)),
    "no_attempt": Mutant("3", "ghost", replaced(MemoryBackplane, "_enter_session", _no_attempt)),
    "no_fence": Mutant("4", "pause", _NO_FENCE),
    "no_fence_no_dedupe": Mutant("2, 4", "pause", replaced(MemoryBackplane, "_append", _no_fence_no_dedupe)),
    "no_enter_fence": Mutant("4", "pause", _NO_ENTER_FENCE),
    "no_enter_fence_no_dedupe": Mutant("2, 4", "pause", together(_NO_ENTER_FENCE, _NO_DEDUPE)),
    "same_fence_again": Mutant("4", "usual", replaced(MemoryBackplane, "_enter_session", _same_fence_again)),
    "trim_unfenced": Mutant("4", "private", replaced(MemoryBackplane, "_trim_private", _trim_unfenced)),
    "fence_is_a_number": Mutant("4", "twins", replaced(Fence, "__gt__", _generation_alone)),
    "refresh_writes_nothing_back": Mutant("1, 4", "twins", replaced(
        MemoryBackplane, "_refresh", _writes_nothing_back)),
    "no_crc": Mutant("7", "tail", replaced(Stream, "matches", _no_crc)),
    "no_crc_in_reads": Mutant("7", "tail", replaced(MemoryBackplane, "_read", _no_crc_in_reads)),
    "epochs_are_never_new": Mutant("8", "epoch", replaced(MemoryBackplane, "_random", _always_the_same)),
    "no_lift": Mutant("7", "tail", replaced(Stream, "lift", _no_lift)),
}  # fmt: skip
