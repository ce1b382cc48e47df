"""The storm bench: its simulation keeps its rules and is repeatable, ours dial as a session does, a real node dies."""

from __future__ import annotations

import math
import random
from typing import Any

import attrs
import pytest
import tenacity
from session_tools import Rig

from benchmarks import storm
from benchmarks.storm_model import Servers, Storm, peaks, simulate
from benchmarks.storm_policies import (
    FULL_JITTER,
    OTHERS,
    THREE_NODES,
    WEBSOCKETS,
    Documented,
    Session,
    advice,
    no_jitter,
    ours,
)
from benchmarks.storm_real import busiest, strike, until
from resilient_ws.config import Budget, Retry
from resilient_ws.exceptions import ConnectError
from server_fixture.neighbours import MAX_SPREAD

CLIENTS = 2_000
SMALL = Servers(capacity=40, backlog=82)
"""As small to 2,000 clients as the bench's own servers are to 100,000: ideal 50 s."""
NO_JITTER = Documented("no jitter", no_jitter, 10.0)


def small(policy: Any, **changes: Any) -> Storm:
    """Let 2,000 clients of a policy lose their node."""
    return simulate(policy, CLIENTS, **{"servers": SMALL, **changes})


@pytest.mark.parametrize(
    ("policy", "attempts", "peak", "last"),
    [
        (Session("patient", 50.0, Retry(max_spread=MAX_SPREAD)), 2_000, 66, 49.814),
        (Session("bounded", 50.0, Retry(max_spread=30.0)), 7_339, 313, 58.228),
        (Session("silent", 0.0), 12_272, 4_435, 54.324),
        (FULL_JITTER, 12_213, 3_655, 56.181),
        (WEBSOCKETS, 11_710, 2_365, 236.977),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_figures_of_a_small_storm(policy: Any, attempts: int, peak: int, last: float) -> None:
    """The same seed gives the same storm, figure for figure; another seed another one."""
    found = small(policy)
    assert (found.attempts, found.peak, round(found.time_to(0.99), 3)) == (attempts, peak, last)
    assert small(policy) == found
    assert small(policy, seed=2) != found


def test_advised_spread_meets_the_aims() -> None:
    """Where the whole advice is taken nobody is refused for long; without it the same clients come all at once."""
    many, silent = Servers(capacity=400, backlog=819), small(Session("silent", 0.0))
    window = advice(10 * CLIENTS, many)
    patient = simulate(Session("patient", window, Retry(max_spread=MAX_SPREAD)), 10 * CLIENTS, servers=many)
    assert patient.pressure < 1.5
    assert patient.each < 1.1
    assert patient.over_ideal(0.99) < 1.2
    assert silent.pressure > 40
    assert silent.each > 3


def test_without_jitter_everybody_comes_at_once() -> None:
    """The negative control: a policy that draws nothing has a peak of all clients; giving up brings nobody."""
    found = small(NO_JITTER)
    assert found.peak == CLIENTS
    first = small(Documented("once", lambda attempts, last, rng: 0.5 if attempts < 1 else None))
    assert first.gave_up == first.never == CLIENTS - len(first.back) > 0
    assert first.attempts == CLIENTS
    assert math.isinf(first.time_to(1.0))


@pytest.mark.parametrize("policy", [Session("silent", 0.0), *OTHERS], ids=lambda policy: policy.name)
def test_the_servers_keep_their_pace(policy: Any) -> None:
    """Nobody is taken in before the servers could, in order; every client is back, has given up, or was too slow."""
    found = small(policy, until=2_000.0)
    assert list(found.back) == sorted(found.back)
    for number, at in enumerate(found.back):
        assert at >= (number + 1) / SMALL.capacity
    assert found.attempts >= len(found.back) + found.wasted
    assert 0 <= found.gave_up <= found.never
    assert found.over_ideal(0.5) >= 1


def test_a_timeout_below_the_queue_never_connects() -> None:
    """The metastable case: work for those who have gone keeps the queue full; a timeout that grows ends it."""
    servers = Servers(capacity=40, backlog=400)
    short = Documented("short", lambda attempts, last, rng: rng.uniform(0.0, 2.0), 2.0)
    stuck = simulate(short, CLIENTS, servers=servers, until=300.0)
    assert stuck.wasted > 10 * len(stuck.back)
    assert stuck.never > CLIENTS / 2
    growing = Session("growing", 0.0, Retry(connect_timeout=2.0))
    assert simulate(growing, CLIENTS, servers=servers).never == 0


LOST_AT = 3_600.0


def by_a_session(urls: tuple[str, ...], spread: float, retry: Retry) -> list[float]:
    """Return when a whole session dials that loses its node and is refused, 0.25 s later each time."""
    dice = random.Random(5)
    rig = Rig.open(welcomed={"spread": spread}, urls=urls, retry=retry, rng=dice)
    assert rig.dials[-1].url == urls[0], "the seed is one whose shuffle begins with the first"
    dice.seed(6)  # what a session draws while it is well is not compared
    rig.now = LOST_AT
    rig.lose()
    found: list[float] = []
    for _ in range(12):
        due = rig.session.next_deadline()
        assert due is not None
        found.append(due)
        rig.tick(due - rig.now)
        rig.now = due + 0.25
        rig.lose(ConnectError("refused"))
    return found


def by_the_bench(urls: tuple[str, ...], spread: float, retry: Retry) -> list[float]:
    """Return the same of the bench's policy."""
    policy, dice = Session("ours", spread, retry, urls), random.Random(5)
    policy.ready(1, dice)
    dice.seed(6)
    found = [policy.lost(0, LOST_AT)]
    for _ in range(11):
        policy.dial(0, found[-1])
        found.append(policy.failed(0, found[-1] + 0.25))
    return found


@pytest.mark.parametrize(("urls", "spread"), [(("ws://a",), 7.0), (("ws://a",), 0.0), (("ws://a", "ws://b"), 7.0)])
def test_ours_dial_when_a_session_does(urls: tuple[str, ...], spread: float) -> None:
    """A session that is refused again and again dials at the very instants of the bench's; another one does not."""
    tight = Budget(burst=2, refill=5.0)
    found = by_a_session(urls, spread, Retry(budget=tight))
    assert by_the_bench(urls, spread, Retry(budget=tight)) == found
    assert by_the_bench(urls, spread, Retry()) != found
    assert by_the_bench(urls, spread, Retry(wait=tenacity.wait_fixed(0.4), budget=tight)) != found


def test_advice_is_the_nodes_own_sum() -> None:
    """What a node says that has so many sessions and one neighbour with that rate, its bound included."""
    assert advice(100_000, Servers()) == 50.0
    assert advice(10_000_000, Servers()) == MAX_SPREAD
    assert [policy.spread for policy in ours(100_000, Servers())] == [50.0, 50.0, 0.0, 50.0]


def test_a_dead_url_is_nobodys_work() -> None:
    """Attempts at the node that died are not the servers'."""
    few = simulate(Session("direct", 0.0, urls=THREE_NODES), 10, servers=SMALL)
    assert (few.attempts, few.never) == (10, 0)


class Low(random.Random):
    """Dice that always fall on the lower end."""

    def random(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("name", "delays"),
    [
        ("AWS", [0.0, 0.0]),
        ("websockets", [0.0, 0.0, 3.1, 5.0158, 8.1156]),
        ("websocket-client", [5.0, 5.0, 5.0]),
        ("partysocket", [3.0, 3.9, 5.07, 6.591, 8.5683, 10.0]),
        ("socket.io-client", [1.0, 2.0, 4.0, 5.0, 5.0]),
        ("python-socketio", [0.5, 1.5, 3.5, 4.5, 4.5]),
        ("azure-messaging-webpubsubclient", [0.0, *[1.0] * 30, 0.0, 0.8, 1.6, 3.2, None]),
        ("nats-py", [0.0, *[2.0] * 60, None]),
        ("@microsoft/signalr", [0.0, 2.0, 10.0, 30.0, None]),
        ("exponential", [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]),
    ],
)
def test_documented_delays(name: str, delays: list[float | None]) -> None:
    """Each policy of others waits as its docstring says, attempt by attempt."""
    policy = next(policy for policy in OTHERS if policy.name.split()[0] == name)
    found = [policy.delay(attempts, 0.0, Low()) for attempts in range(len(delays))]
    assert found == [None if delay is None else pytest.approx(delay, abs=1e-3) for delay in delays]


def test_peaks_are_of_any_second() -> None:
    """A second is any ten slices in a row, not one that begins with a full one."""
    assert peaks([0] * 8 + [5, 5, 5, 5] + [0] * 8) == (20, 5)
    assert peaks([1] * 30) == (10, 1)
    assert busiest([0.0, 0.09, 0.11, 0.18, 0.5], 0.1) == 3
    assert busiest([], 0.1) == 0


def test_nobody_at_a_real_storm_is_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where clients do not come back the bench says what it waited for."""
    monkeypatch.setattr("benchmarks.storm_real.PATIENCE", 0.0)
    with pytest.raises(RuntimeError, match="the next welcome took longer"):
        until(lambda: False, "the next welcome")


def test_who_gives_up_has_no_time() -> None:
    """A policy that never brings everybody back has rows for its peak and none for the end; the table says how many."""
    pair = (("session", FULL_JITTER), ("gone", NO_JITTER))
    found = [small(attrs.evolve(policy, name=name)) for name, policy in pair]
    found[1] = attrs.evolve(found[1], back=found[1].back[:100])
    rows = storm.rows_of("small", storm.figures(found))
    assert {row.case for row in rows if row.peer == "gone"} == {"small: attempts", "small: most attempts in a second"}
    assert {row.case for row in rows if row.peer == storm.IDEAL} == {row.case for row in rows}
    assert storm.line(found[1]).split()[-1] == "1,900"


@pytest.mark.cluster
def test_a_real_storm() -> None:
    """Those whose node was killed, and nobody else, dial again and are welcomed; the balancer has seen it."""
    found = strike(9, 0.0, settle=0.0)
    assert 0 < len(found.back) <= found.attempts
    assert len(found.back) < 9
    assert 0 < found.back[0] <= found.time_to(0.5) <= found.time_to(1.0) == found.back[-1]
    assert 0 < found.peak <= found.attempts
    assert found.each >= 1
