"""
What there is once per process: forks are counted, and the end of the interpreter is known.

Nothing here starts a thread or opens a file.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

_generation = 0
_is_ending = False
_in_child: list[Callable[[], None]] = []
_at_end: list[Callable[[], None]] = []


def generation() -> int:
    """Count the forks between the first process that imported this and the present one."""
    return _generation


def is_ending() -> bool:
    """Say whether the interpreter is on its way out: no thread may be started, and a lock may be held for ever."""
    return _is_ending or sys.is_finalizing()


def is_ending_for_good() -> bool:
    """Say whether other threads have stopped already, so that waiting for one of their locks would be for ever."""
    return sys.is_finalizing()


def in_child(callback: Callable[[], None]) -> None:
    """Have ``callback()`` called in every forked child before anything else runs; it must not wait for a lock."""
    _in_child.append(callback)


def at_end(callback: Callable[[], None]) -> None:
    """Have ``callback()`` called when the interpreter ends."""
    _at_end.append(callback)


def _forked() -> None:
    global _generation
    _generation += 1
    for callback in _in_child:
        callback()


def _ending() -> None:
    global _is_ending
    _is_ending = True
    for callback in _at_end:
        callback()


atexit.register(_ending)
# Where this is absent (Windows) there is no fork either.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
