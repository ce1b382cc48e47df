"""
What a journal holds: made of rows, checked against each other, and told to a session.

Rows may be missing or damaged, and then what is left is still of use: nothing here raises, what is wrong is said in
sentences. Times are milliseconds of wall time. No file and no SQL here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from resilient_ws.frames import Payload
from resilient_ws.journal import layout
from resilient_ws.journal.layout import Row
from resilient_ws.records import Handled, Identity, Mark, Restored, RestoredLane, Void
from resilient_ws.sizes import size_of

Key = tuple[str, str]
GRAIN = 500
"""Milliseconds: what was accepted within so many of each other was accepted at once; it is merged twice."""
LOST = "lost"
"""Code of the tombstone in the place of a message that cannot be read: a hole would hold up what follows."""


@attrs.define(eq=False)
class Lane:
    """
    One (producer, stream).

    Attributes:
        created: Turn of its creation.
        first, next: Its first message without an ack, and the one after its last.
        runs: (seq, welcome): messages from ``seq`` on can first have got out under that welcome, or, where that one was
            not written down, under the next.
        is_restored: Of an earlier opening: it goes when it is empty.
    """

    id: int
    producer: str
    stream: str
    created: int
    first: int
    next: int
    runs: tuple[tuple[int, int], ...] = ()
    is_restored: bool = False

    @property
    def key(self) -> Key:
        return (self.producer, self.stream)

    @property
    def label(self) -> str:
        return f"stream {self.stream!r} of producer {self.producer[:8]}"

    def needs(self) -> Iterator[int]:
        """Yield the welcomes that its messages are about."""
        for index, (_, welcome) in enumerate(self.runs, 1):
            end = self.runs[index][0] if index < len(self.runs) else self.next
            if end > self.first:
                yield welcome


@attrs.define(eq=False)
class Backlog:
    """The messages of a lane; ``births``: (up to seq, when accepted, welcome)."""

    lane: Lane
    items: list[Payload | Void] = attrs.field(factory=list)
    births: list[tuple[int, int, int]] = attrs.field(factory=list)

    def append(self, seq: int, item: Payload | Void, at: int, welcome: int) -> None:
        self.items.append(item)
        births, lane = self.births, self.lane
        if births and births[-1][2] == welcome and 0 <= at - births[-1][1] <= GRAIN:
            births[-1] = (seq, births[-1][1], welcome)
        else:
            births.append((seq, at, welcome))
            if not lane.runs or lane.runs[-1][1] != welcome:
                lane.runs = (*lane.runs, (seq, welcome))

    @property
    def size(self) -> tuple[int, int]:
        """(messages, bytes), the withdrawn ones not counted."""
        payloads = [item for item in self.items if not isinstance(item, Void)]
        return len(payloads), sum(map(size_of, payloads))


@attrs.define(eq=False)
class Contents:
    """
    All facts of a journal.

    Attributes:
        turn: Of the last transaction that left a trace.
        synced: The last turn that is safe against a power loss for sure.
        welcomes: Number of the last welcome.
        positions: {stream: (id of its row, how far)}.
        identity: The same; None: there is no session.
        instances: {id of its row: instance}, the oldest first.
        welcomed: {number: (id of its row, when, incarnation)}.
        ids: Those in use.
    """

    turn: int = 0
    synced: int = 0
    sync: str = "full"
    welcomes: int = 0
    lanes: dict[Key, Lane] = attrs.field(factory=dict)
    positions: dict[str, tuple[int, Handled]] = attrs.field(factory=dict)
    identity: tuple[int, Identity] | None = None
    instances: dict[int, str] = attrs.field(factory=dict)
    welcomed: dict[int, tuple[int, int, str]] = attrs.field(factory=dict)
    ids: dict[int, bool] = attrs.field(factory=dict)

    def needed_welcomes(self) -> set[int]:
        """Return the numbers of those that a message is about, and of the last one."""
        numbers = sorted(self.welcomed)
        needed = {numbers[-1]} if numbers else set()
        for welcome in {welcome for lane in self.lanes.values() for welcome in lane.needs()}:
            needed.update(numbers[bisect_left(numbers, welcome) :][:1])
        return needed

    def journal_values(self) -> tuple[Any, ...]:
        """Return what the journal's own row says: with it a row that is missing shows."""
        identities = 0 if self.identity is None else 1
        counts = (len(self.lanes), len(self.positions), identities, len(self.instances), len(self.welcomed))
        return (self.synced, self.sync, self.welcomes, *counts)


def lane_values(lane: Lane) -> tuple[Any, ...]:
    """Return what the row of a lane says."""
    return (lane.producer, lane.stream, lane.created, lane.first, lane.next)


def position_values(kept: Handled) -> tuple[Any, ...]:
    """Return what the row of a position says."""
    return (kept.stream, kept.position.epoch, kept.position.offset, kept.crc, kept.cursor)


def identity_values(kept: Identity) -> tuple[Any, ...]:
    """Return what the row of the session says."""
    return (kept.session, kept.token, kept.generation)


