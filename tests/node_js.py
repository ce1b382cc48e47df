"""Brings the node in Node.js of ``examples/node_js`` to where it runs: with its packages, installed once for a run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documents import ROOT

SOURCE = ROOT / "examples" / "node_js"
OLDEST = (20, 15)
"""The version that its ``package.json`` asks for."""
_installed: list[Path] = []


def node_js_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """
    Return the command of a node in Node.js.

    Where its packages are not installed, ``npm ci`` does that in a copy. Without ``node`` and ``npm`` the test is
    skipped, but where tests run for the project (the variable ``CI``) that is a failure.
    """
    lacking = _lacking()
    if lacking is not None and os.environ.get("CI"):
        pytest.fail(f"{lacking}, and CI is set: install Node.js {OLDEST[0]}.{OLDEST[1]} or newer, with npm")
    if lacking is not None:
        pytest.skip(f"{lacking}: install Node.js {OLDEST[0]}.{OLDEST[1]} or newer, with npm")
    if not _installed:
        _installed.append(SOURCE if (SOURCE / "node_modules").is_dir() else _install(tmp_path_factory))
    return ["node", str(_installed[0] / "src" / "node.js")]


def node_js_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where it was installed, as :func:`node_js_command` does."""
    return Path(node_js_command(tmp_path_factory)[1]).parent.parent


def _lacking() -> str | None:
    """Say what is not there that is needed."""
    absent = [program for program in ("node", "npm") if shutil.which(program) is None]
    if absent:
        return f"{' and '.join(absent)} not found"
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    version = re.match(r"v(\d+)\.(\d+)\.", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        return f"node {said} is too old"
    return None


def _install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("node_js")
    copy = root / "examples" / "node_js"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "docs", root / "docs")  # it reads the scripts of the store and the transcripts there
    argv = ["npm", "ci", "--no-audit", "--no-fund"]
    done = subprocess.run(argv, cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.fail(f"npm ci in a copy of {SOURCE} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return copy
