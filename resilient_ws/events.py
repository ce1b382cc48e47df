"""
What a session reports.

Events are frozen values with the name of what happened, in the past tense; they never carry payloads or secrets. What a
user holds of a message, :class:`Message` and :class:`Receipt`, can be imported from here too.
"""

from __future__ import annotations

from typing import Union

import attrs

from resilient_ws.messages import Message as Message
from resilient_ws.messages import Owner as Owner
from resilient_ws.messages import Receipt as Receipt


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
class EndpointsChanged:
    """
    Other endpoints than before may be dialled; a connection in use goes on.

    Attributes:
        source: ``discover`` (``Failover(discover=)``) or ``server`` (a welcome or drain notice named them).
        added, removed: How many.
        endpoints: How many there are now.
    """

    source: str
    added: int
    removed: int
    endpoints: int


@attrs.frozen(kw_only=True)
class EndpointsRefused:
    """
    Endpoints that somebody named are not dialled; ``why`` is the reason for the first of them.

    Attributes:
        source: ``discover`` or ``server``.
        count: How many.
        why: What is wrong with them.
    """

    source: str
    count: int
    why: str


@attrs.frozen(kw_only=True)
class DiscoveryFailed:
    """``Failover(discover=)`` gave none; the ``endpoints`` that were known before go on, and it is asked again."""

    error: str
    endpoints: int


@attrs.frozen(kw_only=True)
class AccessTokenRenewed:
    """A fresh access token was sent over an open connection."""

    conn: int


@attrs.frozen(kw_only=True)
class AccessTokenFailed:
    """``access_token=`` gave none. ``is_kept``: the one before it goes on; else the attempt has failed."""

    error: str
    is_kept: bool


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
    EndpointsChanged,
    EndpointsRefused,
    DiscoveryFailed,
    AccessTokenRenewed,
    AccessTokenFailed,
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
