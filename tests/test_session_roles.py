"""The client session with several connections: candidate, successor, standby (rule 6), and liveness."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity
from session_tools import ALL_ROLES, Rig, answer, data, session

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Inbox, Keepalive, Retry
from resilient_ws.exceptions import AccessDenied, HandshakeRejected, NoEndpoint, Rejected
from resilient_ws.session import Role, SessionState

AB = ["ws://a", "ws://b"]
HEDGED, SUCCEEDED, SPARED = (frozenset({role}) for role in (Role.CANDIDATE, Role.SUCCESSOR, Role.STANDBY))


# -- candidates -------------------------------------------------------------------------------------------------------


def test_H20_a_hedge_goes_to_another_endpoint() -> None:
    """While no welcome is there after hedge_delay, a second dial races; only one."""
    rig = Rig.new(urls=AB, roles=HEDGED, hedge_delay=0.25)
    rig.tick(5.0)
    assert [dial.url for dial in rig.dials] == AB


@pytest.mark.parametrize("how", ["welcomed", "failed", "no role"])
def test_no_hedge_where_none_is_needed(how: str) -> None:
    """Welcomed in time, failed before it was due, or not wanted."""
    rig = Rig.new(urls=AB, roles=frozenset() if how == "no role" else HEDGED)
    if how == "welcomed":
        rig.made()
        rig.welcome()
    elif how == "failed":
        rig.lose(NoEndpoint("refused"))
    rig.tick(0.3)
    assert len(rig.dials) == 1


def test_rule_6_the_first_upgraded_says_hello_and_the_other_waits() -> None:
    """At most one hello is outstanding; the welcomed one shuts the other, and nothing of that counts any more."""
    rig = Rig.new(urls=AB, roles=HEDGED)
    rig.tick(0.3)
    rig.made(2)
    rig.session.connection_made(1, rig.now)
    rig.pump()
    assert 1 not in rig.written
    rig.welcome(2)
    assert [shut.conn for shut in rig.shuts] == [1]
    rig.say(f.Bye(), conn=1)
    assert rig.session.connected


def test_Z6_while_another_waits_a_hello_has_less_time() -> None:
    """Rule 6: a fifth of the attempt's time; the one that waited says hello with a higher attempt, and has it all."""
    rig = Rig.new(urls=AB, roles=HEDGED)
    rig.made(1)
    rig.tick(0.25)
    rig.session.connection_made(2, rig.now)
    rig.pump()
    rig.tick(1.74)
    assert rig.shuts == []
    rig.tick(0.02)
    assert [shut.conn for shut in rig.shuts] == [1]
    assert [rig.hello(n).attempt for n in (1, 2)] == [1, 2]
    rig.tick(9.0)
    rig.welcome(2)
    assert rig.session.connected


def test_Z6_a_late_hello_beside_one_that_waits_counts_from_itself() -> None:
    """What says hello while another one waits already has its fifth from then on."""
    rig = Rig.new(urls=["ws://a", "ws://b", "ws://c"], roles=HEDGED)
    rig.tick(0.6)
    for conn in (1, 2, 3):
        rig.session.connection_made(conn, rig.now)
    rig.pump()
    rig.tick(2.01)
    assert [shut.conn for shut in rig.shuts] == [1]
    rig.tick(1.98)
    assert len(rig.shuts) == 1
    rig.tick(0.02)
    assert [shut.conn for shut in rig.shuts] == [1, 2]


def test_Z6_a_hello_that_nobody_waits_behind_has_its_whole_time() -> None:
    """The control: where there is no other node to ask, patience is all that helps."""
    rig = Rig.new(urls=["ws://a"], roles=HEDGED)
    rig.made(1)
    rig.tick(9.9)
    assert rig.shuts == []
    rig.tick(0.2)
    assert [shut.conn for shut in rig.shuts] == [1]


def test_a_lost_racer_leaves_the_race_to_the_other() -> None:
    """No delay and no further dial while another one is on its way; when all are lost it backs off."""
    rig = Rig.new(urls=AB, roles=HEDGED)
    rig.tick(0.3)
    rig.lose(NoEndpoint("refused"), conn=1)
    assert rig.told(e.RetryScheduled) == []
    rig.lose(NoEndpoint("refused"), conn=2)
    assert len(rig.told(e.RetryScheduled)) == 1


