"""
Resume tokens: (session, generation, MAC), made and judged without a store (rule 5 of ``docs/protocol.md``).

Here lives the text of a token. Whether its session exists, and whose it is, never lives here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

import attrs

from resilient_ws.frames import MAX_NUMBER

_TOKEN = re.compile(r"v1\.([0-9a-f]{2}[A-Za-z0-9_-]{1,62})\.([1-9][0-9]{0,15})\.([0-9a-f]{64})\Z")
_PURPOSE = b"resilient.v1 resume token:"


@attrs.frozen
class Claim:
    """What a token with a good MAC says."""

    session: str
    generation: int


def mint(key: bytes, session: str, generation: int) -> str:
    """Return the token that proves the right to resume ``session`` at ``generation``."""
    return f"v1.{session}.{generation}.{_mac(key, session, generation)}"


def verify(keys: Sequence[bytes], token: str) -> Claim | None:
    """
    Judge a token.

    Args:
        keys: The present key and, while keys are rotated, the one before it.
        token: What the client sent.

    Returns:
        What it claims, or None: nothing tells apart how it is wrong.
    """
    match = _TOKEN.match(token)
    session, number, mac = match.groups() if match is not None else ("00", "1", "")
    good = [hmac.compare_digest(_mac(key, session, int(number)), mac) for key in keys]
    if not any(good) or int(number) > MAX_NUMBER:
        return None
    return Claim(session, int(number))


def _mac(key: bytes, session: str, generation: int) -> str:
    return hmac.new(key, _PURPOSE + f"{session}.{generation}".encode(), hashlib.sha256).hexdigest()
