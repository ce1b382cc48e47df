"""
What a session wants written down, in order, and how far a journal is with it.

Records gather in a *group* until the shell takes them all and writes them in one transaction. What a record means is
``records.py``'s, when it is due the session's; no file and no clock here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from resilient_ws.frames import Payload
from resilient_ws.records import Accepted, Forgotten, Handled, Record, Settled, Welcomed, Withdrawn

SYNC_DELAY = 1.0
"""Seconds after which what was written is made safe against a power loss at the latest."""
RETRY_DELAY = 1.0
"""Seconds after which a write that failed for want of room is tried again."""


@attrs.define(eq=False)
class Group:
    """
    Records that are written together.

    Attributes:
        is_written: They survive the end of the process.
        is_durable: They survive a power loss.
        is_refused: The messages among them were not accepted: there was no room.
    """

    records: dict[Any, Record] = attrs.field(factory=dict)
    is_written: bool = False
    is_durable: bool = False
    is_refused: bool = False


class Ledger:
    """
    The groups of one session.

    Attributes:
        welcomes: Number of the last welcome.
        is_due: Somebody should write now, durably.
        due_at: When that will be so, None where nothing waits.
    """

    def __init__(self, welcomes: int) -> None:
        self.welcomes = welcomes
        self.is_due = False
        self.due_at: float | None = None
        self._filling = Group()
        self._taken: list[Group] = []
        self._written: list[Group] = []

    # -- gathering ----------------------------------------------------------------------------------------------------

    def accepted(self, key: tuple[str, str], seq: int, payload: Payload, now: float, *, is_online: bool) -> None:
        """Note a message; neighbours share a record."""
        record = self._filling.records.get(key)
        if record is None:
            welcome = self.welcomes + (not is_online)
            self._filling.records[key] = Accepted(*key, seq, [payload], now, welcome)
        else:
            assert isinstance(record, Accepted)
            record.payloads.append(payload)

    def add(self, record: Record) -> None:
        """Note something; of what follows each other only the last is kept."""
        records = self._filling.records
        key = self._key(record)
        records.pop(key, None)
        records[key] = record
        if isinstance(record, Welcomed):
            self.is_due = True
        elif isinstance(record, Forgotten):
            self._disown(record.stream)

    def _disown(self, stream: str) -> None:
        """A position from before the stream was asked for anew becomes safe for nobody."""
        for group in (*self._taken, *self._written):
            if isinstance(group.records.get(stream), Handled):
                del group.records[stream]

    def _key(self, record: Record) -> Any:
        if isinstance(record, (Handled, Forgotten)):
            return record.stream
        if isinstance(record, Settled):
            return (Settled, record.producer, record.stream)
        if isinstance(record, Withdrawn):
            return (Withdrawn, record.producer, record.stream, record.seqs)
        return type(record)

    def plan(self, now: float) -> None:
        """See to it that what gathered since the last time gets its turn."""
        if self.due_at is None and not self.is_due and not self.is_idle:
            self.due_at = now + SYNC_DELAY

    def check(self, now: float) -> None:
        """It is due now, if its time has come."""
        if self.due_at is not None and now >= self.due_at:
            self.is_due, self.due_at = True, None

    @property
    def filling(self) -> Group:
        """The group that the last record went into, if it was not taken since."""
        return self._filling

    @property
    def is_idle(self) -> bool:
        """Everything is durable."""
        return not (self._filling.records or self._taken or self._written)

    # -- writing ------------------------------------------------------------------------------------------------------

    def take(self) -> list[Record]:
        """Return everything that is to be written now; what was taken before and not answered comes again."""
        self._taken.append(self._filling)
        self._filling = Group()
        return [record for group in self._taken for record in group.records.values()]

    def written(self, *, durable: bool) -> Iterator[Group]:
        """What was taken is written; yields the groups for which that is news, first those that are durable now."""
        done, self._taken = self._taken, []
        if durable:
            earlier, self._written = self._written, []
            self.is_due, self.due_at = False, None
        else:
            earlier = []
            self._written += done
        for group in done:
            group.is_written, group.is_durable = True, durable
        for group in earlier:
            group.is_durable = True
        yield from (*earlier, *done)

    def failed(self, now: float) -> list[Accepted]:
        """What was taken found no room; returns the messages that were refused thereby, the newest first."""
        groups = [*self._taken, self._filling]
        self._taken, self._filling = [], Group()
        refused: list[Accepted] = []
        for group in groups:
            group.is_refused = True
            for key, record in group.records.items():
                if isinstance(record, Accepted):
                    refused.append(record)
                else:
                    self._filling.records.pop(key, None)
                    self._filling.records[key] = record
        self.is_due, self.due_at = False, now + RETRY_DELAY
        return refused[::-1]
