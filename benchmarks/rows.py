"""
What a benchmark finds: rows, and how they are told. Nothing is measured here.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

RATE = "/s"
"""A unit that ends so is better when it is higher; every other unit is a cost, better when it is lower."""
MEDIAN, TAIL = 0.5, 0.99
"""Shares of the runs that a figure may be the bound of."""


@attrs.frozen
class Row:
    """
    One comparison.

    Attributes:
        bench: Which benchmark.
        case: What was done.
        subject: ``session`` (the whole native session), ``batch`` (the same, the server sends batch frames),
            ``transport`` (nothing but WebSocket) or ``patient`` (``storm``: a session that takes any advised window).
        peer: What it is compared with.
        unit: Of both sides' figures.
        runs: (ours, theirs) of each round, in turn.
        share: Which percentile of the runs the figures are, of 1; the median unless said otherwise.
        ours: The median of ours.
        theirs: The median of theirs.
        ratio: Above 1 where ours is better, whatever the unit.
    """

    bench: str
    case: str
    subject: str
    peer: str
    unit: str
    runs: list[tuple[float, float]]
    share: float = MEDIAN
    ours: float = attrs.field(init=False)
    theirs: float = attrs.field(init=False)
    ratio: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        ours, theirs = (percentile(column, self.share) for column in zip(*self.runs, strict=True))
        ratio = ours / theirs if self.unit.endswith(RATE) else theirs / ours
        for name, value in (("ours", ours), ("theirs", theirs), ("ratio", ratio)):
            object.__setattr__(self, name, value)


def percentile(column: Sequence[float], share: float) -> float:
    """Return the median, or the figure that so large a share of the others is at most as high as."""
    return statistics.median(column) if share == MEDIAN else sorted(column)[int(share * len(column))]


def compared(
    bench: str,
    case: str,
    unit: str,
    found: Mapping[str, Sequence[float]],
    subjects: Sequence[str],
    share: float = MEDIAN,
) -> list[Row]:
    """Return a row for each of ours (``subjects``) against each of the others; ``found`` has the rounds of each."""
    ours = [name for name in found if name in subjects]
    peers = [name for name in found if name not in subjects]
    return [
        Row(bench, case, subject, peer, unit, list(zip(found[subject], found[peer], strict=True)), share)
        for subject in ours
        for peer in peers
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the rows of one bench as text: for each case a line for each peer, a column for each subject."""
    lines: list[str] = []
    for case in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == case]
        subjects = list(dict.fromkeys(row.subject for row in mine))
        told = ", ".join(f"{s} {next(row.ours for row in mine if row.subject == s):,.2f}" for s in subjects)
        figure = "median" if mine[0].share == MEDIAN else f"p{100 * mine[0].share:.0f}"
        lines += ["", f"{mine[0].bench}: {case}, {mine[0].unit}, {figure} of {len(mine[0].runs)}: {told}"]
        lines.append(f"  {'peer':44} {'its':>10}" + "".join(f"{subject:>12}" for subject in subjects))
        for peer in dict.fromkeys(row.peer for row in mine):
            ratios = {row.subject: row for row in mine if row.peer == peer}
            its = next(iter(ratios.values())).theirs
            cells = "".join(f"{ratios[s].ratio:11.2f}x" if s in ratios else " " * 12 for s in subjects)
            lines.append(f"  {peer:44} {its:10,.2f}{cells}")
    return "\n".join(lines)


def write_json(path: Path, rows: Sequence[Row], missing: Sequence[str]) -> None:
    """Write the rows, and which peers were not there."""
    content = {"rows": [attrs.asdict(row) for row in rows], "missing": list(missing)}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
