"""
What an ending asks for: the tables of close codes and HTTP statuses, and the words in a close reason that are read.

Pure functions. ``Retry(on_close=, on_status=)`` replaces the two tables; what a session does then is ``losing.py``'s.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any

import attrs

from resilient_ws.exceptions import AccessDenied, ConnectionLost, HandshakeRejected, ResilientWSError


class Treatment(enum.Enum):
    """What an ending of a connection or attempt asks of the session."""

    RETRY = "retry"
    """Another attempt, with backoff."""
    END = "end"
    """The session is over. No code means it by itself: the session knows of its own close or a ``bye``."""
    DENIED = "denied"
    """The server refused who we are: another access token, or fatal."""
    FATAL = "fatal"
    """Trying again cannot help; somebody has to change something."""
    TOO_BIG = "too_big"
    """The oldest unconfirmed message is larger than the server takes."""
    SUPERSEDED = "superseded"
    """A newer hello of this session was accepted; :func:`superseder` says whose."""
    STALE = "stale"
    """The hello's attempt number was not higher than the last one."""


CLOSE_CODES: dict[int, Treatment] = {
    1000: Treatment.RETRY,  # the end only after our own close or a bye, which the session knows
    1001: Treatment.RETRY,  # going away
    1002: Treatment.FATAL,  # protocol error
    1003: Treatment.FATAL,  # unsupported data
    1005: Treatment.RETRY,  # a close frame without a code
    1006: Treatment.RETRY,  # no close frame
    1007: Treatment.FATAL,  # invalid payload
    1008: Treatment.DENIED,  # policy violation
    1009: Treatment.TOO_BIG,  # message too big
    1010: Treatment.FATAL,  # an extension is missing
    1011: Treatment.RETRY,  # internal error
    1012: Treatment.RETRY,  # service restart
    1013: Treatment.RETRY,  # try again later
    1014: Treatment.RETRY,  # bad gateway
    1015: Treatment.RETRY,  # TLS broke
    4400: Treatment.FATAL,  # protocol error
    4401: Treatment.DENIED,  # authenticate again
    4403: Treatment.DENIED,  # forbidden, or a wrong token
    4408: Treatment.RETRY,  # no hello in time
    4409: Treatment.SUPERSEDED,  # an old fence
    4410: Treatment.STALE,  # an old attempt
    4429: Treatment.RETRY,  # slow down
}


def treat_close(code: int, reason: str) -> Treatment:
    """
    Say what a close code asks for.

    Args:
        code: The code that decides (received, else sent, else 1006).
        reason: Its reason; the table above does not read it, a dialect's own may.

    Returns:
        The table's row; RETRY for a code that it does not know, FATAL for one that RFC 6455 section 7.4.2 rules out.
    """
    if code < 1000 or code >= 5000:
        return Treatment.FATAL
    return CLOSE_CODES.get(code, Treatment.RETRY)


def treat_status(status: int) -> Treatment:
    """
    Say what an HTTP status asks for where 101 was expected.

    Returns:
        DENIED for 401 and 403. RETRY below 300 (a login portal, or a page in place of the service), where the status
        speaks of time (408, 425, 429), and from 500 on (the server's own trouble). FATAL for every other 3xx and 4xx:
        the URL or the request is wrong, so the endpoint is not asked again while there are others.
    """
    if status in (401, 403):
        return Treatment.DENIED
    if status < 300 or status in (408, 425, 429) or status >= 500:
        return Treatment.RETRY
    return Treatment.FATAL


@attrs.frozen
class Tables:
    """
    The two tables of a session, with what happens where a replaced one fails.

    Attributes:
        on_close, on_status: As in ``Retry``.
        failed: Told (name of the setting, what went wrong) where one raises or answers something else than a
            :class:`Treatment`; the built-in table then has the say.
    """

    on_close: Callable[[int, str], Treatment]
    on_status: Callable[[int], Treatment]
    failed: Callable[[str, str], object]

    def treat(self, error: BaseException) -> Treatment:
        """
        Say what the error that ended an attempt or a connection asks for.

        Returns:
            By close code or HTTP status where there is one; DENIED and FATAL where the server or we said that it is no
            use; else RETRY.
        """
        if isinstance(error, ConnectionLost):
            return self._asked("on_close", treat_close, error.code, error.reason)
        if isinstance(error, HandshakeRejected) and error.status not in (None, 101):
            return self._asked("on_status", treat_status, error.status)
        if isinstance(error, AccessDenied):
            return Treatment.DENIED
        if isinstance(error, ResilientWSError) and not error.retryable:
            return Treatment.FATAL
        return Treatment.RETRY

    def _asked(self, name: str, built_in: Callable[..., Treatment], *said: Any) -> Treatment:
        try:
            found = getattr(self, name)(*said)
        except Exception as error:
            self.failed(name, f"it raised {type(error).__name__}")
        else:
            if isinstance(found, Treatment):
                return found
            self.failed(name, f"it answered a {type(found).__name__}, not a Treatment")
        return built_in(*said)


_SUPERSEDER = re.compile(r"(?<![0-9A-Za-z_])instance=([0-9A-Fa-f]{32})(?![0-9A-Za-z])")


def superseder(reason: str) -> str | None:
    """
    Read the instance that a 4409 names.

    Returns:
        32 lowercase hexadecimal digits, or None where the reason has no well-formed ``instance=``.
    """
    found = _SUPERSEDER.search(reason)
    return None if found is None else found[1].lower()


_PUSH_BACK = re.compile(r"(?<![0-9A-Za-z_])retry_after=([0-9]{1,9}(?:\.[0-9]{1,3})?)(?![0-9A-Za-z.])")


def push_back(error: BaseException) -> float | None:
    """
    Read for how many seconds the server asked to be left alone: ``Retry-After`` of an answer, ``retry_after=`` in the
    reason of a close frame that it sent.

    Returns:
        Seconds, or None where it asked for nothing or for something that is no number.
    """
    if isinstance(error, HandshakeRejected):
        return error.retry_after
    if not isinstance(error, ConnectionLost) or error.rcvd is None:
        return None
    found = _PUSH_BACK.search(error.rcvd[1])
    return None if found is None else float(found[1])
