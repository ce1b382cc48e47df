"""
How a device writes its journal, as the shell does: in groups, one at a time, while everything else goes on.

What lies on the disk is in ``journal.py``; what is due the session says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from resilient_ws.frames import AckedMark, Batch, Ready
from resilient_ws.records import Accepted, Handled, Record, Welcomed
from resilient_ws.session import Write
from tests.simulation.journal import Journal
from tests.simulation.world import Broken

if TYPE_CHECKING:
    from tests.simulation.devices import Device

DISK, SLOW_DISK = (0.002, 0.04), (0.2, 1.5)
"""Seconds that a disk takes."""


@attrs.define(eq=False)
class Storage:
    """
    The journal of one life of a device.

    Attributes:
        journal: Outlives this life.
    """

    device: Device
    journal: Journal
    _in_flight: list[Record] | None = None
    _number: int = 0
    _safe: dict[tuple[str, str], int] = attrs.field(factory=dict)
    _written_generation: int = 0
    _generation: int = 0
    _written_places: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    _places: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    _earlier: dict[tuple[str, str], int] = attrs.field(factory=dict)

    # -- writing ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Begin to write where that is due."""
        if self.device.session.persist_due:
            self.write()

    def write(self) -> None:
        """Have what there is written; what comes meanwhile waits for the next time."""
        if self._in_flight is None:
            durable = self.journal.sync == "full" or self.device.session.persist_due
            self._in_flight = self.device.session.to_persist()
            self._number += 1
            delay = self.device.dice.uniform(*(SLOW_DISK if self.journal.is_slow else DISK))
            self.device.world.after(delay, self._wrote, self._number, durable)

    def _wrote(self, number: int, durable: bool) -> None:
        if self.device.is_awake(self._wrote, number, durable) and number == self._number:
            self._end(durable=durable)
            self.device.drive()
            if self.device.application.unsure:
                self.write()

    def write_at_once(self) -> None:
        """Have everything written durably, in place of a write that is on its way."""
        self._number += 1
        self._in_flight = self.device.session.to_persist()
        self._end(durable=True)

    def _end(self, *, durable: bool) -> None:
        device, records = self.device, self._in_flight
        assert records is not None
        self._in_flight = None
        if self.journal.is_full:
            device.application.refuse_unsure()
            device.session.persist_failed(device.now)
            return
        self.journal.write(records, device.ahead, durable=durable)
        for record in records:
            if isinstance(record, Accepted):
                self._safe[record.producer, record.stream] = record.first + len(record.payloads) - 1
                device.application.confirm(record)
            elif isinstance(record, Welcomed):
                self._written_generation = record.identity.generation
            elif isinstance(record, Handled):
                self._written_places[record.stream] = (record.position.epoch, record.position.offset)
        if durable:
            self._generation = self._written_generation
            self._earlier.update({(stream, place[0]): place[1] for stream, place in self._places.items()})
            self._places = dict(self._written_places)
        device.session.persisted(device.now, durable=durable)

    def _check_acked(self, marks: tuple[AckedMark, ...]) -> None:
        for mark in marks:
            kept = self._places.get(mark.stream, ("", 0))
            begun = self.device.application.begun[mark.stream].position
            is_start = begun is not None and begun.epoch == mark.epoch and mark.offset <= begun.offset
            if kept[0] != mark.epoch:  # decided before the stream had a new epoch, and written behind that
                kept = (mark.epoch, self._earlier.get((mark.stream, mark.epoch), -1))
            if not is_start and kept[1] < mark.offset:
                raise Broken(f"S13 {self.device.name}: {mark} goes out, its journal has {kept}")

    def died(self) -> None:
        """What was on its way to the disk may have reached it."""
        if self._in_flight is not None and self.device.dice.random() < 0.5 and not self.journal.is_full:
            self.journal.write(self._in_flight, self.device.ahead, durable=False)

    # -- looking ------------------------------------------------------------------------------------------------------

    def check(self, action: Write) -> None:
        """
        Compare what goes out with what is on the disk (rule 16).

        Raises:
            Broken: A message, or the confirmation of a token, goes out before the journal has it.
        """
        connection = self.device.session._core.connections.get(action.conn)
        if connection is None or connection.hello is None:
            return
        for item in action.items:
            self._check_acked(getattr(item, "acked", ()))
            if isinstance(item, Ready) and item.generation > self._generation:
                raise Broken(f"S13 {self.device.name}: ready {item.generation}, its journal has {self._generation}")
            if isinstance(item, Batch) and item.first is not None:
                producer = connection.hello.producers[item.producer or 0]
                last = item.first + len(item.payloads) - 1
                if producer == self.device.session._core.outbox.producer and last > self._safe.get(
                    (producer, item.stream), 0
                ):
                    raise Broken(f"S13 {self.device.name}: seq {last} of {item.stream} is sent, not in the journal")
