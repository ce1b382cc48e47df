"""
RFC 6455 and RFC 7692 read once more, slowly: what a stream of a server's bytes amounts to.

Shares nothing with ``framing.py`` and ``deflating.py``, and has the whole stream before it. Where two rules are broken
at once the RFCs do not say which counts, so it names every code that fits.
"""

from __future__ import annotations

import zlib

import attrs

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MAX_FINAL_BLOCKS = 16


class Broken(Exception):
    """A rule is broken; the argument is every code that fits."""

    @property
    def codes(self) -> frozenset[int]:
        """Give the codes."""
        return frozenset(self.args)


@attrs.define
class Context:
    """
    The server's deflate stream.

    Attributes:
        takeover: Whether messages refer to the ones before.
        bits: The server's window.
    """

    takeover: bool = True
    bits: int = 15
    history: bytes = b""
    stream: object = None

    def inflate(self, payload: bytes, limit: int) -> bytes:
        """Make a message whole."""
        if self.stream is None or not self.takeover:
            self.stream, self.history = zlib.decompressobj(-self.bits), b""
        rest, message, ends = payload + b"\x00\x00\xff\xff", b"", 0
        while True:
            try:
                message += self.stream.decompress(rest, limit + 1 - len(message))  # type: ignore[attr-defined]
            except zlib.error:
                raise Broken(1002) from None
            if len(message) > limit:
                raise Broken(1009)
            if not self.stream.eof:  # type: ignore[attr-defined]
                break
            rest, ends = self.stream.unused_data, ends + 1  # type: ignore[attr-defined]
            if ends > MAX_FINAL_BLOCKS:
                raise Broken(1002)
            window = (self.history + message)[-32768:]
            self.stream = zlib.decompressobj(-self.bits, zdict=window)
        self.history = (self.history + message)[-32768:]
        return message


@attrs.define
class Reading:
    """
    What a stream of bytes says.

    Attributes:
        messages: In order.
        pings: Their payloads, in order.
        pong: The newest one.
        closed: Code and reason of the close frame.
        codes: Where a rule was broken, what the close frame of the answer may say.
        is_partial: The bytes end in the middle of a frame or of a fragmented message.
    """

    limit: int
    context: Context | None
    messages: list[str | bytes] = attrs.field(factory=list)
    pings: list[bytes] = attrs.field(factory=list)
    pong: bytes | None = None
    closed: tuple[int, str] | None = None
    codes: frozenset[int] = frozenset()
    is_partial: bool = False
    _opcode: int | None = None
    _compressed: bool = False
    _parts: bytes = b""

    def read(self, wire: bytes) -> Reading:
        """Read all of it."""
        try:
            while wire and self.closed is None:
                taken = self._frame(wire)
                if taken == 0:
                    break
                wire = wire[taken:]
        except Broken as broken:
            self.codes = broken.codes
        except UnicodeDecodeError:
            self.codes = frozenset({1007})
        self.is_partial = bool(wire) or self._opcode is not None
        return self

    def _frame(self, wire: bytes) -> int:
        if len(wire) < 2:
            return 0
        fin, rsv, opcode = wire[0] >> 7, wire[0] >> 4 & 7, wire[0] & 15
        masked, short = wire[1] >> 7, wire[1] & 127
        is_control = opcode >= 8
        allowed = (0, 4) if self.context is not None and opcode in (TEXT, BINARY) else (0,)
        if rsv not in allowed or opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG) or masked:
            raise Broken(1002)
        if is_control and (short > 125 or not fin):
            raise Broken(1002)
        start = 2 + {126: 2, 127: 8}.get(short, 0)
        if len(wire) < start:
            return 0
        length = short if start == 2 else int.from_bytes(wire[2:start], "big")
        self._check(opcode, rsv == 4, length, is_control)
        if len(wire) < start + length:
            return 0
        payload = wire[start : start + length]
        if is_control:
            self._control(opcode, payload)
        else:
            self._data(fin, opcode, rsv == 4, payload)
        return start + length

    def _check(self, opcode: int, compressed: bool, length: int, is_control: bool) -> None:
        codes = set()
        if length >= 1 << 63:
            codes.add(1002)
        if not is_control:
            compressed = self._compressed if opcode == 0 and self._opcode is not None else compressed
            largest = self.limit + (self.limit // 8 + 64 if compressed else 0)
            if length > largest or (opcode == 0 and len(self._parts) + length > largest):
                codes.add(1009)
            if (opcode == 0) == (self._opcode is None):
                codes.add(1002)
        if codes:
            raise Broken(*codes)

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.pings.append(payload)
        elif opcode == PONG:
            self.pong = payload
        elif not payload:
            self.closed = 1005, ""
        else:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not (code in (*range(1000, 1004), *range(1007, 1015)) or 3000 <= code < 5000):
                raise Broken(1002)
            self.closed = code, payload[2:].decode()

    def _data(self, fin: int, opcode: int, compressed: bool, payload: bytes) -> None:
        if opcode != 0:
            self._opcode, self._compressed, self._parts = opcode, compressed, b""
        self._parts += payload
        if not fin:
            return
        message, is_text = self._parts, self._opcode == TEXT
        if self._compressed and self.context is not None:
            message = self.context.inflate(message, self.limit)
        self._opcode, self._compressed, self._parts = None, False, b""
        self.messages.append(message.decode() if is_text else message)
