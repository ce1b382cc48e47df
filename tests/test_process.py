"""Child processes that die with their parent: real processes, real signals."""

from __future__ import annotations

import collections.abc
import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import typing

import pytest

from server_fixture import leash, process
from server_fixture.process import Child, ChildFailed

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")

PREAMBLE = "import os, signal, socket, sys, time\nfrom server_fixture.leash import announce_ready, die_with_parent\n"
SERVE = "die_with_parent()\nannounce_ready(answer=42)\nsignal.pause()\n"
# Answers every byte on a connection to the test, so that the test sees it stop, go on and end.
ECHO = """
die_with_parent()
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
announce_ready()
while data := connection.recv(1):
    connection.sendall(data)
"""
# A parent that starts the child of its first argument and then waits to be killed.
PARENT = """
import pathlib, signal, sys
from server_fixture.process import Child
child = Child([sys.executable, "-c", sys.argv[1], sys.argv[2]], name="echo", log_path=sys.argv[3])
child.wait_ready()
sys.stdin.readline()
getattr(child, sys.argv[4])()
print("done", flush=True)
signal.pause()
"""
IMPORTABLE = {**os.environ, "PYTHONPATH": str(pathlib.Path(process.__file__).parent.parent)}
Starter: typing.TypeAlias = collections.abc.Callable[..., Child]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> collections.abc.Iterator[Starter]:
    """Start Python code as a child; kill it at the end."""
    children: list[Child] = []

    def start(code: str, *args: str, **options: typing.Any) -> Child:
        argv = [sys.executable, "-c", PREAMBLE + code, *args]
        children.append(Child(argv, name="worker", log_path=tmp_path / "worker.log", **options))
        return children[-1]

    yield start
    for child in children:
        child.kill()


@pytest.fixture
def listener() -> collections.abc.Iterator[socket.socket]:
    """A socket that a child can connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@contextlib.contextmanager
def accepted(listener: socket.socket) -> collections.abc.Iterator[socket.socket]:
    """The child's connection, which answers."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        assert answers(connection)
        yield connection


def port(listener: socket.socket) -> str:
    """The port to tell the child."""
    return str(listener.getsockname()[1])


def answers(connection: socket.socket) -> bool:
    """Ask the child to echo a byte; False where it ended."""
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b"x"
    except ConnectionError:
        return False


def has_ended(connection: socket.socket) -> bool:
    """Wait for the end of the child, which ends its connection."""
    try:
        while connection.recv(64):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_ready_brings_its_fields(start: Starter) -> None:
    """The parent gets what the READY line tells, and the child lives."""
    child = start(SERVE)
    assert child.wait_ready() == child.ready == {"answer": 42}
    assert child.is_alive
    assert child.exit_code is None
    assert re.fullmatch(r"<Child worker pid \d+ alive>", repr(child))


def test_output_goes_to_the_log(start: Starter) -> None:
    """What a child prints is in its log but for the first READY line; what only looks like one is in it too."""
    lines = ["print('READY now')", "print('READY [1]')", "announce_ready()", "announce_ready(again=1)"]
    child = start("\n".join([*lines, "print('later', file=sys.stderr)"]))
    assert child.wait(10) == 0
    assert sorted(child.log_tail().splitlines()) == ["READY [1]", "READY now", 'READY {"again": 1}', "later"]
    assert child.ready == {}


def test_end_before_ready_quotes_the_log(start: Starter) -> None:
    """A child that ends too early is an error with its exit code and the last 32 lines of its log."""
    child = start("for n in range(40): print('line', n, file=sys.stderr)\nsys.exit(7)")
    with pytest.raises(ChildFailed, match="worker ended with exit code 7") as caught:
        child.wait_ready()
    text = str(caught.value)
    assert (caught.value.name, caught.value.exit_code, caught.value.log_path) == ("worker", 7, child.log_path)
    assert str(child.log_path) in text
    assert text.splitlines()[1:] == [f"line {n}" for n in range(8, 40)]


def test_never_ready_is_ended(start: Starter) -> None:
    """A child that says nothing in time is an error, and does not go on."""
    child = start("signal.pause()")
    with pytest.raises(ChildFailed, match=r"did not get ready within 0.3 s; .*\n\(empty\)"):
        child.wait_ready(0.3)
    assert not child.is_alive


def test_program_that_cannot_be_started(tmp_path: pathlib.Path) -> None:
    """A missing program is an OSError at once, and leaves no descriptor behind."""
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(FileNotFoundError):
        Child([str(tmp_path / "nothing")], name="worker", log_path=tmp_path / "log")
    assert len(os.listdir("/dev/fd")) == before


