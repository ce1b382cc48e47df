"""The client session: what a lost connection means, when it tries again, and what ends it (rules 4 and 7)."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity
from session_tools import Rig, data

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Failover, Outbox, Retry
from resilient_ws.exceptions import (
    AccessDenied,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HandshakeRejected,
    NoEndpoint,
    Rejected,
    RemoteProtocolError,
    Undelivered,
)
from resilient_ws.session import SessionState

DUPLICATE = (data(101), data(101))


# -- trying again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 3000, 4408, 4410, 4429, 4999])
def test_a_loss_that_is_retried(code: int) -> None:
    """The session goes on, and says hello again with a higher attempt."""
    rig = Rig.open()
    rig.lose(code, "why")
    assert rig.session.state is SessionState.LIVE
    assert rig.told(e.ConnectionEnded)[-1].code == code
    assert rig.redial().attempt == 2


def test_the_first_attempt_after_a_loss_is_spread_as_the_node_advises() -> None:
    """With one endpoint only: uniform over min(spread, max_spread); with another one at once."""
    for urls, spread, delay in ((["ws://a"], 4.0, 4.0), (["ws://a"], 99.0, 30.0), (["ws://a", "ws://b"], 4.0, 0.0)):
        rig = Rig.open(urls=urls, welcomed={"spread": spread})
        rig.lose()
        assert rig.told(e.RetryScheduled) == [e.RetryScheduled(attempt=2, delay=delay)]


def test_a_newer_spread_counts() -> None:
    """Pings, pongs and drain bring newer advice."""
    for item in (f.Ping(echo="", spread=7.0), f.Pong(echo="", spread=7.0), f.Drain(within=9.0, spread=7.0)):
        rig = Rig.open()
        rig.say(item)
        rig.lose()
        assert rig.told(e.RetryScheduled)[-1].delay == 7.0


def test_failures_in_a_row_back_off() -> None:
    """The endpoint changes; with each round over them the delay's ceiling doubles and attempts get more time."""
    rig = Rig.new(urls=["ws://a", "ws://b"])
    for delay in (0.5, 0.5, 1.0, 1.0):
        rig.lose(NoEndpoint("refused"))
        rig.tick(delay)
    assert [event.delay for event in rig.told(e.RetryScheduled)] == [0.5, 0.5, 1.0, 1.0]
    assert [dial.timeout for dial in rig.dials] == [10.0, 10.0, 20.0, 20.0, 40.0]
    assert [dial.url for dial in rig.dials] == ["ws://a", "ws://b"] * 2 + ["ws://a"]
    assert isinstance(rig.session.last_error, NoEndpoint)


@pytest.mark.parametrize(("up", "acked", "failures"), [(31.0, True, 1), (31.0, False, 2), (29.0, True, 2)])
def test_a_stable_connection_starts_the_backoff_anew(up: float, acked: bool, failures: int) -> None:
    """After stable_after seconds with one ack or answered ping in it; also where nothing happened since."""
    rig = Rig.new()
    rig.lose()
    rig.redial()
    rig.welcome(keepalive=f.KeepaliveAdvice(interval=300.0, timeout=9.0))
    if acked:
        rig.say(f.Pong(echo=""))
    rig.now += up
    rig.lose()
    assert rig.session.stats()["failures"] == failures


@pytest.mark.parametrize("how", [1013, 4408, "silence", "a broken rule"])
def test_S26_a_hello_without_a_welcome_is_not_led_back(how: int | str) -> None:
    """Rule 6: the node did not welcome, so the next dial is a fresh one; the one after that is not."""
    rig = Rig.new()
    rig.made()
    if how == "silence":
        rig.tick(11.0)
    elif how == "a broken rule":
        rig.say(f.Ping(echo=""), f.Ready(generation=1))
    else:
        rig.lose(how)
    rig.tick(1.0)
    rig.lose(NoEndpoint("refused"))
    rig.tick(5.0)
    assert [dial.is_fresh for dial in rig.dials] == [False, True, False]


def test_S26_a_dial_that_is_not_answered_in_time_is_followed_by_a_fresh_one() -> None:
    """Our own deadline counts as much as the dialler's: the next dial begins before that one's thread has ended."""
    rig = Rig.new()
    rig.tick(11.0)
    rig.tick(1.0)
    rig.lose(NoEndpoint("refused"))
    rig.tick(5.0)
    assert [dial.is_fresh for dial in rig.dials] == [False, True, False]


