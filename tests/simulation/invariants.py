"""
The cheap invariants, looked at after every step of a device: bounds, roles, and the order of a position's three ages.

What needs the whole history is in ``judge.py``; what the store sees by itself is in ``store.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from resilient_ws.frames import PRIVATE
from resilient_ws.session import Dial, Role, Run, Session
from resilient_ws.state import Phase
from tests.simulation.world import Broken

if TYPE_CHECKING:
    from tests.simulation.application import Begun
    from tests.simulation.store import Store

MOST_CONNECTIONS = 4
"""A primary, a candidate or successor, a standby, and one that waits for its turn."""
MOST_AT_ONE_ENDPOINT = 8
"""So many attempts in a row may go to one endpoint, while others are ejected; three failures eject it too."""


def check_session(session: Session) -> None:
    """
    Look at one session.

    Raises:
        Broken: A bound is passed, two connections have a place that is for one, or a position is ahead of an older one.
    """
    core = session._core
    inbox, outbox = core.inbox, core.outbox
    if inbox.messages > core.settings.inbox.max_messages or inbox.bytes > core.settings.inbox.max_bytes:
        raise Broken(f"S10 the inbox holds {inbox.messages} messages, {inbox.bytes} bytes")
    if outbox.messages > core.settings.outbox.max_messages and not outbox.producers()[1:]:
        raise Broken(f"S10 the outbox holds {outbox.messages} messages")
    if len(core.connections) > 1:
        _check_roles(session)
    for subscription in inbox.subscriptions.values():
        acked, passed = subscription.acked, subscription.passed
        if (acked.epoch == passed.epoch and acked.offset > passed.offset) or (
            passed.epoch == subscription.epoch and passed.offset > subscription.offset
        ):
            raise Broken(f"S13 {subscription.stream}: acked {acked}, passed {passed}, held {subscription.offset}")
        told = subscription.told
        if told.epoch == acked.epoch and told.offset > acked.offset:
            raise Broken(f"S13 {subscription.stream}: told {told}, acked {acked}")


def check_in_hand(session: Session, in_hand: Iterable[Run]) -> None:
    """
    Compare the acked positions with what the user has in hand.

    Raises:
        Broken: A position is past a message that nobody has handled.
    """
    for run in in_hand:
        subscription = session._core.inbox.subscriptions.get(run.stream)
        if (
            subscription is not None
            and subscription.acked.epoch == run.epoch
            and subscription.acked.offset >= run.first
        ):
            raise Broken(f"S13 {run.stream}:{run.first} is in hand, {subscription.acked} is acked")


def check_begun(store: Store, stream: str, begun: Begun) -> None:
    """
    Compare where a subscription began with what the user asked for.

    Raises:
        Broken: `earliest` left out what is there, or `now` goes back to before it was said.
    """
    slot, where = None if stream == PRIVATE else store.find(stream), begun.position
    if slot is None or where is None or where.epoch != slot.epoch or store.record.lost:
        return
    if begun.start == "earliest" and where.offset >= slot.first:
        raise Broken(f"S5 {stream}: `earliest` began after {where.offset}, {slot.first} is there")
    if begun.start == "now" and begun.epoch == slot.epoch and begun.end > where.offset:
        raise Broken(f"S4 {stream}: `now` began after {where.offset}, the log ended at {begun.end} then")


def check_dial(session: Session, dial: Dial, now: float) -> None:
    """
    Look at where a connection is dialled (rule 6).

    Raises:
        Broken: That endpoint is being dialled already, and another one is free.
    """
    core = session._core
    others = [c for c in core.connections.values() if c.number < dial.conn]
    free = set(core.pool.urls) - core.pool.ejected(now) - {c.url for c in others}
    if free and any(c.url == dial.url and c.phase is Phase.DIALLING for c in others):
        raise Broken(f"L2 a second dial of {dial.url} beside the first, while {free} is free")


def _check_roles(session: Session) -> None:
    connections = list(session._core.connections.values())
    phases = [connection.phase for connection in connections]
    if phases.count(Phase.OPEN) > 1 or phases.count(Phase.HANDSHAKING) > 1 or len(phases) > MOST_CONNECTIONS:
        raise Broken(f"S6 connections at the same time: {phases}")
    standing = [c for c in connections if c.role is Role.STANDBY]
    if len(standing) > 1:
        raise Broken(f"S10 {len(standing)} spares")
