"""
Schedules that a store without one of its rules does not survive: fences, seqs, logs.

Every test runs its schedule with all rules in force, then without the one that it is about.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import attrs
import pytest
from schedules.judging import only_with, replaced, require, require_sound
from schedules.stage import Stage

from resilient_ws import events as e
from resilient_ws.exceptions import SessionTakenOver
from resilient_ws.subscription import Subscription
from server_fixture.backplane import EnterStream, Fence, Foreign, Refresh, SessionEntered
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.slots import Bucket, Stream


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
        require(stage.texts("orders") == ["one"], "L1: the client's new connection stores it")
        require_sound(stage)

    only_with(schedule, ("S6", replaced(MemoryBackplane, "_enter_stream", no_fence_on_entering)))


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
        require(told == [lost], f"S7: the client reports what the store lost, not {told}")
        assert stage.texts("orders") == ["one", "two", "four"]

    only_with(schedule, ("L1", replaced(Stream, "settle", no_first)))


def no_crc_in_reads(original: Any) -> Any:
    """A node reads on by its offset alone."""
    return lambda self, r, now: original(self, attrs.evolve(r, crc=None), now)


def no_crc_in_hellos(original: Any) -> Any:
    """A client names the offset that it holds and not the CRC."""
    return property(lambda self: attrs.evolve(original.fget(self), crc=None))


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "resumed"])
def test_H05_a_tail_that_was_rewritten_is_a_gap(is_live: bool) -> None:
    """The client has 1 to 3; the log is cut to 1 and grows again to 4 before the node reads, or before a hello."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"ticker": "earliest"})
        stage.publish("ticker", "a", "b", "c")
        assert len(device.take()) == 3
        if not is_live:
            device.line.cut()
        stage.store.lose_tail("ticker", 2)
        stage.publish("ticker", "B", "C", "d")
        stage.advance(1.0)
        device.take()
        require(("ticker", 4, "d") in device.got, "L3: what comes behind it is delivered")
        require_sound(stage)
        assert [(gap.first, gap.last, gap.reason) for gap in device.gaps] == [(1, 3, "rewritten")]

    live = replaced(MemoryBackplane, "_read", no_crc_in_reads)
    resumed = replaced(Subscription, "held", no_crc_in_hellos)
    only_with(schedule, ("S5", live if is_live else resumed))


def no_lift(original: Any) -> Any:
    """Offsets that the log lost are given a second time."""
    return lambda self, offset: False


def test_H06_what_is_held_above_the_end_of_the_log_is_given_to_no_other_message() -> None:
    """The client has 1 to 3, the log is cut to 1 while it is away, it says hello, and one message is published."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"ticker": "earliest"})
        stage.publish("ticker", "a", "b", "c")
        assert len(device.take()) == 3
        device.line.cut()
        stage.store.lose_tail("ticker", 2)
        stage.advance(1.0)
        stage.publish("ticker", "d")
        stage.advance(10.0)
        device.take()
        require(("ticker", 4, "d") in device.got, "L3: the message has an offset that the client does not hold")
        assert [(gap.first, gap.last, gap.reason) for gap in device.gaps] == [(1, 3, "rewritten")]
        require_sound(stage)

    only_with(schedule, ("L3", replaced(Stream, "lift", no_lift)))


def bare_number() -> AbstractContextManager[Any]:
    """Fences are compared by generation alone."""
    mine = {
        "__lt__": lambda self, other: self.generation < other.generation,
        "__gt__": lambda self, other: self.generation > other.generation,
    }
    return patch.multiple(Fence, **mine)


def no_write_back(original: Any) -> Any:
    """A refresh that finds a record below its own fence leaves it there."""

    def refresh(self: MemoryBackplane, r: Refresh, now: float) -> Any:
        record = self._owned(r)
        before = getattr(record, "fence", None)
        answer = original(self, r, now)
        if hasattr(record, "expires"):
            record.fence = before
        return answer

    return refresh


@pytest.mark.parametrize("is_lower", [True, False], ids=["first_is_lower", "first_is_higher"])
def test_H11_of_two_owners_with_the_same_generation_one_goes(is_lower: bool) -> None:
    """Y takes X's session as generation 2, the store forgets that, X resumes as generation 2 too."""

    def schedule() -> None:
        stage = Stage(ttl=6.0)
        x = stage.device(instance=("0" if is_lower else "f") * 32)
        y = stage.device(identity=x.identity, urls=["ws://n1", "ws://n0"], instance="8" * 32)
        assert (y.identity.generation, x.is_open) == (2, False)
        stage.store.lose_session(x.identity.session, 1)
        stage.advance(1.1)
        assert (x.identity.generation, y.identity.generation) == (2, 2)
        stage.advance(20.0)
        owners = [device for device in (x, y) if device.is_open]
        require(len(owners) == 1, f"S6: one of them is the owner, not {len(owners)}")
        (loser,) = {x, y} - set(owners)
        require(isinstance(loser.session.error, SessionTakenOver), "S9: the other one is told")

    defects = [("S6", bare_number)]
    if is_lower:
        defects.append(("S6", replaced(MemoryBackplane, "_refresh", no_write_back)))
    only_with(schedule, *defects)


