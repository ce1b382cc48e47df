"""
Draws what was found: for each case a bar for each client, on a logarithmic scale, as SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.rows import Row

LEFT, WIDTH, LINE, HEAD = 400, 420, 18, 30
MARGIN = 90
CAPTION = "Shorter is better. Each group has a logarithmic scale of its own; ours are the dark ones."
OURS, THEIRS = "#1f6f8b", "#b0b0b0"


def bars(rows: Sequence[Row]) -> list[tuple[str, float, bool]]:
    """Return everybody in one case: name, figure, whether it is ours; the best first."""
    found = {(f"resilient_ws, {row.subject}", row.ours, True) for row in rows}
    found |= {(row.peer, row.theirs, False) for row in rows}
    return sorted(found, key=lambda bar: (bar[1], bar[0]), reverse=rows[0].unit.endswith("/s"))


def group(rows: Sequence[Row], top: int) -> tuple[list[str], int]:
    """Draw one case from ``top`` on; returns its lines, and where the next one begins."""
    everybody = bars(rows)
    least = min(figure for _, figure, _ in everybody)
    scale = max(1.0, math.log10(max(figure for _, figure, _ in everybody) / least) + 0.2)
    title = f"{rows[0].bench}: {rows[0].case} ({rows[0].unit})"
    lines = [f'<text x="8" y="{top + 20}" font-weight="bold">{escape(title)}</text>']
    y = top + HEAD
    for name, figure, is_ours in everybody:
        length = round(WIDTH * (math.log10(figure / least) + 0.2) / (scale + 0.2))
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y + 2}" width="{length}" height="{LINE - 5}" fill="{OURS if is_ours else THEIRS}"/>',
            f'<text x="{LEFT + length + 6}" y="{y + 13}">{figure:,.2f}</text>',
        ]
        y += LINE
    return lines, y


def drawn(rows: Sequence[Row]) -> str:
    """Return the picture."""
    lines = [f'<text x="8" y="18">{CAPTION}</text>']
    top = 24
    for key in dict.fromkeys((row.bench, row.case) for row in rows):
        more, top = group([row for row in rows if (row.bench, row.case) == key], top)
        lines += more
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + MARGIN}" height="{top + 12}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>", ""])
