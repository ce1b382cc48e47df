"""Nodes: the real ``ServerSession`` on virtual connections, with its own clock, that dies, stands still, drains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient_ws.exceptions import ConnectError
from server_fixture.backplane import Answer, BackplaneError, Tick
from server_fixture.session import Call, Close, NodeSettings, Send, ServerSession, Unwatch, Watch
from tests.simulation.store import Store
from tests.simulation.wires import Wire
from tests.simulation.world import World

TTL = 12.0
KEY = b"k" * 32
FORBIDDEN_STREAM = "forbidden"
LARGEST = 400
STRANGER = "q"
"""A principal that is not the one of the sessions."""


class Node:
    """One server process."""

    def __init__(self, world: World, store: Store, name: str) -> None:
        self.world = world
        self.store = store
        self.name = name
        self.dice = world.dice(name)
        self.is_up = True
        self.is_paused = False
        self.is_draining = False
        self.life = 0
        self.dial_delay = 0.0
        self.revoked: set[str] = set()
        self.sessions: dict[Wire, ServerSession] = {}
        self.settings = NodeSettings(
            node=name, key=KEY, ttl=TTL, hello_timeout=3.0, keepalive_interval=1.0, keepalive_timeout=2.0,
            poll_interval=2.0, max_message=LARGEST,
        )  # fmt: skip
        self._ahead = self.dice.uniform(0.0, 1e6)
        self._watchers: dict[str, dict[Wire, None]] = {}
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._timers: dict[Wire, float] = {}
        self._answered_at = 0.0
        store.nodes.append(self)
        world.after(0.5, self._look_at_store, self.life)

    @property
    def now(self) -> float:
        """Its monotonic clock, which has nothing to do with anybody else's."""
        return self.world.now + self._ahead

    # -- what happens to it -------------------------------------------------------------------------------------------

    def accept(self, wire: Wire, principal: str = "p") -> None:
        self.sessions[wire] = ServerSession(self.settings, principal, self._authorize, self.dice, self.now)
        self._drive(wire)

    def _authorize(self, principal: str, verb: str, stream: str) -> bool:
        """Everybody may everything, but for one stream; the right to publish may be taken away for a while."""
        return stream != FORBIDDEN_STREAM and not (verb == "publish" and stream in self.revoked)

    def _alive(self, what: Callable[..., None], *args: Any) -> bool:
        """Postpone while paused."""
        if self.is_paused:
            self._waiting.append((what, args))
        return self.is_up and not self.is_paused

    def wire_received(self, wire: Wire, items: list[Any]) -> None:
        if self._alive(self.wire_received, wire, items) and wire in self.sessions:
            self.sessions[wire].received(items, self.now)
            self._drive(wire)

    def wire_lost(self, wire: Wire, error: Exception) -> None:
        if self._alive(self.wire_lost, wire, error) and wire in self.sessions:
            self.sessions[wire].connection_lost(self.now)
            self._drive(wire)
            self._forget(wire)

    def heard_from_store(self) -> None:
        self._answered_at = self.world.now

    def _answer(self, life: int, wire: Wire, call: int, answer: Answer | BackplaneError) -> None:
        if not self._alive(self._answer, life, wire, call, answer) or life != self.life:
            return
        if wire in self.sessions:
            self.sessions[wire].answered(call, answer, self.now)
            self._drive(wire)

    def woken(self, stream: str) -> None:
        if self._watchers.get(stream) and self._alive(self.woken, stream):
            for wire in list(self._watchers.get(stream, ())):
                if wire in self.sessions:
                    self.sessions[wire].woken(stream, self.now)
                    self._drive(wire)

    def fence_raised(self, session: str, fence: Any) -> None:
        if self._alive(self.fence_raised, session, fence):
            for wire in list(self.sessions):
                if wire in self.sessions:
                    self.sessions[wire].fence_raised(session, fence, self.now)
                    self._drive(wire)

    def _look_at_store(self, life: int) -> None:
        """Rule 1: without an answer for 0.4 ttl the sessions are closed, another node may reach the store."""
        if not self._alive(self._look_at_store, life) or life != self.life:
            return
        if self.world.now - self._answered_at > 0.4 * TTL:
            for wire in list(self.sessions):
                self.sessions[wire].store_silent(self.now)
                self._drive(wire)
        self.store.request(self, Tick(bucket=0), lambda answer: None)
        self.world.after(0.5, self._look_at_store, life)

    # -- faults -------------------------------------------------------------------------------------------------------

    def refusal(self) -> Exception | None:
        """Say what a dial ends with that gets no connection here."""
        if not self.is_up:
            return ConnectError("refused")
        return ConnectError("503: draining") if self.is_draining else None

    def kill(self, silent: bool) -> None:
        self.is_up = self.is_paused = self.is_draining = False
        self.life += 1
        self._waiting.clear()
        for wire in list(self.sessions):
            wire.cut(tell_device=not silent, tell_node=False)
        self.sessions.clear()
        self._watchers.clear()
        self._timers.clear()

    def start(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._ahead = self.dice.uniform(0.0, 1e6)
            self._answered_at = self.world.now
            self.world.after(0.5, self._look_at_store, self.life)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        waiting, self._waiting = self._waiting, []
        for what, args in waiting:
            what(*args)

    def drain(self, within: float) -> None:
        """Refuse new connections and ask the clients to leave; then the process is replaced, as in a deployment."""
        if self.is_draining or not self.is_up or self.is_paused:
            return
        self.is_draining = True
        self.world.after(within + 1.0, self._replaced, self.life)
        for wire in list(self.sessions):
            if wire in self.sessions:
                self.sessions[wire].drain(within, self.now, jitter=0.3)
                self._drive(wire)

    def _replaced(self, life: int) -> None:
        if life == self.life:
            self.kill(silent=False)
            self.world.after(0.5, self.start)

    # -- carrying out -------------------------------------------------------------------------------------------------

    def _drive(self, wire: Wire) -> None:
        session = self.sessions[wire]
        for action in session.actions():
            if isinstance(action, Send):
                wire.to_device(action.items)
            elif isinstance(action, Call):
                life, call = self.life, action.id
                self.store.request(
                    self, action.request, lambda a, life=life, call=call: self._answer(life, wire, call, a)
                )
            elif isinstance(action, Watch):
                self._watchers.setdefault(action.stream, {})[wire] = None
            elif isinstance(action, Unwatch):
                self._watchers.get(action.stream, {}).pop(wire, None)
            elif isinstance(action, Close):
                wire.closed_by_node(action.code, action.reason)
                self._forget(wire)
                return
        deadline = session.next_deadline()
        if deadline is not None:
            planned = self._timers.get(wire)
            if planned is None or deadline < planned:  # one that moved away is asked for anew when the old one comes
                self._timers[wire] = deadline
                self.world.at(deadline - self._ahead, self._timer, self.life, wire, deadline)

    def _timer(self, life: int, wire: Wire, planned: float) -> None:
        if not self._alive(self._timer, life, wire, planned) or life != self.life:
            return
        if wire in self.sessions and self._timers.get(wire) == planned:
            del self._timers[wire]
            self.sessions[wire].handle_timer(max(self.now, planned))
            self._drive(wire)

    def _forget(self, wire: Wire) -> None:
        self.sessions.pop(wire, None)
        self._timers.pop(wire, None)
        for watchers in self._watchers.values():
            watchers.pop(wire, None)
