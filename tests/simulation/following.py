"""
The judge of what one device got of one shared stream: S2, S4, S5, S7 and L3, item by item in the order of its log.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from resilient_ws.exceptions import Gap
from resilient_ws.session import SessionState
from tests.simulation.application import Begun, Delivery
from tests.simulation.devices import Device

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule


def follow(s: Schedule, device: Device, stream: str) -> list[str]:
    """Return the violations."""
    follower = _Follower(s, device, stream)
    for item in device.application.log[stream]:
        follower.take(item)
    follower.end()
    return follower.found


@attrs.define
class _Follower:
    """Where the device is while its log is read; ``epoch`` is None while nobody had told it where it begins."""

    schedule: Schedule
    device: Device
    stream: str
    epoch: str | None = None
    offset: int = 0
    found: list[str] = attrs.field(factory=list)
    _unchecked: list[Delivery] = attrs.field(factory=list)

    def take(self, item: Delivery | Gap | Begun) -> None:
        if isinstance(item, Begun):
            self.epoch = None if item.position is None else item.position.epoch
            self.offset = 0 if item.position is None else item.position.offset
            self._unchecked.clear()
        elif self.epoch is not None:
            if isinstance(item, Gap):
                self._gap(item)
            else:
                self._delivery(item)

    def _ever(self, epoch: str) -> dict[int, list[bytes]]:
        return self.schedule.store.record.readable.get((self.stream, epoch), {})

    def _complain(self, invariant: str, what: str) -> None:
        self.found.append(f"{invariant} {self.device.name}: {self.stream} {what}")

    def _missing(self, first: int, last: int, since: float = 0.0, until: float = math.inf) -> list[int]:
        """Return the offsets of the present epoch that the store has or had, and had not lost between two times."""
        assert self.epoch is not None
        ever, record = self._ever(self.epoch), self.schedule.store.record
        return [
            place
            for place in range(first, last + 1)
            if place in ever and not record.was_gone(self.stream, self.epoch, place, since, until)
        ]

    def _delivery(self, item: Delivery) -> None:
        where = f"offset {item.offset}"
        if item.payload not in self._ever(item.epoch).get(item.offset, ()):
            self._complain("S4", f"{where} is not what was stored")
        elif item.epoch != self.epoch:
            self._complain("S5", f"{where} is of another epoch and no gap says so")
        elif item.offset <= self.offset:
            self._complain("S2", f"{where} came after {self.offset}")
        else:
            key = (self.stream, item.epoch, item.offset, item.payload)
            read_after = self.schedule.store.record.stored_at.get(key, 0.0)
            missing = self._missing(self.offset + 1, item.offset - 1, read_after, item.at)
            if missing:
                self._complain("S5", f"{where} came after {self.offset}, {missing} are missing in silence")
        self.epoch, self.offset = item.epoch, item.offset
        self._unchecked.append(item)

    def _gap(self, gap: Gap) -> None:
        """A gap has to start where the device is, and to be true."""
        if gap.reason != "rewritten":
            silent = self._missing(self.offset + 1, gap.first - 1)
            if silent:
                self._complain("S5", f"{gap} after {self.offset}, {silent} are missing in silence")
        if gap.reason == "trimmed":
            self._trimmed(gap)
        elif gap.reason == "epoch":
            if not self.schedule.has_new_epochs:
                self._complain("S7", f"{gap} but no epoch was new")
            self._unchecked.clear()
        elif gap.reason == "rewritten":
            if not self.schedule.has_lost_tails:
                self._complain("S7", f"{gap} but nothing was rewritten")
            self._unchecked = [item for item in self._unchecked if item.offset > (gap.last or 0)]
        reached = gap.next - 1
        self.offset = max(reached, self.offset) if gap.epoch == self.epoch else reached
        self.epoch = gap.epoch

    def _trimmed(self, gap: Gap) -> None:
        slot = self.schedule.store.find(self.stream)
        kept = [] if slot is None or slot.epoch != self.epoch else [entry.offset for entry in slot.log]
        there = [place for place in kept if max(gap.first, self.offset + 1) <= place <= (gap.last or 0)]
        if there and not self.schedule.has_lost_tails:
            self._complain("S7", f"{gap} but {there} are there")
        if gap.last is not None and gap.last <= self.offset:
            self._complain("S7", f"{gap} but the device had them")

    def end(self) -> None:
        """L3: nothing is left; S5: nothing that the device has was replaced in silence."""
        session = self.device.session
        if not self.device.is_alive or session.state is SessionState.ENDED or self.epoch is None:
            return
        slot = self.schedule.store.find(self.stream)
        if slot is None or isinstance(session.subscription(self.stream), Exception):
            return
        if slot.epoch != self.epoch:
            self._complain("L3", f"has another epoch than the device, which is at {self.offset}")
        elif slot.log[slot.index(self.offset) :]:
            self._complain("L3", f"ends at {slot.last}, the device is at {self.offset}")
        now = {entry.offset: entry.payload for entry in slot.log}  # what retention took can show nothing any more
        there = [item for item in self._unchecked if item.epoch == self.epoch]
        replaced = [item.offset for item in there if now.get(item.offset, item.payload) != item.payload]
        if replaced and not any(item.offset > replaced[-1] and self._came_back(item) for item in there):
            self._complain("S5", f"offset {replaced[0]} was replaced in silence")

    def _came_back(self, item: Delivery) -> bool:
        """Say whether a lost message got its old number again: a CRC of it hides what is new below (section 12)."""
        versions = self._ever(item.epoch).get(item.offset, [])
        return len(versions) > 1 and versions[-1] == item.payload
