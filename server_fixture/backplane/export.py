"""
Copies of the store's scripts for nodes in other languages: ``python -m server_fixture.backplane.export docs/scripts``.

The texts live in ``scripts.py``.
"""

from __future__ import annotations

import pathlib
import sys

from server_fixture.backplane import scripts

ALL = {name.lower(): text for name, text in vars(scripts).items() if name.isupper() and isinstance(text, str)
       and not name.startswith("_")}  # fmt: skip
"""Every script by the name of its copy."""


def main(folder: str) -> None:
    """Write every script into a file of its own."""
    for name, text in ALL.items():
        pathlib.Path(folder, f"{name}.lua").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
