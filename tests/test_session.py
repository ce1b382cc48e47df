"""The client session: connect, hello, welcome, resume, what is sent and what is taken."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from session_tools import OURS, PRODUCER, Rig, answer, data, gap

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Inbox
from resilient_ws.exceptions import (
    Gap,
    Rejected,
    SessionLost,
)
from resilient_ws.session import SessionState

# -- hello and welcome ------------------------------------------------------------------------------------------------


def test_a_first_hello_names_no_session_and_every_start() -> None:
    """A new client asks for a new session, its streams and where to begin, and grants what its inbox holds."""
    rig = Rig.new(subscribe={"ticker": "now", "news": f.Position("e7", 0)}, inbox=Inbox(max_messages=7, max_bytes=99))
    assert rig.session.state is SessionState.NEW
    rig.send("early")
    hello = rig.made()
    assert (hello.session, hello.token, hello.attempt, hello.instance) == (None, None, 1, OURS)
    assert hello.producers == (PRODUCER,)
    assert hello.credit == f.Credit(7, 99)
    assert [(s.stream, s.id, s.start, s.held) for s in hello.streams] == [
        ("ticker", 1, "now", None),
        ("news", 2, f.Position("e7", 0), None),
    ]
    assert hello.outbound == (f.HelloOutbound(producer=0, stream="orders", first=1, next=2),)
    assert not rig.session.connected
    assert rig.session.session_id is None


def test_a_welcome_makes_the_connection_primary() -> None:
    """``ready`` is the first frame after it, then what was waiting goes out; the user is told."""
    rig = Rig.new(subscribe=["ticker"])
    rig.send("early")
    rig.made()
    assert rig.session.subscription("ticker") == "pending"
    assert rig.session.position("ticker") is None
    rig.welcome()
    assert [type(item) for item in rig.written[1]][:2] == [f.Hello, f.Ready]
    assert rig.all(f.Ready) == [f.Ready(generation=1)]
    assert rig.seqs() == [1]
    assert (rig.session.connected, rig.session.welcomed_once, rig.session.state) == (True, True, SessionState.LIVE)
    assert rig.session.session_id == "00s1"
    assert rig.session.subscription("ticker") == "active"
    assert rig.session.position("ticker") == f.Position("e1", 100)
    assert rig.told(e.Connected) == [e.Connected(conn=1, node="n1", session="00s1")]
    assert rig.told(e.Resumed) == []


def test_rule_12_a_resume_says_what_is_held_and_acked() -> None:
    """The next hello brings session, token, position with CRC, acks, and what is unacked; the attempt rises."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(data(101, 2))
    rig.take(1)
    rig.send("a")
    rig.send("b")
    hello = rig.resume(node="n2")
    held = f.Held("e1", 102, zlib.crc32(b"ticker-102"))
    assert hello.streams == (f.HelloStream(stream="ticker", id=1, held=held, acked=100),)
    assert (hello.session, hello.token, hello.attempt) == ("00s1", "t.1", 2)
    assert hello.outbound == (f.HelloOutbound(producer=0, stream="orders", first=1, next=3),)
    assert rig.seqs() == [1, 2]
    assert rig.told(e.Resumed) == [e.Resumed(conn=2, node="n2", resent=2)]
    assert rig.session.stats()["resumes"] == 1
    assert rig.session.stats()["node"] == "n2"


def test_rule_10_resuming_before_the_first_message() -> None:
    """Offset 0 is held, not absent."""
    rig = Rig.open(subscribe={"ticker": "earliest"})
    hello = rig.resume()
    assert hello.streams == (f.HelloStream(stream="ticker", id=1, held=f.Held("e1", 0), acked=0),)
    rig.say(data(1))
    assert rig.take() == [("ticker", 1)]


def test_H16_acks_ride_in_the_hello_and_are_not_said_twice() -> None:
    """hello.acked is a cumulative ack; what it said, or a first answer implied, needs no frame of its own."""
    rig = Rig.open(subscribe=["ticker"])
    assert rig.all(f.Ack) == []
    rig.say(data(101, 2))
    rig.take(1)
    rig.take(1)
    hello = rig.resume()
    assert hello.streams[0].acked == 101
    assert rig.all(f.Ack) == []
    rig.take()
    rig.tick(0.1)
    assert rig.all(f.Ack) == [f.Ack(acked=(f.AckedMark("ticker", "e1", 102),))]


CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    ("resumes another session", {"session": "00s2"}),
    ("generation 1 is not above 1", {"generation": 1}),
    ("gives no reason", {"verdict": "new"}),
    ("committed, but the next new one is 4", {"committed": (f.CommittedAnswer(producer=0, stream="orders", seq=4),)}),
    ("names producer 0 of stream 'x'", {"committed": (f.CommittedAnswer(producer=0, stream="x", seq=0),)}),
    ("names producer 1", {"committed": (f.CommittedAnswer(producer=1, stream="orders", seq=0),)}),
    (
        "rejected seqs outside of 2 to 3",
        {"committed": (f.CommittedAnswer(producer=0, stream="orders", seq=3, rejected=((1, "no"),)),)},
    ),
    (
        "rejected seqs outside of 2 to 3",
        {"committed": (f.CommittedAnswer(producer=0, stream="orders", seq=3, rejected=((4, "no"),)),)},
    ),
    ("says nothing of the subscriptions", {"streams": ()}),
    (
        "says nothing of the subscriptions [1]",
        {"streams": (f.StreamAnswer(stream="other", id=1, epoch="e1", first=102, live=101),)},
    ),
    (
        "has the id 9",
        {
            "streams": (
                f.StreamAnswer(stream="ticker", id=1, epoch="e1", first=102, live=101),
                f.StreamAnswer(stream="news", id=9, epoch="e1", first=1),
            )
        },
    ),
    ("above its own end", {"streams": (f.StreamAnswer(stream="ticker", id=1, epoch="e1", first=102, live=99),)}),
    ("the answer starts at", {"streams": (f.StreamAnswer(stream="ticker", id=1, epoch="e2", first=102, live=101),)}),
    ("the answer starts at", {"streams": (f.StreamAnswer(stream="ticker", id=1, epoch="e1", first=103, live=105),)}),
]


