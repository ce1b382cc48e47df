"""
The steps of one session and what follows from them: the one lock, the performer and the dials.

The session decides under the lock; nothing slow and no user code runs there. One thread at a time, the *performer*,
carries out what was decided, outside the lock and in order; whoever finds another one at it leaves it to that one.
Nothing here reads a socket.

A user's interrupt (Ctrl-C) may come between any two lines. What was in hand then is treated as a lost connection; where
it came into the middle of a step, nobody knows what the session holds: it ends and says so, it never guesses.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from resilient_ws import attempts, dispatcher, process
from resilient_ws.callbacks import Callbacks
from resilient_ws.clock import monotonic
from resilient_ws.dialects import Codec
from resilient_ws.events import Event
from resilient_ws.exceptions import (
    ConnectError,
    ConnectionLost,
    Forked,
    RemoteProtocolError,
    ResilientWSError,
    SessionClosed,
)
from resilient_ws.session import Action, Dial, Discover, FetchToken, Session, Shut, Write
from resilient_ws.state import SessionState
from resilient_ws.wired import Connections, Opener, Transport, Wired

LEAVE_TIMEOUT = 1.0
"""Seconds that a peer has to answer our close frame."""

_FORKED = "this Client was opened before a fork and belongs to the parent process; open a new one"

_log = logging.getLogger("resilient_ws.driver")


@attrs.define(eq=False)
class _Written:
    """What became of a write: everything is out, some of it waits in the transport, or the connection is dead."""

    wired: Wired
    is_out: bool
    error: Exception | None = None


@attrs.define(eq=False, kw_only=True)
class Performer:
    """
    A session under its lock. Every use of ``session`` and ``connections`` needs ``lock``.

    Attributes:
        opener: Opens a transport.
        make_codec: Makes the codec of a new connection.
        listener: Called with what happened, never under the lock; must not raise.
        callbacks: What waits for the fate of messages; posted to the dispatcher after every step.
        nudge: Called under the lock when all is carried out: those who wait may have to wait differently.
        ask: Has a question of the session's answered; called outside the lock, and returns at once.
        persist: Called under the lock where the journal is to be written.
        failure: What ended the Client beside the session.
    """

    session: Session
    opener: Opener
    make_codec: Callable[[], Codec]
    listener: Callable[[list[Event]], None]
    callbacks: Callbacks
    clock: Callable[[], float] = monotonic
    nudge: Callable[[], None] = attrs.field(default=lambda: None)
    persist: Callable[[], None] = attrs.field(default=lambda: None)
    ask: Callable[[FetchToken | Discover], None] = attrs.field(default=lambda action: None)
    lock: Any = attrs.field(factory=threading.Lock)
    connections: Connections = attrs.field(factory=Connections)
    failure: Exception | None = None
    _generation: int = attrs.field(factory=process.generation)
    _todo: deque[Action] = attrs.field(factory=deque)
    _events: list[Event] = attrs.field(factory=list)
    _performer: int | None = None
    _is_changing: bool = False
    _is_collecting: bool = False
    _in_hand: Action | None = None
    _last_conn: int = 0

    # -- steps --------------------------------------------------------------------------------------------------------

    @property
    def is_forked(self) -> bool:
        return self._generation != process.generation()

    @property
    def has_ended(self) -> bool:
        return self.failure is not None or self.session.state is SessionState.ENDED

    @contextlib.contextmanager
    def look(self) -> Iterator[float]:
        """
        Hold the lock to look at the session; gives ``now``. Whoever changes it meanwhile does so in :meth:`change`.

        A generator, because an interrupt at any point of it still frees the lock.

        Raises:
            Forked: This is another process than the one that opened the Client.
        """
        if self.is_forked:
            raise Forked(_FORKED)
        with self.lock:
            self._mend()
            yield self.clock()

    @contextlib.contextmanager
    def step(self) -> Iterator[float]:
        """Hold the lock for a step of the session; gives ``now``. Follow it by :meth:`perform`."""
        with self.look() as now:
            self._is_changing = True
            try:
                yield now
            except Exception:
                self._is_changing = False
                raise
            self._is_changing = False

    def change(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make one change of the session, with the lock held by :meth:`look`; an interrupt in it is noticed."""
        self._is_changing = True
        try:
            result = call(*args)
        except Exception:
            self._is_changing = False
            raise
        self._is_changing = False
        return result

    def act(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make one change, ``call(*args, now)``; as :meth:`look` and :meth:`change` do, for what is done often."""
        if self.is_forked:
            raise Forked(_FORKED)
        with self.lock:
            if self._is_changing or self._is_collecting:
                self._mend()
            return self.change(call, *args, self.clock())

    def _mend(self) -> None:
        """Deal with what an interrupt has torn; the lock is held."""
        if self._is_changing and self.failure is None:
            self._fail(SessionClosed("an interrupt (Ctrl-C) came in the middle of a step; open a new Client"))
        if self._is_collecting:
            # What was decided for these connections is lost, and nothing else: a hello on a new one settles it.
            error = ConnectionLost("an interrupt (Ctrl-C) came between a decision and its deed")
            unheard = range(self._last_conn + 1, self._last_conn + 4)  # dials that we were never told of
            for conn in (*self.connections.live, *self.connections.dialling, *unheard):
                self.connections.dialling.discard(conn)
                self.change(self.lose, conn, error, self.clock())
            self._is_collecting = False

    def settled(self) -> bool:
        """Take what the session decided; says whether :meth:`perform` is this thread's to do; the lock is held."""
        self._is_changing = False
        self._is_collecting = True
        self._todo.extend(self.session.actions())
        self._events.extend(self.session.events())
        self._is_collecting = False
        if self.session.persist_due:
            self.persist()
        if self.callbacks:
            for call, receipt in self.callbacks.done(self.session.outcome):
                dispatcher.promise(call, receipt)
        if not self._todo and not self._events:
            return False
        return self._performer is None or self._performer == threading.get_ident()

    # -- performing ---------------------------------------------------------------------------------------------------

    def perform(self) -> None:
        """Carry out what the session decided; if another thread is at it, it does ours too."""
        action: Action | None = None
        written: _Written | None = None
        try:
            while (taken := self._take(action, written)) is not None:
                found, action = taken
                if found:
                    self.listener(found)
                written = None if action is None else self._carry_out(action)
        except BaseException:
            if self._performer == threading.get_ident():
                self._drop()
            raise

    def _take(self, done: Action | None, written: _Written | None) -> tuple[list[Event], Action | None] | None:
        """Tell what became of the last write and take what is next; None where this thread has nothing more to do."""
        me = threading.get_ident()
        with self.lock:
            # Our own number here is this perform(), or one of this thread that an interrupt ended.
            if self._performer is not None and self._performer != me:
                return None
            self._performer = me
            self._mend()
            if written is not None:
                self.change(self._report, written, self.clock())
            stale, self._in_hand = self._in_hand, None
            if stale is not None and stale is not done:  # of a perform() that two interrupts ended
                self.change(self.lose, stale.conn, ConnectionLost("the writing thread was interrupted"), self.clock())
            if not self.settled():
                self._performer = None
                self.nudge()
                return None
            found, self._events = self._events, []
            if self._todo:
                self._in_hand = self._todo[0]  # first, so that an interrupt finds it in one of the two places
                self._todo.popleft()
            return found, self._in_hand

    def _drop(self) -> None:
        """Give up what an interrupt left half done."""
        with self.step() as now:
            action, self._in_hand, self._performer = self._in_hand, None, None
            if action is None:
                return
            if self._todo and self._todo[0] is action:
                self._todo.popleft()
            self.connections.dialling.discard(action.conn)
            self.lose(action.conn, ConnectionLost("the writing thread was interrupted"), now)

    def _carry_out(self, action: Action) -> _Written | None:
        if isinstance(action, Write):
            return self._write(action)
        if isinstance(action, Dial):
            self._dial(action)
        elif isinstance(action, Shut):
            self._shut(action)
        else:
            self.ask(action)
        return None

    def _write(self, action: Write) -> _Written | None:
        wired = self.connections.live.get(action.conn)
        if wired is None:
            return None
        try:
            return _Written(wired, wired.transport.write(wired.codec.encode(action.items)))
        except (ConnectionLost, MemoryError) as lost:
            return _Written(wired, False, lost)
        except Exception as failed:  # a dialect's bug ends the connection, not the thread that happens to write
            _log.exception("resilient_ws.encoding_failed")
            return _Written(wired, False, ConnectionLost(f"the dialect's encoder failed with {type(failed).__name__}"))

    def _report(self, written: _Written, now: float) -> None:
        wired = written.wired
        wired.progress(now)
        if written.error is not None:
            self.lose(wired.conn, written.error, now)
        elif written.is_out:
            self.check_written(wired.conn, now)

    def check_written(self, conn: int, now: float) -> None:
        """Tell the session that everything is out, if nothing is on its way to the transport; in a step."""
        if not any(isinstance(action, Write) and action.conn == conn for action in self._todo):
            self.session.written(conn, now)

    def lose(self, conn: int, error: Exception, now: float) -> None:
        """End a connection that is dead, with a close frame where it is we who end it; in a step."""
        wired = self.connections.pop(conn)
        if wired is not None and isinstance(error, RemoteProtocolError):
            self._leave(wired, error.code, str(error)[:120], now)
        elif wired is not None:
            wired.retire()
        self.session.connection_lost(conn, error, now)

    def _leave(self, wired: Wired, code: int, reason: str, now: float) -> None:
        self.connections.leaving.append(wired)
        wired.leave(code, reason, now + LEAVE_TIMEOUT)

    def _shut(self, action: Shut) -> None:
        with self.step() as now:
            self.connections.dialling.discard(action.conn)
            wired = self.connections.pop(action.conn)
            if wired is not None:
                self._leave(wired, action.code, action.reason, now)

    # -- dialling -----------------------------------------------------------------------------------------------------

    def _dial(self, action: Dial) -> None:
        dialling = self.connections.dialling
        with self.lock:
            dialling.add(action.conn)
            self._last_conn = max(self._last_conn, action.conn)
        try:
            attempts.start(lambda: self._open(action))
        except RuntimeError as error:
            failed = ConnectError(f"no thread could be started to dial in ({error})")
            with self.step() as now:
                dialling.discard(action.conn)
                self.session.connection_lost(action.conn, failed, now)

    def _open(self, action: Dial) -> None:
        dialling = self.connections.dialling
        transport: Transport | None = None
        error: BaseException | None = None
        if action.conn in dialling:
            try:
                transport = self.opener(action, lambda: action.conn not in dialling)
            except BaseException as failed:  # sys.exit() in a user's headers= too: the session has to know
                error = failed
        with self.step() as now:
            is_wanted = action.conn in dialling
            dialling.discard(action.conn)
            if is_wanted and transport is not None:
                self.connections.add(Wired(action.conn, transport, self.make_codec()))
                self.session.connection_made(action.conn, now, _node_of(transport))
            elif is_wanted:
                self.session.connection_lost(action.conn, _dial_error(error), now)
        if transport is not None and not is_wanted:
            transport.shut()
            transport.release()
        self.perform()

    # -- ending -------------------------------------------------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """End: something happened that must not happen."""
        with self.lock:
            self._fail(error)
        self.perform()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._is_changing = False
        with contextlib.suppress(Exception):  # nobody knows what the session can still do
            self.session.close(self.clock())
        self.connections.retire_all()
        self.nudge()


def _node_of(transport: Transport) -> str:
    """Return the node that the answer to the upgrade names, empty where it names none."""
    return next((value for name, value in transport.headers if name == "resilient-node"), "")


def _dial_error(error: BaseException | None) -> Exception:
    if isinstance(error, ResilientWSError):
        return error
    what = type(error).__name__
    failed = ConnectError(f"the dial failed with {what}; if headers= raised it, look there")
    failed.__cause__ = error
    return failed
