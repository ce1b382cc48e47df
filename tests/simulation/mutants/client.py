"""
Planted defects of the client: outbox, inbox, acks, credit, what a loss means, where is dialled.

Not here, because nothing that anybody could see comes of them: a second foreign 4409 that is not the end (rule 5 ends
the fight as soon as one side is ready), and a resume from what is acked instead of what is held (duplicates are
dropped). A message that user code keeps failing on (rule 13) is no matter of the Session: see ``receiving.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

from resilient_ws import conversation, hearing, losing, session
from resilient_ws.conversation import Conversation
from resilient_ws.endpoints import EndpointPool
from resilient_ws.frames import HelloStream
from resilient_ws.inbox import Arrival, Arrivals, Run
from resilient_ws.liveness import Liveness
from resilient_ws.outbox import Unacked
from resilient_ws.state import Phase
from resilient_ws.treatments import Treatment
from tests.simulation.mutants.mutant import Mutant, replaced, together


def _own_4409_ends(original: Any) -> Any:
    def superseded(core: Conversation, connection: Any, error: Exception, now: float) -> None:
        core.end(error, now)

    return superseded


def _client_no_dedupe(original: Any) -> Any:
    def data(self: Arrivals, batch: Any) -> Arrival:
        found = original(self, batch)
        subscription = self.subscriptions.get(batch.stream)
        if found is Arrival.DROPPED and subscription is not None and subscription.is_active:
            self._queue.append(Run(batch.stream, subscription.epoch, batch.first, list(batch.payloads), batch.size))
            self.messages += len(batch.payloads)
        return found  # type: ignore[no-any-return]

    return data


def _client_accepts_hole(original: Any) -> Any:
    def data(self: Arrivals, batch: Any) -> Arrival:
        subscription = self.subscriptions.get(batch.stream)
        if subscription is not None and subscription.is_active and batch.first > subscription.offset + 1:
            subscription.offset = batch.first - 1
        return original(self, batch)  # type: ignore[no-any-return]

    return data


def _now_again(original: Any) -> Any:
    def say(subscription: Any) -> HelloStream:
        return HelloStream(stream=subscription.stream, id=subscription.id, start="now")

    return say


def _no_credit(original: Any) -> Any:
    def marks(self: Conversation, connection: Any) -> dict[str, Any]:
        return {**original(self, connection), "credit": None}

    return marks


def _no_acks(original: Any) -> Any:
    def acks(self: Arrivals) -> Iterator[Any]:
        return iter(())

    return acks


def _zero_is_absent(original: Any) -> Any:
    def say(subscription: Any) -> HelloStream:
        found = original(subscription)
        if found.held is not None and not found.held.offset:
            return HelloStream(stream=found.stream, id=found.id, start="now")
        return found  # type: ignore[no-any-return]

    return say


def _patient(original: Any) -> Any:
    def liveness(core: Conversation, advice: Any, now: float) -> Liveness:
        return Liveness(interval=1.0, timeout=10_000.0, now=now)

    return liveness


def _marks_ignored(original: Any) -> Any:
    return lambda mark, stream_id, epoch, offset: False


def _dropped_on_reconnect(original: Any) -> Any:
    def settle(outbox: Unacked, hello: Any, welcome: Any, **kwargs: Any) -> Iterator[Any]:
        yield from original(outbox, hello, welcome, **kwargs)
        for lane in list(outbox.writable()):
            if lane.written >= lane.first:
                outbox.committed(lane.producer, lane.stream, lane.written)

    return settle


def _trim_when_sent(original: Any) -> Any:
    def write(self: Conversation, connection: Any, items: Any) -> None:
        original(self, connection, items)
        for lane in list(self.outbox.writable()):
            if lane.written >= lane.first and any(type(item).__name__ == "Batch" for item in items):
                self.outbox.committed(lane.producer, lane.stream, lane.written)

    return write


def patch_hello_stream(make: Callable[[Any], Any]) -> Callable[[], Any]:
    """What a hello and a subscribe say of a stream."""
    return replaced(conversation, "hello_stream", make)


def _kept_on_1013(original: Any) -> Any:
    """A hello that ends without a welcome says nothing about its endpoint."""

    def lose(core: Conversation, connection: Any, error: Exception, now: float) -> None:
        forgiving = replaced(EndpointPool, "failed", _nothing) if connection.phase is Phase.HANDSHAKING else nullcontext
        with forgiving():
            original(core, connection, error, now)

    return lose


def _nothing(original: Any) -> Any:
    return lambda *args: None


def _avoids_nobody(original: Any) -> Any:
    """The next endpoint is the best one, although it is being dialled."""
    return lambda self, now, avoid=(): original(self, now)


def _never_contested(original: Any) -> Any:
    """That somebody else took the session a moment ago changes nothing."""
    return lambda core, now: False


MUTANTS = {
    "trim_when_sent": Mutant("2", "usual", replaced(Conversation, "write", _trim_when_sent)),
    "dropped_on_reconnect": Mutant("2", "store", replaced(hearing, "settle", _dropped_on_reconnect)),
    "own_4409_ends": Mutant("4", "drain", lambda: patch.dict(
        losing.AFTER_LOSS, {Treatment.SUPERSEDED: _own_4409_ends(None)})),
    "client_no_dedupe": Mutant("7", "drain", replaced(Arrivals, "data", _client_no_dedupe)),
    "client_accepts_hole": Mutant("7", "swallow", replaced(Arrivals, "data", _client_accepts_hole)),
    "now_again": Mutant("7", "usual", patch_hello_stream(_now_again)),
    "no_credit": Mutant("9", "usual", replaced(Conversation, "marks", _no_credit)),
    "no_acks": Mutant("9", "usual", replaced(Arrivals, "acks", _no_acks)),
    "zero_is_absent": Mutant("10", "usual", patch_hello_stream(_zero_is_absent)),
    "client_ping_marks": Mutant("ping", "swallow", replaced(hearing, "is_missing", _marks_ignored)),
    "superseded_goes_on": Mutant("4, 5", "pair", replaced(hearing, "is_contested", _never_contested)),
    "endpoint_kept_on_1013": Mutant("6", "outage", together(
        replaced(losing, "lose", _kept_on_1013), replaced(session, "lose", _kept_on_1013))),
    "endpoint_never_left": Mutant("6", "outage", replaced(EndpointPool, "failed", _nothing)),
    "hedge_to_the_same": Mutant("6", "hedge", replaced(EndpointPool, "next", _avoids_nobody)),
    "no_client_deadline": Mutant("liveness", "usual", replaced(hearing, "_liveness", _patient)),
}  # fmt: skip
