"""The client session: subscribing while things are under way, acks, credit, indefinite messages (rules 9, 11, 12)."""

from __future__ import annotations

from typing import Any

import pytest
from session_tools import EARLIER, PRODUCER, Rig, answer, data, gap, welcome

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Capabilities, Inbox, Outbox
from resilient_ws.exceptions import Rejected, Undelivered
from resilient_ws.records import RestoredLane

FORBIDDEN = f.Error(code="forbidden", hint="ask for the role 'reader'")


def subscribed(stream: str, id: int, **changes: Any) -> f.Subscribed:
    """Answer a subscribe."""
    return f.Subscribed(answer=answer(f.HelloStream(stream=stream, id=id, start="now"), **changes))


# -- subscribe --------------------------------------------------------------------------------------------------------


def test_subscribing_on_a_live_connection() -> None:
    """The frame goes out, data before the answer is dropped, and after it taken."""
    rig = Rig.open()
    assert rig.session.subscribe("news", "earliest", rig.now) == 1
    rig.pump()
    assert rig.all(f.Subscribe) == [f.Subscribe(stream="news", id=1, start="earliest")]
    rig.say(data(1, stream="news"), subscribed("news", 9), data(1, stream="news"))
    assert rig.session.subscription("news") == "pending"
    rig.say(subscribed("news", 1), data(101, stream="news"))
    assert rig.session.subscription("news") == "active"
    assert rig.take() == [("news", 101)]


def test_unsubscribing_drops_what_waits() -> None:
    """There is no answer; what is in flight is dropped and gives its credit back (rule 12)."""
    rig = Rig.open(subscribe=["news"])
    rig.say(data(101, stream="news"))
    rig.session.unsubscribe("news", rig.now)
    rig.session.unsubscribe("news", rig.now)
    rig.session.unsubscribe("never", rig.now)
    rig.pump()
    assert rig.all(f.Unsubscribe) == [f.Unsubscribe(stream="news", id=2)]
    assert rig.session.subscription("news") is None
    rig.say(data(102, stream="news"), gap(103, 109, stream="news"))
    assert rig.take() == []
    rig.tick(0.1)
    assert rig.all(f.Grant)[-1].credit.messages == 1024 + 2


@pytest.mark.parametrize("again", [False, True])
def test_giving_a_stream_up_gives_its_credit_back_at_once(again: bool) -> None:
    """A full inbox that empties so must not wait for the next take or ping to hear of other streams."""
    rig = Rig.open(subscribe=["news"], inbox=Inbox(max_messages=4))
    rig.say(data(101, 4, stream="news"))
    if again:
        rig.session.subscribe("news", "now", rig.now)
    else:
        rig.session.unsubscribe("news", rig.now)
    rig.pump()
    assert rig.all(f.Grant)[-1].credit.messages == 8


def test_giving_up_a_refused_stream_drops_what_it_left() -> None:
    """There is nothing to tell the node, and nothing of it is delivered any more."""
    rig = Rig.open(subscribe=["news"])
    rig.say(data(101, stream="news"))
    rig.resume(streams=(f.StreamAnswer(stream="news", id=1, error=FORBIDDEN),))
    rig.session.unsubscribe("news", rig.now)
    rig.pump()
    assert rig.all(f.Unsubscribe) == []
    assert [type(item) for item in rig.take()] == [Rejected]


def test_rule_14_a_refused_stream_is_its_own_affair() -> None:
    """The user gets the error, the others go on, and the next hello does not name it."""
    rig = Rig.new(subscribe=["ticker", "secret"])
    streams = rig.made().streams
    rig.welcome(streams=(answer(streams[0]), f.StreamAnswer(stream="secret", id=2, error=FORBIDDEN)))
    assert rig.told(e.StreamRefused) == [e.StreamRefused(stream="secret", code="forbidden", hint=FORBIDDEN.hint)]
    assert isinstance(rig.session.subscription("secret"), Rejected)
    assert isinstance(rig.take()[0], Rejected)
    assert rig.all(f.Unsubscribe) == []
    assert [said.stream for said in rig.resume().streams] == ["ticker"]


