"""
What a lost connection means: the treatment that its error asks for, as rows of one table, and when to try again.

Every function takes the conversation, the connection (already forgotten), the error and ``now``.
"""

from __future__ import annotations

from collections.abc import Callable

from resilient_ws import events, frames
from resilient_ws.actions import Shut
from resilient_ws.connection import Connection
from resilient_ws.conversation import Conversation
from resilient_ws.exceptions import (
    AccessDenied,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HandshakeRejected,
    RemoteProtocolError,
    SessionTakenOver,
)
from resilient_ws.state import ConnectionInput, Phase
from resilient_ws.succession import failed, promote
from resilient_ws.treatments import Treatment, push_back, superseder

FOREIGN_WINDOW = 60.0
"""A second foreign 4409 within this many seconds ends the session (rule 4)."""
MAX_VIOLATIONS = 3
"""So many broken rules of the server in a row, without any progress between them, are fatal."""
BEHIND = 64 << 10
"""With more payload bytes than these without an ack a ping may be stuck behind them: its round trip says nothing."""
_RESUME_CODE = 1012
WAITING: dict[Phase, str] = {
    Phase.DIALLING: "no answer yet to name lookup, TCP, TLS or upgrade; is the server running there, and reachable?",
    Phase.UPGRADED: "upgraded, but it was not this connection's turn to say hello",
    Phase.HANDSHAKING: "upgraded, but the server does not answer our hello; does it speak this dialect?",
}
"""What is waited for before a welcome."""
SIZES = {1009: "one side sends larger messages than the other takes; see Wire(max_message=) and the server's own limit"}


def lose(core: Conversation, connection: Connection, error: Exception, now: float) -> None:
    """A connection ended, a dial failed, or a rule was broken: forget it, report it, treat it."""
    core.check_stable(now)
    core.forget(connection)
    if connection.phase is Phase.HANDSHAKING or isinstance(error, ConnectTimeout):
        core.pool.unpin(connection.url)  # no answer, or a hello without a welcome: not to this node again (rule 6)
    code = error.code if isinstance(error, (ConnectionLost, RemoteProtocolError)) else 0
    if isinstance(error, RemoteProtocolError):
        core.actions.append(Shut(connection.number, error.code, str(error)[:120]))
    reason = error.reason if isinstance(error, ConnectionLost) else ""
    core.events.append(
        events.ConnectionEnded(conn=connection.number, code=code, reason=reason, error=type(error).__name__)
    )
    connection.step(ConnectionInput.LOST)
    core.last_error = error
    core.endpoint_failed(connection.url, now)
    if core.credentials is not None and refuses_token(error):
        core.credentials.refuse(connection.credential)
    asked = push_back(error)
    if asked is not None:
        core.pool.hold(connection.url, now + min(asked, core.settings.retry.max_retry_after))
    if core.primary is not None:  # a spare, or one on its way: the session goes on where it is
        core.next_hello(now)
        failed(core, connection, now)
        return
    AFTER_LOSS[treatment(core, connection, error)](core, connection, error, now)


def resume(core: Conversation, connection: Connection, now: float) -> None:
    """Something is missing on this connection: a new hello settles it (rule 7)."""
    core.check_stable(now)
    core.actions.append(Shut(connection.number, _RESUME_CODE, "a message is missing: resuming"))
    connection.step(ConnectionInput.LEAVE)
    core.forget(connection)
    core.events.append(events.ConnectionEnded(conn=connection.number, code=_RESUME_CODE, reason="hole", error=""))
    retry_later(core, connection, now)


def treatment(core: Conversation, connection: Connection, error: Exception) -> Treatment:
    """Say what the error asks for; a rule that the server broke is retried a few times before it is fatal."""
    ours = isinstance(error, ConnectionLost) and error.rcvd is None and error.sent is not None
    found = Treatment.FATAL if isinstance(error, RemoteProtocolError) else core.tables.treat(error)
    if not (ours or isinstance(error, RemoteProtocolError)) or found is Treatment.RETRY:
        return found
    core.violations += 1
    return Treatment.RETRY if core.violations < MAX_VIOLATIONS else Treatment.FATAL


