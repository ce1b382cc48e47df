"""
Schedules that a client without one of its rules does not survive: holes, subscriptions, roles, credit, acks.

Every test runs its schedule with all rules in force, then without the one that it is about.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import attrs
import pytest
import tenacity
from schedules.judging import Defect, only_with, replaced, require, require_sound
from schedules.stage import Device, Stage

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws import hearing, losing
from resilient_ws.config import Inbox, Retry, Wire
from resilient_ws.conversation import Conversation
from resilient_ws.endpoints import EndpointPool
from resilient_ws.exceptions import Gap, SessionTakenOver
from resilient_ws.inbox import Arrival, Arrivals
from resilient_ws.records import Restored
from resilient_ws.session import Role, Session
from resilient_ws.treatments import Treatment

SUCCESSOR = frozenset({Role.SUCCESSOR})


def drained(stage: Stage, *held: str, **changes: Any) -> Device:
    """
    Start a client on n0 and drain that: a successor is dialled on n1, on which these channels are held.

    n0 hears late of the successor's fence, so that the old connection counts until the welcome is read.
    """
    device = stage.device(roles=SUCCESSOR, **changes)
    device.line.hold("fences")
    stage.held_from_birth = held
    stage.node(0).drain()
    stage.advance(0.0)
    assert (device.node, device.line.node.settings.node) == ("n0", "n1")
    return device


def jump(original: Any) -> Any:
    """A gap is believed whatever stands before it."""

    def gap(self: Arrivals, frame: f.GapFrame) -> Any:
        subscription = self.subscriptions[frame.stream]
        subscription.offset = max(subscription.offset, frame.first - 1)
        return original(self, frame)

    return gap


def widen(original: Any) -> Any:
    """A gap is taken to begin where the position is."""

    def gap(self: Arrivals, frame: f.GapFrame) -> Any:
        held = self.subscriptions[frame.stream].offset
        return original(self, attrs.evolve(frame, first=min(frame.first, held + 1)))

    return gap


def test_H09_a_gap_behind_a_message_that_was_swallowed_is_not_believed() -> None:
    """Message 2 is lost on a connection that stays, and what comes next is a gap 3 to 3."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"ticker": "earliest"}, wire=Wire(max_message=10))
        stage.publish("ticker", "a")
        device.line.hold("down")
        stage.publish("ticker", "b")
        device.line.swallow("down", f.Batch)
        stage.publish("ticker", "far too large")
        device.line.release()
        stage.advance(5.0)
        stage.publish("ticker", "d")
        device.take()
        require(("ticker", 2, "b") in device.got, "S5: what was swallowed comes again")
        require([(gap.first, gap.last) for gap in device.gaps] == [(3, 3)], "S7: the gap is what cannot come")
        require_sound(stage)

    only_with(schedule, ("S5", replaced(Arrivals, "gap", jump)), ("S5", replaced(Arrivals, "gap", widen)))


def nothing(original: Any) -> Any:
    """The rule is not there."""
    return lambda *args: None


@pytest.mark.parametrize("stream", ["new", "old"])
def test_H10_a_subscribe_while_a_hello_is_out_is_said_again(stream: str) -> None:
    """The successor's hello is on its way, and the user asks the old connection for a stream (or for one anew)."""

    def schedule() -> None:
        stage = Stage()
        device = drained(stage, "up", subscribe={"old": "earliest"})
        (old,) = [line for line in device.lines.values() if line is not device.line]
        old.hold("up")
        device.session.subscribe(stream, "earliest", stage.now)
        device.drive()
        assert old.waiting("up", f.Subscribe) == 1
        device.line.release()
        assert device.node == "n1"
        stage.publish(stream, "one")
        stage.advance(10.0)
        require(device.take() == [(stream, 1, "one")], "L3: the stream is followed on the new connection")

    only_with(schedule, ("L3", replaced(hearing, "repair_subscriptions", nothing)))


def never(original: Any) -> Any:
    """It does not matter that somebody else took the session a moment ago."""
    return lambda core, now: False


def test_H12_superseded_after_a_foreign_4409_is_taken_over() -> None:
    """Y takes X's session and says ``ready``; X is told, and its one more resume is below the confirmed generation."""

    def schedule() -> None:
        stage = Stage()
        x = stage.device()
        y = stage.device(identity=x.identity, urls=["ws://n1", "ws://n0"])
        stage.advance(10.0)
        require(isinstance(x.session.error, SessionTakenOver), f"S9: X is told the truth, not {x.session.error!r}")
        require(y.is_open and not y.told(e.SessionReplaced), "S9: Y keeps what it took")

    only_with(schedule, ("S9", replaced(hearing, "is_contested", never)))


