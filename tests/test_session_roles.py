"""The client session with several connections: candidate, successor, standby (rule 6), and liveness."""

from __future__ import annotations

import attrs
import pytest
from session_tools import CAPABILITIES, Rig, data, session

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Keepalive
from resilient_ws.exceptions import NoEndpoint, Rejected
from resilient_ws.session import Role

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


@pytest.mark.parametrize(("acks", "pings"), [(True, 1), (False, 0)])
def test_what_nobody_acks_is_not_asked_about(acks: bool, pings: int) -> None:
    """A dialect whose server confirms nothing leaves every send unanswered: only the interval counts there."""
    rig = Rig.open(capabilities=attrs.evolve(CAPABILITIES, acks=acks))
    rig.send()
    rig.tick(0.9)
    assert len(rig.all(f.Ping)) == pings
