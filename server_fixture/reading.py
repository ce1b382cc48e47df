"""
The outbound half of a server session: subscriptions, positions, turns, credit, gaps (rules 7 and 9).

Here lives who may be sent what, and when. What a hello or the backplane says elsewhere never lives here. Rule numbers
are those of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

from resilient_ws.frames import (
    PRIVATE,
    AckedMark,
    Batch,
    Credit,
    Frame,
    GapFrame,
    Held,
    HelloStream,
    OffsetMark,
    StreamAnswer,
    Subscribe,
)
from server_fixture.actions import Outlet
from server_fixture.backplane import EnterStream, Entry, Fence, Read, Slice, StreamEntered, TrimPrivate, is_private

READ_MESSAGES = 128
READ_BYTES = 64 << 10


def full_name(session: str, wire: str) -> str:
    """Return the stream's name at the backplane."""
    return PRIVATE + session if wire == PRIVATE else wire


def is_reserved(wire: str) -> bool:
    """Say whether a client must not name this stream at all (somebody's private one)."""
    return wire.startswith(PRIVATE) and wire != PRIVATE


@attrs.define(eq=False)
class Reader:
    """
    One subscription.

    Attributes:
        wire, stream: Its name on the wire and at the backplane.
        is_exact: `subscribe` began it on this connection, so nobody else can have delivered anything of it. What a
            hello names may have been answered by the connection before, which delivers until the welcome is read.
        epoch, offset, crc: The position of this connection: the last message sent, or passed by a gap.
        end: The highest log end seen under this epoch.
        needs: Bytes of credit without which its next message cannot go.
        epoch_reason: What a gap over a change of epoch is called.
    """

    wire: str
    stream: str
    id: int
    is_exact: bool
    epoch: str = ""
    offset: int = 0
    crc: int | None = None
    end: int = 0
    acked: int = 0
    trimmed: int = 0
    needs: int = 1
    epoch_reason: str = "epoch"
    is_open: bool = False
    is_queued: bool = False
    is_busy: bool = False
    is_woken: bool = False
    is_doubted: bool = False

    def step(
        self, asked: HelloStream | Subscribe, session: str, fence: Fence, producers: tuple[tuple[str, int], ...] = ()
    ) -> EnterStream:
        """Return the step that answers ``asked``."""
        held = held_of(asked)
        return EnterStream(
            stream=self.stream,
            session=session,
            fence=fence,
            producers=producers,
            held_epoch=None if held is None else held.epoch,
            held_offset=None if held is None else held.offset,
            held_crc=None if held is None else held.crc,
            at=asked.start if isinstance(asked.start, str) else None,
        )

    def settle(self, held: Held | None, facts: StreamEntered) -> GapFrame | None:
        """Draw the conclusions (rule 7, rule 8): move to where reading goes on, return what the client misses."""
        before, self.epoch, self.end = self.epoch, facts.epoch, facts.last
        if before != facts.epoch:
            self.acked = self.trimmed = 0
        if held is None or held.epoch != facts.epoch:
            self.offset, self.crc = facts.position, facts.crc
            return None if held is None else self.gap(held.offset + 1, None, self.epoch_reason)
        if facts.lifted or facts.matches is False:
            self.offset, self.crc = held.offset, None
            return self.gap(1, held.offset, "rewritten")
        if held.offset < facts.first - 1:
            self.offset, self.crc = facts.first - 1, facts.crc
            return self.gap(held.offset + 1, self.offset, "trimmed")
        self.offset, self.crc = held.offset, facts.crc if held.crc is None else held.crc
        return None

    def gap(self, first: int, last: int | None, reason: str) -> GapFrame:
        """Return the gap that ends where this subscription is now."""
        return GapFrame(
            stream=self.wire, id=self.id, epoch=self.epoch, first=first, last=last, next=self.offset + 1, reason=reason
        )

    def answer(self, held: Held | None, facts: StreamEntered) -> StreamAnswer:
        """Settle, and say it in a welcome or ``subscribed``."""
        gap = self.settle(held, facts)
        return StreamAnswer(
            stream=self.wire,
            id=self.id,
            epoch=self.epoch,
            first=self.offset + 1,
            crc=self.crc,
            live=facts.last,
            gap=gap,
        )


def held_of(asked: HelloStream | Subscribe) -> Held | None:
    """Return what the client holds; a start at a position is held without a CRC."""
    if asked.held is not None or asked.start is None or isinstance(asked.start, str):
        return asked.held
    return Held(asked.start.epoch, asked.start.offset)


