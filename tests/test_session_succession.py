"""The client session: the successor of a node that leaves, and the spare that stands by (rule 6)."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity
from session_tools import ALL_ROLES, Rig, answer, data

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws import succession
from resilient_ws.config import Budget, Inbox, Retry
from resilient_ws.connection import Connection
from resilient_ws.exceptions import AccessDenied, HandshakeRejected, NoEndpoint
from resilient_ws.session import Role, SessionState

AB = ["ws://a", "ws://b"]
SUCCEEDED = frozenset({Role.SUCCESSOR})
SPARED = frozenset({Role.STANDBY})


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
    rig.tick(1.0)
    hello = rig.made(2)
    assert (hello.standby, hello.streams, hello.session) == (True, (), "00s1")
    assert rig.session.stats()["standby"] == ""
    rig.say(f.Standing(node="n2"), conn=2)
    assert rig.told(e.StandingBy) == [e.StandingBy(conn=2, node="n2")]
    assert rig.session.stats()["standby"] == "n2"
    return rig


def test_a_spare_is_promoted_by_an_ordinary_hello() -> None:
    """Failover costs one round trip; afterwards there is a new spare."""
    rig = spared()
    rig.lose(conn=1)
    hello = rig.hello(2)
    assert (hello.standby, hello.attempt, hello.streams[0].held) == (False, 3, f.Held("e1", 100))
    rig.welcome(2)
    assert rig.session.connected
    rig.tick(1.0)
    assert [dial.url for dial in rig.dials] == ["ws://a", "ws://b", "ws://a"]


def test_a_spare_lives_on_pings_and_dies_of_silence() -> None:
    """It has no marks of its own, and its loss touches nobody."""
    rig = spared()
    rig.tick(19.0)
    rig.say(f.Pong(echo="1"), conn=1)
    rig.tick(1.0)
    assert rig.all(f.Ping, 2) == [f.Ping(echo="2")]
    rig.say(f.Pong(echo="2"), f.Ping(echo="n"), conn=2)
    assert rig.all(f.Pong, 2) == [f.Pong(echo="n")]
    rig.tick(19.0)
    rig.say(f.Pong(echo=""), conn=1)
    rig.tick(1.9)
    assert rig.shuts == []
    rig.tick(0.2)
    assert [(shut.conn, shut.code) for shut in rig.shuts] == [(2, 1001)]
    assert rig.session.connected


def test_a_spare_is_watched_as_the_last_welcome_advised() -> None:
    """Its node says nothing of keepalive, and a dead spare must not look alive for long."""
    rig = Rig.open(urls=AB, roles=SPARED, welcomed={"keepalive": f.KeepaliveAdvice(interval=1.0, timeout=2.0)})
    rig.tick(1.0)
    rig.made(2)
    rig.say(f.Standing(node="n2"), conn=2)
    rig.say(f.Pong(echo=""), conn=1)
    rig.tick(1.0)
    assert len(rig.all(f.Ping, 2)) == 1
    rig.say(f.Pong(echo=""), conn=1)
    rig.tick(0.99)
    assert rig.shuts == []
    rig.tick(0.02)
    assert [shut.conn for shut in rig.shuts] == [2]


def test_a_spare_whose_node_leaves_is_replaced() -> None:
    """Its node's notice is no reason to leave the primary: another spare is dialled, with a delay."""
    rig = spared()
    rig.say(f.Drain(within=1.0), conn=2)
    assert [(shut.conn, shut.code) for shut in rig.shuts] == [(2, 1000)]
    rig.tick(0.49)
    assert len(rig.dials) == 2
    rig.tick(0.02)
    assert (len(rig.dials), rig.session.connected) == (3, True)
    assert rig.made(3).standby


def test_a_welcome_for_a_spare_is_refused() -> None:
    """It would take the session over, without its streams, again and again."""
    rig = Rig.open(subscribe=["ticker"], urls=AB, roles=SPARED)
    rig.tick(1.0)
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
    rig.tick(1.0)
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
    rig.tick(10.0)
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
    rig.tick(1.0)
    rig.made(3)
    rig.say(f.Standing(node="n3"), conn=3)
    rig.say(f.Drain(within=9.0), conn=1)
    rig.tick(0.0)
    rig.welcome(3)
    assert (len(rig.dials), rig.session.stats()["connects"]) == (3, 2)
    rig.tick(1.0)
    rig.made(4)
    rig.say(f.Standing(node="n4"), conn=4)
    rig.lose(conn=3)
    rig.welcome(4)
    assert (rig.session.state, rig.session.stats()["resumes"]) == (SessionState.LIVE, 2)


