"""
How many bytes payloads have on the wire. Bounds and credit count these.
"""

from __future__ import annotations

from collections.abc import Sequence

_SHORT = 1 << 10


def size_of(payload: str | bytes) -> int:
    """Return the bytes that a payload has on the wire."""
    if isinstance(payload, bytes) or payload.isascii():
        return len(payload)
    return len(payload.encode())


def sizes_of(payloads: Sequence[str | bytes]) -> int:
    """Return the bytes of all together; of one kind, which is the rule, without a step of ours for each."""
    if payloads and len(payloads[0]) < _SHORT:
        try:
            joined = type(payloads[0])().join(payloads)  # type: ignore[arg-type]
        except TypeError:  # not of one kind
            return sum(map(size_of, payloads))
        return size_of(joined)
    kinds = set(map(type, payloads))
    if kinds == {bytes} or (kinds == {str} and all(map(str.isascii, payloads))):  # type: ignore[arg-type]
        return sum(map(len, payloads))
    return sum(map(size_of, payloads))
