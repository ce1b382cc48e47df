"""
The cheap invariants, looked at after every step of a device: bounds, roles, and the order of a position's three ages.

What needs the whole history is in ``judge.py``; what the store sees by itself is in ``store.py``.
"""

from __future__ import annotations

from resilient_ws.session import Role, Session
from resilient_ws.state import Phase
from tests.simulation.world import Broken

MOST_CONNECTIONS = 4
"""A primary, a candidate or successor, a standby, and one that waits for its turn."""


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


def _check_roles(session: Session) -> None:
    connections = list(session._core.connections.values())
    phases = [connection.phase for connection in connections]
    if phases.count(Phase.OPEN) > 1 or phases.count(Phase.HANDSHAKING) > 1 or len(phases) > MOST_CONNECTIONS:
        raise Broken(f"S6 connections at the same time: {phases}")
    standing = [c for c in connections if c.role is Role.STANDBY]
    if len(standing) > 1:
        raise Broken(f"S10 {len(standing)} spares")
