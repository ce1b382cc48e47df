"""
Who reads: the reader ticket of one Client, handed between its users' threads and the keeper.

Whoever holds the ticket waits for the sockets, reads and decodes them without the lock, and tells the session; the
others wait for the condition and take the ticket when it is free. So there is no hand-over between threads on the fast
path: the thread that waits for a message reads it. What follows from a step is the performer's (``performing.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from resilient_ws.bell import Bell
from resilient_ws.exceptions import ConnectError, ConnectionLost
from resilient_ws.keeper import Keeper, Waiter, Watch, keeper_for, waiters
from resilient_ws.performing import Performer
from resilient_ws.persisting import Persister
from resilient_ws.wired import Arrived, Wired

USER_IDLE = 0.05
"""Seconds after which the keeper reads for a user who does not."""
_KEEPER = -1


@attrs.define(eq=False, kw_only=True)
class Driver:
    """
    The reader ticket around one performer.

    Attributes:
        performer: Has the session and the lock.
        write_timeout: Seconds without progress after which a connection whose peer does not read is lost.
        before_timers: Called in a step with ``now`` before the session's timers run.
        persister: Writes the journal, where there is one.

    The ticket is ``_reader``: a thread's number, _KEEPER, or None. ``_is_kept``: the keeper has the sockets in its
    selector. ``_is_armed``: the keeper will look at us by itself, so a thread that stops reading need not ask it.
    """

    performer: Performer
    write_timeout: float
    before_timers: Callable[[float], None] = attrs.field(default=lambda now: None)
    persister: Persister | None = None
    _changed: Bell = attrs.field(factory=Bell, init=False)
    _keeper: Keeper = attrs.field(init=False)
    _reader: int | None = None
    _waiter: Waiter | None = None
    _is_sleeping: bool = False
    _is_kept: bool = False
    _is_armed: bool = True
    _turns: int = 0
    _seen_turns: int = -1
    _left_at: float = 0.0
    _kept: Watch | None = None
    _planned: float | None = None
    _untold: list[Arrived] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.performer.nudge = self._nudge
        try:
            self._keeper = keeper_for(self)
        except RuntimeError as error:
            text = f"the keeper thread cannot be started ({error}); free some threads and try again"
            raise ConnectError(text) from error

    def start(self) -> None:
        """Dial."""
        with self.performer.step() as now:
            self.performer.session.connect(now)
            self._left_at = now
        self.performer.perform()
        self._keeper.ask(self, now + USER_IDLE)

    def deadline(self, timeout: float | None) -> float | None:
        """Return when so many seconds from now are over, None where that is never."""
        return None if timeout is None else self.performer.clock() + timeout

    # -- waiting ------------------------------------------------------------------------------------------------------

    def pump(self, ready: Callable[[float], bool], deadline: float | None) -> bool:
        """
        Wait until ``ready(now)`` is true, reading the sockets meanwhile if nobody else does.

        Args:
            ready: Called under the lock, again after everything that happens; what it raises is passed on. Where it
                changes the session it does so by ``Performer.change``.
            deadline: Until when; the sockets are looked at once in any case.

        Returns:
            Whether it became true.
        """
        # In a signal handler above a wait of this thread: that one has to look again, what it waits for may be over.
        below = self._waiter if self._reader == threading.get_ident() else None
        try:
            return self._pump(ready, deadline)
        finally:
            if below is not None:
                below.wake()
            if self._reader == threading.get_ident():
                self._surely_give_back()

    def _pump(self, ready: Callable[[float], bool], deadline: float | None) -> bool:
        is_last = False
        while True:
            plan = place = None
            with self.performer.look() as now:
                is_ready = ready(now)
                is_over = is_ready or is_last
                has_work = self.performer.settled()
                # What is looked at here must still hold when the wait begins, so it begins under the same lock.
                if not has_work:
                    is_last = deadline is not None and now >= deadline
                    plan = self._plan(is_over, deadline)
                    place = self._changed.enter() if plan is None and not is_over else None
            if has_work:
                self.performer.perform()
            if is_over:
                return is_ready
            if plan is not None:
                self._turn(*plan)
            elif place is not None:
                self._changed.wait(place, None if deadline is None else deadline - now)

    def _plan(self, is_over: bool, deadline: float | None) -> tuple[Waiter, float | None] | None:
        """Take the ticket if it is free and say what to wait for; the lock is held."""
        me = threading.get_ident()
        if is_over:
            self._nudge()
        # Our own number: an interrupt hit an earlier turn of this thread, or we are in a signal handler above one.
        elif self._reader is None or self._reader == me:
            self._reader = me
            return self._prepare(deadline)
        return None

    def _turn(self, waiter: Waiter, timeout: float | None) -> None:
        """Wait for the sockets once and take what came; the ticket is ours."""
        ready = waiter.wait(timeout)
        self._is_sleeping = False
        self._take_in(ready)

    def _surely_give_back(self) -> None:
        try:
            self._give_back()
        except BaseException:  # an interrupt: nobody would read any more
            self._give_back()
            raise

    def _give_back(self) -> None:
        with self.performer.lock:
            now = self.performer.clock()
            if self._reader == threading.get_ident():
                self._left_at = now
                self._reader = None
                self._is_sleeping = False
                if self.performer.connections.are_gone:
                    self._put_waiter_back()
            is_unarmed, self._is_armed = not self._is_armed, True
            if is_unarmed:
                self._keeper.ask(self, now + USER_IDLE)
            self._changed.ring()

    def _prepare(self, deadline: float | None) -> tuple[Waiter, float | None]:
        if self._is_kept:
            # The keeper still has the sockets in its selector; it drops them when it looks next.
            self._is_kept = self._is_armed = False
        if self._waiter is not None and self._waiter.watch.is_torn:
            self._waiter.close()
            self._waiter = None
        if self._waiter is None:
            self._waiter = waiters.get()
        self._waiter.watch.sync(self._wanted())
        now = self.performer.clock()
        self._planned = at = self._next_deadline()
        if deadline is not None:
            at = deadline if at is None else min(at, deadline)
        self._is_sleeping = True
        self._turns += 1
        if self.performer.connections.buffered or self._untold:
            return self._waiter, 0.0
        return self._waiter, None if at is None else max(0.0, at - now)

    def _wanted(self) -> dict[Wired, int]:
        # Without credit the bound of the inbox is held by not reading: the kernel's window then stops the peer.
        session = self.performer.session
        return self.performer.connections.wanted(reads=session.capabilities.credit or not session.inbox_full)

    def _next_deadline(self) -> float | None:
        ours = self.performer.connections.next_deadline(self.write_timeout)
        at = self.performer.session.next_deadline()
        return at if ours is None else ours if at is None else min(ours, at)

    def _nudge(self) -> None:
        """Wake whoever waits, if it would now have to wait differently; the lock is held."""
        self._changed.ring()
        gathers_until = self.performer.session.gathers_until()
        if not self._is_sleeping and not self._is_kept and self._is_armed:
            # Somebody is about to look, but for gathered messages perhaps too late.
            if gathers_until is not None:
                self._keeper.ask(self, gathers_until)
            return
        if self._is_sleeping and self._waiter is not None:
            if self._is_out_of_step(self._waiter.watch):
                self._waiter.wake()
        elif self._reader is None and (not self._is_armed or self._is_out_of_step(self._kept)):
            self._keeper.ask(self)

    def _is_out_of_step(self, watch: Watch | None) -> bool:
        """Whoever waits by this watch would now wait for something else, or not as long."""
        at = self._next_deadline()
        # One that is due already: the machine slept, and a selector counts only the time that it was awake.
        is_earlier = at is not None and (self._planned is None or at < self._planned or at <= self.performer.clock())
        return is_earlier or self.performer.has_ended or watch is None or not self._is_in_step(watch)

    def _is_in_step(self, watch: Watch) -> bool:
        return not self.performer.connections.buffered and watch.has(self._wanted())

    # -- taking in ----------------------------------------------------------------------------------------------------

    def _take_in(self, ready: Sequence[Wired]) -> None:
        """Read and decode without the lock, then tell the session; the ticket is ours."""
        if self._untold:
            # An interrupt came between a read and its telling: without this the messages would be missing, unseen.
            for one in self._untold:
                one.items, one.error = [], ConnectionLost("the reading thread was interrupted")
            self._tell(self._untold)
        untold = self._untold = []
        for wired in dict.fromkeys([*ready, *self.performer.connections.buffered]):
            untold.append(Arrived(wired))
            wired.read_into(untold[-1])
        if self._tell(untold):
            self.performer.perform()

    def _tell(self, arrived: Sequence[Arrived]) -> bool:
        performer = self.performer
        with performer.look() as now:
            performer.change(self._tell_all, arrived, now)
            self._changed.ring()
            return performer.settled()

    def _tell_all(self, arrived: Sequence[Arrived], now: float) -> None:
        self._untold = []
        for one in arrived:
            self._tell_one(one, now)
        at = self._next_deadline()
        if at is not None and at <= now:
            self._run_timers(now)

    def _tell_one(self, one: Arrived, now: float) -> None:
        wired, performer = one.wired, self.performer
        if wired.is_retired:
            return
        if wired.leave_at is not None:
            if one.error is not None:
                performer.connections.leaving.remove(wired)
                wired.retire()
            return
        wired.progress(now)
        performer.connections.note_buffered(wired)
        if one.items:
            performer.session.received(wired.conn, one.items, now)
        else:
            performer.session.heard(wired.conn, now)
        if one.error is not None:
            performer.lose(wired.conn, one.error, now)
        elif not wired.transport.wants_write:
            performer.check_written(wired.conn, now)

    def _run_timers(self, now: float) -> None:
        performer = self.performer
        at = performer.session.next_deadline()
        if at is not None and at <= now:
            self.before_timers(now)
            performer.session.handle_timer(now)
        performer.connections.retire_leaving(now)
        for wired in performer.connections.stuck(now - self.write_timeout):
            text = f"the server took nothing for {self.write_timeout:g} s (Wire.write_timeout)"
            performer.lose(wired.conn, ConnectionLost(text), now)

    # -- being kept ---------------------------------------------------------------------------------------------------

    def attend(self, watch: Watch, ready: list[Any], now: float) -> float | None:
        """
        Read for a user who has not read for a while; called by the keeper's thread.

        While a user's thread waits for the sockets itself it runs the timers too, and the keeper is not needed: it
        looks once more after a while and then not again until it is asked (``_is_armed``).
        """
        with self.performer.lock:
            now = self.performer.clock()
            is_needed = self._reader is None and (self._is_kept or now >= self._left_at + USER_IDLE)
            if is_needed:
                self._reader, self._is_kept, self._is_armed = _KEEPER, True, True
                self._put_waiter_back()
        if not is_needed:
            return self._attend_shortly(watch)
        try:
            self._take_in(ready)
        finally:
            with self.performer.lock:
                self._reader = None
                self._kept = watch
                watch.sync(self._wanted())
                self._planned = at = self._next_deadline()
                self._changed.ring()
        return now if self.performer.connections.buffered else at

    def _attend_shortly(self, watch: Watch) -> float | None:
        """Leave the reading to the user's thread, and write what was gathered."""
        with self.performer.lock:
            now = self.performer.clock()
            watch.sync({})
            at, until = self._look_again(now), self.performer.session.hurry_if_due(now)
            has_work = self.performer.settled()
        if has_work:
            self.performer.perform()
        return min((when for when in (at, until) if when is not None), default=None)

    def _put_waiter_back(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and waiter.watch.is_torn:
            waiter.close()
        elif waiter is not None:
            waiter.watch.sync({})
            waiters.put(waiter)

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
        self.performer.fail(error)

    # -- ending -------------------------------------------------------------------------------------------------------

    def end(self, *, end: bool) -> bool:
        """
        End the session.

        Returns:
            False where this thread may hold the lock itself, below a signal handler: then the keeper does it.
        """
        lock = self.performer.lock
        if not lock.acquire(timeout=1.0):
            self._keeper.hand_over(self.abandon)
            return False
        try:
            self.performer.session.close(self.performer.clock(), end=end)
            self._changed.ring()
        finally:
            lock.release()
        self.performer.perform()
        return True

    def abandon(self) -> None:
        """Close without waiting for anything; for a Client that was dropped open."""
        with self.performer.step() as now:
            self.performer.session.close(now)
        self.performer.perform()
        with self.performer.lock:
            self.performer.connections.retire_all()
        self._keeper.ask(self)
        if self.persister is not None:
            self.persister.close_later()

    def orphan(self) -> None:
        """Have :meth:`abandon` done by the keeper; for a finalizer, which may take no lock."""
        self._keeper.hand_over(self.abandon)

    def leave_behind(self) -> None:
        """Forked: close our copies of the descriptors; the parent's connections go on. No lock: nobody can free it."""
        self.performer.connections.release_all()
        if self.persister is not None:
            self.persister.disk.leave_behind()
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.close()
