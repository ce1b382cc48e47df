"""
The tree of errors; every leaf says whether trying again is worth it and whether the effect is certain.

Each exception answers two questions as class attributes (or per instance where the status decides):
``retryable``: may the same call succeed later without anything being changed? ``definite``: is it certain that
the operation did not take effect? Timeouts of the user's own calls are the built-in :class:`TimeoutError`.
No message of these classes ever contains a token, a cookie, a header's value or a URL's query.
"""

from __future__ import annotations


class ResilientWSError(Exception):
    """The root of everything that this package raises on purpose."""

    retryable: bool = False
    definite: bool = True


# -- connecting -------------------------------------------------------------------------------------------------------


class ConnectError(ResilientWSError):
    """
    No connection with a welcome was reached.

    ``__cause__`` is the last attempt's error where there was one.
    """

    retryable = True


class ConnectTimeout(ConnectError):
    """Name, TCP, proxy, TLS, upgrade or welcome took longer than the time that was given."""


class NoEndpoint(ConnectError):
    """No address answered: the name did not resolve, or every address refused or was unreachable."""


class ProxyError(ConnectError):
    """
    The proxy on the way to the server was not reached, or did not do what it was asked for.

    Attributes:
        status: HTTP status of its answer to CONNECT, or the code of its SOCKS reply; None where it gave none.
    """

    def __init__(self, message: str, *, status: int | None = None, retryable: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class HandshakeRejected(ConnectError):
    """
    The server answered the upgrade with something else than a valid ``101``.

    Attributes:
        status: HTTP status, or None where the answer was not HTTP or the 101 broke RFC 6455.
        retry_after: Seconds that the server asked for, or None.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None, retryable: bool = True
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.retryable = retryable


class AccessDenied(HandshakeRejected):
    """The server refused who we are (401, 403, or close codes 4401, 4403, 1008)."""

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, status=status, retry_after=retry_after, retryable=False)


class ConnectionLost(ResilientWSError):
    """
    An established connection ended.

    Attributes:
        code: The close code that decides (received, else sent, else 1006).
        reason: Its reason, at most 123 bytes, control characters removed.
        rcvd: (code, reason) of the close frame received, or None.
        sent: (code, reason) of the close frame sent, or None.
    """

    retryable = True
    definite = False

    def __init__(
        self,
        message: str,
        *,
        code: int = 1006,
        reason: str = "",
        rcvd: tuple[int, str] | None = None,
        sent: tuple[int, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.rcvd = rcvd
        self.sent = sent


# -- the session ------------------------------------------------------------------------------------------------------


class SessionError(ResilientWSError):
    """Something happened to the session, not to one of its connections."""


class SessionLost(SessionError):
    """
    The cluster no longer knows this session; a new one has taken its place.

    Shared streams go on from their positions; the private stream of the old session is gone.

    Attributes:
        reason: ``unknown``, ``expired`` or ``superseded``.
        unacked: How many sent messages had no ack yet (they are sent again).
    """

    retryable = True
    definite = False

    def __init__(self, reason: str, unacked: int) -> None:
        super().__init__(
            f"the session was lost ({reason}); a new one goes on from the same positions, "
            f"messages of the old private stream are gone, {unacked} unacked messages are sent again"
        )
        self.reason = reason
        self.unacked = unacked


class SessionTakenOver(SessionError):
    """Another process resumed this session with a newer token; this Client has ended."""

    definite = False


class SessionClosed(SessionError):
    """The Client was closed, or the session ended, before the call."""


class Forked(SessionError):
    """The process forked; a Client belongs to the process that opened it. Open a new one in the child."""


# -- the protocol -----------------------------------------------------------------------------------------------------


class ProtocolError(ResilientWSError):
    """Abstract: a rule of the protocol was broken."""


class LocalProtocolError(ProtocolError):
    """The call is not allowed in this state; nothing happened."""


class RemoteProtocolError(ProtocolError):
    """
    The server broke a rule of the protocol.

    Attributes:
        hint: What the maintainer of the server should look at.
        code: The close code that we answer with.
    """

    retryable = True
    definite = False

    def __init__(self, message: str, *, hint: str = "", code: int = 1002) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.hint = hint
        self.code = code


# -- delivery ---------------------------------------------------------------------------------------------------------


class DeliveryError(ResilientWSError):
    """A message cannot be delivered, or not as promised."""


class Gap(DeliveryError):
    """
    Messages ``first`` to ``last`` of a stream cannot be replayed; the next ``recv()`` goes on after them.

    Attributes:
        stream: The stream's name.
        first: First offset that is missing (for ``rewritten``: may have been replaced).
        last: Last one, or None where the server cannot know.
        reason: ``trimmed``, ``epoch``, ``rewritten``, ``too_large``, ``session`` or a server's own.
        epoch: The epoch that holds after the gap.
        next: The offset that comes next.
    """

    def __init__(
        self, stream: str, first: int, last: int | None, reason: str, *, epoch: str = "", next: int = 0
    ) -> None:
        upto = "an unknown end" if last is None else str(last)
        super().__init__(
            f"stream {stream!r}: messages {first} to {upto} cannot be replayed ({reason}); "
            f"reload the state that they carried, then go on receiving"
        )
        self.stream = stream
        self.first = first
        self.last = last
        self.reason = reason
        self.epoch = epoch
        self.next = next


class OutboxFull(DeliveryError):
    """
    The outbox is at its bound; the message was not accepted.

    Attributes:
        size: (messages, bytes) held.
        limit: (messages, bytes) allowed.
        streams: How many streams may have unacked messages, where it is that which is used up; else None.
        age: Seconds for which the oldest message waits, where that is above ``Outbox(max_age=)``; else None.
    """

    retryable = True

    def __init__(
        self, size: tuple[int, int], limit: tuple[int, int], streams: int | None = None, age: float | None = None
    ) -> None:
        bound = f"of at most {limit[0]} messages, {limit[1]} bytes"
        if streams is not None:
            bound = f"on {streams} streams, the most there may be"
        elif age is not None:
            bound = f"and the oldest has waited for {age:.0f} s, longer than Outbox(max_age=)"
        super().__init__(
            f"the outbox holds {size[0]} messages, {size[1]} bytes {bound}; "
            f"nothing was accepted: wait for acks (flush), or choose another Outbox(policy=)"
        )
        self.size = size
        self.limit = limit
        self.streams = streams
        self.age = age


class Rejected(DeliveryError):
    """
    The server refused one message for good; later ones go on.

    Attributes:
        stream: The stream's name.
        seq: Its seq, 0 where it was refused before it was numbered.
        code: ``too_large``, ``forbidden`` or a server's own.
    """

    def __init__(self, stream: str, seq: int, code: str, hint: str = "") -> None:
        what = f"message {seq} was rejected for good" if seq else "refused"
        super().__init__(f"stream {stream!r}: {what} ({code})" + (f": {hint}" if hint else ""))
        self.stream = stream
        self.seq = seq
        self.code = code


class Undelivered(DeliveryError):
    """
    Accepted messages have no ack, and this Client will not send them again.

    Attributes:
        pending: {stream: (first seq, last seq)}.
        is_kept: A journal has them: the next Client that opens it sends them.
    """

    definite = False

    def __init__(
        self, pending: dict[str, tuple[int, int]], why: str = "the Client ended", *, is_kept: bool = False
    ) -> None:
        what = ", ".join(f"{stream!r}: {first} to {last}" for stream, (first, last) in sorted(pending.items()))
        then = "they may or may not have arrived"
        if is_kept:
            then = "the journal keeps them, and the next Client that opens it sends them"
        super().__init__(f"messages without an ack, not sent again because {why}: {what}; {then}")
        self.pending = dict(pending)
        self.is_kept = is_kept


class SlowConsumer(DeliveryError):
    """``send()`` would wait for acks that only this thread could read, with a full inbox in front of them."""

    def __init__(self, pending: int, limit: int) -> None:
        super().__init__(
            f"the inbox holds {pending} of {limit} messages and nobody takes them; "
            "call recv(), or receive in another thread"
        )
        self.pending = pending
        self.limit = limit


# -- the journal ------------------------------------------------------------------------------------------------------


class JournalError(ResilientWSError):
    """The journal cannot be used; this class itself: it is closed, or the parent process has it."""


class JournalLocked(JournalError):
    """Another Client, in this process or another one, has the journal open; open it when that one has closed."""

    retryable = True


class JournalRefused(JournalError):
    """
    The file must not be used as a journal, and was not touched.

    It is a link, belongs to somebody else, is open to others, cannot be written, is no journal, or was written by a
    newer version; the text says which, and what to do.
    """


class JournalCorrupt(JournalError):
    """
    The journal cannot be read whole; it was not touched.

    Attributes:
        path: The file.
        kept: What can be read, in words.
        missing: What is damaged or missing, in words.
    """

    def __init__(self, path: str, kept: str, missing: str) -> None:
        super().__init__(
            f"journal {path}: damaged: {missing}; readable: {kept}. Nothing was changed: save it by "
            f"`python -m resilient_ws.journal export {path}`, then move the file away, "
            "or open it with Outbox(damaged='recover')"
        )
        self.path = path
        self.kept = kept
        self.missing = missing


class JournalFull(JournalError):
    """The disk is full: nothing of this was accepted, what was accepted before is safe; make room and try again."""

    retryable = True


class JournalFailed(JournalError):
    """
    The disk failed; the journal has stopped for good, and the Client with it.

    What was being written may or may not be kept. What was accepted before is sent when a new Client opens the journal,
    as far as the disk still has it.
    """

    definite = False