def test_kill_is_a_crash(start: Starter) -> None:
    """kill() ends a child by SIGKILL, twice is no error, and signals to the dead are errors that say so."""
    child = start(SERVE)
    child.wait_ready()
    assert child.kill() == child.kill() == child.exit_code == -signal.SIGKILL
    for signalled in (child.pause, child.resume, child.expect_alive):
        with pytest.raises(ChildFailed, match="worker ended with SIGKILL"):
            signalled()
    assert repr(child).endswith("ended with SIGKILL>")


def test_context_manager_kills(tmp_path: pathlib.Path) -> None:
    """At the end of the with block the child is gone."""
    with Child([sys.executable, "-c", PREAMBLE + SERVE], name="worker", log_path=tmp_path / "log") as child:
        child.wait_ready()
    assert child.exit_code == -signal.SIGKILL


def test_terminate_lets_it_end_in_order(start: Starter) -> None:
    """terminate() gives a child the chance to end by itself, even where it is stopped."""
    child = start("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n" + SERVE)
    child.wait_ready()
    child.pause()
    assert child.terminate() == child.terminate() == 3


def test_a_child_that_ended_behind_its_ready_line_was_ready(start: Starter) -> None:
    """Which of the two the parent notices first makes no difference."""
    child = start("announce_ready(port=7)")
    assert child.wait(10.0) == 0
    assert child.wait_ready() == {"port": 7}
    with pytest.raises(ChildFailed, match="exit code 0"):
        child.expect_alive()


@linux
def test_signals_wake_the_main_thread(start: Starter) -> None:
    """The watching thread takes no signal, the main thread does, so that SIGTERM wakes the one that handles it."""
    code = """
import pathlib, threading
die_with_parent()
(watcher,) = (thread for thread in threading.enumerate() if thread.name == "leash")
status = pathlib.Path(f"/proc/self/task/{watcher.native_id}/status").read_text()
(blocked,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:"))
mine = signal.pthread_sigmask(signal.SIG_BLOCK, [])
announce_ready(watcher=bool(blocked >> (signal.SIGTERM - 1) & 1), main=len(mine))
"""
    assert start(code).wait_ready() == {"watcher": True, "main": 0}


def test_terminate_ends_the_stubborn(start: Starter) -> None:
    """A child that ignores SIGTERM is killed when the time is over."""
    child = start(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ndie_with_parent()\nannounce_ready()\nwhile True: signal.pause()"
    )
    child.wait_ready()
    assert child.terminate(0.2) == -signal.SIGKILL


def test_wait_is_bounded(start: Starter) -> None:
    """Waiting for a child that lives ends with TimeoutError."""
    child = start(SERVE)
    child.wait_ready()
    with pytest.raises(TimeoutError, match=r"still lives after 0\.05 s"):
        child.wait(0.05)


def test_pause_and_resume(start: Starter, listener: socket.socket) -> None:
    """A paused child keeps its connection and does not answer; resumed it answers what it was asked meanwhile."""
    child = start(ECHO, port(listener))
    with accepted(listener) as connection:
        child.wait_ready()
        child.pause()
        connection.settimeout(0.3)
        connection.sendall(b"y")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert child.is_alive
        connection.settimeout(10)
        child.resume()
        assert connection.recv(1) == b"y"


def test_signals_go_to_the_process_that_ready_named(start: Starter) -> None:
    """A wrapper names the process that is to get the signals."""
    code = "pid = os.fork()\nif pid == 0: signal.pause()\nannounce_ready(pid=pid)\n"
    child = start(code + "sys.exit(os.waitpid(pid, 0)[1] + 100)")
    assert child.wait_ready() == {"pid": child.pid}
    os.kill(child.pid, 0)
    assert child.kill() == signal.SIGKILL + 100


def test_environment_and_directory(start: Starter, tmp_path: pathlib.Path) -> None:
    """A child gets our environment, what was added, the directory, and can import the package from anywhere."""
    told = "added=os.environ['ADDED'], path=os.environ['PATH'], leash=os.environ.get('RESILIENT_WS_LEASH')"
    child = start(f"die_with_parent()\nannounce_ready({told}, cwd=os.getcwd())", env={"ADDED": "yes"}, cwd=tmp_path)
    assert child.wait_ready() == {
        "added": "yes",
        "path": os.environ["PATH"],
        "leash": None,
        "cwd": str(tmp_path.resolve()),
    }


