"""``python -m resilient_ws.journal``: what it says, its exit status, and that it leaves no trace."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from journal_tools import TOKEN, Clock, P, accepted, flip, handled, journal_at, opened, rich, welcomed

from resilient_ws.journal import __main__ as command
from resilient_ws.journal import places
from resilient_ws.records import Restored, Void, Withdrawn


def snapshot(directory: Path) -> list[Any]:
    """Return everything about a directory that a look at a journal must not change."""
    found = [(directory, directory.stat().st_mtime_ns)]
    return found + [(name, name.stat().st_mtime_ns, name.read_bytes()) for name in sorted(directory.iterdir())]


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, list[str], list[str]]:
    """Run the command; returns its status, and the lines on stdout and on stderr."""
    before = snapshot(Path(arguments[-1]).parent)
    status = command.main(list(map(str, arguments)))
    assert snapshot(Path(arguments[-1]).parent) == before
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    return status, said.out.splitlines(), said.err.splitlines()


def small(path: Path) -> None:
    """Make a journal of which every line can be named; it is old as far as the wall clock goes."""
    with journal_at(path, Clock(), sync="normal") as journal:
        journal.write([welcomed(1), accepted(1, "one", b"\xff\0", "ä"), handled("in", 7)], durable=True)
        journal.write([Withdrawn(P, "s", (1,), "dropped")], durable=True)


def test_show(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what there is, never a payload, never the token."""
    small(path)
    status, out, err = run(capsys, "show", path)
    assert (status, err) == (0, [])
    assert out[0] == f"file:      {path}, format 1, sync normal, {path.stat().st_size} bytes"
    assert out[1:4] == [
        "session:   session, generation 1",
        "openings:  1 known, 1 welcomes",
        "kept:      2 messages (4 bytes) of 1 streams, 1 positions, the session",
    ]
    stream = "stream:    's' of producer aaaaaaaa: 1 to 3, 2 messages and 1 withdrawn, 4 bytes, the oldest "
    assert out[4].startswith(stream)
    assert out[5] == "position:  'in' at epoch:7"


def test_verify_a_whole_one(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0, and what it keeps."""
    small(path)
    status, out, err = run(capsys, "verify", path)
    assert (status, err) == (0, [])
    assert out == [f"{path}: whole", "kept:    2 messages (4 bytes) of 1 streams, 1 positions, the session"]


def test_export(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of JSON for each message, withdrawn ones too, and for each position; bytes as base64."""
    small(path)
    status, out, _ = run(capsys, "export", path)
    message = {"type": "message", "producer": P, "stream": "s", "at": "2023-11-14T22:13:20.000+00:00"}
    assert status == 0
    assert [json.loads(line) for line in out] == [
        {**message, "type": "withdrawn", "seq": 1, "code": "dropped"},
        {**message, "seq": 2, "base64": base64.b64encode(b"\xff\0").decode()},
        {**message, "seq": 3, "text": "ä"},
        {"type": "position", "stream": "in", "epoch": "epoch", "offset": 7, "crc": 7, "cursor": "cursor 7"},
    ]


@pytest.mark.parametrize("is_closed", [True, False])
def test_all_of_a_rich_one_comes_out(path: Path, capsys: pytest.CaptureFixture[str], *, is_closed: bool) -> None:
    """With the log of a program that was killed too, which stays where it is."""
    expected = rich(path, is_closed=is_closed)
    assert os.path.exists(f"{path}-wal") is not is_closed
    status, out, err = run(capsys, "export", path)
    assert (status, err) == (0, [])
    assert exported(out) == items_of(expected)
    assert sum('"type": "position"' in line for line in out) == len(expected.positions)


def exported(lines: list[str]) -> dict[tuple[str, int], Any]:
    """Read the messages of an export."""
    found: dict[tuple[str, int], Any] = {}
    for line in map(json.loads, lines):
        if line["type"] == "withdrawn":
            found[line["stream"], line["seq"]] = Void(line["code"])
        elif line["type"] == "message":
            found[line["stream"], line["seq"]] = line["text"] if "text" in line else base64.b64decode(line["base64"])
    return found


def items_of(known: Restored) -> dict[tuple[str, int], Any]:
    return {(lane.stream, seq): item for lane in known.lanes for seq, item in enumerate(lane.items, lane.first)}


def test_a_damaged_one(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1; what can be read comes out, and what is missing is said."""
    expected = rich(path, is_closed=True)
    flip(path, path.read_bytes().index(b"more 7"))
    missing = "stream 's' of producer aaaaaaaa: message 71 (1)"
    status, out, err = run(capsys, "export", path)
    assert status == 1
    assert exported(out) == {**items_of(expected), ("s", 71): Void("lost")}
    assert f"missing: {missing}" in err
    status, out, err = run(capsys, "verify", path)
    assert (status, out[0], err) == (1, f"{path}: damaged", [])
    assert f"missing: {missing}" in out
    status, out, err = run(capsys, "show", path)
    assert status == 1
    assert f"missing: {missing}" in err


def test_one_in_use(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2: what would be read is half of what is being written."""
    with journal_at(path):
        for name in command.COMMANDS:
            status, out, err = run(capsys, name, path)
            assert (status, out) == (2, [])
            assert "another Client has it open" in err[0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.touch(0o600), "the file is empty: opening it begins a new journal"),
        (lambda path: path.write_text("x" * 5000) and path.chmod(0o600), "it is no journal"),
        (lambda path: path.symlink_to("/dev/null"), "is a symbolic link"),
        (lambda path: path.mkdir(), "is not a plain file"),
    ],
)
def test_no_journal(path: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str) -> None:
    """Status 2, and why."""
    make(path)
    status = command.main(["verify", str(path)])
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert said in captured.err


def test_one_that_only_we_may_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It need not be writable to be looked at, as on a read-only file system; no lock is made beside it."""
    small(path)
    Path(f"{path}.lock").unlink()
    path.chmod(0o400)
    assert run(capsys, "verify", path)[0] == 0
    assert [name.name for name in path.parent.iterdir()] == ["device.db"]


def test_a_recovery_that_was_broken_off_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next opening completes it; a look does not."""
    small(path)
    copy = path.read_bytes()
    Path(f"{path}.recovered-1").write_bytes(copy)
    assert places.is_replacing(str(path))
    status, _, err = run(capsys, "show", path)
    assert status == 0
    assert err == ["note: it was damaged, and its recovery was broken off: the next opening completes it"]


def test_as_a_command(path: Path) -> None:
    """The status is that of the process; without a command it says how it is used."""
    small(path)
    call = [sys.executable, "-m", "resilient_ws.journal"]
    done = subprocess.run([*call, "verify", str(path)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: whole")
    done = subprocess.run(call, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "{show,verify,export}" in done.stderr


def test_looking_changes_nothing_for_who_opens_it_next(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a log is beside it: closing a plain connection would move that into the file."""
    expected = rich(path, is_closed=False)
    run(capsys, "export", path)
    journal = opened(path, instance="instance")
    journal.close()
    assert journal.restored == expected


def test_a_look_by_sqlite_itself_leaves_a_trace(path: Path) -> None:
    """So the comparison of before and after can fail: it moves the log into the file, and takes it away."""
    rich(path, is_closed=False)
    before = snapshot(path.parent)
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM messages").fetchall()
    connection.close()
    assert snapshot(path.parent) != before
