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
