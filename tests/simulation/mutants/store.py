"""Planted defects of the store: sessions, fences, logs."""

from __future__ import annotations

from typing import Any

from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.slots import Bucket, Producer
from tests.simulation.mutants.mutant import Mutant, replaced


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


def _only_current_token(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        for bucket in self._buckets:
            for record in bucket.records.values():
                record.confirmed = record.fence.generation
        return answer

    return enter


def _no_attempt(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        for bucket in self._buckets:
            record = bucket.records.get(r.session or "")
            if record is not None:
                record.attempts.clear()
        return original(self, r, now)

    return enter


MUTANTS = {
    "ttl_counts_outage": Mutant("1, 12", "store", replaced(Bucket, "advance", _ttl_counts_outage)),
    "no_fence_no_dedupe": Mutant("2, 4", "pause", replaced(MemoryBackplane, "_append", _no_fence_no_dedupe)),
    "store_accepts_hole": Mutant("2", "swallow", replaced(MemoryBackplane, "_append", _accept_hole)),
    "no_attempt": Mutant("3", "ghost", replaced(MemoryBackplane, "_enter_session", _no_attempt)),
    "only_current_token": Mutant("5", "ghost", replaced(MemoryBackplane, "_enter_session", _only_current_token)),
}