def asks_for_nothing(treatment: Treatment) -> Defect:
    """A close of that kind is normal, and nothing follows from it."""
    return lambda: patch.dict(losing.AFTER_LOSS, {treatment: lambda *args: None})


def test_H13_outranked_by_its_own_late_hello_the_client_resumes() -> None:
    """The successor's hello is given up, and arrives after all: it outranks the primary, and nobody waits for it."""

    def schedule() -> None:
        stage = Stage(hello_timeout=60.0)
        device = drained(stage, "up", retry=Retry(wait=tenacity.wait_fixed(60.0)))  # no other successor soon
        late = device.line
        stage.advance(10.2)
        assert late.hello() is not None
        assert late.conn not in device.lines
        stage.held_from_birth = ()
        late.deliver("up")
        device.line.release("fences")
        assert [event.code for event in device.told(e.ConnectionEnded)][-1] == 4409
        stage.advance(5.0)
        require(device.is_open, f"L2: it is connected again ({device.session.error!r})")

    only_with(schedule, ("L2", asks_for_nothing(Treatment.SUPERSEDED)))


def test_H13_a_hello_that_was_its_own_predecessor_is_said_again() -> None:
    """A hello's step is taken, the answer is lost, and the store's driver repeats it: the node sees a stale attempt."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device()
        stage.held_from_birth = ("requests",)
        device.line.cut()
        stage.advance(1.0)
        stage.held_from_birth = ()
        line = device.line
        line.queues["requests"].append(line.queues["requests"][0])
        line.deliver("requests")
        line.queues["answers"].clear()
        line.release()
        assert [event.code for event in device.told(e.ConnectionEnded)][-1] == 4410
        stage.advance(5.0)
        require(device.is_open, f"L2: it is connected again ({device.session.error!r})")
        require(not device.told(e.SessionReplaced), "S9: with the session that it had")

    only_with(schedule, ("L2", asks_for_nothing(Treatment.STALE)))


def forgetful(original: Any) -> Any:
    """A journal keeps no instances."""

    def init(self: Session, *, restored: Restored | None = None, **arguments: Any) -> None:
        original(self, restored=restored and attrs.evolve(restored, instances=frozenset()), **arguments)

    return init


def test_H13_late_hellos_of_an_earlier_life_are_its_own() -> None:
    """A process says two hellos that the network keeps, and crashes; each comes when its next life is just welcomed."""

    def schedule() -> None:
        stage = Stage(hello_timeout=60.0)
        first = stage.device()
        first.crash()
        stage.held_from_birth = ("up",)
        second = stage.restart(first)
        late = [second.line]
        stage.advance(12.0)
        late.append(second.line)
        assert [line.hello().attempt for line in late] == [1, 2]
        second.crash()
        third = stage.restart(second)
        for line in late:
            third.line.deliver("up")
            stage.run()
            assert third.is_open
            assert third.line.waiting("up", f.Ready) == 1
            line.deliver("up")
            stage.run()
            assert not third.is_open
            stage.advance(1.5)
            require(third.lines, f"S9: the owner comes back ({third.session.error!r})")
        third.line.release()
        require(third.is_open and not third.told(e.SessionReplaced), "S9: with its own session")

    only_with(schedule, ("S9", replaced(Session, "__init__", forgetful)))


def live_is_the_limit(original: Any) -> Any:
    """Only the answer's ``live`` says what may come twice."""

    def answered(self: Arrivals, answer: f.StreamAnswer) -> Any:
        found = original(self, answer)
        self.subscriptions[answer.stream].duplicates_to = answer.live
        return found

    return answered


def test_H17_what_the_old_connection_delivered_meanwhile_may_come_again() -> None:
    """The welcome of the successor says that the log is empty; before it is read the old connection delivers 1."""

    def schedule() -> None:
        stage = Stage()
        device = drained(stage, "down", subscribe={"ticker": "earliest"})
        stage.publish("ticker", "a")
        assert [item[1] for item in device.take()] == [1]
        device.line.release()
        stage.publish("ticker", "b")
        device.take()
        broken = [event for event in device.told(e.ConnectionEnded) if event.error == "RemoteProtocolError"]
        require(not broken, "S8: the copy is no broken rule")
        require(device.node == "n1" and device.resumes == 1, "L6: one hello is enough")
        require(device.got == [("ticker", 1, "a"), ("ticker", 2, "b")], "L3: everything comes once")
        assert device.session.stats()["duplicates_dropped"] == 1

    only_with(schedule, ("S8", replaced(Arrivals, "answered", live_is_the_limit)))


def all_that_is_free(original: Any) -> Any:
    """A hello grants what is free, whoever was granted it before."""
    return lambda self: f.Credit(*self.inbox.free)