def retry_later(core: Conversation, connection: Connection, now: float) -> None:
    """Plan the next attempt, unless another connection is on its way or a spare stands by."""
    promote(core, now)
    if core.is_racing():
        return
    was_open = connection.opened_at is not None
    fresh = core.backoff.failures == 0
    core.backoff.failed(now)
    if core.backoff.stopped(now):
        last = "" if core.last_error is None else f"; the last one: {core.last_error}"
        gave_up = ConnectError(f"gave up after {core.backoff.failures} attempts, as Retry(stop=) says{last}")
        gave_up.__cause__ = core.last_error
        core.end(gave_up, now)
        return
    delay = core.backoff.delay(now)
    many = core.pool.has_other(connection.url, now)
    if was_open and many and (fresh or connection.progressed):
        delay = 0.0  # what worked was lost, and another is known: the budget bounds how often
    elif was_open and fresh:
        delay = core.rng.uniform(0.0, min(connection.spread, core.settings.retry.max_spread))
    core.plan(delay, now)


def after_retry(core: Conversation, connection: Connection, error: Exception, now: float) -> None:
    retry_later(core, connection, now)


def after_end(core: Conversation, connection: Connection, error: Exception, now: float) -> None:
    """The user's own table takes this ending for the end of the session."""
    core.end(None, now)


def refuses_token(error: Exception) -> bool:
    """Say whether another access token may help: 401, 4401 and 1008; 403 and 4403 mean who we are, not the token."""
    if isinstance(error, HandshakeRejected):
        return error.status == 401
    return isinstance(error, ConnectionLost) and error.code in (1008, 4401)


def is_worth_another_token(core: Conversation, error: Exception, now: float) -> bool:
    """
    Say whether a refusal is answered by another access token: once, and a session that was welcomed goes on asking,
    with backoff, as long as the server wants a new one (401, 4401).
    """
    if core.credentials is None or not refuses_token(error):
        return False
    series = now if core.backoff.started_at is None else core.backoff.started_at
    is_first = core.credentials.count_refusal(series) == 1
    return is_first or (core.welcomed_once and getattr(error, "code", 0) != 1008)


def after_denied(core: Conversation, connection: Connection, error: Exception, now: float) -> None:
    if is_worth_another_token(core, error, now):
        retry_later(core, connection, now)
        return
    if isinstance(error, AccessDenied):
        core.end(error, now)
        return
    if isinstance(error, HandshakeRejected):
        core.end(AccessDenied(str(error), status=error.status), now)
        return
    code = getattr(error, "code", 0)
    notice = connection.notice
    said = f"{notice.code} {notice.hint}".rstrip() if notice is not None else getattr(error, "reason", "")
    why = f" ({said})" if said else ""
    text = f"the server refused this client with close code {code}{why}; the session has ended: check access_token="
    core.end(AccessDenied(text), now)


def after_fatal(core: Conversation, connection: Connection, error: Exception, now: float) -> None:
    """Fatal for the endpoint; for the session where no other endpoint is left."""
    core.fatal[connection.url] = error
    is_last = core.fatal.keys() >= set(core.pool.urls)
    if connection.opened_at is not None or core.violations >= MAX_VIOLATIONS or is_last:
        core.end(final(core, error), now)
    else:
        retry_later(core, connection, now)


def final(core: Conversation, error: Exception) -> Exception:
    """Return the error that ends the session: what happened, that it would happen again, and where to look."""
    times = f" {core.violations} times in a row" if core.violations >= MAX_VIOLATIONS else ""
    where = SIZES.get(error.code) if isinstance(error, ConnectionLost) else None
    where = where or "see whether the URL is the right one, and what the server's log says"
    ending = f"so the session has ended. Trying again would not help: {where}"
    ended: ConnectionLost | RemoteProtocolError
    if isinstance(error, RemoteProtocolError):
        text = f"the server broke the protocol{times} ({error}), {ending}"
        ended = RemoteProtocolError(text, code=error.code)
        ended.hint = error.hint
    elif isinstance(error, ConnectionLost):
        again = f",{times}" if times else ""
        text = f"{error}{again}, {ending}"
        ended = ConnectionLost(text, code=error.code, reason=error.reason, rcvd=error.rcvd, sent=error.sent)
    else:
        return error
    ended.retryable = False
    ended.__cause__ = error
    return ended


