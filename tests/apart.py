"""
Tests in a network of their own: the body of the test runs in a child process in new namespaces of network and mounts.

There the loopback interface is all there is, and names are looked up at 127.0.0.1 port 53, where the test puts a
NameServer; nothing of the machine is touched. What the body raises, the test in the parent fails with.
"""

from __future__ import annotations

import functools
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.journal_tools import need

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0
IMPATIENT = "timeout:1 attempts:1"


@functools.cache
def need_unshare(*flags: str) -> None:
    """Skip the test where this user or this machine cannot make such namespaces, as :func:`need` does."""
    need(shutil.which("unshare") is not None, "the command unshare of util-linux")
    tried = subprocess.run(["unshare", *flags, "true"], capture_output=True, text=True)
    need(tried.returncode == 0, f"namespaces: unshare {' '.join(flags)} says {tried.stderr.strip()!r}")


def apart(resolver: str = IMPATIENT) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """
    Let the body of a test run in a network of its own.

    Args:
        resolver: The ``options`` of its resolv.conf.
    """

    def make(body: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(body)
        def test(**arguments: Any) -> None:
            need_unshare("--net")
            told = run_apart(body, arguments, resolver)
            assert told.returncode == 0, f"in its own network:\n{told.stderr}"

        return test

    return make


def run_apart(
    body: Callable[..., Any], arguments: dict[str, Any], resolver: str = IMPATIENT
) -> subprocess.CompletedProcess[str]:
    """Run a function of a module there, with arguments that JSON can carry, and wait."""
    module = f"tests.{body.__module__.rpartition('.')[2]}"  # which pytest calls by its file alone
    where = [module, body.__name__, json.dumps(arguments), resolver]
    unshare = ["unshare", "--net", "--mount", "--fork", "--kill-child"]
    command = [*unshare, sys.executable, "-m", "tests.apart", *where]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def ip(words: str) -> None:
    """Change the network apart: ``ip("link set lo down")``."""
    subprocess.run(["ip", *words.split()], check=True)


def _settle(folder: str, resolver: str) -> None:
    """Bring the loopback interface up and have glibc ask our name server, and no file."""
    ip("link set lo up")
    files = {
        "resolv.conf": f"nameserver 127.0.0.1\nsearch .\noptions {resolver}\n",
        "nsswitch.conf": "hosts: dns\n",
    }
    for name, text in files.items():
        (Path(folder) / name).write_text(text)
        subprocess.run(["mount", "--bind", str(Path(folder) / name), f"/etc/{name}"], check=True)


def main(module: str, name: str, arguments: str, resolver: str = IMPATIENT) -> None:
    """Be the child, and print what the function gives, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        _settle(folder, resolver)
        body = getattr(importlib.import_module(module), name)
        try:
            result = getattr(body, "__wrapped__", body)(**json.loads(arguments))
        except Exception as error:  # with the values, which pytest shows of asserts in its own process only
            sys.exit("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
        if result is not None:
            print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
