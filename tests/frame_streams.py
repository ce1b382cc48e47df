"""What a server may say, well and badly: streams of frames drawn from a seed, and ways to cut them into reads."""

from __future__ import annotations

import zlib
from random import Random

import attrs

from server_fixture.rude import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

Message = str | bytes


@attrs.frozen
class Stream:
    """
    One connection's bytes.

    Attributes:
        wire: The bytes.
        limit: The largest message that the client takes.
        window: The server's window in bits; None: no compression was agreed.
        takeover: Whether messages refer to the ones before.
        truth: The messages, where nothing was spoilt; None where something was.
    """

    wire: bytes
    limit: int
    window: int | None
    takeover: bool
    truth: list[Message] | None


def draw_stream(rng: Random) -> Stream:
    """Draw a stream; in half of them something is wrong."""
    window = rng.choice([None, 9, 12, 15, 15])
    takeover, limit = rng.random() < 0.7, rng.choice([5000, 5000, 70_000, rng.randrange(1, 300)])
    server = _Server(rng, window, takeover)
    parts: list[bytes] = []
    truth: list[Message] = []
    for _ in range(rng.randrange(1, 12)):
        if rng.random() < 0.1:
            alike = _alike(rng)
            truth += alike
            parts += [frame(TEXT if isinstance(one, str) else BINARY, _encoded(one)) for one in alike]
            continue
        message = _message(rng)
        truth.append(message)
        parts += server.framed(message)
        if rng.random() < 0.2:
            parts.append(_control(rng))
    spoilt = rng.random() < 0.5
    if spoilt:
        parts.insert(rng.randrange(len(parts) + 1), _odd(rng))
    wire = b"".join(parts)
    if spoilt and rng.random() < 0.7:
        wire = _mutated(rng, wire)
    too_large = any(len(_encoded(message)) > limit for message in truth)
    return Stream(wire, limit, window, takeover, None if spoilt or too_large else truth)


def draw_reads(rng: Random, wire: bytes) -> list[bytes]:
    """Cut the bytes into reads: everywhere, in two, or in some places."""
    style = rng.random()
    if style < 0.2 and len(wire) < 2000:
        cuts = list(range(len(wire)))
    elif style < 0.4:
        cuts = [rng.randrange(len(wire) + 1)]
    else:
        cuts = sorted(rng.randrange(len(wire) + 1) for _ in range(rng.randrange(12)))
    return [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


class _Server:
    def __init__(self, rng: Random, window: int | None, takeover: bool) -> None:
        self.rng, self.window, self.takeover = rng, window, takeover
        self._stream = None if window is None else self._fresh(b"")
        self._sent = b""

    def _fresh(self, before: bytes) -> object:
        options = {"level": self.rng.randrange(10), "wbits": -(self.window or 15)}
        return zlib.compressobj(**options, zdict=before) if before else zlib.compressobj(**options)

    def framed(self, message: Message) -> list[bytes]:
        """Give a message's frames, compressed or not, whole or not, with control frames between."""
        rng, payload = self.rng, _encoded(message)
        rsv = 4 if self.window is not None and rng.random() < 0.8 else 0
        if rsv:
            payload = self._compressed(payload)
        cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice([0, 0, 0, 1, 2, 5])))
        pieces = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        frames = []
        for index, piece in enumerate(pieces):
            opcode = CONTINUATION if index else TEXT if isinstance(message, str) else BINARY
            frames.append(frame(opcode, piece, fin=index == len(pieces) - 1, rsv=0 if index else rsv))
            if rng.random() < 0.1:
                frames.append(_control(rng))
        return frames

    def _compressed(self, payload: bytes) -> bytes:
        rng = self.rng
        if not self.takeover:
            self._stream = self._fresh(b"")
        if rng.random() < 0.25:
            small = self._stream.compress(payload) + self._stream.flush(zlib.Z_FINISH) + b"\x00"  # type: ignore[union-attr]
            self._sent = (self._sent + payload)[-32768:]
            self._stream = self._fresh(self._sent if rng.random() < 0.5 else b"")
            return bytes(small)
        self._sent = (self._sent + payload)[-32768:]
        flush = rng.choice([zlib.Z_SYNC_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])
        small = self._stream.compress(payload) + self._stream.flush(flush)  # type: ignore[union-attr]
        return bytes(small[:-4]) if small else b"\x00"


