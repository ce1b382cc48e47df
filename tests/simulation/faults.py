"""The faults of a schedule, by kind: what each does and how it heals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.nodes import Node

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

Fault = Callable[["Schedule"], None]


def cut(s: Schedule) -> None:
    """A connection ends; each side learns of it or has to find out."""
    if s.world.wires and not s.is_healed:
        wire = s.rng.choice(s.world.wires)
        wire.cut(tell_device=s.rng.random() < 0.7, tell_node=s.rng.random() < 0.7)


def stall(s: Schedule) -> None:
    """One direction stands still and goes on later, nothing is lost."""
    if s.world.wires:
        wire = s.rng.choice(s.world.wires)
        pipe = s.rng.choice((wire.up, wire.down))
        pipe.is_stalled = True
        s.world.after(s.rng.uniform(0.2, 6.0), pipe.heal)


def one_way(s: Schedule) -> None:
    """One direction is black from now on."""
    if s.world.wires:
        wire = s.rng.choice(s.world.wires)
        s.rng.choice((wire.up, wire.down)).is_open = False


def swallow(s: Schedule) -> None:
    """Data or an ack is lost between two ends that stay connected."""
    if s.world.wires:
        wire = s.rng.choice(s.world.wires)
        s.rng.choice((wire.up, wire.down, wire.down)).swallow += 1


def kill(s: Schedule) -> None:
    """A node dies and starts again later; its sockets may die in silence."""
    node = s.rng.choice(s.nodes)
    if node.is_up:
        node.kill(silent=s.rng.random() < 0.3)
        s.world.after(s.rng.uniform(0.2, 3.0), node.start)


def kill_all(s: Schedule) -> None:
    """No node is left for a while."""
    for node in s.nodes:
        if node.is_up:
            node.kill(silent=s.rng.random() < 0.3)
            s.world.after(s.rng.uniform(0.5, 3.0), node.start)


def pause(s: Schedule) -> None:
    """A node stands still with everything in its queues, and comes back."""
    node = s.rng.choice(s.nodes)
    if node.is_up and not node.is_paused:
        node.pause()
        s.world.after(s.rng.uniform(0.5, 8.0), node.resume)


def ghost(s: Schedule) -> None:
    """A node stands still just when hellos are about to come, while their senders give up and go elsewhere."""
    node = s.rng.choice(s.nodes)
    if node.is_up and not node.is_paused:
        for wire in list(s.world.wires):
            if s.rng.random() < 0.7:
                wire.cut()
        begins, seconds = s.rng.uniform(0.001, 0.08), s.rng.uniform(2.5, 9.0)
        s.world.after(begins, _pause_for, s, node, seconds)
        s.world.after(begins + seconds - s.rng.uniform(0.0, 0.08), lost_welcome, s)


def _pause_for(s: Schedule, node: Node, seconds: float) -> None:
    if node.is_up and not node.is_paused and not s.is_healed:
        node.pause()
        s.world.after(seconds, node.resume)


def lost_welcome(s: Schedule) -> None:
    """Connections end one after another, faster than a welcome comes."""
    for n in range(s.rng.randint(2, 5)):
        s.world.after(n * s.rng.uniform(0.003, 0.05), cut, s)


def store_away(s: Schedule) -> None:
    """Nobody reaches the store for a while, now and then for longer than a ttl."""
    s.store.go_away()
    s.world.after(s.rng.choice((0.5, 2.0, 4.0, 14.0)), _store_back, s)


def _store_back(s: Schedule) -> None:
    s.store.come_back()


def node_off_store(s: Schedule) -> None:
    """One node does not reach the store."""
    name = s.rng.choice(s.nodes).name
    s.store.cut_off.add(name)
    s.world.after(s.rng.uniform(1.0, 12.0), s.store.cut_off.discard, name)


def lost_answer(s: Schedule) -> None:
    """Steps of the store happen and their answers are lost."""
    s.store.lost_answers += s.rng.randint(1, 3)


def new_epochs(s: Schedule) -> None:
    """The store fails over: what survived stays, under new epochs."""
    s.store.fail_over()
    s.has_new_epochs = True


def trim(s: Schedule) -> None:
    """Retention takes what nobody may have read yet."""
    for stream in s.streams:
        contents = s.store.memory.contents(stream)
        if contents:
            s.store.memory.trim(stream, s.rng.choice(contents).offset)


def drain(s: Schedule) -> None:
    """A node asks its clients to leave."""
    s.rng.choice(s.nodes).drain()


def crash(s: Schedule) -> None:
    """A client process dies and a new one starts."""
    s.crash(s.rng.randrange(len(s.devices)))


def takeover(s: Schedule) -> None:
    """A second process resumes with the token of the first."""
    s.take_over(s.rng.randrange(len(s.devices)))


def publish_private(s: Schedule) -> None:
    """The server's own API writes to private streams."""
    s.publish_private()


def resubscribe(s: Schedule) -> None:
    """A device gives a stream up and asks for it again at once, where it was."""
    s.resubscribe(s.rng.randrange(len(s.devices)))


def nothing(s: Schedule) -> None:
    """A calm moment."""


KINDS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        cut, stall, one_way, swallow, kill, kill_all, pause, ghost, lost_welcome, store_away, node_off_store,
        lost_answer, new_epochs, trim, drain, crash, takeover, publish_private, resubscribe,
    )
}  # fmt: skip

USUAL = tuple(kind for kind in KINDS if kind != "takeover")

MIXES: dict[str, tuple[str, ...]] = {
    "usual": USUAL,
    "pause": ("pause", "ghost", "cut", "kill", "takeover"),
    "ghost": ("ghost", "lost_welcome", "cut"),
    "store": ("store_away", "lost_answer", "node_off_store", "cut"),
    "node": ("node_off_store", "cut"),
    "swallow": ("swallow", "cut", "lost_answer"),
    "pair": ("takeover", "cut"),
    "drain": ("drain", "cut", "kill"),
    "epoch": ("new_epochs", "trim", "cut"),
    "idle": ("nothing", "cut"),
}
KINDS["nothing"] = nothing
