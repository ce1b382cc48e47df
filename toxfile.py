"""
What tox does not do by itself: find pyenv's interpreters, and say at the end which Pythons were tested.

Also, where the variable ``CI`` is set, a missing interpreter is an error, not a skip. Variables of tox that are already
set (``TOX_DISCOVER``, ``TOX_SKIP_MISSING_INTERPRETERS``) win over all of this.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from tox.plugin import impl

if TYPE_CHECKING:
    from tox.config.cli.parser import ToxParser
    from tox.config.sets import ConfigSet
    from tox.execute import Outcome
    from tox.session.state import State
    from tox.tox_env.api import ToxEnv

MINORS = (10, 11, 12, 13)
RUN_COMMANDS = frozenset({"run", "r", "run-parallel", "p", "legacy", "le"})

_exit_codes: dict[str, int] = {}


def interpreters(root: Path) -> list[str]:
    """
    Find pyenv's newest interpreter of each supported minor version.

    Args:
        root: Pyenv's own directory, the one that holds ``versions``.
    """
    newest: dict[int, tuple[int, str]] = {}
    for home in root.glob("versions/3.*"):
        version = re.fullmatch(r"3\.(\d+)\.(\d+)", home.name)
        python = home / "bin" / "python"
        if version is None or not python.exists():
            continue
        minor, patch = int(version[1]), int(version[2])
        if minor in MINORS and (minor not in newest or newest[minor][0] < patch):
            newest[minor] = (patch, str(python))
    return [newest[minor][1] for minor in sorted(newest)]


def prepare(environ: MutableMapping[str, str]) -> None:
    """
    Set the variables that tox reads its options from, where nobody has.

    Args:
        environ: The process's environment.
    """
    if "TOX_DISCOVER" not in environ:
        found = interpreters(Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv"))
        if found:
            environ["TOX_DISCOVER"] = ";".join(found)
    if environ.get("CI", "") not in ("", "0", "false"):
        environ.setdefault("TOX_SKIP_MISSING_INTERPRETERS", "false")


def summary(selected: list[str], exit_codes: dict[str, int]) -> list[str]:
    """
    Say which environments ran and which did not.

    Args:
        selected: The environments of this run, in order.
        exit_codes: What those that ran have returned.
    """
    ran = [name if exit_codes[name] == 0 else f"{name} (failed)" for name in selected if name in exit_codes]
    absent = [name for name in selected if name not in exit_codes]
    return [
        f"environments that ran: {', '.join(ran) or 'none'}",
        f"environments that did not run (no interpreter, or not set up): {', '.join(absent) or 'none'}",
    ]


@impl
def tox_add_option(parser: ToxParser) -> None:
    """Prepare the variables, since this is the hook before tox reads them."""
    prepare(os.environ)


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    """Print the summary when tox ends, after its own report."""
    if state.conf.options.command in RUN_COMMANDS:
        atexit.register(lambda: print("\n".join(summary(list(state.envs.iter()), _exit_codes)), flush=True))


@impl
def tox_after_run_commands(tox_env: ToxEnv, exit_code: int, outcomes: list[Outcome]) -> None:
    """Remember that the environment ran."""
    _exit_codes[tox_env.conf.name] = exit_code