def _encoded(message: Message) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _message(rng: Random) -> Message:
    size = rng.choice([0, 1, 5, 100, 125, 126, 127, 500, rng.randrange(3000), rng.choice([3000, 65535, 65536, 66_000])])
    kind = rng.random()
    if kind < 0.3:
        return rng.randbytes(size)
    if kind < 0.5:
        return (b"again and again " * (size // 16 + 1))[:size]
    letters = rng.choice(["ab", "a\u00e9\u20ac\U0001f600", "0123456789{}:,"])
    return "".join(rng.choices(letters, k=min(size, 2000)))


def _alike(rng: Random) -> list[Message]:
    """Draw a run of messages of one kind and size, as a feed of prices has them; some are not ASCII."""
    size, count = rng.choice([0, 1, 7, 30, 125, 126, 300]), rng.randrange(2, 60)
    if rng.random() < 0.4:
        return [rng.randbytes(size) for _ in range(count)]
    odd = rng.choice([0.0, 0.0, 0.05, 1.0])
    return ["\u00e9" * (size // 2) + "x" * (size % 2) if rng.random() < odd else "y" * size for _ in range(count)]


def _control(rng: Random) -> bytes:
    return frame(rng.choice([PING, PONG]), rng.randbytes(rng.choice([0, 4, 125])))


def _odd(rng: Random) -> bytes:
    """Give one frame that is wrong, or at least unusual."""
    code = rng.choice([0, 999, 1000, 1001, 1004, 1005, 1006, 1013, 1015, 2999, 3000, 4999, 5000, 65535])
    return rng.choice(
        [
            frame(rng.randrange(16), rng.randbytes(rng.randrange(200)), fin=rng.random() < 0.5, rsv=rng.randrange(8)),
            frame(rng.choice([TEXT, BINARY, PING]), b"masked", mask=rng.randbytes(4)),
            frame(rng.choice([TEXT, BINARY, CONTINUATION]), length=rng.choice([1 << 62, 1 << 63, 80_000, 6000])),
            bytes([0x80 | rng.choice([TEXT, BINARY])]) + b"\x7f" + (5).to_bytes(8, "big") + b"hello",
            bytes([0x80 | rng.choice([TEXT, PING])]) + b"\x7e\x00\x03abc",
            frame(CLOSE, code.to_bytes(2, "big") + rng.choice([b"", b"why", b"\xff", "\u20ac".encode()[:2]])),
            frame(CLOSE, rng.choice([b"", b"x"])),
            frame(TEXT, b"\xf0\x9f\x98", fin=False) + frame(CONTINUATION, rng.choice([b"\x80", b"x", b""])),
            frame(TEXT, rng.randbytes(rng.randrange(40)), rsv=4),
            frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=4),
            frame(rng.choice([PING, PONG]), b"p", rsv=rng.choice([4, 2, 1])),
            frame(TEXT, b"\x03\x00" * rng.randrange(20) + b"\x00", rsv=4),
            frame(BINARY, _raw_deflated(bytes(200_000))[:-1], rsv=4),
        ]
    )


def _raw_deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return deflater.compress(data) + deflater.flush()


def _mutated(rng: Random, wire: bytes) -> bytes:
    found = bytearray(wire)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at:at] = rng.randbytes(rng.randrange(1, 6))
        elif kind == 2:
            del found[at : at + rng.randrange(1, 6)]
        elif kind == 3:
            found[at:at] = found[at : at + rng.randrange(50)]
        elif rng.random() < 0.3:
            del found[at:]
    return bytes(found)
