"""
A child process that dies with its parent: the parent's half. The child's half is ``leash.py``.

What a child is for lives in ``engine.py`` and ``cluster.py``; nothing here knows nodes, stores or sockets.

Two leashes hold a child. A pipe whose other end only the parent has: end of file means that the parent is gone,
however it went; where others hold that end too, the parent's number tells. And on Linux the parent-death signal, which
reaches a stopped child too; a child that has to clean up does without. That signal follows the *thread* that forked, so
every child is started by one thread that lasts as long as the process.
"""

from __future__ import annotations

import collections
import collections.abc
import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import queue
import signal
import subprocess
import threading
import typing

from .leash import LEASH, READY

T = typing.TypeVar("T")

TAIL = 32


class ChildFailed(RuntimeError):
    """
    A child ended, or did not get ready, when it should have lived; the text quotes the end of its log.
    """

    def __init__(self, child: Child, what: str) -> None:
        self.name = child.name
        self.exit_code = child.exit_code
        self.log_path = child.log_path
        super().__init__(f"{child.name} {what}; the end of its log ({child.log_path}):\n{child.log_tail()}")


class _Spawner:
    """
    The one thread that starts every child of this process.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[collections.abc.Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="spawner", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def run(self, start: collections.abc.Callable[[], T]) -> T:
        """
        Run a function in the lasting thread and return what it returns.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def job() -> None:
            try:
                future.set_result(start())
            except BaseException as exc:
                future.set_exception(exc)

        self._jobs.put(job)
        return future.result()


_lock = threading.Lock()
_spawners: list[_Spawner] = []


def _spawner() -> _Spawner:
    with _lock:
        if not _spawners:
            _spawners.append(_Spawner())
        return _spawners[0]


def _after_fork() -> None:
    """
    Forget the spawner: threads do not survive a fork, and the lock may have been held.
    """
    global _lock
    _lock = threading.Lock()
    _spawners.clear()


os.register_at_fork(after_in_child=_after_fork)


def _environment(extra: collections.abc.Mapping[str, str] | None) -> dict[str, str]:
    """
    Compose a child's environment: ours, then ``extra``, and this package can be imported wherever it lies.
    """
    environment = {**os.environ, **(extra or {})}
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    inherited = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, inherited]))
    return environment


