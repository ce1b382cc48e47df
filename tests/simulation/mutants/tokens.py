"""
Planted defects of resume tokens (rule 5): which ones a store takes, whose they are, what a ``ready`` confirms.

"Kept old" of a client that never takes the token of a welcome is here too: what it loses is what the store refuses.
"""

from __future__ import annotations

from typing import Any

import attrs

from resilient_ws import hearing
from server_fixture.backplane import Done, Foreign, SessionEntered, bucket_of
from server_fixture.backplane.memory import MemoryBackplane
from tests.simulation.mutants.mutant import Mutant, replaced


def _only_current_token(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        for bucket in self._buckets:
            for record in bucket.records.values():
                record.confirmed = record.fence.generation
        return answer

    return enter


def _one_previous_token(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        for bucket in self._buckets:
            for record in bucket.records.values():
                record.confirmed = max(record.confirmed, record.fence.generation - 1)
        return answer

    return enter


def _confirms_the_current_one(original: Any) -> Any:
    def confirm(self: MemoryBackplane, r: Any, now: float) -> Any:
        record = self._buckets[bucket_of(r.session)].living(r.session)
        return original(self, r if record is None else attrs.evolve(r, generation=record.fence.generation), now)

    return confirm


def _confirms_nothing(original: Any) -> Any:
    return lambda self, r, now: Done()


def _any_principal(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        record = self._buckets[bucket_of(r.session or r.new_session)].records.get(r.session or "")
        return original(self, r if record is None else attrs.evolve(r, principal=record.principal), now)

    return enter


def _refused_principal_stays(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        if isinstance(answer, Foreign):
            self._buckets[bucket_of(r.session)].records[r.session].principal = r.principal
        return answer

    return enter


def _superseded_is_fatal(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        return Foreign() if isinstance(answer, SessionEntered) and answer.reason == "superseded" else answer

    return enter


def _first_token_is_kept(original: Any) -> Any:
    first: dict[str, str] = {}
    return lambda session, token, generation: original(session, first.setdefault(session, token), generation)


MUTANTS = {
    "only_current_token": Mutant("5", "ghost", replaced(MemoryBackplane, "_enter_session", _only_current_token)),
    "one_previous_token": Mutant("5", "ghost", replaced(MemoryBackplane, "_enter_session", _one_previous_token)),
    "ready_confirms_the_current_one": Mutant("5", "ghost", replaced(
        MemoryBackplane, "_confirm", _confirms_the_current_one)),
    "old_tokens_stay_valid": Mutant("5", "pair", replaced(MemoryBackplane, "_confirm", _confirms_nothing)),
    "client_keeps_the_old_token": Mutant("5", "ghost", replaced(hearing, "Identity", _first_token_is_kept)),
    "any_principal_resumes": Mutant("5", "stranger", replaced(MemoryBackplane, "_enter_session", _any_principal)),
    "refused_principal_stays": Mutant("5", "stranger", replaced(
        MemoryBackplane, "_enter_session", _refused_principal_stays)),
    "superseded_is_fatal": Mutant("5", "pair", replaced(MemoryBackplane, "_enter_session", _superseded_is_fatal)),
}  # fmt: skip
