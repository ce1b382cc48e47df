"""
Schedules that a node without one of its rules does not survive: rejects, gaps, silence, acks, turns.

Every test runs its schedule with all rules in force, then without the one that it is about.
"""

from __future__ import annotations

from typing import Any

import attrs
from schedules.judging import only_with, replaced, require, require_sound
from schedules.stage import Stage

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Inbox
from resilient_ws.endpoints import EndpointPool
from resilient_ws.exceptions import Rejected
from server_fixture import entering, reading
from server_fixture.appending import Appending, Lane
from server_fixture.backplane import Appended, ProducerState
from server_fixture.entering import Entering
from server_fixture.reading import Reader, Reading
from server_fixture.session import ServerSession


def no_rejects_in_welcome(original: Any) -> Any:
    """``committed`` is a number alone."""

    def settle(self: Entering, outbound: f.HelloOutbound, state: ProducerState) -> None:
        original(self, outbound, attrs.evolve(state, rejected=()))

    return settle


def test_H03_a_reject_that_was_lost_is_told_by_the_welcome() -> None:
    """The tombstone is stored, and the connection ends with the reject on its way."""

    def schedule() -> None:
        stage = Stage(forbidden=["orders"])
        device = stage.device()
        line = device.line
        line.hold("down")
        device.send("one")
        stage.run()
        assert line.waiting("down", f.Reject) == 1
        line.cut()
        stage.advance(1.0)
        require(isinstance(device.outcome(1), Rejected), f"S1: what was refused is not {device.outcome(1)!r}")
        require(not device.session.unacked, "L1: it has its outcome")

    only_with(schedule, ("S1", replaced(Entering, "_settle", no_rejects_in_welcome)))


def ack_before_reject(original: Any) -> Any:
    """The ack is written first."""

    def appended(self: Appending, lane: Lane, last: int, answer: Appended) -> None:
        self._outlet.send(f.Ack(committed=(f.SeqMark(lane.index, lane.wire, last),)))
        original(self, lane, last, answer)

    return appended


def many_appends_at_once(original: Any) -> Any:
    """An append does not wait for the one before it."""

    def append(self: Appending, lane: Lane) -> None:
        lane.is_busy = False
        original(self, lane)

    return append


def test_H04_no_ack_overtakes_a_reject_that_it_covers() -> None:
    """Message 2 is refused, 3 is stored, and of all answers of the store that are on their way the last comes first."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device()
        line = device.line
        line.hold("answers")
        device.send("one")
        stage.run()
        stage.forbidden.add("orders")
        device.send("two")
        stage.run()
        stage.forbidden.clear()
        device.send("three")
        stage.run()
        line.deliver("answers", -1)
        stage.run()
        line.release()
        assert stage.texts("orders") == ["one", "three"]
        require(isinstance(device.outcome(2), Rejected), f"S1: what was refused is not {device.outcome(2)!r}")
        require(device.outcome(3) is True, "L1: the next message goes on")
        require_sound(stage)

    overtaking = replaced(Appending, "_append", many_appends_at_once)
    only_with(schedule, ("S1", replaced(Appending, "_appended", ack_before_reject)), ("S1", overtaking))


def gap_from_first_retained(original: Any) -> Any:
    """``rewritten`` begins where the log begins."""

    def settle(self: Reader, held: f.Held | None, facts: Any) -> Any:
        gap = original(self, held, facts)
        return attrs.evolve(gap, first=facts.first) if gap is not None and gap.reason == "rewritten" else gap

    return settle


def test_H07_a_rewritten_gap_begins_at_1_whatever_is_retained() -> None:
    """The client has 1 to 3, the log is cut to 1, and retention takes that one too before the hello."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"ticker": "earliest"})
        stage.publish("ticker", "a", "b", "c")
        assert len(device.take()) == 3
        device.line.cut()
        stage.store.lose_tail("ticker", 2)
        stage.store.trim("ticker", 1)
        stage.advance(1.0)
        stage.publish("ticker", "d")
        stage.advance(10.0)
        device.take()
        gaps = [(gap.first, gap.last, gap.reason) for gap in device.gaps]
        require(gaps == [(1, 3, "rewritten")], f"S5: the gap covers everything that is held, and is not {gaps}")
        require(device.resumes == 1, "L6: nothing is refused")
        require(device.got[-1] == ("ticker", 4, "d"), "L3: what comes behind it is delivered")

    only_with(schedule, ("X0", replaced(Reader, "settle", gap_from_first_retained)))


def prev_of_the_log(original: Any) -> Any:
    """The number before an offset is what the log had there when it was stored."""
    return lambda items, wire, before, entry: original(items, wire, entry.offset - 1, entry)


