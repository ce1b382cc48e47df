"""
Messages to whole masked frames, on their way to a server: RFC 6455 sections 5.2 and 5.3.

Pure: the keys come from the caller, who cuts them from one block of random bytes. What Python has for masking is the
exclusive or of two large numbers. That costs less for one number than for many, so small frames are masked together,
by a number that is zero where their headers and keys are; and less for some thousand bytes than for more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

KEY = 4
"""Bytes of a frame's masking key."""
FIN = 0x80
_MASKED = 0x80
_AT_ONCE = 4 << 10
_BLANKS = [bytes(size + KEY) for size in range(11)]


def framed(messages: Sequence[tuple[int, bytes]], keys: bytes) -> list[bytes]:
    """
    Frame messages for a server, each unfragmented.

    Args:
        messages: Of each its opcode (with ``deflating.COMPRESSED``, where it is) and its payload.
        keys: ``KEY`` bytes for each that nobody can foretell.

    Returns:
        The frames in order, in pieces: small ones together, a large one alone.
    """
    pieces: list[bytes] = []
    plain: list[bytes] = []
    masks: list[bytes] = []
    size = 0
    for number, (opcode, payload) in enumerate(messages):
        length = len(payload)
        if plain and size + length > _AT_ONCE:
            pieces.append(_together(plain, masks))
            plain, masks, size = [], [], 0
        head = _head(opcode, length)
        key = keys[KEY * number : KEY * number + KEY]
        if length > _AT_ONCE:
            pieces.append(_alone(head + key, payload, key))
            continue
        plain += (head, key, payload)
        masks += (_BLANKS[len(head)], (key * (length // KEY + 1))[:length])
        size += length
    if plain:
        pieces.append(_together(plain, masks))
    return pieces


def _head(opcode: int, length: int) -> bytes:
    if length < 126:
        return bytes((FIN | opcode, _MASKED | length))
    if length < 1 << 16:
        return struct.pack("!BBH", FIN | opcode, _MASKED | 126, length)
    return struct.pack("!BBQ", FIN | opcode, _MASKED | 127, length)


def _together(plain: list[bytes], masks: list[bytes]) -> bytes:
    data = b"".join(plain)
    both = int.from_bytes(data, "little") ^ int.from_bytes(b"".join(masks), "little")
    return both.to_bytes(len(data), "little")


def _alone(head: bytes, payload: bytes, key: bytes) -> bytes:
    number = int.from_bytes(key * (_AT_ONCE // KEY), "little")
    whole = len(payload) // _AT_ONCE * _AT_ONCE
    parts = [
        (int.from_bytes(payload[at : at + _AT_ONCE], "little") ^ number).to_bytes(_AT_ONCE, "little")
        for at in range(0, whole, _AT_ONCE)
    ]
    rest = payload[whole:]
    return b"".join([head, *parts, _together([rest], [(key * (len(rest) // KEY + 1))[: len(rest)]])])