# -- what goes wrong --------------------------------------------------------------------------------------------------


def made_at(rig: Rig, conn: int, node: str) -> None:
    """Upgrade a connection whose answer names a node."""
    rig.session.connection_made(conn, rig.now, node)
    rig.pump()


def test_a_successor_that_comes_to_the_same_node_turns_back() -> None:
    """Behind a balancer: the 101 names the node that leaves, so it is shut before a hello, and dialled again."""
    rig = Rig.open(roles=SUCCEEDED)
    rig.say(f.Drain(within=20.0))
    rig.tick(0.0)
    made_at(rig, 2, "n1")
    assert [(shut.conn, shut.code, shut.reason) for shut in rig.shuts] == [(2, 1000, "this node again")]
    assert rig.told(e.ConnectionEnded)[-1].reason == "this node again"
    assert (rig.all(f.Hello, 2), rig.session.connected) == ([], True)
    assert rig.told(e.RetryScheduled)[-1].delay == 0.5
    rig.tick(0.5)
    made_at(rig, 3, "n2")
    rig.welcome(3, node="n2")
    assert (rig.session.stats()["node"], rig.session.stats()["failures"]) == ("n2", 0)


@pytest.mark.parametrize("node", ["n2", ""])
def test_a_successor_elsewhere_does_not(node: str) -> None:
    """The control: another node, or an answer without a name, is taken."""
    rig = Rig.open(roles=SUCCEEDED)
    rig.say(f.Drain(within=20.0))
    rig.tick(0.0)
    made_at(rig, 2, node)
    assert (rig.hello(2).attempt, rig.shuts) == (2, [])


def test_a_primary_may_come_to_the_node_that_it_was_on() -> None:
    """Only those who are early turn back: after a loss any node that serves is right."""
    rig = Rig.open(roles=ALL_ROLES)
    rig.lose()
    rig.tick(0.0)
    made_at(rig, 2, "n1")
    assert rig.hello(2).attempt == 2


def test_a_successor_that_fails_is_dialled_again() -> None:
    """With delays that grow, for as long as the node that leaves still serves; a second notice plans nothing more."""
    rig = drained()
    rig.tick(2.0)
    for delay in (0.5, 0.5, 1.0):
        rig.lose(NoEndpoint("refused"))
        assert rig.told(e.RetryScheduled)[-1].delay == delay
        rig.say(f.Drain(within=20.0), conn=1)
        assert len(rig.told(e.RetryScheduled)) == len(rig.dials)
        rig.tick(delay)
    rig.lose(conn=1)
    rig.made()
    rig.welcome()
    assert rig.session.connected


def test_a_spare_succeeds_a_node_that_leaves() -> None:
    """It says an ordinary hello in place of a new dial; the old connection goes when the welcome is read."""
    rig = Rig.open(subscribe=["ticker"], urls=AB, roles=frozenset({Role.STANDBY, Role.SUCCESSOR}))
    rig.tick(1.0)
    rig.made(2)
    rig.say(f.Standing(node="n2"), conn=2)
    rig.say(f.Drain(within=20.0, jitter=2.0), conn=1)
    rig.tick(1.9)
    assert rig.hello(2).standby
    rig.tick(0.1)
    assert (rig.hello(2).standby, len(rig.dials)) == (False, 2)
    assert rig.session.connected
    rig.welcome(2)
    assert [shut.conn for shut in rig.shuts] == [1]


@pytest.mark.parametrize("named_by", ["101", "standing"])
def test_a_spare_on_the_primarys_node_turns_back(named_by: str) -> None:
    """It would die with it."""
    rig = Rig.open(roles=SPARED)
    rig.tick(1.0)
    made_at(rig, 2, "n1" if named_by == "101" else "")
    if named_by == "standing":
        rig.say(f.Standing(node="n1"), conn=2)
    assert [shut.conn for shut in rig.shuts] == [2]
    rig.tick(0.5)
    assert len(rig.dials) == 3
    assert rig.dials[-1].is_fresh


