"""
A hello on the node: the session's step, one step for each named stream, then the welcome (rule 3).

Here lives the order of the steps and the welcome. A refusal of the backplane ends the connection by the table of
``actions.py``; nothing is ever repeated here. Rule numbers are those of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from resilient_ws.frames import (
    PRIVATE,
    AckedMark,
    CommittedAnswer,
    Error,
    Hello,
    HelloOutbound,
    HelloStream,
    KeepaliveAdvice,
    StreamAnswer,
    Subscribe,
    Subscribed,
    Welcome,
)
from server_fixture.actions import FORBIDDEN, Outlet
from server_fixture.appending import Appending
from server_fixture.backplane import EnterSession, EnterStream, Fence, ProducerState, SessionEntered, StreamEntered
from server_fixture.reading import Reader, Reading, full_name, held_of, is_reserved
from server_fixture.token import Claim, mint, verify

if TYPE_CHECKING:
    import random

FEATURES = ("batch", "void")
"""What the data frames of version 1 may carry beyond the least."""

MOST_TOLD = 4096
"""Most tombstones in one welcome: more would make it longer than a client reads."""

Authorize = Callable[[str, str, str], bool]
"""(principal, verb, stream) -> allowed; the verb is ``subscribe`` or ``publish``."""


@attrs.frozen(kw_only=True)
class NodeSettings:
    """
    What a node is, and the limits that it sets.

    Attributes:
        node: Its name, told in the welcome.
        key: Secret under which resume tokens are made.
        old_keys: Secrets whose tokens are still good, while keys are rotated.
        ttl: Seconds that a session outlives its last refresh.
        hello_timeout: Seconds from the connection to its hello, and from the hello to the welcome.
        keepalive_interval: Silence in seconds after which a ping goes out.
        keepalive_timeout: Further silence after which the client is given up.
        poll_interval: Seconds between two looks at subscriptions that nothing woke.
        max_message: Largest message in bytes that is stored.
        max_streams: Most subscriptions of a connection; most (producer, stream) pairs too.
        producer_ttl: Seconds for which the backplane remembers a producer at least.
        peers: URLs of other nodes, as they are advised now.
        spread: Window in seconds for the first attempts after a loss, as it is advised now.
    """

    node: str
    key: bytes = attrs.field(repr=lambda value: "***")
    old_keys: tuple[bytes, ...] = attrs.field(default=(), repr=lambda value: "***")
    ttl: float = 60.0
    hello_timeout: float = 10.0
    keepalive_interval: float = 1.0
    keepalive_timeout: float = 5.0
    poll_interval: float = 5.0
    max_message: int = 1 << 20
    max_streams: int = 4096
    producer_ttl: float = 7 * 86400.0
    peers: tuple[str, ...] = ()
    spread: float = 0.0


@attrs.define
class _Part:
    """What a hello says of one stream."""

    asked: HelloStream | None = None
    reader: Reader | None = None
    outbound: list[HelloOutbound] = attrs.field(factory=list)


class Gate:
    """Who may subscribe to what: asked in a hello and with every subscribe."""

    def __init__(self, settings: NodeSettings, principal: str, authorize: Authorize) -> None:
        self.principal = principal
        self._limit = settings.max_streams
        self._authorize = authorize

    def refusal(self, stream: str, subscribed: int) -> Error | None:
        """Return why a subscription is refused, None where it is not (rule 14)."""
        if is_reserved(stream) or (stream != PRIVATE and not self._authorize(self.principal, "subscribe", stream)):
            return Error(code="forbidden", hint="the principal may not subscribe to this stream")
        if subscribed >= self._limit:
            return Error(code="too_many_streams", hint=f"at most {self._limit} on one connection")
        return None

    def may_publish(self, stream: str) -> bool:
        return self._authorize(self.principal, "publish", stream)


class Entering:
    """
    One hello on its way to a welcome.

    After ``welcomed`` was called, ``session``, ``fence``, ``reading`` and ``appending`` are there.

    Args:
        outlet: Where calls go.
        settings: The node's.
        gate: Who may what.
        rng: Where session ids come from.
        hello: What the client said.
        welcomed: Called once, when the welcome may be written.
    """

    session: str
    fence: Fence
    reading: Reading
    appending: Appending

    def __init__(
        self,
        outlet: Outlet,
        settings: NodeSettings,
        gate: Gate,
        rng: random.Random,
        hello: Hello,
        welcomed: Callable[[Welcome], None],
    ) -> None:
        self._outlet = outlet
        self._settings = settings
        self._gate = gate
        self._rng = rng
        self._hello = hello
        self._welcomed = welcomed
        self._parts: dict[str, _Part] = {}
        self._answers: dict[str, StreamAnswer] = {}
        self._committed: dict[tuple[int, str], CommittedAnswer] = {}
        self._missing = 0
        self._told = 0
        self._entered: SessionEntered | None = None

    def is_outranked_by(self, session: str, fence: Fence) -> bool:
        """Say whether a fence that was raised somewhere is a newer one of our session."""
        return self._entered is not None and session == self._entered.session and fence > self._entered.fence

    def begin(self) -> None:
        """Take step (a), in the session's slot."""
        claim = claim_of(self._settings, self._hello)
        if self._hello.token is not None and claim is None:
            self._outlet.close(4403, FORBIDDEN)
            return
        prefix = f"{self._rng.getrandbits(8):02x}" if claim is None else claim.session[:2]
        request = EnterSession(
            session=None if claim is None else claim.session,
            presented=None if claim is None else claim.generation,
            new_session=f"{prefix}{self._rng.getrandbits(128):032x}",
            instance=self._hello.instance,
            attempt=self._hello.attempt,
            principal=self._gate.principal,
            ttl=self._settings.ttl,
        )
        self._outlet.call(request, self._session_entered)

    def _session_entered(self, entered: SessionEntered) -> None:
        self._entered = entered
        self.session, self.fence = entered.session, entered.fence
        hello, settings = self._hello, self._settings
        self.reading = Reading(self._outlet, self.session, self.fence, hello.credit, hello.max_message)
        self.appending = Appending(
            self._outlet,
            self.session,
            self.fence,
            hello.producers,
            max_message=settings.max_message,
            max_lanes=settings.max_streams,
            may_publish=self._gate.may_publish,
        )
        self._plan(entered)
        self._missing = len(self._parts)
        for name, part in self._parts.items():
            self._enter(name, part, entered)
        self._finish(entered)

    def _plan(self, entered: SessionEntered) -> None:
        """Gather what belongs to one stream, so that it is one step; refused subscriptions take none."""
        for asked in self._hello.streams:
            refusal = self._gate.refusal(asked.stream, len(self.reading))
            if refusal is not None:
                self._answers[asked.stream] = StreamAnswer(stream=asked.stream, id=asked.id, error=refusal)
                continue
            part = self._parts.setdefault(asked.stream, _Part())
            part.asked, part.reader = asked, self.reading.add(asked)
            if entered.verdict == "new" and asked.stream == PRIVATE:
                part.reader.epoch_reason = "session"
        for outbound in self._hello.outbound:
            self._parts.setdefault(outbound.stream, _Part()).outbound.append(outbound)

    def _enter(self, wire: str, part: _Part, entered: SessionEntered) -> None:
        """Take step (b), in one stream's slot."""
        producers = tuple((self._hello.producers[o.producer], o.first) for o in part.outbound)
        if part.asked is None or part.reader is None:
            request = EnterStream(
                stream=full_name(self.session, wire), session=self.session, fence=self.fence, producers=producers
            )
        else:
            request = part.reader.step(part.asked, self.session, self.fence, producers)
        self._outlet.call(request, lambda facts: self._stream_entered(part, facts, entered))

    def _stream_entered(self, part: _Part, facts: StreamEntered, entered: SessionEntered) -> None:
        if part.asked is not None and part.reader is not None:
            self._answers[part.asked.stream] = part.reader.answer(held_of(part.asked), facts)
        states = {state.producer: state for state in facts.producers}
        for outbound in part.outbound:
            self._settle(outbound, self._fitting(states[self._hello.producers[outbound.producer]]))
        self._missing -= 1
        self._finish(entered)

    def _fitting(self, state: ProducerState) -> ProducerState:
        """Say less to be consumed where there are too many tombstones: who resends the rest gets their rejects."""
        room = MOST_TOLD - self._told
        self._told += min(room, len(state.rejected))
        if len(state.rejected) <= room:
            return state
        return attrs.evolve(state, seq=state.rejected[room][0] - 1, rejected=state.rejected[:room])

    def _settle(self, outbound: HelloOutbound, state: ProducerState) -> None:
        self.appending.known(outbound.producer, outbound.stream, outbound.first, state)
        self._committed[outbound.producer, outbound.stream] = CommittedAnswer(
            producer=outbound.producer,
            stream=outbound.stream,
            seq=state.seq,
            known=state.known,
            rejected=state.rejected,
        )

    def _finish(self, entered: SessionEntered) -> None:
        """Take step (c) when every stream has answered, and what the hello acked under the new fence (H16)."""
        if self._missing or self._outlet.is_closed:
            return
        settings, hello = self._settings, self._hello
        welcome = Welcome(
            features=FEATURES,
            session=self.session,
            token=mint(settings.key, self.session, self.fence.generation),
            generation=self.fence.generation,
            verdict=entered.verdict,
            reason=entered.reason,
            ttl=settings.ttl,
            node=settings.node,
            incarnation=entered.incarnation,
            producer_ttl=settings.producer_ttl,
            max_message=settings.max_message,
            committed=tuple(self._committed[o.producer, o.stream] for o in hello.outbound),
            streams=tuple(self._answers[asked.stream] for asked in hello.streams),
            keepalive=KeepaliveAdvice(interval=settings.keepalive_interval, timeout=settings.keepalive_timeout),
            peers=settings.peers,
            spread=settings.spread,
        )
        self._missing = -1
        self._outlet.send(welcome)
        for part in self._parts.values():
            if part.reader is not None:
                self.reading.open(part.reader)
        self.reading.acked([mark for part in self._parts.values() for mark in _acked(part.asked)])
        self._welcomed(welcome)