def after_too_big(core: Conversation, connection: Connection, error: Exception, now: float) -> None:
    """The oldest unconfirmed message of the connection fails; twice in a row without an ack between is fatal."""
    core.too_big += 1
    if core.too_big >= 2:
        core.end(final(core, error), now)
        return
    for lane in core.outbox.writable():
        sent = range(lane.first, connection.cursors.get(lane.key, 0))
        oldest = next((seq for seq in sent if seq not in lane.failures), None)
        if oldest is not None:
            core.events.append(events.MessageRejected(stream=lane.stream, seq=oldest, code="too_large"))
            core.outbox.give_up(lane, oldest, "the server closed with 1009: it seems too big for it")
            break
    retry_later(core, connection, now)


def after_superseded(core: Conversation, connection: Connection, error: Exception, now: float) -> None:
    """Own instance: resume at once. Foreign: once more after a jittered delay, the second time it is over (rule 4)."""
    instance = superseder(getattr(error, "reason", ""))
    if instance in core.settings.instances:
        retry_later(core, connection, now)
        return
    if is_contested(core, now):
        text = "another process resumed this session twice, so this Client has ended; each process must open its own"
        core.end(SessionTakenOver(text), now)
        return
    core.foreign_at = now
    if core.is_racing():
        core.next_hello(now)
    else:
        core.plan(core.rng.uniform(0.1, 1.0), now)


def is_contested(core: Conversation, now: float) -> bool:
    return core.foreign_at is not None and now - core.foreign_at <= FOREIGN_WINDOW


def check_connection(core: Conversation, connection: Connection, now: float) -> None:
    """Give up one that was not welcomed in time or is silent, and ping one that should be."""
    if connection.number not in core.connections:
        return
    if connection.deadline is not None and now >= connection.deadline:
        what = connection.phase
        core.actions.append(Shut(connection.number, 1001, "no welcome in time"))
        lose(core, connection, ConnectTimeout(f"Retry(connect_timeout=) passed: {WAITING[what]}"), now)
        return
    live = connection.liveness
    if live is None:
        return
    if live.lost(now):
        core.actions.append(Shut(connection.number, 1001, "keepalive timeout"))
        silent = ConnectionLost("the server was silent for too long (Keepalive)", code=1006, reason="keepalive timeout")
        lose(core, connection, silent, now)
    elif live.ping_due(now):
        core.echo += 1
        connection.ping_out = str(core.echo), now
        live.pinged(now, is_behind=core.outbox.bytes > BEHIND)
        riders = core.riders(connection) if connection.phase is Phase.OPEN else {}
        core.write(connection, [frames.Ping(echo=str(core.echo), **riders)])


def forgive_lateness(core: Conversation, now: float, planned: float) -> None:
    """Where our own timer is late, it was we who slept: every connection is probed before it is given up."""
    late = 0.0
    for connection in core.connections.values():
        if connection.liveness is not None:
            late = max(late, connection.liveness.late(now, planned))
    if late > 0:
        core.events.append(events.Suspended(late=late))


AFTER_LOSS: dict[Treatment, Callable[[Conversation, Connection, Exception, float], None]] = {
    Treatment.RETRY: after_retry,
    Treatment.END: after_end,
    Treatment.DENIED: after_denied,
    Treatment.FATAL: after_fatal,
    Treatment.TOO_BIG: after_too_big,
    Treatment.SUPERSEDED: after_superseded,
    Treatment.STALE: after_retry,
}
