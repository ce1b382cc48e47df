"""
Shortening a script that fails: fewer faults, fewer devices, an earlier end, as long as the same invariant breaks.

What is left is printed as a test to paste.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from tests.simulation.application import Plan
from tests.simulation.schedule import Schedule
from tests.simulation.script import Script

MOST_RUNS = 400
"""So many runs are tried at most; each costs as much as a schedule."""
EARLIER = (0.25, 0.5, 0.75, 0.9)


def broken_by(script: Script) -> set[str]:
    """Return the invariants that a script breaks."""
    return {violation.split()[0] for violation in Schedule(script).run().violations}


def shrink(script: Script, fails: Callable[[Script], set[str]] = broken_by) -> Script:
    """
    Return the shortest script that could be found that breaks an invariant which ``script`` breaks.

    Args:
        script: One that fails.
        fails: Runs a script and returns the invariants that it breaks.
    """
    wanted = fails(script)
    runs = 0
    best, is_shorter = script, True
    while is_shorter:
        is_shorter = False
        for candidate in _shorter(best):
            if runs >= MOST_RUNS:
                return best
            runs += 1
            if fails(candidate) & wanted:
                best, is_shorter = candidate, True
                break
    return best


def _shorter(script: Script) -> Iterator[Script]:
    """Yield shorter scripts, those first that leave out most."""
    faults = script.faults
    size = len(faults) // 2
    while size >= 1:
        for at in range(0, len(faults), size):
            yield attrs.evolve(script, faults=faults[:at] + faults[at + size :])
        size //= 2
    if len(script.devices) > 1:
        for device in script.devices:
            yield attrs.evolve(script, devices=tuple(other for other in script.devices if other != device))
    for share in EARLIER:
        load = round(script.load * share, 1)
        if 1.0 <= load < script.load - 0.3:
            yield attrs.evolve(script, load=load, faults=tuple(fault for fault in faults if fault.at < load))


def pasted(script: Script, violations: list[str]) -> str:
    """Return a test of this script, for tests/test_simulation_regressions.py."""
    devices = "".join(f"            ({number}, {_written(plan)}),\n" for number, plan in script.devices)
    faults = "".join(f"            {fault!r},\n" for fault in script.faults).replace("'", '"')
    what = violations[0].replace('"', "'")[:80] if violations else "nothing any more"
    return (
        f"def test_seed_{script.seed}() -> None:\n"
        f'    """It broke: {what}"""\n'
        "    script = Script(\n"
        f"        seed={script.seed}, nodes={script.nodes}, retention={script.retention}, load={script.load},\n"
        f"        devices=(\n{devices}        ),\n"
        f"        faults=(\n{faults}        ),\n"
        "    )  # fmt: skip\n"
        "    assert not Schedule(script).run().violations\n"
    )


def _written(plan: Plan) -> str:
    """Return a plan as source, without what has its default."""
    given = {
        field.name: getattr(plan, field.name)
        for field in attrs.fields(Plan)
        if getattr(plan, field.name) != field.default
    }
    if "roles" in given:
        roles = ", ".join(sorted(f"Role.{role.name}" for role in given["roles"]))
        given["roles"] = _Source(f"frozenset({{{roles}}})")
    return f"Plan({', '.join(f'{name}={value!r}' for name, value in given.items())})".replace("'", '"')


class _Source(str):
    """Text that stands for itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
