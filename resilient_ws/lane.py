"""
One lane: the unacked messages of one (producer, stream), their numbers, and what is remembered of each.

Which lane may be written when, and what they hold together, is ``outbox.py``'s. Payloads are never changed. No clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile

import attrs

from resilient_ws.fates import Fates
from resilient_ws.frames import Batch, Payload
from resilient_ws.records import Mark, Void
from resilient_ws.sizes import size_of

Key = tuple[str, str]
"""(producer, stream)."""

_BATCH_MESSAGES = 64
_BATCH_BYTES = 64 << 10
_COMPACT = 1024
_MARK_SECONDS = 60.0


@attrs.define(eq=False)
class Lane:
    """
    The unacked messages of one (producer, stream).

    Attributes:
        first: The oldest unacked seq.
        next: The seq that the next new message gets.
        safe: The highest seq that may be written: with a journal it keeps those, without one it is every one.
        written: The highest seq that was ever given to a connection.
        acked: The highest seq that a server acked.
        dropped, given_up: Up to here the drop policy has looked at what was not written, and at what was.
        is_restored: A journal kept it from an earlier life, and may be an older copy than what the server knows.
        failures: Why messages of it failed.
    """

    producer: str
    stream: str
    first: int = 1
    next: int = 1
    safe: int = 0
    written: int = 0
    acked: int = 0
    dropped: int = 0
    given_up: int = 0
    is_restored: bool = False
    _marks: deque[Mark] = attrs.field(factory=deque)
    _births: deque[tuple[int, float]] = attrs.field(factory=deque)
    _items: list[Payload | Void] = attrs.field(factory=list)
    _head: int = 0
    failures: Fates = attrs.field(factory=Fates)

    @property
    def key(self) -> Key:
        return (self.producer, self.stream)

    def __len__(self) -> int:
        return self.next - self.first

    @property
    def sent(self) -> int:
        """The highest seq that a server may know; a journal may be an older copy than what was sent."""
        return self.next - 1 if self.is_restored else max(self.written, self.first - 1)

    def append(self, payload: Payload | Void) -> int:
        seq = self.next
        self._items.append(payload)
        self.next = seq + 1
        return seq

    def take_back(self, first: int) -> tuple[int, int]:
        """Forget the messages from ``first`` on, which nobody was given; returns (messages, bytes)."""
        gone = self._items[self._head + first - self.first :]
        del self._items[self._head + first - self.first :]
        self.next = first
        return len(gone), sum(size_of(item) for item in gone if not isinstance(item, Void))

    def remember(self, marks: Sequence[Mark], births: Sequence[tuple[int, float]]) -> None:
        """Take over when messages of an earlier life were first written, and when accepted."""
        self.written = marks[-1].seq if marks else self.first - 1
        self._marks.extend(marks)
        self._births.extend(births)

    def wrote(self, upto: int, now: float, incarnation: str) -> None:
        """Remember roughly when, and under which incarnation of the backplane, messages were first written."""
        if upto <= self.written:
            return
        self.written = upto
        tail = self._marks[-1] if self._marks else None
        if tail is None or tail.incarnation != incarnation or now - tail.at > _MARK_SECONDS:
            self._marks.append(Mark(upto, now, incarnation))
        else:
            self._marks[-1] = Mark(upto, tail.at, incarnation)

    def oldest_write(self) -> Mark | None:
        """Return when, and under which incarnation, the oldest unacked message was first written; None: none was."""
        while self._marks and self._marks[0].seq < self.first:
            self._marks.popleft()
        return self._marks[0] if self._marks else None

    def born(self, seq: int, at: float, grain: float) -> None:
        """Remember when a message was accepted; those within ``grain`` seconds of each other count as one."""
        tail = self._births[-1] if self._births else None
        if tail is not None and at - tail[1] <= grain:
            self._births[-1] = (seq, tail[1])
        else:
            self._births.append((seq, at))

    def oldest_birth(self) -> float | None:
        """Return when the oldest unacked message was accepted."""
        while self._births and self._births[0][0] < self.first:
            self._births.popleft()
        return self._births[0][1] if self._births and len(self) else None

    def born_before(self, at: float) -> int:
        """Return the last seq that was accepted before that time, 0 where none was."""
        return max((seq for seq, birth in self._births if birth < at), default=0)

    def item(self, seq: int) -> Payload | Void:
        return self._items[self._head + seq - self.first]

    def void(self, seq: int, code: str) -> int:
        """Withdraw a message; returns the bytes that it held."""
        index = self._head + seq - self.first
        held = self._items[index]
        self._items[index] = Void(code)
        return 0 if isinstance(held, Void) else size_of(held)

    def settle(self, upto: int) -> tuple[int, int]:
        """Forget what is at or below ``upto``; returns (messages, bytes) that it held."""
        count = upto + 1 - self.first
        if count <= 0:
            return 0, 0
        gone = self._items[self._head : self._head + count]
        held = sum(size_of(item) for item in gone if not isinstance(item, Void))
        self._items[self._head : self._head + count] = [b""] * count  # the payloads go now, their places later
        self._head += count
        self.first = upto + 1
        if self._head == len(self._items) or (self._head >= _COMPACT and self._head * 2 >= len(self._items)):
            del self._items[: self._head]
            self._head = 0
        return count, held

    def settle_voids(self) -> None:
        """Forget the withdrawn messages in front; nobody may be expecting their numbers."""
        last = self.first
        while last < self.next and isinstance(self.item(last), Void):
            last += 1
        self.settle(last - 1)

    def batch(self, seq: int, producer: int) -> Batch:
        """Return the messages from ``seq`` on, as many as fit one batch (at least one, all of one kind)."""
        start = self._head + seq - self.first
        items = self._items[start : start + min(_BATCH_MESSAGES, self.safe + 1 - seq)]
        head = items[0]
        if isinstance(head, Void):
            alike = list(takewhile(lambda item: item == head, items))
            return Batch(self.stream, seq, [b""] * len(alike), producer=producer, void=head.code)
        payloads: list[Payload] = []
        size = 0
        for item in items:
            if isinstance(item, Void):
                break
            size += len(item)
            if payloads and size > _BATCH_BYTES:
                break
            payloads.append(item)
        return Batch(self.stream, seq, payloads, producer=producer)
