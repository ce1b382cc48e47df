"""The faults of a schedule, by kind: what each does and how it heals. Each throws dice of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.focused import FOCUSED
from tests.simulation.focused import KINDS as FOCUSED_KINDS
from tests.simulation.nodes import Node
from tests.simulation.strangers import Stranger

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

Fault = Callable[["Schedule", random.Random], None]


# -- the network ------------------------------------------------------------------------------------------------------


def cut(s: Schedule, dice: random.Random) -> None:
    """A connection ends; each side learns of it or has to find out."""
    if s.network.wires and not s.is_healed:
        wire = dice.choice(s.network.wires)
        wire.cut(tell_device=dice.random() < 0.7, tell_node=dice.random() < 0.7)


def stall(s: Schedule, dice: random.Random) -> None:
    """One direction stands still and goes on later, nothing is lost."""
    if s.network.wires:
        wire = dice.choice(s.network.wires)
        pipe = dice.choice((wire.up, wire.down))
        pipe.is_stalled = True
        s.world.after(dice.uniform(0.2, 6.0), pipe.heal)


def one_way(s: Schedule, dice: random.Random) -> None:
    """One direction is black from now on."""
    if s.network.wires:
        wire = dice.choice(s.network.wires)
        dice.choice((wire.up, wire.down)).is_open = False


def swallow(s: Schedule, dice: random.Random) -> None:
    """Data or an ack is lost between two ends that stay connected."""
    if s.network.wires:
        wire = dice.choice(s.network.wires)
        dice.choice((wire.up, wire.down, wire.down)).swallow += 1


def lost_welcome(s: Schedule, dice: random.Random) -> None:
    """Connections end one after another, faster than a welcome comes."""
    for n in range(dice.randint(2, 5)):
        s.world.after(n * dice.uniform(0.003, 0.05), cut, s, dice)


def slow_dial(s: Schedule, dice: random.Random) -> None:
    """A node takes long to answer a dial, so that hedges race it."""
    node = dice.choice(s.nodes)
    node.dial_delay = dice.uniform(0.1, 1.9)
    s.world.after(dice.uniform(1.0, 6.0), setattr, node, "dial_delay", 0.0)


# -- nodes ------------------------------------------------------------------------------------------------------------


def kill(s: Schedule, dice: random.Random) -> None:
    """A node dies and starts again later; its sockets may die in silence."""
    node = dice.choice(s.nodes)
    if node.is_up:
        node.kill(silent=dice.random() < 0.3)
        s.world.after(dice.uniform(0.2, 3.0), node.start)


def kill_all(s: Schedule, dice: random.Random) -> None:
    """No node is left for a while."""
    for node in s.nodes:
        if node.is_up:
            node.kill(silent=dice.random() < 0.3)
            s.world.after(dice.uniform(0.5, 3.0), node.start)


def pause(s: Schedule, dice: random.Random) -> None:
    """A node stands still with everything in its queues, and comes back."""
    node = dice.choice(s.nodes)
    if node.is_up and not node.is_paused:
        node.pause()
        s.world.after(dice.uniform(0.5, 8.0), node.resume)


def ghost(s: Schedule, dice: random.Random) -> None:
    """A node stands still just when hellos are about to come, while their senders give up and go elsewhere."""
    node = dice.choice(s.nodes)
    if node.is_up and not node.is_paused:
        for wire in list(s.network.wires):
            if dice.random() < 0.7:
                wire.cut()
        begins, seconds = dice.uniform(0.001, 0.08), dice.uniform(2.5, 9.0)
        s.world.after(begins, _pause_for, s, node, seconds)
        s.world.after(begins + seconds - dice.uniform(0.0, 0.08), lost_welcome, s, dice)


def _pause_for(s: Schedule, node: Node, seconds: float) -> None:
    if node.is_up and not node.is_paused and not s.is_healed:
        node.pause()
        s.world.after(seconds, node.resume)


def drain(s: Schedule, dice: random.Random) -> None:
    """A node asks its clients to leave, refuses others, and is replaced."""
    dice.choice(s.nodes).drain(dice.choice((0.3, 1.0, 2.5)))


# -- the store --------------------------------------------------------------------------------------------------------


def store_away(s: Schedule, dice: random.Random) -> None:
    """Nobody reaches the store for a while, now and then for longer than a ttl."""
    s.store.go_away()
    s.world.after(dice.choice((0.5, 2.0, 4.0, 14.0)), s.store.come_back)


def node_off_store(s: Schedule, dice: random.Random) -> None:
    """One node does not reach the store."""
    name = dice.choice(s.nodes).name
    s.store.cut_off.add(name)
    s.world.after(dice.uniform(1.0, 12.0), s.store.cut_off.discard, name)


def lost_answer(s: Schedule, dice: random.Random) -> None:
    """Steps of the store happen and their answers are lost."""
    s.store.lost_answers += dice.randint(1, 3)


def new_epochs(s: Schedule, dice: random.Random) -> None:
    """The store fails over: what survived stays, under new epochs."""
    s.store.fail_over()
    s.has_new_epochs = True


def trim(s: Schedule, dice: random.Random) -> None:
    """Retention takes what nobody may have read yet."""
    for stream in s.streams:
        contents = s.store.memory.contents(stream)
        if contents:
            s.store.memory.trim(stream, dice.choice(contents).offset)


def tail(s: Schedule, dice: random.Random) -> None:
    """A log loses its last messages under the same epoch; seldom it forgets who wrote them too."""
    forgotten = dice.random() < 0.15
    stream = dice.choice([*s.streams, "echo"])
    if s.store.lose_tail(stream, dice.randint(1, 6), "forgotten" if forgotten else "rolled_back"):
        s.has_lost_tails = True
        if forgotten:
            s.forgotten.add(stream)


def drain_tail(s: Schedule, dice: random.Random) -> None:
    """A log loses its last messages while clients move to another node."""
    drain(s, dice)
    for _ in range(3):
        s.world.after(dice.uniform(0.0, 0.6), tail, s, dice)


def tail_failover(s: Schedule, dice: random.Random) -> None:
    """The store fails over to a replica that lacks the last messages of each log; new epochs say so."""
    for stream in [*s.streams, "echo"]:
        if dice.random() < 0.7:
            s.has_lost_tails |= s.store.lose_tail(stream, dice.randint(1, 4), "rolled_back")
    new_epochs(s, dice)


def session_tail(s: Schedule, dice: random.Random) -> None:
    """The record of a session goes back to before its last hellos."""
    session = dice.choice(s.devices).session.session_id
    if session is not None:
        s.store.lose_session(session, dice.randint(1, 2))
        s.may_lose_sessions = True


def orphan(s: Schedule, dice: random.Random) -> None:
    """A node stands still while its clients' sessions are lost, so that they go on elsewhere under other ones."""
    node = dice.choice(s.nodes)
    _pause_for(s, node, dice.uniform(2.5, 8.0))
    for device in s.devices:
        session = device.session.session_id
        if session is not None and any(wire.node is node for wire in device.wires.values()):
            s.store.lose_session(session, None)
            s.may_lose_sessions = True


