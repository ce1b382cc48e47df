"""
Check the model of the resume handshake with spin: what is right passes, and each planted bug is found.

Usage: ``python docs/model/run.py``; needs ``spin`` and ``gcc`` (Debian: ``apt-get install spin gcc``), nothing else.
One line is printed for each variant. The exit status is 0 only when every model was searched to the end without an
error, every place that must be reached was reached, and every bug broke the property that it is said to break. Here
lives how spin is run and how its answer is read; what is modelled stands in ``resume.pml``, and never here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEGABYTES, LARGE_MEGABYTES = 2000, 12_000
"""The verifier gives up, which is a failure, where it would need more; the second one is for ``--large``."""
DEPTH = 10_000
"""Longest schedule in steps; the model's longest has about 70."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """
    One search.

    Attributes:
        name: What the table calls it.
        macros: What ``-D`` defines: NAME or NAME=VALUE.
        breaks: The property that must be found broken; empty: none may be; ``any``: whichever it is.
        has_cycles: Search for cycles, with the properties.
    """

    name: str
    macros: tuple[str, ...]
    breaks: str = ""
    has_cycles: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """
    What spin found.

    Attributes:
        broken: The property that broke, empty where none did.
        complaint: Why the search says nothing or not enough, empty where it is whole.
        states, depth: How many states were stored, and the longest schedule in steps.
        megabytes, seconds: What the search needed; compiling is not counted.
        witnesses: The places that say that they were reached.
    """

    broken: str
    complaint: str
    states: int
    depth: int
    megabytes: float
    seconds: float
    witnesses: frozenset[str]


CORE, JOURNAL, INBOUND = ("MESSAGES=2",), ("MESSAGES=2", "JOURNAL"), ("MESSAGES=1", "OFFERED=2", "INBOUND")
MODELS = (
    Variant("core", (*CORE, "FAULTS=3")),
    Variant("journal", (*JOURNAL, "FAULTS=2")),
    Variant("inbound", (*INBOUND, "FAULTS=2")),
    Variant("core-cycles", (*CORE, "FAULTS=2"), has_cycles=True),
    Variant("journal-cycles", ("MESSAGES=1", "JOURNAL", "FAULTS=2"), has_cycles=True),
    Variant("inbound-cycles", (*INBOUND, "FAULTS=1"), has_cycles=True),
)
LARGE = (
    Variant("core", ("MESSAGES=3", "FAULTS=3")),
    Variant("journal", (*JOURNAL, "FAULTS=3")),
    Variant("inbound", ("MESSAGES=1", "OFFERED=3", "INBOUND", "FAULTS=2")),
    Variant("core-cycles", (*CORE, "FAULTS=3"), has_cycles=True),
    Variant("journal-cycles", (*JOURNAL, "FAULTS=2"), has_cycles=True),
    Variant("inbound-cycles", (*INBOUND, "FAULTS=2"), has_cycles=True),
)
BROKEN = (
    ("NO_ATTEMPT", "S6", CORE),
    ("UNFENCED_READY", "S9", CORE),
    ("EARLY_CONFIRM", "S9", CORE),
    ("NO_FENCE", "S6", CORE),
    ("NO_ENTER_FENCE", "S6", CORE),
    ("NO_RAISE", "S6", CORE),
    ("NO_DEDUPE", "S2", CORE),
    ("ACCEPT_HOLE", "S3", CORE),
    ("ACK_BEFORE_APPEND", "S1", CORE),
    ("NEXT_OF_HELLO", "S8", CORE),
    ("OWN_4409_ENDS", "L1", CORE),
    ("NO_PING", "L1", CORE),
    ("NO_TURNS", "S3", JOURNAL),
    ("READY_BEFORE_DISK", "S9", JOURNAL),
    ("FORGETS_INSTANCES", "L1", JOURNAL),
    ("ACK_UNFENCED", "S6", INBOUND),
    ("NO_CLIENT_DEDUPE", "S2", INBOUND),
    ("CLIENT_TAKES_HOLES", "S5", INBOUND),
    ("NO_MARKS", "L1", INBOUND),
    ("GAP_AS_TOLD", "S7", INBOUND),
)
BUGS = (
    *(Variant(name, (*part, "FAULTS=2", name), breaks) for name, breaks, part in BROKEN),
    Variant("ENDLESS", (*CORE, "FAULTS=1", "ENDLESS"), "L6", has_cycles=True),
)


def compiled(variant: Variant, place: Path, limit: int) -> Path:
    """
    Generate and compile the verifier of a variant in a directory of its own.

    Raises:
        subprocess.CalledProcessError: spin or gcc refused the model.
    """
    place.mkdir()
    for source in HERE.glob("*.pml"):
        shutil.copy(source, place)
    macros = [f"-D{macro}" for macro in variant.macros] + ["-DWITNESSES"]
    options = [f"-DMEMLIM={limit}", "-DNOREDUCE", "-DNOFAIR", "-w", "-DNP" if variant.has_cycles else "-DSAFETY"]
    options.append("-O0" if variant.breaks else "-O1" if variant.has_cycles else "-O2")  # gcc takes longer than most
    for command in (["spin", "-a", *macros, "resume.pml"], ["gcc", *options, "-o", "pan", "pan.c"]):
        subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    return place / "pan"


def number(pattern: str, text: str) -> float:
    """Return the number that a line of spin's report names; -1 where there is no such line."""
    found = re.search(pattern, text, re.MULTILINE)
    return -1.0 if found is None else float(found[1])


