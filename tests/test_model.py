"""The model of the resume handshake (docs/model/): spin finds nothing in it, and finds each planted bug."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]

MODEL = Path(__file__).resolve().parent.parent / "docs" / "model"
HAS_TOOLS = all(map(shutil.which, ("spin", "gcc")))
# In CI a missing spin is a failure of every test here, by the runner's own words; elsewhere it is a skip.
needs_spin = pytest.mark.skipif(not HAS_TOOLS and not os.environ.get("CI"), reason="spin or gcc is not on PATH")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the runner as a user does."""
    return subprocess.run(
        [sys.executable, str(MODEL / "run.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_spin
def test_the_model_holds_and_every_planted_bug_is_found(tmp_path: Path) -> None:
    """Exhaustively for the bounds; README.md names each bug with the property that spin found broken."""
    ran = run("--json", str(tmp_path / "figures.json"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    readme = (MODEL / "README.md").read_text()
    broken = {row["variant"]: row["broken"] for row in figures["variants"] if row["broken"]}
    assert len(broken) >= 21
    assert [name for name, prop in broken.items() if f"| `{name}` | {prop} |" not in readme] == []
    assert all(row["states"] > 100_000 for row in figures["variants"] if not row["broken"])


@needs_spin
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--bugs", "CHANGES_NOTHING"], "the bug was NOT found"),
        (["--bugs", "ACCEPT_HOLE", "--define", "ACK_BEFORE_APPEND"], "found, S1 instead of S3"),
        (["--models", "core", "--define", "FAULTS=1", "--define", "NO_PING"], "breaks L1"),
        (["--models", "core-cycles", "--define", "ENDLESS"], "breaks L6"),
        (["--models", "core", "--define", "FAULTS=1", "--depth", "10"], "truncated"),
        (["--models", "core", "--megabytes", "135"], "the search did not end"),
        (["--models", "core", "journal", "inbound", "--define", "FAULTS=0"], "NOT reached: a ghost takes over"),
    ],
    ids=["no bug", "another property", "error", "cycle", "depth", "memory", "unreached"],
)
def test_the_runner_fails_on(arguments: list[str], complaint: str) -> None:
    """A bug that is not found, a broken model, a search that is not whole, a place that nothing reaches."""
    ran = run(*arguments)
    assert (ran.returncode, complaint in ran.stdout) == (1, True), ran.stdout + ran.stderr


@needs_spin
def test_a_model_that_does_not_compile_is_said() -> None:
    """Status 2, with the words of spin."""
    ran = run("--models", "core", "--define", "Connection=1")
    assert ran.returncode == 2
    assert "failed" in ran.stderr


def test_a_missing_spin_is_said(tmp_path: Path) -> None:
    """Status 2, and how to get it."""
    ran = run(PATH=str(tmp_path))
    assert ran.returncode == 2
    assert "apt-get install spin gcc" in ran.stderr
