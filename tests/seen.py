"""The events of a Client, to wait for."""

from __future__ import annotations

import threading
from typing import Any

PATIENCE = 10.0


class Seen:
    """An ``on_event`` that remembers."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, event: Any) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, kind: type, count: int = 1, timeout: float = PATIENCE) -> list[Any]:
        """Wait for so many events of a kind."""

        def found() -> list[Any]:
            return [event for event in self.events if isinstance(event, kind)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, timeout), f"no {kind.__name__}: {self.events}"
            return found()
