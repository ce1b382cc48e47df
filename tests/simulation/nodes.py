"""Nodes and their store: the real ``ServerSession`` and ``MemoryBackplane`` with latency, outages and lost answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from resilient_ws.exceptions import ConnectionLost
from server_fixture.backplane import (
    Answer,
    Append,
    BackplaneError,
    EnterSession,
    Entry,
    Publish,
    Request,
    SessionEntered,
    Tick,
    bucket_of,
)
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.session import Call, Close, NodeSettings, Send, ServerSession, Unwatch, Watch
from tests.simulation.world import Wire, World

TTL = 12.0
KEY = b"k" * 32
FORBIDDEN_STREAM = "forbidden"
LARGEST = 400


def authorize(principal: str, verb: str, stream: str) -> bool:
    """Everybody may everything, but for one stream."""
    return stream != FORBIDDEN_STREAM


class Store:
    """The one backplane of all nodes; also the record of everything that it ever stored."""

    def __init__(self, world: World, retention: int) -> None:
        self.world = world
        self.memory = MemoryBackplane(random.Random(world.rng.getrandbits(64)), retention=retention)
        self.is_up = True
        self.away = self.away_since = 0.0
        self.cut_off: set[str] = set()
        self.lost_answers = 0
        self.nodes: list[Node] = []
        self.buckets: set[int] = set()
        self.stored: list[tuple[str, str, Entry]] = []
        self.readable: dict[tuple[str, str], dict[int, bytes]] = {}
        world.after(1.0, self._tick)

    def go_away(self) -> None:
        if self.is_up:
            self.is_up, self.away_since = False, self.world.now

    def come_back(self) -> None:
        if not self.is_up:
            self.is_up = True
            self.away += self.world.now - self.away_since

    def in_service(self) -> float:
        """Return the seconds for which the store could be reached so far: what a ttl counts (rule 1)."""
        return self.world.now - self.away - (0.0 if self.is_up else self.world.now - self.away_since)

    def _tick(self) -> None:
        if self.is_up and any(
            node.is_up and not node.is_paused and node.name not in self.cut_off for node in self.nodes
        ):
            for bucket in sorted(self.buckets):
                self.memory.step(Tick(bucket=bucket), self.world.now)
        self.world.after(1.0, self._tick)

    def request(self, node: Node, request: Request, back: Callable[[Answer | BackplaneError], None]) -> None:
        self.world.after(self.world.latency(), self._perform, node, request, back)

    def _perform(self, node: Node, request: Request, back: Callable[[Answer | BackplaneError], None]) -> None:
        if not self.is_up or node.name in self.cut_off:
            self.world.after(1.0, back, BackplaneError("unreachable"))
            return
        answer = self.step(request)
        if self.lost_answers:
            self.lost_answers -= 1
            self.world.after(1.0, back, BackplaneError("no answer"))
            return
        self.world.after(self.world.latency(), node.heard_from_store)
        self.world.after(self.world.latency(), back, answer)

    def step(self, request: Request) -> Answer:
        """Perform, record what was stored, wake and fence."""
        stream = getattr(request, "stream", "")
        before = self._last(stream) if isinstance(request, (Append, Publish)) else 0
        answer = self.memory.step(request, self.world.now)
        if isinstance(request, (Append, Publish)) and self._last(stream) > before:
            slot = self.memory._find(stream)
            assert slot is not None
            new = [entry for entry in slot.log[-(slot.last - before) :] if entry.offset > before]
            self.stored.extend((stream, slot.epoch, entry) for entry in new)
            self.readable.setdefault((stream, slot.epoch), {}).update((entry.offset, entry.payload) for entry in new)
            for node in self.nodes:
                if self.world.rng.random() > 0.05:
                    self.world.after(self.world.latency(), node.woken, stream)
        if isinstance(request, EnterSession) and isinstance(answer, SessionEntered):
            self.buckets.add(bucket_of(answer.session))
            for node in self.nodes:
                if self.world.rng.random() > 0.2:
                    self.world.after(self.world.latency(), node.fence_raised, answer.session, answer.fence)
        return answer

    def fail_over(self) -> None:
        """What survived can be read under the new epochs too."""
        self.memory.new_incarnation()
        for stream in dict.fromkeys(stream for stream, _ in self.readable):
            slot = self.memory._find(stream)
            if slot is not None:
                self.readable[stream, slot.epoch] = {entry.offset: entry.payload for entry in slot.log}

    def _last(self, stream: str) -> int:
        slot = self.memory._find(stream)
        return 0 if slot is None else slot.last


class Node:
    """One server process."""

    def __init__(self, world: World, store: Store, name: str) -> None:
        self.world = world
        self.store = store
        self.name = name
        self.is_up = True
        self.is_paused = False
        self.life = 0
        self.sessions: dict[Wire, ServerSession] = {}
        self.settings = NodeSettings(
            node=name, key=KEY, ttl=TTL, hello_timeout=3.0, keepalive_interval=1.0, keepalive_timeout=2.0,
            poll_interval=2.0, max_message=LARGEST,
        )  # fmt: skip
        self._watchers: dict[str, dict[Wire, None]] = {}
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._timers: dict[Wire, float] = {}
        self._answered_at = 0.0
        store.nodes.append(self)
        world.after(0.5, self._look_at_store, self.life)

    # -- what happens to it -------------------------------------------------------------------------------------------

    def accept(self, wire: Wire) -> None:
        self.sessions[wire] = ServerSession(self.settings, "p", authorize, self.world.rng, self.world.now)
        self._drive(wire)

    def _alive(self, what: Callable[..., None], *args: Any) -> bool:
        """Postpone while paused."""
        if self.is_paused:
            self._waiting.append((what, args))
        return self.is_up and not self.is_paused

    def wire_received(self, wire: Wire, items: list[Any]) -> None:
        if self._alive(self.wire_received, wire, items) and wire in self.sessions:
            self.sessions[wire].received(items, self.world.now)
            self._drive(wire)

    def wire_lost(self, wire: Wire, error: Exception) -> None:
        if self._alive(self.wire_lost, wire, error) and wire in self.sessions:
            self.sessions[wire].connection_lost(self.world.now)
            self._drive(wire)
            self._forget(wire)

    def heard_from_store(self) -> None:
        self._answered_at = self.world.now

    def _answer(self, life: int, wire: Wire, call: int, answer: Answer | BackplaneError) -> None:
        if not self._alive(self._answer, life, wire, call, answer) or life != self.life:
            return
        if wire in self.sessions:
            self.sessions[wire].answered(call, answer, self.world.now)
            self._drive(wire)

    def woken(self, stream: str) -> None:
        if self._alive(self.woken, stream):
            for wire in list(self._watchers.get(stream, ())):
                if wire in self.sessions:
                    self.sessions[wire].woken(stream, self.world.now)
                    self._drive(wire)

    def fence_raised(self, session: str, fence: Any) -> None:
        if self._alive(self.fence_raised, session, fence):
            for wire in list(self.sessions):
                if wire in self.sessions:
                    self.sessions[wire].fence_raised(session, fence, self.world.now)
                    self._drive(wire)

    def _look_at_store(self, life: int) -> None:
        """Rule 1: without an answer for 0.4 ttl the sessions are closed, another node may reach the store."""
        if not self._alive(self._look_at_store, life) or life != self.life:
            return
        if self.world.now - self._answered_at > 0.4 * TTL:
            for wire in list(self.sessions):
                self.sessions[wire].store_silent(self.world.now)
                self._drive(wire)
        self.store.request(self, Tick(bucket=0), lambda answer: None)
        self.world.after(0.5, self._look_at_store, life)

    # -- faults -------------------------------------------------------------------------------------------------------

    def kill(self, silent: bool) -> None:
        self.is_up = self.is_paused = False
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
            self._answered_at = self.world.now
            self.world.after(0.5, self._look_at_store, self.life)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        waiting, self._waiting = self._waiting, []
        for what, args in waiting:
            what(*args)

    def drain(self) -> None:
        for wire in list(self.sessions):
            if wire in self.sessions:
                self.sessions[wire].drain(1.0, self.world.now)
                self._drive(wire)

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
        if deadline is not None and self._timers.get(wire) != deadline:
            self._timers[wire] = deadline
            self.world.at(deadline, self._timer, self.life, wire, deadline)

    def _timer(self, life: int, wire: Wire, planned: float) -> None:
        if not self._alive(self._timer, life, wire, planned) or life != self.life:
            return
        if wire in self.sessions and self._timers.get(wire) == planned:
            del self._timers[wire]
            self.sessions[wire].handle_timer(self.world.now)
            self._drive(wire)

    def _forget(self, wire: Wire) -> None:
        self.sessions.pop(wire, None)
        self._timers.pop(wire, None)
        for watchers in self._watchers.values():
            watchers.pop(wire, None)


def refused() -> ConnectionLost:
    """What a dial to a dead node ends with."""
    return ConnectionLost("refused")
