"""
Virtual time and the network: an event queue, and wires that delay, stall, swallow, cut and go silent.

One seed decides everything. Nothing here knows what a session is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any, Protocol

from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import ConnectionLost
from resilient_ws.frames import Ack, Batch

SWALLOWED = (Batch, Ack)
"""What may be lost on the way: the protocol notices data and acks, by numbers that ride on pings."""
MOST_STEPS = 100_000
"""More than any schedule needs: beyond it something spins."""


class World:
    """Virtual seconds, dice, and what happens next."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.faults = 0
        self.wires: list[Wire] = []
        self.through_codec = self.rng.random() < 0.125
        self.kinds: set[str] = set()
        self.trace: list[str] = []
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[..., None], *args: Any) -> None:
        """Plan an event."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, what, args))

    def after(self, delay: float, what: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay, what, *args)

    def latency(self) -> float:
        """One way through network or store."""
        return 0.001 + self.rng.expovariate(200.0)

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Run events up to an instant, or until ``done`` says so; returns whether it did."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, what, args = heapq.heappop(self._heap)
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise RuntimeError(f"livelock: {self.steps} steps at {self.now:.4f}, the last one {what!r}")
            what(*args)
            if done is not None and self.steps % 16 == 0 and done():
                return True
        self.now = max(self.now, until)
        return done is not None and done()

    def note(self, text: str) -> None:
        """Keep a line of what happened, for a failing seed."""
        self.trace.append(f"{self.now:9.4f} {text}")


class End(Protocol):
    """What a wire delivers to."""

    def wire_received(self, wire: Wire, items: list[Any]) -> None: ...

    def wire_lost(self, wire: Wire, error: Exception) -> None: ...


class Pipe:
    """One direction of a wire: first in, first out."""

    def __init__(self, wire: Wire, codec: Any) -> None:
        self.wire = wire
        self.codec = codec
        self.last_at = 0.0
        self.is_open = True
        self.is_stalled = False
        self.swallow = 0
        self.held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def pass_on(self, what: Callable[..., None], *args: Any) -> None:
        world = self.wire.world
        self.last_at = max(self.last_at, world.now + world.latency())
        world.at(self.last_at, self._arrive, what, args)

    def _arrive(self, what: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.is_open:
            return
        if self.is_stalled:
            self.held.append((what, args))
        else:
            what(*args)

    def heal(self) -> None:
        self.is_stalled = False
        held, self.held = self.held, []
        for what, args in held:  # at once, so that nothing that is still on its way comes first
            self.wire.world.after(0.0, self._arrive, what, args)


class Wire:
    """One connection between a device and a node."""

    def __init__(self, world: World, device: End, node: End, conn: int) -> None:
        self.world = world
        self.device = device
        self.node = node
        self.conn = conn
        native = Native()
        self.up = Pipe(self, (native.client(), native.server()) if world.through_codec else None)
        self.down = Pipe(self, (native.server(), native.client()) if world.through_codec else None)
        world.wires.append(self)

    def _items(self, pipe: Pipe, items: list[Any]) -> list[Any]:
        if pipe.codec is None:
            return list(items)
        writer, reader = pipe.codec
        return list(reader.decode(writer.encode(items)))

    def to_node(self, items: list[Any]) -> None:
        self.up.pass_on(self.node.wire_received, self, self._lossy(self.up, self._items(self.up, items)))

    def to_device(self, items: list[Any]) -> None:
        self.down.pass_on(self.device.wire_received, self, self._lossy(self.down, self._items(self.down, items)))

    def _lossy(self, pipe: Pipe, items: list[Any]) -> list[Any]:
        for index, item in enumerate(items):
            if pipe.swallow and isinstance(item, SWALLOWED):
                pipe.swallow -= 1
                del items[index]
                break
        return items

    def closed_by_device(self) -> None:
        """The device shut it: what it wrote before still arrives, nothing comes back."""
        self.down.is_open = False
        self.up.pass_on(self._end_node)

    def closed_by_node(self, code: int, reason: str) -> None:
        error = ConnectionLost(f"closed with {code}", code=code, reason=reason, rcvd=(code, reason))
        self.up.is_open = False
        self.down.pass_on(self._end_device, error)

    def _end_node(self) -> None:
        self.up.is_open = False
        self._forget()
        self.node.wire_lost(self, ConnectionLost("gone"))

    def _end_device(self, error: Exception) -> None:
        self.down.is_open = False
        self._forget()
        self.device.wire_lost(self, error)

    def _forget(self) -> None:
        if not self.up.is_open and not self.down.is_open and self in self.world.wires:
            self.world.wires.remove(self)

    def cut(self, *, tell_device: bool = True, tell_node: bool = True) -> None:
        """Everything in flight is gone; each side learns of it, or has to find out by itself."""
        self.up.is_open = self.down.is_open = False
        self._forget()
        if tell_device:
            self.world.after(self.world.latency(), self.device.wire_lost, self, ConnectionLost("cut"))
        if tell_node:
            self.world.after(self.world.latency(), self.node.wire_lost, self, ConnectionLost("cut"))
