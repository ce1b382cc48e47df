"""
What a server says: one function per frame, reached through one table.

Every function takes the conversation, the connection that the frame came over, the frame, and ``now``. A broken rule is
a :class:`~resilient_ws.exceptions.RemoteProtocolError`, converted at the door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient_ws import events, frames
from resilient_ws.asking import authenticate, take_endpoints
from resilient_ws.connection import ALLOWED, Connection, is_missing
from resilient_ws.conversation import Conversation, subscribe_frame
from resilient_ws.exceptions import Gap, Rejected, RemoteProtocolError, SessionLost, SessionTakenOver
from resilient_ws.frames import Batch, Frame
from resilient_ws.inbox import Arrival
from resilient_ws.liveness import Liveness
from resilient_ws.losing import is_contested, resume
from resilient_ws.records import Identity, SessionOver, Welcomed
from resilient_ws.state import ConnectionInput, Phase, Role, SessionInput, next_session_state
from resilient_ws.succession import failed, is_misled, leave, plan_first_spare, promote, turn_back
from resilient_ws.welcome import check_welcome, settle

DEFAULT_INTERVAL = 20.0
MOST_PONGS = 64
"""So many answers to pings may wait for a server that does not read."""
NOT_TRUSTED = "they are neither known endpoints nor in Failover(trusted_hosts=), or would be reached without TLS"
BOUNDS = (0.1, 300.0)
"""Between these the server's advice for keepalive is followed, in seconds."""


def dispatch(core: Conversation, connection: Connection, item: Batch | Frame, now: float) -> None:
    kind = type(item)
    if kind not in ALLOWED[connection.phase]:
        raise RemoteProtocolError(
            f"the server sent {kind.__name__} on a connection that is {connection.phase.value}",
            hint="see the order of frames in docs/protocol.md",
            code=4400,
        )
    HANDLERS[kind](core, connection, item, now)


def on_welcome(core: Conversation, connection: Connection, welcome: frames.Welcome, now: float) -> None:
    hello = connection.hello
    assert hello is not None  # a connection that is HANDSHAKING has said it
    check_welcome(hello, welcome, core.identity, core.outbox)
    if welcome.verdict == "new" and hello.session is not None:
        if welcome.reason == "superseded" and is_contested(core, now):
            core.end(SessionTakenOver("another process holds this session; its resume outranks ours"), now)
            return
        session_lost(core, welcome.reason or "unknown")
    core.identity = Identity(welcome.session, welcome.token, welcome.generation)
    become_primary(core, connection, welcome, now)
    if core.ledger is not None:
        core.ledger.welcomes += 1
        core.ledger.add(Welcomed(core.ledger.welcomes, now, welcome.incarnation, core.identity))
        connection.held_back = []
    resend = core.settings.outbox.indefinite == "resend"
    core.events.extend(settle(core.outbox, hello, welcome, resend=resend, now=now))
    learn_limit(core, welcome)
    core.write(connection, [frames.Ready(generation=welcome.generation)])
    authenticate(core, connection)
    take_peers(core, connection, welcome.peers, now)
    for answer in welcome.streams:
        take_answer(core, connection, answer)
    repair_subscriptions(core, connection, hello)
    core.confirm(connection)
    unacked = len(core.outbox)
    core.events.append(events.Connected(conn=connection.number, node=welcome.node, session=welcome.session))
    if welcome.verdict == "resumed":
        core.counts["resumes"] += 1
        core.events.append(events.Resumed(conn=connection.number, node=welcome.node, resent=unacked))
    core.next_hello(now)


def become_primary(core: Conversation, connection: Connection, welcome: frames.Welcome, now: float) -> None:
    connection.step(ConnectionInput.WELCOMED)
    for other in list(core.connections.values()):
        if other is not connection and other.role is not Role.STANDBY:
            if other.phase is Phase.DIALLING and other.number < connection.number:
                core.endpoint_failed(other.url, now)  # one that was dialled after it was here before it
            core.shut(other, 1000, "another connection took over")
    connection.role, connection.deadline, connection.opened_at = Role.PRIMARY, None, now
    connection.node, connection.incarnation, connection.spread = welcome.node, welcome.incarnation, welcome.spread
    assert connection.hello is not None
    connection.granted = connection.hello.credit
    core.advice = welcome.keepalive
    connection.liveness = _liveness(core, connection, now)
    core.primary = connection
    core.gathering.hurry()
    core.dial_at = core.hedge_at = None
    core.welcomed_once = True
    core.fatal.clear()
    core.counts["connects"] += 1
    core.endpoint_works(connection.url, now)
    core.state = next_session_state(core.state, SessionInput.WELCOMED)
    plan_first_spare(core, now)


