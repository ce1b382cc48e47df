"""Planted defects of what a client does with what arrives: positions, gaps, subscriptions, credit, acks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import attrs

from resilient_ws import frames, hearing, welcome
from resilient_ws.conversation import Conversation
from resilient_ws.exceptions import Gap, RemoteProtocolError
from resilient_ws.frames import AckedMark, Batch, Credit, GapFrame, Held, HelloStream, Start, StreamAnswer
from resilient_ws.inbox import Arrivals
from resilient_ws.session import Session
from resilient_ws.subscription import Subscription
from tests.simulation.mutants.client import patch_hello_stream
from tests.simulation.mutants.mutant import Mutant, replaced, together

# -- positions --------------------------------------------------------------------------------------------------------


def _gap_believed(original: Any) -> Any:
    """A gap is believed whatever is missing before it."""

    def gap(self: Arrivals, frame: GapFrame) -> Any:
        subscription = self.subscriptions.get(frame.stream)
        if subscription is not None and subscription.is_active and frame.id == subscription.id:
            subscription.offset = max(subscription.offset, frame.first - 1)
        return original(self, frame)

    return gap


def _prev_ignored(original: Any) -> Any:
    """A number that skips is a hole, although the node says that nothing is between."""

    def data(self: Arrivals, batch: Batch) -> Any:
        batch.prev = None
        return original(self, batch)

    return data


def _no_crc(original: Any) -> Any:
    def say(subscription: Subscription) -> HelloStream:
        said = original(subscription)
        if said.held is None:
            return said  # type: ignore[no-any-return]
        return attrs.evolve(said, held=attrs.evolve(said.held, crc=None))  # type: ignore[no-any-return]

    return say


def _live_is_the_limit(original: Any) -> Any:
    """Duplicates are legal up to what the welcome calls live, whatever else was held when it was read."""

    def answered(self: Arrivals, answer: StreamAnswer) -> Any:
        found = original(self, answer)
        self.subscriptions[answer.stream].duplicates_to = answer.live
        return found

    return answered


def _now_held_lost() -> Any:
    """A start at ``now`` that was answered is held from the first message on only."""
    begun: WeakKeyDictionary[Subscription, tuple[Start | None, Held]] = WeakKeyDictionary()

    def begin(original: Any) -> Any:
        def wrapped(self: Subscription, answer: StreamAnswer) -> None:
            start = self.start
            original(self, answer)
            begun[self] = (start, self.held)

        return wrapped

    def say(original: Any) -> Any:
        def wrapped(subscription: Subscription) -> HelloStream:
            start, held = begun.get(subscription, (None, None))
            if start == "now" and subscription.is_active and subscription.held == held:
                return HelloStream(stream=subscription.stream, id=subscription.id, start="now")
            return original(subscription)  # type: ignore[no-any-return]

        return wrapped

    return together(replaced(Subscription, "begin", begin), patch_hello_stream(say))()


# -- subscriptions ----------------------------------------------------------------------------------------------------


def _any_answer(original: Any) -> Any:
    def take_answer(core: Conversation, connection: Any, answer: StreamAnswer) -> None:
        subscription = core.inbox.subscriptions.get(answer.stream)
        if subscription is not None:
            original(core, connection, attrs.evolve(answer, id=subscription.id))

    return take_answer


def _any_gap(original: Any) -> Any:
    def gap(self: Arrivals, frame: GapFrame) -> Any:
        subscription = self.subscriptions.get(frame.stream)
        return original(self, frame if subscription is None else attrs.evolve(frame, id=subscription.id))

    return gap


def _any_mark(original: Any) -> Any:
    return lambda mark, stream_id, epoch, offset: original(mark, mark.id, epoch, offset)


client_without_ids = together(
    replaced(hearing, "take_answer", _any_answer),
    replaced(Arrivals, "gap", _any_gap),
    replaced(hearing, "is_missing", _any_mark),
)
"""A client that takes every answer of a stream for the one to its last subscribe (rule 12)."""


def _nothing(original: Any) -> Any:
    return lambda *args: None


# -- credit -----------------------------------------------------------------------------------------------------------


def _free_when_acked(original: Any) -> Any:
    """What the user has in hand holds its credit until he acks it."""

    def free(self: Arrivals) -> tuple[int, int]:
        messages, size = original.fget(self)
        out = sum(out.last + 1 - out.first for s in self.subscriptions.values() for out in s._out)
        return max(0, messages - out), size

    return property(free)


def _granted_twice(original: Any) -> Any:
    """A hello grants all that is free, although another connection may fill it too."""
    return lambda self: Credit(*self.inbox.free)


def _duplicates_cost() -> Any:
    """What is dropped is not counted as taken, so that its credit never comes back."""
    original = hearing.HANDLERS[Batch]

    def on_batch(core: Conversation, connection: Any, batch: Batch, now: float) -> None:
        before, arrived = core.inbox.messages, (connection.received_messages, connection.received_bytes)
        original(core, connection, batch, now)
        if core.inbox.messages == before:
            connection.received_messages, connection.received_bytes = arrived

    return patch.dict(hearing.HANDLERS, {Batch: on_batch})


def _reads_when_empty() -> Any:
    """The client does not read while its inbox is full."""
    unread: WeakKeyDictionary[Session, list[Any]] = WeakKeyDictionary()

    def received(original: Any) -> Any:
        def wrapped(self: Session, conn: int, items: Any, now: float) -> None:
            if self.inbox_full:
                unread.setdefault(self, []).append((conn, items))
            else:
                original(self, conn, items, now)

        return wrapped

    def take(original: Any) -> Any:
        def wrapped(self: Session, limit: int, receiver: int, now: float) -> Any:
            taken = original(self, limit, receiver, now)
            for conn, items in unread.pop(self, ()):
                self.received(conn, items, now)
            return taken

        return wrapped

    return together(replaced(Session, "received", received), replaced(Session, "take", take))()


# -- acks -------------------------------------------------------------------------------------------------------------


def _acks_all_that_arrived(original: Any) -> Any:
    def acks(self: Arrivals) -> Iterator[AckedMark]:
        for stream, subscription in self.subscriptions.items():
            if subscription.is_active:
                yield AckedMark(stream, subscription.epoch, subscription.offset)

    return acks


def _only_news(original: Any) -> Any:
    """Pings and pongs carry what was not said before, and no ack again."""
    return lambda self, connection: self.marks(connection)


def _gap_acks_all(original: Any) -> Any:
    """Who passes a gap has handled everything up to where it ends."""

    def leave(self: Arrivals, item: Any) -> None:
        original(self, item)
        subscription = self.subscriptions.get(item.stream) if isinstance(item, Gap) else None
        if subscription is not None:
            subscription.acked = subscription.passed

    return leave


def _acks_not_said(original: Any) -> Any:
    """A hello does not say what is acked; the client believes that it did."""

    def write(self: Conversation, connection: Any, items: list[Any]) -> None:
        said = [
            attrs.evolve(item, streams=tuple(attrs.evolve(stream, acked=None) for stream in item.streams))
            if isinstance(item, frames.Hello) else item
            for item in items
        ]  # fmt: skip
        original(self, connection, said)

    return write


def _believes_duplicates(original: Any) -> Any:
    """What has a number that was had is a duplicate, whatever is in it."""
    return lambda self, payload: True


def _believes_skips(original: Any) -> Any:
    """A server that passed over the place of what we hold may have had its reasons."""
    return lambda self, prev: False


def _all_that_is_free(original: Any) -> Any:
    """The old connection is granted all that is free, also what a hello that is out has granted."""
    return lambda self: self.inbox.free


def _next_of_the_hello(original: Any) -> Any:
    """What the old connection carried while the hello was out must not be committed."""

    def check(lane: Any, entry: Any, answer: Any) -> None:
        if answer.seq >= entry.next and not lane.is_restored:
            raise RemoteProtocolError("committed above the hello's next", code=4400)
        original(lane, entry, answer)

    return check


no_ack_again = replaced(Conversation, "riders", _only_news)
hello_without_acks = replaced(Conversation, "write", _acks_not_said)

MUTANTS = {
    "gap_from_unchecked": Mutant("7", "skip", replaced(Arrivals, "gap", _gap_believed)),
    "prev_ignored": Mutant("7", "tail", replaced(Arrivals, "data", _prev_ignored)),
    "crc_not_in_hello": Mutant("7", "tail", patch_hello_stream(_no_crc)),
    "live_is_the_limit": Mutant("7", "handover", replaced(Arrivals, "answered", _live_is_the_limit)),
    "duplicates_not_compared": Mutant("7", "regrown", replaced(Subscription, "is_same", _believes_duplicates)),
    "skip_below_believed": Mutant("7", "regrown", replaced(Subscription, "is_gone", _believes_skips)),
    "next_of_the_hello": Mutant("6", "handover", replaced(welcome, "_check_committed", _next_of_the_hello)),
    "granted_beside_a_hello": Mutant("9", "handover", replaced(Conversation, "room", _all_that_is_free)),
    "now_held_lost": Mutant("7, 12", "listen", _now_held_lost),
    "client_no_subscription_id": Mutant("12", "toggles", client_without_ids),
    "no_resubscribe": Mutant("12", "toggle", replaced(hearing, "repair_subscriptions", _nothing)),
    "granted_on_ack": Mutant("9", "collect", replaced(Arrivals, "free", _free_when_acked)),
    "double_grant": Mutant("9", "handover", replaced(Conversation, "free_credit", _granted_twice)),
    "duplicates_cost_credit": Mutant("9", "toggles", _duplicates_cost),
    "reader_stops": Mutant("9", "crawl", _reads_when_empty),
    "acks_what_arrived": Mutant("9", "acks", replaced(Arrivals, "acks", _acks_all_that_arrived)),
    "no_ack_again": Mutant("9", "acks", no_ack_again),
    "gap_acks_in_hand": Mutant("9", "restart_tail", replaced(Arrivals, "_leave", _gap_acks_all)),
}
