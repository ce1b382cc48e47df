"""The judge of the schedules finds what is planted, and a proof that proves nothing fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from schedules.judging import Broken, only_with, replaced, require, require_sound
from schedules.stage import Device, Stage

from resilient_ws.exceptions import Gap
from server_fixture.backplane import Fence
from server_fixture.backplane.slots import Stream


def unharmed(original: Any) -> Any:
    """A defect that is none."""
    return original


def no_lift(original: Any) -> Any:
    """A defect that one schedule below looks at."""
    return lambda self, offset: False


def looks_at_lifts() -> None:
    """Require that a log can be lifted."""
    require(Stream("epoch").lift(3), "L3: it is lifted")


def test_a_rule_that_no_schedule_needs_is_no_proof() -> None:
    """A defect that breaks nothing, or something else than was said, fails the test; so does a schedule that breaks."""
    only_with(looks_at_lifts, ("L3", replaced(Stream, "lift", no_lift)))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        only_with(looks_at_lifts, ("L3", replaced(Stream, "lift", unharmed)))
    with pytest.raises(AssertionError, match="did not match"):
        only_with(looks_at_lifts, ("S6", replaced(Stream, "lift", no_lift)))
    with replaced(Stream, "lift", no_lift)():
        with pytest.raises(Broken):
            only_with(looks_at_lifts)


def stored_twice(stage: Stage, device: Device) -> None:
    stage.stored.append(("orders", "one", Fence(1, "", 1)))


def acked_and_not_stored(stage: Stage, device: Device) -> None:
    stage.stored.clear()


def delivered_twice(stage: Stage, device: Device) -> None:
    device.got.append(device.got[-1])


def skipped(stage: Stage, device: Device) -> None:
    del device.got[1]


def replaced_in_silence(stage: Stage, device: Device) -> None:
    device.got[1] = ("ticker", 2, "B")


@pytest.mark.parametrize(
    ("plant", "invariant"),
    [
        (stored_twice, "S2"),
        (acked_and_not_stored, "S1"),
        (delivered_twice, "S2"),
        (skipped, "S5"),
        (replaced_in_silence, "S5"),
    ],
)
def test_what_is_planted_is_found(plant: Callable[[Stage, Device], None], invariant: str) -> None:
    """A sound end is no anomaly; each planted one is, under its own name."""
    stage = Stage()
    device = stage.device(subscribe={"ticker": "earliest"})
    stage.publish("ticker", "a", "b", "c")
    device.send("one")
    stage.run()
    device.take()
    require_sound(stage)
    plant(stage, device)
    with pytest.raises(Broken, match=f"^{invariant}: "):
        require_sound(stage)


def test_what_a_gap_says_is_not_missing() -> None:
    """A gap explains what it covers, and ``rewritten`` what was replaced."""
    stage = Stage()
    device = stage.device(subscribe={"ticker": "earliest"})
    stage.publish("ticker", "a", "b", "c")
    device.got = [("ticker", 1, "A"), Gap("ticker", 1, 2, "rewritten", epoch="e", next=3), ("ticker", 3, "c")]
    require_sound(stage)


def test_a_stage_that_spins_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes to rest at one instant is a violation, and no endless test."""
    monkeypatch.setattr("schedules.stage.MOST_STEPS", 2)
    with pytest.raises(Broken, match="L6: something spins"):
        Stage().device()
