"""
The demonstration: load and faults, heal, wait until nothing moves, final read, verdict.

Here live the order of a run and what makes it prove something. What is shown meanwhile is in ``display.py``.
"""

from __future__ import annotations

import logging
import pathlib
import shlex
import threading
import time
import typing
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from server_fixture import checker, commands, history, second_checker
from server_fixture.balancer import Affinity
from server_fixture.chaos import Nemesis
from server_fixture.cluster import Cluster
from server_fixture.faults import CHOICES, Choice
from server_fixture.recorder import Recorder, Spread, Tally
from server_fixture.workload import Workload

ENOUGH_FAULTS = 0.6
"""Part of the faults that the schedule would have, without which a run proves nothing."""
ENOUGH_MESSAGES = 50
"""Messages of every session in each of its directions, without which a run proves nothing."""
DRAIN = 3.0
"""Seconds that the clients of a draining node get: where there is no other node they stay for all of them."""
EXIT_CODES = {"ok": 0, "anomaly": 1, "inconclusive": 2}
_FRAME = 0.25

Show = Callable[["Run"], None]


@attrs.frozen(kw_only=True)
class Options:
    """
    What a run is asked for; ``sessions`` are a publisher and one subscriber of each kind at least.

    Attributes:
        fault: One of :data:`server_fixture.faults.CHOICES`.
        fault_every: Seconds between two faults on average; None: as suits the kind.
        commands: As those of a :class:`Cluster`. A run with some proves nothing where one of its nodes served nobody.
        balancer, affinity: As those of a :class:`Cluster`.
    """

    nodes: int = attrs.field(default=3, validator=attrs.validators.ge(1))
    seconds: float = attrs.field(default=20.0, validator=attrs.validators.gt(0))
    fault: str = attrs.field(default="kill", validator=attrs.validators.in_(CHOICES))
    fault_every: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))
    seed: int
    sessions: int = attrs.field(default=6, validator=attrs.validators.ge(3))
    replay: bool = True
    commands: Mapping[int, tuple[str, ...]] = attrs.field(factory=dict)
    balancer: typing.Literal["embedded"] | None = None
    affinity: Affinity = "none"

    @property
    def choice(self) -> Choice:
        """The kinds of faults that come."""
        return CHOICES[self.fault]

    @property
    def every(self) -> float:
        """Seconds between two faults, on average."""
        return self.choice.every if self.fault_every is None else self.fault_every

    @property
    def command(self) -> str:
        """The line that runs the same schedule again."""
        pace = f"--kill-every {self.every:g}"
        if self.fault != "kill":
            pace = f"--fault {self.fault} --fault-every {self.every:g}"
        flags = f"--nodes {self.nodes} --seconds {self.seconds:g} {pace} --seed {self.seed}"
        rest = "" if self.replay else " --no-replay"
        if self.balancer is not None:
            rest += f" --balancer {self.balancer} --affinity {self.affinity}"
        for number, command in self.commands.items():
            rest += f" --node-command {shlex.quote(commands.written(number, command))}"
        return f"python -m server_fixture demo {flags} --sessions {self.sessions}{rest}"


@attrs.define(eq=False)
class Run:
    """A run and what is known of it so far."""

    options: Options
    cluster: Cluster
    recorder: Recorder
    nemesis: Nemesis
    workload: Workload
    started_at: float
    phase: str = "load"


@attrs.frozen(kw_only=True)
class Outcome:
    """
    How a run ended.

    Attributes:
        verdict: ``ok``, ``anomaly`` or ``inconclusive``.
        reasons: Why, where it is not ``ok``.
        report: The keys that ``--json`` writes.
        apart: Recoveries from the kills that left no node alive.
        judged: What the checker found, None where there was nothing to judge.
        judged_again: What the second checker found in the same history.
    """

    verdict: typing.Literal["ok", "anomaly", "inconclusive"]
    reasons: tuple[str, ...]
    report: dict[str, Any]
    apart: Spread
    judged: checker.Verdict | None
    judged_again: second_checker.Verdict | None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def run_demo(options: Options, show: Show) -> tuple[Outcome, pathlib.Path | None]:
    """
    Run it.

    Args:
        options: What is asked for.
        show: Called some times a second with the run.

    Returns:
        The outcome, and where logs and history were kept (None where all went as it should).

    Raises:
        ChildFailed: A node or the store ended by itself.
    """
    with _cluster(options) as cluster, _quiet_log(cluster.directory):
        recorder = Recorder()
        nemesis = _nemesis(options, cluster, recorder)
        workload = Workload(cluster, recorder, options.sessions, is_forgetful=not options.replay)
        run = Run(options, cluster, recorder, nemesis, workload, time.monotonic())
        try:
            broken = load_and_heal(run, show)
        finally:
            workload.close()
        try:
            reads = workload.final_reads()
        except ConnectionError:
            reads = []
        outcome = judge(run, broken, reads)
        if outcome.verdict != "anomaly" or not options.replay:
            return outcome, None
        cluster.keep_logs = True
        with (cluster.directory / "history.jsonl").open("w", encoding="utf-8") as file:
            recorder.history.dump(file)
        return outcome, cluster.directory