def test_a_spare_that_dies_is_replaced_with_growing_delays() -> None:
    """One that stood for its time starts them anew."""
    rig = spared()
    delays = []
    for stands in (0.0, 0.0, 0.0, 40.0, 0.0):
        while stands > 0:
            rig.say(f.Pong(echo=""), conn=1)
            rig.say(f.Pong(echo=""))
            rig.tick(10.0)
            stands -= 10.0
        rig.lose()
        count, lost = len(rig.dials), rig.now
        while len(rig.dials) == count:
            rig.tick(0.125)
            rig.say(f.Pong(echo=""), conn=1)
        delays.append(rig.now - lost)
        rig.made()
        rig.say(f.Standing(node="n2"))
    assert delays == [0.5, 0.5, 1.0, 0.5, 0.5]
    assert rig.session.stats()["failures"] == 0


def test_a_spare_is_not_dialled_where_the_primary_is() -> None:
    """With another URL that is ejected there is nowhere to go: it is looked for again, and found when that is back."""
    rig = Rig.open(urls=AB, roles=SPARED)
    rig.session._core.pool.hold("ws://b", 30.0)
    rig.tick(15.0)
    assert len(rig.dials) == 1
    while rig.now < 70.0:
        rig.say(f.Pong(echo=""), conn=1)
        rig.tick(5.0)
    assert rig.dials[1].url == "ws://b"


def test_a_spare_waits_for_the_budget() -> None:
    """Nothing is dialled for it that a loss may need."""
    rig = Rig.open(roles=SPARED, retry=Retry(budget=Budget(burst=1, refill=10.0)))
    rig.tick(9.9)
    assert len(rig.dials) == 1
    rig.tick(1.2)
    assert len(rig.dials) == 2


def test_a_planned_spare_is_forgotten_when_the_primary_dies() -> None:
    """A new primary goes first, and gets a spare of its own."""
    rig = Rig.open(urls=AB, roles=SPARED)
    rig.tick(0.5)
    rig.lose(conn=1)
    rig.tick(0.6)
    assert [rig.session._core.connections[dial.conn].role for dial in rig.dials[1:]] == [Role.PRIMARY]


def test_Z6_a_promoted_spare_that_hangs_is_hedged() -> None:
    """Its node died since it last spoke: another endpoint is dialled beside it after the stagger."""
    rig = Rig.open(urls=["ws://a", "ws://b", "ws://c"], roles=frozenset({Role.STANDBY, Role.CANDIDATE}))
    rig.tick(1.0)
    rig.made(2)
    rig.say(f.Standing(node="n2"), conn=2)
    rig.lose(conn=1)
    rig.tick(0.25)
    assert [dial.url for dial in rig.dials] == ["ws://a", "ws://b", "ws://c"]
    rig.session.connection_made(3, rig.now)
    rig.tick(2.0)
    assert rig.hello(3).attempt == 4


def test_only_a_node_that_leaves_is_succeeded() -> None:
    """Whatever else comes to nothing beside a primary that stays plans no dial."""
    rig = Rig.open(urls=AB, roles=SUCCEEDED)
    core = rig.session._core
    assert core.primary is not None
    succession.failed(core, Connection(9, "ws://b", Role.SUCCESSOR, None), rig.now)
    assert core.dial_at is None
    core.primary.is_leaving = True
    succession.failed(core, Connection(9, "ws://b", Role.SUCCESSOR, None), rig.now)
    assert core.dial_at is not None


def test_a_notice_to_one_that_waits_for_its_turn_changes_nothing() -> None:
    """A hedge that is upgraded behind another hello stays: it may be the only one that gets a welcome."""
    rig = Rig.new(urls=AB, roles=frozenset({Role.CANDIDATE, Role.SUCCESSOR}))
    rig.made(1)
    rig.tick(0.25)
    rig.session.connection_made(2, rig.now)
    rig.pump()
    rig.say(f.Drain(within=9.0), conn=2)
    assert (rig.shuts, len(rig.dials)) == ([], 2)
    rig.lose(conn=1)
    rig.welcome(2)
    assert rig.session.connected
