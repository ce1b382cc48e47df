"""
``python -m benchmarks NAME... [--json FILE] [--full]``: runs benchmarks, prints tables, writes what was found.

A benchmark is a module beside this one. Those against other clients have a ``run(plan)`` that returns rows, and may be
named together; the others have a ``main(arguments)`` and take the arguments that follow their name. Nothing is measured
here.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from benchmarks.picture import drawn
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.players import PEERS, those_there
from benchmarks.rows import Row, table, write_json

TOGETHER = ("inbound", "outbound", "latency", "paced", "idle", "startup", "handover", "recovery", "rolling", "storm")
"""Against other clients."""
ALONE = ("journal", "stages", "threads")
"""With arguments of their own."""
USAGE = f"usage: python -m benchmarks NAME... [...], where NAME is one of: {', '.join((*TOGETHER, *ALONE))}"
UNPICTURED = ("recovery", "rolling", "storm")
"""Those whose figures have scales that a picture of bars does not help with."""
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.svg"


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare with other clients: ratios above 1 are in our favour.",
        epilog=f"Benchmarks with arguments of their own, see python -m benchmarks NAME --help: {', '.join(ALONE)}.",
    )
    made.add_argument("names", nargs="+", metavar="NAME", help=f"any of {', '.join(TOGETHER)}")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    made.add_argument("--full", action="store_true", help="longer and with more cases, for the docs")
    made.add_argument("--repetitions", type=int, metavar="N", help="of recovery: how often each loses its server")
    return made


def run(names: Sequence[str], plan: Plan, keep: Callable[[list[Row]], object]) -> list[Row]:
    """Run benchmarks one after the other; ``keep`` gets what there is after each, should the next one fail."""
    rows: list[Row] = []
    for name in names:
        start = time.perf_counter()
        rows += importlib.import_module(f"benchmarks.{name}").run(plan)
        print(f"\n{name}: {time.perf_counter() - start:.0f} s", flush=True)
        keep(rows)
    return rows


def main(arguments: Sequence[str]) -> None:
    """
    Run what the command line names.

    Raises:
        SystemExit: It names nothing that there is.
    """
    if arguments and arguments[0] in ALONE:
        importlib.import_module(f"benchmarks.{arguments[0]}").main(list(arguments[1:]))
        return
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    if not {"-h", "--help"} & set(arguments) and not (names and set(names) <= set(TOGETHER)):
        raise SystemExit(USAGE)
    chosen = parser().parse_args(arguments)
    peers, missing = those_there(PEERS)
    if missing:
        print(f"not installed, so not compared (pip install '.[bench]'): {', '.join(missing)}")
    plan = attrs.evolve(FULL if chosen.full else QUICK, peers=peers, tell=lambda rows: print(table(rows), flush=True))
    plan = attrs.evolve(
        plan, repetitions=chosen.repetitions or plan.repetitions, say=lambda text: print(text, flush=True)
    )

    def keep(rows: list[Row]) -> None:
        if chosen.json is not None:
            write_json(chosen.json, rows, missing)

    rows = run(chosen.names, plan, keep)
    pictured = [row for row in rows if row.bench not in UNPICTURED]
    if chosen.full and pictured:
        PICTURE.write_text(drawn(pictured), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