def wipe(s: Schedule, dice: random.Random) -> None:
    """The store comes back empty."""
    s.store.lose_all()
    s.has_new_epochs = s.may_lose_sessions = True


def clock_jump(s: Schedule, dice: random.Random) -> None:
    """The store's clock goes forward or back at once."""
    s.store.jump(dice.choice((-300.0, -3.0, 3.0, 300.0)))


def revoke(s: Schedule, dice: random.Random) -> None:
    """Nobody may publish to a stream for a while."""
    stream = dice.choice(s.streams)
    s.revoked.add(stream)
    for node in s.nodes:
        node.revoked.add(stream)
        s.world.after(dice.uniform(0.2, 2.0), node.revoked.discard, stream)


# -- clients ----------------------------------------------------------------------------------------------------------


def crash(s: Schedule, dice: random.Random) -> None:
    """A client process dies and a new one starts."""
    s.crash(dice.randrange(len(s.devices)))


def full_disk(s: Schedule, dice: random.Random) -> None:
    """A journal finds no room for a while."""
    device = dice.choice(s.devices)
    if device.storage is not None and not s.is_healed:
        device.storage.journal.is_full = True
        s.world.after(dice.uniform(0.2, 3.0), setattr, device.storage.journal, "is_full", False)


def slow_disk(s: Schedule, dice: random.Random) -> None:
    """A journal's disk takes its time for a while."""
    device = dice.choice(s.devices)
    if device.storage is not None and not s.is_healed:
        device.storage.journal.is_slow = True
        s.world.after(dice.uniform(1.0, 4.0), setattr, device.storage.journal, "is_slow", False)


def save_copy(s: Schedule, dice: random.Random) -> None:
    """Somebody copies a journal, and puts it back some time later."""
    index = dice.randrange(len(s.devices))
    s.save_copy(index)
    s.world.after(dice.uniform(0.5, 4.0), s.restore_copy, index)


def sleep(s: Schedule, dice: random.Random) -> None:
    """A client process stands still; its clock may stand still too."""
    dice.choice(s.devices).sleep(dice.uniform(0.3, 7.0), clock_stops=dice.random() < 0.5)


