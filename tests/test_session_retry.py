"""The client session: the budget of attempts, what a close reason asks for, and tables of the user's own."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import tenacity
from session_tools import Rig

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Budget, Retry
from resilient_ws.exceptions import AccessDenied, ConnectionLost, HandshakeRejected, NoEndpoint
from resilient_ws.session import Role, SessionState
from resilient_ws.treatments import Treatment, treat_close

EAGER = tenacity.wait_fixed(0.001)


def flap(rig: Rig, until: float) -> list[float]:
    """Be a server that welcomes and closes at once; return when it was dialled."""
    dialled = [rig.now]
    while rig.now < until:
        rig.made()
        rig.welcome()
        rig.lose(1012)
        while len(rig.dials) == len(dialled) and rig.now < until:
            due = rig.session.next_deadline()
            assert due is not None
            rig.tick(due - rig.now)
        dialled += [rig.now] * (len(rig.dials) - len(dialled))
    return [at for at in dialled if at < until]


# -- the budget -------------------------------------------------------------------------------------------------------


def test_S12_a_flapping_server_gets_ten_connects_in_ten_seconds() -> None:
    """INV-S12: whatever the dice say, and with delays that would allow thousands."""
    for seed in range(20):
        assert len(flap(Rig.new(rng=random.Random(seed)), 10.0)) <= 10
    assert len(flap(Rig.new(retry=Retry(wait=EAGER)), 10.0)) == 9


def test_without_a_budget_it_gets_them_all() -> None:
    """The control of the test above."""
    assert len(flap(Rig.new(retry=Retry(wait=EAGER, budget=None)), 1.0)) > 100


def test_each_endpoint_has_a_budget_of_its_own() -> None:
    """A pool of two gets twice as many, and neither more than its share; then the next one due is waited for."""
    rig = Rig.new(urls=["ws://a", "ws://b"], retry=Retry(wait=EAGER, budget=Budget(burst=2, refill=5.0)))
    while rig.now < 4.0:
        rig.lose(NoEndpoint("refused"))
        rig.tick(0.01 if len(rig.dials) < 4 else 4.0)
    assert Counter(dial.url for dial in rig.dials) == {"ws://a": 2, "ws://b": 2}
    assert rig.session.endpoints(rig.now)[0][1] == "held off"
    assert rig.told(e.RetryScheduled)[-1].delay == pytest.approx(5.0, abs=0.1)
    rig.tick(1.2)
    assert len(rig.dials) == 5


def test_an_empty_budget_is_not_spent_on_hedges() -> None:
    """A hedge goes only where an attempt is left."""
    told = []
    for burst in (1, 2):
        budget = Budget(burst=burst, refill=60.0)
        rig = Rig.new(urls=["ws://a", "ws://b"], roles=frozenset({Role.CANDIDATE}), retry=Retry(budget=budget))
        rig.tick(0.25)
        for conn in (1, 2):
            rig.lose(NoEndpoint("refused"), conn=conn)
        rig.tick(0.6)
        told.append(len(rig.dials))
    assert told == [2, 3]


def test_a_foreign_takeover_waits_for_the_budget_too() -> None:
    """Every planned dial does, whatever plans it."""
    rig = Rig.open(urls=["ws://a"], retry=Retry(budget=Budget(burst=1, refill=50.0)))
    rig.lose(4409, "instance=" + "b" * 32)
    assert rig.told(e.RetryScheduled)[-1].delay == 51.0


# -- push-back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "waited"), [("x, retry_after=5", 5.0), ("retry_after=3600", 60.0), ("x", 0.0)])
def test_H5_a_close_reason_that_asks_for_time_gets_it(reason: str, waited: float) -> None:
    """As a Retry-After does: within bounds, and the backoff's or the spread's delay on top."""
    rig = Rig.open(urls=["ws://a"], welcomed={"spread": 0.5})
    rig.lose(1013, reason)
    assert rig.told(e.RetryScheduled)[-1].delay == waited + 0.5


def test_H5_others_are_dialled_while_one_pushes_back() -> None:
    """The first attempt after the loss goes to another endpoint at once."""
    rig = Rig.open(urls=["ws://a", "ws://b"])
    rig.lose(4429, "retry_after=30")
    rig.tick(0.0)
    assert [dial.url for dial in rig.dials] == ["ws://a", "ws://b"]
    assert rig.session.endpoints(rig.now)[0] == ("ws://a", "held off")


# -- tables -----------------------------------------------------------------------------------------------------------


def own(code: int, reason: str) -> Treatment:
    """Know two codes of an application, one with two meanings."""
    if code == 4901:
        return Treatment.END
    if code == 4902:
        return Treatment.FATAL if reason == "sold" else Treatment.RETRY
    return treat_close(code, reason)


def test_an_own_close_code_ends_the_session_without_an_error() -> None:
    """END: the feed is over, as after a `bye`."""
    rig = Rig.open(retry=Retry(on_close=own))
    rig.lose(4901)
    assert (rig.session.state, rig.session.error) == (SessionState.ENDED, None)


def test_an_own_table_reads_the_reason() -> None:
    """The same code is fatal or not by its reason; codes that it leaves alone are as they were."""
    for code, reason, ended in ((4902, "sold", True), (4902, "busy", False), (1002, "", True), (1012, "", False)):
        rig = Rig.open(retry=Retry(on_close=own))
        rig.lose(code, reason)
        assert (rig.session.state is SessionState.ENDED) == ended
        assert isinstance(rig.session.error, ConnectionLost) == ended


def test_an_own_table_of_statuses() -> None:
    """A 403 that is worth another attempt, a 404 that is not for who we are, and a 503 that is for ever."""
    table = {403: Treatment.RETRY, 404: Treatment.DENIED, 503: Treatment.FATAL}
    rig = Rig.new(retry=Retry(on_status=table.__getitem__))
    rig.lose(AccessDenied("403", status=403))
    assert rig.session.state is SessionState.NEW
    rig.redial()
    rig.lose(1012)
    rig.redial()
    refused = Rig.new(retry=Retry(on_status=table.__getitem__))
    refused.lose(HandshakeRejected("no such feed", status=404, retryable=False))
    assert isinstance(refused.session.error, AccessDenied)
    assert refused.session.error.status == 404
    gone = Rig.new(retry=Retry(on_status=table.__getitem__))
    gone.lose(HandshakeRejected("503", status=503))
    assert gone.session.state is SessionState.ENDED


def test_a_table_that_raises_is_told_and_nothing_is_lost() -> None:
    """The built-in table has the say, and the event names the setting."""
    rig = Rig.open(retry=Retry(on_close={}.__getitem__))  # type: ignore[arg-type]
    rig.lose(1012)
    assert rig.told(e.TableFailed) == [e.TableFailed(setting="on_close", what="it raised TypeError")]
    assert rig.redial().attempt == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"budget": 5}, "budget"),
        ({"on_close": {1000: Treatment.FATAL}}, "on_close={1000.*must be a function"),
        ({"on_status": None}, "on_status=None.*must be a function"),
    ],
)
def test_what_is_no_table_or_budget_is_refused(settings: dict[str, object], text: str) -> None:
    """At the start, with its name."""
    with pytest.raises((ValueError, TypeError), match=text):
        Retry(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"burst": 0}, {"burst": 1.5}, {"burst": True}, {"refill": 0.0}])
def test_a_budget_is_checked(settings: dict[str, object]) -> None:
    """A bucket without tokens would wait for ever."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        Budget(**settings)  # type: ignore[arg-type]


# -- the first attempt after a loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("urls", "progress", "delays"), [
    (["ws://a", "ws://b"], True, [0.0, 0.0, 0.0]),
    (["ws://a", "ws://b"], False, [0.0, 0.5, 1.0]),
    (["ws://a"], True, [0.0, 1.0, 2.0]),
])  # fmt: skip
def test_a_loss_of_what_worked_is_no_failure_of_the_others(
    urls: list[str], progress: bool, delays: list[float]
) -> None:
    """Where a connection had an ack and another endpoint is known, that is dialled at once, however soon it comes."""
    rig = Rig.open(urls=urls)
    for _ in range(3):
        if progress:
            seq = rig.send()
            rig.say(f.Ack(committed=(f.SeqMark(0, "orders", seq),)))
        rig.lose()
        rig.redial()
        rig.welcome()
    assert [event.delay for event in rig.told(e.RetryScheduled)] == delays
