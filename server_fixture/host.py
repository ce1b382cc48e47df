"""
One node's inside: its connections, what wakes and warns them, the clock of the backplane, its health, and its leaving;
and when it speaks to the others of its store.

Here lives what all connections of a node share. One connection's driving is in ``serving.py``, HTTP is in ``app.py``,
decisions are the pure session's. Rule numbers are those of ``docs/protocol.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

import attrs

from server_fixture.backplane import BUCKETS, Announced, Answer, Backplane, BackplaneError, Fence, Request, Tick
from server_fixture.entering import NodeSettings
from server_fixture.neighbours import Neighbours
from server_fixture.stalls import note_stalls

TICK = 1.0
"""Seconds between two ticks of every bucket's clock (rule 1), at the most."""
SILENT = 0.4
"""Part of the ttl without an answer after which the store counts as out of reach (rule 1)."""
_log = logging.getLogger("server_fixture.node")


class Guest(Protocol):
    """What the host needs of a connection that it serves."""

    def woken(self, stream: str) -> None: ...

    def fence_raised(self, session: str, fence: Fence) -> None: ...

    def store_silent(self) -> None: ...

    def advised(self, settings: NodeSettings) -> None: ...

    def drain(self, within: float, jitter: float) -> None: ...

    def abort(self) -> None: ...