class Reading:
    """
    All subscriptions of one connection, and the credit that they share.

    Args:
        outlet: Where frames and calls go.
        session: The session's id.
        fence: Ours.
        credit: What the hello granted.
        max_message: The largest message that the client takes.
    """

    def __init__(self, outlet: Outlet, session: str, fence: Fence, credit: Credit, max_message: int) -> None:
        self._outlet = outlet
        self._session = session
        self._fence = fence
        self._credit = credit
        self._max_message = max_message
        self._spent = [0, 0]
        self._reserved = [0, 0]
        self._readers: dict[str, Reader] = {}
        self._queue: deque[Reader] = deque()

    def __len__(self) -> int:
        return len(self._readers)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def add(self, asked: HelloStream | Subscribe) -> Reader:
        """Begin a subscription in the place of an older one of that stream; nothing is read before :meth:`open`."""
        self.remove(asked.stream)
        reader = Reader(asked.stream, full_name(self._session, asked.stream), asked.id, isinstance(asked, Subscribe))
        self._readers[asked.stream] = reader
        self._outlet.watch(reader.stream)
        return reader

    def remove(self, wire: str, id: int | None = None) -> None:
        """End a subscription (unless it has a higher id than the one given); nothing of it is sent any more."""
        reader = self._readers.get(wire)
        if reader is None or (id is not None and reader.id > id):
            return
        del self._readers[wire]
        if reader.is_queued:
            self._queue.remove(reader)
        self._outlet.unwatch(reader.stream)

    def is_void(self, asked: Subscribe) -> bool:
        """Say whether its id is not above that of the stream's present subscription: ids only rise (rule 12)."""
        reader = self._readers.get(asked.stream)
        return reader is not None and reader.id >= asked.id

    def is_current(self, reader: Reader) -> bool:
        """Say whether this is still the latest subscription of its stream."""
        return self._readers.get(reader.wire) is reader

    def open(self, reader: Reader) -> None:
        """Its answer is on the way: data may follow."""
        reader.is_open = True
        self._want(reader)

    def woken(self, stream: str) -> None:
        """Somebody appended."""
        reader = self._readers.get(PRIVATE if is_private(stream) else stream)
        if reader is not None and reader.stream == stream:
            self._want(reader)
            self.turn()

    def poll(self) -> None:
        """Look at every stream: a wake may be lost, and a rewritten tail wakes nobody."""
        for reader in self._readers.values():
            self._want(reader)
        self.turn()

    def marks(self) -> tuple[OffsetMark, ...]:
        """Return the last offset sent of each subscription."""
        return tuple(OffsetMark(r.wire, r.id, r.epoch, r.offset) for r in self._readers.values() if r.is_open)

    # -- credit and acks ----------------------------------------------------------------------------------------------

    def granted(self, credit: Credit) -> None:
        """Take new totals; they never go down (rule 9)."""
        have = self._credit
        self._credit = Credit(max(have.messages, credit.messages), max(have.bytes, credit.bytes))
        self.turn()

    def acked(self, marks: Sequence[AckedMark]) -> None:
        """The user handled these; acks of another epoch or an ended subscription are void."""
        for mark in marks:
            reader = self._readers.get(mark.stream)
            if reader is None or not reader.is_open or mark.epoch != reader.epoch:
                continue
            if mark.offset > reader.offset and reader.is_exact:
                self._outlet.refuse(f"stream {mark.stream!r}: offset {mark.offset} was acked and never sent")
                return
            reader.acked = max(reader.acked, mark.offset)
            # Beyond what this connection sent, an older connection may have delivered it (make before break).
            if mark.offset > reader.offset:
                reader.is_doubted = True
                self._want(reader)
            self._trim(reader)
        self.turn()

    def _trim(self, reader: Reader) -> None:
        """Only the private stream is trimmed by acks (rule 15), never beyond what was sent."""
        upto = min(reader.acked, reader.offset)
        if not is_private(reader.stream) or upto <= reader.trimmed:
            return

        def failed(before: int = reader.trimmed) -> None:
            reader.trimmed = before

        reader.trimmed = upto
        request = TrimPrivate(session=self._session, fence=self._fence, epoch=reader.epoch, offset=upto)
        self._outlet.call(request, lambda done: None, failed=failed)

    # -- turns --------------------------------------------------------------------------------------------------------

    def _want(self, reader: Reader) -> None:
        """Put it into the row of those that may have something to send."""
        reader.is_woken = reader.is_busy
        if reader.is_open and not reader.is_busy and not reader.is_queued:
            reader.is_queued = True
            self._queue.append(reader)

    def turn(self) -> None:
        """Read for as many as the credit allows, one read each; who needs more than there is makes the row wait."""
        while self._queue and not self._outlet.is_closed:
            messages = self._credit.messages - self._spent[0] - self._reserved[0]
            size = self._credit.bytes - self._spent[1] - self._reserved[1]
            if messages < 1 or size < self._queue[0].needs:
                return
            reader = self._queue.popleft()
            reader.is_queued = False
            self._read(reader, min(messages, READ_MESSAGES), min(size, max(reader.needs, READ_BYTES)))

    def _read(self, reader: Reader, messages: int, size: int) -> None:
        reader.is_busy, reader.is_woken = True, False
        claim = reader.acked if reader.is_doubted else 0
        reader.is_doubted = False
        self._reserve(messages, size)

        def found(part: Slice) -> None:
            self._reserve(-messages, -size)
            reader.is_busy = False
            if self.is_current(reader):
                self._found(reader, part, claim)
            self.turn()

        def failed() -> None:
            # Reading can be done again at the next poll; whether the store is away for good is the node's to say.
            self._reserve(-messages, -size)
            reader.is_busy = False
            self.turn()

        request = Read(
            stream=reader.stream,
            epoch=reader.epoch,
            after=reader.offset,
            crc=reader.crc,
            max_messages=messages,
            max_bytes=size,
        )
        self._outlet.call(request, found, failed=failed)

    def _reserve(self, messages: int, size: int) -> None:
        self._reserved[0] += messages
        self._reserved[1] += size

    def _found(self, reader: Reader, part: Slice, claim: int) -> None:
        lost = part.last < reader.offset or reader.offset < part.first - 1
        if part.epoch != reader.epoch or part.matches is False or lost:
            self._check(reader)
            return
        if part.last < claim:
            self._outlet.close(1012, f"stream {reader.wire}: offset {claim} was acked, the log ends before it")
            return
        reader.end = max(reader.end, part.last)
        self._outlet.send(*self._deliver(reader, part.entries))
        self._trim(reader)
        is_more = bool(part.entries) and reader.offset < part.last
        if claim > reader.offset and not is_more:
            self._outlet.close(1012, f"stream {reader.wire}: offset {claim} was acked, the log has it no more")
            return
        reader.is_doubted = reader.is_doubted or claim > reader.offset
        if reader.is_woken or is_more:
            self._want(reader)

    def _check(self, reader: Reader) -> None:
        """The log is not what it was: enter the stream again with our position, as a hello does."""
        reader.is_busy = True
        held = Held(reader.epoch, reader.offset, reader.crc)

        def checked(facts: StreamEntered) -> None:
            reader.is_busy = False
            if self.is_current(reader):
                gap = reader.settle(held, facts)
                # Without one the log is whole again; a poll looks, so that no disagreement of two steps can spin here.
                if gap is not None:
                    self._outlet.send(gap)
                    self._want(reader)
            self.turn()

        asked = HelloStream(stream=reader.wire, id=reader.id, held=held)
        self._outlet.call(reader.step(asked, self._session, self._fence), checked)

    def _deliver(self, reader: Reader, entries: Sequence[Entry]) -> list[Batch | Frame]:
        """Turn entries into batches and gaps as far as the credit reaches; the position moves along."""
        items: list[Batch | Frame] = []
        sent: Entry | None = None
        reader.needs = 1
        for entry in entries:
            size = len(entry.payload)
            before = reader.offset
            if size > self._max_message:
                reader.offset = entry.offset
                items.append(reader.gap(before + 1, entry.offset, "too_large"))
            elif self._spend(size):
                reader.offset = entry.offset
                _add(items, reader.wire, before, entry)
            else:
                reader.needs = max(1, size)
                break
            sent = entry
        if sent is not None:
            reader.crc = sent.crc
        return items

    def _spend(self, size: int) -> bool:
        messages = self._credit.messages - self._spent[0] - self._reserved[0]
        room = self._credit.bytes - self._spent[1] - self._reserved[1]
        if messages < 1 or room < size:
            return False
        self._spent[0] += 1
        self._spent[1] += size
        return True


def _add(items: list[Batch | Frame], wire: str, before: int, entry: Entry) -> None:
    """Put an entry behind its predecessor; where offsets skip, name our position before it (``prev``)."""
    payload = entry.payload.decode() if entry.text else entry.payload
    last = items[-1] if items else None
    if entry.offset != before + 1:
        items.append(Batch(wire, entry.offset, [payload], prev=before))
    elif isinstance(last, Batch) and last.prev is None:
        last.payloads.append(payload)
    else:
        items.append(Batch(wire, entry.offset, [payload]))
