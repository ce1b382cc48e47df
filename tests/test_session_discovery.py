"""The session asks for endpoints: when, what the answers do to the pool, and what happens where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from session_tools import Rig, session

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Keepalive
from resilient_ws.exceptions import ConnectError, NoEndpoint
from resilient_ws.session import Discover, Role, SessionState

GONE = ConnectError("Failover(discover=) https://d: it answers with HTTP 500")


def rig(**changes: Any) -> Rig:
    """Make a session that asks, welcomed where it has a URL."""
    urls = changes.get("urls", ["ws://a"])
    return Rig.open(discovers=True, **changes) if urls else Rig.new(discovers=True, **changes)


def found(rig: Rig, *urls: str, ttl: float | None = 10.0) -> None:
    """Answer the question."""
    rig.session.endpoints_found((urls, ttl), rig.now)
    rig.pump()


def missing(rig: Rig) -> None:
    """Have no answer."""
    rig.session.endpoints_found(GONE, rig.now)
    rig.pump()


def endpoints(rig: Rig) -> list[str]:
    """Return the endpoints that there are."""
    return [url for url, _ in rig.session.endpoints(rig.now)]


def test_it_asks_when_it_connects_and_again_before_the_answer_is_old() -> None:
    """The ttl counts, with some of it to spare, and never two questions are out."""
    one = rig()
    assert one.asked == [Discover(10.0)]
    one.tick(5.0)
    assert len(one.asked) == 1
    found(one, "ws://a", "ws://b")
    assert endpoints(one) == ["ws://a", "ws://b"]
    assert one.told(e.EndpointsChanged) == [e.EndpointsChanged(source="discover", added=1, removed=0, endpoints=2)]
    one.tick(5.9)
    assert len(one.asked) == 1
    one.tick(2.2)
    assert len(one.asked) == 2
    found(one, "ws://b")
    assert endpoints(one) == ["ws://a", "ws://b"]
    assert len(one.told(e.EndpointsChanged)) == 1
    assert (one.session.stats()["discoveries"], one.session.stats()["discoveries_failed"]) == (2, 0)


@pytest.mark.parametrize(("ttl", "earliest", "latest"), [(1e-9, 0.59, 0.81), (1e9, 2100.0, 2900.0), (None, 35.0, 49.0)])
def test_what_an_answer_says_of_its_age_is_bounded(ttl: float | None, earliest: float, latest: float) -> None:
    """Neither a storm nor an answer for ever; a source that says nothing is asked every minute or so."""
    one = rig()
    found(one, "ws://b", ttl=ttl)
    due = one.session._core.discovery.due_at
    assert due is not None
    assert earliest <= due <= latest


def test_a_session_without_discovery_asks_nobody() -> None:
    """And what somebody answers all the same is dropped."""
    one = Rig.open()
    found(one, "ws://b")
    missing(one)
    one.tick(100.0)
    assert one.asked == []
    assert endpoints(one) == ["ws://a"]
    assert "discoveries" not in one.session.stats()


def test_the_last_good_answer_goes_on() -> None:
    """Failures are events; it is asked again after delays that grow, and the endpoints stay."""
    one = rig(keepalive=Keepalive(interval=1000.0))
    found(one, "ws://b", ttl=1.0)
    one.tick(1.0)
    gaps = []
    for _ in range(6):
        count = len(one.asked)
        missing(one)
        begun = one.now
        while len(one.asked) == count:
            one.tick(0.25)
        gaps.append(one.now - begun)
    assert gaps == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert endpoints(one) == ["ws://a", "ws://b"]
    assert one.told(e.DiscoveryFailed)[0] == e.DiscoveryFailed(error=str(GONE), endpoints=2)
    assert one.session.connected


def test_an_answer_that_never_comes_is_given_up() -> None:
    """After the time of an attempt it counts as failed; one that comes later is good as well."""
    one = rig()
    one.tick(9.9)
    assert one.told(e.DiscoveryFailed) == []
    one.tick(0.2)
    assert "in time" in one.told(e.DiscoveryFailed)[0].error
    found(one, "ws://b")
    assert endpoints(one) == ["ws://a", "ws://b"]
    missing(one)  # late, of a question that was given up
    assert len(one.told(e.DiscoveryFailed)) == 1


def test_the_connection_in_use_is_not_cut() -> None:
    """An endpoint that is named no more is not dialled again; who speaks to it goes on until the connection ends."""
    one = rig(urls=[])
    found(one, "ws://b")
    one.made()
    one.welcome()
    found(one, "ws://c")
    assert one.session.connected
    assert one.shuts == []
    one.send("still here")
    assert one.seqs() == [1]
    one.lose()
    one.tick(1.0)
    assert [dial.url for dial in one.dials] == ["ws://b", "ws://c"]
    assert one.told(e.EndpointsChanged)[-1].removed == 1


def test_without_a_url_it_waits_for_the_first_answer() -> None:
    """Nothing is dialled before, failures go on asking, and the answer dials at once."""
    one = rig(urls=[])
    assert one.dials == []
    assert "has named no endpoint yet" in one.session.waits_for
    missing(one)
    assert one.session.last_error is GONE
    one.tick(0.5)
    assert len(one.asked) == 2
    found(one, "ws://b")
    assert [dial.url for dial in one.dials] == ["ws://b"]
    found(one, "ws://b", "ws://c")
    assert len(one.dials) == 1


def test_before_it_is_started_nothing_is_dialled() -> None:
    """An answer does not open a session that nobody has started."""
    one = Rig(session(urls=[], discovers=True))
    found(one, "ws://b")
    assert one.dials == []


def test_when_all_endpoints_fail_it_asks_with_the_next_attempt() -> None:
    """Perhaps the cluster moved: no ttl is waited for, and a new endpoint is dialled without a delay."""
    one = rig(urls=["ws://a", "ws://b"])
    found(one, "ws://a", "ws://b", ttl=3600.0)
    one.tick(5.0)
    one.lose(NoEndpoint("refused"))
    assert len(one.asked) == 1
    one.tick(0.0)
    one.lose(NoEndpoint("refused"))
    one.tick(0.0)
    assert len(one.asked) == 1  # not at the loss: with all clients of a cluster it would be a herd
    one.tick(1.0)
    assert len(one.asked) == 2
    one.lose(NoEndpoint("refused"))
    found(one, "ws://c")
    one.tick(0.0)
    assert one.dials[-1].url == "ws://c"


def test_a_new_endpoint_is_tried_beside_one_that_hangs() -> None:
    """Nobody waits for the connect timeout of a dead one when discovery has just named another."""
    one = Rig.new(urls=["ws://a"], discovers=True, roles={Role.CANDIDATE})
    one.tick(1.0)
    assert len(one.dials) == 1
    found(one, "ws://b")
    one.tick(0.0)
    assert [dial.url for dial in one.dials] == ["ws://a", "ws://b"]
    alone = Rig.new(urls=["ws://a"], discovers=True)
    alone.tick(1.0)
    found(alone, "ws://b")
    alone.tick(0.0)
    assert len(alone.dials) == 1


def test_a_cluster_that_is_gone_is_no_storm_of_questions() -> None:
    """Every attempt fails and so does discovery: it asks at the backoff's pace, not at every failure."""
    one = Rig.new(urls=["ws://a"], discovers=True)
    while one.now < 60.0:
        if one.session._core.connections:
            one.lose(NoEndpoint("refused"))
        if one.session._core.discovery.out_until is not None:
            missing(one)
        one.tick(0.1)
    assert 4 <= len(one.asked) <= 9