def test_H08_a_consumer_that_never_had_what_the_log_lost_reads_on() -> None:
    """X has 1 to 3 and Y has 1; the log is cut to 1, X's hello lifts it to 3, and 4 is published."""

    def schedule() -> None:
        stage = Stage()
        x = stage.device(subscribe={"ticker": "earliest"})
        y = stage.device(subscribe={"ticker": "earliest"}, urls=["ws://n1", "ws://n0"])
        stage.publish("ticker", "a")
        stage.publish("ticker", "b", "c", wakes=[0])
        assert (len(x.take()), len(y.take())) == (3, 1)
        stage.store.lose_tail("ticker", 2)
        x.line.cut()
        stage.advance(1.0)
        stage.publish("ticker", "d")
        stage.advance(10.0)
        assert x.take()[-1] == ("ticker", 4, "d")
        y.take()
        require(y.resumes == 0, f"L6: Y sees no hole, and does not say hello {y.resumes} times")
        require(y.got == [("ticker", 1, "a"), ("ticker", 4, "d")], "L3: Y gets what comes behind it")

    only_with(schedule, ("L6", replaced(reading, "_add", prev_of_the_log)))


def nothing(original: Any) -> Any:
    """The rule is not there."""
    return lambda self, *args: None


def test_H15_a_node_that_is_cut_from_the_store_gives_its_clients_to_another() -> None:
    """The client's node does not reach the store any more, the other one does, and more than a ttl passes."""

    def schedule() -> None:
        stage = Stage(ttl=6.0)
        device = stage.device()
        assert device.node == "n0"
        stage.node(0).reaches_store = False
        stage.advance(20.0)
        for line in list(device.lines.values()):
            line.cut()
        stage.advance(5.0)
        require(not device.told(e.SessionReplaced), "S7: the session did not expire under its owner")
        require(device.is_open, "L2: the client is where it can be served")

    gives_up = replaced(ServerSession, "store_silent", nothing)
    goes_elsewhere = replaced(EndpointPool, "failed", nothing)
    only_with(schedule, ("S7", gives_up), ("L2", goes_elsewhere))


def hello_is_no_ack(original: Any) -> Any:
    """``acked`` in a hello is read and forgotten."""
    return lambda asked: ()


def test_H16_a_hello_is_an_ack() -> None:
    """The journal has the position of a private message, and the process dies before the ack goes out."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"~": "earliest"}, inbox=Inbox(ack="manual"))
        log = f"~{device.identity.session}"
        stage.publish(log, "one")
        assert device.take() == [("~", 1, "one")]
        device.ack("~", 1)
        assert device.line.waiting("up") == 0
        device.crash()
        restarted = stage.restart(device)
        assert restarted.is_open
        assert restarted.take() == []
        require(stage.texts(log) == [], "L4: the private log holds nothing that was handled")

    only_with(schedule, ("L4", replaced(entering, "_acked", hello_is_no_ack)))


def idle_read_holds_all(original: Any) -> Any:
    """A read that found nothing keeps the credit, for what may come."""

    def found(self: Reading, reader: Reader, part: Any, claim: int) -> None:
        original(self, reader, part, claim)
        if not part.entries:
            self._reserve(self._credit.messages - self._spent[0] - self._reserved[0], 0)

    return found


def test_H19_a_stream_with_nothing_to_send_holds_no_credit() -> None:
    """A client with little credit follows an idle stream and another one, on which something is published."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"idle": "earliest", "busy": "earliest"}, inbox=Inbox(max_messages=4))
        stage.publish("busy", "one")
        stage.advance(30.0)
        require(device.take() == [("busy", 1, "one")], "L3: it is delivered")

    only_with(schedule, ("L3", replaced(Reading, "_found", idle_read_holds_all)))


def no_turns(original: Any) -> Any:
    """Who has more to send has the next turn too."""

    def want(self: Reading, reader: Reader) -> None:
        original(self, reader)
        if self._queue and self._queue[-1] is reader and reader.end > reader.offset:
            self._queue.rotate(1)

    return want


def test_H19_streams_take_turns() -> None:
    """A stream with far more messages than there is credit does not keep another one from its single message."""

    def schedule() -> None:
        stage = Stage()
        device = stage.device(subscribe={"much": "earliest", "little": "earliest"}, inbox=Inbox(max_messages=4))
        stage.publish("much", *(f"m{n}" for n in range(40)))
        stage.publish("little", "one")
        for _ in range(5):
            device.take()
            stage.run()
        require(("little", 1, "one") in device.got, "L3: its turn comes")

    only_with(schedule, ("L3", replaced(Reading, "_want", no_turns)))
