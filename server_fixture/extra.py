"""
What to say when the ``fixture`` extra is not installed.

What lives here: the check, made before the first import that would fail. What never does: an import of any of the
modules that it looks for.
"""

from __future__ import annotations

import importlib.util
import sys

MODULES = ("aiohttp", "redis", "rich")


def missing(*modules: str) -> list[str]:
    """
    Name those of the modules that cannot be found.

    Args:
        modules: Top-level module names; none means all that the extra installs on every platform.
    """
    return [name for name in modules or MODULES if importlib.util.find_spec(name) is None]


def require(*modules: str) -> None:
    """
    Check that the modules are there; call it before you import them.

    Args:
        modules: Top-level module names; none means all that the extra installs on every platform.

    Raises:
        ImportError: One is missing; the text has the command that installs it, ``name`` the first that is missing.
    """
    absent = missing(*modules)
    if absent:
        raise ImportError(
            f"server_fixture needs {', '.join(absent)}, which the extra 'fixture' brings and which is not installed; "
            f"run: pip install 'resilient-ws[fixture]'",
            name=absent[0],
        )


def require_or_exit(*modules: str) -> None:
    """
    Check that the modules are there, for a command line: a plain message instead of a traceback.

    Args:
        modules: Top-level module names; none means all that the extra installs on every platform.

    Raises:
        SystemExit: With status 2, after the message went to standard error.
    """
    try:
        require(*modules)
    except ImportError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
