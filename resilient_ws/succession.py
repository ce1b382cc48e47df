"""
Connections that are made before they are needed: the successor of a node that leaves, and the spare that stands by.

Both go to another node than the primary's where there is one, without the cookies that lead back; a 101 that names the
primary's own node is shut and dialled again. Neither touches the session until its welcome is read (rule 6).
"""

from __future__ import annotations

from resilient_ws import events
from resilient_ws.connection import Connection
from resilient_ws.conversation import Conversation
from resilient_ws.frames import Drain
from resilient_ws.state import Phase, Role

SPARE_PAUSE = 1.0
"""Seconds over which the first spare after a welcome is spread, beside the node's advice: the primaries go first."""


def spare_of(core: Conversation) -> Connection | None:
    """Return the connection that stands by, or is on its way to do so."""
    return next((c for c in core.connections.values() if c.role is Role.STANDBY), None)


def standing_by(core: Conversation) -> str:
    """Return the node of the spare that is accepted, empty where there is none."""
    spare = spare_of(core)
    return spare.node if spare is not None and spare.opened_at is not None else ""


def promote(core: Conversation, now: float) -> None:
    """A standby becomes the one that says hello; others that are upgraded get their turn."""
    spare = spare_of(core)
    if core.primary is None and not core.is_racing() and spare is not None and spare.phase is Phase.UPGRADED:
        spare.role = Role.PRIMARY
        core.hedge_soon(now)
    core.next_hello(now)


# -- a node that leaves -----------------------------------------------------------------------------------------------


def leave(core: Conversation, primary: Connection, notice: Drain, now: float) -> None:
    """The primary's node asks its clients to leave: plan the successor, within what the node allows."""
    primary.is_leaving = True
    if Role.SUCCESSOR in core.settings.roles and not core.is_racing() and core.dial_at is None:
        core.successors.stable(now)
        core.plan(core.rng.uniform(0.0, min(notice.jitter, notice.within)), now)


def succeed(core: Conversation, now: float) -> None:
    """It is time: the spare says hello, or a successor is dialled."""
    spare = spare_of(core)
    if spare is None or spare.phase is not Phase.UPGRADED:
        core.dial(now, Role.SUCCESSOR)
        return
    core.dial_at = None
    spare.role = Role.SUCCESSOR
    core.next_hello(now)


# -- a spare ----------------------------------------------------------------------------------------------------------


def plan_spare(core: Conversation, delay: float, now: float) -> None:
    if Role.STANDBY in core.settings.roles and spare_of(core) is None:
        core.spare_at = now + delay


def plan_first_spare(core: Conversation, now: float) -> None:
    """A primary is there: have a spare beside it, later than the herd of those that lost the same node."""
    assert core.primary is not None
    spread = min(core.primary.spread, core.settings.retry.max_spread)
    plan_spare(core, core.rng.uniform(0.0, SPARE_PAUSE + spread), now)


def dial_spare(core: Conversation, now: float) -> None:
    """Dial it where there is somewhere to go; else look again after a while."""
    core.spare_at = None
    primary = core.primary
    if primary is None or spare_of(core) is not None:
        return
    is_alone = len(core.pool.urls) == 1
    if core.pool.rest(now) > 0 or not (is_alone or core.pool.has_spare(now, {primary.url})):
        core.spares.failed(now)
        plan_spare(core, max(core.pool.rest(now), core.spares.delay(now)), now)
        return
    core.dial(now, Role.STANDBY)


# -- what goes wrong --------------------------------------------------------------------------------------------------


def is_misled(core: Conversation, connection: Connection, node: str) -> bool:
    """Say whether a successor or spare has come to the primary's own node, which a balancer may do."""
    primary = core.primary
    is_early = connection.role in (Role.SUCCESSOR, Role.STANDBY)
    return is_early and primary is not None and primary is not connection and node != "" and node == primary.node


def turn_back(core: Conversation, connection: Connection, now: float) -> None:
    """Shut one that was misled, and dial again after a while."""
    core.shut(connection, 1000, "this node again")
    core.events.append(events.ConnectionEnded(conn=connection.number, code=1000, reason="this node again", error=""))
    failed(core, connection, now)


def failed(core: Conversation, connection: Connection, now: float) -> None:
    """A successor or spare came to nothing while the primary goes on: plan another, with a backoff of its own."""
    if connection.role is Role.STANDBY:
        stood = connection.opened_at
        if stood is not None and now - stood >= core.settings.retry.stable_after:
            core.spares.stable(now)
        core.spares.failed(now)
        plan_spare(core, core.spares.delay(now), now)
    elif core.primary is not None and core.primary.is_leaving and not core.is_racing() and core.dial_at is None:
        core.successors.failed(now)
        core.plan(core.successors.delay(now), now)
