"""SessionPair: both halves of a session on a fake link, first step by step, then at random (rules 2, 3, 5, 7 and 9)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from session_tools import ALL_ROLES, PRODUCER, session

from resilient_ws import events as e
from resilient_ws.config import Inbox, Outbox, Retry
from resilient_ws.exceptions import AccessDenied, Gap, OutboxFull, Rejected, RemoteProtocolError
from resilient_ws.session import Run, Session, SessionState
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.pair import SessionPair

HOUSE = ("ws://a", "ws://b")


def pair(**changes: Any) -> SessionPair:
    """Make a pair whose client follows ticker from its beginning, and connect."""
    mine = {name: changes.pop(name) for name in ("store", "authorize", "ttl", "principal") if name in changes}
    client = session(**{"urls": HOUSE, "subscribe": {"ticker": "earliest"}, **changes})
    made = SessionPair(client, rng=random.Random(1), **mine)
    client.connect(0.0)
    made.run()
    return made


def taken(two: SessionPair, limit: int = 1000) -> list[Any]:
    """Take payloads and markers."""
    found: list[Any] = []
    for item in two.client.take(limit, 0, two.now):
        found.extend(item.payloads if isinstance(item, Run) else [item])
    two.run()
    return found


def stored(two: SessionPair, stream: str = "orders") -> list[bytes]:
    """Return what the store holds of a stream."""
    return [entry.payload for entry in two.store.contents(stream)]


def send(client: Session, *payloads: str, stream: str = "orders") -> None:
    """Send at the pair's start."""
    for payload in payloads:
        client.send(stream, payload, 0.0)


def test_messages_go_both_ways() -> None:
    """What is published is taken, what is sent is stored and acked."""
    two = pair()
    assert two.publish("ticker", "one", b"two") == 2
    assert two.publish("nobody", "listens") == 1
    send(two.client, "a", "b")
    two.run()
    assert taken(two) == ["one", b"two"]
    assert stored(two) == [b"a", b"b"]
    assert two.client.is_flushed


def test_a_cut_loses_what_is_on_its_way_and_the_resume_makes_it_good() -> None:
    """Messages in flight in both directions go with the connection, and come again, once."""
    two = pair()
    (link,) = two.links.values()
    link.is_held = True
    send(two.client, "a", "b")
    two.publish("ticker", "one", "two")
    two.run()
    two.deliver(link.conn, down=False)
    assert taken(two) == []
    two.cut()
    two.advance(5.0)
    assert taken(two) == ["one", "two"]
    assert stored(two) == [b"a", b"b"]
    assert two.client.stats()["resumes"] == 1


def test_what_cannot_be_reached_is_dialled_again() -> None:
    """While the link is down dials fail; afterwards the client comes by itself."""
    two = pair()
    two.is_reachable = False
    two.cut()
    two.advance(30.0)
    assert not two.client.connected
    two.is_reachable = True
    two.advance(30.0)
    assert two.client.connected


def test_a_store_that_is_down_is_no_lost_session() -> None:
    """S25: 1013, and after it is back the same session goes on."""
    two = pair()
    before = two.client.session_id
    two.is_store_up = False
    send(two.client, "a")
    two.advance(20.0)
    assert any(isinstance(event, e.ConnectionEnded) and event.code == 1013 for event in two.events)
    two.is_store_up = True
    two.advance(30.0)
    assert (two.client.session_id, stored(two)) == (before, [b"a"])
    assert [event for event in two.events if isinstance(event, e.SessionReplaced)] == []


def test_both_sides_ping_and_keep_the_session_alive() -> None:
    """A session outlives its ttl many times while nothing is said."""
    two = pair(ttl=6.0)
    two.advance(120.0)
    assert two.client.stats()["connects"] == 1


def test_silence_is_noticed_by_both_sides() -> None:
    """K3: a link that holds everything back is given up, and replaced."""
    two = pair()
    (link,) = two.links.values()
    link.is_held = True
    two.advance(60.0)
    assert two.client.connected
    assert link.conn not in two.links


