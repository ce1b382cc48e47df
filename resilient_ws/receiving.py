"""
The receiving threads of one Client, and what each has in hand: taken from the session, not given to the user yet.

The user's ``decoder`` and ``on_gap`` run here, so a message is never given under a lock.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs

from resilient_ws.arguments import Arguments
from resilient_ws.driver import Driver
from resilient_ws.events import DeadLettered, Event, Message, Owner
from resilient_ws.exceptions import Gap, SessionLost
from resilient_ws.inbox import Run
from resilient_ws.session import Session

MOST_AHEAD = 64
"""Messages that a fast receiver takes at once."""
_FAST = 0.001
"""Seconds per message below which a receiver counts as fast."""


class Giver(Owner, Protocol):
    """The Client, as seen from here."""

    def _report(self, event: Event) -> None: ...


class Receiver:
    """
    What one thread took.

    A thread that handles messages fast takes several at once, which saves a step of the session for each; one that is
    slow takes one, so that what it does not handle yet stays for other threads, and acks follow its work closely.

    Attributes:
        number: The receiver's number in the session.
        items: Runs and markers in order; of the first one, what is before ``_at`` was given to the user.
        limit: How many to take at the next time.
    """

    __slots__ = (
        "__weakref__", "_at", "_decoder", "_failures", "_max_deliveries", "_on_gap", "_taken", "_taken_at",
        "items", "limit", "number",
    )  # fmt: skip

    def __init__(self, number: int, arguments: Arguments) -> None:
        self.number = number
        self.items: deque[Run | Exception] = deque()
        self.limit = 1
        self._taken: list[Run | Exception] = []
        self._taken_at = 0.0
        self._at = 0
        self._failures = 0
        self._decoder = arguments.decoder
        self._on_gap = arguments.on_gap
        self._max_deliveries = arguments.inbox.max_deliveries

    # -- in a step of the session -------------------------------------------------------------------------------------

    def took(self, taken: list[Run | Exception], now: float) -> None:
        """Hold what the session handed over."""
        self._taken, self._taken_at = taken, now
        self.items.extend(taken)

    def adapt(self, now: float) -> None:
        """Choose how many to take next, before the first look whether there is something."""
        count = sum(len(run.payloads) for run in self._taken if isinstance(run, Run))
        is_fast = bool(count) and now - self._taken_at < count * _FAST
        self.limit = min(2 * self.limit, MOST_AHEAD) if is_fast else 1

    def handled(self) -> Iterator[tuple[str, str, int]]:
        """Yield (stream, epoch, offset) up to which the user is done; the message that was given last is not."""
        if not self.items:
            return
        passed = len(self._taken) - len(self.items)
        last = passed - 1
        while last >= 0 and not isinstance(self._taken[last], Run):
            last -= 1
        for i, run in enumerate(self._taken[:passed]):
            if isinstance(run, Run):
                count = len(run.payloads) - (i == last and self._at == 0)
                if count:
                    yield run.stream, run.epoch, run.first + count - 1
        current = self.items[0]
        if isinstance(current, Run) and self._at > 1:
            yield current.stream, current.epoch, current.first + self._at - 2

    def forget(self, stream: str) -> None:
        """Drop what is in hand of a stream that was given up."""
        kept = [item for item in self.items if getattr(item, "stream", None) != stream]
        if len(kept) < len(self.items):
            if not kept or kept[0] is not self.items[0]:
                self._at = 0
            self.items = deque(kept)
            self._taken = kept

    # -- outside ------------------------------------------------------------------------------------------------------

    def next(self, owner: Giver) -> Message | None:
        """
        Return the next message; None where a marker was settled.

        Raises:
            Exception: A marker, or what ``decoder`` or ``on_gap`` raised; then the next call comes to the same place.
        """
        item = self.items[0]
        if not isinstance(item, Run):
            self._settle(item)
            return None
        at = self._at
        data: Any = item.payloads[at]
        if self._decoder is not None:
            try:
                data = self._decoder(data)
            except Exception as error:
                self._failed(owner, item, error)
                raise
        message = Message(item.stream, item.epoch, item.first + at, data, owner, self.number)
        self._pass(item)
        return message

    def next_many(self, owner: Giver, limit: int) -> list[Message]:
        """Return the messages in hand up to a marker or one that cannot be decoded; none where a marker was settled."""
        found: list[Message] = []
        while self.items and len(found) < limit:
            if found and not isinstance(self.items[0], Run):
                break
            failures = self._failures
            try:
                message = self.next(owner)
            except Exception:
                if not found or self._failures == 0:
                    raise
                self._failures = failures  # the user has not seen this one
                break
            if message is None:
                break
            found.append(message)
        return found

    def _pass(self, item: Run) -> None:
        self._failures = 0
        self._at += 1
        if self._at == len(item.payloads):
            # An interrupt between these two gives a run again rather than losing the next one.
            self._at = 0
            self.items.popleft()

    def _settle(self, marker: Exception) -> None:
        if isinstance(marker, (Gap, SessionLost)) and callable(self._on_gap):
            self._on_gap(marker)
            self.items.popleft()
            return
        self.items.popleft()
        raise marker

    def _failed(self, owner: Giver, item: Run, error: Exception) -> None:
        self._failures += 1
        if self._failures < self._max_deliveries:
            return
        offset, failures = item.first + self._at, self._failures
        self._pass(item)
        owner._report(DeadLettered(stream=item.stream, offset=offset, deliveries=failures, error=type(error).__name__))


@attrs.define(eq=False, kw_only=True)
class Receivers:
    """
    All receiving threads of a Client.

    Attributes:
        driver: Reads while a thread waits.
        end_error: Says why nothing comes any more.
        is_closed: The user closed the Client: what is in hand is not given any more.
    """

    driver: Driver
    arguments: Arguments
    end_error: Callable[[], Exception]
    is_closed: bool = False
    _threads: threading.local = attrs.field(factory=threading.local)
    _all: weakref.WeakSet[Receiver] = attrs.field(factory=weakref.WeakSet)
    _last_number: int = 0

    def __attrs_post_init__(self) -> None:
        if self.arguments.inbox.ack == "auto":
            self.driver.before_timers = _make_progress(self.driver.performer.session, self._all)

    def __len__(self) -> int:
        return len(self._all)

    def mine(self) -> Receiver:
        """Return the calling thread's receiver."""
        try:
            return self._threads.receiver  # type: ignore[no-any-return]
        except AttributeError:
            with self.driver.performer.step():
                self._last_number += 1
                receiver = self._threads.receiver = Receiver(self._last_number, self.arguments)
                self._all.add(receiver)
            return receiver

    def is_only_mine(self) -> bool:
        """Say whether no other thread receives."""
        count = len(self._all)
        return count == 0 or (count == 1 and hasattr(self._threads, "receiver"))

    def forget(self, stream: str) -> None:
        """Drop what the calling thread has in hand of a stream."""
        self.mine().forget(stream)

    def receive(self, owner: Giver, timeout: float | None) -> Message:
        """Return the next message (see ``Client.recv``)."""
        receiver = self.mine()
        deadline = None if timeout is None else self.driver.performer.clock() + timeout
        while True:
            if self.is_closed or not receiver.items:
                self._fetch(receiver, None, deadline)
            message = receiver.next(owner)
            if message is not None:
                return message

    def receive_many(self, owner: Giver, limit: int, timeout: float | None) -> list[Message]:
        """Return the messages that are there (see ``Client.recv_many``)."""
        receiver = self.mine()
        deadline = None if timeout is None else self.driver.performer.clock() + timeout
        while True:
            if self.is_closed or not receiver.items:
                self._fetch(receiver, limit, deadline)
            messages = receiver.next_many(owner, limit)
            if messages:
                return messages

    def _fetch(self, receiver: Receiver, limit: int | None, deadline: float | None) -> None:
        performer = self.driver.performer
        receiver.adapt(performer.clock())
        count = limit if limit is not None else receiver.limit if len(self._all) == 1 else 1

        is_first = True

        def hand_over(now: float) -> bool:
            taken = performer.session.take(count, receiver.number, now)
            if taken:
                receiver.took(taken, now)
            return bool(taken)

        def take(now: float) -> bool:
            nonlocal is_first
            if self.is_closed:
                raise self.end_error()
            # The first call also says that this thread is done with what it had.
            if (is_first or performer.session.has_items) and performer.change(hand_over, now):
                return True
            is_first = False
            if performer.has_ended:
                raise self.end_error()
            return False

        if not self.driver.pump(take, deadline):
            raise TimeoutError("no message came in time; the session goes on")


def _make_progress(session: Session, receivers: weakref.WeakSet[Receiver]) -> Callable[[float], None]:
    # No method: the driver must not refer to the user's functions, which may refer to the Client.
    def tell(now: float) -> None:
        """Tell the session how far each receiver is with what it took ahead; in a step."""
        for receiver in list(receivers):
            for stream, epoch, offset in receiver.handled():
                session.ack(stream, epoch, offset, receiver.number, now)

    return tell