def _liveness(core: Conversation, connection: Connection, now: float) -> Liveness:
    """Choose the durations: the user's, else the server's within bounds, else the default; its answer is a sample."""
    ours, advice = core.settings.keepalive, core.advice
    interval = DEFAULT_INTERVAL if advice is None else min(max(advice.interval, BOUNDS[0]), BOUNDS[1])
    timeout = DEFAULT_INTERVAL if advice is None else min(advice.timeout, BOUNDS[1])
    if ours.interval is not None:
        interval = ours.interval
    if ours.timeout is not None:
        timeout = ours.timeout
    floor = ours.min_timeout if ours.timeout is None else None
    made = Liveness(interval=interval, timeout=max(timeout, ours.min_timeout), floor=floor, now=now)
    made.measured(now - connection.hello_at)
    return made


def session_lost(core: Conversation, reason: str) -> None:
    lost = SessionLost(reason, len(core.outbox))
    core.events.append(events.SessionReplaced(reason=reason, unacked=lost.unacked))
    core.inbox.mark(lost)


def learn_limit(core: Conversation, welcome: frames.Welcome) -> None:
    core.max_message = min(core.settings.wire.max_message, welcome.max_message)
    withdraw_larger(core)


def withdraw_larger(core: Conversation) -> None:
    """Withdraw what was accepted before the server's limit was known."""
    for stream, seq in core.outbox.withdraw_larger(core.max_message):
        core.events.append(events.MessageRejected(stream=stream, seq=seq, code="too_large"))


def take_answer(core: Conversation, connection: Connection, answer: frames.StreamAnswer) -> None:
    subscription = core.inbox.subscriptions.get(answer.stream)
    if subscription is None or subscription.id != answer.id:
        return
    if answer.error is not None:
        refusal = Rejected(answer.stream, 0, answer.error.code, answer.error.hint or "the subscription was refused")
        core.events.append(events.StreamRefused(stream=answer.stream, code=answer.error.code, hint=answer.error.hint))
        core.inbox.refuse(answer.stream, refusal)
        return
    if not subscription.is_active:  # a start is where the node begins: there is nothing to ack
        connection.acked[answer.stream] = (answer.epoch, answer.first - 1)
    report_gap(core, core.inbox.answered(answer)[1])


def repair_subscriptions(core: Conversation, connection: Connection, hello: frames.Hello) -> None:
    """Ask again for what changed while the hello was out (rule 12)."""
    said = {entry.stream: entry.id for entry in hello.streams}
    present = {s.stream: s for s in core.inbox.subscriptions.values()}
    changes: list[Batch | Frame] = [
        frames.Unsubscribe(stream=stream, id=core.inbox.new_id())
        for stream in said
        if stream not in present and stream not in core.inbox.refused
    ]
    for stream, subscription in present.items():
        if said.get(stream) != subscription.id:
            changes.append(subscribe_frame(subscription))
    core.write(connection, changes)


def on_standing(core: Conversation, connection: Connection, frame: frames.Standing, now: float) -> None:
    if connection.hello is None or not connection.hello.standby:
        raise RemoteProtocolError("the server answered `standing` to an ordinary hello", code=4400)
    if is_misled(core, connection, frame.node):
        turn_back(core, connection, now)
        return
    connection.step(ConnectionInput.STANDING)
    connection.deadline, connection.opened_at = None, now
    connection.node = frame.node
    connection.liveness = _liveness(core, connection, now)
    core.endpoint_works(connection.url, now)
    core.events.append(events.StandingBy(conn=connection.number, node=frame.node))
    authenticate(core, connection)
    promote(core, now)


def on_batch(core: Conversation, connection: Connection, batch: Batch, now: float) -> None:
    connection.arrived(batch)
    if core.settings.has_credit and connection.is_overdrawn:
        raise RemoteProtocolError(
            "the server sent more than it was granted", hint="both totals of `credit` bind it (rule 9)", code=4400
        )
    found = core.inbox.data(batch)
    if found is Arrival.HOLE:
        resume(core, connection, now)
    elif found is Arrival.DROPPED:
        core.after_taking(now)
    else:
        connection.progressed = True
        core.violations = 0


def on_subscribed(core: Conversation, connection: Connection, frame: frames.Subscribed, now: float) -> None:
    take_answer(core, connection, frame.answer)


def on_ack(core: Conversation, connection: Connection, frame: frames.Ack, now: float) -> None:
    committed(core, connection, frame.committed)


def committed(core: Conversation, connection: Connection, marks: tuple[frames.SeqMark, ...]) -> None:
    for mark in marks:
        producer = connection.producer(mark.producer)
        if producer is None:
            raise RemoteProtocolError(f"an ack names producer {mark.producer}, which the hello did not", code=4400)
        if core.outbox.committed(producer, mark.stream, mark.seq):
            core.gathering.hurry()
            connection.progressed = True
            core.violations = core.too_big = 0