def test_S26_an_ordinary_loss_is_led_back() -> None:
    """A connection that was welcomed and breaks, or one that is not made, says nothing against the node."""
    rig = Rig.open()
    rig.lose()
    rig.tick(1.0)
    rig.lose(NoEndpoint("refused"))
    rig.tick(5.0)
    assert [dial.is_fresh for dial in rig.dials] == [False, False, False]


def test_S26_an_ejected_endpoint_is_dialled_afresh() -> None:
    """An endpoint that failed so often that it was left out comes back without what led to the node that failed."""
    rig = Rig.new(failover=Failover(eject_after=2))
    for _ in range(3):
        rig.lose(NoEndpoint("refused"))
        rig.tick(20.0)
    assert [dial.is_fresh for dial in rig.dials[:3]] == [False, False, True]


def test_stability_is_noticed_by_the_timer_too() -> None:
    """A connection on which only pings go out is stable after its time."""
    rig = Rig.new()
    rig.lose()
    rig.redial()
    rig.welcome()
    rig.say(data(1), f.Pong(echo=""))
    rig.tick(20.5)
    rig.say(f.Pong(echo=""))
    rig.tick(10.5)
    assert rig.session.stats()["failures"] == 0


def test_retry_stop_ends_the_session() -> None:
    """When tenacity's stop says so, with the last attempt's error as its cause."""
    rig = Rig.new(retry=Retry(stop=tenacity.stop_after_attempt(3)))
    for _ in range(3):
        rig.lose(NoEndpoint("refused"))
        rig.tick(5.0)
    assert rig.session.state is SessionState.ENDED
    assert isinstance(rig.session.error, ConnectError)
    assert isinstance(rig.session.error.__cause__, NoEndpoint)
    assert "3 attempts" in rig.told(e.Ended)[0].error
    assert len(rig.dials) == 3


def test_a_dial_has_its_time() -> None:
    """Neither upgraded nor welcomed in time: shut, and tried again."""
    rig = Rig.new()
    rig.tick(10.0)
    assert [(shut.conn, shut.code) for shut in rig.shuts] == [(1, 1001)]
    assert "TLS or upgrade" in str(rig.session.last_error)
    rig.tick(0.5)
    rig.made()
    rig.tick(20.0)
    assert isinstance(rig.session.last_error, ConnectTimeout)
    assert "hello" in str(rig.session.last_error)


def test_what_comes_from_a_connection_that_is_gone_is_dropped() -> None:
    """Frames, losses and upgrades of an old number change nothing."""
    rig = Rig.open(subscribe=["ticker"])
    rig.lose()
    rig.redial()
    rig.say(data(101), f.Bye(), conn=1)
    rig.lose(4403, conn=1)
    rig.session.connection_made(1, rig.now)
    rig.session.connection_made(2, rig.now)
    assert rig.session.state is SessionState.LIVE
    assert len(rig.all(f.Hello)) == 1


def test_an_ejected_endpoint_is_passed_over() -> None:
    """Enough failures in a row take an endpoint out for a while."""
    rig = Rig.new(urls=["ws://a", "ws://b"], failover=Failover(eject_after=1, ejection=60.0))
    rig.lose(NoEndpoint("refused"))
    rig.redial()
    rig.welcome()
    rig.lose(1012)
    rig.tick(30.0)
    assert [dial.url for dial in rig.dials][:2] == ["ws://a", "ws://b"]


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1008, 4401, 4403])
def test_a_refused_client_ends(code: int) -> None:
    """Close codes that say who we are is wrong: AccessDenied, with what the server said before."""
    rig = Rig.open()
    rig.say(f.Error(code="revoked", hint="ask your admin", fatal=True))
    rig.lose(code)
    assert isinstance(rig.session.error, AccessDenied)
    assert f"{code} (revoked ask your admin)" in str(rig.session.error)
    assert rig.told(e.ServerNoticed) == [e.ServerNoticed(code="revoked", hint="ask your admin")]


def test_a_refused_upgrade_ends() -> None:
    """401 and 403 at the upgrade are the error itself; without a notice the text stands alone."""
    denied = AccessDenied("401", status=401)
    rig = Rig.new()
    rig.lose(denied)
    assert rig.session.error is denied
    rig = Rig.open()
    rig.lose(4403)
    assert "close code 4403; " in str(rig.session.error)