@typing.final
class Child:
    """
    A process that was started by this one and does not outlive it.

    Its standard error goes to the log file, its standard output too but for the line ``READY {json}``. It has a
    session of its own, so that Ctrl-C reaches the parent alone, which then ends its children in order.

    As a context manager it kills the child at the end.
    """

    def __init__(
        self,
        argv: collections.abc.Sequence[str],
        *,
        name: str,
        log_path: str | os.PathLike[str],
        env: collections.abc.Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        """
        Start the process and return at once; `wait_ready` waits for it.

        Args:
            argv: The program and its arguments.
            name: What errors call it.
            log_path: Its log file, appended to.
            env: What to add to the environment.
            cwd: Where to start it; None means here.

        Raises:
            OSError: The program or the log file cannot be opened.
        """
        self.name = name
        self.log_path = pathlib.Path(log_path)
        self.ready: dict[str, typing.Any] = {}
        self._was_ready = False
        self._has_reported = threading.Event()
        self._is_over = threading.Event()
        log = self.log_path.open("ab", buffering=0)
        far, self._leash = os.pipe()
        try:
            self._process = _spawner().run(lambda: self._start(argv, log, far, _environment(env), cwd))
        except BaseException:
            log.close()
            os.close(self._leash)
            raise
        finally:
            os.close(far)
        threading.Thread(target=self._follow, args=(log,), name=f"log of {name}", daemon=True).start()

    @staticmethod
    def _start(
        argv: collections.abc.Sequence[str],
        log: io.FileIO,
        far: int,
        env: dict[str, str],
        cwd: str | os.PathLike[str] | None,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**env, LEASH: str(far)},
            cwd=cwd,
            pass_fds=(far,),
            start_new_session=True,
        )

    def _follow(self, log: io.FileIO) -> None:
        """
        Copy standard output to the log, take the READY line out, see the end.
        """
        assert self._process.stdout is not None
        with log, self._process.stdout as output:
            for line in output:
                fields = _parse_ready(line)
                if fields is None or self._has_reported.is_set():
                    log.write(line)
                    continue
                self.ready, self._was_ready = fields, True
                self._has_reported.set()
        self._process.wait()
        os.close(self._leash)
        self._is_over.set()
        self._has_reported.set()

    @property
    def pid(self) -> int:
        """
        The process that gets the signals: the one that READY named, or else the child itself.
        """
        return int(self.ready.get("pid", self._process.pid))

    @property
    def exit_code(self) -> int | None:
        """
        How it ended (a signal as its negative number), or None while it lives.
        """
        return self._process.poll()

    @property
    def is_alive(self) -> bool:
        """
        Whether the process exists, stopped or not.
        """
        return self.exit_code is None

    def wait_ready(self, timeout: float = 10.0) -> dict[str, typing.Any]:
        """
        Wait until the child says that it serves.

        Args:
            timeout: Seconds to wait; a child that is not ready by then is killed.

        Returns:
            The fields of its READY line, also kept in ``ready``; whether it lives still is `expect_alive`'s.

        Raises:
            ChildFailed: It ended before it was ready, or the time was over.
        """
        if not self._has_reported.wait(timeout):
            self.terminate(2.0)
            raise ChildFailed(self, f"did not get ready within {timeout:g} s")
        if not self._was_ready:
            self.expect_alive()
        return self.ready

    def expect_alive(self) -> None:
        """
        Check that nothing unexpected ended the child.

        Raises:
            ChildFailed: It has ended; the text has its exit code and the end of its log.
        """
        if not self.is_alive:
            raise ChildFailed(self, f"ended with {_describe(self.exit_code)}")

    def wait(self, timeout: float | None = None) -> int:
        """
        Wait until the child has ended and return its exit code.

        Raises:
            TimeoutError: It still lives after ``timeout`` seconds.
        """
        if not self._is_over.wait(timeout) and self.is_alive:
            raise TimeoutError(f"{self.name} (pid {self.pid}) still lives after {timeout:g} s; kill() ends it")
        return self._process.wait()

    def kill(self) -> int:
        """
        End it at once, as a crash would (SIGKILL), and return its exit code.
        """
        self._signal(signal.SIGKILL)
        return self.wait(10.0)

    def terminate(self, timeout: float = 5.0) -> int:
        """
        Ask it to end (SIGTERM, after SIGCONT in case it is stopped), kill it when it does not, and return its exit
        code.
        """
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if not self._is_over.wait(timeout) and self.is_alive:
            return self.kill()
        return self._process.wait()

    def pause(self) -> None:
        """
        Stop it where it stands (SIGSTOP): its sockets stay open and nothing answers.

        Raises:
            ChildFailed: It has ended.
        """
        self.expect_alive()
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """
        Let it go on after `pause`.

        Raises:
            ChildFailed: It has ended.
        """
        self.expect_alive()
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def log_tail(self, lines: int = TAIL) -> str:
        """
        Quote the last lines of its log.
        """
        try:
            with self.log_path.open("r", encoding="utf-8", errors="replace") as log:
                return "".join(collections.deque(log, lines)).rstrip("\n") or "(empty)"
        except OSError as exc:
            return f"(cannot be read: {exc})"

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else f"ended with {_describe(self.exit_code)}"
        return f"<Child {self.name} pid {self.pid} {state}>"


def _parse_ready(line: bytes) -> dict[str, typing.Any] | None:
    """
    Read the fields of a READY line; None for any other line.
    """
    if not line.startswith(READY.encode()):
        return None
    try:
        fields = json.loads(line[len(READY) :])
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _describe(exit_code: int | None) -> str:
    """
    Name an exit code, a signal by its name.
    """
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
