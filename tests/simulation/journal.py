"""
A disk as the protocol sees one (rules 11, 16): transactions in order, what of them a power loss leaves, and what a
restart reads out of that. Files never live here; the records are the product's own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import attrs

from resilient_ws.frames import Payload
from resilient_ws.records import (
    Accepted,
    Forgotten,
    Handled,
    Identity,
    Mark,
    Record,
    Restored,
    RestoredLane,
    SessionOver,
    Settled,
    Void,
    Welcomed,
    Withdrawn,
)

Key = tuple[str, str]


@attrs.frozen
class Sent:
    """A message that the application gave to ``send()``."""

    producer: str
    stream: str
    seq: int
    payload: bytes


@attrs.define
class Row:
    """A message as it lies on the disk."""

    item: Payload | Void
    at: float
    welcome: int


@attrs.define
class Contents:
    """What the transactions add up to; times are the world's."""

    identity: Identity | None = None
    positions: dict[str, Handled] = attrs.field(factory=dict)
    rows: dict[Key, dict[int, Row]] = attrs.field(factory=dict)
    settled: dict[Key, int] = attrs.field(factory=dict)
    welcomes: dict[int, Welcomed] = attrs.field(factory=dict)

    def take(self, record: Record) -> None:
        """Read one record."""
        if isinstance(record, Accepted):
            rows = self.rows.setdefault((record.producer, record.stream), {})
            for seq, payload in enumerate(record.payloads, record.first):
                rows[seq] = Row(payload, record.at, record.welcome)
        elif isinstance(record, Settled):
            key = (record.producer, record.stream)
            self.settled[key] = record.seq
            self.rows[key] = {seq: row for seq, row in self.rows.get(key, {}).items() if seq > record.seq}
        elif isinstance(record, Withdrawn):
            for seq in record.seqs:
                self.rows[record.producer, record.stream][seq].item = Void(record.code)
        elif isinstance(record, Handled):
            self.positions[record.stream] = record
        elif isinstance(record, Forgotten):
            self.positions.pop(record.stream, None)
        elif isinstance(record, Welcomed):
            self.welcomes[record.number] = record
            self.identity = record.identity
        else:
            assert isinstance(record, SessionOver)
            self.identity = None

    def restored(self, instances: frozenset[str], ahead: float) -> Restored:
        """Return what a restart knows, in the time of a clock that is so far ahead of the world's."""
        return Restored(
            identity=self.identity,
            instances=instances,
            positions=dict(self.positions),
            lanes=tuple(self._lane(key, rows, ahead) for key, rows in self.rows.items() if rows),
            welcomes=max(self.welcomes, default=0),
        )

    def _lane(self, key: Key, rows: dict[int, Row], ahead: float) -> RestoredLane:
        marks: list[Mark] = []
        for seq, row in sorted(rows.items()):
            number = min((number for number in self.welcomes if number >= row.welcome), default=None)
            if number is not None:
                first = self.welcomes[number]
                marks.append(Mark(seq, max(first.at, row.at) + ahead, first.incarnation))
        return RestoredLane(
            *key,
            self.settled.get(key, 0) + 1,
            [rows[seq].item for seq in sorted(rows)],
            tuple((seq, row.at + ahead) for seq, row in sorted(rows.items())),
            tuple(marks),
        )


class Journal:
    """
    Transactions in order, and how many of them survive whatever happens.

    Args:
        sync: ``full``: a send is safe before it returns; ``normal``: soon after.
        dice: What a power loss leaves of the rest.

    Attributes:
        is_full: There is no room on the disk.
        is_slow: The disk takes its time.
    """

    def __init__(self, sync: Literal["full", "normal"], dice: random.Random) -> None:
        self.sync = sync
        self.is_full = self.is_slow = False
        self._dice = dice
        self._transactions: list[tuple[Record, ...]] = []
        self._safe = 0
        self._instances: list[str] = []

    def write(self, records: Sequence[Record], ahead: float, *, durable: bool) -> None:
        """Write a transaction; it may be lost by a power loss unless it is durable, which makes all before it so."""
        self._transactions.append(tuple(_in_world_time(record, ahead) for record in records))
        if durable:
            self._safe = len(self._transactions)

    def opened(self, instance: str) -> None:
        """Note a life of this journal's program; an opening is durable."""
        self._instances.append(instance)
        self._safe = len(self._transactions)

    def crash(self) -> Contents:
        """Lose a part of what was not safe: what is left is a prefix. Return what that says."""
        del self._transactions[self._dice.randint(self._safe, len(self._transactions)) :]
        self._safe = len(self._transactions)
        contents = Contents()
        for records in self._transactions:
            for record in records:
                contents.take(record)
        return contents

    @property
    def instances(self) -> frozenset[str]:
        return frozenset(self._instances)

    def copy(self) -> Journal:
        """Return what somebody saved who copied the file."""
        copied = Journal(self.sync, self._dice)
        copied._transactions, copied._safe = list(self._transactions), self._safe
        copied._instances = list(self._instances)
        return copied


def _in_world_time(record: Record, ahead: float) -> Record:
    if isinstance(record, Accepted):
        return attrs.evolve(record, payloads=list(record.payloads), at=record.at - ahead)
    return attrs.evolve(record, at=record.at - ahead) if isinstance(record, Welcomed) else record