def _cluster(options: Options) -> Cluster:
    return Cluster(
        options.nodes,
        flags={"drain": DRAIN},
        commands=options.commands,
        balancer=options.balancer,
        affinity=options.affinity,
        links=options.choice.needs_links,
    )


def _nemesis(options: Options, cluster: Cluster, recorder: Recorder) -> Nemesis:
    return Nemesis(
        cluster,
        recorder.record,
        options.seed,
        options.every,
        on_strike=recorder.struck,
        faults=options.choice.faults,
        on_passed=recorder.passed,
        is_peopled=None if options.fault == "kill" else recorder.is_peopled,  # seeds of kills are to stay as they are
    )


def load_and_heal(run: Run, show: Show) -> list[str]:
    """Run load and faults, heal, and wait; returns who ended by himself or gives no answer, and what is missing."""
    workload, nemesis = run.workload, run.nemesis
    workload.start()
    run.started_at = time.monotonic()
    nemesis.start()
    pause, ends_at = threading.Event(), run.started_at + run.options.seconds
    try:
        while time.monotonic() < ends_at and nemesis.error is None and not workload.failures():
            show(run)
            pause.wait(min(_FRAME, max(0.0, ends_at - time.monotonic())))
    finally:
        run.phase = "heal"
        show(run)
        nemesis.stop()
    run.phase = "quiesce"
    show(run)
    missing = [] if workload.failures() else run.cluster.silent() + workload.quiesce()
    run.phase = "done"
    show(run)
    return workload.failures() + ([] if workload.is_forgetful else missing)


