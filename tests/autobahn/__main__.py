"""
``python -m tests.autobahn``: run the Autobahn fuzzing server's cases for a client against the transport.

Needs a Python 2.7 for the server. Ends with 0 where no case failed, with 1 where one did, and with 0 and a word on
standard output where there is no Python 2.7 (with ``--required``: 1).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

from tests.autobahn import client
from tests.autobahn.judging import Summary, judge, table
from tests.autobahn.suite import PINNED, FuzzingServer, NoPython27, cache_directory, set_up


def main() -> int:
    """Run what the arguments say."""
    args = _parser().parse_args()
    try:
        wstest = set_up(args.cache)
    except NoPython27 as missing:
        print(f"{'failed' if args.required else 'skipped'}: the Autobahn suite needs Python 2.7: {missing}")
        return int(args.required)
    except subprocess.CalledProcessError as failed:
        print(f"failed: the Autobahn suite cannot be installed: {failed}")
        return 1
    with tempfile.TemporaryDirectory(prefix="autobahn-") as made:
        directory = Path(args.keep or made)
        directory.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        summary, failed_words = run(wstest, directory, args.cases)
        seconds = time.monotonic() - started
    _tell(summary, failed_words, seconds)
    if args.json:
        report = {**attrs.asdict(summary), "suite": PINNED, "seconds": round(seconds, 1)}
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(summary.is_bad)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    add = parser.add_argument
    add("--cases", nargs="+", default=["*"], metavar="PATTERN", help="case ids, as in 12.* or 6.4.1; all by default")
    add("--json", metavar="FILE", help="write the summary there")
    add("--keep", metavar="DIR", help="keep the server's own reports there")
    add("--cache", type=Path, default=cache_directory(), help="where the suite is installed (default %(default)s)")
    add("--required", action="store_true", help="fail where there is no Python 2.7")
    return parser


def run(wstest: Path, directory: Path, patterns: list[str]) -> tuple[Summary, dict[str, str]]:
    """Run the cases; return what came out, and the server's words on those that failed."""
    with FuzzingServer(wstest, directory, patterns) as server:
        cases = client.ids(server.url)
        for number, case in enumerate(cases, 1):
            print(f"\r{number}/{len(cases)} {case:10}", end="", file=sys.stderr, flush=True)
            client.run_case(server.url, number, case)
        print(file=sys.stderr)
        client.update_reports(server.url)
        results: dict[str, dict[str, Any]] = server.results(client.AGENT)
        summary = judge(cases, results)
        return summary, {case: server.said(results[case]) for case in summary.failures if case in results}


def _tell(summary: Summary, words: dict[str, str], seconds: float) -> None:
    print("\n".join(table(summary)))
    for case, why in summary.not_strict.items():
        print(f"not strict: {case}: {why}")
    for case, how in summary.failures.items():
        print(f"failed: {case}: {how}; {words.get(case, '')}")
    print(f"{sum(sum(counts.values()) for counts in summary.sections.values())} cases in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
