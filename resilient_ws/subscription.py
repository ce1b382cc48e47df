"""
One subscription: its position, what of it is out to the user, and what is acked.

A position has three ages: what arrived (``held``), what was handed over or passed (``passed``), and what the user has
handled (``acked``), each at or below the one before. With a journal there is a fourth, what that keeps (``told``).
"""

from __future__ import annotations

from collections import deque
from zlib import crc32

import attrs

from resilient_ws.frames import Held, Payload, Position, Start, StreamAnswer
from resilient_ws.records import Handled

_NOWHERE = Position("", 0)


def _crc(payload: Payload) -> int:
    return crc32(payload if isinstance(payload, bytes) else payload.encode())


class _Out:
    """A range that one receiver took and has not handled yet."""

    __slots__ = ("epoch", "first", "last", "receiver")

    def __init__(self, receiver: int, epoch: str, first: int, last: int) -> None:
        self.receiver = receiver
        self.epoch = epoch
        self.first = first
        self.last = last


@attrs.define(eq=False)
class Subscription:
    """
    One stream that the user asked for.

    Attributes:
        id: The present subscription id; answers and gaps of another one are void.
        start: Where to begin; None once it was answered.
        epoch, offset: The position: the last message that arrived.
        duplicates_to: Up to here the present connection may repeat what we have (rule 7).
        passed: What was handed over, or passed as a gap.
        acked: What the user has handled.
        told: What of that a server is told.
        noted: With a journal: the last position that it was given.
    """

    stream: str
    id: int
    start: Start | None
    epoch: str = ""
    offset: int = 0
    duplicates_to: int = 0
    _crc: int | None = None
    _last: Payload | None = None
    passed: Position = _NOWHERE
    acked: Position = _NOWHERE
    told: Position = _NOWHERE
    noted: Handled | None = None
    _out: deque[_Out] = attrs.field(factory=deque)
    _handed: deque[tuple[str, int, list[Payload]]] = attrs.field(factory=deque)
    _last_handed: tuple[Position, Payload | int | None] = (_NOWHERE, None)

    @property
    def is_active(self) -> bool:
        return self.start is None

    @property
    def is_out(self) -> bool:
        """Somebody has messages of it in hand."""
        return bool(self._out)

    @property
    def held(self) -> Held:
        """What a hello says of the last message that we have."""
        if self._last is not None:
            self._crc, self._last = _crc(self._last), None
        return Held(self.epoch, self.offset, self._crc)

    def is_same(self, payload: Payload) -> bool:
        """Say whether this may be the message that the position names; where nothing is known of that, it may."""
        crc = self.held.crc
        return crc is None or crc == _crc(payload)

    def is_gone(self, prev: int | None) -> bool:
        """Say whether a server that passed over our place shows that the log has no more what the position names."""
        return prev is not None and prev < self.offset and self.held.crc is not None

    def begin(self, answer: StreamAnswer) -> None:
        """Take the position that a first answer resolved ``start`` to; a gap in it is passed when the user has it."""
        begun = Position(answer.epoch, answer.first - 1)
        where = self.start if answer.gap is not None and isinstance(self.start, Position) else begun
        self.passed = self.acked = self.told = where
        self.start = None
        self.move(begun.epoch, begun.offset, answer.crc)
        self._last_handed = (begun, answer.crc)
        self.duplicates_to = 0

    def restore(self, kept: Handled) -> None:
        """Go on where a journal was."""
        self.start, self.noted = None, kept
        self.move(kept.position.epoch, kept.position.offset, kept.crc)
        self.passed = self.acked = self.told = kept.position
        self._last_handed = (kept.position, kept.crc)

    def move(self, epoch: str, offset: int, crc: int | None) -> None:
        """Put the position somewhere else (an answer or a gap says so)."""
        self.epoch, self.offset, self._crc, self._last = epoch, offset, crc, None

    def arrived(self, offset: int, payload: Payload) -> None:
        self.offset, self._last = offset, payload

    def taken(self, receiver: int, epoch: str, first: int, last: int) -> None:
        """A receiver has these in hand now."""
        tail = self._out[-1] if self._out else None
        if tail is not None and tail.receiver == receiver and tail.epoch == epoch and tail.last == first - 1:
            tail.last = last
        else:
            self._out.append(_Out(receiver, epoch, first, last))
        self.passed = Position(epoch, last)

    def keep(self, epoch: str, first: int, payloads: list[Payload]) -> None:
        """Keep what was handed over until it is handled: a journal wants the CRC of the message at its position."""
        self._handed.append((epoch, first, payloads))

    def news(self) -> Handled | None:
        """Return the position for a journal, None where it has that."""
        if not self.is_active or (self.noted is not None and self.noted.position == self.acked):
            return None
        self.noted = Handled(self.stream, self.acked, self._crc_at_acked())
        return self.noted

    def _crc_at_acked(self) -> int | None:
        oldest = self._out[0] if self._out else None
        while self._handed:
            epoch, first, payloads = self._handed[0]
            last = first + len(payloads) - 1
            if oldest is not None and epoch == oldest.epoch and first <= oldest.first <= last:
                if first <= self.acked.offset:
                    return _crc(payloads[self.acked.offset - first])
                break
            self._handed.popleft()
            self._last_handed = (Position(epoch, last), payloads[-1])
        position, payload = self._last_handed
        if position != self.acked:
            return None
        return payload if payload is None or isinstance(payload, int) else _crc(payload)

    def handled(self, receiver: int, upto: Position | None) -> None:
        """This receiver is done with what it took, up to and including ``upto`` (None: with all of it)."""
        if upto is not None and not any(
            out.receiver == receiver and out.epoch == upto.epoch and out.first <= upto.offset <= out.last
            for out in self._out
        ):
            return
        kept: deque[_Out] = deque()
        done = False
        for out in self._out:
            if out.receiver != receiver or done:
                kept.append(out)
            elif upto is not None and out.epoch == upto.epoch and out.first <= upto.offset <= out.last:
                done = True
                if upto.offset < out.last:
                    out.first = upto.offset + 1
                    kept.append(out)
        self._out = kept
        oldest = kept[0] if kept else None
        self.acked = self.passed if oldest is None else Position(oldest.epoch, oldest.first - 1)
