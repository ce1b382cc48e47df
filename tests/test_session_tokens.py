"""The session's access tokens: fetched for dials, renewed in time, told to open connections, refused and asked anew."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity
from session_tools import Rig

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Budget, Failover, Keepalive, Retry
from resilient_ws.exceptions import AccessDenied, ConnectError, HandshakeRejected, NoEndpoint
from resilient_ws.session import FetchToken, Role, SessionState

GONE = ConnectError("access_token= failed with KeyError")
UNKNOWN = AccessDenied("401", status=401)
QUIET = Keepalive(interval=1000.0)


def give(rig: Rig, token: str, expires_in: float | None = None) -> None:
    """Answer the question."""
    rig.session.access_token((token, expires_in), rig.now)
    rig.pump()


def fail(rig: Rig) -> None:
    """Have no token."""
    rig.session.access_token(GONE, rig.now)
    rig.pump()


def opened(expires_in: float | None = 100.0, **changes: Any) -> Rig:
    """Make a session that was welcomed with the token ``t1``."""
    rig = Rig.new(fetches_token=True, **{"keepalive": QUIET, **changes})
    give(rig, "t1", expires_in)
    rig.made()
    rig.welcome()
    return rig


def fetches(rig: Rig) -> int:
    """Count the questions."""
    return len([asked for asked in rig.asked if isinstance(asked, FetchToken)])


def tokens(rig: Rig) -> list[str | None]:
    """Return the tokens of the dials."""
    return [dial.token for dial in rig.dials]


# -- before a dial ----------------------------------------------------------------------------------------------------


def test_nothing_is_dialled_without_a_token() -> None:
    """It is asked for first, and the dial takes it along; it is in no repr."""
    rig = Rig.new(fetches_token=True)
    assert (rig.asked, rig.dials) == ([FetchToken(10.0)], [])
    assert rig.session.waits_for == "access_token= has not answered yet"
    give(rig, "canary")
    assert tokens(rig) == ["canary"]
    assert "canary" not in repr(rig.dials) + repr(rig.session._core.credentials)


def test_a_token_without_a_time_is_asked_for_each_attempt() -> None:
    """Hedges of the same attempt share one."""
    rig = Rig.new(fetches_token=True, urls=["ws://a", "ws://b"], roles={Role.CANDIDATE})
    give(rig, "t1")
    rig.tick(0.3)
    assert tokens(rig) == ["t1", "t1"]
    rig.made()
    rig.welcome()
    rig.lose()
    rig.tick(0.0)
    assert fetches(rig) == 2
    give(rig, "t2")
    assert tokens(rig) == ["t1", "t1", "t2"]


def test_a_token_with_a_time_serves_until_then() -> None:
    """A loss in between asks nobody; when it is overdue, because the machine slept, it is asked for first."""
    rig = opened(expires_in=1000.0)
    rig.lose()
    rig.tick(0.0)
    assert (fetches(rig), tokens(rig)) == (1, ["t1", "t1"])
    rig.made()
    rig.welcome()
    rig.now += 5000.0
    rig.lose()
    rig.tick(0.0)
    assert (fetches(rig), len(rig.dials)) == (2, 2)
    rig.tick(1.0)
    assert len(rig.dials) == 2
    give(rig, "t2", 1000.0)
    assert (fetches(rig), tokens(rig)[-1]) == (2, "t2")


def test_K3_a_token_that_seems_to_be_over_is_used_where_there_is_no_other() -> None:
    """The server has the say, not our clock."""
    rig = opened(expires_in=10.0)
    rig.tick(8.0)
    fail(rig)
    rig.now += 1000.0
    rig.lose()
    rig.tick(0.0)
    fail(rig)
    assert tokens(rig) == ["t1", "t1"]


def test_a_hedge_may_wait_for_the_token_too() -> None:
    """Discovery names another endpoint while the first dial waits: both go out with the one token, and no third."""
    rig = Rig.new(fetches_token=True, discovers=True, roles={Role.CANDIDATE})
    fail(rig)
    rig.tick(0.5)
    rig.session.endpoints_found((["ws://b"], None), rig.now)
    rig.session.endpoints_found((["ws://b", "ws://c"], None), rig.now)
    rig.tick(0.0)
    assert rig.dials == []
    give(rig, "t1")
    assert [(dial.url, dial.token) for dial in rig.dials] == [("ws://a", "t1"), ("ws://b", "t1")]


def test_no_token_is_a_failed_attempt_of_nobody() -> None:
    """It is told, waited for with backoff, and no endpoint counts as failing for it."""
    rig = Rig.new(fetches_token=True, failover=Failover(eject_after=1))
    waits = []
    for _ in range(5):
        fail(rig)
        waits.append(rig.told(e.RetryScheduled)[-1].delay)
        rig.tick(waits[-1])
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert (fetches(rig), rig.dials) == (6, [])
    assert rig.session.last_error is GONE
    assert rig.told(e.AccessTokenFailed)[0] == e.AccessTokenFailed(error=str(GONE), is_kept=False)
    assert rig.session.endpoints(rig.now) == (("ws://a", "good"),)
    give(rig, "t1")
    rig.made()
    rig.welcome()
    assert rig.session.connected


def test_a_source_that_hangs_costs_an_attempt() -> None:
    """After the attempt's timeout it goes on; when the answer comes after all it is used."""
    rig = Rig.new(fetches_token=True, retry=Retry(connect_timeout=2.0))
    rig.tick(1.9)
    assert rig.told(e.AccessTokenFailed) == []
    rig.tick(0.2)
    assert "in time" in rig.told(e.AccessTokenFailed)[0].error
    rig.tick(1.0)
    assert fetches(rig) == 2  # the shell asks nobody twice at a time
    give(rig, "late")
    assert tokens(rig) == ["late"]
    fail(rig)  # of the second question, long after
    assert len(rig.told(e.AccessTokenFailed)) == 1


