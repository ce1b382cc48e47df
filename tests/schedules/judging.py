"""
What has to hold after a schedule, and the proof that a rule is needed for it.

Here live the property's own exception, the invariants over what was stored and delivered, and :func:`only_with`. No
schedule lives here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from resilient_ws.exceptions import Gap

if TYPE_CHECKING:
    from schedules.stage import Device, Stage

Defect = Callable[[], AbstractContextManager[Any]]


class Broken(Exception):
    """What the rule protects was violated; a schedule that does not come about is an AssertionError instead."""


def require(holds: object, what: str) -> None:
    """
    Say what the rule protects.

    Raises:
        Broken: It does not hold.
    """
    if not holds:
        raise Broken(what)


def replaced(target: Any, name: str, make: Callable[[Any], Any]) -> Defect:
    """Plant a defect: ``target.name`` becomes what ``make`` returns for the original."""
    return lambda: patch.object(target, name, make(getattr(target, name)))


def only_with(schedule: Callable[[], None], *defects: tuple[str, Defect]) -> None:
    """
    Run a schedule with every rule in force, then without one rule after the other.

    Args:
        schedule: The script with what it requires.
        defects: (the invariant that breaks, as the text of :class:`Broken` begins; the defect).
    """
    schedule()
    for invariant, defect in defects:
        with defect(), pytest.raises(Broken, match=f"^{invariant}: "):
            schedule()


def require_sound(stage: Stage) -> None:
    """Judge what was stored and what every device sent and got."""
    times = Counter((stream, text) for stream, text, _ in stage.stored)
    for (stream, text), count in times.items():
        require(count == 1, f"S2: {text!r} was stored {count} times in {stream!r}")
    for device in stage.devices:
        for stream, seq, text in device.sent:
            outcome, count = device.outcome(seq, stream), times[stream, text]
            require(outcome is not True or count == 1, f"S1: {text!r} is acked and was stored {count} times")
            require(not isinstance(outcome, Exception) or not count, f"S1: {text!r} failed ({outcome!r}) and is stored")
        for stream in {item[0] for item in device.got if isinstance(item, tuple)}:
            _require_order(stage, device, stream)


def _require_order(stage: Stage, device: Device, stream: str) -> None:
    """Judge that offsets rise, that what was skipped and is there was said, and that nothing else was delivered."""
    mine = [item for item in device.got if isinstance(item, (Gap, tuple)) and _stream_of(item) == stream]
    log = {entry.offset: entry.payload.decode() for entry in stage.store.contents(stream)}
    position: int | None = None
    held: dict[int, str] = {}
    for item in mine:
        if isinstance(item, Gap):
            last = item.next - 1 if item.last is None else item.last
            held = {offset: text for offset, text in held.items() if item.reason != "rewritten" or offset > last}
            position = max(position or 0, item.next - 1)
            continue
        _, offset, text = item
        require(position is None or offset > position, f"S2: {offset} of {stream!r} came after {position}")
        skipped = [] if position is None else [o for o in range(position + 1, offset) if o in log]
        require(not skipped, f"S5: {skipped} of {stream!r} were skipped in silence")
        held[offset], position = text, offset
    wrong = [offset for offset, text in held.items() if log.get(offset, text) != text]
    require(not wrong, f"S5: {wrong} of {stream!r} were rewritten in silence")


def _stream_of(item: Gap | tuple[str, int, str]) -> str:
    return item.stream if isinstance(item, Gap) else item[0]
