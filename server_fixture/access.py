"""
Access tokens of the reference server, for tests: (principal, end, MAC), and what a hook may answer about one.

Pure: the time comes in. They prove nothing about who asked for them; a real server has an identity provider for that.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Callable, Sequence
from typing import Union

import attrs

Answer = Union[str, "tuple[str, float]", None]
"""Of an authenticate hook: a principal, (principal, seconds that the access token is still good for), or nobody."""
Authenticate = Callable[["str | None"], Answer]
"""(access token or None) -> :data:`Answer`."""

PRINCIPAL = re.compile(r"[A-Za-z0-9_~-]{1,64}\Z")
_TOKEN = re.compile(r"a1\.([A-Za-z0-9_~-]{1,64})\.([0-9]{1,12})\.([0-9a-f]{64})\Z")
_PURPOSE = b"resilient.v1 access token:"


def admitted(answer: Answer) -> tuple[str, float | None] | None:
    """Return (principal, seconds or None: no end) of a hook's answer; None where nobody gets in."""
    if answer is None:
        return None
    if isinstance(answer, str):
        return answer, None
    principal, seconds = answer
    return (principal, seconds) if seconds > 0 else None


@attrs.frozen(kw_only=True)
class Gate:
    """
    Who issues tokens and reads them.

    Attributes:
        keys: The present one and those before it; the same on every node.
        ttl: Seconds that a token is good for.
        wall: Seconds since 1970, since all nodes have to agree.
    """

    keys: tuple[bytes, ...] = attrs.field(repr=False)
    ttl: float
    wall: Callable[[], float]

    def issue(self, principal: str) -> dict[str, object]:
        """Return a token for a principal, in the form of RFC 6749."""
        until = math.ceil(self.wall() + self.ttl)
        token = f"a1.{principal}.{until}.{_mac(self.keys[0], principal, str(until))}"
        return {"access_token": token, "token_type": "Bearer", "expires_in": self.ttl}

    def authenticate(self, access_token: str | None) -> Answer:
        """Say whose a token is, and for how long; the hook of a node that issues them."""
        match = _TOKEN.match(access_token or "")
        if match is None:
            return None
        principal, until, mac = match.groups()
        if not _is_good(self.keys, principal, until, mac):
            return None
        left = int(until) - self.wall()
        return (principal, left) if left > 0 else None


def _is_good(keys: Sequence[bytes], principal: str, until: str, mac: str) -> bool:
    good = [hmac.compare_digest(_mac(key, principal, until), mac) for key in keys]
    return any(good)


def _mac(key: bytes, principal: str, until: str) -> str:
    return hmac.new(key, _PURPOSE + f"{principal}.{until}".encode(), hashlib.sha256).hexdigest()