def test_hedges_go_on_until_every_endpoint_is_dialled() -> None:
    """With two of three dead the third is dialled after twice the delay; there is no fourth dial."""
    rig = Rig.new(urls=["ws://a", "ws://b", "ws://c"], roles=HEDGED, hedge_delay=0.25)
    rig.tick(0.25)
    rig.tick(0.25)
    assert [dial.url for dial in rig.dials] == ["ws://a", "ws://b", "ws://c"]
    rig.tick(5.0)
    assert len(rig.dials) == 3


def test_a_single_endpoint_is_not_hedged_with_itself() -> None:
    """A second dial to the same place would only double a herd."""
    rig = Rig.new(roles=HEDGED)
    rig.tick(5.0)
    assert len(rig.dials) == 1


def test_who_is_overtaken_has_failed() -> None:
    """An endpoint that did not answer while a later dial did comes last from then on; a slow winner is not blamed."""
    rig = Rig.new(urls=AB, roles=HEDGED)
    rig.tick(0.3)
    rig.made(2)
    rig.welcome(2)
    rig.lose(conn=2)
    rig.tick(60.0)
    assert [dial.url for dial in rig.dials[:3]] == ["ws://a", "ws://b", "ws://a"]
    other = Rig.new(urls=AB, roles=HEDGED)
    other.tick(0.3)
    other.made(1)
    other.welcome(1)
    other.lose(conn=1)
    other.tick(60.0)
    assert other.dials[2].url == "ws://b"


# -- successors -------------------------------------------------------------------------------------------------------


def drained(**changes: Any) -> Rig:
    """Make a client of one stream whose node asks it to leave."""
    rig = Rig.open(subscribe=["ticker"], urls=AB, roles=SUCCEEDED, inbox=Inbox(max_messages=8), **changes)
    rig.say(f.Drain(within=20.0, jitter=2.0, spread=1.5))
    return rig


def test_rule_6_a_successor_is_not_led_back() -> None:
    """Behind a balancer there is one endpoint: the successor is dialled there, not led to the old node."""
    rig = Rig.open(roles=SUCCEEDED)
    rig.say(f.Drain(within=20.0, jitter=2.0))
    rig.tick(2.0)
    assert [(dial.url, dial.is_fresh) for dial in rig.dials] == [("ws://a", False), ("ws://a", True)]
    rig.made(2)
    rig.welcome(2)
    rig.lose(conn=2)
    rig.tick(1.0)
    assert not rig.dials[2].is_fresh


def test_a_drain_notice_makes_before_it_breaks() -> None:
    """After a jittered part the successor is dialled elsewhere; the old connection counts until its welcome is read."""
    rig = drained()
    assert rig.told(e.DrainNoticed) == [e.DrainNoticed(conn=1, within=20.0)]
    assert len(rig.dials) == 1
    rig.say(f.Drain(within=20.0, jitter=2.0))
    rig.tick(2.0)
    assert [dial.url for dial in rig.dials] == AB
    hello = rig.made(2)
    assert (hello.session, hello.attempt) == ("00s1", 2)
    rig.say(data(101, 2), conn=1)
    rig.welcome(2, streams=(answer(hello.streams[0], live=103),))
    assert [(shut.conn, shut.code) for shut in rig.shuts] == [(1, 1000)]
    rig.say(data(101, 3), conn=2)
    rig.say(data(104), conn=1)
    assert rig.take() == [("ticker", n) for n in (101, 102, 103)]
    assert rig.session.stats()["duplicates_dropped"] == 2


def test_H18_the_successors_hello_grants_only_what_is_not_granted_elsewhere() -> None:
    """Together the two connections never get more than the inbox holds; after the welcome there is a new total."""
    rig = drained()
    rig.say(data(101))
    rig.take()
    rig.tick(2.0)
    hello = rig.made(2)
    assert hello.credit.messages == 0
    rig.say(data(102), conn=1)
    rig.welcome(2)
    assert rig.all(f.Grant, 2)[-1].credit.messages == 7


def test_a_primary_that_dies_first_leaves_it_to_the_successor() -> None:
    """Nobody else is dialled while the successor is on its way."""
    rig = drained()
    rig.tick(2.0)
    rig.lose(conn=1)
    rig.made(2)
    rig.welcome(2)
    assert (len(rig.dials), rig.session.connected) == (2, True)


