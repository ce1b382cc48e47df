"""
One receiving thread's hand: what it took from the session and has not given to the user yet.

The user's ``decoder`` and ``on_gap`` run here, so nothing here may be called under a lock.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from resilient_ws.arguments import Arguments
from resilient_ws.events import DeadLettered, Event, Message, Owner
from resilient_ws.exceptions import Gap, SessionLost
from resilient_ws.inbox import Run


class Giver(Owner, Protocol):
    """The Client, as seen from here."""

    def _report(self, event: Event) -> None: ...


class Receiver:
    """
    What one thread took.

    Attributes:
        number: The receiver's number in the session.
        items: Runs and markers in order; of the first one, what is before ``_at`` was given to the user.
    """

    __slots__ = ("_at", "_decoder", "_failures", "_max_deliveries", "_on_gap", "items", "number")

    def __init__(self, number: int, arguments: Arguments) -> None:
        self.number = number
        self.items: deque[Run | Exception] = deque()
        self._at = 0
        self._failures = 0
        self._decoder = arguments.decoder
        self._on_gap = arguments.on_gap
        self._max_deliveries = arguments.inbox.max_deliveries

    @property
    def has_items(self) -> bool:
        return bool(self.items)

    def next(self, owner: Giver) -> Message | None:
        """
        Return the next message; None where a marker was settled or a message was passed.

        Raises:
            Exception: A marker, or what ``decoder`` or ``on_gap`` raised; then the next call comes to the same place.
        """
        item = self.items[0]
        if not isinstance(item, Run):
            self._settle(item)
            return None
        at = self._at
        payload = item.payloads[at]
        data: Any = payload
        if self._decoder is not None:
            try:
                data = self._decoder(payload)
            except Exception as error:
                self._failed(owner, item, error)
                return None
        message = Message(item.stream, item.epoch, item.first + at, data, owner, self.number)
        self._pass(item)
        return message

    def next_many(self, owner: Giver, limit: int) -> list[Message]:
        """Return what is in hand, up to a marker or a message that cannot be decoded; empty where that was the first."""
        found: list[Message] = []
        while self.items and len(found) < limit:
            if found and not isinstance(self.items[0], Run):
                break
            failures = self._failures
            try:
                message = self.next(owner)
            except Exception:
                if not found:
                    raise
                self._failures = failures  # the user has not seen this one
                break
            if message is not None:
                found.append(message)
        return found

    def _pass(self, item: Run) -> None:
        self._failures = 0
        self._at += 1
        if self._at == len(item.payloads):
            # An interrupt between these two gives the run's first message again rather than losing the next run's.
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
            raise error
        offset, failures = item.first + self._at, self._failures
        self._pass(item)
        owner._report(DeadLettered(stream=item.stream, offset=offset, deliveries=failures, error=type(error).__name__))
        raise error
