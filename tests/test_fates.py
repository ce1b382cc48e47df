"""Why messages failed: found by seq, and cheap where neighbours failed alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws.exceptions import Rejected, Undelivered
from resilient_ws.fates import Fate, Fates

DROPPED = Fate("dropped")


def test_a_million_neighbours_are_one_run() -> None:
    """What failed alike, one after another, is kept once."""
    fates = Fates()
    assert all(fates.add(seq, DROPPED) for seq in range(1, 100_001))
    assert fates.runs == 1
    assert fates.get(50_000) == DROPPED
    assert fates.get(0) is None
    assert fates.get(100_001) is None


def test_the_first_fate_counts() -> None:
    """A message that failed does not fail again for another reason."""
    fates = Fates()
    assert not fates
    assert fates.add(3, DROPPED)
    assert not fates.add(3, Fate("forbidden"))
    assert fates
    assert fates.get(3) == DROPPED


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["a", "b"]))))
def test_fates_are_those_of_a_dict(adds: list[tuple[int, str]]) -> None:
    """In any order, runs say what a plain dict would say, and no two neighbouring runs are alike."""
    fates, model = Fates(), {}
    for seq, code in adds:
        assert fates.add(seq, Fate(code)) == (seq not in model)
        model.setdefault(seq, Fate(code))
    assert {seq: fates.get(seq) for seq in range(32) if seq in fates} == model
    changes = sum(1 for seq in model if model.get(seq - 1) != model[seq])
    assert fates.runs == changes


@pytest.mark.parametrize(
    ("fate", "kind"), [(Fate("too_large", "split it"), Rejected), (Fate("indefinite", is_indefinite=True), Undelivered)]
)
def test_a_fate_is_raised_as_what_it_is(fate: Fate, kind: type[Exception]) -> None:
    """Refused for good is Rejected, nobody knows is Undelivered."""
    error = fate.error("orders", 7)
    assert type(error) is kind
    assert "7" in str(error)


def test_a_fate_between_two_runs_joins_them() -> None:
    """Whichever side comes last, neighbours that failed alike are one run."""
    fates = Fates()
    for seq in (1, 3, 2):
        assert fates.add(seq, DROPPED)
    assert fates.runs == 1
    assert all(fates.get(seq) == DROPPED for seq in (1, 2, 3))