def test_a_late_token_between_two_attempts_is_for_the_next_one() -> None:
    """It dials nothing by itself."""
    rig = Rig.new(fetches_token=True, retry=Retry(connect_timeout=2.0))
    rig.tick(2.1)
    give(rig, "late", 60.0)
    assert rig.dials == []
    rig.tick(1.0)
    assert tokens(rig) == ["late"]


def test_retry_stop_counts_attempts_without_a_token() -> None:
    """Then the session ends, with the cause."""
    rig = Rig.new(fetches_token=True, retry=Retry(stop=tenacity.stop_after_attempt(2)))
    fail(rig)
    rig.tick(1.0)
    fail(rig)
    assert rig.session.state is SessionState.ENDED
    assert isinstance(rig.session.error, ConnectError)
    assert rig.session.error.__cause__ is GONE


def test_discovery_waits_for_the_first_token() -> None:
    """Where it is asked at the endpoints' own place it needs one; without one it is asked all the same."""
    rig = Rig.new(fetches_token=True, discovers=True, urls=[])
    assert [type(asked).__name__ for asked in rig.asked] == ["FetchToken"]
    give(rig, "t1", 60.0)
    assert rig.asked[1].token == "t1"
    assert "t1" not in repr(rig.asked)
    rig.session.endpoints_found((["ws://b"], None), rig.now)
    rig.pump()
    assert tokens(rig) == ["t1"]
    other = Rig.new(fetches_token=True, discovers=True)
    fail(other)
    assert [type(asked).__name__ for asked in other.asked] == ["FetchToken", "Discover"]


def test_a_spare_without_a_token_is_planned_anew() -> None:
    """The session goes on where it is; with a token that nobody refused the spare is dialled all the same."""
    rig = Rig.new(fetches_token=True, roles={Role.STANDBY}, keepalive=QUIET)
    give(rig, "t1")
    rig.made()
    rig.welcome()
    rig.tick(1.0)
    assert fetches(rig) == 2  # for the spare
    fail(rig)
    assert len(rig.dials) == 2
    rig.lose(UNKNOWN, conn=2)
    rig.tick(2.0)
    assert fetches(rig) == 3
    fail(rig)
    assert len(rig.dials) == 2
    rig.tick(4.0)
    assert fetches(rig) == 4
    give(rig, "t2")
    assert tokens(rig) == ["t1", "t1", "t2"]
    assert rig.session.connected


