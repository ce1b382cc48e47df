"""The pool of endpoints: order, ejection, which one to dial next."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient_ws.config import Budget, Failover
from resilient_ws.endpoints import MOST_FORMER, EndpointPool, Rng, shown

A, B, C = "wss://a.example", "wss://b.example", "wss://c.example"


class Unshuffled:
    """A dice that leaves the order as it is, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def shuffle(self, x: object, /) -> None:
        self.asked += 1


def pool_of(*urls: str, eject_after: int = 3, ejection: float = 5.0, max_ejection: float = 60.0) -> EndpointPool:
    """Make a pool that keeps the order given."""
    failover = Failover(eject_after=eject_after, ejection=ejection, max_ejection=max_ejection)
    return EndpointPool(urls, failover, Unshuffled())


# -- order ------------------------------------------------------------------------------------------------------------


def test_a_pool_may_wait_for_its_endpoints() -> None:
    """An empty pool has nothing to rest for and nobody to hedge with, and counts as failing."""
    pool = EndpointPool([], Failover(), random.Random(0))
    assert (pool.urls, pool.rest(0.0), pool.is_failing, pool.has_spare(0.0, ())) == ((), 0.0, True, False)


# -- sources ----------------------------------------------------------------------------------------------------------


def test_a_source_replaces_what_it_named_before() -> None:
    """What was given stays, what another source names comes and goes."""
    pool = pool_of(A)
    assert pool.take("discover", [A, B]) == ({B}, set())
    assert pool.take("server", [B, C]) == ({C}, set())
    assert pool.take("discover", [C]) == (set(), set())
    assert pool.take("server", []) == (set(), {B})
    assert pool.urls == (A, C)


def test_those_that_stay_keep_their_health() -> None:
    """An ejected endpoint is not good again because discovery named it once more; a new one is."""
    pool = pool_of(A, B, eject_after=1)
    pool.failed(A, 1.0)
    pool.hold(B, 50.0)
    pool.take("discover", [C, B, A])
    assert [pool.state(url, 2.0) for url in (A, B, C)] == ["ejected", "held off", "good"]
    assert not pool.is_failing


def test_one_that_is_gone_is_told_of_in_vain() -> None:
    """A connection to it may still live: its fate neither raises nor brings it back."""
    pool = EndpointPool([A], Failover(eject_after=1), Unshuffled(), Budget())
    pool.take("discover", [B])
    pool.take("discover", [C])
    pool.failed(B, 1.0)
    pool.succeeded(B, 1.0)
    pool.hold(B, 9.0)
    pool.unpin(B)
    pool.dialled(B, 1.0)
    assert pool.urls == (A, C)
    assert pool.has_other(B, 1.0)
    pool.take("discover", [])
    pool.failed("wss://never.example", 1.0)
    assert pool.urls == (A,)


def test_none_is_forgiven_by_oblivion() -> None:
    """One that comes and goes in what is named stays ejected, and its budget spent; of very many some are forgotten."""
    pool = EndpointPool([A], Failover(eject_after=1, ejection=50.0), Unshuffled(), Budget(burst=1, refill=100.0))
    pool.take("discover", [B, C])
    pool.failed(B, 1.0)
    pool.dialled(C, 1.0)
    pool.take("discover", [])
    pool.take("discover", [B, C])
    assert [pool.state(url, 2.0) for url in (B, C)] == ["ejected", "held off"]
    pool.take("discover", [f"wss://n{number}.example" for number in range(MOST_FORMER)])
    pool.take("discover", [])
    pool.take("discover", [B, C])
    assert [pool.state(url, 2.0) for url in (B, C)] == ["good", "good"]


def test_new_endpoints_are_shuffled_in() -> None:
    """Clients that hear of a new node at the same time do not all put it at the same place; without news none moves."""
    places = Counter()
    for seed in range(100):
        pool = EndpointPool([A, B], Failover(), random.Random(seed))
        pool.take("discover", [C])
        before = pool.urls
        pool.take("discover", [C])
        assert pool.urls == before
        places[before.index(C)] += 1
    assert min(places[place] for place in range(3)) > 15


def test_repeated_endpoints_count_once() -> None:
    """A URL that is given twice is one endpoint."""
    assert pool_of(A, B, A).urls == (A, B)


def test_order_is_shuffled_once_per_client() -> None:
    """Dice are thrown when the pool is made, never again."""
    dice = Unshuffled()
    pool = EndpointPool([A, B, C], Failover(), dice)
    for now in range(10):
        pool.failed(pool.next(now), now)
    assert dice.asked == 1


