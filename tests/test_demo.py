"""The demonstration: its verdict on planted runs, and the command itself, which kills real nodes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from server_fixture import checker, second_checker
from server_fixture.chaos import Nemesis, Strike
from server_fixture.demo import Options, Run, judge, load_and_heal
from server_fixture.display import Lines, verdict_lines
from server_fixture.faults import CHOICES
from server_fixture.history import Deliver, Effect, FinalRead
from server_fixture.recorder import Recorder, Tally

KEYS = [
    "nodes", "sessions", "seed", "kills", "faults", "reconnects", "resumed", "sent", "delivered", "per_direction",
    "lost", "duplicated", "reordered", "phantom", "unreported_gaps", "recovery_ms", "recovery_to_message_ms", "verdict",
]  # fmt: skip


def faultless(messages: int = 60, fault: str = "kill") -> tuple[Run, list[FinalRead]]:
    """Record a run of one publisher and one subscriber in which everything went well, faults and resumes included."""
    options = Options(seed=7, seconds=10.0, fault=fault, fault_every=1.0)
    kinds = options.choice.kinds
    strikes = [Strike(float(number), ("node-1",), 1, kinds[number % len(kinds)]) for number in range(10)]
    recorder = Recorder(lambda: 0.0)
    publisher = recorder.joins("publisher", sends=True, receives=False)
    subscriber = recorder.joins("subscriber", sends=False, receives=True)
    for tally in (publisher, subscriber):
        recorder.connected(tally, "node-1")
        for strike in strikes:
            recorder.struck(attrs.evolve(strike, time=0.0, nodes=(tally.node or "",)))
            recorder.cut(tally)
            recorder.connected(tally, "node-2")
            recorder.resumed(tally, "node-2")
    recorder.subscribed(subscriber, "feed", "e", 0)
    for number in range(1, messages + 1):
        recorder.sent(publisher, "p", "feed", number, f"m{number}")
        recorder.resolved(publisher, "p", "feed", number, "ok", None)
        recorder.delivered(subscriber, "feed", "e", number, f"m{number}")
    effects = tuple(Effect(number, f"text:m{number}", "p", number) for number in range(1, messages + 1))
    cluster = SimpleNamespace(nodes=[SimpleNamespace(name="node-1", is_alive=True, is_serving=True)])
    nemesis = Nemesis(cluster, recorder.record, 7)
    nemesis.strikes += strikes
    parts = {"nemesis": nemesis, "workload": SimpleNamespace(feeds=("feed",))}
    run = Run(options, recorder=recorder, cluster=cluster, started_at=0.0, **parts)  # type: ignore[arg-type]
    return run, [FinalRead(0.0, "feed", "e", 1, effects)]


def tally_of(run: Run, process: str) -> Tally:
    """Return a session's counts."""
    return run.recorder.tallies[process]


def test_faultless_run_is_ok() -> None:
    """A run in which nothing is missing, and which was hard enough, exits 0; the report has exactly its keys."""
    run, reads = faultless()
    outcome = judge(run, [], reads)
    assert (outcome.verdict, outcome.exit_code, outcome.reasons) == ("ok", 0, ())
    assert list(outcome.report) == KEYS
    assert outcome.report["recovery_ms"] == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    assert outcome.report["per_direction"]["client_to_server"]["committed"] == 60


def test_lost_message_is_an_anomaly() -> None:
    """A message that the store holds and the subscriber never got exits 1, and is counted."""
    run, reads = faultless()
    ops = [op for op in run.recorder.history if not (isinstance(op, Deliver) and op.offset == 30)]
    run.recorder.history.ops = ops
    outcome = judge(run, [], reads)
    assert (outcome.verdict, outcome.exit_code, outcome.report["lost"]) == ("anomaly", 1, 1)
    assert any("never got 30" in reason for reason in outcome.reasons)


def test_session_that_broke_is_an_anomaly() -> None:
    """A session that ended by itself, or that never became quiet, exits 1, whatever the checker finds."""
    run, reads = faultless()
    outcome = judge(run, ["subscriber ended with SessionTakenOver: taken over"], reads)
    assert (outcome.verdict, outcome.exit_code) == ("anomaly", 1)
    assert outcome.reasons == ("subscriber ended with SessionTakenOver: taken over",)


