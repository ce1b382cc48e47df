"""The false-positive watch: what explains a connection that was given up, and that one is found that nothing does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server_fixture.cluster import Cluster
from server_fixture.recorder import Ending, Recorder
from server_fixture.stalls import Stall
from server_fixture.watching import SILENT, Options, Outcome, conclude, verdict_lines, watch

GIVEN_UP = Ending("quiet-1", "node-1", 100.0, 1006, SILENT)


def busy() -> Recorder:
    """Record one session that sent and received."""
    recorder = Recorder(lambda: 0.0)
    tally = recorder.joins("talkative-1", sends=True, receives=True)
    tally.committed = tally.delivered = 60
    return recorder


def concluded(
    *endings: Ending,
    stalls: tuple[Stall, ...] = (),
    broken: tuple[str, ...] = (),
    recorder: Recorder | None = None,
    seconds: float = 60.0,
) -> Outcome:
    """Judge these endings."""
    options = Options(keepalive=1.0, seconds=seconds)
    return conclude(options, busy() if recorder is None else recorder, endings, stalls, broken)


def test_run_without_an_end_is_ok() -> None:
    """Where no connection ended there is nothing to explain."""
    outcome = concluded()
    assert (outcome.verdict, outcome.exit_code, outcome.reasons) == ("ok", 0, ())
    assert outcome.report["given_up"] == 0


def test_given_up_without_a_stall_is_an_anomaly() -> None:
    """A connection that was given up although everybody was awake exits 1, and is named."""
    outcome = concluded(GIVEN_UP)
    assert (outcome.verdict, outcome.exit_code, outcome.report["given_up"]) == ("anomaly", 1, 1)
    (reason,) = outcome.reasons
    assert reason.startswith("the connection of quiet-1 to node-1 ended (given up for silence), although neither")
    said = verdict_lines(outcome, "again")
    assert said[-2:] == ["verdict: anomaly", "run it again: again"]
    assert "1 connections ended, 1 of them given up, 0 explained" in said


@pytest.mark.parametrize(
    "stall",
    [
        Stall("node-1", 99.9, 1.5),
        Stall("node-1", 98.0, 1.0),
        Stall("node-1", 103.0, 4.5),
        Stall("", 99.0, 1.2),
    ],
    ids=["until the end", "shortly before", "beyond the end", "our own"],
)
def test_stall_explains(stall: Stall) -> None:
    """A loop that stood still for the deadline in the time that was judged is a reason, and the run is ok."""
    outcome = concluded(GIVEN_UP, stalls=(stall,))
    assert (outcome.verdict, outcome.report["explained"]) == ("ok", 1)
    assert f"stood still for {stall.seconds:.2f} s" in outcome.explained[0]
    assert any("stood still" in line for line in verdict_lines(outcome, "again"))


@pytest.mark.parametrize(
    "stall",
    [
        Stall("node-2", 99.9, 1.5),
        Stall("node-1", 99.9, 0.9),
        Stall("node-1", 97.0, 1.5),
        Stall("node-1", 102.0, 1.5),
    ],
    ids=["of another node", "too short", "long before", "afterwards"],
)
def test_other_stalls_explain_nothing(stall: Stall) -> None:
    """A stall elsewhere, at another time, or shorter than the silence that is borne, is no excuse."""
    assert concluded(GIVEN_UP, stalls=(stall,)).exit_code == 1


def test_any_other_end_is_an_anomaly() -> None:
    """Nothing was broken: a connection that ended for another reason than silence is never explained."""
    outcome = concluded(Ending("quiet-1", "node-1", 100.0, 1006, ""), stalls=(Stall("node-1", 99.9, 1.5),))
    assert outcome.reasons == (
        "the connection of quiet-1 to node-1 ended with 1006 '', although nothing was broken",
    )
    assert outcome.exit_code == 1


def test_what_is_missing_is_an_anomaly() -> None:
    """A session that broke, or what never arrived, exits 1 as well."""
    assert concluded(broken=("silent-2 ended",)).reasons == ("silent-2 ended",)


def test_run_that_shows_nothing_is_inconclusive() -> None:
    """Too short for any silence, or without messages: exits 2, with the reasons."""
    recorder = Recorder(lambda: 0.0)
    recorder.joins("publisher-1", sends=True, receives=False)
    outcome = concluded(seconds=3.0, recorder=recorder)
    assert outcome.exit_code == 2
    assert outcome.reasons == (
        "3 s of load, under 4: no silence could be found",
        "publisher-1 had nothing committed",
        "nothing was delivered",
    )


def test_deadline_is_what_the_clients_bear() -> None:
    """By default the client's own floor; a given timeout is that, and is in the line that runs it again."""
    assert Options().deadline == 1.0
    assert Options(timeout=0.05).deadline == 0.05
    assert Options(timeout=0.05).command.endswith("--keepalive 1 --timeout 0.05")


# -- real nodes -------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
def test_planted_timeout_is_found() -> None:
    """The negative control: clients that bear 50 ms behind a path of 100 ms give up, and no loop stalled."""
    options = Options(nodes=2, seconds=3.0, keepalive=0.3, timeout=0.05)
    with Cluster(2, keepalive=0.3, links=True) as cluster:
        for link in cluster.links:
            link.on_connect = lambda carried: carried.s2c.delay(0.1)
        outcome = watch(options, cluster, lambda line: None)
    assert outcome.exit_code == 1, outcome.report
    assert outcome.report["given_up"] > 0
    assert any("given up for silence), although neither" in reason for reason in outcome.reasons)


@pytest.mark.cluster
def test_stopped_node_explains_itself() -> None:
    """A node that is stopped in the middle of the run loses its connections, and its own log is what explains that."""
    options = Options(nodes=2, seconds=9.0, keepalive=0.3)
    with Cluster(2, keepalive=0.3) as cluster:
        node = cluster.nodes[0]
        began = threading.Event()

        def stop_for_a_while() -> None:
            began.wait(30.0)
            time.sleep(1.0)
            node.pause()
            time.sleep(4.0)
            node.resume()

        stopping = threading.Thread(target=stop_for_a_while)
        stopping.start()
        outcome = watch(options, cluster, lambda line: began.set())
        stopping.join()
    assert outcome.exit_code == 0, outcome.reasons
    assert outcome.report["explained"] == outcome.report["given_up"] > 0
    assert outcome.report["longest_stall"]["node-1"] >= 3.5


@pytest.mark.demo
def test_command_finds_nothing(tmp_path: Path) -> None:
    """A quiet run of the command ends with 0 where no loop stood still, and writes its numbers."""
    report = tmp_path / "watch.json"
    argv = [sys.executable, "-m", "server_fixture", "watch", "--seconds", "8", "--json", str(report)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(report.read_text())
    assert (said["verdict"], said["sessions"], said["given_up"] - said["explained"]) == ("ok", 12, 0)
    assert "verdict: ok" in done.stdout
