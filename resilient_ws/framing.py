"""
Received bytes to whole messages: the RFC 6455 rules for what a server may send, checked at the header.

Pure: no socket, no clock, no lock. A frame that breaks a rule, or that announces more than ``max_message``, is refused
when its header is read, so nothing is allocated for it; what is compressed is inflated no further than to that size
(deflating.py). Whole unfragmented messages are sliced out of one large read
in one pass. Frames out are built elsewhere (masking.py). websocket-client builds none: it joins fragments with
``bytes +=``, which takes time that grows with the square of their number, and masks each frame by itself.
"""

from __future__ import annotations

from collections import deque

import attrs

from resilient_ws.deflating import COMPRESSED, BadMessage, Inflater

Message = str | bytes

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_FIN_TEXT, _FIN_BINARY = 0x80 | TEXT, 0x80 | BINARY

#: From here on the copies that looking for like frames makes cost more than it saves.
_LARGE = 2 << 10
#: So many bytes are cut at once: what is larger the allocator takes from the system, and gives back, every time.
_PIECE = 64 << 10
_FEW = 8
_TRIES = 4

#: So many pings are answered each; of a flood the newest (RFC 6455 section 5.5.3).
MAX_PINGS = 16

#: Codes below 3000 that RFC 6455 and its registry allow in a close frame.
_REGISTERED_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class _Refused(Exception):
    """A rule was broken; becomes Decoder.failure and never leaves this module."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def is_close_code(code: int) -> bool:
    """Tell whether a close frame may carry this code."""
    return code in _REGISTERED_CLOSE_CODES or 3000 <= code <= 4999


def parse_close(payload: bytes) -> tuple[int, str]:
    """
    Read the payload of a close frame.

    Returns:
        Code and reason; 1005 where the frame was empty.

    Raises:
        _Refused: for a bad code or one byte.
        UnicodeDecodeError: for a reason that is not UTF-8.
    """
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise _Refused(1002, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_close_code(code):
        raise _Refused(1002, f"close code {code} is not allowed in a frame")
    return code, payload[2:].decode("utf-8")


def _cut_alike(data: bytes, before: int, position: int, messages: list[Message], tries: int) -> tuple[int, int]:
    """
    Take the whole frames that follow one and have its header, as a feed of like messages brings them, all at once.

    Args:
        before: Where the one before begins.
        position: Where it ends.
        tries: How often it may be found that there are few; looking for more costs a little.

    Returns:
        Where they end, and how many tries are left.
    """
    width = position - before
    size = data[before + 1]
    start = 2 if size < 126 else 4 if size == 126 else 10
    most = min(len(data) - position, _PIECE) // width
    end = position + most * width
    for column in range(start):
        value = data[before + column : before + column + 1]
        alike = data[position + column : end : width]
        if alike.count(value) != len(alike):
            most = len(alike) - len(alike.lstrip(value))
            end = position + most * width
    if most < _FEW:
        return position, tries - 1
    if data[before] == _FIN_BINARY:
        messages += [data[at : at + width - start] for at in range(position + start, end + 1, width)]
        return end, tries
    text = data[position:end].decode("latin-1")
    found = [text[at : at + width - start] for at in range(start, len(text) + 1, width)]
    if "".join(found).isascii():
        messages += found
        return end, tries
    for at in range(position, end, width):  # one by one, so that those before a bad one are taken
        messages.append(data[at + start : at + width].decode())
    return end, tries


@attrs.define
class Decoder:
    """
    Cut the bytes of one connection into messages; keeps at most one unfinished message.

    Attributes:
        max_message: Largest message in bytes; one frame and the sum of fragments are both held to it.
        inflater: Where permessage-deflate was agreed; what is inflated is held to max_message too.
        pings: Payloads of the newest pings since somebody cleared this, in order, at most MAX_PINGS.
        pong: Payload of the newest pong since somebody set this to None.
        closed: Code and reason of the close frame; everything behind it is ignored.
        failure: Close code and text of the first broken rule; everything behind it is ignored.
    """

    max_message: int
    inflater: Inflater | None = None
    pings: deque[bytes] = attrs.field(factory=lambda: deque(maxlen=MAX_PINGS))
    pong: bytes | None = None
    closed: tuple[int, str] | None = None
    failure: tuple[int, str] | None = None
    _rest: bytearray = attrs.field(factory=bytearray, init=False)
    _needed: int = attrs.field(default=0, init=False)
    _fragments: bytearray | None = attrs.field(default=None, init=False)
    _fragments_first: int = attrs.field(default=0, init=False)

    @property
    def is_over(self) -> bool:
        """Say that a close frame or a broken rule has ended the stream of messages."""
        return self.closed is not None or self.failure is not None

    @property
    def has_partial(self) -> bool:
        """Say that part of a frame or of a fragmented message is kept."""
        return bool(self._rest) or self._fragments is not None

    def feed(self, data: bytes) -> list[Message]:
        """
        Take what one read gave; look at ``failure``, ``closed``, ``pings`` and ``pong`` afterwards.

        Returns:
            The messages that are whole now, in order.
        """
        messages: list[Message] = []
        try:
            done = self._finish(data, messages) if self._rest else 0
            if done < len(data) and not self.is_over:
                self._keep(data, self._cut(data, done, messages))
        except (_Refused, BadMessage) as refused:
            self.failure = (refused.code, refused.reason)
        except UnicodeDecodeError as error:
            self.failure = (1007, f"text that is not UTF-8 at byte {error.start}")
        if self.failure is not None:
            self._fragments = None
            self._rest.clear()
        return messages

    def _keep(self, data: bytes, done: int) -> None:
        if done < len(data) and not self.is_over:
            self._rest += data[done:] if done else data

    def _finish(self, data: bytes, messages: list[Message]) -> int:
        """Complete the frame that an earlier read began, and leave the rest of a large read where it is."""
        done, rest = 0, self._rest
        while rest and done < len(data):
            missing = max(self._needed, 2) - len(rest)
            rest += data[done : done + missing]
            done += missing
            if len(rest) < self._needed:
                break
            frame = bytes(rest)
            rest.clear()
            self._keep(frame, self._cut(frame, 0, messages))
        return done

    def _cut(self, data: bytes, position: int, messages: list[Message]) -> int:
        # The one hot loop of the inbound path: a whole message costs two index reads, a slice and an append, or a slice
        # in a run of messages of one size.
        end, limit = len(data), self.max_message
        append, tries = messages.append, _TRIES
        self._needed = 0
        while end - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length > 125 or first & 0x7F not in (TEXT, BINARY):
                start, length = self._check(data, position, first, length)
                if start > end:
                    break
            stop = start + length
            if length > limit and not first & 0x08:
                self._refuse_size(first, length)
            if stop > end:
                self._refuse_interleaved(first)
                self._needed = stop - position
                break
            if first == _FIN_TEXT and self._fragments is None:
                append(data[start:stop].decode())
            elif first == _FIN_BINARY and self._fragments is None:
                append(data[start:stop])
            else:
                self._take(first, data[start:stop], messages)
                if self.closed is not None:
                    return end
                position = stop
                continue
            is_next_alike = stop + 2 < end and data[stop] == first and data[stop + 1] == data[position + 1]
            if is_next_alike and length < _LARGE and tries:
                stop, tries = _cut_alike(data, position, stop, messages, tries)
            position = stop
        return position

    def _check(self, data: bytes, position: int, first: int, length: int) -> tuple[int, int]:
        """
        Hold the header of a frame against the rules; the length may not be there yet.

        Returns:
            Where the payload starts and its length; a start behind the end of data where the header is not whole.
        """
        opcode = first & 0x0F
        if first & 0x70:
            self._refuse_reserved(first)
        if opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise _Refused(1002, f"reserved opcode {opcode}")
        if length & 0x80:
            raise _Refused(1002, "masked frame from the server")
        if opcode >= CLOSE and (length > 125 or not first & 0x80):
            raise _Refused(1002, "control frame that is fragmented or longer than 125 bytes")
        if length < 126:
            self._refuse_overflow(opcode, length)
            return position + 2, length
        start = position + (4 if length == 126 else 10)
        if start > len(data):
            self._needed = start - position
            return start, 0
        length = int.from_bytes(data[position + 2 : start], "big")
        if length >> 63:
            raise _Refused(1002, "frame length with the top bit set")
        self._refuse_overflow(opcode, length)
        return start, length

    def _refuse_reserved(self, first: int) -> None:
        if self.inflater is None:
            raise _Refused(1002, "reserved bit set, no extension was agreed")
        if first & 0x70 != COMPRESSED or first & 0x0F not in (TEXT, BINARY):
            raise _Refused(1002, "reserved bit set, other than for the first frame of a compressed message")

    def _largest(self, first: int) -> int:
        # What cannot be compressed gets larger by it: RFC 1951 section 3.2.4, with blocks as small as encoders have.
        return self.max_message + (self.max_message >> 3) + 64 if first & COMPRESSED else self.max_message

    def _refuse_size(self, first: int, length: int) -> None:
        largest = self._largest(first if first & 0x0F else self._fragments_first)
        if length > largest:
            raise _Refused(1009, f"frame of {length} bytes, at most {largest} are taken")

    def _refuse_overflow(self, opcode: int, length: int) -> None:
        if opcode == 0 and self._fragments is not None:
            largest = self._largest(self._fragments_first)
            if len(self._fragments) + length > largest:
                raise _Refused(1009, f"fragments of more than {largest} bytes")

    def _refuse_interleaved(self, first: int) -> None:
        # Also called for a frame that is not whole yet: what can be refused at the header is.
        opcode = first & 0x0F
        if opcode == 0 and self._fragments is None:
            raise _Refused(1002, "continuation without a start")
        if opcode in (TEXT, BINARY) and self._fragments is not None:
            raise _Refused(1002, "new message inside a fragmented one")

    def _take(self, first: int, payload: bytes, messages: list[Message]) -> None:
        opcode = first & 0x0F
        if opcode == PING:
            self.pings.append(payload)
        elif opcode == PONG:
            self.pong = payload
        elif opcode == CLOSE:
            self.closed = parse_close(payload)
        else:
            self._refuse_interleaved(first)
            self._join(first, payload, messages)

    def _join(self, first: int, payload: bytes, messages: list[Message]) -> None:
        if self._fragments is None:
            if first & 0x80:
                messages.append(self._whole(first, payload))
                return
            self._fragments = bytearray()
            self._fragments_first = first
        self._fragments += payload
        if not first & 0x80:
            return
        whole, self._fragments = self._fragments, None
        messages.append(self._whole(self._fragments_first, whole))

    def _whole(self, first: int, payload: bytes | bytearray) -> Message:
        if first & COMPRESSED and self.inflater is not None:
            payload = self.inflater.inflate(payload, self.max_message)
        return payload.decode("utf-8") if first & 0x0F == TEXT else bytes(payload)
