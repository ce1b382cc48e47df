"""
Autobahn's fuzzing server: where its Python 2.7 is, its virtual environment under the cache, its process, its reports.

The suite runs on Python 2.7 only. Nothing here knows what is tested.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import TracebackType
from typing import Any, final

PINNED = "autobahntestsuite==25.10.1"
OLD_VIRTUALENV = "virtualenv<20.22"
"""The last one that makes environments of Python 2.7."""
START_TIMEOUT = 30.0


class NoPython27(Exception):
    """There is no Python 2.7 on this machine."""


def cache_directory() -> Path:
    """Return where the environment of the suite is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resilient-ws" / "autobahn"


def find_python27() -> Path:
    """
    Find an interpreter of Python 2.7: on the path, or one of pyenv's.

    Raises:
        NoPython27: There is none.
    """
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which("python2.7"), *sorted(map(str, root.glob("versions/2.7.*/bin/python2.7")), reverse=True)]
    for path in found:
        # A shim of pyenv is on the path whether or not its version is switched on.
        if path is not None and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return Path(path)
    raise NoPython27("no python2.7 on the path and none of pyenv's; try: pyenv install 2.7.18")


def set_up(cache: Path) -> Path:
    """
    Make the environment where it is not there yet; takes about a minute.

    Returns:
        The program ``wstest``.

    Raises:
        NoPython27: It cannot be made on this machine.
        subprocess.CalledProcessError: An installation failed; what it said is on standard error.
    """
    home = cache / PINNED.replace("==", "-")
    wstest = home / "suite" / "bin" / "wstest"
    ready = home / "ready"
    if ready.exists() and wstest.exists():
        return wstest
    python27 = find_python27()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    print(f"setting up {PINNED} in {home}", file=sys.stderr, flush=True)
    venv.create(home / "maker", with_pip=True)
    _run(home / "maker" / "bin" / "pip", "install", "--quiet", OLD_VIRTUALENV)
    _run(home / "maker" / "bin" / "virtualenv", "--quiet", "-p", python27, home / "suite")
    _run(home / "suite" / "bin" / "pip", "install", "--quiet", PINNED)
    ready.touch()
    return wstest


def _run(*command: str | Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL, env=plain)


@final
class FuzzingServer:
    """
    The fuzzing server as a process of its own; a context manager that ends it.

    Args:
        wstest: The program.
        directory: Where it writes its reports, its settings and its log.
        cases: Patterns of case ids, as in ``12.*``.

    Attributes:
        url: Where clients dial.
    """

    def __init__(self, wstest: Path, directory: Path, cases: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"ws://127.0.0.1:{free.getsockname()[1]}"
        self.reports = directory / "reports"
        self._spec = directory / "server.json"
        self._log = directory / "server.log"
        settings = {"url": self.url, "outdir": str(self.reports), "cases": cases, "exclude-cases": []}
        self._spec.write_text(json.dumps({**settings, "exclude-agent-cases": {}}), "utf-8")
        self._command = [str(wstest), "-m", "fuzzingserver", "-s", str(self._spec), "-u", "0"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> FuzzingServer:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=plain, cwd=self._spec.parent
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise RuntimeError(f"the fuzzing server did not start:\n{self._log.read_text('utf-8')[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), 1.0).close()
        except OSError:
            return False
        return True

    def results(self, agent: str) -> dict[str, dict[str, Any]]:
        """Read what the server found of an agent, by case id, once it was asked to write its reports."""
        index = json.loads((self.reports / "index.json").read_text("utf-8"))
        found: dict[str, dict[str, Any]] = index.get(agent, {})
        return found

    def said(self, result: dict[str, Any]) -> str:
        """Read what the server says of one case in words."""
        report = json.loads((self.reports / result["reportfile"]).read_text("utf-8"))
        return " ".join(str(report.get(key, "")) for key in ("result", "resultClose")).strip()