@attrs.define(eq=False)
class Found:
    """
    What rows add up to.

    Attributes:
        contents: The facts.
        backlogs: The messages, the oldest lane first.
        missing: What is damaged or missing, a phrase each.
        notes: What is odd and no damage, a sentence each.
        log_words: (offset, bytes) that belong into the log, before anybody else reads it.
    """

    contents: Contents
    backlogs: list[Backlog]
    missing: list[str]
    notes: list[str] = attrs.field(factory=list)
    log_words: list[tuple[int, bytes]] = attrs.field(factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """(messages, bytes) without an ack."""
        sizes = [backlog.size for backlog in self.backlogs]
        return sum(count for count, _ in sizes), sum(size for _, size in sizes)

    @property
    def kept(self) -> str:
        """What can be read, in words."""
        messages, size = self.size
        streams = len({backlog.lane.stream for backlog in self.backlogs if backlog.items})
        session = "no session" if self.contents.identity is None else "the session"
        positions = len(self.contents.positions)
        return f"{messages} messages ({size} bytes) of {streams} streams, {positions} positions, {session}"

    def restored(self, now: float, wall: float) -> Restored:
        """Return it for a session, in the time of a clock that says ``now`` at this wall time."""

        def local(at: int) -> float:
            return now - max(0.0, wall - at / 1000)  # where the wall clock went back an age is 0, never less

        contents = self.contents
        return Restored(
            identity=None if contents.identity is None else contents.identity[1],
            instances=frozenset(contents.instances.values()),
            positions={stream: kept for stream, (_, kept) in contents.positions.items()},
            lanes=tuple(
                RestoredLane(
                    backlog.lane.producer,
                    backlog.lane.stream,
                    backlog.lane.first,
                    backlog.items,
                    tuple((seq, local(at)) for seq, at in _births(backlog)),
                    tuple(Mark(seq, local(at), incarnation) for seq, at, incarnation in _marks(backlog, contents)),
                )
                for backlog in self.backlogs
                if backlog.items
            ),
            welcomes=contents.welcomes,
        )


def _births(backlog: Backlog) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for seq, at, _ in backlog.births:
        if merged and 0 <= at - merged[-1][1] <= GRAIN:
            merged[-1] = (seq, merged[-1][1])
        else:
            merged.append((seq, at))
    return merged


def _marks(backlog: Backlog, contents: Contents) -> list[tuple[int, int, str]]:
    """Say what a server may have: it can have got a message from its birth on, or from the first welcome on."""
    marks: list[tuple[int, int, str]] = []
    numbers = sorted(contents.welcomed)
    for seq, at, welcome in backlog.births:
        index = bisect_left(numbers, welcome)
        if index == len(numbers):
            continue
        _, welcomed_at, incarnation = contents.welcomed[numbers[index]]
        since = max(at, welcomed_at)
        if marks and marks[-1][2] == incarnation and 0 <= since - marks[-1][1] <= GRAIN:
            marks[-1] = (seq, marks[-1][1], incarnation)
        else:
            marks.append((seq, since, incarnation))
    return marks


def rows_of(found: Found, turn: int) -> tuple[list[Row], Iterable[Row]]:
    """Return the rows of (``facts``, ``messages``) of a new file that holds the same; the ids are new."""
    contents = found.contents
    contents.turn = contents.synced = turn
    values: list[tuple[int, tuple[Any, ...]]] = []
    for backlog in found.backlogs:
        backlog.lane.id = len(values) + layout.JOURNAL_ID + 1
        values.append((layout.LANE, lane_values(backlog.lane)))
    values += [(layout.POSITION, position_values(kept)) for _, kept in contents.positions.values()]
    if contents.identity is not None:
        values.append((layout.IDENTITY, identity_values(contents.identity[1])))
    values += [(layout.INSTANCE, (instance,)) for instance in contents.instances.values()]
    values += [(layout.WELCOME, (number, *kept[1:])) for number, kept in contents.welcomed.items()]
    facts = [layout.fact_row(layout.JOURNAL_ID, layout.JOURNAL, turn, contents.journal_values())]
    for key, (kind, row) in enumerate(values, layout.JOURNAL_ID + 1):
        facts.append(layout.fact_row(key, kind, turn, row))
    return facts, _message_rows(found.backlogs, turn)


def _message_rows(backlogs: list[Backlog], turn: int) -> Iterator[Row]:
    for backlog in backlogs:
        lane = backlog.lane
        yield name_row(lane, turn)
        births = iter(backlog.births)
        upto = at = welcome = 0
        for seq, item in enumerate(backlog.items, lane.first):
            if seq > upto:
                upto, at, welcome = next(births)
            kind, payload = layout.encoded(item)
            content = layout.head_of(kind, at, welcome, turn, turn) + payload
            yield from layout.message_rows(lane.id << layout.SEQ_BITS | seq, [content])


def name_row(lane: Lane, turn: int) -> Row:
    """Return the row of ``messages`` that says whose the lane is: without it the loss of one row were that of all."""
    name = layout.encode((lane.producer, lane.stream, lane.created))
    return layout.message_rows(lane.id << layout.SEQ_BITS, [layout.head_of(layout.NAME, 0, 0, turn, 0) + name])[0]