def test_ctrl_c_reaches_the_parent_alone(start: Starter) -> None:
    """A child has a session of its own, so that the terminal's Ctrl-C does not end it before its parent does."""
    child = start(SERVE)
    child.wait_ready()
    assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_log_that_is_gone_is_told(start: Starter) -> None:
    """A missing log does not hide the error that wanted to quote it."""
    child = start(SERVE)
    child.wait_ready()
    child.log_path.unlink()
    child.kill()
    with pytest.raises(ChildFailed, match=r"SIGKILL.*\n\(cannot be read: "):
        child.expect_alive()


def test_started_by_hand_there_is_no_leash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that nobody started as a Child goes on without a parent."""
    monkeypatch.delenv(leash.LEASH, raising=False)
    before = threading.active_count()
    assert leash.die_with_parent() is False
    assert threading.active_count() == before


@contextlib.contextmanager
def parent(
    listener: socket.socket, tmp_path: pathlib.Path, code: str, then: str = "expect_alive"
) -> collections.abc.Iterator[socket.socket]:
    """A parent with an echo child; it does something to the child, then it is killed by SIGKILL."""
    argv = [sys.executable, "-c", PARENT, PREAMBLE + code, port(listener), str(tmp_path / "log"), then]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=IMPORTABLE) as process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        connection = stack.enter_context(accepted(listener))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n"
        process.kill()
        process.wait(10)
        yield connection


def test_killed_parent_leaves_no_child(listener: socket.socket, tmp_path: pathlib.Path) -> None:
    """A parent that is killed by SIGKILL takes its child along."""
    with parent(listener, tmp_path, ECHO) as connection:
        assert has_ended(connection)


def test_pipe_alone_ends_the_child(listener: socket.socket, tmp_path: pathlib.Path) -> None:
    """Where there is no parent-death signal, the end of the pipe does it."""
    without = "import server_fixture.leash\nserver_fixture.leash.set_death_signal = lambda number: None\n"
    with parent(listener, tmp_path, without + ECHO) as connection:
        assert has_ended(connection)


@linux
def test_killed_parent_leaves_no_stopped_child(listener: socket.socket, tmp_path: pathlib.Path) -> None:
    """A stopped child, which cannot read a pipe, is ended by the parent-death signal."""
    with parent(listener, tmp_path, ECHO, "pause") as connection:
        assert has_ended(connection)


def test_child_without_leash_would_stay(listener: socket.socket, tmp_path: pathlib.Path) -> None:
    """The tests above see the leash at work: a child that does not use it outlives its parent."""
    with parent(listener, tmp_path, ECHO.replace("die_with_parent()", "signal.alarm(20)")) as connection:
        connection.settimeout(0.5)
        assert not has_ended(connection)
        assert answers(connection)


def start_in_a_thread(start: Starter, listener: socket.socket) -> Child:
    """Start an echo child in a thread that ends at once."""
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(start(ECHO, port(listener))))
    thread.start()
    thread.join(10)
    return children[0]


def test_child_outlives_the_thread_that_asked_for_it(start: Starter, listener: socket.socket) -> None:
    """A child that was asked for by a short thread lives on when the thread has ended."""
    child = start_in_a_thread(start, listener)
    with accepted(listener) as connection:
        child.wait_ready()
        assert answers(connection)
        assert child.is_alive


@linux
def test_child_forked_by_a_short_thread_would_die(
    start: Starter, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lasting thread is needed: a child that a short thread forks itself is killed with that thread."""
    monkeypatch.setattr(process._Spawner, "run", lambda self, begin: begin())
    release = threading.Event()
    children: list[Child] = []

    def fork_and_stay() -> None:
        children.append(start(ECHO, port(listener)))
        release.wait(10)

    thread = threading.Thread(target=fork_and_stay)
    thread.start()
    try:
        with accepted(listener) as connection:
            children[0].wait_ready()
            release.set()
            thread.join(10)
            assert has_ended(connection)
    finally:
        release.set()
    assert children[0].wait(10) == -signal.SIGKILL


def test_children_after_a_fork(tmp_path: pathlib.Path) -> None:
    """A forked process, in which the lasting thread does not exist, starts children of its own."""
    code = f"""
import os, sys
from server_fixture.process import Child
def go(name):
    argv = [sys.executable, "-c", {PREAMBLE + SERVE!r}]
    with Child(argv, name=name, log_path=os.path.join({str(tmp_path)!r}, name)) as child:
        child.wait_ready()
go("before")
pid = os.fork()
if pid == 0:
    go("after")
    os._exit(5)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=IMPORTABLE, timeout=30)
    assert done.returncode == 5


def test_unknown_signal_has_a_number() -> None:
    """A signal without a name is told by its number."""
    assert process._describe(-200) == "signal 200"
    assert process._describe(0) == "exit code 0"
