"""
When endpoints and access tokens are asked for: again before an answer is too old, later where there was none.

Pure bookkeeping over ``now``: who answers is the shell's business, what an answer means ``asking.py``'s.
"""

from __future__ import annotations

import attrs

from resilient_ws.backoff import Backoff
from resilient_ws.state import Role

LEAST = 0.5
"""Never are two questions less than so many seconds apart, but for a first one and what a refused token asks for."""
SHORTEST, LONGEST = 1.0, 3600.0
"""Between these, in seconds, the time that an answer is good for is believed."""
DEFAULT_TTL = 60.0
"""Seconds that a list of endpoints is good for where its source does not say it."""
_BEFORE = 0.8
"""An answer is asked for anew when so much of its time is over, a little earlier at random."""


@attrs.define(kw_only=True)
class Question:
    """
    One thing that is asked again and again.

    Attributes:
        backoff: Says how long to wait after failures.
        due_at: When to ask; None: not by itself.
        out_until: A question is out, and no answer by then is a failure; None: none is out.
        asked_at: When it was asked last.
        answers, failures: How often either happened.
    """

    backoff: Backoff
    due_at: float | None = None
    out_until: float | None = None
    asked_at: float | None = None
    answers: int = 0
    failures: int = 0

    def asked(self, now: float, timeout: float) -> None:
        """Note that the question goes out."""
        self.due_at, self.asked_at, self.out_until = None, now, now + timeout

    def answered(self, now: float, ttl: float | None, early: float) -> None:
        """
        Note an answer.

        Args:
            now: The present.
            ttl: Seconds that it is good for; None: it is not asked for anew by itself.
            early: From 0 to 1: how much earlier than at the latest it is asked for anew.
        """
        self.answers += 1
        self.out_until = None
        self.backoff.stable(now)
        if ttl is None:
            self.due_at = None
        else:
            self.due_at = now + min(max(ttl, SHORTEST), LONGEST) * _BEFORE * (1.0 - early / 4)

    def failed(self, now: float) -> None:
        """Note that there was no answer: it is asked again after a delay that grows."""
        self.failures += 1
        self.out_until = None
        self.backoff.failed(now)
        self.due_at = now + max(self.backoff.delay(now), LEAST)

    def hurry(self, now: float) -> None:
        """Ask soon: something says that the last answer is not true any more."""
        soonest = now if self.asked_at is None else max(now, self.asked_at + LEAST)
        if self.out_until is None and self.backoff.failures == 0:
            self.due_at = soonest if self.due_at is None else min(self.due_at, soonest)

    def deadline(self) -> float | None:
        """Return when something is to be done."""
        return self.due_at if self.out_until is None else self.out_until


@attrs.define(kw_only=True)
class Credentials(Question):
    """
    The access token and what is known of it.

    Attributes:
        token: The newest one; None before the first.
        number: How many there were.
        refused: Tokens up to this number were refused by a server.
        expires_at: When its time is over; None: its source did not say it, so that it serves one attempt.
        is_unused: No attempt was made with it.
        waiting: The roles of connections that are dialled when there is a token.
        series, refusals: How many refusals there were in the present series of attempts, and when that began.
    """

    token: str | None = attrs.field(default=None, repr=False)
    number: int = 0
    refused: int = 0
    expires_at: float | None = None
    is_unused: bool = False
    waiting: list[Role] = attrs.field(factory=list)
    series: float | None = None
    refusals: int = 0

    @property
    def is_usable(self) -> bool:
        """There is a token that nobody refused."""
        return self.token is not None and self.refused < self.number

    def is_ready(self, role: Role, now: float) -> bool:
        """
        Say whether a dial may go out with the token that is here.

        One without a time serves one attempt, with its hedges. One whose time is over is used only where its source
        gives no other: our clock may be wrong, and the server has the say.
        """
        is_lasting = self.expires_at is not None and now < self.expires_at
        return self.is_usable and (is_lasting or self.is_unused or role is Role.CANDIDATE)

    def renewed(self, token: str, expires_in: float | None, now: float, early: float) -> None:
        """Take a new token."""
        self.token, self.expires_at = token, None if expires_in is None else now + expires_in
        self.number += 1
        self.is_unused = True
        self.answered(now, expires_in, early)

    def use(self) -> tuple[int, str | None]:
        """Return (number, token) for a dial."""
        self.is_unused = False
        return self.number, self.token

    def refuse(self, number: int) -> None:
        """Note that a server refused a token."""
        self.refused = max(self.refused, number)

    def count_refusal(self, series: float) -> int:
        """Count a refusal in the series of attempts that began then; returns which one it is."""
        self.refusals = self.refusals + 1 if self.series == series else 1
        self.series = series
        return self.refusals
