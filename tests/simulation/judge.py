"""
The judge of a schedule: the invariants over what was stored, sent and delivered.

It reads the record of the world and asks the client only for outcomes; how a client comes to them is not looked at.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from resilient_ws.exceptions import Gap, SessionTakenOver
from tests.simulation.devices import Delivery, Device

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule


def judge(s: Schedule) -> list[str]:
    """Return every violation as a line that begins with the invariant's name."""
    found: list[str] = []
    for device in [*s.devices, *s.dead]:
        found += _outbound(s, device)
        for stream in device.plan.subscribes:
            found += _inbound(s, device, stream)
        found += _losses(s, device)
    for device in s.devices:
        found += _alive(s, device)
    return found


def _outbound(s: Schedule, device: Device) -> list[str]:
    """S1, S2, S3 and L1 of everything that a device sent."""
    found: list[str] = []
    stored = Counter(entry.payload for _, _, entry in s.store.stored)
    order = {entry.payload: place for place, (_, _, entry) in enumerate(s.store.stored)}
    last: dict[str, int] = {}
    for stream, seq, payload in device.sends:
        outcome = device.session.outcome(device.producer, stream, seq)
        times = stored[payload]
        if times > 1:
            found.append(f"S2 {device.name}: {payload!r} was stored {times} times")
        if outcome is True and times != 1:
            found.append(f"S1 {device.name}: {payload!r} is acked and was stored {times} times")
        if isinstance(outcome, Exception) and times and device.is_alive and not device.session.error:
            found.append(f"S1 {device.name}: {payload!r} failed with {outcome!r} and is stored")
        if outcome is False and device.is_alive:
            found.append(f"L1 {device.name}: {payload!r} has no outcome")
        if times:
            if order[payload] < last.get(stream, -1):
                found.append(f"S3 {device.name}: {payload!r} was stored before its predecessor")
            last[stream] = order[payload]
    return found


def _inbound(s: Schedule, device: Device, stream: str) -> list[str]:
    """S2, S4, S5 and S7 of what a device got of a stream."""
    name = stream if stream != "~" else None
    if name is None:
        return _private(device)
    found: list[str] = []
    ever = {epoch: entries for (where, epoch), entries in s.store.readable.items() if where == stream}
    begun = device.begun.get(stream)
    if begun is None:
        return []
    epoch, offset = begun.epoch, begun.offset
    for item in device.log[stream]:
        if isinstance(item, Gap):
            found += _gap(s, device, item, ever, epoch, offset)
            epoch, offset = item.epoch, max(item.next - 1, offset if item.epoch == epoch else 0)
        else:
            found += _delivery(device, stream, item, ever, epoch, offset)
            epoch, offset = item.epoch, item.offset
    if device.is_alive and device.session.error is None:
        slot = s.store.memory._find(stream)
        if slot is not None and (slot.epoch, slot.last) != (epoch, offset):
            found.append(
                f"L3 {device.name}: {stream} ends at {slot.last}, the device is at {offset} ({slot.epoch == epoch})"
            )
    return found


def _delivery(
    device: Device, stream: str, item: Delivery, ever: dict[str, dict[int, bytes]], epoch: str, offset: int
) -> list[str]:
    where = f"{device.name}: {stream}:{item.offset}"
    if ever.get(item.epoch, {}).get(item.offset) != item.payload:
        return [f"S4 {where} is not what was stored"]
    if item.epoch != epoch:
        return [f"S5 {where} is of another epoch and no gap says so"]
    if item.offset <= offset:
        return [f"S2 {where} came after {offset}"]
    missing = [place for place in range(offset + 1, item.offset) if place in ever[epoch]]
    return [f"S5 {where} came after {offset}, {missing} are missing in silence"] if missing else []


def _gap(
    s: Schedule, device: Device, gap: Gap, ever: dict[str, dict[int, bytes]], epoch: str, offset: int
) -> list[str]:
    """A gap has to start where the device is, and to be true."""
    if gap.reason == "trimmed":
        slot = s.store.memory._find(gap.stream)
        kept = [] if slot is None or slot.epoch != epoch else [e.offset for e in slot.log]
        there = [place for place in kept if gap.first <= place <= (gap.last or 0) and place > offset]
        if there:
            return [f"S7 {device.name}: {gap} but {there} are there"]
        silent = [place for place in range(offset + 1, gap.first) if place in ever.get(epoch, {})]
        if silent:
            return [f"S5 {device.name}: {gap} after {offset}, {silent} are missing in silence"]
        if gap.last is not None and gap.last <= offset:
            return [f"S7 {device.name}: {gap} but the device had them"]
    if gap.reason == "epoch" and not s.has_new_epochs:
        return [f"S7 {device.name}: {gap} but no epoch was new"]
    if gap.reason == "rewritten":
        return [f"S7 {device.name}: {gap} but nothing was rewritten"]
    return []


def _private(device: Device) -> list[str]:
    """Private messages come in order, and once."""
    seen = [item.payload for item in device.log["~"] if isinstance(item, Delivery)]
    if len(set(seen)) != len(seen):
        return [f"S2 {device.name}: a private message came twice"]
    return [] if seen == sorted(seen) else [f"S3 {device.name}: private messages out of order"]


def _losses(s: Schedule, device: Device) -> list[str]:
    if device.unfair_losses and not s.may_lose_sessions:
        return [f"S7 {device.name}: {device.unfair_losses[0]} although nothing took it away"]
    return []


def _alive(s: Schedule, device: Device) -> list[str]:
    """L2, L4, L6 and S9 at the end."""
    session = device.session
    if session.error is not None:
        is_fair = isinstance(session.error, SessionTakenOver) and s.was_taken_over
        return [] if is_fair else [f"S9 {device.name} ended: {session.error!r}"]
    found = []
    if not session.connected:
        found.append(f"L2 {device.name} is not connected: {session.last_error!r}")
    if session.unacked:
        found.append(f"L4 {device.name} has unacked messages: {session.unacked}")
    if session.session_id is not None and "~" in device.plan.subscribes:
        left = s.store.memory.contents("~" + session.session_id)
        if left:
            found.append(f"L4 {device.name}: {len(left)} acked private messages are kept")
    resumes = device.resumes - s.resumes_at_heal.get(device.name, 0)
    if resumes > 12:
        found.append(f"L6 {device.name} resumed {resumes} times after everything was healed")
    return found
