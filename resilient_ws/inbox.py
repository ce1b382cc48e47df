"""
Inbound: position per stream, de-duplication, gaps, what is out to the user, and how much room there is.

What arrives is either the next thing, something that was had before (dropped), or a hole (the caller resumes). What the
user gets is a queue of runs and markers in the order in which they arrived. No socket, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum

from resilient_ws.config import Inbox
from resilient_ws.exceptions import Gap, RemoteProtocolError
from resilient_ws.frames import AckedMark, Batch, GapFrame, Payload, Position, Start, StreamAnswer
from resilient_ws.ledger import Ledger
from resilient_ws.records import Forgotten, Handled
from resilient_ws.sizes import sizes_of
from resilient_ws.subscription import Subscription

MOST_STREAMS = 4096
"""Subscriptions of one session: a hello names each, and may name no more."""


class Arrival(Enum):
    """What a piece of data or a gap turned out to be."""

    TAKEN = "taken"
    DROPPED = "dropped"
    HOLE = "hole"


class Run:
    """Consecutive messages on their way to the user: payload ``i`` has the offset ``first + i``."""

    __slots__ = ("_at", "epoch", "first", "payloads", "size", "stream")

    def __init__(self, stream: str, epoch: str, first: int, payloads: list[Payload], size: int) -> None:
        self.stream = stream
        self.epoch = epoch
        self.first = first
        self.payloads = payloads
        self.size = size  # bytes of what was not cut off yet
        self._at = 0

    def cut(self, limit: int) -> Run:
        """Return the next ``limit`` messages as a run of their own; what was cut before is not returned again."""
        at = self._at
        self._at = at + limit
        if at == 0 and limit >= len(self.payloads):
            return self
        payloads = self.payloads[at : at + limit]
        size = self.size if self.is_empty else sizes_of(payloads)
        self.size -= size
        return Run(self.stream, self.epoch, self.first + at, payloads, size)

    @property
    def count(self) -> int:
        """How many messages were not cut off yet."""
        return len(self.payloads) - self._at

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self.payloads)

    def __repr__(self) -> str:
        return f"Run({self.stream!r}, first={self.first}, count={len(self.payloads)})"


class Arrivals:
    """
    Everything received and not yet taken, and the subscriptions that it belongs to.

    Args:
        settings: Bounds; the credit that the server gets equals them.
        report_gaps: True: gaps are events and no markers stand in the queue.
        ledger: What is to be written into a journal, where there is one.
    """

    def __init__(self, settings: Inbox, *, report_gaps: bool = False, ledger: Ledger | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
        self._report_gaps = report_gaps
        self.subscriptions: dict[str, Subscription] = {}
        self.refused: dict[str, Exception] = {}
        self.known: dict[str, Handled] = {}  # of a journal: where streams were that nobody has asked for in this life
        self._queue: deque[Run | Exception] = deque()
        self._next_id = 1
        self.messages = 0
        self.bytes = 0
        self.duplicates = 0
        self.delivered = 0

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def subscribe(self, stream: str, start: Start) -> Subscription:
        """
        Begin a subscription under a new id; one that exists is replaced and its untaken messages go.

        A stream that a journal knows of an earlier life goes on there, unless ``start`` is a Position.

        Raises:
            ValueError: There are too many.
        """
        if stream not in self.subscriptions and len(self.subscriptions) >= MOST_STREAMS:
            raise ValueError(f"stream {stream!r}: one Client subscribes to {MOST_STREAMS} at most; open another one")
        kept = self.known.pop(stream, None) if isinstance(start, str) else None
        self.unsubscribe(stream)
        self.refused.pop(stream, None)
        subscription = Subscription(stream, self.new_id(), start)
        if kept is not None:
            subscription.restore(kept)
        self.subscriptions[stream] = subscription
        return subscription

    def unsubscribe(self, stream: str) -> None:
        """Forget a stream and what waits of it."""
        gone = self.subscriptions.pop(stream, None) or self.known.pop(stream, None) or self.refused.get(stream)
        if gone is not None and self._ledger is not None:
            self._ledger.add(Forgotten(stream))
        kept: deque[Run | Exception] = deque()
        for item in self._queue:
            if isinstance(item, (Run, Gap, _Passed)) and item.stream == stream:
                self._leave(item)
            else:
                kept.append(item)
        self._queue = kept

    def new_id(self) -> int:
        found = self._next_id
        self._next_id += 1
        return found

    # -- arriving -----------------------------------------------------------------------------------------------------

    def data(self, batch: Batch) -> Arrival:
        """
        Take a batch of an active subscription.

        Raises:
            RemoteProtocolError: It repeats something that the present connection has no right to repeat.
        """
        subscription = self.subscriptions.get(batch.stream)
        if subscription is None or not subscription.is_active or batch.first is None:
            return Arrival.DROPPED
        first, payloads, size, held = batch.first, batch.payloads, batch.size, subscription.offset
        last = first + len(payloads) - 1
        if first <= held:
            self._check_duplicate(subscription, min(last, held))
            if last >= held and not subscription.is_same(payloads[held - first]):
                return Arrival.HOLE  # what an older connection delivered was replaced meanwhile (rule 7)
            self.duplicates += min(last, held) - first + 1
            if last <= held:
                return Arrival.DROPPED
            payloads = payloads[held + 1 - first :]
            first, size = held + 1, sizes_of(payloads)
        elif (first - 1 if batch.prev is None else batch.prev) > held or subscription.is_gone(batch.prev):
            return Arrival.HOLE
        subscription.arrived(last, payloads[-1])
        self._queue.append(Run(batch.stream, subscription.epoch, first, payloads, size))
        self.messages += len(payloads)
        self.bytes += size
        return Arrival.TAKEN

    def _check_duplicate(self, subscription: Subscription, upto: int) -> None:
        if upto > subscription.duplicates_to:
            raise RemoteProtocolError(
                f"stream {subscription.stream!r}: message {upto} came twice on one connection",
                hint="duplicates are legal only up to the higher of `live` and the held position (rule 7)",
                code=4400,
            )

    def gap(self, frame: GapFrame) -> tuple[Arrival, Gap | None]:
        """Take a gap; returns what it was, and the Gap itself where it is news."""
        subscription = self.subscriptions.get(frame.stream)
        if subscription is None or not subscription.is_active or frame.id != subscription.id:
            return Arrival.DROPPED, None
        held, target, first, last = subscription.offset, frame.next - 1, frame.first, frame.last
        if first > held + 1:
            return Arrival.HOLE, None
        if frame.epoch != subscription.epoch:
            subscription.duplicates_to = 0
        elif frame.reason != "rewritten" and target <= held:
            return Arrival.DROPPED, None
        else:
            target = max(target, held)
        # An older connection may have delivered more than this one knows of: that is not missing, but may be replaced.
        if frame.reason != "rewritten":
            first = held + 1 if last is None else min(held + 1, last)
        elif last is not None:
            last = max(last, target)
        subscription.move(frame.epoch, target, None)
        return Arrival.TAKEN, self._mark(
            Gap(frame.stream, first, last, frame.reason, epoch=frame.epoch, next=target + 1)
        )

    def _mark(self, found: Gap) -> Gap:
        """Put a gap into its place in the queue; adjacent ones merge. Returns the news alone."""
        news = found
        if self._report_gaps:
            self._queue.append(_Passed(found.stream, Position(found.epoch, found.next - 1)))
            return news
        tail = self._queue[-1] if self._queue else None
        if (
            isinstance(tail, Gap)
            and (tail.stream, tail.reason, tail.epoch) == (found.stream, found.reason, found.epoch)
            and tail.last is not None
            and tail.last + 1 == found.first
        ):
            self._queue.pop()
            found = Gap(found.stream, tail.first, found.last, found.reason, epoch=found.epoch, next=found.next)
        self._queue.append(found)
        return news

    def answered(self, answer: StreamAnswer) -> tuple[Arrival, Gap | None]:
        """
        Take what a welcome or ``subscribed`` says of the present id.

        Raises:
            RemoteProtocolError: It contradicts what we hold without a gap that explains it (INV-S8).
        """
        subscription = self.subscriptions[answer.stream]
        if not subscription.is_active:
            subscription.begin(answer)
            self._note(subscription)
            gap = answer.gap
            if gap is None:
                return Arrival.TAKEN, None
            return Arrival.TAKEN, self._mark(
                Gap(gap.stream, gap.first, gap.last, gap.reason, epoch=gap.epoch, next=answer.first)
            )
        found: tuple[Arrival, Gap | None] = (Arrival.TAKEN, None)
        if answer.gap is not None:
            found = self.gap(answer.gap)
            if found[0] is Arrival.HOLE:
                raise _contradiction(answer, subscription, "its gap starts above the message after it")
        if answer.epoch != subscription.epoch:
            raise _contradiction(answer, subscription, "its epoch is another one and no gap says why")
        if answer.first > subscription.offset + 1:
            raise _contradiction(answer, subscription, "it continues above the message after it and no gap says why")
        subscription.duplicates_to = max(answer.live, subscription.offset)
        return found

    def refuse(self, stream: str, error: Exception) -> None:
        """The node refused a subscription; the user gets the error at its place, behind what arrived before."""
        del self.subscriptions[stream]
        self.refused[stream] = error
        self._queue.append(error)

    def mark(self, error: Exception) -> None:
        """Put a marker of the session into the queue."""
        self._queue.append(error)

    # -- taking -------------------------------------------------------------------------------------------------------

    @property
    def has_items(self) -> bool:
        return bool(self._queue)

    @property
    def is_full(self) -> bool:
        return self.messages >= self._settings.max_messages or self.bytes >= self._settings.max_bytes

    @property
    def free(self) -> tuple[int, int]:
        """Return (messages, bytes) that still fit."""
        return max(0, self._settings.max_messages - self.messages), max(0, self._settings.max_bytes - self.bytes)

    def take(self, limit: int, receiver: int) -> list[Run | Exception]:
        """Hand over at most ``limit`` messages in order; a marker stands alone."""
        if self._settings.ack == "auto":
            self.release(receiver)
        taken: list[Run | Exception] = []
        while limit > 0 and self._queue:
            item = self._queue[0]
            if isinstance(item, Run):
                limit -= self._hand_over(item, limit, receiver, taken)
            elif isinstance(item, _Passed) or not taken:
                self._leave(self._queue.popleft())
                if not isinstance(item, _Passed):
                    return [item]
            else:
                break
        return taken

    def _hand_over(self, item: Run, limit: int, receiver: int, taken: list[Run | Exception]) -> int:
        run = item.cut(limit)
        if item.is_empty:
            self._queue.popleft()
        count = len(run.payloads)
        self.messages -= count
        self.bytes -= run.size
        self.delivered += count
        subscription = self.subscriptions.get(run.stream)
        if subscription is not None:
            subscription.taken(receiver, run.epoch, run.first, run.first + count - 1)
            if self._ledger is not None:
                subscription.keep(run.epoch, run.first, run.payloads)
        taken.append(run)
        return count

    def _leave(self, item: Run | Exception) -> None:
        """Account for an item that left the queue without being handed over as messages."""
        if isinstance(item, Run):
            self.messages -= item.count
            self.bytes -= item.size
        elif isinstance(item, (Gap, _Passed)):
            subscription = self.subscriptions.get(item.stream)
            if subscription is not None:
                where = item.position if isinstance(item, _Passed) else Position(item.epoch, item.next - 1)
                subscription.passed = where
                subscription.handled(-1, None)
                self._note(subscription)

    def release(self, receiver: int) -> None:
        """Everything that this receiver took is handled."""
        for subscription in self.subscriptions.values():
            if subscription.is_out:
                subscription.handled(receiver, None)
                self._note(subscription)

    def ack(self, stream: str, epoch: str, offset: int, receiver: int) -> None:
        """This receiver handled a message and everything that it took of the stream before it."""
        subscription = self.subscriptions.get(stream)
        if subscription is not None:
            subscription.handled(receiver, Position(epoch, offset))
            self._note(subscription)

    def _note(self, subscription: Subscription) -> None:
        """What is acked may be told to a server: at once, or when a journal has it (rule 16)."""
        if self._ledger is None:
            subscription.told = subscription.acked
            return
        news = subscription.news()
        if news is not None:
            self._ledger.add(news)

    def kept(self, handled: Handled) -> None:
        """The journal has this position for good; one from before the stream was asked for anew never comes here."""
        subscription = self.subscriptions.get(handled.stream)
        if subscription is not None:  # else it was refused meanwhile
            subscription.told = handled.position

    def acks(self) -> Iterator[AckedMark]:
        """Yield where each active stream is acked to."""
        for stream, subscription in self.subscriptions.items():
            if subscription.is_active and subscription.told.epoch == subscription.epoch:
                yield AckedMark(stream, subscription.told.epoch, subscription.told.offset)


class _Passed(Exception):
    """Where a gap stood that was reported as an event instead."""

    def __init__(self, stream: str, position: Position) -> None:
        super().__init__(stream)
        self.stream = stream
        self.position = position


def _contradiction(answer: StreamAnswer, subscription: Subscription, why: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"stream {answer.stream!r}: the answer starts at {answer.epoch}:{answer.first}, we hold "
        f"{subscription.epoch}:{subscription.offset}; {why}",
        hint="answers continue right after `held`, or carry a gap",
        code=4400,
    )
