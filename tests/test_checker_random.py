"""The judge against random runs: clean ones pass, and each way to spoil a clean one is found."""

from __future__ import annotations

import random
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_fixture import checker
from tests.histories import FATES, run, whole
from tests.spoiling import KNOWN, Known

NAMES = st.sampled_from(["a", "b", "c"])
SENDS = st.tuples(st.just("send"), st.sampled_from(["p", "q"]), st.sampled_from(FATES), st.booleans(), st.booleans())
READS = st.tuples(st.just("read"), NAMES, st.integers(0, 4))
STEPS = st.one_of(
    SENDS,
    SENDS,
    st.tuples(st.just("publish"), st.sampled_from(["answered", "stored", "lost"]), st.booleans()),
    st.tuples(st.just("trim"), st.integers(1, 4)),
    READS,
    READS,
    st.tuples(st.just("redeliver"), NAMES),
    st.tuples(st.just("leave"), NAMES),
    st.tuples(st.just("restart"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("rewind"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("skip"), st.integers(1, 3)),
    st.tuples(st.just("forget"), st.booleans()),
    st.tuples(st.just("fail_over"), st.integers(0, 3)),
    st.tuples(st.just("lose_tail"), st.integers(1, 3)),
    st.tuples(st.just("rewrite"), st.integers(1, 3), st.integers(0, 4)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_clean_run_passes(steps: list[tuple[typing.Any, ...]]) -> None:
    """Whatever happens in a store that keeps its promises, the checker finds nothing."""
    assert checker.check(run(steps)).anomalies == ()


@pytest.mark.parametrize("spoil", KNOWN, ids=lambda spoil: spoil.__name__)
def test_spoiled_run_is_found(spoil: Known) -> None:
    """Every way to spoil a clean run is found as what it is, whatever the run was."""
    spoiled = 0
    for seed in range(500):
        if spoiled == 50:
            break
        dice = random.Random(seed)
        ops = whole(dice)
        assert checker.check(ops).value == "ok", f"seed {seed}"
        changed = spoil(dice, ops)
        if changed is None:
            continue
        spoiled += 1
        verdict = checker.check(changed[0])
        assert verdict.counts[changed[1]] > 0, f"seed {seed}: {spoil.__name__}\n{verdict.report()}"
    assert spoiled >= 20, "too few runs could be spoiled in this way"
