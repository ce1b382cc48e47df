"""
Who answers the session's questions: each in a short thread, one question of a kind at a time.

A question that is asked again while the first one has no answer yet waits for that one's: a function that hangs is not
called a second time. Nothing is decided here, and no function of the user's is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from resilient_ws import attempts
from resilient_ws.actions import Discover, FetchToken
from resilient_ws.events import EndpointsRefused
from resilient_ws.exceptions import ConnectError, ResilientWSError
from resilient_ws.performing import Performer


@attrs.define(eq=False, kw_only=True)
class Enquirer:
    """
    The questions of one Client.

    Attributes:
        performer: Has the session and the lock.
        answer: By the kind of question: gives the answer or raises; blocks.
    """

    performer: Performer
    answer: Mapping[type, Callable[[Any], Any]]
    _asked: set[type] = attrs.field(factory=set)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def ask(self, action: FetchToken | Discover) -> None:
        """Have a question answered; returns at once."""
        kind = type(action)
        with self._lock:
            if kind in self._asked:
                return
            self._asked.add(kind)
        try:
            attempts.start(lambda: self._find_out(action), "question")
        except RuntimeError as error:
            self._tell(action, ConnectError(f"no thread could be started to ask in ({error})"))

    def _find_out(self, action: FetchToken | Discover) -> None:
        found: Any
        try:
            found = self.answer[type(action)](action)
        except ResilientWSError as error:
            found = error
        except Exception as error:  # of headers=, say; its text may hold a secret, and the session reports ours
            found = ConnectError(f"asking for {action.what} failed with {type(error).__name__}; see headers=")
            found.__cause__ = error
        self._tell(action, found)
        self.performer.perform()

    def _tell(self, action: FetchToken | Discover, found: Any) -> None:
        with self._lock:
            self._asked.discard(type(action))
        session = self.performer.session
        with self.performer.step() as now:
            if isinstance(action, FetchToken):
                session.access_token(found, now)
            elif isinstance(found, Exception):
                session.endpoints_found(found, now)
            else:
                if found.refused:
                    refused = EndpointsRefused(source="discover", count=found.refused, why=found.why)
                    session.note(refused)
                session.endpoints_found((found.urls, found.ttl), now)