@pytest.mark.parametrize(("why", "changes"), CONTRADICTIONS)
def test_S8_a_welcome_that_contradicts_itself_is_refused(why: str, changes: dict[str, Any]) -> None:
    """INV-S8: 4400, nothing is lost, and the next attempt asks the same again."""
    rig = Rig.open(subscribe=["ticker"])
    for payload in "abc":
        rig.send(payload)
    rig.say(data(101), f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    rig.lose()
    rig.redial()
    rig.welcome(**changes)
    assert rig.shuts[-1].code == 4400
    assert why in str(rig.session.last_error)
    assert rig.session.state is SessionState.LIVE
    hello = rig.redial()
    assert hello.outbound == (f.HelloOutbound(producer=0, stream="orders", first=2, next=4),)
    rig.welcome(generation=9)
    assert rig.seqs() == [2, 3]
    assert rig.session.connected


def test_a_resume_that_nobody_asked_for_is_refused() -> None:
    """A hello without a session cannot be answered by ``resumed``."""
    rig = Rig.new()
    rig.made()
    rig.welcome(verdict="resumed")
    assert "did not name" in str(rig.session.last_error)


@pytest.mark.parametrize("phase", ["upgraded", "handshaking", "open"])
def test_a_frame_out_of_its_turn_is_refused(phase: str) -> None:
    """What the tables of docs/protocol.md do not allow is 4400."""
    rig = Rig.new(urls=["ws://a", "ws://b"])
    item: Any = f.Ack()
    if phase == "open":
        rig.made()
        rig.welcome()
        item = f.Standing(node="n1")
    elif phase == "handshaking":
        rig.made()
    else:
        item = f.Standing(node="n1")
        rig.session.connection_made(1, 0.0)
        rig.session._core.connections[1].phase = type(rig.session._core.connections[1].phase).UPGRADED
    rig.say(item)
    assert rig.shuts[-1].code == 4400
    assert f"a connection that is {phase}" in str(rig.session.last_error)


# -- what became of what was sent -------------------------------------------------------------------------------------


def test_an_ack_ends_what_was_sent() -> None:
    """Receipts are done up to the acked seq, and the outbox has room again."""
    rig = Rig.open()
    assert [rig.send(x) for x in "ab"] == [1, 2]
    assert rig.session.unacked == {"orders": (1, 2)}
    rig.say(f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    assert [rig.outcome(seq) for seq in (1, 2)] == [True, False]
    assert rig.session.outbox_size == (1, 1)
    rig.say(f.Pong(echo="", committed=(f.SeqMark(0, "orders", 2),)))
    assert rig.session.is_flushed


@pytest.mark.parametrize(
    "item",
    [
        f.Ack(committed=(f.SeqMark(0, "orders", 2),)),
        f.Ack(committed=(f.SeqMark(1, "orders", 1),)),
        f.Ping(echo="", committed=(f.SeqMark(0, "other", 1),)),
        f.Reject(producer=0, stream="orders", seq=2, code="no"),
        f.Reject(producer=7, stream="orders", seq=1, code="no"),
    ],
)
def test_S14_an_answer_for_what_was_not_sent_is_refused(item: Any) -> None:
    """Acks and rejects name what this client wrote, or the server is broken: nothing is trimmed."""
    rig = Rig.open()
    rig.send("a")
    rig.say(item)
    assert rig.shuts[-1].code == 4400
    assert rig.outcome(1) is False


def test_H4_a_reject_before_its_ack_fails_one_receipt() -> None:
    """The rejected message fails, the others are delivered, and it is told once."""
    rig = Rig.open()
    for x in "abc":
        rig.send(x)
    reject = f.Reject(producer=0, stream="orders", seq=2, code="forbidden", hint="not yours")
    rig.say(reject, reject, f.Ack(committed=(f.SeqMark(0, "orders", 3),)))
    assert [rig.outcome(1), type(rig.outcome(2)), rig.outcome(3)] == [True, Rejected, True]
    assert rig.told(e.MessageRejected) == [e.MessageRejected(stream="orders", seq=2, code="forbidden")]


def test_H3_a_reject_in_the_welcome_fails_its_receipt() -> None:
    """A reject that was lost with its connection is told by the next welcome, before ``committed`` covers it."""
    rig = Rig.open()
    for x in "abc":
        rig.send(x)
    rig.resume(committed=(f.CommittedAnswer(producer=0, stream="orders", seq=2, rejected=((2, "forbidden"),)),))
    assert [rig.outcome(1), type(rig.outcome(2)), rig.outcome(3)] == [True, Rejected, False]
    assert rig.seqs() == [3]
    assert len(rig.told(e.MessageRejected)) == 1


def test_a_reject_that_is_known_is_not_told_again_by_a_welcome() -> None:
    """The same tombstone may be named by every welcome until the ack has come."""
    rig = Rig.open()
    rig.send("a")
    rig.say(f.Reject(producer=0, stream="orders", seq=1, code="no"))
    rig.resume(committed=(f.CommittedAnswer(producer=0, stream="orders", seq=0, rejected=((1, "no"),)),))
    assert len(rig.told(e.MessageRejected)) == 1


def test_what_is_written_waits_for_the_shell() -> None:
    """At most a window of bytes is handed over before the shell says that it is out."""
    rig = Rig.open()
    rig.is_backed_up = True
    for _ in range(10):
        rig.send("x" * 50_000)
    assert len(rig.seqs()) == 6
    rig.session.written(1, rig.now)
    rig.session.written(99, rig.now)
    rig.pump()
    assert rig.seqs() == list(range(1, 11))


# -- what is received -------------------------------------------------------------------------------------------------


def test_messages_and_markers_come_in_order() -> None:
    """What arrived before a gap is taken before it, what comes after it after it; it is an event too."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(data(101), gap(102, 110), data(111))
    assert rig.session.has_items
    first, second, third = rig.take(), rig.take(), rig.take()
    assert (first, third) == ([("ticker", 101)], [("ticker", 111)])
    assert isinstance(second[0], Gap)
    assert rig.told(e.GapFound) == [e.GapFound(stream="ticker", first=102, last=110, reason="trimmed")]


def test_reported_gaps_are_events_only() -> None:
    """With ``gaps="report"`` nothing is raised."""
    rig = Rig.open(subscribe=["ticker"], gaps="report")
    rig.say(data(101), gap(102, 110), data(111))
    assert rig.take() == [("ticker", 101), ("ticker", 111)]
    assert len(rig.told(e.GapFound)) == 1


@pytest.mark.parametrize(
    "item",
    [data(102), gap(102, 110), f.Ping(echo="p", sent_offsets=(f.OffsetMark("ticker", 1, "e1", 101),))],
)
def test_S3_S17_a_hole_makes_the_client_resume(item: Any) -> None:
    """Rule 7: in data, before a gap, or behind the last message (a mark): the client resumes, nothing is skipped."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(item, data(103))
    assert [(s.code, s.reason) for s in rig.shuts] == [(1012, "a message is missing: resuming")]
    assert not rig.session.has_items
    hello = rig.redial()
    assert hello.streams[0].held == f.Held("e1", 100)
    rig.welcome(streams=(answer(hello.streams[0], live=103),))
    rig.say(data(101, 3))
    assert rig.take() == [("ticker", n) for n in (101, 102, 103)]


@pytest.mark.parametrize(
    "mark",
    [
        f.OffsetMark("ticker", 9, "e1", 500),
        f.OffsetMark("ticker", 1, "e9", 500),
        f.OffsetMark("other", 1, "e1", 500),
        f.OffsetMark("ticker", 1, "e1", 100),
    ],
)
def test_a_mark_that_is_void(mark: f.OffsetMark) -> None:
    """Another subscription id, another epoch, a stream of nobody, or nothing new: the connection stays."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(f.Pong(echo="", sent_offsets=(mark,)))
    assert rig.session.connected


def test_session_lost_is_a_marker_and_positions_go_on() -> None:
    """Rule 15: a new session in the same round trip; shared streams and producers go on."""
    rig = Rig.open(subscribe=["ticker"])
    rig.send("a")
    rig.resume(verdict="new", reason="expired", session="01s2", generation=1)
    assert rig.told(e.SessionReplaced) == [e.SessionReplaced(reason="expired", unacked=1)]
    lost = rig.take()[0]
    assert isinstance(lost, SessionLost)
    assert (lost.reason, lost.unacked) == ("expired", 1)
    assert (rig.session.session_id, rig.seqs()) == ("01s2", [1])
