"""
Drives one pure session: the one lock, the reader ticket, the performer, the dials and the clock.

The session decides under the lock; nothing slow and no user code runs there. *Reader ticket*: whoever holds it waits for
the sockets and reads them; other threads wait for the condition and take the ticket when it is free. *Performer*: one
thread at a time carries out what the session decided, outside the lock and in order. No message is looked into here.

A user's interrupt (Ctrl-C) may come between any two lines. Whatever was in hand then is treated as a lost connection,
and where it came into the middle of a step of the session, the session ends and says so: never a guess.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Protocol

import attrs

from resilient_ws import attempts, dispatcher, process
from resilient_ws.callbacks import Callbacks
from resilient_ws.dialects import Codec
from resilient_ws.events import Event
from resilient_ws.exceptions import (
    ConnectError,
    ConnectionLost,
    Forked,
    LocalProtocolError,
    RemoteProtocolError,
    ResilientWSError,
    SessionClosed,
)
from resilient_ws.keeper import Keeper, Waiter, Watch, keeper_for, waiters
from resilient_ws.session import Dial, Session, Shut, Write
from resilient_ws.state import SessionState

USER_IDLE = 0.05
"""Seconds after which the keeper reads for a user who does not."""
LEAVE_TIMEOUT = 1.0
"""Seconds that a peer has to answer our close frame."""
_KEEPER = -1

_log = logging.getLogger("resilient_ws.client")


class Transport(Protocol):
    """What is driven: see ``transport.py``."""

    @property
    def has_buffered(self) -> bool: ...

    @property
    def wants_write(self) -> bool: ...

    @property
    def buffered_bytes(self) -> int: ...

    def fileno(self) -> int: ...

    def receive(self) -> list[str | bytes]: ...

    def write(self, messages: Sequence[str | bytes]) -> bool: ...

    def flush(self) -> bool: ...

    def close(self, code: int = 1000, reason: str = "") -> None: ...

    def shut(self) -> None: ...

    def release(self) -> None: ...


Opener = Callable[[str, float, Callable[[], bool]], Transport]
"""``(url, timeout, cancelled) -> transport``; blocks, in a thread of its own."""


@attrs.define(eq=False)
class Wired:
    """
    A connection's number with its transport and codec.

    Attributes:
        watchers: How many selectors have it; it is released when there is none.
        stuck_since: Since when written bytes wait for the kernel without any progress; None: nothing waits.
        leave_at: Until when the answer to our close frame is awaited; None: it is not leaving.
    """

    conn: int
    transport: Transport
    codec: Codec
    watchers: int = 0
    stuck_since: float | None = None
    stuck_bytes: int = 0
    leave_at: float | None = None
    is_retired: bool = False

    def fileno(self) -> int:
        return self.transport.fileno()

    def unwatched(self) -> None:
        if self.is_retired:
            self.transport.release()

    def retire(self) -> None:
        """End it; the descriptor is closed when no selector has it."""
        self.is_retired = True
        self.transport.shut()
        if self.watchers == 0:
            self.transport.release()

    def events(self, reads: bool) -> int:
        return (EVENT_READ if reads else 0) | (EVENT_WRITE if self.transport.wants_write else 0)

    def progress(self, now: float) -> None:
        """Note whether the kernel took some of what waits."""
        left = self.transport.buffered_bytes if self.transport.wants_write else 0
        if left == 0:
            self.stuck_since = None
        elif self.stuck_since is None or left < self.stuck_bytes:
            self.stuck_since = now
        self.stuck_bytes = left


@attrs.define(eq=False)
class _Arrived:
    """What one read brought, on its way to the session."""

    wired: Wired
    items: list[Any] = attrs.field(factory=list)
    error: Exception | None = None


@attrs.define(eq=False, kw_only=True)
class Driver:
    """
    The shell around one :class:`~resilient_ws.session.Session`.

    Every read of ``session`` needs ``lock``. After an input the caller calls :meth:`perform`, without the lock.

    Attributes:
        opener: Opens a transport.
        make_codec: Makes the codec of a new connection.
        listener: Called with what happened, never under the lock; must not raise.
        callbacks: What waits for the fate of messages; posted to the dispatcher after every step.
        write_timeout: Seconds without progress after which a connection whose peer does not read is lost.
    """

    session: Session
    opener: Opener
    make_codec: Callable[[], Codec]
    listener: Callable[[list[Event]], None]
    callbacks: Callbacks
    write_timeout: float
    clock: Callable[[], float] = time.monotonic
    lock: Any = attrs.field(factory=threading.Lock)
    failure: Exception | None = None
    _changed: threading.Condition = attrs.field(init=False)
    _keeper: Keeper = attrs.field(init=False)
    _generation: int = attrs.field(factory=process.generation)
    _wired: dict[int, Wired] = attrs.field(factory=dict)
    _leaving: list[Wired] = attrs.field(factory=list)
    _dialling: set[int] = attrs.field(factory=set)
    _buffered: set[Wired] = attrs.field(factory=set)
    _todo: deque[Any] = attrs.field(factory=deque)
    _events: list[Event] = attrs.field(factory=list)
    _performer: int | None = None
    # -- who reads: see attend()
    _reader: int | None = None
    _waiter: Waiter | None = None
    _is_sleeping: bool = False
    _is_kept: bool = False
    _is_armed: bool = True
    _turns: int = 0
    _seen_turns: int = -1
    _left_at: float = 0.0
    _planned: float | None = None
    _is_inside: bool = False

    def __attrs_post_init__(self) -> None:
        self._changed = threading.Condition(self.lock)
        try:
            self._keeper = keeper_for(self)
        except RuntimeError as error:
            raise ConnectError(f"the keeper thread cannot be started ({error}); free some threads and try again") from error

    # -- for the Client -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Dial."""
        with self.enter() as now:
            self.session.connect(now)
            self._left_at = now
        self.perform()
        self._keeper.ask(self, now + USER_IDLE)

    @property
    def is_forked(self) -> bool:
        return self._generation != process.generation()

    @property
    def has_ended(self) -> bool:
        return self.failure is not None or self.session.state is SessionState.ENDED

    @contextlib.contextmanager
    def enter(self) -> Any:
        """
        Hold the lock for a step of the session; gives ``now``.

        Raises:
            Forked: This is another process than the one that opened the Client.
        """
        if self.is_forked:
            raise Forked("this Client was opened before a fork and belongs to the parent process; open a new one in the child")
        with self.lock:
            self.begin()
            try:
                yield self.clock()
            except Exception:
                self._is_inside = False
                raise
            self._is_inside = False

    def begin(self) -> None:
        """Note, under the lock, that a step of the session begins; what was torn by an interrupt ends here."""
        if self._is_inside and self.failure is None:
            self._fail(SessionClosed("an interrupt (Ctrl-C) came in the middle of a step of the session; open a new Client"))
        self._is_inside = True

    def settled(self) -> bool:
        """Note, under the lock, that the step is over; returns whether :meth:`perform` has something to do."""
        self._collect()
        self._is_inside = False
        return bool(self._todo or self._events)

    def pump(self, ready: Callable[[float], bool], deadline: float | None) -> bool:
        """
        Wait until ``ready(now)`` is true, reading the sockets meanwhile if nobody else does.

        Args:
            ready: Called under the lock, again after everything that happens; what it raises is passed on.
            deadline: Until when; the sockets are looked at once in any case.

        Returns:
            Whether it became true.
        """
        is_last = False
        while True:
            with self.enter() as now:
                if ready(now):
                    return True
                if is_last:
                    return False
                is_last = deadline is not None and now >= deadline
                is_ours = self._reader is None or self._reader == threading.get_ident()
                if is_ours:
                    self._reader = threading.get_ident()
            if is_ours:
                self._turn(deadline)
            else:
                self._wait_for_reader(ready, deadline)

    def _wait_for_reader(self, ready: Callable[[float], bool], deadline: float | None) -> None:
        with self._changed:
            if self._reader is not None and not ready(self.clock()):
                self._changed.wait(None if deadline is None else max(0.0, deadline - self.clock()))

    # -- reading ------------------------------------------------------------------------------------------------------

    def _turn(self, deadline: float | None) -> None:
        """Wait for the sockets once and take what came; the ticket is ours, and is given back in any case."""
        try:
            with self.lock:
                waiter, timeout = self._prepare(deadline)
            ready = waiter.wait(timeout)
            self._is_sleeping = False
            self._take_in(ready)
        finally:
            with self.lock:
                now = self._left_at = self.clock()
                self._reader = None
                self._is_sleeping = False
                self._turns += 1
                is_new, self._is_armed = not self._is_armed, True
                self._changed.notify_all()
            if is_new:
                self._keeper.ask(self, now + USER_IDLE)

    def _prepare(self, deadline: float | None) -> tuple[Waiter, float | None]:
        if self._is_kept:
            # The keeper still has the sockets in its selector; it drops them when it looks next.
            self._is_kept = self._is_armed = False
        if self._waiter is None:
            self._waiter = waiters.get()
        self._waiter.watch.sync(self._wanted())
        now = self.clock()
        self._planned = at = self._next_deadline()
        if deadline is not None:
            at = deadline if at is None else min(at, deadline)
        self._is_sleeping = True
        if self._buffered:
            return self._waiter, 0.0
        return self._waiter, None if at is None else max(0.0, at - now)

    def _wanted(self) -> dict[Any, int]:
        # Without credit the bound of the inbox is held by not reading (the kernel's window then stops the peer).
        reads = self.session.capabilities.credit or not self.session.inbox_full
        wanted = {wired: wired.events(reads) for wired in self._wired.values()}
        wanted.update((wired, wired.events(True)) for wired in self._leaving)
        return {wired: events for wired, events in wanted.items() if events}

    def _next_deadline(self) -> float | None:
        due = [wired.leave_at for wired in self._leaving if wired.leave_at is not None]
        due += [wired.stuck_since + self.write_timeout for wired in self._wired.values() if wired.stuck_since is not None]
        at = self.session.next_deadline()
        if at is not None:
            due.append(at)
        return min(due, default=None)

    def _take_in(self, ready: Sequence[Wired]) -> None:
        """Read and decode without the lock, then tell the session; the ticket is ours."""
        sockets = dict.fromkeys(ready)
        if self._buffered:
            sockets.update(dict.fromkeys(self._buffered))
        arrived: list[_Arrived] = []
        try:
            for wired in sockets:
                one = _Arrived(wired)
                arrived.append(one)
                self._read(one)
        except BaseException:
            # What was read and not told to the session yet would be missing without a trace.
            for one in arrived:
                one.error = one.error or ConnectionLost("the reading thread was interrupted")
                one.items = []
            self._tell(arrived)
            raise
        self._tell(arrived)
        self.perform()

    def _read(self, one: _Arrived) -> None:
        wired = one.wired
        if wired.is_retired:
            return
        try:
            if wired.transport.wants_write:
                wired.transport.flush()
            messages = wired.transport.receive()
            if messages and wired.leave_at is None:
                one.items = wired.codec.decode(messages)
                one.error = wired.codec.failure
        except (ResilientWSError, MemoryError) as error:
            one.error = error
        except Exception as error:
            _log.exception("resilient_ws.decoding_failed")
            one.error = RemoteProtocolError(f"the dialect's decoder failed with {type(error).__name__}")

    def _tell(self, arrived: Sequence[_Arrived]) -> None:
        with self.enter() as now:
            for one in arrived:
                self._tell_one(one, now)
            self._run_timers(now)
            self._collect()
            self._changed.notify_all()

    def _tell_one(self, one: _Arrived, now: float) -> None:
        wired = one.wired
        self._buffered.discard(wired)
        if wired.is_retired:
            return
        if wired.leave_at is not None:
            if one.error is not None:
                self._leaving.remove(wired)
                wired.retire()
            return
        wired.progress(now)
        if one.items:
            self.session.received(wired.conn, one.items, now)
        else:
            self.session.heard(wired.conn, now)
        if one.error is not None:
            self._lose(wired, one.error, now)
            return
        if not wired.transport.wants_write:
            self._check_written(wired.conn, now)
        if wired.transport.has_buffered:
            self._buffered.add(wired)

    def _run_timers(self, now: float) -> None:
        at = self.session.next_deadline()
        if at is not None and at <= now:
            self.session.handle_timer(now)
        for wired in [wired for wired in self._leaving if wired.leave_at is not None and wired.leave_at <= now]:
            self._leaving.remove(wired)
            wired.retire()
        for wired in list(self._wired.values()):
            if wired.stuck_since is not None and now - wired.stuck_since >= self.write_timeout:
                text = f"the server took nothing for {self.write_timeout:g} s (Wire.write_timeout)"
                self._lose(wired, ConnectionLost(text), now)

    def _lose(self, wired: Wired, error: Exception, now: float) -> None:
        """End a connection that is dead, with a close frame where we are the one that ends it."""
        if self._wired.pop(wired.conn, None) is None:
            return
        self._buffered.discard(wired)
        if isinstance(error, RemoteProtocolError):
            self._leave(wired, error.code, str(error)[:120], now)
        else:
            wired.retire()
        self.session.connection_lost(wired.conn, error, now)

    def _leave(self, wired: Wired, code: int, reason: str, now: float) -> None:
        wired.leave_at = now + LEAVE_TIMEOUT
        self._leaving.append(wired)
        try:
            wired.transport.close(code, reason)
        except ValueError:  # not a code that may stand in a close frame
            wired.transport.close(1002, reason)

    # -- performing ---------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        self._todo.extend(self.session.actions())
        self._events.extend(self.session.events())
        if self.callbacks:
            for call, receipt in self.callbacks.done(self.session.outcome):
                dispatcher.post(call, receipt)

    def perform(self) -> None:
        """Carry out what the session decided; if another thread is at it, it does ours too."""
        me = threading.get_ident()
        with self.lock:
            # Our own number here means that an interrupt hit an earlier perform() of this thread.
            if self._performer is not None and self._performer != me:
                return
            self._performer = me
        action: Any = None
        try:
            while True:
                with self.lock:
                    self._collect()
                    if not self._todo and not self._events:
                        self._performer = None
                        self._nudge()
                        return
                    found, self._events = self._events, []
                    action = self._todo.popleft() if self._todo else None
                if found:
                    self.listener(found)
                if action is not None:
                    self._carry_out(action)
        except BaseException:
            self._abandon_action(action)
            raise

    def _abandon_action(self, action: Any) -> None:
        with self.lock:
            self._performer = None
            if action is None or self.is_forked:
                return
            error = ConnectionLost("the writing thread was interrupted")
            wired = self._wired.get(action.conn)
            if wired is not None:
                self._lose(wired, error, self.clock())
            else:
                self.session.connection_lost(action.conn, error, self.clock())

    def _nudge(self) -> None:
        """Wake whoever waits, if it would now have to wait differently; the lock is held."""
        self._changed.notify_all()
        at = self._next_deadline()
        is_earlier = at is not None and (self._planned is None or at < self._planned)
        if self._is_sleeping and self._waiter is not None:
            if is_earlier or self.has_ended or not self._is_in_step(self._waiter.watch):
                self._waiter.wake()
        elif self._is_kept or not self._is_armed:
            if self._reader is None:
                self._keeper.ask(self)

    def _is_in_step(self, watch: Watch) -> bool:
        return not self._buffered and watch.has(self._wanted())

    def _carry_out(self, action: Dial | Write | Shut) -> None:
        if isinstance(action, Write):
            self._write(action)
        elif isinstance(action, Dial):
            self._dial(action)
        else:
            self._shut(action)

    def _write(self, action: Write) -> None:
        wired = self._wired.get(action.conn)
        if wired is None:
            return
        error: Exception | None = None
        is_out = False
        try:
            is_out = wired.transport.write(wired.codec.encode(action.items))
        except LocalProtocolError as refused:
            _log.exception("resilient_ws.encoding_failed")
            error = ConnectionLost(f"the dialect could not encode: {refused}")
        except (ResilientWSError, MemoryError) as lost:
            error = lost
        with self.lock:
            now = self.clock()
            wired.progress(now)
            if error is not None:
                self._lose(wired, error, now)
            elif is_out:
                self._check_written(action.conn, now)

    def _check_written(self, conn: int, now: float) -> None:
        """Tell the session that everything is out, if nothing is on its way to the transport."""
        if not any(isinstance(action, Write) and action.conn == conn for action in self._todo):
            self.session.written(conn, now)

    def _shut(self, action: Shut) -> None:
        with self.lock:
            self._dialling.discard(action.conn)
            wired = self._wired.pop(action.conn, None)
            if wired is not None:
                self._buffered.discard(wired)
                self._leave(wired, action.code, action.reason, self.clock())

    # -- dialling -----------------------------------------------------------------------------------------------------

    def _dial(self, action: Dial) -> None:
        with self.lock:
            self._dialling.add(action.conn)
        try:
            attempts.start(lambda: self._open(action))
        except RuntimeError as error:
            failed = ConnectError(f"no thread could be started to dial in ({error})")
            with self.lock:
                self._dialling.discard(action.conn)
                self.session.connection_lost(action.conn, failed, self.clock())

    def _open(self, action: Dial) -> None:
        transport: Transport | None = None
        error: Exception | None = None
        if action.conn in self._dialling:
            try:
                transport = self.opener(action.url, action.timeout, lambda: action.conn not in self._dialling)
            except Exception as failed:
                error = failed
        with self.lock:
            if action.conn not in self._dialling:
                if transport is not None:
                    transport.shut()
                    transport.release()
                return
            self._dialling.discard(action.conn)
            now = self.clock()
            if transport is None:
                self.session.connection_lost(action.conn, _dial_error(error), now)
            else:
                self._wire(action.conn, transport, now)
        self.perform()

    def _wire(self, conn: int, transport: Transport, now: float) -> None:
        wired = self._wired[conn] = Wired(conn, transport, self.make_codec())
        if transport.has_buffered:
            self._buffered.add(wired)
        self.session.connection_made(conn, now)

    # -- being kept ---------------------------------------------------------------------------------------------------

    def attend(self, watch: Watch, ready: list[Any], now: float) -> float | None:
        """
        Read for a user who has not read for a while; called by the keeper's thread.

        While a user's thread waits for the sockets itself it runs the timers too, and the keeper is not needed: it looks
        once more after a while and then not again until it is asked (``_is_armed``).
        """
        with self.lock:
            now = self.clock()
            if self._reader is not None or (not self._is_kept and now < self._left_at + USER_IDLE):
                watch.sync({})
                return self._look_again(now)
            self._reader, self._is_kept, self._is_armed = _KEEPER, True, True
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                waiter.watch.sync({})
                waiters.put(waiter)
        try:
            self._take_in(ready)
        finally:
            with self.lock:
                self._reader = None
                self._changed.notify_all()
                watch.sync(self._wanted())
                self._planned = at = self._next_deadline()
        return now if self._buffered else at

    def _look_again(self, now: float) -> float | None:
        if self._reader is None:
            return self._left_at + USER_IDLE
        if self._is_sleeping and self._seen_turns == self._turns:
            self._is_armed = False
            return None
        self._seen_turns = self._turns
        return now + USER_IDLE

    def fail(self, error: Exception) -> None:
        """End: something happened that must not happen."""
        with self.lock:
            self._fail(error)
        self.perform()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._is_inside = False
        with contextlib.suppress(Exception):
            self.session.close(self.clock())
        for wired in [*self._wired.values(), *self._leaving]:
            wired.retire()
        self._wired.clear()
        self._leaving.clear()
        self._buffered.clear()
        self._changed.notify_all()

    # -- ending -------------------------------------------------------------------------------------------------------

    @property
    def has_left(self) -> bool:
        """Whether no connection is left, the leaving ones included; the lock is held."""
        return not self._wired and not self._leaving

    def end(self, *, end: bool) -> bool:
        """
        End the session.

        Returns:
            False where this thread may hold the lock itself, below a signal handler: then the keeper does it.
        """
        if not self.lock.acquire(timeout=1.0):
            self._keeper.hand_over(self.abandon)
            return False
        try:
            self.session.close(self.clock(), end=end)
            self._changed.notify_all()
        finally:
            self.lock.release()
        return True

    def abandon(self) -> None:
        """Close without waiting for anything; for a Client that was dropped open."""
        with self.lock:
            self.session.close(self.clock())
        self.perform()
        with self.lock:
            for wired in self._leaving:
                wired.retire()
            self._leaving.clear()
        self._keeper.ask(self)

    def orphan(self) -> None:
        """Have :meth:`abandon` done by the keeper; for a finalizer, which may take no lock."""
        if not self.is_forked:
            self._keeper.hand_over(self.abandon)

    def leave_behind(self) -> None:
        """Forked: close our copies of the descriptors; the parent's connections go on. No lock: nobody can free it."""
        for wired in [*self._wired.values(), *self._leaving]:
            wired.transport.release()
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.close()


def _dial_error(error: Exception | None) -> Exception:
    if isinstance(error, ResilientWSError):
        return error
    failed = ConnectError(f"the dial failed with {type(error).__name__}; if it was raised by headers= or access_token=, look there")
    failed.__cause__ = error
    return failed
