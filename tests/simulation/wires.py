"""
The network: wires that delay, stall, swallow, cut and go silent. What the two ends mean by it never lives here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import ConnectionLost
from resilient_ws.frames import Ack, Batch
from tests.simulation.world import Broken, World, latency

SWALLOWED = (Batch, Ack)
"""What may be lost on the way: the protocol notices data and acks, by numbers that ride on pings."""
BROKEN_RULE = 4400


class End(Protocol):
    """What a wire delivers to."""

    def wire_received(self, wire: Wire, items: list[Any]) -> None: ...

    def wire_lost(self, wire: Wire, error: Exception) -> None: ...


class Network:
    """All wires that still have a side open, and the dice of their latency."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dice = world.dice("network")
        self.wires: list[Wire] = []


class Pipe:
    """One direction of a wire: first in, first out."""

    def __init__(self, network: Network, codec: Any) -> None:
        self.network = network
        self.codec = codec
        self.last_at = 0.0
        self.is_open = True
        self.is_stalled = False
        self.swallow = 0
        self.held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def pass_on(self, what: Callable[..., None], *args: Any) -> None:
        world = self.network.world
        self.last_at = max(self.last_at, world.now + latency(self.network.dice))
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
            self.network.world.after(0.0, self._arrive, what, args)

    def carry(self, items: list[Any]) -> list[Any]:
        """Return what arrives of these: the same, one less, or what two codecs made of them."""
        if self.codec is not None:
            writer, reader = self.codec
            items = list(reader.decode(writer.encode(items)))
        if self.swallow:
            for index, item in enumerate(items):
                if isinstance(item, SWALLOWED):
                    self.swallow -= 1
                    return items[:index] + items[index + 1 :]
        return items


class Wire:
    """One connection between a device and a node."""

    def __init__(self, network: Network, device: End, node: End, conn: int) -> None:
        self.network = network
        self.world = network.world
        self.device = device
        self.node = node
        self.conn = conn
        native = Native()
        coded = self.world.through_codec
        self.up = Pipe(network, (native.client(), native.server()) if coded else None)
        self.down = Pipe(network, (native.server(), native.client()) if coded else None)
        network.wires.append(self)

    def to_node(self, items: list[Any]) -> None:
        self.up.pass_on(self.node.wire_received, self, self.up.carry(items))

    def to_device(self, items: list[Any]) -> None:
        self.down.pass_on(self.device.wire_received, self, self.down.carry(items))

    def closed_by_device(self, code: int = 1000, reason: str = "") -> None:
        """The device shut it: what it wrote before still arrives, nothing comes back."""
        if code == BROKEN_RULE:
            raise Broken(f"S8 the client says that the node broke a rule: {reason}")
        self.down.is_open = False
        self.up.pass_on(self._end_node)

    def closed_by_node(self, code: int, reason: str) -> None:
        if code == BROKEN_RULE:
            raise Broken(f"S8 the node says that the client broke a rule: {reason}")
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
        if not self.up.is_open and not self.down.is_open and self in self.network.wires:
            self.network.wires.remove(self)

    def cut(self, *, tell_device: bool = True, tell_node: bool = True) -> None:
        """Everything in flight is gone; each side learns of it, or has to find out by itself."""
        self.up.is_open = self.down.is_open = False
        self._forget()
        dice = self.network.dice
        if tell_device:
            self.world.after(latency(dice), self.device.wire_lost, self, ConnectionLost("cut"))
        if tell_node:
            self.world.after(latency(dice), self.node.wire_lost, self, ConnectionLost("cut"))
