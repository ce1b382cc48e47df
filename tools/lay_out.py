"""
Copy the tests, and what they read, into a directory without the source of the packages.

Usage: ``python tools/lay_out.py DIRECTORY``. Tests that run there can only import the installed wheel.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tests", "benchmarks", "docs", "examples", "README.md", "CHANGELOG.md", "setup.cfg")
LEFT = ("__pycache__", ".hypothesis", "node_modules")


def lay_out(target: Path) -> None:
    """
    Copy the parts that exist.

    Args:
        target: The directory; it is made if it is not there, and what it has of the parts is replaced.
    """
    target.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source, copy = ROOT / part, target / part
        if source.is_dir():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*LEFT))
        elif source.exists():
            shutil.copyfile(source, copy)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
