"""``python -m tests.simulation``: run schedules, look for planted defects, shorten what fails."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack
from multiprocessing import Pool
from pathlib import Path

from tests.simulation import defects, transitions
from tests.simulation.faults import MIXES
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import Result, Schedule, run_seed, uncollected
from tests.simulation.script import Script
from tests.simulation.shrink import pasted, shrink

CHUNK = 25
SHOWN = 6
MOST_SEARCHED = 20_000
"""So many schedules are tried for a defect that its recorded seeds do not find."""
ENOUGH = 50
"""So many schedules have to be run before their medians are judged."""


def main() -> int:
    """Run what the arguments say; 0 where nothing was violated and every defect was found."""
    args = _parser().parse_args()
    if args.search:
        return _search(args)
    report = _defects(args) if args.defects else _run(args)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(report["is_bad"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    add = parser.add_argument
    add("--schedules", type=int, default=200, help="how many; with --defects the fresh ones for each defect")
    add("--seed", type=_seed, default=1, help="the first one; 'fresh': one that nobody has run before")
    add("--mix", default="every", choices=["every", *MIXES], help="which faults; 'every' takes the mixes in turn")
    add("--jobs", type=int, default=1, help="processes; 0: one for each core")
    add("--defects", action="store_true", help="apply each planted defect and look for it")
    add("--search", metavar="NAME", choices=list(MUTANTS), help="look for one planted defect in fresh seeds")
    add("--record", action="store_true", help="remember the seeds that find what --search or --defects look for")
    add("--no-shrink", action="store_true", help="do not shorten a seed that fails")
    add("--trace", action="store_true", help="print the faults of a failing seed")
    add("--json", metavar="FILE", help="write the figures there")
    return parser


def _seed(text: str) -> int:
    if text != "fresh":
        return int(text)
    drawn = random.SystemRandom().randrange(1 << 30)
    print(f"seeds from {drawn} on", flush=True)
    return drawn


def mix_of(seed: int, mix: str) -> str:
    """Say which mix a seed is run with: every third has the usual faults, the others take the mixes in turn."""
    if mix != "every":
        return mix
    return "usual" if seed % 3 == 0 else list(MIXES)[seed // 3 % len(MIXES)]


# -- schedules --------------------------------------------------------------------------------------------------------


def _chunk(job: tuple[int, int, str]) -> tuple[list[Result], Counter[str]]:
    first, count, mix = job
    with uncollected(), transitions.counted() as taken:
        return [run_seed(seed, mix_of(seed, mix)) for seed in range(first, first + count)], taken


def run_many(first: int, count: int, mix: str, jobs: int) -> tuple[list[Result], Counter[str]]:
    """Run schedules, in several processes where ``jobs`` says so; return them and the rows of the tables taken."""
    chunks = [(at, min(CHUNK, first + count - at), mix) for at in range(first, first + count, CHUNK)]
    results: list[Result] = []
    taken: Counter[str] = Counter()
    with ExitStack() as stack:
        each = map if jobs == 1 else stack.enter_context(Pool(jobs or os.cpu_count())).imap
        for some, rows in each(_chunk, chunks):
            results += some
            taken += rows
    return results, taken


def _run(args: argparse.Namespace) -> dict[str, object]:
    report = _schedules(args, args.schedules)
    complaints = weak(report) if args.schedules >= ENOUGH and args.mix == "every" else []
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    report["is_bad"] = bool(report["violations"] or complaints)
    return report


def _schedules(args: argparse.Namespace, count: int) -> dict[str, object]:
    """Run so many schedules, show those that break something, print the figures and return them."""
    began = time.perf_counter()
    results, taken = run_many(args.seed, count, args.mix, args.jobs)
    took = time.perf_counter() - began
    for result in [result for result in results if result.violations][:SHOWN]:
        _show(result, mix_of(result.seed, args.mix), is_shrunk=not args.no_shrink, is_traced=args.trace)
    report = summary(results, took)
    report["transitions_not_taken"] = transitions.not_taken(taken)
    report["transitions_impossible"] = transitions.IMPOSSIBLE
    report["defects"] = {}
    print(json.dumps(report))
    return report


def summary(results: list[Result], took: float) -> dict[str, object]:
    """Return the figures of a run that took so many seconds."""
    return {
        "schedules": len(results),
        "steps": sum(result.steps for result in results),
        "faults": sum(result.faults for result in results),
        "resumes": sum(result.resumes for result in results),
        "violations": sum(1 for result in results if result.violations),
        "schedules_per_minute": round(60 * len(results) / took),
        "resumed_share": round(sum(1 for result in results if result.resumes) / len(results), 4),
        "median_steps": statistics.median(result.steps for result in results),
        "median_faults": statistics.median(result.faults for result in results),
        "median_sessions": statistics.median(result.sessions for result in results),
        "median_nodes": statistics.median(result.nodes for result in results),
    }


LEAST = {"resumed_share": 0.9, "median_steps": 200, "median_faults": 3, "median_sessions": 2, "median_nodes": 2}
"""Below these a run proves too little."""


def weak(report: dict[str, object]) -> list[str]:
    """Return why a run proves too little."""
    found = [f"{name} is {report[name]}, below {least}: this run proves too little"
             for name, least in LEAST.items() if report[name] < least]  # type: ignore[operator]  # fmt: skip
    rows = report["transitions_not_taken"]
    if rows and int(str(report["schedules"])) >= 20 * ENOUGH:
        found.append(f"rows of the state tables that no schedule took: {rows}")
    return found


def _show(result: Result, mix: str, *, is_shrunk: bool, is_traced: bool) -> None:
    print(f"seed {result.seed}: {len(result.violations)} violations; rerun: "
          f"python -m tests.simulation --schedules 1 --seed {result.seed} --mix {mix} --trace")  # fmt: skip
    for line in result.violations[:SHOWN]:
        print(f"    {line}")
    if is_traced:
        print("\n".join(result.trace))
    if is_shrunk:
        script = shrink(Script.drawn(result.seed, mix))
        text = pasted(script, Schedule(script).run().violations)
        print(f"the shortest schedule that breaks it, as a test:\n\n{text}")


# -- defects ----------------------------------------------------------------------------------------------------------


def _search(args: argparse.Namespace) -> int:
    jobs = args.jobs or os.cpu_count() or 1
    look = defects.record_anew if args.record else defects.search
    found = look(args.search, args.seed, args.schedules, jobs)
    if found is None:
        print(f"{args.search}: not found in {args.schedules} schedules from seed {args.seed} on")
        return 1
    print(f"{args.search}: seed {found.seed}: {found.violation}")
    return 0


def _defects(args: argparse.Namespace) -> dict[str, object]:
    """Look for each defect; the fresh seeds are run without any, too."""
    began = time.perf_counter()
    fresh = min(args.schedules, defects.MOST_FRESH)
    found = defects.run_defects(MUTANTS, args.seed, fresh)
    print(f"{time.perf_counter() - began:.1f} s")
    for name in [name for name, one in found.items() if one is None and args.record]:
        found[name] = defects.record_anew(name, args.seed, MOST_SEARCHED, args.jobs or os.cpu_count() or 1)
        print(f"{name}: {found[name]}", flush=True)
    report = _schedules(args, max(fresh, 1))
    seeds = {name: None if one is None else one.seed for name, one in found.items()}
    return {**report, "defects": seeds, "is_bad": None in seeds.values() or bool(report["violations"])}


if __name__ == "__main__":
    sys.exit(main())
