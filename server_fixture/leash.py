"""
The child's half of a process that dies with its parent; the parent's half is ``process.Child``.

A program calls `die_with_parent` first and `announce_ready` when it serves. Started by hand it runs without a leash.
One in another language is started by ``python -m server_fixture.leash PROGRAM ARGUMENT...``, which becomes it.
"""

from __future__ import annotations

import collections.abc
import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import threading

LEASH = "RESILIENT_WS_LEASH"  # in the child's environment: the number of the pipe's end that it got
READY = "READY "
_PR_SET_PDEATHSIG = 1
_LOOK = 0.25  # seconds between two looks at who the parent is


def announce_ready(**fields: object) -> None:
    """
    Tell the parent, on standard output, that this process serves now.

    Args:
        fields: What the parent should know, as JSON values. ``pid`` names another process that is to get the signals
            instead.
    """
    sys.stdout.write(f"{READY}{json.dumps(fields)}\n")
    sys.stdout.flush()


def die_with_parent(on_orphaned: collections.abc.Callable[[], object] | None = None) -> bool:
    """
    Arrange that this process ends when the `Child` that started it is gone; call it first thing in ``main``.

    Args:
        on_orphaned: Called in a thread before the process ends, to clean up; it should take no longer than a second.
            Such a process asks for no parent-death signal, which would come before the clean-up and, where the parent
            has threads, before anybody can see that the parent is gone: one that is stopped ends when it goes on.

    Returns:
        Whether there is such a parent; False where the program was started by hand.
    """
    leash = os.environ.pop(LEASH, None)
    if leash is None:
        return False
    parent = os.getppid()
    if on_orphaned is None:
        set_death_signal(signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(OSError):
            # The parent's own children may hold the pipe open; who the parent is tells then.
            while os.getppid() == parent:
                if select.select([int(leash)], [], [], _LOOK)[0] and not os.read(int(leash), 64):
                    break
        try:
            if on_orphaned is not None:
                on_orphaned()
        finally:
            os._exit(1)

    # A signal that the watching thread took would not wake the main thread, which is the one that handles it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        threading.Thread(target=watch, name="leash", daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return True


def set_death_signal(number: int) -> None:
    """
    Ask Linux for this signal when the thread that forked this process ends; elsewhere do nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def become(argv: collections.abc.Sequence[str]) -> int:
    """
    Become another program, which Linux kills when the parent is gone, though it be stopped or never look at its leash.

    Returns:
        127 where it cannot be started; the text on standard error says why.
    """
    set_death_signal(signal.SIGKILL)
    leash = os.environ.get(LEASH)
    if leash is not None and select.select([int(leash)], [], [], 0)[0]:
        return 1  # the parent went before the signal was asked for
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        print(f"{argv[0]!r} cannot be started ({error.strerror})", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(become(sys.argv[1:]))
