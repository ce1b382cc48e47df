"""
WebSocket frames as the benchmarks' server needs them: written ready-made, read no further than it must.

No socket here, and no meaning of a message: that is ``feeds.py``.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
COMPRESSED = 0x40
"""The bit beside the opcode that says so (RFC 7692 section 6)."""
PEEK = 4096
"""A frame's first bytes that are unmasked; of what is longer the rest is passed without a look."""


def head(size: int, opcode: int) -> bytes:
    """Return the header of an unmasked frame."""
    first = 0x80 | opcode
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return struct.pack(">BBH", first, 126, size)
    return struct.pack(">BBQ", first, 127, size)


def frame(message: str | bytes) -> bytes:
    """Frame a message as a server does."""
    data, opcode = (message.encode(), TEXT) if isinstance(message, str) else (message, BINARY)
    return head(len(data), opcode) + data


def deflated(data: bytes, opcode: int) -> bytes:
    """Frame a message that is compressed without the ones before it (RFC 7692 section 7.2.1)."""
    deflater = zlib.compressobj(wbits=-15)
    body = (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return head(len(body), opcode | COMPRESSED) + body


def inflated(start: bytes) -> bytes:
    """Inflate a message, or the beginning of one."""
    return zlib.decompressobj(wbits=-15).decompress(start)


def numbered(start: bytes, first: int, count: int, rest: bytes, opcode: int) -> list[bytes]:
    """Frame ``count`` messages that are ``start``, a number that rises from ``first``, and ``rest``, each alone."""
    frames: list[bytes] = []
    while count:
        digits = len(str(first))
        same = min(count, 10**digits - first)
        ahead = head(len(start) + digits + len(rest), opcode) + start
        frames += [b"%b%d%b" % (ahead, number, rest) for number in range(first, first + same)]
        first, count = first + same, count - same
    return frames


def accept(key: bytes) -> bytes:
    """Answer the key of an upgrade."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def cut(data: bytes, limit: int = PEEK) -> tuple[list[tuple[int, int, bytes]], int]:
    """
    Take the masked frames of ``data`` that are whole.

    Returns:
        For each its opcode (with COMPRESSED, where it is), its payload's size and at most ``limit`` unmasked bytes of
        it; and where the rest begins.
    """
    frames: list[tuple[int, int, bytes]] = []
    position, end = 0, len(data)
    while end - position >= 6:
        size = data[position + 1] & 127
        start = position + 6
        if size == 126:
            start = position + 8
            size = int.from_bytes(data[position + 2 : position + 4], "big")
        elif size == 127:
            start = position + 14
            size = int.from_bytes(data[position + 2 : position + 10], "big")
        if start + size > end:
            break
        frames.append((data[position] & (15 | COMPRESSED), size, unmasked(data, start, min(size, limit))))
        position = start + size
    return frames, position


def unmasked(data: bytes, start: int, size: int) -> bytes:
    """Return ``size`` bytes that begin at ``start``, where their mask ends."""
    if not size:
        return b""
    mask = data[start - 4 : start] * (size // 4 + 1)
    key = int.from_bytes(mask[:size], "big")
    return (int.from_bytes(data[start : start + size], "big") ^ key).to_bytes(size, "big")
