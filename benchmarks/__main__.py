"""
``python -m benchmarks NAME [...]``: runs the benchmark of that name, with the arguments that follow.

A benchmark is a module beside this one with a ``main(arguments)``; nothing is measured here.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path


def names() -> list[str]:
    """Return the names of all benchmarks."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if not name.startswith("_"))


def main(arguments: Sequence[str]) -> None:
    """
    Run one benchmark.

    Raises:
        SystemExit: There is no such benchmark, or it ended with an error.
    """
    if not arguments or arguments[0] not in names():
        raise SystemExit(f"usage: python -m benchmarks NAME [...], where NAME is one of: {', '.join(names())}")
    importlib.import_module(f"benchmarks.{arguments[0]}").main(list(arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