def test_clients_do_not_walk_in_step() -> None:
    """Many clients with the same list begin at different endpoints (fault Z3), the same seed at the same one."""
    urls = [A, B, C]
    firsts = Counter(EndpointPool(urls, Failover(), random.Random(seed)).next(0.0) for seed in range(300))
    assert set(firsts) == {A, B, C}
    assert min(firsts.values()) > 60
    assert urls == [A, B, C]
    first, second = (EndpointPool(urls, Failover(), random.Random(7)) for _ in range(2))
    assert first.urls == second.urls


def orders(dice: Callable[[int], Rng]) -> list[tuple[str, ...]]:
    """Give the order in which each of 300 Clients with the same list dials while everything fails."""
    found = []
    for seed in range(300):
        pool = EndpointPool([A, B, C], Failover(), dice(seed))
        order: list[str] = []
        for now in range(3):
            order.append(pool.next(now))
            pool.failed(order[-1], now)
        found.append(tuple(order))
    return found


def are_spread(found: list[tuple[str, ...]]) -> bool:
    """Say whether each endpoint comes first in about a third, and behind it each of the others in about half."""
    heads, pairs = Counter(order[0] for order in found), Counter(order[:2] for order in found)
    return (
        len(heads) == 3
        and all(70 < count < 130 for count in heads.values())
        and len(pairs) == 6
        and all(0.3 < count / heads[head] < 0.7 for (head, _), count in pairs.items())
    )


def test_Z3_the_order_behind_the_first_varies_too() -> None:
    """Clients whose first endpoint is gone do not all go to the same second one, and each tries all three."""
    found = orders(random.Random)
    assert are_spread(found)
    assert {frozenset(order) for order in found} == {frozenset((A, B, C))}


class Turning(random.Random):
    """Dice that choose the first and keep the others in step: A B C, B C A, C A B."""

    def shuffle(self, x: list[str]) -> None:  # type: ignore[override]
        at = self.randrange(len(x))
        x[:] = x[at:] + x[:at]


@pytest.mark.parametrize("dice", [lambda _: Unshuffled(), Turning], ids=["never", "first_only"])
def test_Z3_control_dice_that_do_not_shuffle_are_seen(dice: Callable[[int], Rng]) -> None:
    """Dice that never shuffle, or choose no more than the first, are not taken for a spread."""
    assert not are_spread(orders(dice))


def test_least_recently_failed_is_next() -> None:
    """Endpoints that never failed come first, in their order, then the one whose failure is longest ago."""
    pool = pool_of(A, B, C)
    chosen = []
    for now in range(5):
        chosen.append(pool.next(now))
        pool.failed(chosen[-1], now)
    assert chosen == [A, B, C, A, B]


def test_next_by_itself_changes_nothing() -> None:
    """Asking twice gives the same endpoint."""
    pool = pool_of(A, B)
    assert [pool.next(0.0), pool.next(0.0)] == [A, A]


def test_success_keeps_the_place_in_the_order() -> None:
    """An endpoint that works again is not thereby preferred to one that never failed."""
    pool = pool_of(A, B)
    pool.failed(A, 1.0)
    pool.succeeded(A, 2.0)
    assert pool.next(3.0) == B


def test_avoided_is_passed_over_where_there_is_another() -> None:
    """An endpoint that is being dialled already is not dialled a second time while there is another."""
    pool = pool_of(A, B, C)
    assert pool.next(0.0, avoid={A}) == B
    assert pool.next(0.0, avoid=[A, B]) == C
    assert pool.next(0.0, avoid=(A, B, C)) == A
    pool.failed(B, 0.0)
    assert pool.next(1.0, avoid={A, C}) == B


def test_pool_of_one_has_always_its_one() -> None:
    """A single endpoint is dialled whatever happens to it, and is never ejected."""
    pool = pool_of(A, eject_after=1)
    for now in range(9):
        pool.failed(A, now)
        assert pool.next(now, avoid={A}) == A
        assert pool.ejected(now) == frozenset()
    assert not pool.has_other(A, 9.0)


# -- ejection ---------------------------------------------------------------------------------------------------------


def test_consecutive_failures_eject() -> None:
    """The third failure in a row puts an endpoint out, for five seconds."""
    pool = pool_of(A, B)
    for now in (0.0, 1.0):
        pool.failed(A, now)
        assert pool.ejected(now) == frozenset()
    pool.failed(A, 2.0)
    assert [pool.ejected(now) for now in (2.0, 6.9, 7.0)] == [{A}, {A}, frozenset()]