def test_fatal_is_fatal_for_its_endpoint() -> None:
    """Other endpoints are tried first; when all have refused it is the end."""
    no = HandshakeRejected("404", status=404, retryable=False)
    rig = Rig.new(urls=["ws://a", "ws://b"])
    rig.lose(no)
    assert rig.session.state is SessionState.NEW
    rig.tick(1.0)
    rig.lose(no)
    assert rig.session.error is no


@pytest.mark.parametrize(("asked", "waited"), [(5.0, 5.0), (3600.0, 60.0), (0.0, 0.0), (None, 0.0)])
def test_H5_H6_a_server_that_asks_for_time_gets_it(asked: float | None, waited: float) -> None:
    """Its Retry-After passes, within bounds, and then the backoff's delay."""
    rig = Rig.new(urls=["ws://a"])
    rig.lose(HandshakeRejected("busy", status=503, retry_after=asked))
    assert rig.told(e.RetryScheduled)[-1].delay == waited + 0.5


def test_H5_H6_others_are_dialled_meanwhile() -> None:
    """Nobody waits for the one that is busy while another may be asked, and the busy one is not asked early."""
    rig = Rig.new(urls=["ws://a", "ws://b"])
    rig.lose(HandshakeRejected("busy", status=429, retry_after=20.0))
    for _ in range(4):
        rig.tick(8.0 if rig.now > 3.0 else 1.0)
        rig.lose(NoEndpoint("refused"))
    assert [dial.url for dial in rig.dials][:3] == ["ws://a", "ws://b", "ws://b"]
    both = Rig.new(urls=["ws://a", "ws://b"])
    for asked in (20.0, 10.0):
        both.lose(HandshakeRejected("busy", status=429, retry_after=asked))
        both.tick(0.5)
    assert both.told(e.RetryScheduled)[-1].delay == 10.5
    both.tick(10.5)
    assert [dial.url for dial in both.dials] == ["ws://a", "ws://b", "ws://b"]


def test_a_welcome_forgives_what_endpoints_refused() -> None:
    """What was fatal an hour ago may be mended."""
    no = HandshakeRejected("404", status=404, retryable=False)
    rig = Rig.new(urls=["ws://a", "ws://b"])
    rig.lose(no)
    rig.redial()
    rig.welcome()
    rig.lose()
    rig.tick(1.0)
    rig.lose(no)
    assert rig.session.state is SessionState.LIVE


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1010, 4400, 999, 5000])
def test_a_fatal_code_of_an_open_connection_ends(code: int) -> None:
    """The server says that we broke a rule: trying again cannot help."""
    rig = Rig.open(urls=["ws://a", "ws://b"])
    rig.lose(code)
    assert isinstance(rig.session.error, ConnectionLost)


# -- rules that the server broke --------------------------------------------------------------------------------------


def test_three_violations_in_a_row_are_fatal() -> None:
    """Each is closed with its code and tried again; the third one without progress in between ends."""
    rig = Rig.open(subscribe=["ticker"], urls=["ws://a", "ws://b", "ws://c", "ws://d"])
    for left in (2, 1, 0):
        rig.say(f.Reject(producer=5, stream="orders", seq=1, code="no"))
        assert rig.shuts[-1].code == 4400
        assert (rig.session.state is SessionState.ENDED) is (left == 0)
        if left:
            rig.redial()
            rig.welcome()
    assert isinstance(rig.session.error, RemoteProtocolError)


@pytest.mark.parametrize("progress", [data(101), f.Ack(committed=(f.SeqMark(0, "orders", 1),))])
def test_progress_forgives_violations(progress: Any) -> None:
    """A message taken, or an ack, starts the count anew."""
    rig = Rig.open(subscribe=["ticker"])
    rig.send("a")
    broken = RemoteProtocolError("what the decoder says", code=4400)
    for _ in range(2):
        rig.lose(broken)
        rig.redial()
        rig.welcome()
    rig.say(progress)
    rig.lose(broken)
    assert rig.session.state is SessionState.LIVE