def test_a_primary_that_dies_before_the_jitter_is_over_is_an_ordinary_loss() -> None:
    """The planned dial is replaced by that of the loss."""
    rig = drained()
    rig.lose(1012)
    rig.tick(0.0)
    assert rig.dials[-1].url == "ws://b"
    rig.made()
    rig.welcome()
    rig.tick(5.0)
    assert len(rig.dials) == 2


@pytest.mark.parametrize(
    "error",
    [AccessDenied("401", status=401), HandshakeRejected("404", status=404, retryable=False), 4403, 4409, 4400, 1009],
)
def test_a_successor_that_fails_does_not_touch_the_primary(error: Any) -> None:
    """Whatever its node says, the session goes on where it is, until that ends."""
    rig = drained()
    rig.tick(2.0)
    if isinstance(error, int):
        rig.made(2)
    rig.lose(error, conn=2)
    assert rig.session.connected
    rig.say(data(101), conn=1)
    assert rig.take() == [("ticker", 101)]


def test_a_drain_without_the_role_waits_for_the_end() -> None:
    """The node will close; no second connection is made."""
    rig = Rig.open(urls=AB)
    rig.say(f.Drain(within=1.0))
    rig.tick(5.0)
    assert len(rig.dials) == 1


# -- standby ----------------------------------------------------------------------------------------------------------


def spared() -> Rig:
    """Make a client with a spare that stands by on the second node."""
    rig = Rig.open(subscribe=["ticker"], urls=AB, roles=SPARED)
    hello = rig.made(2)
    assert (hello.standby, hello.streams, hello.session) == (True, (), "00s1")
    rig.say(f.Standing(node="n2"), conn=2)
    return rig


def test_a_spare_is_promoted_by_an_ordinary_hello() -> None:
    """Failover costs one round trip; afterwards there is a new spare."""
    rig = spared()
    rig.lose(conn=1)
    hello = rig.hello(2)
    assert (hello.standby, hello.attempt, hello.streams[0].held) == (False, 3, f.Held("e1", 100))
    rig.welcome(2)
    assert rig.session.connected
    assert [dial.url for dial in rig.dials] == ["ws://a", "ws://b", "ws://a"]


def test_a_spare_lives_on_pings_and_dies_of_silence() -> None:
    """It has no marks of its own, and its loss touches nobody."""
    rig = spared()
    rig.tick(20.0)
    assert rig.all(f.Ping, 2) == [f.Ping(echo="2")]
    rig.say(f.Pong(echo="2"), f.Ping(echo="n"), conn=2)
    rig.say(f.Pong(echo="1"), conn=1)
    assert rig.all(f.Pong, 2) == [f.Pong(echo="n")]
    rig.tick(20.0)
    rig.say(f.Pong(echo=""), conn=1)
    rig.tick(0.9)
    assert rig.shuts == []
    rig.tick(0.2)
    assert [(shut.conn, shut.code) for shut in rig.shuts] == [(2, 1001)]
    assert rig.session.connected


def test_a_spare_is_watched_as_the_last_welcome_advised() -> None:
    """Its node says nothing of keepalive, and a dead spare must not look alive for long."""
    rig = Rig.open(urls=AB, roles=SPARED, welcomed={"keepalive": f.KeepaliveAdvice(interval=1.0, timeout=2.0)})
    rig.made(2)
    rig.say(f.Standing(node="n2"), conn=2)
    rig.tick(1.0)
    assert len(rig.all(f.Ping, 2)) == 1
    rig.say(f.Pong(echo=""), conn=1)
    rig.tick(0.99)
    assert rig.shuts == []
    rig.tick(0.02)
    assert [shut.conn for shut in rig.shuts] == [2]


def test_a_spare_that_is_drained_is_left_alone() -> None:
    """Its node's notice is no reason to leave the primary."""
    rig = spared()
    rig.say(f.Drain(within=1.0), conn=2)
    rig.tick(5.0)
    assert len(rig.dials) == 2


def test_a_welcome_for_a_spare_is_refused() -> None:
    """It would take the session over, without its streams, again and again."""
    rig = Rig.open(subscribe=["ticker"], urls=AB, roles=SPARED)
    rig.made(2)
    rig.welcome(2)
    assert [(shut.conn, shut.code) for shut in rig.shuts] == [(2, 4400)]
    assert rig.session.connected


