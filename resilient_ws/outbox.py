"""
Outbound: seq per (producer, stream), the unacked window, its bounds, and what became of each message.

A *lane* is one (producer, stream). What is written when is decided here only as far as order goes: within a lane by
seq, and a later producer's lane of a stream waits until the earlier one is acked (rule 11). Payloads are never changed.
No socket, no clock: what must be told apart by time comes in as ``now``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import takewhile

import attrs

from resilient_ws.config import Outbox
from resilient_ws.exceptions import OutboxFull, Rejected, RemoteProtocolError, Undelivered
from resilient_ws.fates import Fate, Fates
from resilient_ws.frames import Batch, HelloOutbound, Payload, size_of

Key = tuple[str, str]
"""(producer, stream)."""

MOST_LANES = 2048
"""Lanes with something unacked: a hello names each, and a node takes 4096 of a connection at most."""
_BATCH_MESSAGES = 64
_BATCH_BYTES = 64 << 10
_COMPACT = 1024
_DROPPED = Fate("dropped")
_GIVEN_UP = Fate("indefinite", "the outbox was full, see Outbox(policy=)", is_indefinite=True)
_MARK_SECONDS = 60.0


@attrs.frozen
class Void:
    """Stands where a message was withdrawn after it had been numbered."""

    code: str


@attrs.define(eq=False)
class Lane:
    """
    The unacked messages of one (producer, stream).

    Attributes:
        first: The oldest unacked seq.
        next: The seq that the next new message gets.
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
    written: int = 0
    acked: int = 0
    dropped: int = 0
    given_up: int = 0
    is_restored: bool = False
    _marks: deque[tuple[int, float, str]] = attrs.field(factory=deque)
    _items: list[Payload | Void] = attrs.field(factory=list)
    _head: int = 0
    failures: Fates = attrs.field(factory=Fates)

    @property
    def key(self) -> Key:
        return (self.producer, self.stream)

    def __len__(self) -> int:
        return self.next - self.first

    def append(self, payload: Payload) -> int:
        seq = self.next
        self._items.append(payload)
        self.next = seq + 1
        return seq

    def wrote(self, upto: int, now: float, incarnation: str) -> None:
        """Remember roughly when, and under which incarnation of the backplane, messages were first written."""
        if upto <= self.written:
            return
        self.written = upto
        tail = self._marks[-1] if self._marks else None
        if tail is None or tail[2] != incarnation or now - tail[1] > _MARK_SECONDS:
            self._marks.append((upto, now, incarnation))
        else:
            self._marks[-1] = (upto, tail[1], incarnation)

    def oldest_write(self) -> tuple[float, str] | None:
        """Return (when, under which incarnation) the oldest unacked message was first written; None: none was."""
        while self._marks and self._marks[0][0] < self.first:
            self._marks.popleft()
        return self._marks[0][1:] if self._marks else None

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
        items = self._items[start : start + _BATCH_MESSAGES]
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


