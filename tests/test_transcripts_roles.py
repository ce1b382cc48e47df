"""The golden transcripts against the two roles themselves: what they read leads to what they write."""

from __future__ import annotations

import attrs
import pytest
from transcript_client import NEVER_SAID, ClientPlayer
from transcript_server import ServerPlayer
from transcripts import Line, Transcript, load_all

TRANSCRIPTS = load_all()
NOT_OF_THIS_SERVER = {
    "auth": "token_expires and revoked come from an operator's policy",
    "compaction": "the reference store gives every number, so it never skips one",
    "drain": "its spread is a setting of the node, the same in welcome and drain",
    "ping": "a frame is swallowed between node and client",
    "reject": "the refusal is a policy's own, by size and stream",
    "subscribe": "the node ends a subscription at once, the transcript shows data that was already under way",
    "violation": "a server that breaks a rule",
}
"""What the reference server cannot be compared on, with the reason."""
SERVED = [transcript for transcript in TRANSCRIPTS if transcript.name not in NOT_OF_THIS_SERVER]
each = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)


def client_lines(transcript: Transcript) -> list[Line]:
    """Return what clients say or do in a transcript."""
    return [line for line in transcript.lines if line.sender == "client"]


@each
def test_the_client_says_what_the_transcript_says(transcript: Transcript) -> None:
    """Fed with the server's lines, a real Session writes every line of its client, but for what is listed."""
    player = ClientPlayer(transcript)
    player.play()
    others = sum(1 for line in client_lines(transcript) if line.conn in player.others)
    assert player.compared + len(player.skipped) + others == len(client_lines(transcript))
    assert player.compared > 0


def test_nearly_every_line_is_compared() -> None:
    """What is not compared is one auth, one error, a stranger's two lines and a ghost's hello."""
    players = [ClientPlayer(transcript) for transcript in TRANSCRIPTS]
    for player in players:
        player.play()
    assert {kind for player in players for kind in player.skipped} == set(NEVER_SAID)
    total = sum(len(client_lines(transcript)) for transcript in TRANSCRIPTS)
    assert total - sum(player.compared for player in players) == 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("first", '"generation":1}', '"generation":2}'),
        ("resume", '"offset":103', '"offset":102'),
        ("resume", "orders:4:", "orders:5:"),
        ("trimmed", ",62]]", ",61]]"),
        ("subscribe", '"stream":"secret","id":3', '"stream":"secret","id":4'),
    ],
)
def test_a_line_that_is_not_what_the_client_says_is_found(name: str, old: str, new: str) -> None:
    """The negative control: one number changed in a client's line, and it is no longer what the client writes."""
    (transcript,) = [transcript for transcript in TRANSCRIPTS if transcript.name == name]
    changed = [
        attrs.evolve(line, wire=line.wire.replace(old, new))
        if line.sender == "client" and isinstance(line.wire, str)
        else line
        for line in transcript.lines
    ]
    assert changed != list(transcript.lines)
    player = ClientPlayer(transcript)
    player.lines = tuple(changed)
    with pytest.raises(AssertionError):
        player.play()


@pytest.mark.parametrize("transcript", SERVED, ids=lambda transcript: transcript.name)
def test_the_server_says_what_the_transcript_says(transcript: Transcript) -> None:
    """Fed with the clients' lines, a real ServerSession over a store in that state answers every line, in order."""
    player = ServerPlayer(transcript)
    player.play()
    unseen = sum(1 for line in transcript.lines if line.sender == "server" and line.conn not in player.servers)
    assert player.compared + unseen == sum(1 for line in transcript.lines if line.sender == "server")
    assert player.compared > 0


def test_every_transcript_is_served_or_has_a_reason() -> None:
    """A reason is for a transcript that exists, and most transcripts need none."""
    assert {transcript.name for transcript in TRANSCRIPTS} >= set(NOT_OF_THIS_SERVER)
    assert len(SERVED) >= 10


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("resume", '"seq":3}', '"seq":2}'), ("trimmed", '"to":60', '"to":59'), ("first", '"live":100', '"live":99')],
)
def test_a_line_that_is_not_what_the_server_says_is_found(name: str, old: str, new: str) -> None:
    """The negative control: the server is played from the true transcript and compared with a changed one."""
    (transcript,) = [transcript for transcript in TRANSCRIPTS if transcript.name == name]
    player = ServerPlayer(transcript)
    changed = {
        line.number: attrs.evolve(line, wire=line.wire.replace(old, new))
        for line in transcript.lines
        if line.sender == "server" and isinstance(line.wire, str) and old in line.wire
    }
    assert changed
    expect = player._expect
    player._expect = lambda line: expect(changed.get(line.number, line))  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        player.play()
