"""
Outbound: the unacked window over all lanes, its bounds, and what became of each message.

A *lane* is one (producer, stream), see ``lane.py``. What is written when is decided here only as far as order goes: a
later producer's lane of a stream waits until the earlier one is acked (rule 11). No socket, no clock: what must be told
apart by time comes in as ``now``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from resilient_ws.config import Outbox
from resilient_ws.exceptions import OutboxFull, Rejected, RemoteProtocolError, Undelivered
from resilient_ws.fates import Fate
from resilient_ws.frames import HelloOutbound, Payload
from resilient_ws.lane import Key, Lane
from resilient_ws.ledger import Ledger
from resilient_ws.records import Accepted, RestoredLane, Settled, Void, Withdrawn
from resilient_ws.sizes import size_of

MOST_LANES = 2048
"""Lanes with something unacked: a hello names each, and a node takes 4096 of a connection at most."""
_DROPPED = Fate("dropped")
_GIVEN_UP = Fate("indefinite", "the outbox was full, see Outbox(policy=)", is_indefinite=True)
_EXPIRED = Fate("expired", "it waited for longer than Outbox(max_age=)")
_OUTLIVED = Fate("indefinite", "it had no ack within Outbox(max_age=)", is_indefinite=True)
_AGE_GRAIN = 0.01


class Unacked:
    """
    Everything accepted from the application and not yet acked.

    Args:
        settings: Bounds and policies.
        producer: Id of this Client's own producer.
        ledger: What is to be written into a journal, where there is one.
    """

    def __init__(self, settings: Outbox, producer: str, ledger: Ledger | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
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

    def is_stale(self, now: float) -> bool:
        """Say whether the oldest message waits for longer than one may."""
        most = self._settings.max_age
        return most is not None and now - self.oldest_birth(now) > most

    def oldest_birth(self, now: float) -> float:
        """Return when the oldest unacked message was accepted, ``now`` where there is none."""
        births = [lane.oldest_birth() for lane in self._busy.values()]
        return min((birth for birth in births if birth is not None), default=now)

    def is_crowded(self, stream: str) -> bool:
        """Say whether a message on this stream would make one lane more with something unacked than there may be."""
        return len(self._busy) >= MOST_LANES and (self.producer, stream) not in self._busy

    def full_error(self, now: float, *, is_crowded: bool = False) -> OutboxFull:
        limit = (self._settings.max_messages, self._settings.max_bytes)
        return OutboxFull(
            (self.messages, self.bytes),
            limit,
            streams=MOST_LANES if is_crowded else None,
            age=now - self.oldest_birth(now) if self.is_stale(now) else None,
        )

    def accept(self, stream: str, payload: Payload, size: int, now: float, *, is_online: bool = False) -> int:
        """
        Number a message of our own producer; the caller has asked :meth:`is_full`.

        Args:
            is_online: There is a connection that it may go out on at once.
        """
        lane = self._lane(self.producer, stream)
        self._busy[lane.key] = lane
        self.messages += 1
        self.bytes += size
        seq = lane.append(payload)
        if self._settings.max_age is not None:
            lane.born(seq, now, self._settings.max_age * _AGE_GRAIN)
        if self._ledger is None:
            lane.safe = seq
        else:
            self._ledger.accepted(lane.key, seq, payload, now, is_online=is_online)
        return seq

    def keep(self, accepted: Accepted) -> None:
        """The journal has these: they may go out."""
        lane = self._lanes[accepted.producer, accepted.stream]
        lane.safe = max(lane.safe, accepted.first + len(accepted.payloads) - 1)

    def refuse(self, accepted: Accepted) -> None:
        """The journal has no room for these, and nobody was told that they were accepted: they never were."""
        lane = self._lanes[accepted.producer, accepted.stream]
        messages, size = lane.take_back(accepted.first)
        self.messages -= messages
        self.bytes -= size
        self._note(lane)

    def restore(self, kept: RestoredLane) -> None:
        """Put back what a journal kept from an earlier producer; comes before anything that is accepted."""
        lane = self._lane(kept.producer, kept.stream)
        lane.first = lane.next = kept.first
        lane.acked = kept.first - 1
        lane.is_restored = True
        for item in kept.items:
            seq = lane.append(item)
            if isinstance(item, Void):
                lane.failures.add(seq, Fate(item.code))
            else:
                self.messages += 1
                self.bytes += size_of(item)
        lane.safe = lane.next - 1
        lane.remember(kept.marks, kept.births)
        if kept.items:
            self._busy[lane.key] = lane

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
        for lane in self._busy.values():
            begin = max(lane.first, lane.written + 1, lane.dropped + 1)
            lane.dropped = max(lane.dropped, self._drop(lane, range(begin, lane.safe + 1), _DROPPED, size, dropped))
        for lane in self._busy.values():
            written = range(max(lane.first, lane.given_up + 1), lane.written + 1)
            lane.given_up = max(lane.given_up, self._drop(lane, written, _GIVEN_UP, size, dropped))
        if not is_open:
            self._settle_voids()
        return dropped

    def expire(self, now: float, *, is_open: bool) -> list[tuple[str, int]]:
        """Withdraw what waits for longer than it may; arguments and result as those of :meth:`drop_oldest`."""
        assert self._settings.max_age is not None  # the caller has asked :meth:`is_stale`
        expired: list[tuple[str, int]] = []
        for lane in self._busy.values():
            for seq in range(lane.first, min(lane.born_before(now - self._settings.max_age), lane.safe) + 1):
                if not isinstance(lane.item(seq), Void):
                    self._withdraw(lane, seq, _OUTLIVED if seq <= lane.written else _EXPIRED)
                    expired.append((lane.stream, seq))
        if not is_open:
            self._settle_voids()
        return expired

    def _settle_voids(self) -> None:
        for lane in list(self._busy.values()):
            before = lane.first
            lane.settle_voids()
            self._note(lane)
            if self._ledger is not None and lane.first > before:
                self._ledger.add(Settled(lane.producer, lane.stream, lane.first - 1))

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
        for lane in self._busy.values():
            for seq in range(lane.first, lane.safe + 1):
                item = lane.item(seq)
                if not isinstance(item, Void) and size_of(item) > limit:
                    self._withdraw(lane, seq, Fate("too_large"))
                    found.append((lane.stream, seq))
        return found

    def _withdraw(self, lane: Lane, seq: int, fate: Fate) -> None:
        self.bytes -= lane.void(seq, fate.code)
        self.messages -= 1
        lane.failures.add(seq, fate)
        if self._ledger is not None:
            self._ledger.add(Withdrawn(lane.producer, lane.stream, (seq,), fate.code))

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
            HelloOutbound(producer=index[lane.producer], stream=lane.stream, first=lane.first, next=lane.safe + 1)
            for lane in self._lanes.values()
            if lane.first <= lane.safe
        )

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def committed(self, producer: str, stream: str, seq: int) -> bool:
        """
        Take a cumulative ack; returns whether it moved anything (one that goes back is ignored).

        Raises:
            RemoteProtocolError: The seq was never given to a connection.
        """
        lane = self._lanes.get((producer, stream))
        if lane is not None and lane.is_restored:
            seq = min(seq, lane.sent)
        sent = 0 if lane is None else lane.sent
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
        if count > 0 and self._ledger is not None:
            self._ledger.add(Settled(producer, stream, seq))
        return count > 0

    def reject(self, producer: str, stream: str, seq: int, code: str, hint: str) -> bool:
        """
        Remember that the server consumed one message by a tombstone; returns False where that was known.

        Raises:
            RemoteProtocolError: The seq was never given to a connection.
        """
        lane = self._lanes.get((producer, stream))
        if lane is None or not 1 <= seq <= lane.sent:
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
        return Undelivered({stream: (seq, seq)}, is_kept=self._ledger is not None) if self.abandoned else False

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