def test_more_endpoints_mean_longer_rounds() -> None:
    """The backoff grows with each round over all of them, those that came later too."""
    one = rig()
    found(one, "ws://b", "ws://c")
    assert one.session._core.backoff._endpoints == 3


def test_an_ended_session_takes_no_answer() -> None:
    """It neither dials nor reports."""
    one = rig()
    one.session.close(one.now)
    one.pump()
    count = len(one.events)
    found(one, "ws://b")
    missing(one)
    assert one.session.state is SessionState.ENDED
    assert len(one.events) == count
    assert endpoints(one) == ["ws://a"]


# -- what servers name ------------------------------------------------------------------------------------------------


def believing(peers: Sequence[str], told_by: str) -> list[str]:
    """Believe whom the name says to be a friend."""
    assert told_by == "ws://a"
    return [peer for peer in peers if "friend" in peer]


def test_peers_of_a_welcome_are_dialled_where_they_are_believed() -> None:
    """Who is believed is another endpoint, who is not is an event."""
    one = Rig.open(vet=believing, welcomed={"peers": ("ws://friend", "ws://foe")})
    assert endpoints(one) == ["ws://a", "ws://friend"]
    assert one.told(e.EndpointsChanged) == [e.EndpointsChanged(source="server", added=1, removed=0, endpoints=2)]
    refused = one.told(e.EndpointsRefused)
    assert [(event.source, event.count) for event in refused] == [("server", 1)]
    one.lose()
    one.tick(0.0)
    assert one.dials[-1].url == "ws://friend"


def test_by_default_no_server_is_believed() -> None:
    """A server alone cannot lead a client anywhere."""
    one = Rig.open(welcomed={"peers": ("ws://b",)})
    assert endpoints(one) == ["ws://a"]


def test_peers_of_a_drain_notice_replace_those_of_the_welcome() -> None:
    """The newest word of the servers counts; one that names nobody says nothing."""
    one = Rig.open(vet=believing, welcomed={"peers": ("ws://friend-1",)})
    one.say(f.Drain(within=5.0, peers=("ws://friend-2",)))
    assert endpoints(one) == ["ws://a", "ws://friend-2"]
    one.say(f.Drain(within=5.0))
    assert endpoints(one) == ["ws://a", "ws://friend-2"]
