"""Schedules that once broke something, shortened and pasted by ``python -m tests.simulation``; each stays whole."""

from __future__ import annotations

from resilient_ws.session import Role
from tests.simulation.application import Plan
from tests.simulation.schedule import Schedule
from tests.simulation.script import Planned, Script


def test_seed_20898() -> None:
    """It broke: S8 the welcome commits a seq that the old connection carried while the hello was out."""
    roles = frozenset({Role.CANDIDATE, Role.STANDBY, Role.SUCCESSOR})
    script = Script(
        seed=20898, nodes=3, retention=10000, load=18.0,
        devices=(
            (
                1,
                Plan(publishes=("a", "b"), subscribes=("a",), start="now", roles=roles, outbox=6, policy="drop_oldest"),
            ),
            (2, Plan(subscribes=("a", "b", "~"), receivers=2, journal="full")),
            (3, Plan(publishes=("b", "forbidden"), roles=roles)),
            (4, Plan(subscribes=("b", "forbidden"), receivers=2, ack="manual", is_slow=True)),
        ),
        faults=(
            Planned(at=11.914676316481899, kind="kill", dice=308965642),
            Planned(at=16.00658629040524, kind="drain", dice=250263638),
        ),
    )  # fmt: skip
    assert not Schedule(script).run().violations


def test_seed_25_of_regrown() -> None:
    """It broke: S5 what the log had no more was passed over by a skip in silence."""
    script = Script(
        seed=25, nodes=3, retention=10000, load=20.0,
        devices=(
            (2, Plan(publishes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (3, Plan(publishes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (4, Plan(subscribes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (5, Plan(subscribes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
        ),
        faults=(
            Planned(at=15.58856080908156, kind="regrow", dice=142146772),
            Planned(at=17.999791516385798, kind="regrow", dice=794778014),
        ),
    )  # fmt: skip
    assert not Schedule(script).run().violations


def test_seed_3_of_regrown() -> None:
    """It broke: S5 a message that replaced another one looked like its duplicate."""
    script = Script(
        seed=3, nodes=2, retention=10000, load=16.2,
        devices=(
            (2, Plan(publishes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (4, Plan(subscribes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (5, Plan(subscribes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
        ),
        faults=(
            Planned(at=14.994028451229656, kind="regrow", dice=294400547),
        ),
    )  # fmt: skip
    assert not Schedule(script).run().violations


def test_seed_2_of_handover() -> None:
    """It broke: S10 the old connection was granted again what an open hello had granted."""
    script = Script(
        seed=2, nodes=2, retention=30, load=12.2,
        devices=(
            (1, Plan(publishes=("a", "b"), subscribes=("a",), roles=frozenset({Role.SUCCESSOR}))),
            (2, Plan(publishes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (3, Plan(publishes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (4, Plan(subscribes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
            (5, Plan(subscribes=("a", "b"), roles=frozenset({Role.SUCCESSOR}))),
        ),
        faults=(
            Planned(at=1.3532507866182382, kind="drain", dice=223443720),
            Planned(at=1.9748182259783977, kind="drain", dice=341740761),
            Planned(at=5.061866197481814, kind="drain", dice=736638627),
            Planned(at=5.615074489346495, kind="drain", dice=583661675),
            Planned(at=11.558782497459024, kind="drain", dice=510138059),
        ),
    )  # fmt: skip
    assert not Schedule(script).run().violations


def test_seed_14_of_flapping() -> None:
    """It broke: S7 a node that reached the store for moments kept a session until it had expired."""
    script = Script(
        seed=14, nodes=2, retention=10000, load=11.2,
        devices=(
            (1, Plan(publishes=("a", "b"), subscribes=("a",))),
            (2, Plan(subscribes=("a", "b"))),
        ),
        faults=(
            Planned(at=3.3084755318735866, kind="flap", dice=148377924),
        ),
    )  # fmt: skip
    assert not Schedule(script).run().violations
