"""
What a session reports, and the two objects that a user holds: :class:`Message` and :class:`Receipt`.

Events are frozen values with the name of what happened, in the past tense; they never carry payloads or secrets. The
user's objects are small slots classes that ask their owner (the Client); they decide nothing by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, Union

import attrs

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


# -- events -----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Connecting:
    """
    An attempt starts.

    Attributes:
        conn: Number of the connection.
        endpoint: Scheme, host and port of its URL; never path or query, which may hold a secret.
        attempt: 1 for the first one since the last stable time.
    """

    conn: int
    endpoint: str
    attempt: int


@attrs.frozen(kw_only=True)
class Connected:
    """A connection was welcomed; ``resumed`` follows where it continues a session."""

    conn: int
    node: str
    session: str


@attrs.frozen(kw_only=True)
class Resumed:
    """The session goes on over another connection; nothing is missing unless a gap says so."""

    conn: int
    node: str
    resent: int


@attrs.frozen(kw_only=True)
class StandingBy:
    """A spare connection was accepted by ``node`` (``Failover(standby=True)``)."""

    conn: int
    node: str


@attrs.frozen(kw_only=True)
class SessionReplaced:
    """The cluster no longer knew the session; a new one took its place (also raised as SessionLost by ``recv()``)."""

    reason: str
    unacked: int


@attrs.frozen(kw_only=True)
class ConnectionEnded:
    """A connection or attempt ended; ``code`` is the close code, 0 where there was none."""

    conn: int
    code: int
    reason: str
    error: str


@attrs.frozen(kw_only=True)
class RetryScheduled:
    """The next attempt starts in ``delay`` seconds."""

    attempt: int
    delay: float


@attrs.frozen(kw_only=True)
class EndpointEjected:
    """
    An endpoint failed so often in a row that it is left out for ``seconds``; while all are out, none is.

    Attributes:
        endpoint: Scheme, host and port of its URL.
        seconds: How long; then it gets one attempt, and is back when that succeeds.
    """

    endpoint: str
    seconds: float


@attrs.frozen(kw_only=True)
class EndpointRestored:
    """An endpoint that had been ejected works again."""

    endpoint: str


@attrs.frozen(kw_only=True)
class GapFound:
    """Messages ``first`` to ``last`` of a stream cannot be replayed."""

    stream: str
    first: int
    last: int | None
    reason: str


@attrs.frozen(kw_only=True)
class DeadLettered:
    """The decoder failed on a message ``deliveries`` times; it is passed, and counts as handled."""

    stream: str
    offset: int
    deliveries: int
    error: str


@attrs.frozen(kw_only=True)
class StreamRefused:
    """A subscription or a stream to publish on was refused; the rest of the session goes on."""

    stream: str
    code: str
    hint: str


@attrs.frozen(kw_only=True)
class MessageRejected:
    """The server refused one sent message for good."""

    stream: str
    seq: int
    code: str


@attrs.frozen(kw_only=True)
class MessagesDropped:
    """The outbox's policy dropped messages ``first`` to ``last`` of a stream (0 to 0: before they had a number)."""

    stream: str
    first: int
    last: int
    count: int
    policy: str


@attrs.frozen(kw_only=True)
class AcknowledgedLost:
    """The server forgot messages that it had acked: seqs ``first`` to ``last`` (rule 11)."""

    producer: str
    stream: str
    first: int
    last: int


@attrs.frozen(kw_only=True)
class JournalRolledBack:
    """The server knows seqs of ours above what the journal knows: it was restored from an old copy."""

    producer: str
    stream: str
    known: int
    committed: int


@attrs.frozen(kw_only=True)
class JournalOpened:
    """
    A journal was opened.

    Attributes:
        path: The file.
        messages, bytes: What it keeps without an ack; those are sent first.
        notes: What is odd, kept or missing, in sentences.
    """

    path: str
    messages: int
    bytes: int
    notes: str


@attrs.frozen(kw_only=True)
class JournalStalled:
    """
    The journal has no room on its disk. ``send()`` raises JournalFull meanwhile; positions are tried again every
    second: what is handled until then may come again after a crash.
    """


@attrs.frozen(kw_only=True)
class IndefiniteResent:
    """Unacked messages may have been stored before the stream forgot their producer; they are sent again (rule 11)."""

    producer: str
    stream: str
    first: int
    last: int


@attrs.frozen(kw_only=True)
class DrainNoticed:
    """The node asks its clients to leave within ``within`` seconds."""

    conn: int
    within: float


@attrs.frozen(kw_only=True)
class ServerNoticed:
    """The server sent an ``error`` that is not fatal."""

    code: str
    hint: str


@attrs.frozen(kw_only=True)
class Suspended:
    """Our own timers were ``late`` seconds late: the machine slept or the process was stopped."""

    late: float


@attrs.frozen(kw_only=True)
class TableFailed:
    """
    A function of the user's in ``Retry`` gave no answer, so the built-in table had the say.

    Attributes:
        setting: ``on_close`` or ``on_status``.
        what: What it did instead.
    """

    setting: str
    what: str


@attrs.frozen(kw_only=True)
class Ended:
    """The session is over; ``error`` is the text of what ended it, empty after ``close()``."""

    error: str


Event = Union[
    Connecting,
    Connected,
    Resumed,
    StandingBy,
    SessionReplaced,
    ConnectionEnded,
    RetryScheduled,
    EndpointEjected,
    EndpointRestored,
    GapFound,
    DeadLettered,
    StreamRefused,
    MessageRejected,
    MessagesDropped,
    AcknowledgedLost,
    JournalRolledBack,
    JournalOpened,
    JournalStalled,
    IndefiniteResent,
    DrainNoticed,
    ServerNoticed,
    Suspended,
    TableFailed,
    Ended,
]
