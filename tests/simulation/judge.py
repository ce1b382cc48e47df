"""
The judge of a schedule: the invariants over what was stored, sent and delivered.

It reads the record of the store and the memory of the applications, and asks the client only for outcomes; how a
client comes to them is not looked at. What can be seen at each step is in ``invariants.py`` and ``store.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from resilient_ws.exceptions import Gap, Rejected, SessionTakenOver
from resilient_ws.frames import PRIVATE
from resilient_ws.ledger import SYNC_DELAY
from resilient_ws.session import SessionState
from tests.simulation.application import Begun, Delivery
from tests.simulation.devices import Device
from tests.simulation.following import follow
from tests.simulation.journal import Sent
from tests.simulation.nodes import FORBIDDEN_STREAM, LARGEST
from tests.simulation.storage import DISK

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

MOST_RESUMES = 12
"""So many resumes after everything is healed are a livelock."""
CALM = ("nothing", "publish_private")
MOST_CALM = 5
"""So many resumes happen without any fault, because a packet is seconds late now and then."""


def judge(s: Schedule) -> list[str]:
    """Return every violation as a line that begins with the invariant's name."""
    found: list[str] = []
    stored = Counter(entry.payload for _, _, entry in s.store.record.stored)
    place = {entry.payload: place for place, (_, _, entry) in enumerate(s.store.record.stored)}
    for device in [*s.devices, *s.dead]:
        found += _outbound(s, device, stored, place)
        for stream in device.plan.subscribes:
            found += _private(s, device) if stream == PRIVATE else follow(s, device, stream)
        if device.unfair_losses and not s.may_lose_sessions:
            found.append(f"S7 {device.name}: {device.unfair_losses[0]} although nothing took it away")
    for device in s.devices:
        found += _alive(s, device)
    return found + _journals(s) + _refused(s, stored) + _kept(s)


def _outbound(s: Schedule, device: Device, stored: Counter[bytes], place: dict[bytes, int]) -> list[str]:
    """S1, S2, S3 and L1 of everything that a device sent."""
    found: list[str] = []
    last: dict[str, int] = {}
    for sent in device.application.sends:
        outcome = device.session.outcome(sent.producer, sent.stream, sent.seq)
        times, lost = stored[sent.payload], s.store.record.lost[sent.payload]
        what = f"{device.name}: {sent.payload[:30]!r} (seq {sent.seq} of {sent.stream})"
        if times > 1 + lost and sent.stream not in s.forgotten:
            found.append(f"S2 {what} was stored {times} times and lost {lost} times")
        if outcome is True and times == 0 and not _was_dropped_before(s, device, sent):
            found.append(f"S1 {what} is acked and was never stored")
        if isinstance(outcome, Rejected) and times and not _is_revived(s, device, sent):
            found.append(f"S1 {what} failed with {outcome!r} and was stored")
        if isinstance(outcome, Rejected) and not _is_deserved(s, outcome.code, sent):
            found.append(f"S7 {what} was refused without a reason: {outcome!r}")
        if outcome is False and device.is_alive:
            found.append(f"L1 {what} has no outcome")
        if times > lost and sent.stream not in s.forgotten:  # what the store lost again has no place
            if place[sent.payload] < last.get(sent.stream, -1):
                found.append(f"S3 {what} was stored before its predecessor")
            last[sent.stream] = place[sent.payload]
    return found


def _is_revived(s: Schedule, device: Device, sent: Sent) -> bool:
    """Say whether a message was dropped so shortly before a power loss that its journal may not know of it."""
    dropped_at = device.dropped_at.get((sent.stream, sent.seq))
    if dropped_at is None or device.storage is None:
        return False
    late = any(fault.kind in ("full_disk", "slow_disk", "save_copy") for fault in s.script.faults)
    return device.died_at - dropped_at < (math.inf if late else SYNC_DELAY + DISK[1])


def _was_dropped_before(s: Schedule, device: Device, sent: Sent) -> bool:
    """Say whether an earlier life dropped it and its journal forgot that: the server may have the tombstone."""
    root = device.name.split(".")[0]
    earlier = [other for other in s.dead if other is not device and other.name.split(".")[0] == root]
    return any(sent in other.application.sends and _is_revived(s, other, sent) for other in earlier)


def _is_deserved(s: Schedule, code: str, sent: Sent) -> bool:
    """Say whether a message is what a node refuses under this code; other codes are the client's own."""
    if code == "too_large":
        return len(sent.payload) > LARGEST
    return code != "forbidden" or sent.stream == FORBIDDEN_STREAM or sent.stream in s.revoked


