"""
What a node is started with: the reference server, or a command that somebody names for it.

Here live the check of such a command and the reading of one from a command line. What the command has to do is in
``docs/node.md``; processes never live here.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

REFERENCE: tuple[str, ...] = (sys.executable, "-m", "server_fixture.node")
"""The reference server."""
_LEASHED = (sys.executable, "-m", "server_fixture.leash")
_EXAMPLE = "'2:node server.js'"
_PAGE = "docs/node.md says what a command has to do"


def checked(commands: Mapping[int, Sequence[str]] | None, nodes: int) -> dict[int, tuple[str, ...]]:
    """
    Check the commands of a cluster.

    Args:
        commands: The program and its arguments, by the number of the node (1 is ``node-1``).
        nodes: How many nodes the cluster has.

    Raises:
        ValueError: One is for no node, is no list of arguments, or its program cannot be found.
    """
    for number, command in (commands or {}).items():
        where = f"commands={{{number!r}: {command!r}}}"
        if not isinstance(number, int) or not 1 <= number <= nodes:
            raise ValueError(f"{where}: there is no such node; number it from 1 to {nodes}, as in node-1")
        if isinstance(command, (str, bytes)) or not command or not all(isinstance(part, str) for part in command):
            raise ValueError(f"{where}: a command is a list of strings, as in ['node', 'server.js']; {_PAGE}")
        if shutil.which(command[0]) is None:
            raise ValueError(
                f"{where}: there is no program {command[0]!r}, neither on PATH nor from this directory; install it, "
                f"or name it by its path"
            )
    return {number: tuple(command) for number, command in (commands or {}).items()}


def parse(option: str) -> tuple[int, tuple[str, ...]]:
    """
    Read ``2:node server.js``: the number of a node and its command, with quotes as in a shell.

    Raises:
        ValueError: It is none.
    """
    number, colon, line = option.partition(":")
    try:
        command = tuple(shlex.split(line))
    except ValueError as error:
        raise ValueError(f"{option!r} cannot be read ({error}): close every quote") from None
    if not colon or not number.strip().isdecimal() or not command:
        raise ValueError(f"{option!r} is no command of a node: say the node's number and its command, as in {_EXAMPLE}")
    return int(number), command


def shown(command: Sequence[str]) -> str:
    """Write a command for people."""
    return "python -m server_fixture.node" if command == REFERENCE else shlex.join(command)


def written(number: int, command: Sequence[str]) -> str:
    """Write what :func:`parse` reads."""
    return f"{number}:{shlex.join(command)}"


def leashed(command: Sequence[str]) -> tuple[str, ...]:
    """Return a command that starts this one such that it dies with us, although it may know nothing of parents."""
    return tuple(command) if command == REFERENCE else (*_LEASHED, *command)