def takeover(s: Schedule, dice: random.Random) -> None:
    """A second process resumes with the token of the first."""
    s.take_over(dice.randrange(len(s.devices)))


def takeover_undone(s: Schedule, dice: random.Random) -> None:
    """A second process resumes, and the store forgets that at once: both resume from the same record."""
    session = dice.choice(s.devices).session.session_id
    owners = [index for index, device in enumerate(s.devices) if device.session.session_id == session]
    if session is not None:
        s.take_over(owners[0])
        s.world.after(dice.uniform(0.02, 0.3), s.store.lose_session, session, 1)


def stranger(s: Schedule, dice: random.Random) -> None:
    """Another principal says hello with somebody's token."""
    identity, node = dice.choice(s.devices).session._core.identity, dice.choice(s.nodes)
    if identity is not None and node.refusal() is None and not node.is_paused:
        Stranger(s.network, node, identity, f"{dice.getrandbits(128):032x}")


def finish(s: Schedule, dice: random.Random) -> None:
    """A client accepts nothing more and ends when all is acked, now and then at once; another one begins."""
    how = dice.choice(("drain", "drain twice", "drain and close", "drain anew", "close", "bye"))
    if dice.random() < 0.3:  # with nobody there that could ack
        kill_all(s, dice)
    s.finish(dice.randrange(len(s.devices)), how)


def publish_private(s: Schedule, dice: random.Random) -> None:
    """The server's own API writes to private streams."""
    s.publish_private()


def resubscribe(s: Schedule, dice: random.Random) -> None:
    """A device gives a stream up and asks for it again at once: where it was, or elsewhere."""
    device = dice.choice(s.devices)
    shared = [stream for stream in device.plan.subscribes if stream in s.streams]
    if shared and device.is_alive and not device.is_asleep:
        device.application.resubscribe(dice.choice(shared), dice.choice(("here", "here", "now", "earliest")))


def nothing(s: Schedule, dice: random.Random) -> None:
    """A calm moment."""


KINDS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        cut, stall, one_way, swallow, lost_welcome, slow_dial, kill, kill_all, pause, ghost, drain, store_away,
        node_off_store, lost_answer, new_epochs, trim, tail, tail_failover, session_tail, wipe, clock_jump, crash,
        full_disk, slow_disk, save_copy,
        sleep, takeover, takeover_undone, stranger, orphan, drain_tail, revoke, finish, publish_private, resubscribe,
        nothing,
    )
}  # fmt: skip
"""By name; the usual mix draws from these, the focused ones from those below too."""

RARE = (
    "takeover", "takeover_undone", "stranger", "orphan", "drain_tail", "session_tail", "wipe", "tail", "tail_failover",
    "revoke", "nothing", "full_disk", "slow_disk", "save_copy",
)  # fmt: skip
"""Not in the usual mix: what they excuse would hide what else is wrong."""

MIXES: dict[str, tuple[str, ...]] = {
    "usual": tuple(kind for kind in KINDS if kind not in RARE),
    "pause": ("pause", "ghost", "cut", "kill", "takeover", "sleep"),
    "ghost": ("ghost", "lost_welcome", "cut", "slow_dial"),
    "store": ("store_away", "lost_answer", "node_off_store", "cut", "clock_jump"),
    "node": ("node_off_store", "cut"),
    "swallow": ("swallow", "swallow", "cut", "lost_answer", "trim"),
    "pair": ("takeover", "cut", "session_tail"),
    "drain": ("drain", "drain", "cut", "kill", "resubscribe"),
    "epoch": ("new_epochs", "trim", "cut", "tail_failover", "wipe"),
    "tail": ("tail", "tail", "cut", "lost_answer", "trim"),
    "toggle": ("resubscribe", "resubscribe", "cut", "drain", "lost_welcome"),
    "journal": ("crash", "crash", "cut", "lost_answer", "kill", "takeover", "full_disk"),
    "idle": ("nothing", "cut"),
    "orphan": ("orphan", "cut"),
    "twins": ("takeover_undone", "nothing"),
    "stranger": ("stranger", "cut", "lost_welcome"),
    "rights": ("revoke", "revoke", "cut", "lost_answer"),
    "moving": ("drain_tail", "drain_tail", "nothing"),
    "private": ("publish_private", "publish_private", "crash", "pause", "cut", "drain", "swallow"),
    "end": ("finish", "finish", "cut", "kill", "store_away"),
    **{name: focus.kinds for name, focus in FOCUSED.items()},
}
KINDS.update(FOCUSED_KINDS)
