"""The golden transcripts of docs/transcripts, line by line through the codecs of both roles."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from transcripts import FOLDER, Line, Transcript, load, load_all

from resilient_ws import frames as f
from resilient_ws.dialects import Codec, Wire
from resilient_ws.dialects.native import Native
from resilient_ws.dialects.native_control import CLIENT, SERVER
from resilient_ws.exceptions import RemoteProtocolError

TRANSCRIPTS = load_all()
MESSAGES = [
    pytest.param(line, id=f"{transcript.name}-{line.number}")
    for transcript in TRANSCRIPTS
    for line in transcript.lines
    if line.wire is not None
]
each = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)


def codecs(line: Line) -> tuple[Codec, Codec]:
    """Return the receiver's codec and the sender's."""
    client, server = Native().client(), Native().server()
    return (server, client) if line.sender == "client" else (client, server)


def corrupted(wire: Wire) -> Wire:
    """Break a message where nothing may be different: control frames at their end, data in its number."""
    if isinstance(wire, str):
        return wire[:-1] if wire.startswith("{") else wire.replace(":", ":0", 1)
    return wire.replace(b":", b":0", 1)


def test_there_are_transcripts() -> None:
    """The folder is found, so that the parametrised tests below are about something."""
    assert {transcript.name for transcript in TRANSCRIPTS} >= {
        "auth", "batches", "compaction", "drain", "epoch", "first", "lost_welcome", "ping", "reject", "resume",
        "rewritten", "session_lost", "standby", "subscribe", "taken_over", "trimmed", "violation",
    }  # fmt: skip
    assert len(MESSAGES) > 100


@pytest.mark.parametrize("line", MESSAGES)
def test_a_line_is_read_by_its_receiver_and_written_the_same(line: Line) -> None:
    """The receiver's role decodes the message; the sender's role encodes what was read to the same bytes."""
    receiver, sender = codecs(line)
    assert line.wire is not None
    items = receiver.decode([line.wire])
    assert len(items) == 1
    assert sender.encode(items) == [line.wire]


@pytest.mark.parametrize("line", MESSAGES)
def test_a_corrupted_line_is_refused(line: Line) -> None:
    """The negative control of the test above: the same message with one character changed is a protocol error."""
    receiver, _ = codecs(line)
    assert line.wire is not None
    with pytest.raises(RemoteProtocolError):
        receiver.decode([corrupted(line.wire)])


def test_every_frame_is_in_some_transcript() -> None:
    """A frame type that no transcript shows would not be tested between implementations."""
    shown: dict[str, set[str]] = {"client": set(), "server": set()}
    for transcript in TRANSCRIPTS:
        for line in transcript.lines:
            if isinstance(line.wire, str) and line.wire.startswith("{"):
                shown[line.sender].add(json.loads(line.wire)["type"])
    assert set(CLIENT) - shown["client"] == set()
    assert set(SERVER) - shown["server"] == set()


@each
def test_a_transcript_keeps_its_own_order(transcript: Transcript) -> None:
    """Time never goes back, nothing follows the end of a connection, and a client's first word is hello."""
    assert transcript.about
    closed: set[int] = set()
    begun: set[int] = set()
    at = 0.0
    for line in transcript.lines:
        if line.conn not in begun and line.wire is not None:
            assert line.sender == "client"
            assert isinstance(codecs(line)[0].decode([line.wire])[0], f.Hello)
            begun.add(line.conn)
        assert line.at >= at
        assert line.conn not in closed
        at = line.at
        if line.close is not None:
            closed.add(line.conn)


@each
def test_tokens_and_marks_are_true(transcript: Transcript) -> None:
    """Every welcome carries the MAC of its own session and generation under the transcripts' key."""
    for line in transcript.lines:
        if line.sender != "server" or line.wire is None:
            continue
        (item,) = codecs(line)[0].decode([line.wire])
        if isinstance(item, f.Welcome):
            signed = f"resilient.v1 resume token:{item.session}.{item.generation}".encode()
            mac = hmac.new(b"transcripts", signed, hashlib.sha256).hexdigest()
            assert item.token == f"v1.{item.session}.{item.generation}.{mac}"


@pytest.mark.parametrize(
    "text",
    [
        '{"at":0}',
        '{"about":"x"}\n{"at":0,"conn":1}',
        '{"about":"x"}\n{"at":0,"conn":1,"from":"moon","text":"t:1:x"}',
        '{"about":"x"}\n{"at":0,"conn":1,"from":"client"}',
        '{"about":"x"}\n{"at":0,"conn":1,"from":"client","text":"t:1:x","base64":"AA=="}',
        '{"about":"x"}\n{"at":0,"conn":1,"from":"client","base64":"%"}',
        '{"about":"x"}\n{"at":0,"conn":1,"from":"client","close":1000}',
    ],
)
def test_a_file_that_is_no_transcript_is_refused(tmp_path: Path, text: str) -> None:
    """The loader does not skip what it does not understand."""
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError):
        load(path)


def test_a_good_file_is_loaded(tmp_path: Path) -> None:
    """The negative control of the test above, and the folder is the documented one."""
    path = tmp_path / "good.jsonl"
    path.write_text('{"about":"x"}\n{"at":0.5,"conn":1,"from":"network","close":1006,"reason":""}')
    assert load(path).lines == (Line(number=2, at=0.5, conn=1, sender="network", close=(1006, "")),)
    assert FOLDER.parts[-2:] == ("docs", "transcripts")
