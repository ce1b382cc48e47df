"""The golden transcripts against the two roles themselves: what they read leads to what they write."""

from __future__ import annotations

import attrs
import pytest
from transcript_client import NEVER_SAID, ClientPlayer
from transcripts import Line, Transcript, load_all

TRANSCRIPTS = load_all()
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
