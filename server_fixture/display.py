"""
What a demonstration shows while it runs: a live table on a terminal, plain lines anywhere else.

Here live words and colours. Nothing is counted or judged here.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol, TextIO

from server_fixture.cluster import Node
from server_fixture.commands import shown
from server_fixture.demo import Outcome, Run, disagreement
from server_fixture.recorder import Spread

LINE_EVERY = 1.0
"""Seconds between two plain lines."""


class Display(Protocol):
    """Shows a run, until it is closed."""

    def show(self, run: Run) -> None: ...

    def close(self) -> None: ...


def display_for(stream: TextIO) -> Display:
    """Return what suits the stream."""
    return Live() if stream.isatty() else Lines(stream)


def in_words(spread: Spread) -> str:
    """Write some durations down."""
    if spread.count == 0:
        return "none"
    return f"p50 {spread.p50:g} ms, p99 {spread.p99:g} ms, max {spread.max:g} ms ({spread.count})"


def verdict_lines(outcome: Outcome, command: str, kept: object) -> list[str]:
    """Say how it ended, in lines."""
    report = outcome.report
    counts = ", ".join(f"{key.replace('_', ' ')} {report[key]}" for key in _ANOMALIES)
    faults = report["faults"]
    broken = _counted({kind: found["count"] for kind, found in faults.items()})
    done = f"{broken}, {report['reconnects']} reconnects, {report['resumed']} resumed"
    moved = f"{report['sent']} sent, {report['delivered']} delivered"
    resumed, heard = _durations(report["recovery_ms"]), _durations(report["recovery_to_message_ms"])
    noun = next(iter(faults)) if len(faults) == 1 else "fault"
    lines = [f"{done}; {moved}", counts]
    lines += [f"recovery from {noun} to resumed: {resumed}", f"to the first message: {heard}"]
    for kind, found in faults.items() if len(faults) > 1 else ():
        lines.append(f"  from {kind} ({found['recoveries']} recoveries): {_durations(found['recovery_ms'])}")
    if outcome.apart.count:
        lines.append(f"after {noun}s that left no node alive: {in_words(outcome.apart)}")
    for name, served in report.get("served", {}).items():
        did = f"{served['welcomes']} welcomes, {served['resumed']} resumed"
        lines.append(f"{name} ({served['command']}): {did}")
    if outcome.judged_again is not None and not disagreement(outcome.judged, outcome.judged_again):
        lines.append("a second checker agrees")
    lines += [f"  {reason}" for reason in outcome.reasons[:12]]
    if len(outcome.reasons) > 12:
        lines.append(f"  ... and {len(outcome.reasons) - 12} more")
    lines.append(f"verdict: {outcome.verdict} (seed {report['seed']})")
    if outcome.verdict == "anomaly":
        lines.append(f"run it again: {command}")
    if kept is not None:
        lines.append(f"logs and history: {kept}")
    return lines


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}s" for kind, count in counts.items())


def _so_far(run: Run) -> str:
    return _counted({kind: run.nemesis.count(kind) for kind in run.options.choice.kinds})


_SILENT = {"pause": "paused", "stall": "stalled"}
_COLOURS = {"serving": "green", "starting": "yellow", "draining": "yellow"}
_ANOMALIES = ("lost", "duplicated", "reordered", "phantom", "unreported_gaps")


def _durations(found: dict[str, Any]) -> str:
    if found["p50"] is None:
        return "none"
    return f"p50 {found['p50']:g} ms, p99 {found['p99']:g} ms, max {found['max']:g} ms"


def _rates(run: Run) -> str:
    passed = max(1.0, time.monotonic() - run.started_at)
    recorder = run.recorder
    return f"{recorder.total('committed') / passed:.0f} acked/s, {recorder.total('delivered') / passed:.0f} delivered/s"


def _state(run: Run, node: Node) -> str:
    """Say how a node is: what was done to it, that it serves, or that it is on its way back."""
    if not node.is_alive:
        return "down"
    kind = run.nemesis.in_force.get(node.name)
    if kind in _SILENT:
        return _SILENT[kind]
    if node.is_serving:
        return "serving"
    return "draining" if node.is_draining else "starting"


class Lines:
    """One line a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_at = float("-inf")
        self._phase = ""

    def close(self) -> None:
        """Nothing is held."""

    def show(self, run: Run) -> None:
        """Write a line, if the last one is old enough or something else goes on now."""
        now = time.monotonic()
        if now - self._shown_at < LINE_EVERY and run.phase == self._phase:
            return
        self._shown_at, self._phase = now, run.phase
        recorder, sessions = run.recorder, run.recorder.tallies.values()
        there = sum(tally.node is not None for tally in sessions)
        states = " ".join(f"{node.name}:{_state(run, node)}" for node in run.cluster.nodes)
        print(
            f"{now - run.started_at:6.1f} s  {run.phase:<8} {states}  {_so_far(run)}  "
            f"sessions {there}/{len(sessions)}  resumed {recorder.total('resumed')}  {_rates(run)}  "
            f"recovery {in_words(recorder.spread(recorder.recoveries))}",
            file=self._stream,
            flush=True,
        )


class Live:
    """A table that is drawn again and again."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._live = RichLive(console=Console(file=sys.stdout), auto_refresh=False)
        self._live.start()

    def close(self) -> None:
        """Leave the last table where it is."""
        self._live.stop()

    def show(self, run: Run) -> None:
        """Draw the present state."""
        from rich.console import Group
        from rich.text import Text

        recorder = run.recorder
        passed = time.monotonic() - run.started_at
        head = Text(
            f"{passed:.1f} of {run.options.seconds:g} s  {run.phase}   seed {run.options.seed}   "
            f"{_so_far(run)}   resumed {recorder.total('resumed')}   {_rates(run)}"
        )
        foot = Text(
            f"recovery: {in_words(recorder.spread(recorder.recoveries))}\n"
            f"to the first message: {in_words(recorder.spread(recorder.to_message))}"
        )
        self._live.update(Group(head, self._nodes(run), self._sessions(run), foot), refresh=True)

    @staticmethod
    def _nodes(run: Run) -> Any:
        from rich.table import Table
        from rich.text import Text

        more = ["command"] if run.options.commands else []
        head = ("node", "state", f"{run.options.choice.noun}s", "sessions", "welcomes", *more)
        table = Table(*head, box=None, pad_edge=False)
        for node in run.cluster.nodes:
            faults = sum(node.name in strike.nodes for strike in list(run.nemesis.strikes))
            there = sum(tally.node == node.name for tally in run.recorder.tallies.values())
            state = _state(run, node)
            coloured = f"[{_COLOURS.get(state, 'red')}]{state}[/]"
            cells = (node.name, coloured, *map(str, (faults, there, run.recorder.welcomes[node.name])))
            # A command may have brackets in it, which a plain string would take for markup.
            command = (Text(shown(node.command), overflow="ellipsis"),) if run.options.commands else ()
            table.add_row(*cells, *command)
        return table

    @staticmethod
    def _sessions(run: Run) -> Any:
        from rich.table import Table

        table = Table("session", "on", "cut", "resumed", "sent", "acked", "delivered", box=None, pad_edge=False)
        for tally in list(run.recorder.tallies.values())[:20]:
            where = tally.node or "[red]reconnecting[/]"
            counts = (tally.cuts, tally.resumed, tally.sent, tally.committed, tally.delivered)
            table.add_row(tally.process, where, *map(str, counts))
        return table
