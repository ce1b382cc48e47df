"""
``python -m resilient_ws.journal show|verify|export FILE``: look at a journal that nobody has open.

Nothing is changed, no file is made, and the resume token is never shown. Status 0: whole; 1: damaged; 2: unusable.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from resilient_ws.exceptions import JournalError, JournalRefused
from resilient_ws.frames import Payload
from resilient_ws.journal import layout, places, reading
from resilient_ws.journal.contents import Backlog, Found
from resilient_ws.records import Void

WHOLE, DAMAGED, UNUSABLE = range(3)


def look(path: str) -> Found:
    """
    Read a journal without a trace.

    Raises:
        JournalLocked: Somebody has it open.
        JournalRefused: There is none, or it is none, or not ours.
    """
    found = places.check(path, to_write=False)
    lock = places.Lock(path, is_reader=True)
    try:
        lost = places.is_lost(path)
        if lost is None and (found is None or found.st_size == 0):
            what = "there is no such file" if found is None else "the file is empty: opening it begins a new journal"
            raise JournalRefused(f"journal {path}: {what}")
        read = reading.read(path)
    finally:
        lock.release()
    if lost is not None:
        read.missing.insert(0, lost)
    if places.is_replacing(path):
        read.notes.append("it was damaged, and its recovery was broken off: the next opening completes it")
    return read


# -- show -------------------------------------------------------------------------------------------------------------


def show(path: str, found: Found) -> Iterator[str]:
    """Yield lines that say what there is."""
    contents = found.contents
    size = sum(os.path.getsize(name) for name in (path, path + "-wal") if os.path.exists(name))
    identity = contents.identity
    session = "none" if identity is None else f"{identity[1].session}, generation {identity[1].generation}"
    yield f"file:      {path}, format {layout.FORMAT}, sync {contents.sync}, {size} bytes"
    yield f"session:   {session}"
    yield f"openings:  {len(contents.instances)} known, {contents.welcomes} welcomes"
    yield f"kept:      {found.kept}"
    for backlog in found.backlogs:
        if backlog.items:
            yield f"stream:    {_lane(backlog)}"
    for stream, (_, kept) in sorted(contents.positions.items()):
        yield f"position:  {stream!r} at {kept.position.epoch}:{kept.position.offset}"


def _lane(backlog: Backlog) -> str:
    lane = backlog.lane
    messages, size = backlog.size
    withdrawn = len(backlog.items) - messages
    age = max(0.0, time.time() - min(at for _, at, _ in backlog.births) / 1000)
    more = f" and {withdrawn} withdrawn" if withdrawn else ""
    return (
        f"{lane.stream!r} of producer {lane.producer[:8]}: {lane.first} to {lane.next - 1}, {messages} messages{more}, "
        f"{size} bytes, the oldest {age:.0f} s old"
    )


# -- verify -----------------------------------------------------------------------------------------------------------


def verify(path: str, found: Found) -> Iterator[str]:
    """Yield lines that say whether it is whole."""
    yield f"{path}: {'damaged' if found.missing else 'whole'}"
    yield f"kept:    {found.kept}"
    for what in found.missing:
        yield f"missing: {what}"


# -- export -----------------------------------------------------------------------------------------------------------


def export(path: str, found: Found) -> Iterator[str]:
    """Yield a line of JSON for every message and every position that can be read."""
    for backlog in found.backlogs:
        births = iter(backlog.births)
        upto = at = 0
        for seq, item in enumerate(backlog.items, backlog.lane.first):
            if seq > upto:
                upto, at, _ = next(births)
            yield json.dumps(_message(backlog, seq, item, at))
    for stream, (_, kept) in sorted(found.contents.positions.items()):
        place = {"epoch": kept.position.epoch, "offset": kept.position.offset, "crc": kept.crc, "cursor": kept.cursor}
        yield json.dumps({"type": "position", "stream": stream, **place})


def _message(backlog: Backlog, seq: int, item: Payload | Void, at: int) -> dict[str, Any]:
    born = datetime.datetime.fromtimestamp(at / 1000, datetime.timezone.utc).isoformat(timespec="milliseconds")
    lane = backlog.lane
    line: dict[str, Any] = {"type": "message", "producer": lane.producer, "stream": lane.stream, "seq": seq, "at": born}
    if isinstance(item, Void):
        return {**line, "type": "withdrawn", "code": item.code}
    if isinstance(item, str):
        return {**line, "text": item}
    return {**line, "base64": base64.b64encode(item).decode()}


# -- the command ------------------------------------------------------------------------------------------------------

COMMANDS = {
    "show": (show, "say what it keeps; no payload, no token"),
    "verify": (verify, "check every byte that matters"),
    "export": (export, "write every readable message and position as a line of JSON; damage is told on stderr"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m resilient_ws.journal", description="Look at a journal.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, what) in COMMANDS.items():
        commands.add_parser(name, help=what, description=what).add_argument("file", help="the journal")
    chosen = parser.parse_args(arguments)
    try:
        found = look(chosen.file)
    except (JournalError, OSError) as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    for line in COMMANDS[chosen.command][0](chosen.file, found):
        print(line)
    if chosen.command != "verify":
        for what in found.missing:
            print(f"missing: {what}", file=sys.stderr)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    return DAMAGED if found.missing else WHOLE


if __name__ == "__main__":
    sys.exit(main())
