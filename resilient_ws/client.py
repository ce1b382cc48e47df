"""
``connect()`` and :class:`Client`: what a user holds, on top of the driver of one session.

Everything that waits here pumps the sockets meanwhile (``driver.py``). The user's functions run in the thread that
receives (``decoder``, ``on_gap``) or in the dispatcher (``on_event``, callbacks), never under a lock.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

from resilient_ws import dispatcher, instrumentation, process
from resilient_ws.arguments import (
    AccessToken,
    Arguments,
    HeadersArgument,
    OnGap,
    Subscribe,
    check_arguments,
    check_outbound,
    check_start,
)
from resilient_ws.callbacks import Callbacks
from resilient_ws.config import Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.dialling import DialOptions
from resilient_ws.driver import LEAVE_TIMEOUT, Driver, Transport
from resilient_ws.events import Event, Message, Receipt
from resilient_ws.exceptions import (
    ConnectError,
    ConnectTimeout,
    OutboxFull,
    ResilientWSError,
    SessionClosed,
    SlowConsumer,
    Undelivered,
)
from resilient_ws.frames import Payload, Position, Start, check_stream_name
from resilient_ws.receiving import Receiver
from resilient_ws.session import Session
from resilient_ws.state import SessionState

EXIT_FLUSH_TIMEOUT = 10.0
"""Seconds that leaving a ``with`` block waits for acks."""

Dialer = Callable[..., Transport]


def connect(
    urls: str | Sequence[str],
    *,
    subscribe: Subscribe = (),
    stream: str | None = None,
    dialect: Any = None,
    headers: HeadersArgument = None,
    access_token: AccessToken = None,
    ssl: Any = None,
    proxy: bool | None = True,
    on_gap: OnGap = "raise",
    on_event: Callable[[Event], object] | None = None,
    decoder: Callable[[Payload], Any] | None = None,
    open_timeout: float | None = 10.0,
    wait: bool = True,
    retry: Retry = Retry(),
    failover: Failover = Failover(),
    keepalive: Keepalive = Keepalive(),
    outbox: Outbox = Outbox(),
    inbox: Inbox = Inbox(),
    wire: Wire = Wire(),
) -> Client:
    """
    Open a session with one of several servers, and go on over another one when that is lost.

    Args:
        urls: One ``wss://`` URL or several that serve the same streams (``ws://`` to this machine only, see ``Wire``).
        subscribe: Streams to receive: names, or {name: "now" | "earliest" | Position}. A name alone means "now".
        stream: Where ``send()`` goes when it is not told.
        dialect: What the server speaks; None: ``native``.
        headers: Sent with every upgrade: a mapping, pairs, or a function that returns them (it may block).
        access_token: Sent as ``Authorization: Bearer``, never in a URL; a function is asked before every dial.
        ssl: Context for ``wss://``; None: the system's authorities, TLS 1.2 or newer.
        proxy: Not supported yet: True or None.
        on_gap: What happens where messages cannot be replayed: ``raise``: ``recv()`` raises Gap (or SessionLost) in its
            place and goes on after it; ``report``: an event and a warning in the log; a function: called with it in the
            receiving thread, before the next message; what it raises comes out of ``recv()``, and it is called again.
        on_event: Called with every event (``resilient_ws.events``), in order, in a thread of its own.
        decoder: Makes ``message.data`` of a payload, in the receiving thread. What it raises comes out of ``recv()``; the
            message is tried again at the next call, ``Inbox.max_deliveries`` times in all, then reported and passed.
        open_timeout: Seconds for all attempts of this call together; None: for ever.
        wait: False: return at once; messages are accepted and go out when a server is reached.
        retry, failover, keepalive, outbox, inbox, wire: Groups of settings; see each.

    Returns:
        A Client that was welcomed; close it, or use it in a ``with`` block.

    Raises:
        ConnectError: No server was reached in time; the cause is the last attempt's error.
        AccessDenied: The server refused who we are.
        TypeError: An argument is of the wrong type.
        ValueError: An argument has a value that is not allowed.
    """
    from resilient_ws.transport import dial

    given = locals()
    arguments = check_arguments(given.pop("urls"), **{name: value for name, value in given.items() if name != "dial"})
    return open_client(arguments, dial)


def open_client(arguments: Arguments, dialer: Dialer) -> Client:
    """Make a Client that reaches its servers by ``dialer(url, options, cancelled=)``, and wait as ``arguments`` say."""
    client = Client(arguments, dialer=dialer)
    try:
        client._start()
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """
    An open session. Made by :func:`connect`; the constructor itself is for tests, which bring their own dialer.

    Any thread may send, several may receive. Iterating gives messages until the session ends.
    """

    def __init__(
        self, arguments: Arguments, *, dialer: Dialer, clock: Callable[[], float] = time.monotonic, rng: Any = None
    ) -> None:
        self._is_closed = False
        self._arguments = arguments
        self._callbacks = Callbacks()
        self._threads = threading.local()
        self._receivers = 0
        self._events_dropped = 0
        self._driver = Driver(
            session=_make_session(arguments, clock(), random.Random() if rng is None else rng),
            opener=_make_opener(arguments, dialer),
            make_codec=arguments.dialect.client,
            listener=_make_listener(weakref.ref(self)),
            callbacks=self._callbacks,
            write_timeout=arguments.wire.write_timeout,
            clock=clock,
        )
        self._session = self._driver.session

    def _start(self) -> None:
        arguments = self._arguments
        deadline = self._deadline(arguments.open_timeout)
        self._driver.start()
        if arguments.wait and not self._driver.pump(self._is_open, deadline):
            cause = self._session.last_error
            raise ConnectTimeout(
                f"no welcome from {len(arguments.urls)} endpoint(s) within open_timeout={arguments.open_timeout:g} s"
                + (f"; the last attempt: {cause}" if cause is not None else "")
            ) from cause

    def _is_open(self, now: float) -> bool:
        error = self._session.error
        if isinstance(error, ConnectError):
            raise error
        if error is not None:
            raise ConnectError(f"the session was refused: {error}") from error
        if self._driver.has_ended and not self._session.welcomed_once:
            raise self._end_error()
        return self._session.welcomed_once

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._driver.clock() + timeout

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
        receiver = self._receiver()
        deadline = self._deadline(timeout)
        while True:
            if self._is_closed or not receiver.has_items:
                self._fetch(receiver, 1, deadline)
            message = receiver.next(self)
            if message is not None:
                return message

    def recv_many(self, max: int = 100, timeout: float | None = None) -> list[Message]:
        """
        Return the messages that are there, at least one and at most ``max``; a gap ends the list and is raised next.

        Args:
            max: At most so many.
            timeout: Seconds to wait for the first one; as in :meth:`recv`.
        """
        if isinstance(max, bool) or not isinstance(max, int) or max < 1:
            raise ValueError(f"recv_many(max={max!r}): must be a whole number, 1 or more")
        receiver = self._receiver()
        deadline = self._deadline(timeout)
        while True:
            if self._is_closed or not receiver.has_items:
                self._fetch(receiver, max, deadline)
            messages = receiver.next_many(self, max)
            if messages:
                return messages

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            return self.recv()
        except SessionClosed:
            if self._driver.failure is not None or self._session.error is not None:
                raise
            raise StopIteration from None

    def _receiver(self) -> Receiver:
        receiver: Receiver | None = getattr(self._threads, "receiver", None)
        if receiver is None:
            with self._driver.enter():
                self._receivers += 1
                receiver = self._threads.receiver = Receiver(self._receivers, self._arguments)
        return receiver

    def _fetch(self, receiver: Receiver, limit: int, deadline: float | None) -> None:
        session = self._session

        def take(now: float) -> bool:
            if self._is_closed:
                raise self._end_error()
            taken = session.take(limit, receiver.number, now)
            if taken:
                receiver.items.extend(taken)
                return True
            if self._driver.has_ended:
                raise self._end_error()
            return False

        is_there = self._driver.pump(take, deadline)
        self._driver.perform()
        if not is_there:
            raise TimeoutError("no message came in time; the session goes on")

    def _end_error(self) -> Exception:
        error = self._driver.failure or self._session.error
        if error is not None:
            return error
        if self._is_closed:
            return SessionClosed("this Client is closed; open a new one")
        return SessionClosed("the session has ended; open a new Client")

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, data: Payload | bytearray | memoryview, stream: str | None = None) -> Receipt:
        """
        Accept a message; it is sent, and sent again after a loss, until the server has committed it.

        Args:
            data: ``str`` is sent as text, bytes-like data as binary (copied where it could change).
            stream: Name of the stream; None: the one that ``connect(stream=)`` named.

        Returns:
            A receipt, which tells whether the message was committed.

        Raises:
            OutboxFull: No room, as ``Outbox.policy`` says; nothing was accepted.
            Rejected: Larger than a message may be; nothing was accepted.
            SessionClosed: The Client is closed or drains.
            SlowConsumer: This thread would wait for room that only its own receiving can make.
        """
        payload = data if type(data) is bytes else _payload(data)
        name = self._arguments.stream if stream is None else check_outbound(stream)
        if name is None:
            raise ValueError("send() does not know where to: pass stream= here, or to connect()")
        driver, session = self._driver, self._session
        try:
            with driver.enter() as now:
                self._check_open()
                producer, seq = session.send(name, payload, now)
        except OutboxFull as full:
            if self._arguments.outbox.policy != "block":
                raise
            producer, seq = self._send_later(name, payload, full)
        driver.perform()
        return Receipt(producer, name, seq, self)

    def _send_later(self, name: str, payload: Payload, full: OutboxFull) -> tuple[str, int]:
        accepted: list[tuple[str, int]] = []
        last = full

        def attempt(now: float) -> bool:
            nonlocal last
            self._check_open()
            try:
                accepted.append(self._session.send(name, payload, now))
            except OutboxFull as still_full:
                last = still_full
                self._check_slow_consumer()
            return bool(accepted)

        if not self._driver.pump(attempt, self._deadline(self._arguments.outbox.send_timeout)):
            raise last
        return accepted[0]

    def _check_slow_consumer(self) -> None:
        session = self._session
        is_only_receiver = self._receivers <= 1 and (self._receivers == 0 or hasattr(self._threads, "receiver"))
        if session.inbox_full and not session.capabilities.credit and is_only_receiver:
            limit = self._arguments.inbox.max_messages
            raise SlowConsumer(session.stats()["inbox"][0], limit)

    def _check_open(self) -> None:
        if self._is_closed or self._driver.has_ended:
            raise self._end_error()

    def send_json(self, value: Any, stream: str | None = None) -> Receipt:
        """Send ``value`` as JSON text; otherwise as :meth:`send`."""
        return self.send(json.dumps(value, ensure_ascii=False, separators=(",", ":")), stream)

    def flush(self, timeout: float | None = None) -> None:
        """
        Wait until everything that was sent is committed.

        Raises:
            TimeoutError: Not everything yet; it is still on its way.
            Undelivered: The session ended before.
        """
        session = self._session
        if not self._driver.pump(lambda now: session.is_flushed or self._driver.has_ended, self._deadline(timeout)):
            raise TimeoutError(f"{session.outbox_size[0]} messages have no ack yet; they are still on their way")
        self._raise_undelivered()

    def _raise_undelivered(self) -> None:
        with self._driver.enter():
            unacked = self._session.unacked
            error = self._session.error
        if unacked:
            raise Undelivered(unacked) from error

    # -- streams ------------------------------------------------------------------------------------------------------

    def subscribe(self, stream: str, start: Start = "now", timeout: float | None = 10.0) -> None:
        """
        Receive a stream from now on; returns when the server has answered.

        Raises:
            TimeoutError: No answer yet; the subscription is asked for until :meth:`unsubscribe`.
            ResilientWSError: The server refused it.
        """
        check_stream_name(stream)
        check_start(start)
        with self._driver.enter() as now:
            self._check_open()
            self._session.subscribe(stream, start, now)
        self._driver.perform()

        def is_answered(now: float) -> bool:
            found = self._session.subscription(stream)
            if isinstance(found, Exception):
                raise found
            if self._driver.has_ended:
                raise self._end_error()
            return found != "pending"

        if not self._driver.pump(is_answered, self._deadline(timeout)):
            raise TimeoutError(f"no answer to the subscription of {stream!r} yet; it is asked for until unsubscribe()")

    def unsubscribe(self, stream: str) -> None:
        """Give a stream up; what was received of it and not taken is dropped."""
        check_stream_name(stream)
        with self._driver.enter() as now:
            self._check_open()
            self._session.unsubscribe(stream, now)
        self._driver.perform()

    def position(self, stream: str) -> Position | None:
        """Return how far a stream is acked, to be given to ``subscribe=`` later; None before the server answered."""
        with self._driver.enter():
            return self._session.position(stream)

    # -- ending -------------------------------------------------------------------------------------------------------

    def drain(self, timeout: float | None = None) -> None:
        """
        Accept nothing more, wait until everything is committed, and end.

        Raises:
            TimeoutError: Not yet; it goes on.
            Undelivered: The session ended before.
        """
        with self._driver.enter() as now:
            if not self._driver.has_ended:
                self._session.drain(now)
        self._driver.perform()
        if not self._driver.pump(lambda now: self._driver.has_ended, self._deadline(timeout)):
            raise TimeoutError(f"{self._session.outbox_size[0]} messages have no ack yet; the session drains on")
        self._raise_undelivered()
        self.close()

    def close(self, flush_timeout: float = 0.0) -> None:
        """
        End the Client; a thread that waits in any of its methods returns at once.

        What has no ack then has none for ever: see ``flush_timeout``, :meth:`flush` and :meth:`drain`. The cluster keeps the
        session until its time is over; see :meth:`end_session`. A second call does nothing.

        Args:
            flush_timeout: Seconds to wait for acks before.
        """
        self._close(flush_timeout, end=False)

    def end_session(self) -> None:
        """Say ``bye`` and close: the cluster forgets the session at once."""
        self._close(0.0, end=True)

    def _close(self, flush_timeout: float, *, end: bool) -> None:
        driver = self._driver
        if driver.is_forked or process.is_ending_for_good():
            return
        if flush_timeout > 0 and not self._is_closed:
            session = self._session
            driver.pump(lambda now: session.is_flushed or driver.has_ended, self._deadline(flush_timeout))
        if not driver.end(end=end):
            # A signal handler of this very thread came into the middle of a step: the keeper closes after it.
            self._is_closed = True
            return
        self._is_closed = True
        driver.perform()
        driver.pump(lambda now: driver.has_left, driver.clock() + LEAVE_TIMEOUT * 1.5)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_closed or self._driver.is_forked:
            return
        if kind is not None:
            self.close()
            return
        try:
            self.flush(EXIT_FLUSH_TIMEOUT)
        except TimeoutError:
            self._close_undelivered()
        finally:
            self.close()

    def _close_undelivered(self) -> NoReturn:
        with self._driver.enter():
            unacked = self._session.unacked
        raise Undelivered(unacked) from None

    def __del__(self) -> None:
        # A finalizer may run in the middle of anything, so it takes no lock: the keeper closes.
        driver: Driver | None = getattr(self, "_driver", None)
        if driver is None or self._is_closed or driver.has_ended or driver.is_forked or process.is_ending():
            return
        warnings.warn(f"unclosed {self!r}: use it in a with block, or call close()", ResourceWarning, source=self, stacklevel=2)
        driver.orphan()

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
        can = self._arguments.dialect.capabilities
        inbound = "in order per stream, exactly once in one life of this Client" if can.positions else "as they come; gaps cannot be seen"
        outbound = "in order per stream, exactly once while this Client lives" if can.acks else "at most once"
        return f"Inbound: {inbound} (at least once for the message in hand when the process dies). Outbound: {outbound}."

    def stats(self) -> dict[str, Any]:
        """Return counters and sizes of this moment."""
        with self._driver.enter():
            return {**self._session.stats(), "events_dropped": self._events_dropped, "receivers": self._receivers}

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else self._session.state.value
        return f"<resilient_ws.Client {state}, {len(self._arguments.urls)} endpoint(s)>"

    # -- Owner: what messages and receipts ask ------------------------------------------------------------------------

    def _ack(self, message: Message) -> None:
        with self._driver.enter() as now:
            self._session.ack(message.stream, message.epoch, message.offset, message._tag, now)
        self._driver.perform()

    def _outcome(self, receipt: Receipt) -> Exception | bool:
        with self._driver.enter():
            return self._session.outcome(receipt.producer, receipt.stream, receipt.seq)

    def _wait(self, receipt: Receipt, timeout: float | None) -> None:
        session, (producer, stream, seq) = self._session, (receipt.producer, receipt.stream, receipt.seq)
        if not self._driver.pump(lambda now: session.outcome(producer, stream, seq) is not False, self._deadline(timeout)):
            raise TimeoutError(f"message {seq} of stream {stream!r} has no ack yet; it is still on its way")

    def _when_done(self, receipt: Receipt, callback: Callable[[Receipt], object]) -> None:
        with self._driver.enter():
            self._callbacks.add(receipt, callback)
        self._driver.perform()

    def _report(self, event: Event) -> None:
        """Report an event of our own to the log and the user."""
        _report(self, event)


def _payload(data: object) -> Payload:
    if isinstance(data, str):
        if not data.isascii():
            data.encode()  # a lone surrogate is refused here, not in some other thread later
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, (dict, list, tuple, int, float, type(None))):
        raise TypeError(f"send() takes str or bytes, not {type(data).__name__}; send_json() sends it as JSON")
    raise TypeError(f"send() takes str or bytes, not {type(data).__name__}")


def _make_session(arguments: Arguments, now: float, rng: Any) -> Session:
    return Session(
        urls=arguments.urls,
        subscribe=arguments.subscribe,
        retry=arguments.retry,
        failover=arguments.failover,
        keepalive=arguments.keepalive,
        outbox=arguments.outbox,
        inbox=arguments.inbox,
        wire=arguments.wire,
        capabilities=arguments.dialect.capabilities,
        gaps="report" if arguments.on_gap == "report" else "raise",
        instance=secrets.token_hex(16),
        producer=secrets.token_hex(16),
        rng=rng,
        now=now,
    )


def _make_opener(arguments: Arguments, dialer: Dialer) -> Callable[[str, float, Callable[[], bool]], Transport]:
    def open_transport(url: str, timeout: float, cancelled: Callable[[], bool]) -> Transport:
        options: DialOptions = arguments.dial_options(timeout)
        return dialer(url, options, cancelled=cancelled)

    return open_transport


def _make_listener(client: weakref.ref[Client]) -> Callable[[list[Event]], None]:
    # The driver is kept by the keeper, so it must not keep the Client: one that was dropped open would never be noticed.
    def listen(found: list[Event]) -> None:
        for event in found:
            _report(client(), event)

    return listen


def _report(client: Client | None, event: Event) -> None:
    if instrumentation.is_logged(event):
        dispatcher.post(instrumentation.log_event, event)
    on_event = None if client is None else client._arguments.on_event
    if client is not None and on_event is not None and not dispatcher.post(on_event, event):
        client._events_dropped += 1