@attrs.define(eq=False)
class Host:
    """
    What the connections of one node share.

    Args:
        settings: The node's; what it advises to clients is brought up to date here.
        neighbours: The other nodes of the store.
        backplane: Started and closed here.
        clock: Monotonic seconds.
    """

    settings: NodeSettings
    neighbours: Neighbours
    backplane: Backplane
    clock: Callable[[], float]
    is_draining: bool = False
    is_store_silent: bool = False
    guests: set[Guest] = attrs.field(factory=set)
    _sessions: dict[str, set[Guest]] = attrs.field(factory=dict)
    _watchers: dict[str, set[Guest]] = attrs.field(factory=dict)
    _changed: asyncio.Queue[tuple[str, asyncio.Future[None]]] = attrs.field(factory=asyncio.Queue)
    _tasks: list[asyncio.Task[None]] = attrs.field(factory=list)
    _empty: asyncio.Event = attrs.field(factory=asyncio.Event)
    _answered_at: float = 0.0

    async def start(self) -> None:
        """
        Begin to hear of appends and fences, to tick, and to be known to the other nodes.

        Raises:
            BackplaneError: The store cannot be reached.
        """
        await self.backplane.start(self._on_wake, self._on_fence)
        self._answered_at = self.clock()
        await self._announce()
        duties = (self._tick(), self._mind_silence(), self._keep_watches(), self._keep_announcing())
        self._tasks = [asyncio.create_task(work) for work in (*duties, note_stalls(self.clock))]

    async def stop(self) -> None:
        """End every connection that is left, say good-bye to the other nodes, and hear nothing any more."""
        for guest in list(self.guests):
            guest.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.is_store_silent:
            await self.ask(self.neighbours.farewell())
        await self.backplane.close()

    # -- the store ----------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Answer | BackplaneError:
        """Perform one step; an error means that its outcome is unknown."""
        try:
            answer = await self.backplane.run(request)
        except BackplaneError as error:
            return error
        except Exception:
            _log.exception("step_failed request=%s", type(request).__name__)
            return BackplaneError("the node failed on this step; its outcome is unknown")
        self._answered_at = self.clock()
        return answer

    async def _tick(self) -> None:
        """Advance every bucket's clock; the answers show as well that the store is there."""
        while True:
            await asyncio.gather(*(self.ask(Tick(bucket=bucket)) for bucket in range(BUCKETS)))
            await asyncio.sleep(self._pause)

    @property
    def _pause(self) -> float:
        # An idle node hears from the store by its ticks alone, so with a short ttl they have to come more often.
        return min(TICK, SILENT * self.settings.ttl / 4)

    async def _mind_silence(self) -> None:
        """Judge whether neither a hello nor an append can be served, because no answer came for too long (rule 1)."""
        while True:
            planned = self.clock() + self._pause
            await asyncio.sleep(self._pause)
            now = self.clock()
            self._answered_at += max(0.0, now - planned)  # for so long it was we who stood still, not the store
            is_silent = now - self._answered_at >= SILENT * self.settings.ttl
            if is_silent != self.is_store_silent:
                _log.warning("store_silent" if is_silent else "store_answers")
                self.is_store_silent = is_silent
            if is_silent:
                for guest in list(self.guests):
                    guest.store_silent()

    # -- the other nodes ----------------------------------------------------------------------------------------------

    async def _keep_announcing(self) -> None:
        while True:
            await asyncio.sleep(self.neighbours.interval)
            await self._announce()

    async def _announce(self) -> None:
        """Say that we live, hear who else does, and tell the clients what follows from it."""
        answer = await self.ask(self.neighbours.announcement(self.sessions, self.is_draining))
        if isinstance(answer, Announced):
            self.neighbours.heard(answer.others, self.clock())
        self.settings = self._advising(self.sessions)
        for guest in list(self.guests):
            guest.advised(self.settings)

    def _advising(self, sessions: int) -> NodeSettings:
        now = self.clock()
        return attrs.evolve(
            self.settings, spread=self.neighbours.spread(sessions, now), peers=self.neighbours.peers(now)
        )

    def for_newcomer(self) -> NodeSettings:
        """Return the settings for one session more than there are."""
        return self._advising(self.sessions + 1)

    # -- wake-ups and fences ------------------------------------------------------------------------------------------

    def watch(self, stream: str, guest: Guest) -> asyncio.Future[None]:
        """Wake this connection after appends to ``stream``; the future is done when that is in force."""
        self._watchers.setdefault(stream, set()).add(guest)
        return self._change(stream)

    def unwatch(self, stream: str, guest: Guest) -> None:
        """Wake it no more."""
        guests = self._watchers.get(stream, set())
        guests.discard(guest)
        if not guests:
            self._watchers.pop(stream, None)
            self._change(stream)

    def _change(self, stream: str) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.put_nowait((stream, done))
        return done

    async def _keep_watches(self) -> None:
        """Bring the backplane's watches to what is wanted, one change at a time, so that none overtakes another."""
        watched: set[str] = set()
        while True:
            stream, done = await self._changed.get()
            is_wanted = stream in self._watchers
            try:
                if is_wanted and stream not in watched:
                    watched.add(stream)
                    await self.backplane.watch(stream)
                elif not is_wanted and stream in watched:
                    watched.discard(stream)
                    await self.backplane.unwatch(stream)
            except Exception:
                # Without a wake-up the session's poll finds what was appended, only later.
                _log.exception("watch_failed")
            if not done.done():
                done.set_result(None)

    def _on_wake(self, stream: str) -> None:
        for guest in list(self._watchers.get(stream, ())):
            guest.woken(stream)

    def _on_fence(self, session: str, fence: Fence) -> None:
        for guest in list(self._sessions.get(session, ())):
            guest.fence_raised(session, fence)

    # -- connections --------------------------------------------------------------------------------------------------

    def joined(self, guest: Guest) -> None:
        """A connection is served from now on; one whose upgrade was under way when the drain began has to go."""
        self.guests.add(guest)
        if self.is_draining:
            guest.drain(0.0, 0.0)

    def welcomed(self, guest: Guest, session: str) -> None:
        """The connection belongs to this session: fences raised for it concern it."""
        self._sessions.setdefault(session, set()).add(guest)

    def left(self, guest: Guest, session: str | None) -> None:
        """The connection is over."""
        self.guests.discard(guest)
        if session is not None:
            guests = self._sessions.get(session, set())
            guests.discard(guest)
            if not guests:
                self._sessions.pop(session, None)
        if not self.guests:
            self._empty.set()

    @property
    def sessions(self) -> int:
        """How many sessions have a connection here."""
        return len(self._sessions)

    async def drain(self, within: float) -> None:
        """
        Take nobody in any more, ask everybody to leave, and wait until they left or the time is over.

        They are asked to leave one after the other, over the window in which the other nodes can take them.

        Args:
            within: Seconds that the clients get; who stays longer is closed 1012, after what he sent is acked.
        """
        self.is_draining = True
        _log.info("draining connections=%d within=%g", len(self.guests), within)
        self._empty.clear()
        jitter = min(self._advising(self.sessions).spread, within / 2)
        for guest in list(self.guests):
            guest.drain(within, jitter)
        await self._announce()
        if self.guests:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within + self.settings.keepalive_timeout + 2.0)
