"""
A wrapper around a program that knows nothing of parents (a store, a balancer), so that it dies with ours all the same.

The wrapper is the `Child`; it starts the program, says READY when the program answers, hands on how it ended, and
kills it and removes its directory when the parent is gone. It runs in a process of its own: ``guard`` belongs into a
``main``, nowhere else.
"""

from __future__ import annotations

import collections.abc
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import typing

from .leash import announce_ready, die_with_parent, set_death_signal

POLL = 0.005
_HANDED_ON = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def guard(
    argv: collections.abc.Sequence[str],
    *,
    is_ready: collections.abc.Callable[[], bool],
    ready_timeout: float = 10.0,
    directory: str | None = None,
    report: collections.abc.Mapping[str, object] | None = None,
) -> typing.NoReturn:
    """
    Run a program, say READY when it answers, end as it ends.

    Args:
        argv: The program; its output goes to standard error, which is the log.
        is_ready: Asked every few milliseconds; should not block for long.
        ready_timeout: Seconds until a program that does not answer is killed.
        directory: Removed when the parent is gone; a parent that lives removes it itself.
        report: Fields for the READY line, beside the program's ``pid``.
    """
    here, is_orphaned = os.getpid(), threading.Event()

    def leash_program() -> None:
        set_death_signal(signal.SIGKILL)
        if os.getppid() != here:
            os._exit(1)

    # No thread runs here yet, so that code between fork and exec is safe.
    process = subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), preexec_fn=leash_program
    )

    def on_orphaned() -> None:
        is_orphaned.set()
        process.kill()
        process.wait()
        _remove(directory)

    def on_term(number: int, frame: types.FrameType | None) -> None:
        process.send_signal(signal.SIGCONT)
        process.terminate()

    signal.signal(signal.SIGTERM, on_term)
    die_with_parent(on_orphaned)
    if _wait_ready(process, is_ready, ready_timeout):
        announce_ready(**{**(report or {}), "pid": process.pid})
    code = process.wait()
    if is_orphaned.is_set():  # the thread that removes it too ends with this one
        _remove(directory)
    _end_as(code)


def _remove(directory: str | None) -> None:
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_ready(process: subprocess.Popen[bytes], is_ready: collections.abc.Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if is_ready():
            return True
        if time.monotonic() > deadline:
            print(f"{process.args!r} does not answer after {timeout:g} s: it is killed", file=sys.stderr, flush=True)
            process.kill()
            return False
        time.sleep(POLL)
    return False


def _end_as(code: int) -> typing.NoReturn:
    """
    End this process as the program ended: by the same signal, or with the same exit code.
    """
    if -code in _HANDED_ON:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(1.0)
    sys.exit(code if code >= 0 else 128 - code)