def outcome(report: str, seconds: float) -> Outcome:
    """Read what the verifier printed; whatever is not a whole search or an error with a name is a complaint."""
    errors = number(r"errors: (\d+)", report)
    named = re.search(r"assertion violated \(*([SL]\d)\W", report)
    broken = "" if named is None else named[1]
    if "non-progress cycle (at depth" in report:
        broken = "L6"
    said = [line for line in report.splitlines() if line.strip() and not line.startswith(("witness:", "Depth="))]
    complaint = ""
    if "max search depth too small" in report:
        complaint = "truncated: the search depth is too small"
    elif errors < 0 or "out of memory" in report or "MEMLIM" in report:
        complaint = "the search did not end: " + (said or ["no output"])[0]
    elif errors > 0 and not broken:
        complaint = "an error that has no name: " + said[0]
    elif errors == 0 and "Search not completed" in report:
        complaint = "truncated: the search was not completed"
    return Outcome(
        broken=broken,
        complaint=complaint,
        states=int(number(r"^\s*([\d.e+]+) states, stored", report)),
        depth=int(number(r"depth reached (\d+)", report)),
        megabytes=number(r"([\d.]+)\s+total actual memory usage", report),
        seconds=seconds,
        witnesses=frozenset(re.findall(r"^witness: (.+)$", report, re.MULTILINE)),
    )


def searched(variant: Variant, place: Path, depth: int, limit: int) -> Outcome:
    """Compile a variant and run it to its end, or to its first error."""
    verifier = compiled(variant, place, limit)
    begun = time.monotonic()
    command = [str(verifier), f"-m{depth}", *(["-l"] if variant.has_cycles else [])]
    ended = subprocess.run(command, cwd=place, check=False, capture_output=True, text=True)
    return outcome(ended.stdout + ended.stderr, time.monotonic() - begun)


def verdict(variant: Variant, found: Outcome) -> tuple[bool, str]:
    """Say whether a variant came out as expected, and in words how."""
    if found.complaint:
        return False, found.complaint
    if not variant.breaks:
        return not found.broken, f"breaks {found.broken}" if found.broken else "holds"
    if not found.broken:
        return False, "the bug was NOT found"
    is_right = variant.breaks in ("any", found.broken)
    return is_right, f"found, {found.broken}" + ("" if is_right else f" instead of {variant.breaks}")


def places() -> set[str]:
    """Return the names of all places that must be reached."""
    return {name for source in HERE.glob("*.pml") for name in re.findall(r'WITNESS\("(.+?)"\)', source.read_text())}


def missing_tools() -> str:
    """Say what is not installed, nothing where all is."""
    lacking = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    return f"not on PATH: {', '.join(lacking)}; on Debian: apt-get install {' '.join(lacking)}" if lacking else ""