class Unacked:
    """
    Everything accepted from the application and not yet acked.

    Args:
        settings: Bounds and policies.
        producer: Id of this Client's own producer.
    """

    def __init__(self, settings: Outbox, producer: str) -> None:
        self._settings = settings
        self.producer = producer
        self._lanes: dict[Key, Lane] = {}
        self._busy: dict[Key, Lane] = {}  # those with something unacked: of many streams few are, and each step looks
        self._by_stream: dict[str, list[Lane]] = {}
        self.messages = 0
        self.bytes = 0
        self.abandoned = False

    # -- accepting ----------------------------------------------------------------------------------------------------

    def is_full(self, size: int) -> bool:
        """Say whether a message of ``size`` bytes finds no room; one above the bound fits an empty outbox only."""
        if self.messages == 0:
            return False
        return self.messages >= self._settings.max_messages or self.bytes + size > self._settings.max_bytes

    def is_crowded(self, stream: str) -> bool:
        """Say whether a message on this stream would make one lane more with something unacked than there may be."""
        return len(self._busy) >= MOST_LANES and (self.producer, stream) not in self._busy

    def full_error(self, *, is_crowded: bool = False) -> OutboxFull:
        limit = (self._settings.max_messages, self._settings.max_bytes)
        return OutboxFull((self.messages, self.bytes), limit, streams=MOST_LANES if is_crowded else None)

    def accept(self, stream: str, payload: Payload, size: int) -> int:
        """Number a message of our own producer; the caller has asked :meth:`is_full`."""
        lane = self._lane(self.producer, stream)
        self._busy[lane.key] = lane
        self.messages += 1
        self.bytes += size
        return lane.append(payload)

    def restore(self, producer: str, stream: str, first: int, payloads: list[Payload]) -> None:
        """Put back what a journal kept from an earlier producer; comes before anything that is accepted."""
        lane = self._lane(producer, stream)
        lane.first = lane.next = first
        lane.acked = first - 1
        lane.is_restored = True
        lane.written = first + len(payloads) - 1
        if payloads:
            self._busy[lane.key] = lane
        for payload in payloads:
            lane.append(payload)
            self.messages += 1
            self.bytes += size_of(payload)

    def drop_oldest(self, size: int, *, is_open: bool) -> list[tuple[str, int]]:
        """
        Make room for ``size`` bytes by withdrawing the oldest messages.

        Those go first that no connection was given yet: it is certain that they did not arrive. Then those that were
        written and have no ack, whose receipts are undelivered: they may have arrived.

        Args:
            size: Bytes wanted.
            is_open: A server expects the next seq, so a tombstone has to take each place. Otherwise what was dropped in
                front is forgotten: the next hello's ``first`` settles it (rule 2).

        Returns:
            (stream, seq) of each.
        """
        dropped: list[tuple[str, int]] = []
        for lane in self._lanes.values():
            begin = max(lane.first, lane.written + 1, lane.dropped + 1)
            lane.dropped = max(lane.dropped, self._drop(lane, range(begin, lane.next), _DROPPED, size, dropped))
        for lane in self._lanes.values():
            written = range(max(lane.first, lane.given_up + 1), lane.written + 1)
            lane.given_up = max(lane.given_up, self._drop(lane, written, _GIVEN_UP, size, dropped))
        if not is_open:
            for lane in self._lanes.values():
                lane.settle_voids()
                self._note(lane)
        return dropped

    def _drop(self, lane: Lane, seqs: range, fate: Fate, size: int, dropped: list[tuple[str, int]]) -> int:
        """Withdraw as many as are needed; returns the last seq that was looked at, 0 where none was."""
        last = 0
        for seq in seqs:
            if not self.is_full(size):
                break
            if not isinstance(lane.item(seq), Void):
                self._withdraw(lane, seq, fate)
                dropped.append((lane.stream, seq))
            last = seq
        return last

    def withdraw_larger(self, limit: int) -> list[tuple[str, int]]:
        """Withdraw what the server's limit forbids; returns (stream, seq) of each."""
        found: list[tuple[str, int]] = []
        for lane in self._lanes.values():
            for seq in range(lane.first, lane.next):
                item = lane.item(seq)
                if not isinstance(item, Void) and size_of(item) > limit:
                    self._withdraw(lane, seq, Fate("too_large"))
                    found.append((lane.stream, seq))
        return found

    def _withdraw(self, lane: Lane, seq: int, fate: Fate) -> None:
        self.bytes -= lane.void(seq, fate.code)
        self.messages -= 1
        lane.failures.add(seq, fate)

    def _note(self, lane: Lane) -> None:
        if not len(lane):
            self._busy.pop(lane.key, None)

    def _lane(self, producer: str, stream: str) -> Lane:
        key = (producer, stream)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(producer, stream)
            self._by_stream.setdefault(stream, []).append(lane)
        return lane

    # -- writing ------------------------------------------------------------------------------------------------------

    def writable(self) -> Iterator[Lane]:
        """Yield the lanes whose turn it is: of each stream the oldest one that has something unacked."""
        for lane in self._busy.values():
            if lane is next(filter(len, self._by_stream[lane.stream])):
                yield lane

    def lane(self, producer: str, stream: str) -> Lane | None:
        """Return a lane that exists, or None."""
        return self._lanes.get((producer, stream))

    def producers(self) -> tuple[str, ...]:
        """Return the ids for a hello: our own first, then the earlier ones that still have something unacked."""
        earlier = dict.fromkeys(lane.producer for lane in self._lanes.values() if len(lane))
        earlier.pop(self.producer, None)
        return (self.producer, *earlier)

    def hello(self, producers: tuple[str, ...]) -> tuple[HelloOutbound, ...]:
        """Return what a hello says of each lane with something unacked."""
        index = {producer: i for i, producer in enumerate(producers)}
        return tuple(
            HelloOutbound(producer=index[lane.producer], stream=lane.stream, first=lane.first, next=lane.next)
            for lane in self._lanes.values()
            if len(lane)
        )

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def committed(self, producer: str, stream: str, seq: int) -> bool:
        """
        Take a cumulative ack; returns whether it moved anything (one that goes back is ignored).

        Raises:
            RemoteProtocolError: The seq was never given to a connection.
        """
        lane = self._lanes.get((producer, stream))
        sent = 0 if lane is None else max(lane.written, lane.first - 1)  # what was dropped in front is settled too
        if lane is not None and lane.is_restored:
            seq = min(seq, sent)
        if lane is None or seq > sent:
            raise RemoteProtocolError(
                f"the server acked seq {seq} of stream {stream!r}, but only {sent} were sent",
                hint="acks name the last seq stored for this producer and stream",
                code=4400,
            )
        withdrawn = sum(1 for s in range(lane.first, seq + 1) if isinstance(lane.item(s), Void)) if lane.failures else 0
        count, held = lane.settle(seq)
        self._note(lane)
        lane.acked = max(lane.acked, seq)
        self.messages -= count - withdrawn
        self.bytes -= held
        return count > 0

    def reject(self, producer: str, stream: str, seq: int, code: str, hint: str) -> bool:
        """
        Remember that the server consumed one message by a tombstone; returns False where that was known.

        Raises:
            RemoteProtocolError: The seq was never given to a connection.
        """
        lane = self._lanes.get((producer, stream))
        if lane is None or not 1 <= seq <= lane.written:
            raise RemoteProtocolError(
                f"the server rejected seq {seq} of stream {stream!r}, which was not sent", code=4400
            )
        return seq >= lane.first and lane.failures.add(seq, Fate(code, hint))

    def give_up(self, lane: Lane, upto: int, why: str) -> None:
        """Fail the receipts of everything up to ``upto`` as indefinite; tombstones consume their numbers."""
        for seq in range(lane.first, upto + 1):
            if not isinstance(lane.item(seq), Void):
                self._withdraw(lane, seq, Fate("indefinite", why, is_indefinite=True))

    def abandon(self) -> None:
        """The session ended: what is unacked now stays so, and its receipts say it."""
        self.abandoned = True

    def outcome(self, producer: str, stream: str, seq: int) -> bool | Exception:
        """Return True where the message is committed, False where that is not known yet, else why it failed."""
        lane = self._lanes.get((producer, stream))
        if lane is None or seq == 0:
            return Rejected(stream, seq, "dropped")
        fate = lane.failures.get(seq)
        if fate is not None:
            return fate.error(stream, seq)
        if seq < lane.first:
            return True
        return Undelivered({stream: (seq, seq)}) if self.abandoned else False

    def pending(self) -> dict[str, tuple[int, int]]:
        """Return {stream: (first, last)} of what is unacked, withdrawn messages left out."""
        found: dict[str, tuple[int, int]] = {}
        for lane in self._lanes.values():
            seqs = [seq for seq in range(lane.first, lane.next) if seq not in lane.failures]
            if seqs:
                first, last = found.get(lane.stream, (seqs[0], seqs[-1]))
                found[lane.stream] = (min(first, seqs[0]), max(last, seqs[-1]))
        return found

    def accepted(self) -> dict[Key, int]:
        """Return {(producer, stream): last seq accepted} of each lane that waits, for :meth:`has_settled`."""
        return {key: lane.next - 1 for key, lane in self._busy.items()}

    def has_settled(self, accepted: Mapping[Key, int]) -> bool:
        """Say whether what had been accepted when :meth:`accepted` was asked has no need of an ack any more."""
        return self.messages == 0 or all(self._lanes[key].first > seq for key, seq in accepted.items())

    def __len__(self) -> int:
        return self.messages