def _acked(asked: HelloStream | None) -> tuple[AckedMark, ...]:
    """Return the ack of a subscription; one that is above what is held, or beside a start, is void."""
    if asked is None or asked.held is None or asked.acked is None or asked.acked > asked.held.offset:
        return ()
    return (AckedMark(asked.stream, asked.held.epoch, asked.acked),)


def claim_of(settings: NodeSettings, hello: Hello) -> Claim | None:
    """Return what the hello's token proves; None where it brought none, or one that proves nothing."""
    if hello.token is None:
        return None
    claim = verify((settings.key, *settings.old_keys), hello.token)
    return claim if claim is not None and claim.session == hello.session else None


def broken_rule(hello: Hello) -> str | None:
    """Return which rule a hello breaks that its frames' grammar cannot tell, None where it breaks none."""
    if hello.version != 1:
        return f"version {hello.version} is not spoken here, 1 is"
    if len(set(hello.producers)) != len(hello.producers):
        return "a producer is named twice"
    if any(is_reserved(outbound.stream) for outbound in hello.outbound):
        return "outbound messages for a reserved stream"
    return None


def subscribe(outlet: Outlet, entering: Entering, gate: Gate, asked: Subscribe) -> None:
    """Answer a subscribe: one step in the stream's slot, then ``subscribed``, then data (rule 12)."""
    reading = entering.reading
    if reading.is_void(asked):
        return
    reading.remove(asked.stream)
    refusal = gate.refusal(asked.stream, len(reading))
    if refusal is not None:
        outlet.send(Subscribed(answer=StreamAnswer(stream=asked.stream, id=asked.id, error=refusal)))
        return
    reader = reading.add(asked)

    def entered(facts: StreamEntered) -> None:
        if reading.is_current(reader):
            outlet.send(Subscribed(answer=reader.answer(held_of(asked), facts)))
            reading.open(reader)
            reading.turn()

    outlet.call(reader.step(asked, entering.session, entering.fence), entered)