def on_gap(core: Conversation, connection: Connection, frame: frames.GapFrame, now: float) -> None:
    found, gap = core.inbox.gap(frame)
    if found is Arrival.HOLE:
        resume(core, connection, now)
    report_gap(core, gap)


def report_gap(core: Conversation, gap: Gap | None) -> None:
    if gap is not None:
        core.events.append(events.GapFound(stream=gap.stream, first=gap.first, last=gap.last, reason=gap.reason))


def on_reject(core: Conversation, connection: Connection, frame: frames.Reject, now: float) -> None:
    producer = connection.producer(frame.producer)
    if producer is None:
        raise RemoteProtocolError(f"a reject names producer {frame.producer}, which the hello did not", code=4400)
    if core.outbox.reject(producer, frame.stream, frame.seq, frame.code, frame.hint):
        core.events.append(events.MessageRejected(stream=frame.stream, seq=frame.seq, code=frame.code))


def on_ping(core: Conversation, connection: Connection, frame: frames.Ping, now: float) -> None:
    if connection.pongs < MOST_PONGS:
        answer_ping(core, connection, frame)
    else:
        connection.late_ping = frame  # of those who ask without listening the newest is answered
    riders(core, connection, frame, now)


def answer_ping(core: Conversation, connection: Connection, frame: frames.Ping) -> None:
    connection.pongs += 1
    answer = (
        frames.Pong(echo=frame.echo, **core.riders(connection))
        if connection.phase is Phase.OPEN
        else frames.Pong(echo=frame.echo)
    )
    core.write(connection, [answer])


def on_written(core: Conversation, connection: Connection) -> None:
    """Everything that was given to the shell for this connection is out."""
    connection.unwritten = connection.pongs = 0
    late, connection.late_ping = connection.late_ping, None
    if late is not None:
        answer_ping(core, connection, late)


def on_pong(core: Conversation, connection: Connection, frame: frames.Pong, now: float) -> None:
    connection.progressed = True
    if connection.ping_out is not None and connection.ping_out[0] == frame.echo and connection.liveness is not None:
        connection.liveness.measured(now - connection.ping_out[1])
        connection.ping_out = None
    riders(core, connection, frame, now)


def riders(core: Conversation, connection: Connection, frame: frames.Ping | frames.Pong, now: float) -> None:
    """Take what rides along: acks, advice, and marks that show a missing tail."""
    if connection.phase is not Phase.OPEN:
        return
    if frame.spread is not None:
        connection.spread = frame.spread
    committed(core, connection, frame.committed)
    for mark in frame.sent_offsets:
        subscription = core.inbox.subscriptions.get(mark.stream)
        if subscription is not None and is_missing(mark, subscription.id, subscription.epoch, subscription.offset):
            resume(core, connection, now)
            return


def on_drain(core: Conversation, connection: Connection, frame: frames.Drain, now: float) -> None:
    core.events.append(events.DrainNoticed(conn=connection.number, within=frame.within))
    connection.spread = frame.spread
    take_peers(core, connection, frame.peers, now)
    core.pool.unpin(connection.url)
    if connection is core.primary:
        leave(core, connection, frame, now)
    elif connection.role is Role.STANDBY:
        core.shut(connection, 1000, "")
        failed(core, connection, now)


def take_peers(core: Conversation, connection: Connection, peers: tuple[str, ...], now: float) -> None:
    """Believe of the others that a server names those whom the rules let in; none named: what it said before stays."""
    if peers:
        believed = core.settings.vet(peers, connection.url)
        if len(believed) < len(peers):
            refused = len(peers) - len(believed)
            core.events.append(events.EndpointsRefused(source="server", count=refused, why=NOT_TRUSTED))
        take_endpoints(core, "server", believed, now)


def on_error(core: Conversation, connection: Connection, frame: frames.Error, now: float) -> None:
    connection.notice = frame
    core.events.append(events.ServerNoticed(code=frame.code, hint=frame.hint))


def on_bye(core: Conversation, connection: Connection, frame: frames.Bye, now: float) -> None:
    core.end(None, now)
    if core.ledger is not None:
        core.ledger.add(SessionOver())


HANDLERS: dict[type, Callable[[Conversation, Connection, Any, float], None]] = {
    Batch: on_batch,
    frames.Welcome: on_welcome,
    frames.Standing: on_standing,
    frames.Subscribed: on_subscribed,
    frames.Ack: on_ack,
    frames.GapFrame: on_gap,
    frames.Reject: on_reject,
    frames.Ping: on_ping,
    frames.Pong: on_pong,
    frames.Drain: on_drain,
    frames.Error: on_error,
    frames.Bye: on_bye,
}
