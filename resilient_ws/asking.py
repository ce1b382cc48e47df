"""
What the answers to our own questions mean for a session: endpoints, and access tokens.

Every function takes the conversation and ``now``. When to ask is said in ``questions.py``; who answers (a function of
the user's, a server over HTTP) is not known here, nor whether an endpoint may be believed: that was checked before.
"""

from __future__ import annotations

from collections.abc import Sequence

from resilient_ws import events, frames
from resilient_ws.actions import Discover
from resilient_ws.connection import Connection
from resilient_ws.conversation import Conversation
from resilient_ws.exceptions import ConnectError, ConnectTimeout
from resilient_ws.questions import DEFAULT_TTL
from resilient_ws.state import Phase, Role, SessionState
from resilient_ws.succession import plan_spare, spare_of

NO_TOKEN = "access_token= has not answered in time: nothing is dialled without it; see why it blocks"
NO_ENDPOINTS = "Failover(discover=) has not answered in time; see why it blocks"


# -- endpoints --------------------------------------------------------------------------------------------------------


def ask_endpoints(core: Conversation, now: float) -> None:
    """Ask for endpoints; no question is out."""
    assert core.discovery is not None  # its callers have looked
    timeout, held = core.settings.retry.connect_timeout, core.credentials
    core.discovery.asked(now, timeout)
    core.actions.append(Discover(timeout, held.token if held is not None and held.is_usable else None))


def begin_discovery(core: Conversation, now: float) -> None:
    """Ask for endpoints the first time; where tokens are fetched, after the first one, since it may be wanted there."""
    if core.discovery is not None and core.discovery.asked_at is None:
        ask_endpoints(core, now)


def endpoints_found(core: Conversation, urls: Sequence[str], ttl: float | None, now: float) -> None:
    """Take a list of endpoints, which is not empty; the connection in use stays."""
    question = core.discovery
    if question is None or core.state is SessionState.ENDED:
        return
    question.answered(now, DEFAULT_TTL if ttl is None else ttl, core.rng.uniform(0.0, 1.0))
    take_endpoints(core, "discover", urls, now)


def endpoints_missing(core: Conversation, error: Exception, now: float) -> None:
    """There is no list; what was known last goes on."""
    question = core.discovery
    if question is None or core.state is SessionState.ENDED or question.out_until is None:
        return
    question.failed(now)
    core.events.append(events.DiscoveryFailed(error=str(error), endpoints=len(core.pool.urls)))
    if not core.pool.urls:
        core.last_error = error


def take_endpoints(core: Conversation, source: str, urls: Sequence[str], now: float) -> None:
    """Have a source's endpoints in the pool, in place of what it said before; dial where only they were missing."""
    added, removed = core.pool.take(source, urls)
    if added or removed:
        count = len(core.pool.urls)
        for backoff in (core.backoff, core.successors, core.spares):
            backoff.resized(count)
        core.events.append(
            events.EndpointsChanged(source=source, added=len(added), removed=len(removed), endpoints=count)
        )
    if core.primary is not None or not added:
        return
    if core.is_racing():
        core.hurry_hedge(now)
    elif core.dial_at is not None:
        core.dial_at = min(core.dial_at, now + core.pool.rest(now))
    elif core.is_connecting:
        core.dial(now)


# -- access tokens ----------------------------------------------------------------------------------------------------


def token_found(core: Conversation, token: str, expires_in: float | None, now: float) -> None:
    """Take a new access token: tell it to whom we speak to, and dial where that waited for it."""
    credentials = core.credentials
    if credentials is None or core.state is SessionState.ENDED:
        return
    credentials.renewed(token, expires_in, now, core.rng.uniform(0.0, 1.0))
    for connection in list(core.connections.values()):
        authenticate(core, connection)
    dial_waiting(core, now)
    begin_discovery(core, now)


def authenticate(core: Conversation, connection: Connection) -> None:
    """Say the newest access token on a connection that was dialled with an older one, once it is accepted there."""
    credentials = core.credentials
    if credentials is None or credentials.token is None or connection.credential == credentials.number:
        return
    is_spare = connection.phase is Phase.UPGRADED and connection.liveness is not None
    if connection.phase is Phase.OPEN or is_spare:
        connection.credential = credentials.number
        core.write(connection, [frames.Auth(access_token=credentials.token)])
        core.events.append(events.AccessTokenRenewed(conn=connection.number))


def token_missing(core: Conversation, error: Exception, now: float) -> None:
    """There is no new token: the one before it goes on where no server refused it, else the attempt has failed."""
    credentials = core.credentials
    if credentials is None or core.state is SessionState.ENDED or credentials.out_until is None:
        return
    credentials.failed(now)
    core.events.append(events.AccessTokenFailed(error=str(error), is_kept=credentials.is_usable))
    begin_discovery(core, now)
    if credentials.is_usable:
        dial_waiting(core, now)
        return
    roles, credentials.waiting = credentials.waiting, []
    if roles:
        credentials.due_at = None  # the next attempt asks
    if Role.STANDBY in roles:
        core.spares.failed(now)
        plan_spare(core, core.spares.delay(now), now)
    if any(role is not Role.STANDBY for role in roles):
        core.last_error = error
        fail_attempt(core, now)


def dial_waiting(core: Conversation, now: float) -> None:
    """Dial what waited for a token."""
    assert core.credentials is not None  # its callers have looked
    roles, core.credentials.waiting = core.credentials.waiting, []
    for role in dict.fromkeys(roles):
        if role is not Role.STANDBY or (core.primary is not None and spare_of(core) is None):
            core.open(now, role)


def fail_attempt(core: Conversation, now: float) -> None:
    """Count an attempt that never reached a server, and plan the next one."""
    if core.primary is not None:  # a successor of one that leaves
        core.successors.failed(now)
        core.plan(core.successors.delay(now), now)
        return
    core.backoff.failed(now)
    if core.backoff.stopped(now):
        gave_up = ConnectError(f"gave up, as Retry(stop=) says; the last attempt: {core.last_error}")
        gave_up.__cause__ = core.last_error
        core.end(gave_up, now)
        return
    core.plan(core.backoff.delay(now), now)


# -- time -------------------------------------------------------------------------------------------------------------


def check_questions(core: Conversation, now: float) -> None:
    """Give up a question that has no answer, and ask what is due."""
    found, held = core.discovery, core.credentials
    if found is not None and found.out_until is not None and now >= found.out_until:
        endpoints_missing(core, ConnectTimeout(NO_ENDPOINTS), now)
    if held is not None and held.out_until is not None and now >= held.out_until:
        token_missing(core, ConnectTimeout(NO_TOKEN), now)
    if core.state is SessionState.ENDED:
        return
    if found is not None and found.due_at is not None and now >= found.due_at:
        ask_endpoints(core, now)
    if held is not None and held.due_at is not None and now >= held.due_at:
        core.ask_token(now)