def test_a_spare_whose_primary_is_gone_is_not_dialled() -> None:
    """It waited for a token, and so does the next primary now: one dial, not two."""
    rig = Rig.new(fetches_token=True, roles={Role.STANDBY}, keepalive=QUIET)
    give(rig, "t1")
    rig.made()
    rig.welcome()
    rig.tick(1.0)
    rig.lose()
    rig.tick(0.0)
    give(rig, "t2")
    assert tokens(rig) == ["t1", "t2"]


def test_a_successor_without_a_token_is_tried_again() -> None:
    """The node leaves, and there is no usable token for another one: with a backoff of its own until it has left."""
    rig = opened(expires_in=None, roles={Role.SUCCESSOR}, urls=["ws://a", "ws://b"])
    rig.session._core.credentials.refuse(1)
    rig.say(f.Drain(within=10.0, jitter=0.0))
    rig.tick(0.0)
    assert fetches(rig) == 2
    fail(rig)
    assert rig.session.connected
    rig.tick(0.5)
    assert fetches(rig) == 3
    give(rig, "t2")
    assert tokens(rig) == ["t1", "t2"]
    assert rig.session.stats()["failures"] == 0


# -- on an open connection --------------------------------------------------------------------------------------------


def test_a_token_is_renewed_in_time_and_told_in_band() -> None:
    """Between 0.6 and 0.8 of its time; no connection is ended for it."""
    rig = opened(expires_in=100.0)
    rig.tick(59.0)
    assert fetches(rig) == 1
    rig.tick(2.0)
    assert fetches(rig) == 2
    give(rig, "t2", 100.0)
    assert rig.all(f.Auth) == [f.Auth(access_token="t2")]
    assert rig.told(e.AccessTokenRenewed) == [e.AccessTokenRenewed(conn=1)]
    assert (rig.shuts, len(rig.dials)) == ([], 1)
    rig.tick(61.0)
    give(rig, "t3", 100.0)
    assert [frame.access_token for frame in rig.all(f.Auth)] == ["t2", "t3"]
    assert rig.session.stats()["tokens"] == 3


def test_one_that_is_welcomed_with_an_older_token_is_told_the_new_one() -> None:
    """It was renewed while the hello was out: the node would close when the first one is over."""
    rig = Rig.new(fetches_token=True, keepalive=QUIET)
    give(rig, "t1", 5.0)
    rig.tick(4.5)
    give(rig, "t2", 1000.0)
    rig.made()
    assert rig.all(f.Auth) == []
    rig.welcome()
    assert [type(item).__name__ for item in rig.written[1]][:3] == ["Hello", "Ready", "Auth"]
    assert rig.all(f.Auth) == [f.Auth(access_token="t2")]


def test_a_spare_is_told_too() -> None:
    """A node checks the token of a standby as it does every other."""
    rig = Rig.new(fetches_token=True, roles={Role.STANDBY}, keepalive=QUIET)
    give(rig, "t1", 100.0)
    rig.made()
    rig.welcome()
    rig.tick(1.0)
    spare = rig.dials[-1].conn
    rig.made(spare)
    rig.say(f.Standing(node="n2"), conn=spare)
    rig.tick(81.0)
    give(rig, "t2", 100.0)
    assert rig.all(f.Auth, spare) == rig.all(f.Auth, 1) == [f.Auth(access_token="t2")]


def test_a_spare_that_stands_with_an_older_token_is_told_the_new_one() -> None:
    """It was renewed while the spare was on its way."""
    rig = Rig.new(fetches_token=True, roles={Role.STANDBY}, keepalive=QUIET)
    give(rig, "t1", 5.0)
    rig.made()
    rig.welcome()
    rig.tick(1.0)
    spare = rig.dials[-1].conn
    rig.tick(4.5)
    give(rig, "t2", 1000.0)
    rig.made(spare)
    rig.say(f.Standing(node="n2"), conn=spare)
    assert rig.all(f.Auth, spare) == [f.Auth(access_token="t2")]


def test_a_renewal_that_fails_is_tried_again() -> None:
    """The old token goes on, the session too; the tries are apart, however short the user's own waits are."""
    rig = opened(expires_in=10.0, retry=Retry(wait=tenacity.wait_none()))
    rig.tick(8.0)
    count = fetches(rig)
    for _ in range(4):
        fail(rig)
        rig.tick(0.4)
        assert fetches(rig) == count
        rig.tick(0.2)
        count += 1
        assert fetches(rig) == count
    assert {event.is_kept for event in rig.told(e.AccessTokenFailed)} == {True}
    give(rig, "t2", 10.0)
    assert rig.all(f.Auth) == [f.Auth(access_token="t2")]
    assert rig.session.stats()["tokens_failed"] == 4


