"""Looking for planted defects: on the seeds that are known to find them, and on fresh ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from multiprocessing import Pool
from pathlib import Path

import attrs

from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import run_seed, uncollected

RECORD = Path(__file__).with_name("seeds.json")
"""{name: [seeds]}: the first one is run every time."""
CHUNK = 50
MOST_FRESH = 5
"""Fresh seeds for each defect: all of them together have to end within 50 seconds."""


@attrs.frozen
class Found:
    """A seed that shows a defect, and what it breaks there."""

    seed: int
    violation: str


def recorded() -> dict[str, list[int]]:
    """Return the seeds that are known to find each defect."""
    return json.loads(RECORD.read_text("utf-8"))  # type: ignore[no-any-return]


def find(name: str, seeds: Iterable[int]) -> Found | None:
    """Return the first of these seeds that shows a defect."""
    mutant = MUTANTS[name]
    with uncollected(), mutant.planted():
        for seed in seeds:
            violations = run_seed(seed, mutant.mix).violations
            if violations:
                return Found(seed, violations[0])
    return None


def _find_in(job: tuple[str, int, int]) -> Found | None:
    name, first, count = job
    return find(name, range(first, first + count))


def search(name: str, first: int, count: int, jobs: int = 1) -> Found | None:
    """Look for one defect in ``count`` seeds, in several processes where ``jobs`` says so."""
    chunks = [(name, at, min(CHUNK, first + count - at)) for at in range(first, first + count, CHUNK)]
    if jobs == 1:
        return next(filter(None, map(_find_in, chunks)), None)
    with Pool(jobs) as pool:
        return next(filter(None, pool.imap(_find_in, chunks)), None)


def record(name: str, seed: int) -> None:
    """Remember a seed as the one to run; at most three are kept."""
    known = recorded()
    known[name] = [seed, *(other for other in known.get(name, []) if other != seed)][:3]
    RECORD.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", "utf-8")


def run_defects(names: Iterable[str], base: int, fresh: int) -> dict[str, Found | None]:
    """
    Look for each defect on its recorded seeds, then in ``fresh`` seeds from ``base`` on; print what was found.

    Returns:
        What was found on a recorded seed; None for a defect whose recorded seeds find it no more.
    """
    known, results = recorded(), {}
    for name in names:
        found = find(name, known.get(name, []))
        results[name] = found
        if found is None:
            other = find(name, range(base, base + fresh))
            seen = "" if other is None else f" (seed {other.seed} does)"
            print(f"{name:28s} NOT FOUND by the recorded seeds {known.get(name, [])}{seen}; look for another: "
                  f"python -m tests.simulation --search {name} --schedules 20000 --record", flush=True)  # fmt: skip
            continue
        others = sum(find(name, [seed]) is not None for seed in range(base, base + fresh))
        print(f"{name:28s} seed {found.seed:6d}, {others} of {fresh} fresh ones: {found.violation[:100]}", flush=True)
    lost = sum(found is None for found in results.values())
    print(f"{len(results) - lost} of {len(results)} defects found")
    return results
