"""What a node makes of the other nodes that it hears of: a window, URLs for clients, a list."""

from __future__ import annotations

from typing import Any

import pytest

from server_fixture.backplane import Announce, LivingNode
from server_fixture.neighbours import MAX_PEERS, MAX_SPREAD, Neighbours


def other(name: str, rate: int = 100, **said: Any) -> LivingNode:
    """Give another node."""
    return LivingNode(**{"name": name, "url": f"ws://{name}/", "sessions": 1, "accept_rate": rate, **said})


def node(*others: LivingNode, **said: Any) -> Neighbours:
    """Give node-2, which heard of these others at the instant 0."""
    made = Neighbours(**{"name": "node-2", "url": "ws://node-2/", "accept_rate": 50, "interval": 2.0, **said})
    made.heard(others, 0.0)
    return made


@pytest.mark.parametrize(
    ("others", "sessions", "spread"),
    [
        ((), 100, 0.0),
        ((other("a"),), 0, 0.0),
        ((other("a"),), 100, 1.0),
        ((other("a"), other("b", 300)), 100, 0.25),
        ((other("a"), other("b", 300, is_draining=True)), 100, 1.0),
        ((other("a", is_draining=True),), 100, 0.0),
        ((other("a", 1_000_000),), 1, 0.001),
        ((other("a", 3),), 1, 0.334),
        ((other("a", 1),), 1_000_000, MAX_SPREAD),
    ],
)
def test_window_is_the_sessions_by_what_the_others_take(
    others: tuple[LivingNode, ...], sessions: int, spread: float
) -> None:
    """Nodes that drain take nobody; 0 where nobody is known; whole milliseconds, rounded up, within a bound."""
    assert node(*others).spread(sessions, 0.0) == spread


def test_window_of_the_operator_counts() -> None:
    """Where it is set nothing is computed, a 0 too."""
    assert node(other("a"), spread=7.5).spread(100, 0.0) == 7.5
    assert node(other("a"), spread=0.0).spread(100, 0.0) == 0.0
    assert node(spread=7.5).spread(100, 99.0) == 7.5


def test_what_is_too_old_is_not_known() -> None:
    """Without news for as long as a node lives, the others are taken for dead, and it says so itself."""
    made = node(other("a"), advertises=True)
    assert (made.ttl, made.is_informed(5.9), made.spread(100, 5.9), made.peers(5.9)) == (6.0, True, 1.0, ("ws://a/",))
    assert (made.is_informed(6.0), made.spread(100, 6.0), made.peers(6.0)) == (False, 0.0, ())
    assert [found.name for found in made.living(1, False, 6.0)] == ["node-2"]
    assert not Neighbours(name="n", url="ws://n/").is_informed(0.0)


def test_peers_are_told_where_they_are_advertised() -> None:
    """Off by default: then clients hear only of the URLs that the operator named."""
    others = (other("a"), other("b", is_draining=True))
    assert node(*others).peers(0.0) == ()
    assert node(*others, peers=("ws://x/",)).peers(0.0) == ("ws://x/",)
    assert node(*others, peers=("ws://x/",), advertises=True).peers(0.0) == ("ws://x/", "ws://a/")


def test_peers_are_each_told_once_and_never_the_node_itself() -> None:
    """Nodes behind one balancer have one URL, the node's own too: it is nowhere else to go."""
    others = (other("a", url="ws://node-2/"), other("b", url="ws://x/"), other("c", url="ws://x/"))
    assert node(*others, peers=("ws://x/",), advertises=True).peers(0.0) == ("ws://x/",)


def test_peers_begin_with_the_node_behind() -> None:
    """Each node begins elsewhere, and no more are told than a welcome may name."""
    names = ["node-1", "node-3", "node-4"]
    assert node(*map(other, names), advertises=True).peers(0.0) == ("ws://node-3/", "ws://node-4/", "ws://node-1/")
    assert len(node(*(other(f"n{number}") for number in range(99)), advertises=True).peers(0.0)) == MAX_PEERS


def test_what_a_node_says_of_itself() -> None:
    """It lives for three announcements; its farewell ends that at once."""
    made = node()
    itself = LivingNode(name="node-2", url="ws://node-2/", sessions=4, accept_rate=50, is_draining=False)
    assert made.announcement(4, False) == Announce(node=itself, ttl=6.0)
    assert made.announcement(4, True).node.is_draining
    assert made.farewell().ttl == 0.0
    assert made.living(4, False, 0.0) == (itself,)