def test_a_token_that_is_over_at_once_is_no_storm() -> None:
    """A source that gives tokens of no length is asked once in 0.6 s at most."""
    rig = opened(expires_in=1e-9)
    while rig.now < 10.0:
        rig.tick(0.05)
        if rig.session._core.credentials.out_until is not None:
            give(rig, "t", 1e-9)
    assert 11 <= fetches(rig) <= 18


def test_a_session_with_a_token_of_its_own_asks_nobody() -> None:
    """What is answered all the same is dropped."""
    rig = Rig.open()
    give(rig, "t1")
    fail(rig)
    assert (rig.asked, rig.all(f.Auth), rig.told(e.AccessTokenFailed)) == ([], [], [])
    assert "tokens" not in rig.session.stats()


def test_an_ended_session_takes_no_token() -> None:
    """It neither dials nor reports."""
    rig = opened()
    rig.session.close(rig.now)
    rig.pump()
    count = len(rig.events)
    give(rig, "t2")
    fail(rig)
    assert len(rig.events) == count


# -- refused ----------------------------------------------------------------------------------------------------------


def test_H1_a_refused_token_is_replaced_once() -> None:
    """401 at the first connect: one more token, one more attempt, then AccessDenied."""
    rig = Rig.new(fetches_token=True)
    give(rig, "t1", 100.0)
    rig.lose(UNKNOWN)
    assert rig.session.state is SessionState.NEW
    assert rig.told(e.RetryScheduled)[-1].delay == 0.5
    rig.tick(0.5)
    assert (fetches(rig), len(rig.dials)) == (2, 1)
    give(rig, "t2", 100.0)
    assert tokens(rig) == ["t1", "t2"]
    rig.lose(UNKNOWN)
    assert rig.session.error is UNKNOWN
    assert fetches(rig) == 2


def test_H1_other_failures_between_do_not_start_the_count_anew() -> None:
    """And a refusal of another hour does not count: a new series of attempts has one of its own."""
    rig = Rig.new(fetches_token=True, retry=Retry(stable_after=1.0))
    give(rig, "t1", 1000.0)
    rig.lose(UNKNOWN)
    rig.tick(1.0)
    give(rig, "t2", 1000.0)
    rig.lose(NoEndpoint("refused"))
    rig.tick(2.0)
    rig.lose(UNKNOWN)
    assert isinstance(rig.session.error, AccessDenied)


def test_C4_a_refusal_of_another_hour_does_not_count() -> None:
    """After a stable time the next one is the first again."""
    rig = opened(expires_in=1000.0, retry=Retry(stable_after=1.0))
    for number in (2, 3):
        rig.lose(1008)
        rig.tick(0.5)
        give(rig, f"t{number}", 1000.0)
        rig.made()
        rig.welcome()
        rig.say(f.Ack(committed=(f.SeqMark(0, "orders", rig.send()),)))
        rig.tick(2.0)
    assert rig.session.connected


def test_4401_renews_the_token_and_resumes() -> None:
    """Nothing is lost: what was not acked is sent again over the next connection."""
    rig = opened(expires_in=1000.0)
    rig.send("kept")
    rig.lose(4401)
    assert rig.session.state is SessionState.LIVE
    rig.tick(0.0)
    give(rig, "t2", 1000.0)
    assert tokens(rig) == ["t1", "t2"]
    rig.made()
    rig.welcome()
    assert rig.seqs() == [1]


def test_a_session_that_was_welcomed_goes_on_asking_with_backoff() -> None:
    """The source gives tokens that the servers refuse for a while: no loop without waiting, and no end."""
    rig = opened(expires_in=1000.0)
    rig.lose(4401)
    while rig.now < 100.0:
        rig.tick(0.1)
        if rig.session._core.credentials.out_until is not None:
            give(rig, "bad", 1000.0)
        if rig.session._core.connections and rig.session._core.primary is None:
            rig.lose(UNKNOWN)
    assert rig.session.state is SessionState.LIVE
    assert 6 <= len(rig.dials) <= 10
    assert 6 <= fetches(rig) <= 10
    waits = [event.delay for event in rig.told(e.RetryScheduled)]
    assert waits[-1] >= 30.0


