"""``python -m tests.simulation``: run schedules, or look for each mutant."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from tests.simulation.schedule import Result, run_seed


def main() -> int:
    """Run what the arguments say; 0 where nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mix", default="usual")
    parser.add_argument("--defects", action="store_true", help="apply each mutant and look for it")
    parser.add_argument("--search", metavar="NAME", help="look for one mutant in fresh seeds")
    parser.add_argument("--trace", action="store_true", help="print the faults of a failing seed")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if args.defects or args.search:
        from tests.simulation.mutants import search_all

        return search_all([args.search] if args.search else None, args.seed, args.schedules)
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    results: list[Result] = []
    for seed in range(args.seed, args.seed + args.schedules):
        result = run_seed(seed, args.mix)
        results.append(result)
        if result.violations:
            print(f"seed {seed}: {len(result.violations)} violations; rerun: "
                  f"python -m tests.simulation --schedules 1 --seed {seed} --mix {args.mix} --trace")  # fmt: skip
            for line in result.violations[:6]:
                print(f"    {line}")
            if args.trace:
                print("\n".join(result.trace))
    took = time.perf_counter() - began
    failed = [r for r in results if r.violations]
    resumed = sum(1 for r in results if r.resumes) / len(results)
    report = {
        "schedules": len(results), "steps": sum(r.steps for r in results), "faults": sum(r.faults for r in results),
        "resumes": sum(r.resumes for r in results), "violations": len(failed),
        "schedules_per_minute": round(60 * len(results) / took), "resumed_share": round(resumed, 3),
        "median_steps": statistics.median(r.steps for r in results),
        "median_faults": statistics.median(r.faults for r in results),
    }  # fmt: skip
    print(json.dumps(report))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file)
    if resumed < 0.9 and args.mix == "usual":
        print("under 90 percent of the schedules resumed: they prove too little", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
