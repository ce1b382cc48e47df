"""
Reads a journal whole, checks every row, and says what is kept and what is missing. Nothing here can change a file.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import attrs

from resilient_ws.frames import Payload, Position, size_of
from resilient_ws.journal import files
from resilient_ws.journal.layout import SEQ_BITS, TABLES, Row, is_whole, message_of
from resilient_ws.journal.wal import Scan, scan
from resilient_ws.records import Handled, Identity, Mark, Restored, RestoredLane, Void

LOST = Void("lost")
"""Stands where a message cannot be read any more."""
_BIRTH_GRAIN = 1_000_000
_MARK_GRAIN = 60_000_000


@attrs.define
class Lane:
    """One (producer, stream) as it lies in the file; ``rows``: {seq: (item, at, welcome)}."""

    id: int
    producer: str
    stream: str
    first: int
    rows: dict[int, tuple[Payload | Void, int, int]] = attrs.field(factory=dict)


@attrs.define
class Contents:
    """
    Everything that a file holds; times are microseconds of wall time.

    Attributes:
        meta: What was noted by name.
        welcomes: {number: (at, incarnation)}.
        missing: What is damaged or missing, a sentence each.
        lost_commits: Transactions that the log has and cannot give.
    """

    meta: dict[str, str] = attrs.field(factory=dict)
    identity: Identity | None = None
    lanes: dict[int, Lane] = attrs.field(factory=dict)
    positions: dict[str, Handled] = attrs.field(factory=dict)
    instances: list[str] = attrs.field(factory=list)
    welcomes: dict[int, tuple[int, str]] = attrs.field(factory=dict)
    missing: list[str] = attrs.field(factory=list)
    lost_commits: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(messages, bytes) that are kept."""
        items = [row[0] for lane in self.lanes.values() for row in lane.rows.values() if not isinstance(row[0], Void)]
        return len(items), sum(map(size_of, items))

    @property
    def kept(self) -> str:
        """What can be read, in words."""
        messages, size = self.size
        session = "a session" if self.identity is not None else "no session"
        return f"{messages} messages ({size} bytes), {len(self.positions)} positions, {session}"

    def restored(self, now: float, wall: float) -> Restored:
        """Return it for a session, in the time of a clock that says ``now`` at this wall time."""

        def local(at: int) -> float:
            return now - max(0.0, wall - at / 1e6)  # where the wall clock went back an age is 0, never less

        return Restored(
            identity=self.identity,
            instances=frozenset(self.instances),
            positions=dict(self.positions),
            lanes=tuple(self._lane(lane, local) for _, lane in sorted(self.lanes.items()) if lane.rows),
            welcomes=max(self.welcomes, default=0),
        )

    def _lane(self, lane: Lane, local: Any) -> RestoredLane:
        births: list[tuple[int, int]] = []
        marks: list[tuple[int, int, str]] = []
        for seq, (_, at, welcome) in sorted(lane.rows.items()):
            if births and abs(at - births[-1][1]) <= _BIRTH_GRAIN:
                births[-1] = (seq, births[-1][1])
            else:
                births.append((seq, at))
            first = self.welcomes.get(welcome)
            if first is None:
                continue
            since = max(at, first[0])
            if marks and marks[-1][2] == first[1] and abs(since - marks[-1][1]) <= _MARK_GRAIN:
                marks[-1] = (seq, marks[-1][1], first[1])
            else:
                marks.append((seq, since, first[1]))
        return RestoredLane(
            lane.producer,
            lane.stream,
            min(lane.rows),
            [lane.rows[seq][0] for seq in sorted(lane.rows)],
            tuple((seq, local(at)) for seq, at in births),
            tuple(Mark(seq, local(at), incarnation) for seq, at, incarnation in marks),
        )


def read(path: str) -> Contents:
    """Read and check a file and the log beside it; the caller holds the lock. What is wrong is in ``missing``."""
    contents = Contents()
    log = _log(path)
    contents.lost_commits = log.lost_commits
    try:
        connection = files.connect_reading(path)
    except sqlite3.Error as error:
        contents.missing.append(f"the file cannot be opened ({error})")
        return contents
    try:
        _check_pages(connection, contents)
        for table in TABLES:
            _read_table(connection, table, contents)
    finally:
        connection.close()
    _check_whole(contents)
    return contents


def _log(path: str) -> Scan:
    try:
        with open(path + "-wal", "rb") as file:
            return scan(file.read())
    except FileNotFoundError:
        return Scan(0, 0, 0)