def test_a_refusal_without_a_hint_has_words() -> None:
    """The error says at least what happened."""
    rig = Rig.open()
    rig.session.subscribe("secret", "now", rig.now)
    rig.say(f.Subscribed(answer=f.StreamAnswer(stream="secret", id=1, error=f.Error(code="forbidden"))))
    assert "was refused" in str(rig.take()[0])


def test_H10_subscriptions_that_change_while_a_hello_is_out() -> None:
    """After the welcome everything that its ids do not cover is asked for again."""
    rig = Rig.open(subscribe=["keep", "drop", "again"])
    rig.lose()
    rig.redial()
    rig.session.unsubscribe("drop", rig.now)
    rig.session.subscribe("again", "earliest", rig.now)
    rig.session.subscribe("fresh", "now", rig.now)
    rig.welcome()
    assert rig.all(f.Unsubscribe) == [f.Unsubscribe(stream="drop", id=6)]
    assert rig.all(f.Subscribe) == [
        f.Subscribe(stream="again", id=4, start="earliest"),
        f.Subscribe(stream="fresh", id=5, start="now"),
    ]
    rig.say(data(101, stream="again"), data(101, stream="drop"))
    assert rig.take() == []
    rig.say(subscribed("again", 4, first=1), data(1, stream="again"))
    assert rig.take() == [("again", 1)]


def test_rule_12_a_subscribe_that_was_not_answered_is_repeated_with_its_start() -> None:
    """Nothing was resolved, so there is nothing held; an answered one is never resolved again."""
    rig = Rig.open(subscribe=["ticker"])
    rig.session.subscribe("news", "now", rig.now)
    said = {entry.stream: entry for entry in rig.resume().streams}
    assert (said["ticker"].start, said["ticker"].held) == (None, f.Held("e1", 100))
    assert (said["news"].start, said["news"].held) == ("now", None)


def test_subscribing_again_begins_anew() -> None:
    """A stream that exists gets a fresh id, and its old position is gone."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(data(101))
    assert rig.session.subscribe("ticker", f.Position("e1", 50), rig.now) == 2
    rig.pump()
    assert not rig.session.has_items
    rig.say(subscribed("ticker", 2, first=51), gap(51, 60, id=1), data(51))
    assert rig.take() == [("ticker", 51)]
    assert rig.session.position("ticker") == f.Position("e1", 50)


# -- acks and credit --------------------------------------------------------------------------------------------------


def test_acks_and_credit_go_together_and_late() -> None:
    """100 ms after the first unsent one, never for each message."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(data(101, 3))
    for _ in range(3):
        rig.take(1)
        rig.tick(0.02)
    assert rig.all(f.Ack) == rig.all(f.Grant) == []
    rig.take()
    rig.tick(0.041)
    assert rig.all(f.Ack) == [f.Ack(acked=(f.AckedMark("ticker", "e1", 103),))]
    assert rig.all(f.Grant) == [f.Grant(credit=f.Credit(1027, (16 << 20) + 30))]
    rig.tick(5.0)
    assert len(rig.all(f.Ack) + rig.all(f.Grant)) == 2


@pytest.mark.parametrize("inbox", [Inbox(max_messages=4), Inbox(max_bytes=40)])
def test_half_a_window_is_granted_at_once(inbox: Inbox) -> None:
    """Messages or bytes, whichever is first."""
    rig = Rig.open(subscribe=["ticker"], inbox=inbox)
    rig.say(data(101, 4))
    rig.take(1)
    assert rig.all(f.Grant) == []
    rig.take(1)
    assert len(rig.all(f.Grant)) == 1


def test_H18_credit_is_granted_when_it_is_taken_not_when_it_is_acked() -> None:
    """Who acks late does not stop the flow (rule 9)."""
    rig = Rig.open(subscribe=["ticker"], inbox=Inbox(max_messages=4, ack="manual"))
    rig.say(data(101, 4))
    rig.take()
    assert rig.all(f.Grant)[-1].credit.messages == 8
    assert rig.all(f.Ack) == []
    rig.session.ack("ticker", "e1", 103, 0, rig.now)
    rig.session.ack("never", "e1", 103, 0, rig.now)
    rig.tick(0.1)
    assert rig.all(f.Ack) == [f.Ack(acked=(f.AckedMark("ticker", "e1", 103),))]


