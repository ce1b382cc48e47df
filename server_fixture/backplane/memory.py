"""
The reference semantics of the backplane's verbs, in memory: every other backplane has to answer like this one.

Here lives :class:`MemoryBackplane`, whose ``step`` is one atomic step, and the faults that a store can have (rolled
back, trimmed, lost, a new incarnation). A loop, a lock or a clock never lives here: ``now`` and the dice come in. Rule
numbers are those of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from server_fixture.backplane import (
    BUCKETS,
    Announce,
    Announced,
    Answer,
    Append,
    Appended,
    Confirm,
    Done,
    EndSession,
    EnterSession,
    EnterStream,
    Entry,
    Fence,
    Foreign,
    Hole,
    LivingNode,
    OldFence,
    Publish,
    Published,
    Read,
    Refresh,
    Request,
    SessionEntered,
    SessionUnknown,
    Slice,
    Stale,
    StreamEntered,
    Tick,
    TrimPrivate,
    bucket_of,
    is_private,
)
from server_fixture.backplane.slots import INSTANCES, Bucket, Producer, Record, Stream

if TYPE_CHECKING:
    import random

    from server_fixture.backplane.local import LocalBackplane


class MemoryBackplane:
    """
    All slots of one backplane in this process.

    Args:
        rng: Where epochs and incarnations come from.
        retention: How many messages a stream keeps.
        producer_ttl: Seconds for which a producer is remembered at least.
    """

    def __init__(self, rng: random.Random, *, retention: int = 100_000, producer_ttl: float = 7 * 86400.0) -> None:
        self._rng = rng
        self._retention = retention
        self._producer_ttl = producer_ttl
        self._streams: dict[str, Stream] = {}
        self._buckets = [Bucket() for _ in range(BUCKETS)]
        self._nodes: dict[str, tuple[LivingNode, float]] = {}
        self.incarnation = self._random()
        self.peers: list[LocalBackplane] = []
        self._steps: dict[type, Callable[[Any, float], Answer]] = {
            EnterSession: self._enter_session,
            Refresh: self._refresh,
            Confirm: self._confirm,
            EndSession: self._end_session,
            TrimPrivate: self._trim_private,
            Tick: self._tick,
            EnterStream: self._enter_stream,
            Append: self._append,
            Publish: self._publish,
            Read: self._read,
            Announce: self._announce,
        }

    def step(self, request: Request, now: float) -> Answer:
        """Perform one request atomically."""
        bucket = _bucket_of_request(request)
        if bucket is not None:
            self._buckets[bucket].advance(now)
        return self._steps[type(request)](request, now)

    # -- faults and inspection ----------------------------------------------------------------------------------------

    def new_incarnation(self) -> None:
        """Fail over: what survived stays, every stream gets a new epoch, offsets go on (rule 8)."""
        self.incarnation = self._random()
        for stream in self._all_streams():
            stream.epoch = self._random()
            stream.base = stream.last
            stream.holes.clear()

    def lose_all(self) -> None:
        """Lose sessions, streams and producers, and begin a new incarnation."""
        self._streams.clear()
        for bucket in self._buckets:
            bucket.records.clear()
        self.incarnation = self._random()

    def lose_tail(
        self, stream: str, count: int, *, producers: Literal["rolled_back", "forgotten"] = "rolled_back"
    ) -> int:
        """
        Roll a log back by ``count`` messages under the same epoch, as an asynchronous replica does.

        Returns:
            How many messages were lost.
        """
        slot = self._find(stream)
        if slot is None or not slot.log or count < 1:
            return 0
        lost = slot.log[-count:]
        del slot.log[-count:]
        slot.last = lost[0].offset - 1
        slot.base = min(slot.base, slot.last)
        slot.holes = [(low, high) for low, high in slot.holes if high <= slot.last]
        for entry in lost:
            self._roll_back(slot, entry.offset)
        if producers == "forgotten":
            slot.producers.clear()
        return len(lost)

    def lose_session(self, session: str, steps: int | None = None) -> None:
        """Lose the record, or roll it back to before its last ``steps`` hellos."""
        records = self._buckets[bucket_of(session)].records
        record = records.get(session)
        if record is None:
            return
        if steps is None or steps > len(record.past):
            del records[session]
            return
        record.fence, record.confirmed, record.attempts = record.past[-steps]
        del record.past[-steps:]

    def trim(self, stream: str, upto: int) -> None:
        """Let retention take everything up to ``upto``."""
        slot = self._find(stream)
        if slot is not None:
            slot.trim(upto)

    def contents(self, stream: str) -> tuple[Entry, ...]:
        """Return everything that is retained of a stream."""
        slot = self._find(stream)
        return () if slot is None else tuple(slot.log)

    def sessions(self) -> tuple[str, ...]:
        """Return the ids of the sessions that have not expired."""
        return tuple(session for bucket in self._buckets for session in bucket.records if bucket.living(session))

    # -- the session's slot -------------------------------------------------------------------------------------------

    def _enter_session(self, r: EnterSession, now: float) -> Answer:
        bucket = self._buckets[bucket_of(r.session or r.new_session)]
        record = None if r.session is None else bucket.records.get(r.session)
        if record is not None and r.attempt <= record.attempts.get(r.instance, -1):
            return Stale()
        if record is not None and record.principal != r.principal:
            return Foreign()
        reason = _reason(r, record, bucket)
        if record is not None:
            record.past = [*record.past, (record.fence, record.confirmed, dict(record.attempts))][-INSTANCES:]
            record.note(r.instance, r.attempt)
        if record is None or reason is not None:
            return self._create(r, bucket, reason)
        record.fence = Fence(max(record.fence.generation, r.presented or 0) + 1, r.instance, r.attempt)
        record.expires = bucket.clock + r.ttl
        return SessionEntered(
            session=record.session, fence=record.fence, verdict="resumed", reason=None, incarnation=self.incarnation
        )

    def _create(self, r: EnterSession, bucket: Bucket, reason: str | None) -> SessionEntered:
        record = Record(r.new_session, r.principal, Fence(1, r.instance, r.attempt), bucket.clock + r.ttl)
        record.note(r.instance, r.attempt)
        bucket.records[r.new_session] = record
        return SessionEntered(
            session=r.new_session, fence=record.fence, verdict="new", reason=reason, incarnation=self.incarnation
        )

    def _owned(self, r: Refresh | EndSession | TrimPrivate) -> Record | SessionUnknown | OldFence:
        record = self._buckets[bucket_of(r.session)].living(r.session)
        if record is None:
            return SessionUnknown()
        return OldFence(record.fence) if record.fence > r.fence else record

    def _refresh(self, r: Refresh, now: float) -> Answer:
        record = self._owned(r)
        if not isinstance(record, Record):
            return record
        record.fence = r.fence
        record.expires = self._buckets[bucket_of(r.session)].clock + r.ttl
        return Done()

    def _confirm(self, r: Confirm, now: float) -> Answer:
        record = self._buckets[bucket_of(r.session)].living(r.session)
        if record is None:
            return SessionUnknown()
        record.confirmed = max(record.confirmed, r.generation)
        return Done()

    def _end_session(self, r: EndSession, now: float) -> Answer:
        record = self._owned(r)
        if not isinstance(record, Record):
            return record
        del self._buckets[bucket_of(r.session)].records[r.session]
        return Done()

    def _trim_private(self, r: TrimPrivate, now: float) -> Answer:
        record = self._owned(r)
        if not isinstance(record, Record):
            return record
        if record.private is not None and record.private.epoch == r.epoch:
            record.private.trim(r.offset)
        return Done()

    def _tick(self, r: Tick, now: float) -> Answer:
        return Done()

    # -- a stream's slot ----------------------------------------------------------------------------------------------

    def _enter_stream(self, r: EnterStream, now: float) -> Answer:
        slot = self._slot(r.stream)
        if slot is None:
            return SessionUnknown()
        newer = self._raise_fence(slot, r, now)
        if newer is not None:
            return OldFence(newer)
        self._forget_producers(slot, now)
        producers = tuple(slot.settle(producer, first, now) for producer, first in r.producers)
        matches, lifted, position = None, False, max(slot.base, slot.first - 1)
        if r.held_offset is not None and r.held_epoch == slot.epoch:
            lifted = slot.lift(r.held_offset)
            matches = None if lifted else slot.matches(r.held_offset, r.held_crc)
            position = max(r.held_offset, slot.first - 1)
        elif r.held_offset is None:
            position = slot.first - 1 if r.at == "earliest" else slot.last
        return StreamEntered(
            epoch=slot.epoch, first=slot.first, last=slot.last, lifted=lifted, matches=matches, position=position,
            crc=slot.crc_at(position), producers=producers,
        )  # fmt: skip

    def _append(self, r: Append, now: float) -> Answer:
        slot = self._slot(r.stream)
        if slot is None:
            return SessionUnknown()
        newer = self._raise_fence(slot, r, now)
        if newer is not None:
            return OldFence(newer)
        state = slot.producers.get(r.producer) or Producer()
        if r.first > state.last + 1:
            return Hole(last=state.last)
        slot.producers[r.producer] = state
        state.touched = now
        for seq, entry in enumerate(r.entries, r.first):
            if seq <= state.last:
                continue
            state.last, state.told = seq, None
            if entry.code is not None:
                state.rejected[seq] = entry.code
                continue
            slot.store(entry, (r.producer, seq), self._retention)
            state.offset = slot.last
        asked = range(r.first, r.first + len(r.entries))
        return Appended(
            seq=state.last, rejected=tuple(sorted((seq, code) for seq, code in state.rejected.items() if seq in asked))
        )

    def _publish(self, r: Publish, now: float) -> Answer:
        slot = self._slot(r.stream)
        if slot is None:
            return SessionUnknown()
        for entry in r.entries:
            slot.store(entry, None, self._retention)
        return Published(epoch=slot.epoch, last=slot.last)

    def _read(self, r: Read, now: float) -> Answer:
        slot = self._find(r.stream)
        if slot is None:
            return (
                SessionUnknown() if is_private(r.stream) else Slice(epoch="", first=1, last=0, matches=None, entries=())
            )
        matches = slot.matches(r.after, r.crc) if r.epoch == slot.epoch else None
        entries: list[Entry] = []
        if r.epoch == slot.epoch and matches is not False and r.after >= slot.first - 1:
            room = r.max_bytes
            place = slot.index(r.after)
            for entry in slot.log[place : place + r.max_messages]:
                room -= len(entry.payload)
                if entries and room < 0:
                    break
                entries.append(entry)
        return Slice(epoch=slot.epoch, first=slot.first, last=slot.last, matches=matches, entries=tuple(entries))

    # -- the slot of the nodes ----------------------------------------------------------------------------------------

    def _announce(self, r: Announce, now: float) -> Answer:
        living = {name: (node, until) for name, (node, until) in self._nodes.items() if until > now}
        living.pop(r.node.name, None)
        others = tuple(node for _, (node, _) in sorted(living.items()))
        self._nodes = {**living, r.node.name: (r.node, now + r.ttl)} if r.ttl > 0 else living
        return Announced(others)

    # -- slots --------------------------------------------------------------------------------------------------------

    def _find(self, stream: str) -> Stream | None:
        if not is_private(stream):
            return self._streams.get(stream)
        record = self._buckets[bucket_of(stream[1:])].living(stream[1:])
        return None if record is None else record.private

    def _slot(self, stream: str) -> Stream | None:
        """Return the stream, created where there was none; None for the private stream of nobody."""
        if not is_private(stream):
            if stream not in self._streams:
                self._streams[stream] = Stream(self._random())
            return self._streams[stream]
        record = self._buckets[bucket_of(stream[1:])].living(stream[1:])
        if record is not None and record.private is None:
            record.private = Stream(self._random())
        return None if record is None else record.private

    def _raise_fence(self, slot: Stream, r: EnterStream | Append, now: float) -> Fence | None:
        """Write the fence into the slot, or return the newer one that stands there (rule 4)."""
        standing = slot.fences[r.session][0] if r.session in slot.fences else r.fence
        if is_private(r.stream):
            standing = max(standing, self._buckets[bucket_of(r.session)].records[r.session].fence)
        if standing > r.fence:
            return standing
        slot.fences[r.session] = (r.fence, now)
        return None

    def _forget_producers(self, slot: Stream, now: float) -> None:
        """Producers stay as long as a message of theirs is retained, and at least ``producer_ttl`` (rule 2)."""
        before = now - self._producer_ttl
        for producer in [p for p, s in slot.producers.items() if s.touched < before and s.offset < slot.first]:
            del slot.producers[producer]
        for session in [s for s, (_, at) in slot.fences.items() if at < before]:
            del slot.fences[session]

    def _roll_back(self, slot: Stream, offset: int) -> None:
        producer, seq = slot.origins.pop(offset, ("", 0))
        state = slot.producers.get(producer)
        if state is not None:
            state.last = min(state.last, seq - 1)
            state.offset = min(state.offset, slot.last)
            state.rejected = {number: code for number, code in state.rejected.items() if number < seq}

    def _all_streams(self) -> list[Stream]:
        private = [record.private for bucket in self._buckets for record in bucket.records.values()]
        return [*self._streams.values(), *(stream for stream in private if stream is not None)]

    def _random(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"


def _bucket_of_request(request: Request) -> int | None:
    """Return the bucket that a request is a step in; None for a shared stream, and for the nodes."""
    if isinstance(request, Announce):
        return None
    if isinstance(request, Tick):
        return request.bucket
    if isinstance(request, EnterSession):
        return bucket_of(request.session or request.new_session)
    if isinstance(request, (EnterStream, Append, Publish, Read)):
        return bucket_of(request.stream[1:]) if is_private(request.stream) else None
    return bucket_of(request.session)


def _reason(r: EnterSession, record: Record | None, bucket: Bucket) -> str | None:
    """Say why a hello with a token cannot resume; None where it can, or where it brought none."""
    if r.session is None:
        return None
    if record is None:
        return "unknown"
    if record.expires <= bucket.clock:
        return "expired"
    if r.presented is not None and r.presented < record.confirmed:
        return "superseded"
    return None
