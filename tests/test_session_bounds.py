"""The client session: what happens when the outbox is full, or a message too large."""

from __future__ import annotations

import pytest
from session_tools import PRODUCER, Rig

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Outbox, Wire
from resilient_ws.exceptions import OutboxFull, Rejected, Undelivered
from resilient_ws.hearing import MOST_PONGS


def test_S22_a_full_outbox_raises() -> None:
    """Policies ``block`` and ``raise``: nothing is accepted, nothing is lost."""
    rig = Rig.open(outbox=Outbox(max_messages=1, policy="raise"))
    rig.send("a")
    with pytest.raises(OutboxFull):
        rig.send("b")
    rig.say(f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    assert rig.send("c") == 2


def test_drop_newest_gives_no_number() -> None:
    """The message is refused with an event and seq 0; its receipt says so."""
    rig = Rig.open(outbox=Outbox(max_messages=1, policy="drop_newest"))
    rig.send("a")
    assert rig.session.send("orders", "b", 0.0) == (PRODUCER, 0)
    rig.pump()
    assert isinstance(rig.outcome(0), Rejected)
    dropped = e.MessagesDropped(stream="orders", first=0, last=0, count=1, policy="drop_newest")
    assert rig.told(e.MessagesDropped) == [dropped]


def test_what_was_dropped_before_a_hello_is_settled_by_it() -> None:
    """The oldest message that no connection was given goes; the hello's ``first`` says that its number is over."""
    rig = Rig.new(outbox=Outbox(max_messages=2, policy="drop_oldest"))
    for x in "abc":
        rig.send(x)
    dropped = e.MessagesDropped(stream="orders", first=1, last=1, count=1, policy="drop_oldest")
    assert rig.told(e.MessagesDropped) == [dropped]
    rig.made()
    assert [(o.first, o.next) for o in rig.all(f.Hello)[-1].outbound] == [(2, 4)]
    rig.welcome(committed=(f.CommittedAnswer(producer=0, stream="orders", seq=0, known=False),))
    assert [(b.first, b.payloads, b.void) for b in rig.all(f.Batch)] == [(2, ["b", "c"], None)]
    assert not rig.told(e.AcknowledgedLost)
    assert not rig.told(e.IndefiniteResent)
    assert isinstance(rig.outcome(1), Rejected)


def test_what_is_dropped_while_a_hello_is_out_leaves_a_tombstone() -> None:
    """The hello named the number as the next one, so a ``void`` consumes it."""
    rig = Rig.new(outbox=Outbox(max_messages=2, policy="drop_oldest"))
    rig.send("a")
    rig.send("b")
    rig.made()
    rig.send("c")
    rig.welcome()
    assert [(b.first, b.payloads, b.void) for b in rig.all(f.Batch)] == [
        (1, [b""], "dropped"),
        (2, ["b", "c"], None),
    ]
    assert isinstance(rig.outcome(1), Rejected)


def test_where_everything_was_written_the_oldest_is_given_up() -> None:
    """It may have arrived, so its receipt is undelivered; its number stays until the ack, or until the next hello."""
    rig = Rig.open(outbox=Outbox(max_messages=2, policy="drop_oldest"))
    for x in "abc":
        rig.send(x)
    assert [(b.first, b.payloads) for b in rig.all(f.Batch)] == [(1, ["a"]), (2, ["b"]), (3, ["c"])]
    assert isinstance(rig.outcome(1), Undelivered)
    assert rig.told(e.MessagesDropped)[-1].first == 1
    rig.lose()
    rig.send("d")
    assert isinstance(rig.outcome(2), Undelivered)
    rig.tick(1.0)
    rig.made()
    assert [(o.first, o.next) for o in rig.all(f.Hello)[-1].outbound] == [(3, 5)]


def test_a_message_above_the_limit_is_refused_before_it_has_a_number() -> None:
    """Ours from the start, the server's from the welcome on."""
    rig = Rig.new(wire=Wire(max_message=10))
    with pytest.raises(Rejected, match="11 bytes, at most 10"):
        rig.send("x" * 11)
    rig.send("x" * 10)
    rig.made()
    rig.welcome(max_message=5)
    assert isinstance(rig.outcome(1), Rejected)
    assert rig.told(e.MessageRejected) == [e.MessageRejected(stream="orders", seq=1, code="too_large")]
    assert [batch.void for batch in rig.all(f.Batch)] == ["too_large"]
    with pytest.raises(Rejected, match="at most 5"):
        rig.send("ä" * 3)
    assert rig.send("x" * 5) == 2


def test_F14_pings_of_a_server_that_does_not_read_are_not_all_answered() -> None:
    """So many answers wait for the shell; of the pings beyond them the newest is answered when those are out."""
    rig = Rig.open()
    rig.is_backed_up = True
    rig.say(*[f.Ping(echo=str(number)) for number in range(1_000)])
    assert [pong.echo for pong in rig.all(f.Pong)] == [str(number) for number in range(MOST_PONGS)]
    rig.session.written(rig.conn, rig.now)
    assert rig.pump().all(f.Pong)[-1].echo == "999"
    rig.session.written(rig.conn, rig.now)
    assert len(rig.pump().all(f.Pong)) == MOST_PONGS + 1
