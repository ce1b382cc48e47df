"""
From rows to contents: every row is checked by itself, then against the others; what is wrong is said, nothing raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from resilient_ws.frames import Position
from resilient_ws.journal import layout
from resilient_ws.journal.contents import LOST, Backlog, Contents, Found, Lane
from resilient_ws.journal.layout import JOURNAL, KINDS, SEQ_BITS, SEQ_MASK, Head, Row
from resilient_ws.records import Handled, Identity, Void

Fact = tuple[int, int, int, list[Any]]
Message = tuple[int, Head, bytes]


def assemble(facts: Iterable[Row], messages: Iterable[Row], *, is_raw: bool = False) -> Found:
    """
    Put together what rows say.

    Args:
        is_raw: The rows are out of single pages: there may be older ones among them, and ones that were deleted.
    """
    return _Assembly(is_raw).run(facts, messages)


class _Assembly:
    def __init__(self, is_raw: bool) -> None:
        self.is_raw = is_raw
        self.contents = Contents()
        self.missing: list[str] = []
        self.counts: list[int] | None = None
        self.lanes: dict[int, Lane] = {}

    def run(self, facts: Iterable[Row], messages: Iterable[Row]) -> Found:
        for fact in sorted(self._newest(facts).values(), key=lambda fact: (fact[2], fact[0])):
            self._take_fact(*fact)
        self._count()
        groups = self._grouped(messages)
        for number in groups.keys() - self.lanes.keys():
            self._adopt(number, groups[number])
        ordered = sorted(self.lanes.values(), key=lambda lane: (lane.created, lane.id))
        backlogs = [self._backlog(lane, groups.get(lane.id, {})) for lane in ordered]
        self.contents.lanes = {lane.key: lane for lane in ordered}
        self._check_welcomes()
        return Found(self.contents, backlogs, self.missing)

    # -- facts --------------------------------------------------------------------------------------------------------

    def _newest(self, rows: Iterable[Row]) -> dict[int, Fact]:
        newest: dict[int, Fact] = {}
        damaged = 0
        for row in rows:
            fact = layout.read_fact(row)
            if fact is None:
                damaged += 1
            elif fact[0] not in newest or newest[fact[0]][2] < fact[2]:
                newest[fact[0]] = fact
        if damaged and not self.is_raw:
            self.missing.append(f"{damaged} rows of facts are damaged")
        return newest

    def _take_fact(self, key: int, kind: int, turn: int, values: list[Any]) -> None:
        contents = self.contents
        contents.turn = max(contents.turn, turn)
        if kind == JOURNAL:
            contents.synced, contents.sync, contents.welcomes, *self.counts = values
            return
        contents.ids[key] = True
        if kind == layout.LANE:
            producer, stream, created, first, following = values
            self.lanes[key] = Lane(key, producer, stream, created, first, following, is_restored=True)
        elif kind == layout.POSITION:
            stream, epoch, offset, crc, cursor = values
            contents.positions[stream] = (key, Handled(stream, Position(epoch, offset), crc, cursor))
        elif kind == layout.IDENTITY:
            contents.identity = (key, Identity(*values))
        elif kind == layout.INSTANCE:
            contents.instances[key] = values[0]
        elif kind == layout.WELCOME:
            contents.welcomed[values[0]] = (key, values[1], values[2])

    def _count(self) -> None:
        """Compare with what the journal's own row counts, and take no more of anything than there was."""
        if self.counts is None:
            self.missing.append("the journal's own row is missing")
            self.contents.welcomes = max(self.contents.welcomed, default=0)
            return
        values = self.contents.journal_values()[3:]
        found = [len(self.lanes), *values[1:]]
        for kind, expected, there in zip(KINDS[1:], self.counts, found, strict=True):
            if there < expected:
                self.missing.append(f"{expected - there} of {expected} rows of kind {kind!r}")
            elif there > expected and not self.is_raw:
                self.missing.append(f"{there} rows of kind {kind!r} where {expected} were written")
        if self.counts[layout.IDENTITY - 1] == 0:
            self.contents.identity = None

    # -- messages -----------------------------------------------------------------------------------------------------

    def _grouped(self, rows: Iterable[Row]) -> dict[int, dict[int, Message]]:
        groups: dict[int, dict[int, Message]] = {}
        heads: dict[tuple[bytes, ...], Head] = {}
        damaged = 0
        for row in rows:
            message = layout.read_message(row)
            if message is None:
                damaged += 1
                continue
            key, raw, payload = message
            head = heads.get(raw)
            if head is None:
                head = heads[raw] = layout.read_head(raw)
                self.contents.turn = max(self.contents.turn, head[3])
                self.contents.synced = max(self.contents.synced, head[4])
            group = groups.setdefault(key >> SEQ_BITS, {})
            seq = key & SEQ_MASK
            # Of two of one number, which only a broken tree has, the tombstone is the newer one.
            if seq not in group or head[0] == layout.VOID:
                group[seq] = (seq, head, payload)
        if damaged and not self.is_raw:
            self.missing.append(f"{damaged} rows of messages are damaged")
        return groups

    def _adopt(self, number: int, group: dict[int, Message]) -> None:
        """A lane whose row is missing is known by the row that names it, if that one is there."""
        if self.is_raw and self.counts is not None and len(self.lanes) >= self.counts[0]:
            return  # none is missing: these were deleted
        numbers = [seq for seq in group if seq]
        if 0 not in group:
            self.missing.append(f"whose {len(numbers)} messages are: the rows that say so are missing")
            return
        producer, stream, created = json.loads(group[0][2])
        first = min(numbers, default=1)
        self.contents.ids[number] = True
        self.lanes[number] = Lane(number, producer, stream, created, first, first, is_restored=True)

    def _backlog(self, lane: Lane, group: dict[int, Message]) -> Backlog:
        numbers = [seq for seq in group if seq >= lane.first]
        if not self.is_raw:
            if 0 not in group:
                self.missing.append(f"the row that names {lane.label}")
            if len(group) - (0 in group) > len(numbers):
                self.missing.append(f"{lane.label}: messages that were settled are there again")
        lane.next = max(lane.next, max(numbers, default=0) + 1)
        backlog = Backlog(lane)
        lost: list[int] = []
        at, welcome = self._eldest(numbers, group)
        for seq in range(lane.first, lane.next):
            message = group.get(seq)
            item = None if message is None else _item(message)
            if message is not None:
                _, (_, at, welcome, _, _), _ = message
            if item is None:
                lost.append(seq)
                item = Void(LOST)
            backlog.append(seq, item, at, welcome)
        if lost:
            self.missing.append(f"{lane.label}: {_ranges(lost)}")
        return backlog

    def _eldest(self, numbers: list[int], group: dict[int, Message]) -> tuple[int, int]:
        """Say (when, welcome) of the messages before the first that is there: as that one."""
        if not numbers:
            return 0, self.contents.welcomes
        head = group[min(numbers)][1]
        return head[1], head[2]

    def _check_welcomes(self) -> None:
        """Where welcomes are missing, a message may have got out under one, to a server that nobody knows."""
        contents = self.contents
        if self.counts is not None and self.counts[layout.WELCOME - 1] <= len(contents.welcomed):
            return
        needed = {welcome for lane in self.lanes.values() for welcome in lane.needs()}
        if self.counts is None:
            contents.welcomes = max(contents.welcomes, *needed, 0)
        for number in needed - contents.welcomed.keys():
            if number <= contents.welcomes:
                contents.welcomed[number] = (0, 0, "")


def _item(message: Message) -> Any:
    _, head, payload = message
    return layout.decoded(head[0], payload) if head[0] in (layout.TEXT, layout.BYTES, layout.VOID) else None


def _ranges(numbers: list[int]) -> str:
    """Say which messages: ``messages 3, 7 to 9``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] + 1 == number:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    said = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in parts[:10])
    more = f" and {len(parts) - 10} more ranges" if len(parts) > 10 else ""
    return f"message{'' if len(numbers) == 1 else 's'} {said}{more} ({len(numbers)})"