def test_welcomed_and_thrown_out_each_time_is_no_loop() -> None:
    """A node that takes the token and closes 4401 at once gets what the budget and the backoff allow."""
    rig = opened(expires_in=1000.0, retry=Retry(wait=tenacity.wait_none(), budget=Budget(burst=3, refill=2.0)))
    while rig.now < 20.0:
        if rig.session.connected:
            rig.lose(4401)
        rig.tick(0.1)
        if rig.session._core.credentials.out_until is not None:
            give(rig, "t", 1000.0)
        if rig.session._core.connections and not rig.session.connected:
            rig.made()
            rig.welcome()
    assert len(rig.dials) <= 3 + 10 + 1
    assert fetches(rig) <= len(rig.dials) + 1


def test_C4_1008_fetches_the_token_once_then_it_is_fatal() -> None:
    """A policy that is broken again with a fresh token is not about the token."""
    rig = opened(expires_in=1000.0)
    rig.lose(1008)
    rig.tick(0.0)
    give(rig, "t2", 1000.0)
    rig.made()
    rig.welcome()
    rig.lose(1008)
    assert isinstance(rig.session.error, AccessDenied)
    assert fetches(rig) == 2


@pytest.mark.parametrize("error", [4403, AccessDenied("403", status=403), HandshakeRejected("403", status=403)])
def test_H2_who_is_forbidden_asks_for_no_token(error: Any) -> None:
    """Another token would be the same principal's."""
    rig = opened() if error == 4403 else Rig.new(fetches_token=True)
    if error != 4403:
        give(rig, "t1")
    count = fetches(rig)
    rig.lose(error)
    assert isinstance(rig.session.error, AccessDenied)
    assert fetches(rig) == count


def test_a_newer_token_that_is_here_needs_no_question() -> None:
    """The refused one was of a dial that began before the renewal."""
    rig = Rig.new(fetches_token=True, keepalive=QUIET)
    give(rig, "t1", 5.0)
    rig.tick(4.5)
    give(rig, "t2", 1000.0)
    rig.lose(UNKNOWN)
    rig.tick(0.5)
    assert (fetches(rig), tokens(rig)) == (2, ["t1", "t2"])


def test_a_refused_token_is_not_used_again_where_there_is_no_other() -> None:
    """The source fails after the refusal: attempts wait for it, nobody is dialled with what is known to be bad."""
    rig = opened(expires_in=1000.0)
    rig.lose(4401)
    rig.tick(0.0)
    for _ in range(3):
        fail(rig)
        rig.tick(10.0)
    assert len(rig.dials) == 1
    assert not rig.told(e.AccessTokenFailed)[-1].is_kept
    give(rig, "t2", 1000.0)
    assert tokens(rig) == ["t1", "t2"]


def test_a_renewal_that_nobody_waits_for_is_tried_again_after_a_refusal_too() -> None:
    """Another node refused the token, the primary's did not: the source is asked on, so that the primary may stay."""
    rig = opened(expires_in=10.0)
    rig.session._core.credentials.refuse(1)
    rig.tick(6.1)
    fail(rig)
    count = fetches(rig)
    rig.tick(1.0)
    assert fetches(rig) == count + 1
    give(rig, "t2", 10.0)
    assert rig.all(f.Auth) == [f.Auth(access_token="t2")]


def test_a_spare_that_is_refused_marks_the_token() -> None:
    """The session goes on, and the next dial asks first."""
    rig = Rig.new(fetches_token=True, roles={Role.STANDBY}, keepalive=QUIET)
    give(rig, "t1", 1000.0)
    rig.made()
    rig.welcome()
    rig.tick(1.0)
    rig.lose(UNKNOWN, conn=rig.dials[-1].conn)
    assert rig.session.connected
    rig.lose(conn=1)
    rig.tick(0.5)
    assert fetches(rig) == 2


def test_a_static_token_is_refused_once() -> None:
    """The control: without a source there is nothing to ask."""
    rig = Rig.open()
    rig.lose(4401)
    assert isinstance(rig.session.error, AccessDenied)
