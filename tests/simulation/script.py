"""
A script: everything that decides a schedule, spelled out, so that it can be shortened and pasted into a test.

``Script.drawn(seed, mix)`` is what a seed means; a shrunk one has fewer faults, devices and seconds.
"""

from __future__ import annotations

import random

import attrs

from resilient_ws.frames import PRIVATE
from resilient_ws.session import Role
from tests.simulation.application import Plan
from tests.simulation.faults import MIXES
from tests.simulation.focused import FOCUSED
from tests.simulation.nodes import FORBIDDEN_STREAM

LOAD = 20.0
ALL_ROLES = frozenset({Role.SUCCESSOR, Role.CANDIDATE, Role.STANDBY})
ROLES = (
    frozenset(), frozenset(), ALL_ROLES, frozenset({Role.SUCCESSOR}), frozenset({Role.CANDIDATE}),
    frozenset({Role.STANDBY}),
)  # fmt: skip


@attrs.frozen
class Planned:
    """One fault: when it comes, which kind, and the number under which its dice are thrown."""

    at: float
    kind: str
    dice: int


@attrs.frozen(kw_only=True)
class Script:
    """
    One schedule before it is run.

    Attributes:
        seed: Of everything that is not spelled out here: latencies, what applications do.
        nodes, retention: The cluster.
        devices: What each client does, under its number (a name that shrinking keeps).
        faults: What goes wrong, in order.
        load: Seconds after which faults and senders stop.
    """

    seed: int
    nodes: int
    retention: int
    devices: tuple[tuple[int, Plan], ...]
    faults: tuple[Planned, ...]
    load: float = LOAD

    @classmethod
    def drawn(cls, seed: int, mix: str) -> Script:
        """Draw the script of a seed."""
        dice = random.Random(f"{seed} script")
        return cls(
            seed=seed,
            nodes=dice.choice((2, 3)),
            retention=dice.choice((10_000, 10_000, 30)),
            devices=tuple(enumerate(FOCUSED[mix].cast(dice) if mix in FOCUSED else _plans(dice, mix), 1)),
            faults=_faults(dice, mix),
        )


def _plans(dice: random.Random, mix: str) -> list[Plan]:
    roles = dice.choice(ROLES[2:] if mix in ("drain", "moving") else ROLES)
    has_journal = mix in ("journal", "private")
    journal = dice.choice(("full", "normal") if has_journal else ("", "", "", "full", "normal"))
    outbox, policy = dice.choice(((40, "raise"), (40, "raise"), (6, "raise"), (6, "drop_oldest"), (6, "drop_newest")))
    plans = [
        Plan(
            publishes=("a", "b"), subscribes=("a",), roles=roles, start=dice.choice(("now", "earliest")),
            outbox=outbox, policy=policy, journal=journal,
        ),
        Plan(
            subscribes=("a", "b", PRIVATE), receivers=dice.choice((1, 2)), ack=dice.choice(("auto", "manual")),
            roles=dice.choice(ROLES), journal=journal, is_slow=dice.random() < 0.15,
        ),
    ]  # fmt: skip
    if dice.random() < 0.5:
        plans.append(Plan(publishes=("echo",), subscribes=("b", "echo"), is_echo=True, is_slow=dice.random() < 0.3))
    if dice.random() < 0.3:
        plans.append(Plan(publishes=("b", FORBIDDEN_STREAM), subscribes=(), roles=roles))
    if dice.random() < 0.2:
        plans.append(Plan(subscribes=("b", FORBIDDEN_STREAM), receivers=2, ack="manual", is_slow=True))
    return plans


def _faults(dice: random.Random, mix: str) -> tuple[Planned, ...]:
    focus = FOCUSED.get(mix)
    times = [dice.uniform(1.0, LOAD) for _ in range(dice.randint(*(focus.faults if focus else (3, 10))))]
    if focus:
        times += [dice.uniform(LOAD - 2.0, LOAD) for _ in range(focus.late)]
    if mix == "swallow":  # what is lost last is noticed by nothing that follows
        times += [dice.uniform(LOAD - 1.0, LOAD) for _ in range(4)]
    kinds = MIXES[mix]
    return tuple(Planned(at, dice.choice(kinds), dice.getrandbits(30)) for at in sorted(times))