def test_the_node_decides_who_may_what() -> None:
    """Rule 14: a refused stream and a refused message, each by itself."""
    two = pair(authorize=lambda who, verb, stream: stream != "secret", subscribe={"ticker": "now", "secret": "now"})
    send(two.client, "a", stream="secret")
    send(two.client, "b")
    two.run()
    assert isinstance(two.client.subscription("secret"), Rejected)
    assert isinstance(two.client.outcome(PRODUCER, "secret", 1), Rejected)
    assert two.client.outcome(PRODUCER, "orders", 1) is True


def test_another_principal_may_not_resume() -> None:
    """4403, and the client ends with AccessDenied."""
    two = pair()
    two._principal = "somebody else"
    two.cut()
    two.advance(5.0)
    assert isinstance(two.client.error, AccessDenied)


@pytest.mark.parametrize("up", [True, False])
def test_garbage_on_the_link_is_a_broken_rule(up: bool) -> None:
    """The receiving side refuses it: the node says 4400, the client closes and resumes."""
    two = pair()
    (link,) = two.links.values()
    (link.up if up else link.down).append("{garbage")
    two.advance(5.0)
    assert link.conn not in two.links
    assert two.client.connected is not up
    if not up:
        assert isinstance(two.client.last_error, RemoteProtocolError)


def test_two_sessions_that_never_rest_are_told() -> None:
    """The driver gives up instead of hanging."""
    two = pair()
    (link,) = two.links.values()
    link.server.received = lambda items, now: link.up.append("orders:1:x")  # type: ignore[method-assign]
    link.up.append("orders:1:x")
    with pytest.raises(AssertionError, match="do not come to rest"):
        two.run()


def test_timers_that_never_rest_are_told() -> None:
    """A deadline that stays in the past would spin."""
    two = pair()
    two.client.next_deadline = lambda: -1.0  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="timers fire without end"):
        two.advance(1.0)


def test_delivering_where_nothing_waits_does_nothing() -> None:
    """Also on a connection that is gone, and a write to one."""
    two = pair()
    two.deliver(1)
    two.deliver(99)
    two.cut(99)
    two.client.subscribe("late", "now", two.now)
    two.cut()
    two.advance(5.0)
    assert two.client.connected


def test_tombstones_of_a_client_are_consumed() -> None:
    """Dropped while offline: their numbers are settled by the node, the others are stored."""
    two = pair(outbox=Outbox(max_messages=2, policy="drop_oldest"))
    two.is_reachable = False
    two.cut()
    send(two.client, *map(str, range(100)))
    two.is_reachable = True
    two.advance(20.0)
    assert stored(two) == [b"98", b"99"]
    assert two.client.is_flushed


def test_bye_ends_the_session_at_the_node() -> None:
    """The cluster forgets it; a plain close leaves it to its ttl."""
    two = pair()
    (link,) = two.links.values()
    link.is_held = True
    two.client.close(two.now, end=True)
    assert two.client.state is SessionState.ENDED
    two.run()
    assert two.links == {}


