"""The client session: close, drain, bye, and what is left then."""

from __future__ import annotations

import pytest
from session_tools import Rig, data, session, welcome

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.exceptions import LocalProtocolError, NoEndpoint, SessionClosed, Undelivered
from resilient_ws.session import SessionState

# -- end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [False, True])
def test_close(end: bool) -> None:
    """The acks go out, ``bye`` where asked for, then 1000; receipts are undelivered, and everything after is void."""
    rig = Rig.open(subscribe=["ticker"])
    rig.send("a")
    rig.say(data(101))
    rig.take()
    rig.take()
    rig.session.close(rig.now, end=end)
    rig.session.close(rig.now, end=end)
    rig.pump()
    assert rig.all(f.Ack)
    assert len(rig.all(f.Bye)) == int(end)
    assert [shut.code for shut in rig.shuts] == [1000]
    assert (rig.session.state, rig.session.error, rig.session.connected) == (SessionState.ENDED, None, False)
    assert isinstance(rig.outcome(1), Undelivered)
    assert rig.told(e.Ended) == [e.Ended(error="")]
    assert rig.session.next_deadline() is None
    rig.say(data(102))
    rig.lose()
    rig.session.heard(1, 0.0)
    rig.session.connection_made(1, 0.0)
    rig.tick(100)
    assert len(rig.dials) == 1
    for call in (
        lambda: rig.send("b"),
        lambda: rig.session.subscribe("x", "now", 0.0),
        lambda: rig.session.unsubscribe("x", 0.0),
        lambda: rig.session.drain(0.0),
    ):
        with pytest.raises(SessionClosed):
            call()
    with pytest.raises(LocalProtocolError):
        rig.session.connect(0.0)


def test_close_before_anything() -> None:
    """A session that never connected ends; one that dials shuts its dial."""
    never = session()
    never.close(0.0, end=True)
    assert never.state is SessionState.ENDED
    rig = Rig.new()
    rig.session.close(0.0)
    rig.pump()
    assert [shut.conn for shut in rig.shuts] == [1]


def test_bye_of_the_server_ends_the_session() -> None:
    """No error, no further attempt; what follows on the connection is dropped."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(f.Bye(code="revoked"), data(101))
    assert (rig.session.state, rig.session.error) == (SessionState.ENDED, None)
    assert not rig.session.has_items


def test_drain_ends_when_everything_is_acked() -> None:
    """Nothing more is accepted, a loss on the way is survived, and the last ack ends it."""
    rig = Rig.open()
    rig.send("a")
    rig.session.drain(rig.now)
    assert rig.session.state is SessionState.DRAINING
    with pytest.raises(SessionClosed):
        rig.send("b")
    rig.resume()
    assert (rig.seqs(), rig.session.state) == ([1], SessionState.DRAINING)
    rig.say(f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    assert (rig.session.state, rig.session.error, rig.outcome(1)) == (SessionState.ENDED, None, True)


def test_drain_of_an_idle_session_ends_at_once() -> None:
    """Nothing is unacked, connected or not."""
    for rig in (Rig.open(), Rig.new()):
        rig.session.drain(rig.now)
        assert rig.session.state is SessionState.ENDED


def test_what_was_accepted_before_a_flush_can_be_asked_for() -> None:
    """A flush waits for what was there when it began, not for what other threads send meanwhile."""
    rig = Rig.open()
    assert rig.session.has_settled(rig.session.accepted())
    rig.send("a")
    before = rig.session.accepted()
    rig.send("b")
    assert not rig.session.has_settled(before)
    rig.say(f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    assert rig.session.has_settled(before)
    assert not rig.session.has_settled(rig.session.accepted())


def test_what_a_connection_waits_for_has_words() -> None:
    """While there is no welcome the user can be told why."""
    rig = Rig.new()
    assert "TLS" in rig.session.waits_for
    rig.made()
    assert "hello" in rig.session.waits_for
    rig.welcome()
    assert rig.session.waits_for == ""


def test_stats_are_numbers() -> None:
    """Counters and sizes, no payloads."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(data(101))
    stats = rig.session.stats()
    assert (stats["connects"], stats["inbox"], stats["state"], stats["node"]) == (1, (1, 10), "live", "n1")
    assert not rig.session.inbox_full
    assert welcome(rig.hello()).session == "00s1"


def test_a_call_that_waited_in_vain_hears_why() -> None:
    """While there is a connection there is no trouble; else what it waits for, or what ended the last attempt."""
    rig = Rig.new()
    assert "attempts go on" in rig.session.trouble
    rig.lose(NoEndpoint("no address answered"))
    assert "no address answered" in rig.session.trouble
    assert Rig.open().session.trouble == ""