def test_second_checker_agrees() -> None:
    """The report says in one line that a second checker came to the same verdict, be it ok or an anomaly."""
    for lost in (30, 99):
        run, reads = faultless()
        run.recorder.history.ops = [op for op in run.recorder.history if getattr(op, "offset", None) != lost]
        assert "a second checker agrees" in verdict_lines(judge(run, [], reads), "again", None)
    assert "a second checker agrees" not in verdict_lines(judge(faultless()[0], [], []), "again", None)


@pytest.mark.parametrize("blind", [checker, second_checker], ids=["first", "second"])
def test_checkers_that_disagree_are_an_anomaly(blind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever checker sees nothing in a run that lost a message, it exits 1 and both verdicts are printed."""
    nothing = blind.check([])
    monkeypatch.setattr(blind, "check", lambda _: nothing)
    run, reads = faultless()
    run.recorder.history.ops = [op for op in run.recorder.history if getattr(op, "offset", None) != 30]
    outcome = judge(run, [], reads)
    assert (outcome.verdict, outcome.exit_code) == ("anomaly", 1)
    said = "\n".join(verdict_lines(outcome, "again", None))
    first, second = ("ok: lost 0", "broken") if blind is checker else ("anomaly: lost 1", "whole")
    assert re.search(f"disagree.* The first says\n *{first}(.*\n)+? *and the second says\n *{second}", said)
    assert "a second checker agrees" not in said


def few_kills(run: Run) -> None:
    del run.nemesis.strikes[5:]


def never_cut(run: Run) -> None:
    tally_of(run, "publisher").cuts = 0


def none_recovered(run: Run) -> None:
    run.recorder.recoveries.clear()


def none_resumed(run: Run) -> None:
    for tally in run.recorder.tallies.values():
        tally.resumed = 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (few_kills, "5 kills of about 10"),
        (never_cut, "publisher was never cut"),
        (none_resumed, "no session resumed"),
        (none_recovered, "no session had to recover from a kill, of which there were 10"),
    ],
)
def test_easy_run_is_inconclusive(spoil: Callable[[Run], None], said: str) -> None:
    """A run that was not hard enough exits 2 and says why."""
    run, reads = faultless()
    spoil(run)
    outcome = judge(run, [], reads)
    assert (outcome.verdict, outcome.exit_code) == ("inconclusive", 2)
    assert said in outcome.reasons


@pytest.mark.parametrize("kind", CHOICES["mixed"].kinds)
def test_fault_that_did_nothing_is_inconclusive(kind: str) -> None:
    """Each kind that was asked for has to come, and to cost somebody his connection; which one did not is said."""
    run, reads = faultless(fault="mixed")
    assert judge(run, [], reads).exit_code == 0
    run.recorder.recoveries = [recovery for recovery in run.recorder.recoveries if recovery.kind != kind]
    outcome = judge(run, [], reads)
    assert outcome.exit_code == 2
    assert outcome.reasons == (
        f"no session had to recover from a {kind}, of which there were {run.nemesis.count(kind)}",
    )
    run.nemesis.strikes[:] = [strike for strike in run.nemesis.strikes if strike.kind != kind]
    assert f"there was no {kind}" in judge(run, [], reads).reasons


def test_report_counts_faults_by_kind() -> None:
    """The numbers have how often each kind came and how many recoveries it cost, and so have the last lines."""
    run, reads = faultless(fault="mixed")
    outcome = judge(run, [], reads)
    assert outcome.report["kills"] == 2
    assert {kind: found["count"] for kind, found in outcome.report["faults"].items()} == {
        "kill": 2, "drain": 2, "pause": 2, "cut": 2, "reset": 1, "stall": 1,
    }  # fmt: skip
    assert outcome.report["faults"]["reset"]["recoveries"] == 2
    assert outcome.report["faults"]["reset"]["recovery_ms"] == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    lines = verdict_lines(outcome, "again", None)
    assert lines[0].startswith("2 kills, 2 drains, 2 pauses, 2 cuts, 1 resets, 1 stalls, ")
    assert "  from stall (2 recoveries): p50 0 ms, p99 0 ms, max 0 ms" in lines


def test_node_that_was_never_healed_is_an_anomaly() -> None:
    """Who gives no answer when everything is undone is a reason of its own, before what is missing."""
    run, _ = faultless(fault="pause")
    nobody = SimpleNamespace(start=lambda: None, failures=list, quiesce=list, is_forgetful=False, feeds=("feed",))
    run.workload = nobody  # type: ignore[assignment]
    run.nemesis = SimpleNamespace(start=lambda: None, stop=lambda: None, error=None)  # type: ignore[assignment]
    run.options = attrs.evolve(run.options, seconds=0.001)
    run.cluster = SimpleNamespace(silent=lambda: ["node-2 gives no answer: timed out"])  # type: ignore[assignment]
    assert load_and_heal(run, lambda run: None) == ["node-2 gives no answer: timed out"]


def test_short_run_is_inconclusive() -> None:
    """Under 50 messages of a session in a direction prove nothing; both directions are looked at."""
    run, reads = faultless(49)
    outcome = judge(run, [], reads)
    assert outcome.exit_code == 2
    assert outcome.reasons == (
        "publisher has 49 messages client_to_server, under 50",
        "subscriber has 49 messages server_to_client, under 50",
    )


def test_run_without_a_final_read_is_inconclusive() -> None:
    """Where the store could not be read there is no verdict on the messages."""
    outcome = judge(faultless()[0], [], [])
    assert (outcome.exit_code, outcome.judged) == (2, None)
    assert "there was no final read of every stream" in outcome.reasons


def test_anomaly_tells_how_to_run_it_again() -> None:
    """The last words on an anomaly are the seed, the line that repeats the schedule, and where the logs are."""
    run, reads = faultless()
    outcome = judge(run, ["broken"], reads)
    lines = verdict_lines(outcome, run.options.command, "/kept")
    assert lines[-3] == "verdict: anomaly (seed 7)"
    assert lines[-2] == (
        "run it again: python -m server_fixture demo --nodes 3 --seconds 10 --kill-every 1 --seed 7 --sessions 6"
    )
    assert lines[-1] == "logs and history: /kept"
    assert "--no-replay" in Options(seed=1, replay=False).command
    assert "--fault mixed --fault-every 1.5 --seed 1" in Options(seed=1, fault="mixed").command


def test_plain_lines_come_once_a_second_or_with_a_new_phase() -> None:
    """Output that is no terminal gets few lines, and one for each phase."""
    run, _ = faultless()
    written = io.StringIO()
    lines = Lines(written)
    lines.show(run)
    lines.show(run)
    run.phase = "heal"
    lines.show(run)
    assert [line.split()[2] for line in written.getvalue().splitlines()] == ["load", "heal"]


@pytest.mark.parametrize(
    ("state", "kind", "shown"),
    [
        ((True, True, False), None, "serving"),
        ((True, True, False), "stall", "stalled"),
        ((True, True, False), "cut", "serving"),
        ((True, False, False), "pause", "paused"),
        ((True, False, True), "drain", "draining"),
        ((True, False, False), "kill", "starting"),
        ((False, False, False), "kill", "down"),
    ],
)
def test_line_says_how_a_node_is(state: tuple[bool, bool, bool], kind: str | None, shown: str) -> None:
    """A fault that is in force is shown by its name where the process itself does not show it."""
    run, _ = faultless()
    is_alive, is_serving, is_draining = state
    node = SimpleNamespace(name="node-1", is_alive=is_alive, is_serving=is_serving, is_draining=is_draining)
    in_force = {} if kind is None else {"node-1": kind}
    run.nemesis = SimpleNamespace(in_force=in_force, count=lambda kind: 0)  # type: ignore[assignment]
    run.cluster = SimpleNamespace(nodes=[node])  # type: ignore[assignment]
    written = io.StringIO()
    Lines(written).show(run)
    assert f" node-1:{shown} " in written.getvalue()


# -- the command ------------------------------------------------------------------------------------------------------


def demo(tmp_path: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; give its status, the numbers, and what it said."""
    argv = [sys.executable, "-m", "server_fixture", "demo", "--json", str(tmp_path / "run.json"), *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=55, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads((tmp_path / "run.json").read_text()), done.stdout


@pytest.mark.demo
def test_demo_loses_nothing(tmp_path: Path) -> None:
    """Sessions survive the kills, and the run is hard enough to prove it."""
    status, report, said = demo(tmp_path, "--seconds", "14", "--kill-every", "1.0", "--seed", "11")
    assert status == 0, said
    assert list(report) == KEYS
    assert (report["verdict"], report["lost"], report["duplicated"], report["reordered"]) == ("ok", 0, 0, 0)
    assert report["kills"] == report["faults"]["kill"]["count"] >= 8
    assert report["resumed"] >= 6
    assert report["recovery_ms"]["p50"] > 0
    assert said.splitlines()[-1] == "verdict: ok (seed 11)"
    assert "a second checker agrees" in said.splitlines()


@pytest.mark.demo
@pytest.mark.parametrize("fault", ["pause", "cut", "drain", "mixed"])
def test_demo_survives_every_fault(tmp_path: Path, fault: str) -> None:
    """Nothing is lost and nobody is left behind, whatever is done to the nodes and what is between."""
    flags = ("--seconds", "16", "--fault", fault, "--seed", "5", "--sessions", "8")
    status, report, said = demo(tmp_path, *flags)
    assert report["verdict"] != "anomaly", said
    doubts = [line for line in said.split("a second checker agrees")[1].splitlines() if line.startswith("  ")]
    assert status == (2 if doubts else 0), said
    # Whom a fault hits, and how many a slow machine has, is chance; nothing else may be in doubt.
    assert all(re.search("was never cut|had to recover from a|s of about", doubt) for doubt in doubts), said
    assert (report["lost"], report["duplicated"], report["reordered"]) == (0, 0, 0)
    assert list(report["faults"]) == list(CHOICES[fault].kinds)
    assert sum(found["recoveries"] for found in report["faults"].values()) > 0
    assert f"--fault {fault} --fault-every {CHOICES[fault].every:g} --seed 5" in said


@pytest.mark.demo
def test_demo_without_replay_loses_messages(tmp_path: Path) -> None:
    """The negative control: where connections know nothing of each other, the same run loses messages and exits 1."""
    status, report, said = demo(tmp_path, "--seconds", "10", "--kill-every", "0.7", "--no-replay")
    assert status == 1, said
    assert (report["verdict"], report["resumed"]) == ("anomaly", 0)
    assert report["lost"] > 0
    assert "run it again: python -m server_fixture demo" in said
    assert "a second checker agrees" in said.splitlines()


@pytest.mark.demo
def test_demo_without_kills_proves_nothing(tmp_path: Path) -> None:
    """A run in which no node dies is inconclusive, with every reason named."""
    status, report, said = demo(tmp_path, "--seconds", "2", "--kill-every", "1000", "--nodes", "1")
    assert status == 2, said
    assert (report["verdict"], report["kills"], report["lost"]) == ("inconclusive", 0, 0)
    assert "silent-2 was never cut" in said


def children_of(pid: int) -> list[int]:
    """List the processes that a process started."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def is_gone(pid: int) -> bool:
    """Say whether there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("command", "sign", "status"), [("demo", b"load", 130), ("up", b"Ctrl-C ends it", 0)], ids=["demo", "up"]
)
def test_ctrl_c_ends_everything(command: str, sign: bytes, status: int) -> None:
    """Ctrl-C ends the command without a traceback, and every process that it started."""
    argv = [sys.executable, "-m", "server_fixture", command, "--nodes", "2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = b""
            while sign not in line:
                line = process.stdout.readline()
                assert line, process.stderr.read()
            children = children_of(process.pid)
            assert len(children) >= 3
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == status
            assert process.stderr.read() == b"interrupted\n"
        finally:
            process.kill()
    assert all(map(is_gone, children))


@pytest.mark.cluster
def test_terminal_gets_a_table() -> None:
    """On a terminal the run is shown as a live table of nodes and sessions."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "server_fixture", "demo", "--seconds", "1", "--kill-every", "100", "--nodes", "1"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(argv, stdout=theirs, stderr=theirs, stdin=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            pass  # the other end is closed
        finally:
            os.close(ours)
        assert process.wait(30) == 2
    for expected in (b"node-1", b"serving", b"publisher-1", b"delivered", b"verdict: inconclusive"):
        assert expected in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["demo", "--sessions", "2"], "'sessions' must be >= 3"),
        (["demo", "--nodes", "0"], "'nodes' must be >= 1"),
        (["demo", "--kill-every", "0"], "'fault_every' must be > 0"),
        (["demo", "--fault", "meteor"], "invalid choice: 'meteor'"),
        (["demo", "--seconds", "-1"], "'seconds' must be > 0"),
        (["demo", "--nodes", "many"], "invalid int value"),
        ([], "command"),
    ],
)
def test_bad_arguments_are_named(flags: list[str], said: str) -> None:
    """An argument that makes no run ends with status 2 and says which one it is."""
    argv = [sys.executable, "-m", "server_fixture", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
