"""What the README shows works: its Python blocks are run, its commands are the ones that are run elsewhere too."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import README, ROOT, blocks, rows

DEMO, CHECKS = (
    "python3 -m venv .venv && .venv/bin/pip install '.[fixture]' && .venv/bin/python -m server_fixture demo",
    "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
)


def test_shell_blocks_are_the_two_commands() -> None:
    """The README has one command to see it work and one that checks everything, each on one line that can be copied."""
    assert [block.strip() for block in blocks(README, "sh")] == [DEMO, CHECKS]


def test_the_extra_and_the_command_exist() -> None:
    """What the first command installs and starts is there."""
    assert "fixture" in (importlib.metadata.metadata("resilient-ws").get_all("Provides-Extra") or [])
    told = subprocess.run(
        [sys.executable, "-m", *DEMO.rsplit(" -m ", 1)[1].split(), "--help"], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stderr
    for flag in ("--no-replay", "--seconds", "--kill-every", "--seed", "--json FILE"):
        assert flag in told.stdout
        assert flag in README.read_text("utf-8")


@pytest.mark.floors
def test_checks_are_what_the_machine_runs() -> None:
    """``.ci/run`` makes a virtual environment, installs tox and runs it, as the second command does."""
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    python, pip, tox = (line.strip() for line in lines[-3:])
    assert python.startswith("python3 -m venv ")
    assert "/bin/pip install " in pip
    assert pip.endswith(" tox")
    assert tox.endswith("/bin/tox")


def test_guarantee_is_what_the_client_says(tmp_path: Path) -> None:
    """The table of guarantees has the words of ``Client.guarantee`` for the native dialect, and no other promise."""
    from resilient_ws import Outbox
    from resilient_ws.testing import ScriptedDialer

    native, journalled, *others = rows(README, "server")
    assert native[0].startswith("speaks resilient.v1")
    for row, outbox in ((native, Outbox()), (journalled, Outbox(journal=tmp_path / "device.db"))):
        dialer = ScriptedDialer()
        client = dialer.connect(wait=False, outbox=outbox)
        said = client.guarantee.lower().replace("this client", "the client").replace("this machine", "the machine")
        client.close()
        dialer.close()
        for words in (*row[1].split("; "), row[2]):
            assert words.lower() in said
    assert [cells[1:] for cells in others] == [["not yet", "not yet"]] * 2


@pytest.mark.cluster
@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_python_blocks_run(number: int, tmp_path: Path) -> None:
    """Each Python block runs as it stands, with every warning an error."""
    script = tmp_path / "block.py"
    script.write_text(blocks(README, "python")[number], "utf-8")
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=50, env=env)
    assert ran.returncode == 0, ran.stderr


def test_there_are_python_blocks() -> None:
    """There is something to run, and the first example is short."""
    found = blocks(README, "python")
    assert len(found) == 2
    assert len(found[0].splitlines()) <= 12
