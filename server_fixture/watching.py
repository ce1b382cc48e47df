"""
The false-positive watch: load without faults, and every connection that ended all the same has to be explained.

Here live the run and its verdict. A connection that was given up for silence is explained by a loop that stood still
for longer than the silence that is borne: the node's, or our own process. Nothing else explains one, and nothing at all
explains any other end. Faults never live here: the demonstration has them (``demo.py``).
"""

from __future__ import annotations

import threading
import time
import typing
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from server_fixture.cluster import Cluster
from server_fixture.recorder import Ending, Recorder
from server_fixture.stalls import LONG, Pulse, Stall, read_stalls
from server_fixture.workload import Workload, patience

SILENT = "keepalive timeout"
"""Reason of a connection that either side gave up for silence."""
LINE_EVERY = 10.0
"""Seconds between two lines that say how far it is."""
MOST_REASONS = 12
_LOOK = 0.25

Show = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Options:
    """
    What a run is asked for.

    Attributes:
        sessions: With messages; there are as many more that live by pings alone.
        keepalive: Seconds of silence after which nodes and clients ping.
        timeout: Seconds of silence after a ping that a client bears; None: as the round trip lets expect.
    """

    nodes: int = attrs.field(default=3, validator=attrs.validators.ge(1))
    seconds: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    sessions: int = attrs.field(default=6, validator=attrs.validators.ge(3))
    keepalive: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    timeout: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))

    @property
    def deadline(self) -> float:
        """Seconds of silence after a ping that a client bears at least."""
        return patience(None).min_timeout if self.timeout is None else self.timeout

    @property
    def command(self) -> str:
        """The line that runs it again."""
        flags = f"--nodes {self.nodes} --seconds {self.seconds:g} --sessions {self.sessions}"
        rest = "" if self.timeout is None else f" --timeout {self.timeout:g}"
        return f"python -m server_fixture watch {flags} --keepalive {self.keepalive:g}{rest}"


@attrs.frozen(kw_only=True)
class Outcome:
    """
    How a run ended.

    Attributes:
        verdict: ``ok``, ``anomaly`` or ``inconclusive``.
        reasons: Why, where it is not ``ok``.
        explained: Connections that were given up, and the stall that explains it.
        report: The keys that ``--json`` writes.
    """

    verdict: typing.Literal["ok", "anomaly", "inconclusive"]
    reasons: tuple[str, ...]
    explained: tuple[str, ...]
    report: dict[str, Any]

    @property
    def exit_code(self) -> int:
        return {"ok": 0, "anomaly": 1, "inconclusive": 2}[self.verdict]


def run_watch(options: Options, show: Show) -> Outcome:
    """
    Run it on a cluster of its own.

    Args:
        options: What is asked for.
        show: Called every few seconds with a line that says how far it is.

    Raises:
        ChildFailed: A node or the store ended by itself.
    """
    with Cluster(options.nodes, keepalive=options.keepalive) as cluster:
        return watch(options, cluster, show)


def watch(options: Options, cluster: Cluster, show: Show) -> Outcome:
    """
    Run it on a cluster that serves.

    Args:
        options: What is asked for; its nodes and their keepalive are those of the cluster.
        cluster: Whose nodes are dialled, and whose logs are read in the end.
        show: As that of :func:`run_watch`.
    """
    recorder = Recorder()
    keepalive = patience(options.timeout)
    workload = Workload(cluster, recorder, options.sessions, quiet=options.sessions, keepalive=keepalive)
    with Pulse() as pulse:
        try:
            workload.start()
            _follow(options, recorder, workload, show)
            endings = list(recorder.endings)
            failures = workload.failures()
            missing = [] if failures else workload.quiesce()
        finally:
            workload.close()
    stalls = [*pulse.stalls, *stalls_of(cluster)]
    return conclude(options, recorder, endings, stalls, failures + missing)


def _follow(options: Options, recorder: Recorder, workload: Workload, show: Show) -> None:
    started_at = time.monotonic()
    pause, line_at, ends_at = threading.Event(), started_at, started_at + options.seconds
    while (now := time.monotonic()) < ends_at and not workload.failures():
        if now >= line_at:
            line_at += LINE_EVERY
            ended, delivered = len(recorder.endings), recorder.total("delivered")
            show(f"{now - started_at:6.1f} s  connections that ended {ended}  delivered {delivered}")
        pause.wait(min(_LOOK, max(0.0, ends_at - now)))


def stalls_of(cluster: Cluster) -> list[Stall]:
    """Read what the nodes of a cluster noted of themselves."""
    found = []
    for node in cluster.nodes:
        with node.log_path.open(encoding="utf-8", errors="replace") as log:
            found += read_stalls(node.name, log)
    return found