def test_success_between_failures_does_not_eject() -> None:
    """Failures that are not in a row do not add up."""
    pool = pool_of(A, B)
    for now in range(10):
        pool.failed(A, now)
        pool.failed(A, now)
        pool.succeeded(A, now)
    assert pool.ejected(9.0) == frozenset()


def test_ejected_is_last_even_behind_an_avoided_one() -> None:
    """A dead endpoint is not dialled to get out of the way of a live one."""
    pool = pool_of(A, B, eject_after=1)
    pool.failed(A, 0.0)
    pool.failed(B, 1.0)
    pool.succeeded(B, 2.0)
    assert pool.next(3.0) == B
    assert pool.next(3.0, avoid={B}) == B
    assert pool.next(5.0) == A


def test_back_from_ejection_gets_one_probe() -> None:
    """After its time one failure, not three, puts the endpoint out again, for twice as long (fault Z6)."""
    pool = pool_of(A, B)
    for _ in range(3):
        pool.failed(A, 0.0)
    assert pool.ejected(5.0) == frozenset()
    pool.failed(A, 5.0)
    assert [pool.ejected(now) for now in (5.0, 14.9, 15.0)] == [{A}, {A}, frozenset()]


def ejections(pool: EndpointPool, url: str, count: int) -> list[float]:
    """Fail an endpoint the moment it is back, again and again; give how long each ejection lasted."""
    now, lasted = 0.0, []
    for _ in range(count):
        pool.failed(url, now)
        end = now
        while url in pool.ejected(end):
            end += 0.5
        lasted.append(end - now)
        now = end
    return lasted


def test_ejection_doubles_to_its_bound() -> None:
    """Each ejection is twice as long as the last, up to the bound."""
    assert ejections(pool_of(A, B, eject_after=1), A, 6) == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_first_ejection_is_never_shorter_than_asked() -> None:
    """A bound below the first ejection does not shorten it."""
    assert ejections(pool_of(A, B, eject_after=1, ejection=8.0, max_ejection=2.0), A, 2) == [8.0, 8.0]


def test_ejection_does_not_overflow() -> None:
    """After thousands of ejections the time is still the bound."""
    pool = pool_of(A, B, eject_after=1)
    for now in range(0, 2_000 * 60, 60):
        pool.failed(A, float(now))
    assert [A in pool.ejected(now) for now in (119_999.0, 119_999.5, 120_000.0)] == [True, True, False]


def test_success_makes_the_next_ejection_short_again() -> None:
    """An endpoint that worked begins anew, with all its chances and the first ejection."""
    pool = pool_of(A, B, eject_after=2)
    assert ejections(pool, A, 4) == [0.0, 5.0, 10.0, 20.0]
    pool.failed(A, 100.0)
    assert pool.ejected(100.0) == {A}
    pool.succeeded(A, 101.0)
    assert pool.ejected(101.0) == frozenset()
    pool.failed(A, 102.0)
    assert pool.ejected(102.0) == frozenset()
    pool.failed(A, 103.0)
    assert [pool.ejected(now) for now in (103.0, 107.9, 108.0)] == [{A}, {A}, frozenset()]


def test_whole_pool_is_never_out() -> None:
    """When every endpoint would be out none is, and they are tried in turn, so that the first to return is found."""
    pool = pool_of(A, B, C, eject_after=1, ejection=100.0, max_ejection=100.0)
    pool.failed(A, 0.0)
    pool.failed(B, 1.0)
    assert pool.ejected(1.0) == {A, B}
    pool.failed(C, 2.0)
    assert pool.ejected(2.0) == frozenset()
    chosen = []
    for now in (3.0, 4.0, 5.0, 6.0):
        chosen.append(pool.next(now))
        pool.failed(chosen[-1], now)
    assert chosen == [A, B, C, A]
    pool.succeeded(B, 7.0)
    assert pool.ejected(7.0) == {A, C}
    assert pool.next(7.0) == B


def test_failure_while_out_does_not_prolong() -> None:
    """An endpoint that is tried because all are out comes back no later for it."""
    pool = pool_of(A, B, eject_after=1)
    pool.failed(A, 0.0)
    pool.failed(A, 3.0)
    assert [pool.ejected(now) for now in (4.9, 5.0)] == [{A}, frozenset()]


def test_has_other() -> None:
    """Another endpoint counts while it is not ejected."""
    pool = pool_of(A, B, eject_after=1)
    assert pool.has_other(A, 0.0)
    pool.failed(B, 0.0)
    assert not pool.has_other(A, 1.0)
    assert pool.has_other(B, 1.0)
    assert pool.has_other(A, 5.0)