class _quiet_log:  # noqa: N801
    """Send what the client logs into a file beside the nodes' logs: it would tear the table."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._handler = logging.FileHandler(directory / "clients.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(message)s"))
        self._log = logging.getLogger("resilient_ws")

    def __enter__(self) -> None:
        self._was = self._log.propagate, self._log.level
        self._log.addHandler(self._handler)
        self._log.propagate = False
        self._log.setLevel(logging.INFO)

    def __exit__(self, *error: object) -> None:
        self._log.removeHandler(self._handler)
        self._log.propagate, level = self._was
        self._log.setLevel(level)
        self._handler.close()


# -- the verdict ------------------------------------------------------------------------------------------------------


def judge(run: Run, broken: list[str], final_reads: list[history.FinalRead]) -> Outcome:
    """
    Say whether the promises were kept, and whether the run could have shown that they were not.

    Args:
        run: What was recorded.
        broken: Which sessions ended by themselves, and what was still missing when the time was over.
        final_reads: What the store holds.
    """
    judged = judged_again = None
    for read in final_reads:
        run.recorder.record(read)
    read_streams = {read.stream for read in final_reads}
    if set(run.workload.feeds) <= read_streams:
        judged = checker.check(run.recorder.history)
        judged_again = second_checker.check(run.recorder.history)
    anomalies = disagreement(judged, judged_again)
    anomalies += [] if judged is None else [anomaly.text for anomaly in judged.anomalies]
    anomalies += broken
    doubts = doubts_of(run, judged)
    verdict: typing.Literal["ok", "anomaly", "inconclusive"]
    verdict = "anomaly" if anomalies else "inconclusive" if doubts else "ok"
    reasons = anomalies or doubts
    return Outcome(
        verdict=verdict,
        reasons=tuple(reasons),
        report=_report(run, judged, verdict),
        apart=run.recorder.spread(run.recorder.recoveries, was_left=False),
        judged=judged,
        judged_again=judged_again,
    )


def disagreement(first: checker.Verdict | None, second: second_checker.Verdict | None) -> list[str]:
    """Say what each checker found, if one calls the same history whole and the other one does not."""
    if first is None or second is None or (first.value == "ok") == second.is_whole:
        return []
    lines = ["the two checkers disagree, so one of them is wrong. The first says", *first.report(5).splitlines()]
    return ["\n    ".join([*lines, "and the second says", *second.report(5).splitlines()])]


def doubts_of(run: Run, judged: checker.Verdict | None) -> list[str]:
    """Say why a run without anomaly would prove nothing."""
    doubts, tallies = [], list(run.recorder.tallies.values())
    asked, count = run.options.seconds / run.options.every, len(run.nemesis.strikes)
    if judged is None:
        doubts.append("there was no final read of every stream")
    if count < ENOUGH_FAULTS * asked:
        doubts.append(f"{count} {run.options.choice.noun}s of about {asked:g}")
    doubts += _harmless(run)
    doubts += [f"{tally.process} was never cut" for tally in tallies if tally.cuts == 0]
    if run.recorder.total("resumed") == 0:
        doubts.append("no session resumed")
    doubts += _unused(run)
    for tally in tallies:
        doubts += [
            f"{tally.process} has {count} messages {direction}, under {ENOUGH_MESSAGES}"
            for direction, count in counts_of(tally).items()
            if count < ENOUGH_MESSAGES
        ]
    return doubts


def _harmless(run: Run) -> list[str]:
    """Say which kinds of faults did nothing to anybody."""
    doubts = []
    for kind in run.options.choice.kinds:
        count = run.nemesis.count(kind)
        if not count:
            doubts.append(f"there was no {kind}")
        elif not run.recorder.recovered(kind):
            doubts.append(f"no session had to recover from a {kind}, of which there were {count}")
    return doubts


def _unused(run: Run) -> list[str]:
    """Say which nodes of a mixed run nobody came to, or came back to."""
    doubts = []
    for node in run.cluster.nodes if run.options.commands else ():
        who = f"{node.name} ({commands.shown(node.command)})"
        if run.recorder.welcomes[node.name] == 0:
            doubts.append(f"{who} welcomed nobody")
        elif run.recorder.resumes[node.name] == 0:
            doubts.append(f"no session resumed at {who}")
    return doubts


def counts_of(tally: Tally) -> dict[str, int]:
    """Return how many messages a session has in each of the directions in which it is meant to have some."""
    counts = {}
    if tally.sends:
        counts["client_to_server"] = tally.committed
    if tally.receives:
        counts["server_to_client"] = tally.delivered
    return counts


def _served(run: Run) -> dict[str, Any]:
    """Say what each node of a mixed run is and did; nothing of a run of the reference server alone."""
    if not run.options.commands:
        return {}
    counts = run.recorder
    return {
        "served": {
            node.name: {
                "command": commands.shown(node.command),
                "welcomes": counts.welcomes[node.name],
                "resumed": counts.resumes[node.name],
            }
            for node in run.cluster.nodes
        }
    }


def _report(run: Run, judged: checker.Verdict | None, verdict: str) -> dict[str, Any]:
    recorder, found = run.recorder, {} if judged is None else dict(judged.counts)
    return {
        "nodes": run.options.nodes,
        "sessions": len(recorder.tallies),
        "seed": run.options.seed,
        "kills": run.nemesis.count("kill"),
        "faults": _faults(run),
        "reconnects": recorder.total("reconnects"),
        "resumed": recorder.total("resumed"),
        "sent": recorder.total("sent"),
        "delivered": recorder.total("delivered"),
        "per_direction": {
            "client_to_server": {
                "sent": recorder.total("sent"),
                "committed": recorder.total("committed"),
                "false_receipts": found.get("false_receipt", 0),
            },
            "server_to_client": {
                "delivered": recorder.total("delivered"),
                "gaps_reported": recorder.total("gaps"),
                "gaps_over_existing": found.get("gap_over_existing", 0),
            },
        },
        "lost": found.get("lost", 0),
        "duplicated": found.get("duplicated", 0),
        "reordered": found.get("reordered", 0),
        "phantom": found.get("phantom", 0),
        "unreported_gaps": found.get("unreported_gap", 0),
        "recovery_ms": _milliseconds(recorder.spread(recorder.recoveries)),
        "recovery_to_message_ms": _milliseconds(recorder.spread(recorder.to_message)),
        **_served(run),
        **({} if run.options.balancer is None else {"affinity": run.options.affinity}),
        "verdict": verdict,
    }


def _faults(run: Run) -> dict[str, Any]:
    """Say how often each kind of fault came, and what it did."""
    recorder, kinds = run.recorder, run.options.choice.kinds
    recoveries = {kind: recorder.recovered(kind) for kind in kinds}
    return {
        kind: {
            "count": run.nemesis.count(kind),
            "recoveries": len(recoveries[kind]),
            "recovery_ms": _milliseconds(recorder.spread(recoveries[kind])),
        }
        for kind in kinds
    }


def _milliseconds(spread: Spread) -> dict[str, float | None]:
    return {"p50": spread.p50, "p99": spread.p99, "max": spread.max}