# -- the verdict ------------------------------------------------------------------------------------------------------


def conclude(
    options: Options, recorder: Recorder, endings: Sequence[Ending], stalls: Sequence[Stall], broken: Sequence[str]
) -> Outcome:
    """
    Say whether every connection that ended is explained, and whether the run could have shown one that is not.

    Args:
        options: What was asked for.
        recorder: What was counted.
        endings: The connections that ended while nothing was broken.
        stalls: Of the nodes and of this process.
        broken: Which sessions ended by themselves, and what was still missing when the time was over.
    """
    explained: list[str] = []
    anomalies: list[str] = []
    for ending in endings:
        stall = explanation(ending, stalls, options)
        (anomalies if stall is None else explained).append(_told(ending, stall))
    anomalies += broken
    doubts = _doubts(options, recorder)
    verdict: typing.Literal["ok", "anomaly", "inconclusive"]
    verdict = "anomaly" if anomalies else "inconclusive" if doubts else "ok"
    return Outcome(
        verdict=verdict,
        reasons=tuple(anomalies or doubts),
        explained=tuple(explained),
        report=_report(options, recorder, endings, stalls, len(explained), verdict),
    )


def explanation(ending: Ending, stalls: Sequence[Stall], options: Options) -> Stall | None:
    """
    Find the stall that made a connection look dead.

    It is of the node or of this process, at least as long as the deadline, and lies in the time that was judged: from
    the last sign of life, which is at most the interval and the deadline before the end, to the end.
    """
    if ending.reason != SILENT:
        return None
    judged_from = ending.at - options.keepalive - options.deadline - LONG
    for stall in stalls:
        is_near = stall.began_at <= ending.at and stall.ended_at >= judged_from
        if stall.who in ("", ending.node) and stall.seconds >= options.deadline and is_near:
            return stall
    return None


def _told(ending: Ending, stall: Stall | None) -> str:
    what = f"the connection of {ending.process} to {ending.node} ended"
    if ending.reason != SILENT:
        return f"{what} with {ending.code} {ending.reason!r}, although nothing was broken"
    if stall is None:
        return f"{what} (given up for silence), although neither its loop nor this process stood still for so long"
    return f"{what} (given up for silence): {stall.who or 'this process'} stood still for {stall.seconds:.2f} s"


def _doubts(options: Options, recorder: Recorder) -> list[str]:
    """Say why a run in which nothing ended would prove nothing."""
    least = 2 * (options.keepalive + options.deadline)
    doubts = []
    if options.seconds < least:
        doubts.append(f"{options.seconds:g} s of load, under {least:g}: no silence could be found")
    doubts += [
        f"{tally.process} had nothing committed"
        for tally in recorder.tallies.values()
        if tally.sends and not tally.committed
    ]
    if recorder.total("delivered") == 0:
        doubts.append("nothing was delivered")
    return doubts


def _report(
    options: Options,
    recorder: Recorder,
    endings: Sequence[Ending],
    stalls: Sequence[Stall],
    explained: int,
    verdict: str,
) -> dict[str, Any]:
    longest: dict[str, float] = {}
    for stall in stalls:
        who = stall.who or "this process"
        longest[who] = round(max(stall.seconds, longest.get(who, 0.0)), 3)
    return {
        "nodes": options.nodes,
        "sessions": len(recorder.tallies),
        "seconds": options.seconds,
        "keepalive": options.keepalive,
        "deadline": options.deadline,
        "sent": recorder.total("sent"),
        "delivered": recorder.total("delivered"),
        "ended": len(endings),
        "given_up": sum(ending.reason == SILENT for ending in endings),
        "explained": explained,
        "stalls": len(stalls),
        "longest_stall": longest,
        "verdict": verdict,
    }


def verdict_lines(outcome: Outcome, command: str) -> list[str]:
    """Say in a few lines how a run went."""
    said = outcome.report
    longest = ", ".join(f"{who} {seconds:g} s" for who, seconds in said["longest_stall"].items())
    lines = [
        f"{said['sessions']} sessions, {said['seconds']:g} s: {said['sent']} sent, {said['delivered']} delivered",
        f"{said['ended']} connections ended, {said['given_up']} of them given up, {said['explained']} explained",
        f"{said['stalls']} stalls of {LONG:g} s and more" + (f"; longest: {longest}" if longest else ""),
    ]
    told = [*outcome.reasons, *outcome.explained]
    lines += [f"  {line}" for line in told[:MOST_REASONS]]
    if len(told) > MOST_REASONS:
        lines.append(f"  ... and {len(told) - MOST_REASONS} more")
    lines.append(f"verdict: {outcome.verdict}")
    if outcome.verdict != "ok":
        lines.append(f"run it again: {command}")
    return lines
