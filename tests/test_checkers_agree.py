"""Two checkers that share no code agree on histories by the thousand, and a defect planted in either of them shows."""

from __future__ import annotations

import collections
import collections.abc
import os
import random
import typing

import pytest

from server_fixture import checker, evidence, follower, second_checker, second_facts
from tests.histories import ALL_WAYS, case, disagreement, first_kinds, second_kinds

pytestmark = pytest.mark.proof

FRESH = int(os.environ.get("RESILIENT_WS_HISTORY_SEED", random.SystemRandom().randrange(1 << 30)))
"""A base that nobody has run before; a failure prints the seed and how to rerun it."""
PART, PARTS = 250, 12


@pytest.mark.parametrize("part", range(PARTS))
def test_checkers_agree(part: int) -> None:
    """Of whole, broken and impossible histories both say the same, and find the same kinds where one thing is wrong."""
    first = FRESH + part * PART
    said = [said for seed in range(first, first + PART) if (said := disagreement(case(seed)))]
    assert said == []


def test_histories_are_worth_judging() -> None:
    """Many of them are whole and many broken, each kind of anomaly and each way to meddle comes up."""
    ends: collections.Counter[str] = collections.Counter()
    ways: set[str] = set()
    for seed in range(1500):
        made = case(seed)
        ways.update(made.ways)
        kinds = first_kinds(made.ops)
        ends.update(kinds or {"whole"})
    assert ways == {way.__name__ for way in ALL_WAYS}
    assert set(ends) == {*evidence.KINDS, "whole", "refused"}
    assert min(ends.values()) >= 20
    assert ends["whole"] >= 400


def test_the_same_seed_is_the_same_history() -> None:
    """Nothing but the seed decides."""
    assert case(7) == case(7)


def test_a_disagreement_says_how_to_rerun_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the assertion shows is both verdicts and the line that makes and judges just that history."""
    monkeypatch.setattr(second_checker, "PREDICATES", ())
    made = next(made for made in map(case, range(100)) if first_kinds(made.ops) == {"phantom"})
    said = disagreement(made)
    assert said is not None
    assert "['phantom'] says the first checker, whole the second" in said
    assert said.endswith(f"rerun: python -m tests.histories --seed {made.seed} --show")


# -- negative controls: one predicate fewer, in either of them --------------------------------------------------------


def disagreements(seeds: collections.abc.Iterable[int]) -> int:
    """Count the histories on which the checkers disagree."""
    return sum(disagreement(case(seed)) is not None for seed in seeds)


@pytest.mark.parametrize("predicate", second_checker.PREDICATES, ids=lambda predicate: predicate.__name__)
def test_a_blind_second_checker_is_found(
    predicate: collections.abc.Callable[..., typing.Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever predicate the second checker lacks, the two disagree."""
    rest = tuple(other for other in second_checker.PREDICATES if other is not predicate)
    monkeypatch.setattr(second_checker, "PREDICATES", rest)
    assert any(disagreements(range(first, first + 100)) for first in range(0, 3000, 100))


def nothing(*_: object) -> None:
    """Judge nothing."""


@pytest.mark.parametrize(
    ("where", "name", "instead"),
    [
        (follower.Follower, "_judge_lost", nothing),
        (follower.Follower, "_judge_jumps", nothing),
        (follower.Follower, "_judge_doubtful", nothing),
        (follower.Follower, "_judge_gap", nothing),
        (follower.Follower, "_tail", nothing),
        (follower.Follower, "_late", nothing),
        (follower.Follower, "_excuse", nothing),
        (follower.Follower, "_give_up", nothing),
        (checker._Outbound, "_judge_log", nothing),
        (checker._Outbound, "_judge_published", nothing),
        (checker._Outbound, "_judge_publish", nothing),
        (checker._Outbound, "_judge_receipts", nothing),
        (checker._Outbound, "_judge_sightings", nothing),
        (checker._Outbound, "_may_be_gone", lambda *_: True),
        (evidence.Log, "has_room", lambda *_: True),
        (evidence.Log, "unretained", lambda *_: set()),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_blind_first_checker_is_found(
    where: type, name: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever judgement the first checker lacks, the two disagree."""
    monkeypatch.setattr(where, name, instead)
    assert any(disagreements(range(first, first + 100)) for first in range(0, 3000, 100))


@pytest.mark.parametrize("name", ["was_given_up", "may_be_replaced", "existed", "had_room", "was_glimpsed", "may_skip"])
def test_a_credulous_second_checker_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is always answered with no makes the two disagree."""
    monkeypatch.setattr(second_facts.Facts, name, lambda *_: False)
    assert any(disagreements(range(first, first + 100)) for first in range(0, 3000, 100))


def test_controls_begin_without_a_disagreement() -> None:
    """On the seeds of the controls the checkers agree as they are."""
    assert disagreements(range(600)) == 0
    assert second_kinds(case(0).ops) == first_kinds(case(0).ops)