def test_a_close_of_ours_counts_as_a_violation() -> None:
    """The transport closed for what the server sent (1002, 1009): a few times, then fatal."""
    rig = Rig.open()
    for code in (1002, 1009, 1007):
        assert rig.session.state is not SessionState.ENDED
        rig.lose(ConnectionLost("we closed", code=code, sent=(code, "")))
        if rig.session.state is SessionState.LIVE:
            rig.redial()
            rig.welcome()
    assert rig.session.state is SessionState.ENDED


def test_a_close_of_ours_that_blames_nobody_counts_nothing() -> None:
    """Going away is no violation."""
    rig = Rig.open()
    for _ in range(5):
        rig.lose(ConnectionLost("we left", code=1001, sent=(1001, "")))
        rig.redial()
        rig.welcome()
    assert rig.session.connected


def test_a_violation_ends_what_came_with_it() -> None:
    """Nothing behind it in the same read counts."""
    rig = Rig.open(subscribe=["ticker"])
    rig.say(*DUPLICATE, data(102))
    assert rig.take() == [("ticker", 101)]
    assert "came twice" in str(rig.session.last_error)


# -- 1009 -------------------------------------------------------------------------------------------------------------


def test_1009_fails_the_oldest_unconfirmed_message() -> None:
    """It may or may not be stored; the rest goes on, and its number is consumed by a tombstone."""
    rig = Rig.open()
    for x in "abc":
        rig.send(x)
    rig.lose(1009)
    assert [type(rig.outcome(seq)) for seq in (1, 2)] == [Undelivered, bool]
    rig.redial()
    rig.welcome()
    assert [(batch.first, batch.void) for batch in rig.all(f.Batch)] == [(1, "indefinite"), (2, None)]
    rig.say(f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    rig.lose(1009)
    assert type(rig.outcome(2)) is Undelivered
    assert rig.session.state is SessionState.LIVE


def test_1009_passes_what_has_failed_already() -> None:
    """A tombstone or a rejected message is not the one that was too big."""
    rig = Rig.open()
    for x in ("a", "x" * 20, "c", "d"):
        rig.send(x)
    rig.say(f.Reject(producer=0, stream="orders", seq=1, code="no"))
    rig.resume(max_message=10)
    rig.lose(1009)
    assert [type(rig.outcome(seq)) is Undelivered for seq in (1, 2, 3, 4)] == [False, False, True, False]


def test_1009_twice_without_progress_is_fatal() -> None:
    """It was not the oldest one, or the server is broken."""
    rig = Rig.open(outbox=Outbox())
    rig.send("a", stream="one")
    rig.send("b", stream="two")
    rig.lose(1009)
    rig.redial()
    rig.welcome()
    rig.lose(1009)
    assert rig.session.state is SessionState.ENDED


def test_1009_blames_what_was_written_on_its_connection() -> None:
    """A stream of which all has failed, or nothing was sent, is passed over."""
    rig = Rig.open(outbox=Outbox())
    for stream in ("one", "two"):
        rig.send("a", stream=stream)
    rig.say(f.Reject(producer=0, stream="one", seq=1, code="no"))
    rig.lose(1009)
    assert isinstance(rig.outcome(1, "one"), Rejected)
    assert isinstance(rig.outcome(1, "two"), Undelivered)


def test_1009_with_nothing_sent_is_retried_once() -> None:
    """Nothing can be blamed."""
    rig = Rig.open()
    rig.lose(1009)
    rig.send("a")
    rig.redial()
    assert rig.outcome(1) is False


def test_an_ejection_and_its_end_are_told() -> None:
    """Events name the endpoint without path and query; a pool of one is told as well, and still dialled."""
    rig = Rig.new(urls=["ws://a/feed?token=t"], failover=Failover(eject_after=2, ejection=5.0))
    rig.lose(NoEndpoint("refused"), conn=1)
    rig.tick(1.0)
    rig.lose(NoEndpoint("refused"), conn=2)
    assert rig.told(e.EndpointEjected) == [e.EndpointEjected(endpoint="ws://a", seconds=5.0)]
    assert rig.session.endpoints(rig.now + 4.9) == (("ws://a", "ejected"),)
    rig.tick(6.0)
    rig.made(3)
    rig.welcome(3)
    assert rig.told(e.EndpointRestored) == [e.EndpointRestored(endpoint="ws://a")]
    assert rig.session.stats(rig.now)["endpoints"] == (("ws://a", "good"),)
