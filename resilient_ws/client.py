"""
``connect()`` and :class:`Client`: what a user holds, on top of the driver of one session.

Everything that waits here pumps the sockets meanwhile (``driver.py``). The user's functions run in the thread that
receives (``decoder``, ``on_gap``) or in the dispatcher (``on_event``, callbacks), never under a lock.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, final

from resilient_ws import dispatcher, process
from resilient_ws.arguments import (
    AccessToken,
    Arguments,
    HeadersArgument,
    OnGap,
    Subscribe,
    check_arguments,
    check_start,
)
from resilient_ws.callbacks import Callbacks
from resilient_ws.clock import monotonic
from resilient_ws.config import Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.events import Event, Message, Receipt
from resilient_ws.exceptions import SessionClosed
from resilient_ws.frames import Payload, Position, Start, check_stream_name
from resilient_ws.opening import Dialer, guarantee_of, log, make_driver, start, weakly
from resilient_ws.performing import LEAVE_TIMEOUT
from resilient_ws.receiving import Receivers
from resilient_ws.sending import Sender, compact_json

EXIT_FLUSH_TIMEOUT = 10.0
"""Seconds that leaving a ``with`` block waits for acks."""


def connect(
    urls: str | Sequence[str],
    *,
    subscribe: Subscribe = (),
    stream: str | None = None,
    dialect: Any = None,
    headers: HeadersArgument = None,
    access_token: AccessToken = None,
    ssl: Any = None,
    proxy: str | Literal[True] | None = True,
    proxy_ssl: Any = None,
    on_gap: OnGap = "raise",
    on_event: Callable[[Event], object] | None = None,
    decoder: Callable[[Payload], Any] | None = None,
    open_timeout: float | None = 10.0,
    wait: bool = True,
    retry: Retry = Retry(),  # noqa: B008 - a frozen value
    failover: Failover = Failover(),  # noqa: B008 - a frozen value
    keepalive: Keepalive = Keepalive(),  # noqa: B008 - a frozen value
    outbox: Outbox = Outbox(),  # noqa: B008 - a frozen value
    inbox: Inbox = Inbox(),  # noqa: B008 - a frozen value
    wire: Wire = Wire(),  # noqa: B008 - a frozen value
) -> Client:
    """
    Open a session with one of several servers, and go on over another one when that is lost.

    Args:
        urls: One ``wss://`` URL or several that serve the same streams (``ws://`` to this machine only, see ``Wire``).
        subscribe: Streams to receive: names, or {name: "now" | "earliest" | Position}. A name alone means "now". With a
            journal, a stream that it knows goes on where its messages were handled to, unless a Position is given.
        stream: Where ``send()`` goes when it is not told.
        dialect: What the server speaks; None: ``native``.
        headers: Sent with every upgrade: a mapping, pairs, or a function that returns them (it may block).
        access_token: Sent as ``Authorization: Bearer``, never in a URL. A token; or the URL (``https://``) of who gives
            one; or a function that returns one, or (token, seconds that it is good for), and may block. It is asked
            again before the time is over, before every dial where there is none, and when a server refuses the token.
        ssl, proxy_ssl: Contexts for ``wss://`` and for an ``https://`` proxy; None: the system's authorities, TLS 1.2.
        proxy: True: as the environment says when this is called (``wss_proxy``, ``no_proxy`` ...). None: none. A URL of
            one for every server: ``http://user:password@host:port``; ``https``, ``socks5h``, ``socks5``, ``socks4``.
        on_gap: What happens where messages cannot be replayed: ``raise``: ``recv()`` raises Gap (or SessionLost) in its
            place and goes on after it; ``report``: an event and a warning in the log; a function: called with it in the
            receiving thread, before the next message; what it raises comes out of ``recv()``, and it is called again.
        on_event: Called with every event (``resilient_ws.events``), in order, in a thread of its own.
        decoder: Makes ``message.data`` of a payload, in the receiving thread. What it raises comes out of ``recv()``;
            the message is tried again at the next call, ``Inbox.max_deliveries`` times in all, then reported and
            passed.
        open_timeout: Seconds for all attempts of this call together; None: for ever.
        wait: False: return at once; messages are accepted and go out when a server is reached.
        retry, failover, keepalive, outbox, inbox, wire: Groups of settings; see each.

    Returns:
        A Client that was welcomed; close it, or use it in a ``with`` block.

    Raises:
        ConnectError: No server was reached in time, with the last attempt's error as its cause; AccessDenied: refused.
        JournalError: The journal cannot be opened: it is in use, damaged, or must not be used (see the leaf).
        TypeError, ValueError: An argument is of the wrong type, or has a value that is not allowed.
        ImportError: A SOCKS proxy would be used, and the extra ``socks`` is not installed.
    """
    given = dict(locals())
    from resilient_ws.transport import dial

    return open_client(check_arguments(**given), dial)


def open_client(arguments: Arguments, dialer: Dialer) -> Client:
    """Make a Client that reaches its servers by ``dialer(url, options, cancelled=)``, and wait as ``arguments`` say."""
    client = Client(arguments, dialer=dialer)
    try:
        start(client._driver, arguments)
    except BaseException:
        client.close()
        raise
    return client


@final
class Client:
    """
    An open session. Made by :func:`connect`; the constructor itself is for tests, which bring their own dialer.

    Any thread may send, several may receive. Iterating gives messages until the session ends.
    """

    def __init__(
        self, arguments: Arguments, *, dialer: Dialer, clock: Callable[[], float] = monotonic, rng: Any = None
    ) -> None:
        self._is_closed = False
        self._arguments = arguments
        self._dialer = dialer
        self._callbacks = Callbacks()
        self._events_dropped = 0
        self._driver = make_driver(arguments, self, self._callbacks, clock, rng or random.Random())
        self._performer = self._driver.performer
        self._session = self._performer.session
        self._persister = self._driver.persister
        parts: Any = {"driver": self._driver, "arguments": arguments, "end_error": weakly(self, Client._end_error)}
        self._receivers = Receivers(**parts)
        self._sender = Sender(**parts, is_only_receiver=self._receivers.is_only_mine)

    # -- receiving ----------------------------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None) -> Message:
        """
        Return the next message.

        With automatic acks, asking for the next message says that this thread is done with the one before.

        Args:
            timeout: Seconds; 0 looks once; None: as long as it takes.

        Raises:
            TimeoutError: Nothing came in time.
            Gap: Messages cannot be replayed here; the next call goes on after them.
            SessionLost: The server forgot the session; the next call goes on.
            SessionClosed: The Client was closed, or the server ended the session.
            ResilientWSError: What ended the session, if it was an error.
        """
        return self._receivers.receive(self, timeout)

    def recv_many(self, max: int = 100, timeout: float | None = None) -> list[Message]:
        """
        Return the messages that are there, at least one and at most ``max``; a gap ends the list and is raised next.

        Args:
            max: At most so many.
            timeout: Seconds to wait for the first one; as in :meth:`recv`.
        """
        if isinstance(max, bool) or not isinstance(max, int) or max < 1:
            raise ValueError(f"recv_many(max={max!r}): must be a whole number, 1 or more")
        return self._receivers.receive_many(self, max, timeout)

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            return self._receivers.receive(self, None)
        except SessionClosed:
            if self._performer.failure is not None or self._session.error is not None:
                raise
            raise StopIteration from None

    def _end_error(self) -> Exception:
        what = "this Client is closed" if self._is_closed else "the session has ended"
        return self._performer.failure or self._session.error or SessionClosed(f"{what}; open a new one")

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, data: Payload | bytearray | memoryview, stream: str | None = None) -> Receipt:
        """
        Accept a message; it is sent, and sent again after a loss, until the server has committed it.

        Args:
            data: ``str`` is sent as text, bytes-like data as binary (copied where it could change).
            stream: Name of the stream; None: the one that ``connect(stream=)`` named.

        Returns:
            A receipt, which tells whether the message was committed.

        With a journal the message is on the disk when this returns (``Outbox.sync``).

        Raises:
            OutboxFull: No room, as ``Outbox.policy`` says; nothing was accepted.
            JournalFull, JournalFailed: The journal's disk has no room (nothing was accepted), or failed.
            Rejected: Larger than a message may be; nothing was accepted.
            SessionClosed: The Client is closed or drains.
            SlowConsumer: This thread would wait for room that only its own receiving can make.
        """
        return Receipt(*self._sender.send(data, stream), self)

    def send_json(self, value: Any, stream: str | None = None) -> Receipt:
        """Send ``value`` as JSON text; otherwise as :meth:`send`."""
        return self.send(compact_json(value), stream)

    def flush(self, timeout: float | None = None) -> None:
        """
        Wait until everything that was sent before this call is committed.

        Raises:
            TimeoutError: Not everything yet; it is still on its way.
            Undelivered: The session ended before.
        """
        self._sender.flush(timeout)

    # -- streams ------------------------------------------------------------------------------------------------------

    def subscribe(self, stream: str, start: Start = "now", timeout: float | None = 10.0) -> None:
        """
        Receive a stream; returns when the server has answered, or the journal knows where it was (no Position given).

        Raises:
            TimeoutError: No answer yet; the subscription is asked for until :meth:`unsubscribe`. JournalFull: likewise.
            ResilientWSError: The server refused it.
        """
        check_stream_name(stream)
        check_start(start)
        with self._performer.step() as now:
            self._sender.check_open()
            self._session.subscribe(stream, start, now)
        self._receivers.forget(stream)
        self._follow(durable=True)

        def is_answered(now: float) -> bool:
            found = self._session.subscription(stream)
            if isinstance(found, Exception):
                raise found
            if self._performer.has_ended:
                raise self._end_error()
            return found != "pending"

        if not self._driver.pump(is_answered, self._driver.deadline(timeout)):
            raise TimeoutError(f"{stream!r}: no answer yet; it is asked for until unsubscribe(){self._session.trouble}")

    def unsubscribe(self, stream: str) -> None:
        """Give a stream up; what was received of it and not given yet is dropped."""
        check_stream_name(stream)
        with self._performer.step() as now:
            self._sender.check_open()
            self._session.unsubscribe(stream, now)
        self._receivers.forget(stream)
        self._follow(durable=True)

    def _follow(self, *, durable: bool = False) -> None:
        """Have written what there is for a journal, and carry out what follows from a step."""
        if self._persister is not None:
            self._persister.secure_all(durable=durable)
        self._performer.perform()

    def position(self, stream: str) -> Position | None:
        """Return how far a stream is acked, to be given to ``subscribe=`` later; None before the server answered."""
        with self._performer.step() as now:
            self._receivers.tell_progress(now)
            return self._session.position(stream)

    # -- ending -------------------------------------------------------------------------------------------------------

    def drain(self, timeout: float | None = None) -> None:
        """
        Accept nothing more, wait until everything is committed, and end.

        Raises:
            TimeoutError: Not yet; it goes on.
            Undelivered: The session ended before.
        """
        self._sender.drain(timeout)
        self.close()

    def close(self, flush_timeout: float = 0.0) -> None:
        """
        End the Client; a thread that waits in any of its methods returns at once.

        What has no ack then has none for ever: see ``flush_timeout``, :meth:`flush`, :meth:`drain`. The server is told
        (``bye``), since nothing could resume the session: nobody else has its token. With a journal both wait for the
        next Client that opens it, and the server keeps the session for its time to live. A second call does nothing.

        Args:
            flush_timeout: Seconds to wait for acks before.
        """
        self._close(flush_timeout)

    def end_session(self) -> None:
        """Close, and have the cluster forget the session at once, whoever might still resume it."""
        self._close(is_end=True)

    def _close(self, flush_timeout: float = 0.0, *, leave_timeout: float = LEAVE_TIMEOUT, is_end: bool = False) -> None:
        driver, performer = self._driver, self._performer
        if performer.is_forked or process.is_ending_for_good():
            return
        if flush_timeout > 0 and not self._is_closed:
            session = self._session
            driver.pump(lambda now: session.is_flushed or performer.has_ended, driver.deadline(flush_timeout))
        self._is_closed = self._receivers.is_closed = self._sender.is_closed = True
        # A journal's session goes on in the next Client that opens it; without one nobody else has the token.
        if driver.end(end=is_end or self._persister is None):
            driver.pump(lambda now: performer.connections.are_gone, performer.clock() + leave_timeout)
            if self._persister is not None:
                self._persister.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_closed or self._performer.is_forked:
            return
        if kind is not None:
            self._close(leave_timeout=0.0)  # the keeper waits for the answer to our close frame
            return
        try:
            self.flush(EXIT_FLUSH_TIMEOUT)
        except TimeoutError:
            if self._persister is None:
                self._sender.raise_undelivered()
        finally:
            self.close()

    def __del__(self) -> None:
        # A finalizer may run in the middle of anything, so it takes no lock: the keeper closes.
        performer = getattr(self, "_performer", None)  # __init__ may have failed
        if performer is None or self._is_closed or performer.has_ended or performer.is_forked or process.is_ending():
            return
        text = f"unclosed {self!r}: use it in a with block, or call close()"
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)
        self._driver.orphan()

    # -- questions ----------------------------------------------------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The session's id; None before the first welcome."""
        return self._session.session_id

    @property
    def connected(self) -> bool:
        """Whether there is a welcomed connection at this moment."""
        return self._session.connected

    @property
    def guarantee(self) -> str:
        """What this Client promises with this server, in a sentence."""
        return guarantee_of(self._arguments.dialect.capabilities, has_journal=self._persister is not None)

    def stats(self) -> dict[str, Any]:
        """Return counters and sizes of this moment."""
        with self._performer.step() as now:
            told, who, lost = self._session.stats(now), self._receivers, self._events_dropped
            return {**told, "delivered": told["delivered"] - who.waiting, "events_dropped": lost, "receivers": len(who)}

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else self._session.state.value
        return f"<resilient_ws.Client {state}, {len(self._arguments.urls)} endpoint(s)>"

    # -- Owner: what messages and receipts ask ------------------------------------------------------------------------

    def _ack(self, message: Message) -> None:
        with self._performer.step() as now:
            self._receivers.ack(message, now)
        self._follow()

    def _outcome(self, receipt: Receipt) -> Exception | bool:
        return self._sender.outcome(receipt)

    def _wait(self, receipt: Receipt, timeout: float | None) -> None:
        self._sender.wait_for(receipt, timeout)

    def _when_done(self, receipt: Receipt, callback: Callable[[Receipt], object]) -> None:
        with self._performer.step():
            self._callbacks.add(receipt, callback)
        self._performer.perform()

    def _report(self, event: Event) -> None:
        """Tell the log and the user of an event."""
        log(event)
        on_event = self._arguments.on_event
        if on_event is not None and not dispatcher.post(on_event, event):
            self._events_dropped += 1