# -- anything at all --------------------------------------------------------------------------------------------------


class AnyPool(RuleBasedStateMachine):
    """Any pool under any failures, successes and passing of time."""

    @initialize(count=st.integers(1, 4), seed=st.integers(), eject_after=st.integers(1, 3))
    def make(self, count: int, seed: int, eject_after: int) -> None:
        self.given = [f"wss://{n}.example" for n in range(count)]
        self.failover = Failover(eject_after=eject_after)
        self.pool = EndpointPool(self.given, self.failover, random.Random(seed))
        self.now = 0.0
        self.in_a_row = dict.fromkeys(self.given, 0)

    @rule(seconds=st.floats(0.0, 100.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        url = data.draw(st.sampled_from(self.given))
        self.pool.failed(url, self.now)
        self.in_a_row[url] += 1

    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        url = data.draw(st.sampled_from(self.given))
        self.pool.succeeded(url, self.now)
        self.in_a_row[url] = 0

    @invariant()
    def someone_is_always_there(self) -> None:
        assert sorted(self.pool.urls) == self.given
        ejected = self.pool.ejected(self.now)
        assert len(ejected) < len(self.given)
        assert self.pool.next(self.now) not in ejected

    @invariant()
    def only_who_failed_in_a_row_is_out_and_not_for_long(self) -> None:
        for url in self.pool.ejected(self.now):
            assert self.in_a_row[url] >= self.failover.eject_after
        assert self.pool.ejected(self.now + self.failover.max_ejection) == frozenset()

    @invariant()
    def avoided_only_when_all_that_are_in_are_avoided(self) -> None:
        for url in self.given:
            other = self.pool.next(self.now, avoid={url})
            assert (other != url) == self.pool.has_other(url, self.now)


TestAnyPool = AnyPool.TestCase
TestAnyPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(seed=st.integers(), rounds=st.integers(1, 30))
def test_a_live_endpoint_is_found_soon(seed: int, rounds: int) -> None:
    """However many rounds all were dead: once one lives, it is dialled before the others could all be ejected anew."""
    pool = EndpointPool([A, B, C], Failover(), random.Random(seed))
    now = 0.0
    for _ in range(rounds * 3):
        pool.failed(pool.next(now), now)
        now += 0.1
    tried = []
    while pool.next(now) != B:
        tried.append(pool.next(now))
        pool.failed(tried[-1], now)
        now += 0.1
    assert len(tried) <= 2 * Failover().eject_after


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://h:1/path?key=secret", "wss://h:1"),
        ("wss://h?key=secret", "wss://h"),
        ("ws://[::1]:80/#a", "ws://[::1]:80"),
    ],
)
def test_what_is_shown_of_an_endpoint(url: str, expected: str) -> None:
    """Path and query may hold secrets and are left out."""
    assert shown(url) == expected


# -- what is told -----------------------------------------------------------------------------------------------------


def test_an_endpoint_says_how_it_stands() -> None:
    """Good, failing, ejected for the seconds that failed() tells, on probation with one failure left, good again."""
    pool = pool_of(A, B, eject_after=2, ejection=5.0)
    assert pool.state(A, 0.0) == "good"
    assert pool.failed(A, 0.0) is None
    assert pool.state(A, 0.0) == "failing"
    assert pool.failed(A, 1.0) == 5.0
    assert pool.failed(A, 2.0) is None
    assert (pool.state(A, 5.9), pool.state(A, 6.0)) == ("ejected", "on probation")
    assert pool.failed(A, 7.0) == 10.0
    assert pool.succeeded(A, 8.0) is True
    assert pool.state(A, 8.0) == "good"
    assert pool.succeeded(A, 9.0) is False


def test_an_endpoint_that_asked_for_time_says_so() -> None:
    """Whatever else is known of it: nobody dials it before then."""
    pool = pool_of(A, B, eject_after=1, ejection=5.0)
    pool.failed(A, 0.0)
    pool.hold(A, 3.0)
    assert [pool.state(A, at) for at in (2.9, 3.0, 5.0)] == ["held off", "ejected", "on probation"]
    assert pool.state(B, 2.9) == "good"


def test_a_spare_is_neither_ejected_nor_busy() -> None:
    """What a hedge may go to; of a pool that is out as a whole nobody is ejected."""
    pool = pool_of(A, B, eject_after=1)
    assert pool.has_spare(0.0, {A})
    assert not pool.has_spare(0.0, {A, B})
    pool.failed(B, 0.0)
    assert not pool.has_spare(0.0, {A})
    pool.failed(A, 0.0)
    assert pool.has_spare(0.0, {A})