class Storm(RuleBasedStateMachine):
    """One client and its nodes under cuts, held links, lost stores, failovers and trimmed logs."""

    @initialize(roles=st.sampled_from([frozenset(), ALL_ROLES]), ack=st.sampled_from(["auto", "manual"]))
    def begin(self, roles: Any, ack: Any) -> None:
        """Connect."""
        rng = random.Random(5)
        self.client = session(
            urls=HOUSE,
            subscribe={"ticker": "earliest"},
            roles=roles,
            rng=rng,
            inbox=Inbox(max_messages=6, max_bytes=100, ack=ack),
            outbox=Outbox(max_messages=8, policy="raise"),
            retry=Retry(stable_after=5.0),
        )
        self.two = SessionPair(self.client, rng=rng, store=MemoryBackplane(rng, retention=8), poll_interval=1.0)
        self.sent: list[str] = []
        self.published = 0
        self.offset = 0
        self.client.connect(0.0)
        self.two.run()

    @rule(count=st.integers(1, 9))
    def send(self, count: int) -> None:
        """Send until the outbox is full."""
        for _ in range(count):
            try:
                _, seq = self.client.send("orders", str(len(self.sent) + 1), self.two.now)
            except OutboxFull:
                break
            self.sent.append(str(seq))
        self.two.run()

    @rule(count=st.integers(1, 12))
    def publish(self, count: int) -> None:
        """Publish; the log keeps eight."""
        payloads = [str(self.published + 1 + i) for i in range(count)]
        self.published += count
        assert self.two.publish("ticker", *payloads) == self.published
        self.two.run()

    @rule(limit=st.integers(1, 5), receiver=st.integers(0, 1))
    def take(self, limit: int, receiver: int) -> None:
        """Messages follow each other, or a gap with numbers stands between them (INV-S5)."""
        for item in self.client.take(limit, receiver, self.two.now):
            if isinstance(item, Gap):
                assert item.first == self.offset + 1 or item.reason == "rewritten"
                assert item.reason in ("trimmed", "epoch")
                self.offset = item.next - 1
            elif isinstance(item, Run):
                assert item.first == self.offset + 1
                assert item.payloads == [str(item.first + i) for i in range(len(item.payloads))]
                self.offset = item.first + len(item.payloads) - 1
                if receiver == 1:
                    self.client.ack("ticker", item.epoch, self.offset, 1, self.two.now)
        self.two.run()

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 45.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.two.advance(seconds)

    @rule(nth=st.integers(0, 2))
    def cut(self, nth: int) -> None:
        """Lose a connection with what is on its way."""
        for conn in sorted(self.two.links)[nth : nth + 1]:
            self.two.cut(conn)

    @rule(nth=st.integers(0, 2))
    def hold(self, nth: int) -> None:
        """Hold a link, or let it go."""
        for conn in sorted(self.two.links)[nth : nth + 1]:
            self.two.links[conn].is_held = not self.two.links[conn].is_held

    @rule(up=st.booleans(), down=st.booleans())
    def trickle(self, up: bool, down: bool) -> None:
        """Deliver one message of each held link."""
        for conn in list(self.two.links):
            self.two.deliver(conn, up=up, down=down)

    @rule(count=st.integers(1, 4), nth=st.integers(0, 4), out=st.booleans())
    def swallow(self, count: int, nth: int, out: bool) -> None:
        """A proxy loses one message in the middle of a connection, with others behind it."""
        for link in self.two.links.values():
            link.is_held = True
        for _ in range(count):
            self.publish(1)
            if out:
                self.send(1)
        for link in self.two.links.values():
            way = link.up if out else link.down
            if nth < len(way) and not isinstance(way[nth], Exception):
                del way[nth]
            link.is_held = False
        self.two.run()

    @rule()
    def drain_node(self) -> None:
        """Ask the client to leave."""
        for link in list(self.two.links.values())[:1]:
            link.server.drain(3.0, self.two.now, jitter=0.5)
        self.two.run()

    @rule(store=st.booleans(), seconds=st.sampled_from([0.0, 3.0, 40.0]))
    def outage(self, store: bool, seconds: float) -> None:
        """Take the store or the network away for a while."""
        self.two.is_reachable, self.two.is_store_up = store, not store
        if not store:
            self.two.cut()
        self.two.advance(seconds)
        self.two.is_reachable = self.two.is_store_up = True

    @rule()
    def failover(self) -> None:
        """New epochs: what was appended before is not given again."""
        self.two.store.new_incarnation()

    @invariant()
    def bounds_hold(self) -> None:
        """INV-S10, and the session is never over."""
        if hasattr(self, "client"):
            assert self.client.state is not SessionState.ENDED, self.client.error
            messages, size = self.client.stats()["inbox"]
            assert messages <= 6
            assert size <= 100
            assert self.client.outbox_size[0] <= 8
            assert not any(isinstance(event, e.SessionReplaced) for event in self.two.events)

    def teardown(self) -> None:
        """Heal; then everything sent is stored once, in order, and everything published was given or is in a gap."""
        if not hasattr(self, "client"):
            return
        for link in self.two.links.values():
            link.is_held = False
        for _ in range(40):
            self.two.advance(5.0)
            self.take(100, 1)
        assert self.client.is_flushed
        assert [self.client.outcome(PRODUCER, "orders", n + 1) for n in range(len(self.sent))] == [True] * len(
            self.sent
        )
        kept = [payload.decode() for payload in stored(self.two)]
        assert kept == self.sent[len(self.sent) - len(kept) :]
        assert self.offset == self.published


Storm.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStorm = pytest.mark.timeout(240)(Storm.TestCase)