def test_standing_for_an_ordinary_hello_is_refused() -> None:
    """Who asked for a welcome gets one."""
    rig = Rig.new()
    rig.made()
    rig.say(f.Standing(node="n1"))
    assert "ordinary hello" in str(rig.session.last_error)


def test_a_spare_waits_for_its_turn() -> None:
    """Upgraded while nobody is primary, it says its hello once there is one."""
    rig = Rig.open(urls=AB, roles=SPARED)
    rig.lose(conn=1)
    rig.session.connection_made(2, rig.now)
    rig.pump()
    assert rig.all(f.Hello, 2) == []
    rig.tick(0.0)
    rig.made(3)
    rig.welcome(3)
    assert rig.hello(2).standby


def test_a_spare_that_stands_too_late_takes_over() -> None:
    """Its hello was out when the primary died: it is the first that is ready."""
    rig = Rig.open(subscribe=["ticker"], urls=AB, roles=SPARED, welcomed={"spread": 9.0})
    rig.made(2)
    rig.lose(conn=1)
    rig.say(f.Standing(node="n2"), conn=2)
    assert not rig.hello(2).standby
    rig.welcome(2)
    assert rig.session.connected


def test_a_session_that_gives_up_shuts_its_spare_too() -> None:
    """The end is the end of every connection, also of one that the same timer would have looked at."""
    rig = Rig.open(urls=AB, roles=SPARED, retry=Retry(stop=tenacity.stop_after_attempt(1), connect_timeout=50.0))
    rig.tick(41.0)
    assert rig.session.state is SessionState.ENDED
    assert [shut.conn for shut in rig.shuts] == [1, 2]


def test_every_role_at_once() -> None:
    """Hedge, drain and spare do not get into each other's way."""
    rig = Rig.new(urls=["ws://a", "ws://b", "ws://c"], roles=ALL_ROLES)
    rig.tick(0.3)
    rig.made(1)
    rig.welcome(1)
    rig.made(3)
    rig.say(f.Standing(node="n3"), conn=3)
    rig.say(f.Drain(within=9.0), conn=1)
    rig.tick(0.0)
    rig.made(4)
    rig.welcome(4)
    assert rig.session.stats()["connects"] == 2
    rig.lose(conn=4)
    rig.welcome(3)
    assert (rig.session.state, rig.session.stats()["resumes"]) == (SessionState.LIVE, 2)


# -- liveness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "advice", "ping", "dead"),
    [
        ({}, None, 20.0, 1.0),
        ({}, (1.0, 5.0), 1.0, 1.0),
        ({}, (0.0, 0.0), 0.1, 1.0),
        ({}, (9e9, 9e9), 300.0, 1.0),
        ({"min_timeout": 3.0}, (1.0, 5.0), 1.0, 3.0),
        ({"min_timeout": 9.0}, (1.0, 5.0), 1.0, 9.0),
        ({"timeout": 300.0}, (1.0, 5.0), 1.0, 300.0),
        ({"interval": 3.0, "timeout": 4.0}, (1.0, 5.0), 3.0, 4.0),
        ({"timeout": 0.5, "min_timeout": 2.0}, (1.0, 5.0), 1.0, 2.0),
    ],
)
def test_silence_is_pinged_and_then_given_up(
    ours: dict[str, float], advice: tuple[float, float] | None, ping: float, dead: float
) -> None:
    """The user's durations, else the server's within bounds, else 20 s; any byte is life."""
    told = None if advice is None else f.KeepaliveAdvice(interval=advice[0], timeout=advice[1])
    rig = Rig.open(keepalive=Keepalive(**ours), welcomed={"keepalive": told})
    rig.now += ping / 2
    rig.session.heard(1, rig.now)
    rig.tick(ping * 0.99)
    assert rig.all(f.Ping) == []
    rig.tick(ping * 0.01 + 0.001)
    assert len(rig.all(f.Ping)) == 1
    rig.tick(dead * 0.9)
    assert rig.session.connected
    rig.tick(dead * 0.2)
    assert (rig.shuts[0].code, rig.told(e.ConnectionEnded)[0].reason) == (1001, "keepalive timeout")