def test_H18_two_connections_together_do_not_overflow_the_inbox() -> None:
    """The old connection fills the inbox while the successor's welcome is on its way, and the successor has its own."""

    def schedule() -> None:
        stage = Stage()
        streams = {"b": "earliest", "a": "earliest"}
        device = drained(stage, "down", subscribe=streams, inbox=Inbox(max_messages=4))
        stage.publish("a", "a1", "a2", "a3", "a4", wakes=[0])
        stage.publish("b", "b1", "b2", "b3", "b4", wakes=[1])
        device.line.release()
        require(device.most <= 4, f"S10: {device.most} messages are in an inbox of 4")
        assert len(device.take()) == 4
        stage.advance(10.0)
        require(len(device.take()) == 4, "L3: the rest comes when there is room")
        require_sound(stage)

    only_with(schedule, ("S10", replaced(Conversation, "free_credit", all_that_is_free)))


def duplicates_stay(original: Any) -> Any:
    """What is dropped takes its credit with it."""

    def data(self: Arrivals, batch: f.Batch) -> Arrival:
        found: Arrival = original(self, batch)
        if found is Arrival.DROPPED:
            self.messages += len(batch.payloads)
        return found

    return data


def test_H18_duplicates_give_their_credit_back() -> None:
    """As many messages as there is credit come by the old connection, and all of them again by the new one."""

    def schedule() -> None:
        stage = Stage()
        device = drained(stage, "down", subscribe={"ticker": "earliest"}, inbox=Inbox(max_messages=4))
        stage.publish("ticker", "a", "b", "c", "d", wakes=[0])
        assert len(device.take()) == 4
        device.line.release()
        assert device.session.stats()["duplicates_dropped"] == 4
        stage.publish("ticker", "e")
        stage.advance(20.0)
        require(device.take() == [("ticker", 5, "e")], "L3: the next message has credit")

    only_with(schedule, ("L3", replaced(Arrivals, "data", duplicates_stay)))


def every_gap_alone(original: Any) -> Any:
    """Gaps do not merge."""

    def mark(self: Arrivals, found: Gap) -> Gap:
        self._queue.append(found)
        return found

    return mark


def test_H18_gaps_that_nobody_takes_are_one() -> None:
    """Gap after gap arrives at a user who takes nothing; gaps need no credit, so nothing holds them back."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"ticker": "earliest"}, wire=Wire(max_message=10))
        for _ in range(10):
            stage.publish("ticker", "far too large")
        waiting = len(device.session._core.inbox._queue)
        require(waiting == 1, f"S10: {waiting} markers wait")
        assert [(gap.first, gap.last) for gap in device.take()] == [(1, 10)]

    only_with(schedule, ("S10", replaced(Arrivals, "_mark", every_gap_alone)))


def avoiding_nobody(original: Any) -> Any:
    """The next endpoint is the best one, although it is being dialled."""
    return lambda self, now, avoid=(): original(self, now)


def test_H20_a_hedge_goes_where_nobody_is_dialled_yet() -> None:
    """The first endpoint never answers a dial, and a second dial starts before the first one is given up."""

    def schedule() -> None:
        stage = Stage()
        stage.node(0).is_black_hole = True
        device = stage.device(roles=frozenset({Role.CANDIDATE}))
        stage.advance(1.0)
        require(device.is_open, "L2: the other endpoint is there at once")

    only_with(schedule, ("L2", replaced(EndpointPool, "next", avoiding_nobody)))


def gap_acks_all(original: Any) -> Any:
    """Who passes a gap has handled everything up to where it ends."""

    def leave(self: Arrivals, item: Any) -> None:
        original(self, item)
        if isinstance(item, Gap):
            self.subscriptions[item.stream].acked = self.subscriptions[item.stream].passed

    return leave


def test_H21_a_gap_acks_nothing_that_is_out_before_it() -> None:
    """A receiver has message 1 in hand, a gap ``rewritten`` up to 1 goes to another one, and the process dies."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"ticker": "earliest"}, inbox=Inbox(ack="manual"))
        stage.publish("ticker", "a")
        assert device.take(1, receiver=0) == [("ticker", 1, "a")]
        stage.store.lose_tail("ticker", 1)
        stage.publish("ticker", "A", "b")
        (gap,) = device.take(1, receiver=1)
        assert (gap.first, gap.last, gap.next, gap.reason) == (1, 1, 2, "rewritten")
        device.crash()
        restarted = stage.restart(device)
        restarted.take()
        require(restarted.got == [("ticker", 1, "A"), ("ticker", 2, "b")], "S13: what was in hand comes again")

    only_with(schedule, ("S13", replaced(Arrivals, "_leave", gap_acks_all)))
