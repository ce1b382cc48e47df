"""
From records to SQL within one transaction, and the contents that go with it; what was changed can be taken back.

When a transaction begins and ends, and what a disk says against it, is ``writing.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from resilient_ws.journal import layout
from resilient_ws.journal.contents import (
    Contents,
    Key,
    Lane,
    identity_values,
    lane_values,
    name_row,
    position_values,
)
from resilient_ws.journal.layout import PUT_FACT, PUT_MESSAGE, SEQ_BITS
from resilient_ws.records import (
    Accepted,
    Forgotten,
    Handled,
    Record,
    SessionOver,
    Settled,
    Welcomed,
    Withdrawn,
)

MOST_INSTANCES = 64
"""Of so many earlier openings the ids are kept: their connections are our own."""
_BETWEEN = "BETWEEN ? AND ?"
_ROWS_OF_A_PAGE = 20


class Changes:
    """
    What one transaction after the other does to a file and to the contents that mirror it.

    Args:
        contents: Of the file; they are kept up to date.
        to_wall: Converts times of the process's clock to milliseconds of wall time.
    """

    def __init__(self, contents: Contents, to_wall: Callable[[float], int]) -> None:
        self.contents = contents
        self.turn = contents.turn
        self.pages = 0.0
        self._to_wall = to_wall
        self._connection: Any = None
        self._undo: list[tuple[Any, ...]] = []
        self._facts: dict[int, tuple[int, tuple[Any, ...]]] = {}
        self._gone: set[int] = set()
        self._grown: set[Key] = set()
        self._last_message = 0
        self._next_id = layout.JOURNAL_ID
        self._puts: dict[type, Callable[[Any], None]] = {
            Accepted: self._accept,
            Settled: self._settle,
            Withdrawn: self._withdraw,
            Handled: self._handle,
            Forgotten: self._forget,
            Welcomed: self._welcome,
            SessionOver: self._end_session,
        }

    # -- one transaction ----------------------------------------------------------------------------------------------

    def begin(self, connection: Any) -> None:
        """A transaction begins."""
        self._connection = connection
        self.turn = self.contents.turn + 1
        self._facts.clear()
        self._gone.clear()

    def put(self, records: Sequence[Record]) -> None:
        """Apply records in order."""
        for record in records:
            self._puts[type(record)](record)

    def flush(self, *, is_whole: bool) -> None:
        """
        Write what else belongs to the transaction.

        Args:
            is_whole: Also what the file only needs to know before the log goes into it: where lanes end.
        """
        if not (is_whole or self._facts or self._gone):
            return
        contents, turn, facts = self.contents, self.turn, self._facts
        for key in self._grown:
            lane = contents.lanes.get(key)
            if lane is not None:
                facts[lane.id] = (layout.LANE, lane_values(lane))
        rows = [layout.fact_row(key, kind, turn, values) for key, (kind, values) in facts.items()]
        rows.append(layout.fact_row(layout.JOURNAL_ID, layout.JOURNAL, turn, contents.journal_values()))
        self._connection.executemany(PUT_FACT, rows)
        if self._gone:
            self._connection.executemany("DELETE FROM facts WHERE id = ?", [(key,) for key in self._gone])
        self.pages += 1 + (len(rows) + len(self._gone)) // _ROWS_OF_A_PAGE

    def committed(self) -> None:
        """The transaction is in the file."""
        self.contents.turn = self.turn
        if self._facts or self._gone:
            self._grown.clear()
        self._undo.clear()

    def take_back(self) -> None:
        """The transaction is not in the file: the contents are as they were before it."""
        while self._undo:
            undo, *arguments = self._undo[-1]
            undo(*arguments)
            self._undo.pop()

    def is_in_file(self, connection: Any) -> bool:
        """Say whether the last transaction, of which nobody saw the end, is in the file."""
        rows = connection.execute("SELECT turn FROM facts WHERE id = ?", (layout.JOURNAL_ID,)).fetchall()
        return self.turn in [row[0] for row in rows] or self._head(connection, self._last_message)[3] == self.turn

    def _head(self, connection: Any, key: int) -> layout.Head:
        """Read what is in front of a message; all 0 where it is not there."""
        row = connection.execute("SELECT content FROM messages WHERE id = ?", (key,)).fetchone()
        return (0, 0, 0, 0, 0) if row is None else layout.read_head(row[0].split(b" ", 5)[:5])

    def begin_opening(self, instance: str, sync: str) -> None:
        """Note who opens the file, and drop what no opening needs any more."""
        contents = self.contents
        self._note(setattr, contents, "sync", contents.sync)
        contents.sync = sync
        for lane in list(contents.lanes.values()):
            if lane.first == lane.next:
                self._drop(lane)
        self._set(contents.instances, self._new_fact(layout.INSTANCE, (instance,)), instance)
        for key in list(contents.instances)[:-MOST_INSTANCES]:
            self._remove(key)
            self._set(contents.instances, key, None)

    # -- the mirror ---------------------------------------------------------------------------------------------------

    def _note(self, undo: Callable[..., Any], *arguments: Any) -> None:
        self._undo.append((undo, *arguments))

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._note(_reset, table, key, table.get(key))
        _reset(table, key, value)

    def _new_fact(self, kind: int, values: tuple[Any, ...]) -> int:
        ids = self.contents.ids
        key = self._next_id
        while key in ids or key <= layout.JOURNAL_ID:
            key = (key + 1) % layout.MOST_IDS
        self._next_id = key
        self._set(ids, key, True)
        self._gone.discard(key)
        self._facts[key] = (kind, values)
        return key

    def _remove(self, key: int) -> None:
        self._facts.pop(key, None)
        self._gone.add(key)
        self._set(self.contents.ids, key, None)

    # -- messages -----------------------------------------------------------------------------------------------------

    def _accept(self, record: Accepted) -> None:
        key = (record.producer, record.stream)
        lane = self.contents.lanes.get(key) or self._new_lane(key, record.first)
        first, payloads = record.first, record.payloads
        if first < lane.next:  # it was written before, in a transaction of which nobody saw the end
            self._delete(lane, max(first, lane.first), lane.next - 1)
            payloads = payloads[max(0, lane.first - first) :]
            first = max(first, lane.first)
        elif first > lane.next:
            raise ValueError(f"{lane.label}: message {first} was accepted, the one before it was {lane.next - 1}")
        runs = lane.runs
        self._undo.append((_reset_lane, lane, lane.first, lane.next, runs))
        if not runs or runs[-1][1] != record.welcome:
            lane.runs = (*runs, (first, record.welcome))
        lane.next = first + len(payloads)
        self._grown.add(key)
        self._insert(lane.id << SEQ_BITS | first, payloads, self._to_wall(record.at), record.welcome)

    def _insert(self, start: int, payloads: Sequence[Any], at: int, welcome: int) -> None:
        """Write messages; neighbours of one kind have one head."""
        size, key = 0, start
        for sort, alike in groupby(payloads, type):
            kind = layout.TEXT if sort is str else layout.BYTES
            head = layout.head_of(kind, at, welcome, self.turn, self.contents.synced)
            contents = [head + (payload.encode() if sort is str else payload) for payload in alike]
            self._connection.executemany(PUT_MESSAGE, layout.message_rows(key, contents))
            key += len(contents)
            size += sum(map(len, contents))
        self._last_message = key - 1
        self.pages += 1 + _frames(size + 10 * (key - start))

    def _new_lane(self, key: Key, first: int) -> Lane:
        lane = Lane(0, *key, self.turn, first, first)
        lane.id = self._new_fact(layout.LANE, lane_values(lane))
        self._set(self.contents.lanes, key, lane)
        self._connection.execute(PUT_MESSAGE, name_row(lane, self.turn))
        return lane

    def _delete(self, lane: Lane, first: int, last: int) -> None:
        base = lane.id << SEQ_BITS
        done = self._connection.execute(f"DELETE FROM messages WHERE id {_BETWEEN}", (base | first, base | last))
        self.pages += 2 + done.rowcount // _ROWS_OF_A_PAGE

    def _settle(self, record: Settled) -> None:
        lane = self.contents.lanes.get((record.producer, record.stream))
        if lane is None or record.seq < lane.first:
            return
        self._note(_reset_lane, lane, lane.first, lane.next, lane.runs)
        self._delete(lane, lane.first, record.seq)
        lane.first = record.seq + 1
        lane.next = max(lane.next, lane.first)
        while len(lane.runs) > 1 and lane.runs[1][0] <= lane.first:
            lane.runs = lane.runs[1:]
        if lane.first == lane.next and lane.is_restored:
            self._drop(lane)
        else:
            self._facts[lane.id] = (layout.LANE, lane_values(lane))

    def _drop(self, lane: Lane) -> None:
        self._connection.execute("DELETE FROM messages WHERE id = ?", (lane.id << SEQ_BITS,))
        self._remove(lane.id)
        self._set(self.contents.lanes, lane.key, None)

    def _withdraw(self, record: Withdrawn) -> None:
        lane = self.contents.lanes.get((record.producer, record.stream))
        if lane is None:
            return
        for key in (lane.id << SEQ_BITS | seq for seq in record.seqs if lane.first <= seq < lane.next):
            (_, at, welcome, _, _) = self._head(self._connection, key)
            head = layout.head_of(layout.VOID, at, welcome, self.turn, self.contents.synced)
            self._connection.executemany(PUT_MESSAGE, layout.message_rows(key, [head + record.code.encode()]))
            self._last_message = key
            self.pages += 1

    # -- facts --------------------------------------------------------------------------------------------------------

    def _handle(self, record: Handled) -> None:
        kept = self.contents.positions.get(record.stream)
        values = position_values(record)
        if kept is None:
            key = self._new_fact(layout.POSITION, values)
        else:
            key = kept[0]
            self._facts[key] = (layout.POSITION, values)
        self._set(self.contents.positions, record.stream, (key, record))

    def _forget(self, record: Forgotten) -> None:
        kept = self.contents.positions.get(record.stream)
        if kept is not None:
            self._remove(kept[0])
            self._set(self.contents.positions, record.stream, None)

    def _welcome(self, record: Welcomed) -> None:
        contents = self.contents
        at = self._to_wall(record.at)
        self._forget_welcome(record.number)
        key = self._new_fact(layout.WELCOME, (record.number, at, record.incarnation))
        self._set(contents.welcomed, record.number, (key, at, record.incarnation))
        for number in contents.welcomed.keys() - contents.needed_welcomes():
            self._forget_welcome(number)
        self._note(setattr, contents, "welcomes", contents.welcomes)
        contents.welcomes = max(contents.welcomes, record.number)
        self._note(setattr, contents, "identity", contents.identity)
        values = identity_values(record.identity)
        if contents.identity is None:
            contents.identity = (self._new_fact(layout.IDENTITY, values), record.identity)
        else:
            contents.identity = (contents.identity[0], record.identity)
            self._facts[contents.identity[0]] = (layout.IDENTITY, values)

    def _forget_welcome(self, number: int) -> None:
        kept = self.contents.welcomed.get(number)
        if kept is not None:
            self._remove(kept[0])
            self._set(self.contents.welcomed, number, None)

    def _end_session(self, record: SessionOver) -> None:
        kept = self.contents.identity
        if kept is not None:
            self._remove(kept[0])
            self._note(setattr, self.contents, "identity", kept)
            self.contents.identity = None


def _frames(size: int) -> float:
    """Estimate what so many bytes of new rows add to the log beside the page that they begin in (measured)."""
    filled = size / layout.PAGE
    return filled + 2.7 * min(1.0, filled)  # where a page is added, those that say so are written too


def _reset(table: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _reset_lane(lane: Lane, first: int, following: int, runs: tuple[tuple[int, int], ...]) -> None:
    lane.first, lane.next, lane.runs = first, following, runs
