"""The simulation: schedules hold, planted defects are found, a seed is one run, and what fails is shortened."""

from __future__ import annotations

import os
import random
from typing import Any
from unittest.mock import patch

import attrs
import pytest

from resilient_ws.inbox import Arrivals
from tests.simulation import __main__ as command
from tests.simulation import defects, script, shrink, transitions
from tests.simulation.faults import KINDS, MIXES
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import Schedule, run_seed

pytestmark = pytest.mark.proof

FRESH = int(os.environ.get("RESILIENT_WS_SIMULATION_SEED", random.SystemRandom().randrange(1 << 30)))
"""A base that nobody has run before; a failure prints the seed and how to rerun it."""


def _rerun(seed: int, mix: str) -> str:
    return f"rerun: python -m tests.simulation --schedules 1 --seed {seed} --mix {mix} --trace"


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_schedules_of_every_mix_hold(mix: str) -> None:
    """Whatever kind of fault is injected, nothing is lost, repeated, reordered or left undone in silence."""
    for seed in [0, *range(FRESH, FRESH + 2)]:
        result = run_seed(seed, mix)
        assert not result.violations, f"{result.violations} {_rerun(seed, mix)}"


def test_every_kind_of_fault_has_a_mix() -> None:
    """A fault that is in no mix is never tried."""
    assert {kind for kinds in MIXES.values() for kind in kinds} == set(KINDS)


def test_schedules_are_worth_judging() -> None:
    """Nine of ten resume, after hundreds of steps, with several sessions, nodes and faults: weak() says it."""
    results, _ = command.run_many(100, 60, "every", 1)
    report = {**command.summary(results, 1.0), "transitions_not_taken": []}
    assert command.weak(report) == []
    for name, least in command.LEAST.items():
        assert command.weak({**report, name: least - 0.01}), name
    assert command.weak({**report, "schedules": 1000, "transitions_not_taken": ["open leave"]})


def test_the_same_seed_is_the_same_run() -> None:
    """Nothing but the seed decides."""
    assert run_seed(7, "usual") == run_seed(7, "usual")
    assert run_seed(7, "usual").trace != run_seed(8, "usual").trace


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_defect_is_found(name: str) -> None:
    """Each mutant breaks an invariant on its recorded seeds, which are clean without it."""
    found = defects.find(name, defects.recorded().get(name, []))
    assert found, f"{name} is not found; search: python -m tests.simulation --search {name} --schedules 20000 --record"
    assert not run_seed(found.seed, MUTANTS[name].mix).violations


def test_a_defect_that_is_found_no_more_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A patch that changes nothing is reported with the command that looks for another seed."""
    harmless = attrs.evolve(MUTANTS["no_refresh"], planted=lambda: patch.object(Arrivals, "harmless", 1, create=True))
    with patch.dict(defects.MUTANTS, {"no_refresh": harmless}):
        assert defects.run_defects(["no_refresh"], 0, 1) == {"no_refresh": None}
    assert "--search no_refresh" in capsys.readouterr().out


def test_a_failing_script_is_shortened_to_what_breaks() -> None:
    """What is left breaks the same invariant with fewer faults, and is printed as a test that runs."""
    mutant = MUTANTS["no_credit"]
    with mutant.planted():
        drawn = script.Script.drawn(0, mutant.mix)
        shortest = shrink.shrink(drawn)
        assert shrink.broken_by(shortest) & shrink.broken_by(drawn)
        text = shrink.pasted(shortest, Schedule(shortest).run().violations)
    assert len(shortest.faults) < len(drawn.faults)
    assert shortest.load < drawn.load
    names: dict[str, Any] = {}
    exec(text, {**vars(script), "Schedule": Schedule}, names)
    names["test_seed_0"]()
    with mutant.planted(), pytest.raises(AssertionError):
        names["test_seed_0"]()


def test_rows_of_the_state_tables_are_counted() -> None:
    """Rows that were taken are, rows that were not are told, and one that is listed as impossible must not be."""
    with transitions.counted() as taken:
        run_seed(1, "end")
    assert taken["dialling made"] > 0
    assert "open leave" in transitions.not_taken(type(taken)())
    assert "leaving lost (listed as impossible)" in transitions.not_taken(type(taken)({"leaving lost": 1}))
    assert set(transitions.IMPOSSIBLE) <= set(transitions.rows())