def test_H18_what_is_dropped_counts_as_taken() -> None:
    """Duplicates and data of nobody eat no credit."""
    rig = Rig.open(subscribe=["ticker"], inbox=Inbox(max_messages=4))
    rig.say(data(101, 2))
    rig.resume(streams=(answer(rig.session._core.inbox.subscriptions["ticker"], first=101, live=102),))  # type: ignore[arg-type]
    rig.say(data(101, 2))
    assert rig.all(f.Grant)[-1].credit.messages == 4
    rig.say(data(1, 2, stream="nobody"))
    assert rig.all(f.Grant)[-1].credit.messages == 6


@pytest.mark.parametrize("inbox", [Inbox(max_messages=2), Inbox(max_bytes=25)])
def test_S10_more_than_was_granted_is_refused(inbox: Inbox) -> None:
    """INV-S10: the inbox never holds more than its bounds, whatever the server sends."""
    rig = Rig.open(subscribe=["ticker"], inbox=inbox)
    rig.say(data(101, 2))
    assert rig.session.connected
    rig.say(data(103))
    assert rig.shuts[-1].code == 4400
    assert "more than it was granted" in str(rig.session.last_error)
    assert rig.session.stats()["inbox"] == (2, 20)


def test_credit_never_goes_above_what_the_inbox_holds() -> None:
    """Totals minus what arrived never exceed what is free."""
    rig = Rig.open(subscribe=["ticker"], inbox=Inbox(max_messages=4))
    for n in range(30):
        rig.say(data(101 + 2 * n, 2))
        assert rig.session.stats()["inbox"][0] <= 4
        granted = [grant.credit.messages for grant in rig.all(f.Grant)] or [4]
        assert granted[-1] - (2 * n + 2) <= 4 - rig.session.stats()["inbox"][0]
        rig.take(2)
        rig.tick(0.1)
    assert rig.session.connected


def test_nothing_is_confirmed_while_nobody_is_connected() -> None:
    """Takes and acks between connections ride in the next hello."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(data(101))
    rig.lose()
    rig.take()
    rig.take()
    assert rig.redial().streams[0].acked == 101


# -- rule 11 ----------------------------------------------------------------------------------------------------------


def committed(seq: int, *, known: bool = True) -> tuple[f.CommittedAnswer, ...]:
    """Say what the stream's slot knows."""
    return (f.CommittedAnswer(producer=0, stream="orders", seq=seq, known=known),)


def written(first: int, count: int, **changes: Any) -> Rig:
    """Make a client that wrote ``count`` messages and has acks below ``first``; then it is on its way again."""
    rig = Rig.open(**changes)
    for n in range(1, first + count):
        rig.send(str(n))
    if first > 1:
        rig.say(f.Ack(committed=(f.SeqMark(0, "orders", first - 1),)))
    rig.lose()
    rig.redial()
    return rig


INDEFINITE: list[tuple[str, int, float, dict[str, Any], bool]] = [
    ("known", 3, 0.0, {"committed": committed(2)}, False),
    ("never stored", 1, 0.0, {"committed": committed(0, known=False)}, False),
    ("forgotten", 3, 0.0, {"committed": committed(0, known=False)}, True),
    ("too old", 1, 100.0, {"committed": committed(0, known=False), "producer_ttl": 60.0}, True),
    ("another incarnation", 1, 0.0, {"committed": committed(0, known=False), "incarnation": "i2"}, True),
]


