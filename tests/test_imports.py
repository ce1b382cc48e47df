"""The import contracts of setup.cfg: they hold for the tree, and each of them fails on a planted import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.floors

ROOT = Path(__file__).resolve().parent.parent
LINT = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(tree: Path, *options: str) -> tuple[int, str]:
    """Run import-linter on a tree; give its status and all that it said."""
    command = [sys.executable, "-c", LINT, "--no-cache", *options]
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}  # so that no name of a contract is wrapped
    done = subprocess.run(command, cwd=tree, env=wide, capture_output=True, text=True, timeout=50)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of the contracts and of two packages that have every room, empty."""
    shutil.copyfile(ROOT / "setup.cfg", tmp_path / "setup.cfg")
    rooms = {
        "resilient_ws": (
            "client keeper transport tunnelling discovery journal session connection state inbox backoff config events "
            "frames exceptions"
        ),
        "resilient_ws/dialects": "native",
        "server_fixture": "workload node engine session checker history",
        "server_fixture/backplane": "memory redis",
    }
    for package, names in rooms.items():
        (tmp_path / package).mkdir()
        for name in ("__init__", *names.split()):
            (tmp_path / package / f"{name}.py").write_text("")
    return tmp_path


def test_contracts_hold() -> None:
    """Every contract holds for the tree as it is."""
    status, said = lint(ROOT)
    assert status == 0, said
    assert "0 broken" in said


def test_empty_rooms_keep_the_contracts(tree: Path) -> None:
    """Rooms without an import break nothing, so that what fails below fails for what was planted."""
    status, said = lint(tree)
    assert status == 0, said
    assert "0 broken" in said


@pytest.mark.parametrize(
    ("path", "planted", "contract"),
    [
        ("resilient_ws/frames.py", "from resilient_ws import session", "resilient_ws: arrows point down only"),
        ("resilient_ws/keeper.py", "import resilient_ws.client", "resilient_ws: arrows point down only"),
        ("resilient_ws/inbox.py", "from . import backoff", "resilient_ws: arrows point down only"),
        ("resilient_ws/utils.py", "", "resilient_ws: arrows point down only"),
        ("resilient_ws/session.py", "import socket", "resilient_ws: pure up to session"),
        ("resilient_ws/dialects/native.py", "from time import monotonic", "resilient_ws: pure up to session"),
        ("resilient_ws/config.py", "def later():\n    import os.path", "resilient_ws: pure up to session"),
        ("resilient_ws/__init__.py", "import logging", "resilient_ws: pure up to session"),
        ("resilient_ws/client.py", "import websocket", "only resilient_ws.transport imports websocket"),
        ("server_fixture/workload.py", "import websocket", "only resilient_ws.transport imports websocket"),
        ("resilient_ws/client.py", "import requests", "only resilient_ws.discovery imports requests"),
        ("resilient_ws/transport.py", "import python_socks", "only resilient_ws.tunnelling imports python_socks"),
        ("resilient_ws/client.py", "import server_fixture", "resilient_ws never imports the fixture"),
        ("resilient_ws/transport.py", "import aiohttp", "resilient_ws never imports the fixture"),
        ("server_fixture/history.py", "from . import checker", "server_fixture: arrows point down only"),
        ("server_fixture/checker.py", "from . import session", "server_fixture: arrows point down only"),
        ("server_fixture/checker.py", "import threading", "server_fixture: the judge and"),
        ("server_fixture/session.py", "import asyncio", "server_fixture: the judge and"),
        ("server_fixture/backplane/memory.py", "import random", "server_fixture: the judge and"),
        ("server_fixture/checker.py", "from resilient_ws import frames", "server_fixture: who may import"),
        ("server_fixture/session.py", "from resilient_ws import session", "server_fixture: who may import"),
    ],
)
def test_planted_import_breaks_its_contract(tree: Path, path: str, planted: str, contract: str) -> None:
    """An import against the rules is found, and by the contract that forbids it."""
    (tree / path).write_text(planted + "\n")
    status, said = lint(tree)
    assert status == 1, said
    broken = [line for line in said.splitlines() if line.endswith("BROKEN")]
    assert [line for line in broken if line.startswith(contract)], said


@pytest.mark.parametrize(
    ("path", "planted"),
    [
        ("resilient_ws/transport.py", "import websocket, socket, threading"),
        ("resilient_ws/discovery.py", "def later():\n    import requests"),
        ("resilient_ws/tunnelling.py", "def later():\n    import python_socks.sync, socket"),
        ("resilient_ws/client.py", "import threading, time\nfrom . import keeper, session, transport"),
        ("resilient_ws/backoff.py", "import tenacity\nfrom . import config"),
        (
            "server_fixture/session.py",
            "from resilient_ws import frames\nfrom resilient_ws.dialects import native\nfrom . import backplane",
        ),
        ("server_fixture/backplane/redis.py", "import asyncio, redis, time"),
        ("server_fixture/node.py", "import aiohttp, asyncio\nfrom .backplane import redis\nfrom . import session"),
        ("server_fixture/workload.py", "import threading, time\nimport resilient_ws\nfrom resilient_ws import client"),
    ],
)
def test_allowed_imports_keep_the_contracts(tree: Path, path: str, planted: str) -> None:
    """What a module is there to import is allowed."""
    (tree / path).write_text(planted + "\n")
    status, said = lint(tree)
    assert status == 0, said


def floors_of_types(where: Path) -> list[str]:
    """Write contracts for which imports under TYPE_CHECKING count; give the options that check the floors by them."""
    text = (ROOT / "setup.cfg").read_text("utf-8")
    counted = text.replace("exclude_type_checking_imports = True", "exclude_type_checking_imports = False")
    assert counted != text
    (where / "types.cfg").write_text(counted)
    floors = ("--contract", "resilient_ws-floors", "--contract", "server_fixture-floors")
    return ["--config", str(where / "types.cfg"), *floors]


def test_floors_hold_for_types(tmp_path: Path) -> None:
    """Arrows point down for annotations as well."""
    status, said = lint(ROOT, *floors_of_types(tmp_path))
    assert status == 0, said
    assert "2 kept, 0 broken" in said


def test_planted_type_breaks_its_floor(tree: Path) -> None:
    """An annotation that needs a higher floor is found, though the purity contracts allow imports for types."""
    planted = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random\n"
    (tree / "resilient_ws" / "frames.py").write_text(planted)
    assert lint(tree)[0] == 0
    (tree / "resilient_ws" / "frames.py").write_text(planted + "    from resilient_ws import session\n")
    status, said = lint(tree, *floors_of_types(tree))
    assert status == 1, said
    assert "resilient_ws: arrows point down only BROKEN" in said
