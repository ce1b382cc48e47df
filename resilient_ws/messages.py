"""
The two objects that a user holds: :class:`Message` and :class:`Receipt`.

Small slots classes that ask their owner (the Client); they decide nothing by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from resilient_ws.frames import Position


class Owner(Protocol):
    """What :class:`Message` and :class:`Receipt` need of the Client that made them."""

    def _ack(self, message: Message) -> None: ...

    def _outcome(self, receipt: Receipt) -> Exception | bool: ...

    def _wait(self, receipt: Receipt, timeout: float | None) -> None: ...

    def _when_done(self, receipt: Receipt, callback: Callable[[Receipt], object]) -> None: ...


class Message:
    """
    One message, as the user takes it.

    Attributes:
        stream: Name of its stream.
        epoch: The stream's epoch.
        offset: Its place there.
        data: The payload: ``str`` from a text message, ``bytes`` from a binary one, or what ``decoder=`` made of it.
    """

    __slots__ = ("_owner", "_tag", "data", "epoch", "offset", "stream")

    def __init__(self, stream: str, epoch: str, offset: int, data: Any, owner: Owner, tag: int = 0) -> None:
        self.stream = stream
        self.epoch = epoch
        self.offset = offset
        self.data = data
        self._owner = owner
        self._tag = tag

    @property
    def position(self) -> Position:
        """The place after this message: what ``subscribe={stream: position}`` takes to go on behind it."""
        return Position(self.epoch, self.offset)

    def json(self) -> Any:
        """Return the payload parsed as JSON."""
        return json.loads(self.data)

    def ack(self) -> None:
        """
        Say that this message and everything before it in its stream is handled.

        It is not delivered again after a restart. Cheap: the ack travels with others. A second call does nothing.

        Raises:
            JournalFull, JournalFailed: With a journal: it is not written there; full: it is tried again every second.
        """
        self._owner._ack(self)

    def __repr__(self) -> str:
        return f"Message(stream={self.stream!r}, offset={self.offset}, {type(self.data).__name__})"


class Receipt:
    """
    The fate of one sent message.

    Attributes:
        stream: Name of the stream.
        seq: Number of the message there, from 1, by this producer; 0 where the message was dropped.
    """

    __slots__ = ("_owner", "producer", "seq", "stream")

    def __init__(self, producer: str, stream: str, seq: int, owner: Owner) -> None:
        self.producer = producer
        self.stream = stream
        self.seq = seq
        self._owner = owner

    def done(self) -> bool:
        """Say whether the outcome is known: committed, rejected, or given up."""
        return self._owner._outcome(self) is not False

    def result(self, timeout: float | None = None) -> None:
        """
        Wait until the message is committed.

        Args:
            timeout: Seconds, None: until the session ends.

        Raises:
            TimeoutError: Not known yet; the message is still on its way and may be waited for again.
            Rejected: The server refused it for good.
            Undelivered: The session ended before it was confirmed; it may or may not have arrived.
        """
        self._owner._wait(self, timeout)
        outcome = self._owner._outcome(self)
        if isinstance(outcome, Exception):
            raise outcome

    def add_done_callback(self, callback: Callable[[Receipt], object]) -> None:
        """Call ``callback(receipt)`` once the outcome is known; it runs in the dispatcher, in order."""
        self._owner._when_done(self, callback)

    def __repr__(self) -> str:
        return f"Receipt(stream={self.stream!r}, seq={self.seq}, done={self.done()})"
