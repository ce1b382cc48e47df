"""
The inbound half of a server session: what clients send goes to its stream, one append at a time (rule 2).

Here live the lanes, one for each (producer, stream), their tombstones and acks. Reading never lives here. Rule numbers
are those of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs

from resilient_ws.frames import PRIVATE, Ack, Batch, Payload, Reject, SeqMark
from server_fixture.actions import Outlet
from server_fixture.backplane import Append, Appended, Entry, Fence, ProducerState
from server_fixture.reading import full_name, is_reserved

APPEND_MESSAGES = 256
APPEND_BYTES = 256 << 10

_HINTS = {
    "too_large": "the message is above the server's max_message",
    "forbidden": "the principal may not publish to this stream",
}


@attrs.define(eq=False)
class Lane:
    """One (producer, stream): what arrived, what is committed, what waits for its append."""

    index: int
    producer: str
    wire: str
    stream: str
    arrived: int = 0
    committed: int = 0
    is_busy: bool = False
    rejected: set[int] = attrs.field(factory=set)
    waiting: deque[tuple[int, Entry]] = attrs.field(factory=deque)


class Appending:
    """
    All lanes of one connection.

    Args:
        outlet: Where frames and calls go.
        session: The session's id.
        fence: Ours.
        producers: The hello's.
        max_message: The largest message that is stored.
        max_lanes: How many lanes a connection may have.
        may_publish: Does the principal have the right, asked with every batch.
    """

    def __init__(
        self,
        outlet: Outlet,
        session: str,
        fence: Fence,
        producers: tuple[str, ...],
        *,
        max_message: int,
        max_lanes: int,
        may_publish: Callable[[str], bool],
    ) -> None:
        self._outlet = outlet
        self._session = session
        self._fence = fence
        self._producers = producers
        self._max_message = max_message
        self._max_lanes = max_lanes
        self._may_publish = may_publish
        self._lanes: dict[tuple[int, str], Lane] = {}
        self.backlog = 0

    @property
    def is_idle(self) -> bool:
        return not any(lane.is_busy for lane in self._lanes.values())

    def known(self, index: int, wire: str, first: int, state: ProducerState) -> None:
        """The hello's step settled a lane; its rejected seqs are told in the welcome."""
        lane = self._lane(index, wire)
        lane.arrived = lane.committed = max(state.seq, first - 1)
        lane.rejected.update(seq for seq, _ in state.rejected)

    def data(self, batch: Batch) -> None:
        """Take a batch; a hole in it is the stream's to judge. What the client withdrew is consumed by a tombstone."""
        if batch.first is None or batch.producer >= len(self._producers) or is_reserved(batch.stream):
            self._outlet.refuse("a message without a seq, of an unknown producer, or for a reserved stream")
            return
        if (batch.producer, batch.stream) not in self._lanes and len(self._lanes) >= self._max_lanes:
            self._outlet.close(4429, f"more than {self._max_lanes} producers and streams on one connection")
            return
        lane = self._lane(batch.producer, batch.stream)
        is_allowed = batch.stream != PRIVATE and self._may_publish(batch.stream)
        for seq, payload in enumerate(batch.payloads, batch.first):
            entry = Entry(b"", False, code=batch.void) if batch.void is not None else self._entry(payload, is_allowed)
            self.backlog += len(entry.payload)
            lane.waiting.append((seq, entry))
        lane.arrived = max(lane.arrived, batch.first + len(batch.payloads) - 1)
        self._append(lane)

    def marks(self) -> tuple[SeqMark, ...]:
        """Return what is committed; every reject below it is written."""
        return tuple(SeqMark(lane.index, lane.wire, lane.committed) for lane in self._lanes.values() if lane.committed)

    def sent(self, marks: Sequence[SeqMark]) -> None:
        """The client says what it sent on this connection: more than arrived is a lost tail."""
        for mark in marks:
            lane = self._lanes.get((mark.producer, mark.stream))
            if mark.seq > (0 if lane is None else lane.arrived):
                self._outlet.close(1012, f"stream {mark.stream}: message {mark.seq} did not arrive, say hello again")
                return

    def _lane(self, index: int, wire: str) -> Lane:
        key = (index, wire)
        if key not in self._lanes:
            self._lanes[key] = Lane(index, self._producers[index], wire, full_name(self._session, wire))
        return self._lanes[key]

    def _entry(self, payload: Payload, is_allowed: bool) -> Entry:
        data = payload.encode() if isinstance(payload, str) else payload
        if not is_allowed:
            return Entry(b"", False, code="forbidden")
        if len(data) > self._max_message:
            return Entry(b"", False, code="too_large")
        return Entry(data, isinstance(payload, str))

    def _append(self, lane: Lane) -> None:
        """Append the next consecutive messages; later ones gather meanwhile."""
        if lane.is_busy or not lane.waiting:
            return
        first, entry = lane.waiting.popleft()
        entries, size = [entry], len(entry.payload)
        while lane.waiting and len(entries) < APPEND_MESSAGES and size < APPEND_BYTES:
            if lane.waiting[0][0] != first + len(entries):
                break
            entry = lane.waiting.popleft()[1]
            entries.append(entry)
            size += len(entry.payload)
        lane.is_busy = True

        def appended(answer: Appended) -> None:
            self.backlog -= size
            self._appended(lane, first + len(entries) - 1, answer)

        request = Append(
            stream=lane.stream,
            session=self._session,
            fence=self._fence,
            producer=lane.producer,
            first=first,
            entries=tuple(entries),
        )
        self._outlet.call(request, appended)

    def _appended(self, lane: Lane, last: int, answer: Appended) -> None:
        """Rejects go before the ack that covers them; rejects beyond what was asked are unknown: not acked."""
        lane.is_busy = False
        for seq, code in answer.rejected:
            if seq not in lane.rejected:
                lane.rejected.add(seq)
                self._outlet.send(
                    Reject(producer=lane.index, stream=lane.wire, seq=seq, code=code, hint=_HINTS.get(code, ""))
                )
        lane.committed = max(lane.committed, last)
        self._outlet.send(Ack(committed=(SeqMark(lane.index, lane.wire, lane.committed),)))
        self._append(lane)