def test_a_ping_carries_marks_acks_and_credit() -> None:
    """Every ack again, so that none stays lost, new credit, and the last seq of every stream that was written here."""
    rig = Rig.open(subscribe=["ticker"])
    rig.send("a")
    rig.send("b")
    rig.say(data(101))
    rig.take()
    rig.now += 0.05
    rig.take()
    rig.say(f.Ping(echo="s"))
    pong = rig.all(f.Pong)[-1]
    assert pong.acked == (f.AckedMark("ticker", "e1", 101),)
    assert pong.sent_seqs == (f.SeqMark(0, "orders", 2),)
    assert pong.credit == f.Credit(1025, (16 << 20) + 10)
    rig.say(f.Ping(echo="t"))
    again = f.Pong(echo="t", acked=(f.AckedMark("ticker", "e1", 101),), sent_seqs=(f.SeqMark(0, "orders", 2),))
    assert rig.all(f.Pong)[-1] == again


def test_a_late_timer_probes_before_it_kills() -> None:
    """We slept: the event says how long, and the server gets its time again."""
    rig = Rig.open(keepalive=Keepalive(interval=1.0, timeout=5.0))
    rig.tick(1.0)
    rig.now += 3600.0
    rig.session.handle_timer(rig.now)
    rig.pump()
    assert rig.told(e.Suspended) == [e.Suspended(late=3595.0)]
    assert rig.session.connected
    assert len(rig.all(f.Ping)) == 2
    rig.tick(5.1)
    assert not rig.session.connected


def test_a_timer_that_is_early_does_no_harm() -> None:
    """handle_timer may be called at any time, before connect() too."""
    session().handle_timer(0.0)
    rig = Rig.open()
    for _ in range(3):
        rig.session.handle_timer(rig.now)
    rig.pump()
    assert rig.all(f.Ping) == []


def test_pings_stay_small_with_many_streams() -> None:
    """Above 64 subscriptions only what is new rides along."""
    names = [f"s{n}" for n in range(65)]
    rig = Rig.open(subscribe=names)
    rig.say(f.Ping(echo="s"))
    assert rig.all(f.Pong)[-1].acked == ()


def test_what_the_old_connection_carried_while_the_hello_was_out_may_be_committed() -> None:
    """The primary goes on until the welcome is read: a seq above the hello's `next` is no contradiction (rule 6)."""
    rig = Rig.open(urls=AB, roles=SUCCEEDED)
    rig.send("one")
    rig.say(f.Drain(within=10.0, jitter=0.0))
    rig.tick(0.0)
    hello = rig.made(2)
    assert [entry.next for entry in hello.outbound] == [2]
    assert rig.send("two") == 2
    assert rig.seqs(1) == [1, 2]
    committed = f.CommittedAnswer(producer=0, stream="orders", seq=2, rejected=((1, "forbidden"),))
    rig.welcome(2, committed=(committed,))
    assert rig.outcome(2) is True
    assert isinstance(rig.outcome(1), Rejected)
    assert rig.seqs(2) == []


def test_a_seq_that_nobody_was_given_is_not_committed() -> None:
    """The bound is what was sent on any connection."""
    rig = Rig.open(urls=AB, roles=SUCCEEDED)
    rig.send("one")
    rig.say(f.Drain(within=10.0, jitter=0.0))
    rig.tick(0.0)
    rig.made(2)
    rig.welcome(2, committed=(f.CommittedAnswer(producer=0, stream="orders", seq=2),))
    assert [(shut.conn, shut.code) for shut in rig.shuts] == [(2, 4400)]


def test_H18_while_a_hello_is_out_the_old_connection_is_granted_only_the_rest() -> None:
    """What the hello granted is not granted a second time by what the user takes meanwhile (rule 9)."""
    rig = drained()
    rig.say(data(101, 6))
    rig.take()
    rig.tick(2.0)
    granted = rig.all(f.Grant, 1)[-1].credit.messages
    hello = rig.made(2)
    assert granted + hello.credit.messages == 6 + 8
    rig.say(data(107), conn=1)
    rig.tick(0.2)
    assert rig.all(f.Grant, 1)[-1].credit.messages - 7 + hello.credit.messages <= 7
    rig.take()
    rig.tick(0.2)
    assert rig.all(f.Grant, 1)[-1].credit.messages - 7 + hello.credit.messages == 8
    rig.welcome(2)
    assert rig.all(f.Grant, 2)[-1].credit.messages == 8
