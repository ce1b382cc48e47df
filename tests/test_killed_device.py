"""Devices that are killed again and again: the judge on planted lives, and the run, which kills real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from server_fixture import killing
from server_fixture.killing import Options, Outcome, doubts_of, verdict_lines
from server_fixture.lives import Life, judge, number_of, payload_of, read_life, repeats_of, unconfirmed

LANE = "manual-1"
FEED_END = 6


def faultless() -> tuple[list[Life], dict[str, list[int | None]]]:
    """Make three lives in which everything is as it should be, each with what a kill may leave behind."""
    first = Life(1, "manual", "killed", {LANE: [1, 2, 3]}, {LANE: [1, 2]}, [1, 2], [1, 2])
    # 3 was in hand; its ack was on disk before the kill, or it was not: both are right.
    second = Life(2, "manual", "killed", {LANE: [4, 5]}, {LANE: [4]}, [3, 4], [3])
    third = Life(3, "manual", "closed", {LANE: []}, {LANE: []}, [4, 5, 6], [4, 5, 6], waiting=2, welcomes=1, resumes=1)
    # send() had not returned for 3 and 5: one is there, one is not, and either is right.
    return [first, second, third], {LANE: [1, 2, 3, 4]}


def found(lives: list[Life], stored: dict[str, list[int | None]]) -> str:
    """Judge them; what was found, a line each."""
    return "\n".join(judge("device", lives, stored, FEED_END))


def test_faultless_lives_are_whole() -> None:
    """What was in hand at a kill may come again, and what was being sent may be there or not."""
    lives, stored = faultless()
    assert found(lives, stored) == ""
    assert (repeats_of(lives), unconfirmed(lives, LANE, stored[LANE])) == (1, 1)


def test_an_ack_may_be_kept_that_nobody_knows_to_have_returned() -> None:
    """A kill between the ack and the note of it: the next life begins behind the message in hand."""
    lives, stored = faultless()
    lives[2].got, lives[2].acked = [5, 6], [5, 6]
    assert found(lives, stored) == ""


def test_with_automatic_acks_the_message_before_the_last_is_acked() -> None:
    """Asking for the next message acks the one before; only the last one may come again."""
    life = Life(1, "auto", "killed", got=[1, 2, 3])
    assert life.handled == 2
    assert judge("d", [life, Life(2, "auto", "closed", got=[3, 4])], {}, 4) == []
    again = judge("d", [life, Life(2, "auto", "closed", got=[2, 3, 4])], {}, 4)
    assert again == ["d: life 2: 1 acked in an earlier life and given again: 2"]


Spoil = Callable[[list[Life], list["int | None"]], Any]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lives, stored: stored.remove(2), "1 lost: 2"),
        (lambda lives, stored: stored.append(4), "1 stored more than once: 4"),
        (lambda lives, stored: stored.append(9), "1 stored and never begun: 9"),
        (lambda lives, stored: stored.reverse(), "3 stored behind a later one: 1, 2, 3"),
        (lambda lives, stored: stored.append(None), "1 stored messages are none of ours"),
        (lambda lives, stored: lives[1].got.insert(0, 2), "life 2: 1 acked in an earlier life and given again: 2"),
        (lambda lives, stored: lives[2].got.insert(0, 3), "life 3: 1 acked in an earlier life and given again: 3"),
        (lambda lives, stored: lives[1].got.pop(0), "life 2: 1 passed over: 3"),
        (lambda lives, stored: lives[2].got.remove(5), "life 3: 1 passed over: 5"),
        (lambda lives, stored: lives[2].got.insert(2, 4), "life 3: 1 given after a later one: 4"),
        (lambda lives, stored: lives[2].got.pop(), "the last message that was given is 5, of a feed that ends with 6"),
        (lambda lives, stored: lives[0].told.append("Gap: 3 to 4"), "life 1 was told Gap: 3 to 4"),
        (lambda lives, stored: setattr(lives[1], "ended", "failed"), "life 2 ended by itself"),
    ],
)
def test_every_fault_is_found(spoil: Spoil, said: str) -> None:
    """Each kind of fault, planted into faultless lives, is named with the numbers that show it."""
    lives, stored = faultless()
    spoil(lives, stored[LANE])
    assert said in found(lives, stored)


def test_a_log_is_read_as_far_as_it_was_written() -> None:
    """The last line of a killed process may be half there; it counts for nothing."""
    lines = ["waiting 2", "welcome", "resume", "begin a 7", "sent a 7", "got 3", "acked 3", "told Gap", "begin a 8"]
    life = read_life("\n".join([*lines, "sent a"]), number=4, mode="manual", ended="killed")
    assert (life.waiting, life.welcomes, life.resumes) == (2, 1, 1)
    assert (life.begun, life.sent, life.got, life.acked) == ({"a": [7, 8]}, {"a": [7]}, [3], [3])
    assert life.told == ["Gap"]
    with pytest.raises(ValueError, match="life 4: 'dance' is no line"):
        read_life("dance\n", number=4, mode="manual", ended="killed")


def test_a_message_that_is_not_whole_is_none() -> None:
    """The reader compares all of a message with what was sent, not its number only."""
    for number in (1, 7, 50):
        assert number_of(payload_of(number)) == number
        assert number_of(payload_of(number).encode()) == number
        assert number_of(payload_of(number) + "x") is None
    assert len(payload_of(50)) > 20_000
    assert [number_of(text) for text in ("", "x 1", "the end", "\xb2 ")] == [None] * 4


REPORT = {
    "asked": 8, "kills": 8, "node_kills": 1, "resumed_lives": 2, "lives_with_a_backlog": 2, "sent": 8, "consumed": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"kills": 7}, ["7 kills of 8"]),
        ({"node_kills": 0}, ["no node was killed"]),
        ({"resumed_lives": 1}, ["1 lives resumed the session of the one before, under a fourth of 8"]),
        (
            {"lives_with_a_backlog": 0},
            ["0 lives found messages without an ack in their journal, under a fourth of 8"],
        ),
        ({"sent": 7}, ["7 messages sent, under one for each of 8 kills"]),
        ({"consumed": 7}, ["7 messages consumed, under one for each of 8 kills"]),
    ],
)
def test_an_easy_run_proves_nothing(change: dict[str, int], said: list[str]) -> None:
    """Where nothing was at stake the verdict is inconclusive, and says why."""
    assert doubts_of({**REPORT, **change}) == said


def test_an_anomaly_tells_how_to_run_it_again() -> None:
    """The last words are the seed, the line that repeats the schedule, and where the journals are."""
    report: dict[str, Any] = dict.fromkeys(attrs.asdict(Options(seed=1)), 0)
    report |= {**REPORT, "seed": 7, "stored": 8, "stored_unconfirmed": 0, "repeated": 1, "seconds": 2.5}
    many = tuple(f"reason {number}" for number in range(killing.MOST_REASONS + 3))
    outcome = Outcome(verdict="anomaly", reasons=many, report=report)
    lines = verdict_lines(outcome, Options(seed=7, kills=8, sync="normal").command, Path("/kept"))
    assert outcome.exit_code == 1
    assert lines[-4:] == [
        "and 3 more",
        "verdict: anomaly (seed 7)",
        "run it again: python -m server_fixture kills --kills 8 --seed 7 --nodes 3 --sync normal",
        "journals and logs: /kept",
    ]
    assert Options(seed=1, journal=False).command.endswith(" --no-journal")


# -- the command ------------------------------------------------------------------------------------------------------


def run_kills(tmp_path: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; give its status, the numbers, and what it said."""
    argv = [sys.executable, "-m", "server_fixture", "kills", "--json", str(tmp_path / "run.json"), *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=170, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads((tmp_path / "run.json").read_text()), done.stdout


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_fifty_kills_lose_nothing(tmp_path: Path) -> None:
    """Whatever send() returned for is stored once and in order, and what was acked is never seen again."""
    status, report, said = run_kills(tmp_path, "--kills", "50", "--seed", "23")
    assert status == 0, said
    assert (report["verdict"], report["kills"]) == ("ok", 50)
    assert report["stored"] >= report["sent"] > 50
    assert said.splitlines()[-1] == "verdict: ok (seed 23)"


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_kills_without_a_journal_are_an_anomaly(tmp_path: Path) -> None:
    """The negative control: where no life knows of the one before, acked messages come again, and the run exits 1."""
    status, report, said = run_kills(tmp_path, "--kills", "8", "--seed", "23", "--no-journal")
    assert status == 1, said
    assert report["verdict"] == "anomaly"
    assert "acked in an earlier life and given again" in said
    assert "run it again: python -m server_fixture kills --kills 8 --seed 23" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--kills", "1"], "'kills' must be >= 2"), (["--nodes", "0"], "'nodes' must be >= 1")],
)
def test_bad_arguments_are_named(flags: list[str], said: str) -> None:
    """An argument that makes no run ends with status 2 and says which one it is."""
    argv = [sys.executable, "-m", "server_fixture", "kills", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
