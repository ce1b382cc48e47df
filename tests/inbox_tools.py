"""An inbox that holds one stream, ticker, and short ways to look at it."""

from __future__ import annotations

from typing import Any

from resilient_ws.config import Inbox
from resilient_ws.exceptions import Gap
from resilient_ws.frames import StreamAnswer
from resilient_ws.inbox import Arrivals, Run
from resilient_ws.subscription import Subscription


def answer(first: int, live: int | None = None, **changes: Any) -> StreamAnswer:
    """Answer subscription 1 of ticker."""
    known = {"stream": "ticker", "id": 1, "epoch": "e1", "first": first, "live": first - 1 if live is None else live}
    return StreamAnswer(**{**known, **changes})


def active(offset: int = 10, *, report: bool = False, **settings: Any) -> Arrivals:
    """Make an inbox that holds ticker up to an offset."""
    box = Arrivals(Inbox(**settings), report_gaps=report)
    box.subscribe("ticker", "now")
    box.answered(answer(offset + 1))
    return box


def ticker(box: Arrivals) -> Subscription:
    """Return the subscription."""
    return box.subscriptions["ticker"]


def taken(box: Arrivals, limit: int = 100, receiver: int = 0) -> list[Any]:
    """Take: offsets of messages, and markers as they are."""
    found: list[Any] = []
    for item in box.take(limit, receiver):
        found.extend(range(item.first, item.first + len(item.payloads)) if isinstance(item, Run) else [item])
    return found


def told(found: Gap | None) -> tuple[Any, ...] | None:
    """Return a gap's numbers."""
    return None if found is None else (found.first, found.last, found.reason, found.epoch, found.next)
