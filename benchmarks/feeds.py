"""
What the benchmarks' server says to each kind of client: the meaning of messages, without a socket.

A client asks for ``flood N`` (as fast as it takes them), ``pace N`` (2,500 each second), ``sync`` (one answer). Where
the URL's path ends with ``/echo`` everything else comes back. The size, and whether it is text, are in the query.
"""

from __future__ import annotations

import random

from benchmarks.framing import BINARY, TEXT, deflated, frame, numbered
from resilient_ws.dialects.native import Native
from resilient_ws.frames import Ack, Credit, Hello, Ping, Pong, SeqMark, StreamAnswer, Welcome

CHUNK = 128 << 10
"""About so many bytes are made ready at once."""
BATCH = 64
"""Messages in a batch frame."""
OUT = "out"
"""The stream that a session sends to; what it receives is called ``s``."""


def noise(size: int) -> bytes:
    """Make text that compresses to a little more than half: hexadecimal digits."""
    return random.Random(size).randbytes(size // 2 + 1).hex()[:size].encode()


class Plain:
    """Bare messages."""

    subprotocol = ""

    def __init__(self, size: int, *, is_text: bool, is_echo: bool, is_deflated: bool = False) -> None:
        self.payload = noise(size) if is_deflated else b"x" * size
        self.opcode = TEXT if is_text else BINARY
        self.is_echo = is_echo
        self.wanted = 0
        self.is_paced = False
        self.said: list[bytes] = []
        self.is_deflated = is_deflated
        plain = frame(self.payload.decode() if is_text else self.payload)
        self._frame = deflated(self.payload, self.opcode) if is_deflated else plain

    @property
    def peek(self) -> int:
        """How much of a frame must be unmasked: a request, or all of it."""
        return 1 << 30 if self.is_echo else 32

    def hear(self, opcode: int, size: int, start: bytes) -> None:
        """Take a message; ``start`` is its beginning."""
        if size < 32 and self.obey(start):
            return
        if self.is_echo:
            self.said.append(frame(start.decode() if opcode == TEXT else start))

    def obey(self, request: bytes) -> bool:
        """Do as a request says, if it is one."""
        verb, _, number = request.partition(b" ")
        if verb in (b"flood", b"pace"):
            self.wanted += int(number)
            self.is_paced = verb == b"pace"
        elif verb == b"sync":
            self.said.append(self.one("synced"))
        else:
            return False
        return True

    def one(self, text: str) -> bytes:
        """Frame one message with this text."""
        return frame(text)

    def heard_all(self) -> None:
        """Say what follows from everything that one read brought."""

    def more(self, limit: int) -> tuple[int, bytes]:
        """Return the next messages that are wanted, at most ``limit``: how many, and their frames."""
        count = min(self.wanted, limit, max(1, CHUNK // len(self._frame)))
        self.wanted -= count
        return count, self._frame * count


class Numbered(Plain):
    """Each message in a JSON object with its number: ``before`` it, and what comes after it (``%b``: the payload)."""

    before = after = b""
    _last = 0

    def more(self, limit: int) -> tuple[int, bytes]:
        count = min(self.wanted, limit, max(1, CHUNK // len(self._frame)))
        self.wanted -= count
        frames = numbered(self.before, self._last + 1, count, self.after % self.payload, TEXT)
        self._last += count
        return count, b"".join(frames)


class Envelope(Numbered):
    """Each message in a JSON envelope with a position; acks are read and not answered."""

    before, after = b'{"stream":"s","offset":', b',"data":"%b"}'

    def hear(self, opcode: int, size: int, start: bytes) -> None:
        if start.startswith(b'{"stream"'):  # an envelope that came in: its ack
            offset = int(start[23 : start.index(b",", 23)])
            self.said.append(frame(f'{{"ack":{offset}}}'))
        elif not start.startswith(b"{"):
            super().hear(opcode, size, start)


class Session(Plain):
    """The native dialect, single frames: hello, credit and acks are honoured, nothing is ever lost."""

    subprotocol = "resilient.v1"

    def __init__(self, size: int, **how: bool) -> None:
        super().__init__(size, **how)
        self.codec = Native().server()
        self.offset = 0
        self.credit = self.credit_bytes = 0
        self.sent_bytes = 0
        self._committed: SeqMark | None = None
        self._ready: list[bytes] = []

    @property
    def peek(self) -> int:
        return 1 << 30 if self.is_echo else 4096

    def hear(self, opcode: int, size: int, start: bytes) -> None:
        if start.startswith(b"{"):
            for item in self.codec.decode([start.decode()]):
                self.heard(item)
            return
        header, _, body = start.partition(b":")[2].partition(b":")
        number, _, count = header.partition(b"*")
        last = int(number.partition(b";")[0]) + int(count.partition(b";")[0] or 1) - 1
        self._committed = SeqMark(0, OUT, last)
        if size < 64 and self.obey(body):
            return
        if self.is_echo:
            self.said.append(self.one(body.decode()) if opcode == TEXT else self.one_binary(body))

    def obey(self, request: bytes) -> bool:
        is_obeyed = super().obey(request)
        if self.is_deflated and self.wanted > len(self._ready):
            # All of them now: compressing while the client works would slow it down, and it is no part of its work.
            numbers = range(self.offset + 1 + len(self._ready), self.offset + 1 + self.wanted)
            self._ready += [deflated(b"s:%d:%b" % (number, self.payload), self.opcode) for number in numbers]
        return is_obeyed

    def heard_all(self) -> None:
        if self._committed is not None:
            # Before what it echoes, as a node does that commits first.
            self.said.insert(0, self.encoded(Ack(committed=(self._committed,))))
            self._committed = None

    def heard(self, item: object) -> None:
        """Take a control frame."""
        if isinstance(item, Hello):
            answers = tuple(StreamAnswer(stream=s.stream, id=s.id, epoch="e", first=1) for s in item.streams)
            self.said.append(
                self.encoded(
                    Welcome(
                        session="s", token="t", generation=1, verdict="new", ttl=60.0, node="n", incarnation="i",
                        producer_ttl=60.0, max_message=1 << 20, streams=answers,
                    )
                )
            )  # fmt: skip
        credit = item if isinstance(item, Credit) else getattr(item, "credit", None)
        if credit is not None:
            self.credit = max(self.credit, credit.messages)
            self.credit_bytes = max(self.credit_bytes, credit.bytes)
        if isinstance(item, Ping):
            self.said.append(self.encoded(Pong(echo=item.echo)))

    def encoded(self, item: object) -> bytes:
        """Frame a control frame."""
        return b"".join(frame(message) for message in self.codec.encode([item]))  # type: ignore[list-item]

    def one(self, text: str) -> bytes:
        self.offset += 1
        self.sent_bytes += len(text)
        return frame(f"s:{self.offset}:{text}")

    def one_binary(self, data: bytes) -> bytes:
        """Frame one binary message."""
        self.offset += 1
        self.sent_bytes += len(data)
        return frame(b"s:%d:%b" % (self.offset, data))

    def granted(self, limit: int) -> int:
        """How many messages may be sent now, and are wanted."""
        size = len(self.payload)
        by_bytes = (self.credit_bytes - self.sent_bytes) // size
        return max(0, min(self.wanted, limit, self.credit - self.offset, by_bytes, max(1, CHUNK // size)))

    def more(self, limit: int) -> tuple[int, bytes]:
        count = self.granted(limit)
        frames = self.framed(count)
        self.wanted -= count
        self.offset += count
        self.sent_bytes += count * len(self.payload)
        return count, frames

    def framed(self, count: int) -> bytes:
        """Frame the next ``count`` messages."""
        if self.is_deflated:
            frames, self._ready = self._ready[:count], self._ready[count:]
            return b"".join(frames)
        return b"".join(numbered(b"s:", self.offset + 1, count, b":" + self.payload, self.opcode))


class Batch(Session):
    """The native dialect, batch frames of 64 messages."""

    def framed(self, count: int) -> bytes:
        mark = ";text" if self.opcode == TEXT else ""
        frames, first = [], self.offset + 1
        for begin in range(0, count, BATCH):
            some = min(BATCH, count - begin)
            if some == 1:
                frames += numbered(b"s:", first + begin, 1, b":" + self.payload, self.opcode)
                continue
            lengths = ",".join([str(len(self.payload))] * some)
            frames.append(frame(f"s:{first + begin}*{some}{mark}:{lengths}:".encode() + self.payload * some))
        return b"".join(frames)
