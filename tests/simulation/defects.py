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


def record_anew(name: str, base: int, most: int, jobs: int) -> Found | None:
    """Forget what finds a defect no more, and remember a seed that does."""
    found = search(name, base, most, jobs)
    if found is not None:
        record(name, found.seed)
    return found


def record(name: str, seed: int) -> None:
    """Remember a seed as the first one to run, beside at most one other that still finds the defect."""
    known = recorded()
    others = [other for other in known.get(name, []) if other != seed and find(name, [other]) is not None]
    known[name] = [seed, *others[:1]]
    RECORD.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", "utf-8")


def run_defects(names: Iterable[str], base: int, fresh: int) -> dict[str, Found | None]:
    """
    Look for each defect on its recorded seeds, then in ``fresh`` seeds from ``base`` on; print what was found.

    Returns:
        What was found on the first recorded seed; None for a defect that a recorded seed does not find, or that has
        none: a seed that finds nothing any more is an error.
    """
    known, results = recorded(), {}
    for name in names:
        seeds = known.get(name, [])
        found = [find(name, [seed]) for seed in seeds]
        results[name] = None if not found or None in found else found[0]
        shown = results[name]
        if shown is None:
            print(f"{name:30s} NOT FOUND on every recorded seed of {seeds}; look for others: "
                  f"python -m tests.simulation --search {name} --schedules 20000 --record", flush=True)  # fmt: skip
            continue
        others = sum(find(name, [seed]) is not None for seed in range(base, base + fresh))
        print(f"{name:30s} seed {shown.seed:6d}, {others} of {fresh} fresh ones: {shown.violation[:100]}", flush=True)
    lost = sum(found is None for found in results.values())
    print(f"{len(results) - lost} of {len(results)} defects found")
    return results
