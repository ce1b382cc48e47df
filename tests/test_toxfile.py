"""The tox plugin: which interpreters it finds, and when a missing one is an error."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.floors

ROOT = Path(__file__).resolve().parent.parent
# No machine has a Python 3.99; the second environment keeps the run from being one where everything is skipped.
MATRIX = """
[tox]
env_list = py399, other
skip_missing_interpreters = true
no_package = true
[testenv:other]
commands = python -c "print('other ran')"
"""


@pytest.fixture(scope="module")
def toxfile() -> ModuleType:
    """The plugin, loaded as tox does."""
    spec = importlib.util.spec_from_file_location("toxfile", ROOT / "toxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pyenv(tmp_path: Path) -> Path:
    """A pyenv root with supported and other versions."""
    for version in ("2.7.18", "3.9.1", "3.10.4", "3.10.13", "3.11.7", "3.13.0", "3.13.0t", "3.14.0", "3.12-dev"):
        home = tmp_path / "versions" / version / "bin"
        home.mkdir(parents=True)
        (home / "python").touch()
    (tmp_path / "versions" / "3.12.1").mkdir()
    return tmp_path


def test_newest_of_each_supported_minor_is_found(toxfile: ModuleType, pyenv: Path) -> None:
    """The newest patch of each supported version is found; other versions, and homes without a program, are not."""
    found = [Path(path).relative_to(pyenv / "versions").parts[0] for path in toxfile.interpreters(pyenv)]
    assert found == ["3.10.13", "3.11.7", "3.13.0"]


def test_discovery_is_set_from_pyenv_root(toxfile: ModuleType, pyenv: Path) -> None:
    """Where nothing was said, tox gets pyenv's interpreters to look at."""
    environ = {"PYENV_ROOT": str(pyenv)}
    toxfile.prepare(environ)
    assert environ["TOX_DISCOVER"].split(";") == toxfile.interpreters(pyenv)
    assert "TOX_SKIP_MISSING_INTERPRETERS" not in environ


def test_pyenv_in_the_home_directory_is_the_default(
    toxfile: ModuleType, pyenv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable, the directory where pyenv installs itself is looked at."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    (tmp_path / "home").mkdir()
    (tmp_path / "versions").rename(tmp_path / "home" / "versions")
    (tmp_path / "home" / "versions").rename(tmp_path / "home" / "moved")
    (tmp_path / "home" / ".pyenv").mkdir()
    (tmp_path / "home" / "moved").rename(tmp_path / "home" / ".pyenv" / "versions")
    environ: dict[str, str] = {}
    toxfile.prepare(environ)
    assert len(environ["TOX_DISCOVER"].split(";")) == 3


def test_what_is_set_already_wins(toxfile: ModuleType, pyenv: Path) -> None:
    """Variables that the user set are left alone."""
    before = {"PYENV_ROOT": str(pyenv), "TOX_DISCOVER": "mine", "CI": "true", "TOX_SKIP_MISSING_INTERPRETERS": "true"}
    environ = dict(before)
    toxfile.prepare(environ)
    assert environ == before


def test_nothing_found_sets_nothing(toxfile: ModuleType, tmp_path: Path) -> None:
    """Without pyenv, tox looks for interpreters by itself."""
    environ = {"PYENV_ROOT": str(tmp_path)}
    toxfile.prepare(environ)
    assert environ == {"PYENV_ROOT": str(tmp_path)}


def test_summary_names_what_ran_and_what_did_not(toxfile: ModuleType) -> None:
    """The last lines say which environments ran, which of them failed, and which were missing."""
    said = toxfile.summary(["py310", "py311", "lint"], {"py311": 0, "lint": 1})
    assert said[0].endswith("that ran: py311, lint (failed)")
    assert said[1].endswith(": py310")


def matrix(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run tox with the plugin on a matrix that has one Python too many."""
    shutil.copyfile(ROOT / "toxfile.py", tmp_path / "toxfile.py")
    (tmp_path / "tox.ini").write_text(MATRIX)
    clean = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("TOX")}
    command = [sys.executable, "-m", "tox"]
    return subprocess.run(
        command,
        cwd=tmp_path,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        timeout=50,
        stdin=subprocess.DEVNULL,
    )


def test_missing_interpreter_is_skipped_and_said(tmp_path: Path) -> None:
    """On a developer's machine a missing interpreter is no error, but it is said at the end."""
    done = matrix(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2].endswith("that ran: other")
    assert done.stdout.splitlines()[-1].endswith(": py399")


def test_missing_interpreter_is_an_error_in_ci(tmp_path: Path) -> None:
    """Where CI is set a missing interpreter fails the run."""
    done = matrix(tmp_path, CI="true")
    assert done.returncode != 0, done.stdout + done.stderr
    assert "other ran" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": py399")