def presented_does_not_count(original: Any) -> Any:
    """A new generation is the record's and one more, whatever the client has."""
    return lambda self, r, now: original(self, attrs.evolve(r, presented=None), now)


def test_H11_a_generation_is_above_what_the_client_presents() -> None:
    """The client has generation 3, the store forgets the last two hellos, the client says hello."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device()
        for _ in range(2):
            device.line.cut()
            stage.advance(2.0)
        assert device.identity.generation == 3
        stage.store.lose_session(device.identity.session, 2)
        device.line.cut()
        stage.advance(5.0)
        broken = [event for event in device.told(e.ConnectionEnded) if event.error == "RemoteProtocolError"]
        require(not broken, f"S8: the welcome does not contradict an earlier one ({device.session.last_error})")
        require(device.is_open and device.identity.generation == 4, "S9: the session goes on")

    only_with(schedule, ("S8", replaced(MemoryBackplane, "_enter_session", presented_does_not_count)))


def superseded_is_forbidden(original: Any) -> Any:
    """A good token below the confirmed generation is refused like a forged one."""

    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        return Foreign() if isinstance(answer, SessionEntered) and answer.reason == "superseded" else answer

    return enter


def test_H12_a_device_that_was_restored_from_an_old_copy_is_not_locked_out() -> None:
    """Generation 2 is confirmed, the device crashes, and its journal comes back with the token of generation 1."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device()
        old = device.identity
        device.line.cut()
        stage.advance(1.0)
        assert (old.generation, device.identity.generation) == (1, 2)
        device.crash()
        restored = stage.device(identity=old)
        stage.advance(10.0)
        require(restored.is_open, f"S9: it gets a session ({restored.session.error!r})")
        assert [event.reason for event in restored.told(e.SessionReplaced)] == ["superseded"]

    only_with(schedule, ("S9", replaced(MemoryBackplane, "_enter_session", superseded_is_forbidden)))


def ttl_counts_everything(original: Any) -> Any:
    """A session's clock runs while nobody can reach the store."""

    def advance(self: Bucket, now: float) -> None:
        before = now if self.seen is None else self.seen
        original(self, now)
        self.clock += max(now - before - 2.0, 0.0)

    return advance


def test_H14_an_outage_longer_than_the_ttl_costs_no_session() -> None:
    """Nobody reaches the store for 9 s with a ttl of 6 s, and every client is there all the time."""

    def schedule() -> None:
        stage = Stage(ttl=6.0)
        device = stage.device()
        for node in stage.nodes.values():
            node.reaches_store = False
        stage.advance(9.0)
        assert not device.is_open
        for node in stage.nodes.values():
            node.reaches_store = True
        stage.advance(10.0)
        require(device.is_open, "L2: it is connected again")
        require(not device.told(e.SessionReplaced), "S7: with the session that it had")

    only_with(schedule, ("S7", replaced(Bucket, "advance", ttl_counts_everything)))