def _check_pages(connection: sqlite3.Connection, contents: Contents) -> None:
    try:
        said = [row[0] for row in connection.execute("PRAGMA integrity_check(8)")]
    except sqlite3.Error as error:
        said = [str(error).encode()]
    said = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in said]
    contents.missing += [f"SQLite: {text}" for text in said if text != "ok"]


def _read_table(connection: sqlite3.Connection, table: str, contents: Contents) -> None:
    take = _TAKERS[table]
    try:
        for row in connection.execute(f"SELECT * FROM {table}"):
            take(contents, row)
    except sqlite3.Error as error:
        contents.missing.append(f"table {table} cannot be read to its end ({error})")


def _small(contents: Contents, table: str, row: Row) -> Row | None:
    """Return a small row as text and numbers, None where it is damaged."""
    try:
        plain = tuple(value.decode() if isinstance(value, bytes) else value for value in row)
    except UnicodeDecodeError:
        plain = ()
    if plain and is_whole(plain):
        return plain
    contents.missing.append(f"a row of {table} is damaged")
    return None


def _take_meta(contents: Contents, row: Row) -> None:
    found = _small(contents, "meta", row)
    if found is None:
        return
    contents.meta[found[0]] = found[1]
    if found[0] == "identity" and found[1]:
        said = json.loads(found[1])
        contents.identity = Identity(said["session"], said["token"], said["generation"])


def _take_lane(contents: Contents, row: Row) -> None:
    found = _small(contents, "lane", row)
    if found is not None:
        contents.lanes[found[0]] = Lane(*found[:4])


def _take_message(contents: Contents, row: Row) -> None:
    item, key = message_of(row), row[0]
    lane = contents.lanes.get(key >> SEQ_BITS)
    seq = key & ((1 << SEQ_BITS) - 1)
    if lane is None:
        contents.missing.append(f"a message (seq {seq}) belongs to no stream")
    elif item is None:
        contents.missing.append(f"message {seq} of stream {lane.stream!r} is damaged")
    elif seq < lane.first:
        contents.missing.append(f"message {seq} of stream {lane.stream!r} was settled already")
    else:
        lane.rows[seq] = (item, row[3], row[4])


def _take_position(contents: Contents, row: Row) -> None:
    found = _small(contents, "position", row)
    if found is not None:
        stream, epoch, offset, crc, cursor, _ = found
        contents.positions[stream] = Handled(stream, Position(epoch, offset), crc, cursor)


def _take_instance(contents: Contents, row: Row) -> None:
    found = _small(contents, "instance", row)
    if found is not None:
        contents.instances.append(found[1])


def _take_welcome(contents: Contents, row: Row) -> None:
    found = _small(contents, "welcome", row)
    if found is not None:
        contents.welcomes[found[0]] = (found[1], found[2])


_TAKERS = {
    "meta": _take_meta,
    "lane": _take_lane,
    "message": _take_message,
    "position": _take_position,
    "instance": _take_instance,
    "welcome": _take_welcome,
}


def _check_whole(contents: Contents) -> None:
    """What no single row can say: messages that are not there, and positions."""
    for lane in contents.lanes.values():
        gone = _fill(lane)
        if gone:
            contents.missing.append(f"messages {_ranges(gone)} of stream {lane.stream!r} are gone")
    said = contents.meta.get("streams")
    if said is None:
        contents.missing.append("the number of positions is gone")
    elif int(said) != len(contents.positions):
        contents.missing.append(f"{said} positions were kept, {len(contents.positions)} are there")


def _fill(lane: Lane) -> list[int]:
    """Put ``LOST`` where a message is not there: a hole in the numbers would hold up what follows."""
    if not lane.rows:
        return []
    gone = [seq for seq in range(lane.first, max(lane.rows) + 1) if seq not in lane.rows]
    at = min(row[1] for row in lane.rows.values())
    for seq in gone:
        lane.rows[seq] = (LOST, at, 0)
    return gone


def _ranges(numbers: list[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} ({len(numbers)} of them)"


def rows_of(contents: Contents) -> Iterator[tuple[Lane, int, Payload | Void, int]]:
    """Yield every message: (lane, seq, item, at)."""
    for _, lane in sorted(contents.lanes.items()):
        for seq, (item, at, _) in sorted(lane.rows.items()):
            yield lane, seq, item, at


def file_size(path: str) -> int:
    """Return the bytes of the file and of its log."""
    return sum(os.path.getsize(name) for name in (path, path + "-wal") if os.path.exists(name))
