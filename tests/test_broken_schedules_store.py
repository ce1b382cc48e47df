"""
Schedules that a store without one of its rules does not survive: fences, seqs, logs.

Every test runs its schedule with all rules in force, then without the one that it is about.
"""

from __future__ import annotations

from typing import Any

import pytest
from schedules.judging import only_with, replaced, require, require_sound
from schedules.stage import Stage

from resilient_ws import events as e
from server_fixture.backplane import EnterStream
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.slots import Stream


def no_fence_on_entering(original: Any) -> Any:
    """A hello reads the streams' slots and writes its fence only where the session lives."""

    def enter(self: MemoryBackplane, r: EnterStream, now: float) -> Any:
        before = dict(slot.fences) if (slot := self._find(r.stream)) is not None else {}
        answer = original(self, r, now)
        slot = self._find(r.stream)
        assert slot is not None
        slot.fences = before
        return answer

    return enter


def test_H01_what_a_stopped_node_kept_is_refused_after_a_hello_elsewhere() -> None:
    """n0 stops with data in its queue, the client says hello on n1, n0 wakes before anything was appended by n1."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device()
        old = device.line
        stage.node(0).is_paused = True
        device.send("one")
        stage.held_from_birth = ("down",)
        old.cut(node_knows=False)
        stage.advance(1.0)
        new = device.line
        new.hold("up")
        new.release("down")
        assert device.node == "n1"
        old.deliver("up")
        stage.node(0).go_on()
        require(stage.texts("orders") == [], "S6: an older fence stored, after the stream had seen the newer one")
        new.release()
        require(stage.texts("orders") == ["one"] and device.outcome(1) is True, "the client's own connection stores it")
        require_sound(stage)

    only_with(schedule, replaced(MemoryBackplane, "_enter_stream", no_fence_on_entering))


def no_first(original: Any) -> Any:
    """What a hello says of the messages below ``first`` settles nothing."""

    def settle(self: Stream, producer: str, first: int, now: float) -> Any:
        return original(self, producer, 1, now)

    return settle


@pytest.mark.parametrize(("producers", "lost"), [("rolled_back", (3, 3)), ("forgotten", (1, 3))])
def test_H02_a_store_that_forgot_what_it_acked_refuses_nothing_for_ever(producers: Any, lost: tuple[int, int]) -> None:
    """Messages 1 to 3 are acked, the store loses the last one (or the producer), the client sends 4."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device()
        device.send("one", "two", "three")
        stage.run()
        assert not device.session.unacked
        stage.store.lose_tail("orders", 1, producers=producers)
        device.send("four")
        stage.advance(10.0)
        require(device.outcome(4) is True, "L1: message 4 is committed in the end")
        require(device.resumes <= 1, f"L6: one hello settles it, not {device.resumes}")
        told = [(event.first, event.last) for event in device.told(e.AcknowledgedLost)]
        require(told == [lost], f"the client reports what the store lost, not {told}")
        assert stage.texts("orders") == ["one", "two", "four"]

    only_with(schedule, replaced(Stream, "settle", no_first))