def _private(s: Schedule, device: Device) -> list[str]:
    """S2, S3, S5: private messages come in order, once, and all of those that the session's stream held."""
    log = device.application.log[PRIVATE]
    seen = [item.payload for item in log if isinstance(item, Delivery)]
    if len(set(seen)) != len(seen):
        return [f"S2 {device.name}: a private message came twice"]
    if seen != sorted(seen):
        return [f"S3 {device.name}: private messages out of order"]
    stream = f"{PRIVATE}{device.session.session_id}"
    is_over = not device.is_alive or device.session.state is SessionState.ENDED
    if is_over or s.was_taken_over or any(isinstance(item, Gap) for item in log):
        return []
    root = device.name.split(".")[0]
    for other in s.dead:
        if other.name.split(".")[0] == root:
            if any(isinstance(item, Gap) for item in other.application.log[PRIVATE]):
                return []
            seen += [item.payload for item in other.application.log[PRIVATE] if isinstance(item, Delivery)]
    stored = [entry.payload for where, _, entry in s.store.record.stored if where == stream]
    missing = [payload for payload in stored if payload not in seen]
    return [f"S5 {device.name}: private messages {missing[:3]} never came"] if missing else []


def _alive(s: Schedule, device: Device) -> list[str]:
    """L2, L4, L6 and S9 at the end."""
    session = device.session
    if session.error is not None:
        is_fair = isinstance(session.error, SessionTakenOver) and s.was_taken_over
        return [] if is_fair else [f"S9 {device.name} ended: {session.error!r}"]
    if session.state is SessionState.ENDED:
        return []
    found = []
    if not session.connected:
        found.append(f"L2 {device.name} is not connected: {session.last_error!r}")
    if session.state is SessionState.DRAINING:
        found.append(f"L2 {device.name} drains and does not end")
    pending = [stream for stream in device.plan.subscribes if session.subscription(stream) == "pending"]
    if pending:
        found.append(f"L2 {device.name} has no answer to its subscribe to {pending}")
    if session.unacked:
        found.append(f"L4 {device.name} has unacked messages: {session.unacked}")
    if session.session_id is not None and PRIVATE in device.plan.subscribes:
        left = s.store.memory.contents(PRIVATE + session.session_id)
        if left:
            found.append(f"L4 {device.name}: {len(left)} acked private messages are kept")
    resumes = device.resumes - s.resumes_at_heal.get(device.name, 0)
    if device.resumes > MOST_CALM and all(fault.kind in CALM for fault in s.script.faults):
        found.append(f"L6 {device.name} resumed {device.resumes} times although nothing went wrong")
    if resumes > MOST_RESUMES:
        found.append(f"L6 {device.name} resumed {resumes} times after everything was healed")
    return found


def _kept(s: Schedule) -> list[str]:
    """S10: a node gives a silent client up, or its connections grow without a bound."""
    dead = [(node, wire) for node in s.nodes for wire in node.sessions if not wire.up.is_open]
    return [f"S10 {node.name} keeps connection {wire.conn} of a client that is gone" for node, wire in dead]


def _journals(s: Schedule) -> list[str]:
    """S13: a journal covers nothing that the user had not handled, and what was safe is there after a crash."""
    found: list[str] = []
    for before, after in s.restarts:
        restored = after.contents
        if restored is None or s.had_copies:  # a copy may be from several lives before
            continue
        for stream, kept in restored.positions.items():
            found += [
                f"S13 {before.name}: {stream}:{item.offset} was in hand, its journal is past it"
                for item in _since_begun(before, stream)
                if item.epoch == kept.position.epoch
                and item.offset <= kept.position.offset
                and (stream, item.epoch, item.offset) not in before.application.handled
            ]
        if before.plan.journal == "full":
            kept_payloads = {sent.payload for sent in after.application.sends}
            found += [
                f"S13 {before.name}: {sent.payload[:30]!r} was safe and is gone"
                for sent in before.application.sends
                if sent.payload not in kept_payloads
                and (sent.producer, sent.stream, sent.seq) not in before.application.unsure
                and not isinstance(before.session.outcome(sent.producer, sent.stream, sent.seq), Exception)
                and restored.settled.get((sent.producer, sent.stream), 0) < sent.seq
            ]
    return found


def _refused(s: Schedule, stored: Counter[bytes]) -> list[str]:
    """S13: what ``send()`` refused for want of room is nowhere."""
    return [
        f"S13 {device.name}: {payload[:30]!r} was refused and is stored"
        for device in [*s.devices, *s.dead]
        for payload in device.application.no_room
        if stored[payload]
    ]


def _since_begun(device: Device, stream: str) -> list[Delivery]:
    """Return what a device got of a stream since it last subscribed."""
    log = device.application.log[stream]
    begun = max(place for place, item in enumerate(log) if isinstance(item, Begun))
    return [item for item in log[begun:] if isinstance(item, Delivery)]
