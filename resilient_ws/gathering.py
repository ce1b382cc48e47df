"""
When messages that were accepted go out: at once where nothing is in flight, else a few together.

A lonely message must not wait for anybody; of a burst each write costs as much as many messages do. So while earlier
ones have no ack, new ones gather: for a moment, up to a size, or until somebody hurries. No clock here, and no message.
"""

from __future__ import annotations

import attrs

MOST_MESSAGES = 64
MOST_BYTES = 16 << 10
MOMENT = 0.001
"""Seconds for which a message waits for others at the most."""


@attrs.define
class Gathering:
    """
    What was accepted since the last write.

    Attributes:
        messages, bytes: How much.
        until: When it goes out in any case; None: it goes out with the next step.
        is_planned: Somebody was told of ``until``.
    """

    messages: int = 0
    bytes: int = 0
    until: float | None = None
    is_planned: bool = False

    def add(self, size: int, now: float, *, is_in_flight: bool) -> None:
        """Count a message; ``is_in_flight``: earlier ones were written and have no ack."""
        self.messages += 1
        self.bytes += size
        if not is_in_flight or self.messages >= MOST_MESSAGES or self.bytes >= MOST_BYTES:
            self.until = None
        elif self.messages == 1:
            self.until, self.is_planned = now + MOMENT, False

    def hurry(self) -> None:
        """Let what there is go out with the next step."""
        self.until = None

    def written(self) -> None:
        """Everything is on its way."""
        self.messages = self.bytes = 0
        self.until = None

    def newly_until(self) -> float | None:
        """Return ``until`` if nobody was told of it yet, else None; from now on somebody is."""
        if self.until is None or self.is_planned:
            return None
        self.is_planned = True
        return self.until

    @property
    def is_quiet(self) -> bool:
        """The last message changed nothing that anybody would have to be told."""
        return self.until is not None and self.is_planned
