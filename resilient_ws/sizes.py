"""
How many bytes payloads have on the wire. Bounds and credit count these.
"""

from __future__ import annotations

from resilient_ws.frames import Payload


def size_of(payload: Payload) -> int:
    """Return the bytes that a payload has on the wire."""
    if isinstance(payload, bytes) or payload.isascii():
        return len(payload)
    return len(payload.encode())


def sizes_of(payloads: list[Payload]) -> int:
    """Return the bytes of all together; of one kind, which is the rule, without a step of ours for each."""
    kinds = set(map(type, payloads))
    if kinds == {bytes} or (kinds == {str} and all(map(str.isascii, payloads))):  # type: ignore[arg-type]
        return sum(map(len, payloads))
    return sum(map(size_of, payloads))