def chosen(arguments: argparse.Namespace) -> list[Variant]:
    """Return the variants that are asked for, with the macros that are asked for."""
    known = {variant.name: variant for variant in (*(LARGE if arguments.large else MODELS), *BUGS)}
    names = list(known)
    if arguments.models is not None or arguments.bugs is not None:
        names = [*(arguments.models or []), *(arguments.bugs or [])]
    variants = [known.get(name, Variant(name, (*CORE, "FAULTS=1", name), "any")) for name in names]
    return [dataclasses.replace(v, macros=(*v.macros, *arguments.define)) for v in variants]


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--large", action="store_true", help="larger bounds: some minutes and up to 12 GB")
    parser.add_argument("--models", nargs="*", metavar="NAME", help="search these models; without --bugs no bug")
    parser.add_argument("--bugs", nargs="*", metavar="MACRO", help="look for these bugs, new ones too; no other model")
    parser.add_argument("--define", action="append", default=[], metavar="NAME=VALUE", help="a macro for every variant")
    parser.add_argument(
        "--depth", type=int, default=DEPTH, help="longest schedule that is searched (default: %(default)s)"
    )
    parser.add_argument(
        "--megabytes", type=int, help=f"most memory (default: {MEGABYTES}, {LARGE_MEGABYTES} with --large)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="leave verifiers and trails there; it must be new"
    )
    arguments = parser.parse_args()
    if arguments.megabytes is None:
        arguments.megabytes = LARGE_MEGABYTES if arguments.large else MEGABYTES
    unknown = set(arguments.models or []) - {variant.name for variant in MODELS}
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(v.name for v in MODELS)}")
    return arguments


def run(arguments: argparse.Namespace, directory: Path) -> tuple[bool, list[dict[str, object]]]:
    """Search every variant and print its line; returns whether all is as expected, and the figures."""
    figures: list[dict[str, object]] = []
    reached: set[str] = set()
    is_good = True
    print(f"{'variant':20} {'result':36} {'states':>10} {'depth':>6} {'MB':>6} {'s':>6}", flush=True)
    variants = chosen(arguments)
    for variant in variants:
        found = searched(variant, directory / variant.name, arguments.depth, arguments.megabytes)
        is_expected, words = verdict(variant, found)
        is_good &= is_expected
        reached |= set() if variant.breaks else found.witnesses
        mark = "" if is_expected else "  <- NOT as expected"
        print(
            f"{variant.name:20} {words:36} {found.states:10} {found.depth:6} {found.megabytes:6.0f} "
            f"{found.seconds:6.1f}{mark}",
            flush=True,
        )
        row = {key: value for key, value in dataclasses.asdict(found).items() if key != "witnesses"}
        figures.append({"variant": variant.name, "macros": variant.macros, "result": words, **row})
    if {"core", "journal", "inbound"} <= {variant.name for variant in variants}:
        unseen = sorted(places() - reached)
        is_good &= not unseen
        print(
            f"places reached: {len(reached)} of {len(places())}"
            + "".join(f"\n  NOT reached: {name}" for name in unseen)
        )
    return is_good, figures


def main() -> int:
    """Run it; returns the exit status: 0 as expected, 1 not, 2 it could not be run."""
    arguments = parsed()
    lacking = missing_tools()
    if lacking:
        print(lacking, file=sys.stderr)
        return 2
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True)
        try:
            is_good, figures = run(arguments, arguments.keep or Path(temporary))
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(error.cmd)} failed:\n{error.stdout}{error.stderr}", file=sys.stderr)
            return 2
    seconds = time.monotonic() - begun
    version = subprocess.run(["spin", "-V"], check=True, capture_output=True, text=True).stdout.strip()
    if arguments.json is not None:
        text = json.dumps(
            {"spin": version, "seconds": round(seconds, 1), "is_good": is_good, "variants": figures}, indent=1
        )
        arguments.json.write_text(text + "\n")
    print(f"{'all as expected' if is_good else 'NOT as expected'}, {seconds:.0f} s, {version}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
