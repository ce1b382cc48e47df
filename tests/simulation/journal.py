"""
A journal as the protocol sees one (rules 11, 16): what a client wrote down, what of it a crash leaves, and the Session
that is made of that. Files never live here; a disk is a number of records that are safe.
"""

from __future__ import annotations

import random
from typing import Any, Literal

import attrs

from resilient_ws.frames import Position, Start
from resilient_ws.session import Session
from resilient_ws.welcome import Identity


@attrs.frozen
class Sent:
    """A message that the application gave to ``send()``."""

    producer: str
    stream: str
    seq: int
    payload: bytes


@attrs.frozen
class Acked:
    """Everything of a (producer, stream) up to ``seq`` needs no resend."""

    producer: str
    stream: str
    seq: int


@attrs.frozen
class Handled:
    """The user has handled a stream up to here; ``crc`` of that message where it is known."""

    stream: str
    position: Position
    crc: int | None


@attrs.frozen
class Begun:
    """A stream was asked for anew: what was handled of it before says nothing of where it is now."""

    stream: str


@attrs.frozen
class Instance:
    """A life of this journal's program."""

    instance: str


@attrs.define
class Restored:
    """What a restart knows."""

    identity: Identity | None = None
    instances: set[str] = attrs.field(factory=set)
    positions: dict[str, Handled] = attrs.field(factory=dict)
    unacked: dict[tuple[str, str], list[Sent]] = attrs.field(factory=dict)
    acked: dict[tuple[str, str], int] = attrs.field(factory=dict)

    def take(self, record: Any) -> None:
        """Read one record."""
        if isinstance(record, Identity):
            self.identity = record
        elif isinstance(record, Instance):
            self.instances.add(record.instance)
        elif isinstance(record, Begun):
            self.positions.pop(record.stream, None)
        elif isinstance(record, Handled):
            self.positions[record.stream] = record
        elif isinstance(record, Sent):
            self.unacked.setdefault((record.producer, record.stream), []).append(record)
        else:
            key = (record.producer, record.stream)
            self.acked[key] = record.seq
            self.unacked[key] = [sent for sent in self.unacked.get(key, []) if sent.seq > record.seq]


class Journal:
    """
    Records in order, and how many of them survive whatever happens.

    Args:
        sync: ``full``: a send is safe before it returns; ``normal``: it is with the next token.
        dice: What a crash leaves of the rest.
    """

    def __init__(self, sync: Literal["full", "normal"], dice: random.Random) -> None:
        self.sync = sync
        self._dice = dice
        self._records: list[Any] = []
        self._safe = 0

    def write(self, record: Any, *, is_safe: bool = False) -> None:
        """Write a record; it may be lost by a crash unless it is safe, which makes all before it safe too."""
        self._records.append(record)
        if is_safe:
            self.synced(len(self._records))

    @property
    def length(self) -> int:
        return len(self._records)

    def synced(self, length: int) -> None:
        """The disk has the first ``length`` records."""
        self._safe = max(self._safe, min(length, len(self._records)))

    def crash(self) -> Restored:
        """Lose a part of what was not safe: what is left is a prefix. Return what that says."""
        del self._records[self._dice.randint(self._safe, len(self._records)) :]
        self._safe = len(self._records)
        restored = Restored()
        for record in self._records:
            restored.take(record)
        return restored


def starts(restored: Restored | None, subscribes: tuple[str, ...], start: Start) -> dict[str, Start]:
    """Say where each stream begins: where the journal was, else at ``start``."""
    found: dict[str, Start] = {}
    for stream in subscribes:
        kept = None if restored is None else restored.positions.get(stream)
        found[stream] = start if kept is None else kept.position
    return found


def restore(session: Session, restored: Restored) -> None:
    """Put a new session where the journal was: token, unacked messages under their old numbers, positions."""
    core = session._core
    core.identity = restored.identity
    for (producer, stream), kept in restored.unacked.items():
        first = restored.acked.get((producer, stream), 0) + 1
        core.outbox.restore(producer, stream, first, [sent.payload.decode() for sent in kept])
    for stream, handled in restored.positions.items():
        subscription = core.inbox.subscriptions.get(stream)
        if subscription is not None:
            subscription.start = None
            subscription.move(handled.position.epoch, handled.position.offset, handled.crc)
            subscription.passed = subscription.acked = handled.position
