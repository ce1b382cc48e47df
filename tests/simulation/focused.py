"""
Mixes for what a schedule of the others meets once in thousands: few kinds of faults, and the devices that they concern.

Each has a cast of its own, so that the dice of the other mixes fall as they did before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import attrs

from resilient_ws.frames import PRIVATE
from resilient_ws.session import Role, SessionState
from resilient_ws.state import Phase
from tests.simulation.application import Plan
from tests.simulation.nodes import Node

if TYPE_CHECKING:
    from tests.simulation.devices import Device
    from tests.simulation.schedule import Schedule

SPOKEN = Plan(publishes=("a", "b"), subscribes=("a",))
HEDGING = frozenset({Role.CANDIDATE})
LEAVING = frozenset({Role.SUCCESSOR})
SYNCS: tuple[Literal["full", "normal"], ...] = ("full", "normal")


@attrs.frozen(kw_only=True)
class Focus:
    """
    A mix with a cast.

    Attributes:
        kinds: The faults, drawn in equal parts.
        cast: The devices.
        faults: How many faults there are at least and at most.
        late: How many more there are in the last seconds, because nothing that follows makes up for them.
    """

    kinds: tuple[str, ...]
    cast: Callable[[random.Random], list[Plan]]
    faults: tuple[int, int] = (3, 10)
    late: int = 0


# -- faults -----------------------------------------------------------------------------------------------------------


def toggle(s: Schedule, dice: random.Random) -> None:
    """A device gives a stream up and asks for it again, several times within what an answer takes."""
    device = dice.choice(s.devices)
    shared = [stream for stream in device.plan.subscribes if stream in s.streams]
    if shared and device.is_alive and not device.is_asleep:
        stream = dice.choice(shared)
        delay = 0.0
        for _ in range(dice.randint(2, 4)):
            delay += dice.uniform(0.001, 0.016)
            s.world.after(delay, _resubscribe, device, stream, dice.choice(("here", "now", "earliest")))


def _resubscribe(device: Device, stream: str, start: Literal["here", "now", "earliest"]) -> None:
    if device.is_alive and not device.is_asleep:
        device.application.resubscribe(stream, start, is_hasty=True)


def swallow_ack(s: Schedule, dice: random.Random) -> None:
    """What a device says next, data or an ack, is lost."""
    wires = [wire for device in s.devices if PRIVATE in device.plan.subscribes for wire in device.wires.values()]
    if wires:
        dice.choice(wires).up.swallow += 1


def outage(s: Schedule, dice: random.Random) -> None:
    """A node is dead, stands still, or does not reach the store, until everything is healed."""
    node = dice.choice(s.nodes)
    others = [other for other in s.nodes if other is not node]
    if not node.is_up or not any(other.is_up and not other.is_paused for other in others) or s.store.cut_off:
        return
    how = dice.choice(("dead", "paused", "cut off"))
    if how == "dead":
        node.kill(silent=False)
    elif how == "paused":
        node.pause()
    else:
        s.store.cut_off.add(node.name)


def flap(s: Schedule, dice: random.Random) -> None:
    """One node reaches the store for moments only."""
    name = dice.choice(s.nodes).name
    at, seconds = 0.0, dice.uniform(8.0, 16.0)
    while at < seconds:
        s.world.after(at, _cut_off, s, name)
        at += dice.uniform(1.5, 4.0)
        s.world.after(at, s.store.cut_off.discard, name)
        at += dice.uniform(0.05, 0.3)


def _cut_off(s: Schedule, name: str) -> None:
    if not s.is_healed:
        s.store.cut_off.add(name)


def quit_early(s: Schedule, dice: random.Random) -> None:
    """A program starts anew, and loses its connection soon after."""
    index = dice.randrange(len(s.devices))
    s.crash(index)
    s.world.after(dice.uniform(0.02, 0.3), _cut_all, s.devices[index])


def _cut_all(device: Device) -> None:
    for wire in list(device.wires.values()):
        wire.cut()


def revenant(s: Schedule, dice: random.Random) -> None:
    """A hello that a program said before it died arrives just when its next life has been welcomed."""
    index = dice.randrange(len(s.devices))
    device = s.devices[index]
    if device.is_alive and device.storage is not None and device.session.state is SessionState.LIVE:
        for wire in list(device.wires.values()):
            wire.cut()
        _hold_hello(s, index, device)


def _hold_hello(s: Schedule, index: int, device: Device, tries: int = 400) -> None:
    """Stop the node that its next hello is on the way to, and kill it."""
    saying = [c.number for c in device.session._core.connections.values() if c.phase is Phase.HANDSHAKING]
    wire = device.wires.get(saying[0]) if saying else None
    if s.is_healed or s.devices[index] is not device or not tries:
        for stopped in s.nodes:
            stopped.resume()
        return
    if wire is None:
        s.world.after(0.001, _hold_hello, s, index, device, tries - 1)
        return
    node = wire.node
    assert isinstance(node, Node)
    node.pause()
    if (node.wire_received, wire) not in [(what, args[0]) for what, args in node._waiting]:
        s.world.after(0.001, _hold_hello, s, index, device, tries - 1)
        return
    s.crash(index)
    _let_hello_in(s, s.devices[index], node)


def _let_hello_in(s: Schedule, device: Device, node: Node) -> None:
    if device.session.connected or s.is_healed or not device.is_alive:
        node.resume()
    else:
        s.world.after(0.002, _let_hello_in, s, device, node)


def regrow(s: Schedule, dice: random.Random) -> None:
    """While a client moves, the old connection delivers messages that the log then loses and replaces by others."""
    dice.choice(s.nodes).drain(2.5)
    for device in s.devices:
        shared = [stream for stream in device.plan.subscribes if stream in s.streams]
        if shared:
            _regrow_when_moving(s, dice, device, shared[0], s.world.now + 3.0)


def _regrow_when_moving(s: Schedule, dice: random.Random, device: Device, stream: str, until: float) -> None:
    phases = {connection.phase for connection in device.session._core.connections.values()}
    if phases >= {Phase.OPEN, Phase.HANDSHAKING} and s.store.is_up:
        s.publish(stream, 2)
        s.world.after(dice.uniform(0.003, 0.03), _replace, s, stream, dice.choice((1, 2)))
    elif s.world.now < until:
        s.world.after(0.001, _regrow_when_moving, s, dice, device, stream, until)


def _replace(s: Schedule, stream: str, count: int) -> None:
    """Two messages are lost, and ``count`` others get their numbers."""
    s.has_lost_tails |= s.store.lose_tail(stream, 2, "rolled_back")
    s.publish(stream, count)


KINDS: dict[str, Callable[[Schedule, random.Random], None]] = {
    fault.__name__: fault for fault in (toggle, swallow_ack, outage, flap, quit_early, revenant, regrow)
}

# -- casts ------------------------------------------------------------------------------------------------------------


def _restarting(dice: random.Random) -> list[Plan]:
    """Programs with journals; the second receiver is slow, so that something is in hand when the other one goes on."""
    sync = dice.choice(SYNCS)
    reader = Plan(subscribes=("a", "b", PRIVATE), receivers=2, ack=dice.choice(("auto", "manual")), journal=sync)
    return [
        attrs.evolve(SPOKEN, journal=sync),
        attrs.evolve(SPOKEN, publishes=("b", "a"), journal=sync, start="now"),
        attrs.evolve(reader, is_slow=True),
    ]


def _toggling(dice: random.Random) -> list[Plan]:
    reader = Plan(subscribes=("a", "b"), roles=dice.choice((frozenset(), LEAVING)))
    return [SPOKEN, attrs.evolve(SPOKEN, subscribes=()), reader, attrs.evolve(reader, is_slow=dice.random() < 0.5)]


def _moving(dice: random.Random) -> list[Plan]:
    """Much is under way while connections are replaced before they end."""
    reader = Plan(subscribes=("a", "b"), roles=LEAVING, is_slow=dice.random() < 0.5)
    writer = Plan(publishes=("a", "b"), roles=LEAVING)
    return [attrs.evolve(SPOKEN, roles=LEAVING), writer, writer, reader, reader]


def _collecting(dice: random.Random) -> list[Plan]:
    """Users who ack when they have more in hand than the inbox holds."""
    reader = Plan(subscribes=("a", "b"), ack="manual", acks_after=12, receivers=dice.choice((1, 2)))
    return [SPOKEN, reader, attrs.evolve(reader, subscribes=("b",))]


def _crawling(dice: random.Random) -> list[Plan]:
    """Users who take what the inbox holds, and then nothing for longer than a connection may be silent."""
    return [SPOKEN, SPOKEN, Plan(subscribes=("b",), naps=dice.uniform(4.0, 5.0))]


def _acking(dice: random.Random) -> list[Plan]:
    reader = Plan(subscribes=(PRIVATE,), receivers=dice.choice((1, 2)), ack=dice.choice(("auto", "manual")))
    return [SPOKEN, reader, attrs.evolve(reader, is_slow=True, journal=dice.choice(("", "full")))]


def _listening(dice: random.Random) -> list[Plan]:
    """Where little is said, and a start at ``now`` stays what it was for long."""
    return [Plan(publishes=("b",), subscribes=()), *[Plan(subscribes=("a", "b"), start="now")] * 2]


def _reaching(dice: random.Random) -> list[Plan]:
    return [attrs.evolve(SPOKEN, roles=dice.choice((frozenset(), HEDGING))), Plan(subscribes=("a", "b")), SPOKEN]


def _hedging(dice: random.Random) -> list[Plan]:
    return [attrs.evolve(SPOKEN, roles=HEDGING), Plan(subscribes=("a", "b"), roles=HEDGING)]


def _copied(dice: random.Random) -> list[Plan]:
    """Programs whose journals are files that somebody may copy."""
    sync = dice.choice(SYNCS)
    spoken = attrs.evolve(SPOKEN, journal=sync)
    return [spoken, Plan(subscribes=("a", "b"), journal=sync), spoken]


def _dropping(dice: random.Random) -> list[Plan]:
    """Programs that send more than finds room."""
    sync = dice.choice(SYNCS)
    eager = attrs.evolve(SPOKEN, journal=sync, outbox=dice.choice((3, 5)), policy="drop_oldest")
    return [eager, attrs.evolve(eager, publishes=("b",)), Plan(subscribes=("a", "b"))]


FOCUSED: dict[str, Focus] = {
    "drops": Focus(kinds=("store_away", "pause", "stall", "crash", "crash"), cast=_dropping, faults=(8, 16)),
    "rewind": Focus(kinds=("resubscribe", "resubscribe", "crash", "cut"), cast=_restarting, faults=(6, 14)),
    "copies": Focus(kinds=("save_copy", "save_copy", "cut", "kill"), cast=_copied, faults=(3, 8)),
    "full": Focus(kinds=("full_disk", "full_disk", "crash", "cut", "lost_answer"), cast=_restarting, faults=(6, 14)),
    "slow_disk": Focus(kinds=("slow_disk", "slow_disk", "crash", "cut", "cut"), cast=_restarting, faults=(8, 16)),
    "restart": Focus(kinds=("crash", "crash", "store_away", "kill_all", "lost_answer"), cast=_restarting),
    "restart_tail": Focus(kinds=("tail", "trim", "crash", "stall"), cast=_restarting, faults=(8, 16)),
    "revenant": Focus(kinds=("revenant", "cut"), cast=_restarting),
    "skip": Focus(kinds=("swallow", "swallow", "new_epochs", "trim"), cast=_moving, faults=(10, 20)),
    "toggles": Focus(kinds=("toggle", "toggle", "toggle", "cut"), cast=_toggling, faults=(10, 20)),
    "handover": Focus(kinds=("drain", "drain", "slow_dial"), cast=_moving, faults=(6, 12)),
    "regrown": Focus(kinds=("regrow", "nothing"), cast=_moving),
    "collect": Focus(kinds=("nothing", "cut"), cast=_collecting),
    "crawl": Focus(kinds=("nothing",), cast=_crawling),
    "acks": Focus(kinds=("publish_private", "swallow_ack"), cast=_acking, late=10),
    "parting": Focus(kinds=("publish_private", "cut"), cast=_acking, late=20),
    "listen": Focus(kinds=("cut", "lost_welcome", "quit_early"), cast=_listening, faults=(8, 16)),
    "outage": Focus(kinds=("outage", "cut"), cast=_reaching),
    "flapping": Focus(kinds=("flap", "cut"), cast=_reaching, faults=(1, 3)),
    "hedge": Focus(kinds=("pause", "slow_dial", "cut", "cut"), cast=_hedging),
}