@pytest.mark.parametrize(("why", "first", "waited", "changes", "indefinite"), INDEFINITE, ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("policy", ["resend", "raise"])
def test_rule_11_what_is_indefinite(
    policy: Any, why: str, first: int, waited: float, changes: dict[str, Any], indefinite: bool
) -> None:
    """Only what may have been stored before the stream forgot its producer: sent again and told, or failed."""
    rig = written(first, 2, outbox=Outbox(indefinite=policy))
    rig.now += waited
    rig.welcome(**changes)
    resent = e.IndefiniteResent(producer=PRODUCER, stream="orders", first=first, last=first + 1)
    raised = indefinite and policy == "raise"
    assert rig.told(e.IndefiniteResent) == ([resent] if indefinite and not raised else []), why
    assert [type(rig.outcome(first + n)) is Undelivered for n in (0, 1)] == [raised, raised]
    assert [batch.void for batch in rig.all(f.Batch)] == ["indefinite" if raised else None]
    assert rig.seqs() == [first, first + 1]


def test_rule_11_what_was_never_written_is_never_indefinite() -> None:
    """A message that waited for its first connection is simply sent."""
    rig = Rig.new(outbox=Outbox(indefinite="raise"))
    rig.send("a")
    rig.made()
    rig.welcome(committed=committed(0, known=False), producer_ttl=0.0)
    assert (rig.seqs(), rig.outcome(1)) == ([1], False)


@pytest.mark.parametrize(
    ("seq", "known", "lost"), [(2, True, (3, 4)), (0, False, (1, 4)), (4, True, None), (5, True, None)]
)
def test_H2_what_the_store_lost_after_it_had_acked_it(seq: int, known: bool, lost: tuple[int, int] | None) -> None:
    """Reported with numbers, no error, and the rest goes on."""
    rig = written(5, 2)
    rig.welcome(committed=committed(seq, known=known))
    expected = (
        [] if lost is None else [e.AcknowledgedLost(producer=PRODUCER, stream="orders", first=lost[0], last=lost[1])]
    )
    assert rig.told(e.AcknowledgedLost) == expected
    assert rig.seqs() == [n for n in (5, 6) if n > seq]
    assert rig.session.connected


def test_a_mark_below_the_first_unacked_seq_is_no_ack_for_the_future() -> None:
    """What was dropped before the hello is settled by it: a node that repeats that number says nothing new."""
    rig = Rig.new(outbox=Outbox(max_messages=1, policy="drop_oldest"))
    for x in "abc":
        rig.send(x)
    assert rig.made().outbound == (f.HelloOutbound(producer=0, stream="orders", first=3, next=4),)
    rig.session.received(1, [welcome(rig.hello()), f.Ping(echo="", committed=(f.SeqMark(0, "orders", 2),))], rig.now)
    rig.pump()
    assert (rig.session.connected, rig.seqs()) == (True, [3])


def test_S8_a_welcome_that_commits_what_was_never_written() -> None:
    """It is below ``next``, but no connection was given it."""
    rig = Rig.open()
    rig.is_backed_up = True
    for _ in range(7):
        rig.send("x" * 60_000)
    rig.is_backed_up = False
    rig.lose()
    rig.redial()
    rig.welcome(committed=committed(7))
    assert "acked seq 7" in str(rig.session.last_error)


def test_rule_11_messages_of_an_earlier_producer_go_first() -> None:
    """They keep their numbers, and the first of ours is written when the last of theirs is acked."""
    rig = Rig.new()
    rig.session._core.outbox.restore(RestoredLane(EARLIER, "orders", 7, ["old 7", "old 8"]))
    rig.send("new 1")
    hello = rig.made()
    assert hello.producers == (PRODUCER, EARLIER)
    rig.welcome()
    assert [(batch.producer, batch.first, batch.payloads) for batch in rig.all(f.Batch)] == [(1, 7, ["old 7", "old 8"])]
    rig.say(f.Ack(committed=(f.SeqMark(1, "orders", 7),)))
    assert len(rig.all(f.Batch)) == 1
    rig.say(f.Ack(committed=(f.SeqMark(1, "orders", 8),)))
    assert [batch.payloads for batch in rig.all(f.Batch)] == [["old 7", "old 8"], ["new 1"]]
    assert rig.session.outcome(EARLIER, "orders", 7) is True


def test_a_lane_of_a_producer_that_the_hello_did_not_name_waits_for_the_next() -> None:
    """Only what the hello introduced can be said on its connection."""
    rig = Rig.open()
    rig.session._core.outbox.restore(RestoredLane(EARLIER, "orders", 1, ["late"]))
    rig.pump()
    assert rig.all(f.Batch) == []
    rig.resume()
    assert [batch.producer for batch in rig.all(f.Batch)] == [1]


def test_a_dialect_without_credit_is_bound_by_nothing() -> None:
    """Where the protocol grants nothing, no number of messages is too many: the reader stops at the inbox's bound."""
    capabilities = Capabilities(positions=True, acks=True, credit=False, resume=True)
    rig = Rig.open(subscribe=["ticker"], inbox=Inbox(max_messages=1), capabilities=capabilities)
    rig.say(data(101, 3))
    assert rig.session.connected
    assert rig.session.inbox_full
