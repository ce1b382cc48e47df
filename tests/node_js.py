"""Brings the node in Node.js of ``examples/node_js`` to where it runs: with its packages, installed once for a run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documents import ROOT

SOURCE = ROOT / "examples" / "node_js"
_installed: list[Path] = []


def node_js_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """
    Return the command of a node in Node.js.

    Where its packages are not installed, ``npm ci`` does that in a copy. Without ``node`` and ``npm`` the test is
    skipped, but where tests run for the project (the variable ``CI``) that is a failure.
    """
    absent = [program for program in ("node", "npm") if shutil.which(program) is None]
    if absent and os.environ.get("CI"):
        pytest.fail(f"{' and '.join(absent)} not found, and CI is set: install Node.js 20 or newer")
    if absent:
        pytest.skip(f"{' and '.join(absent)} not found: install Node.js 20 or newer")
    if not _installed:
        _installed.append(SOURCE if (SOURCE / "node_modules").is_dir() else _install(tmp_path_factory))
    return ["node", str(_installed[0] / "src" / "node.js")]


def _install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("node_js") / "node_js"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("node_modules"))
    argv = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund"]
    done = subprocess.run(argv, cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.fail(f"npm ci in a copy of {SOURCE} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return copy
