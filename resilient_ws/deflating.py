"""
permessage-deflate (RFC 7692): what is offered and agreed, and messages made smaller and whole again.

Pure: no socket, no clock, no lock. What may be compressed at all is said elsewhere (a dialect's ``is_compressible``):
whoever can put text of his own into a compression context learns from the sizes whether a secret in the same context
is like it, so that what holds a credential stays out.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import attrs

NAME = "permessage-deflate"
COMPRESSED = 0x40
"""The bit beside the opcode of a compressed message's first frame (section 6)."""
MIN_SIZE = 64
"""Messages of fewer bytes are left as they are: the time is worth more than the bytes."""
MAX_FINAL_BLOCKS = 16
"""Final blocks that one message may have: each one costs a new inflater, and has two bytes only."""

_TAIL = b"\x00\x00\xff\xff"
_WINDOW = 32 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_EXTENSION = re.compile(rf"[ \t]*({_TOKEN})[ \t]*((?:;[^;]*)*)")
_PARAMETER = re.compile(rf"[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*(?:({_TOKEN})|\"({_TOKEN})\"))?[ \t]*")
_BITS = re.compile(r"[89]|1[0-5]")
_TAKEOVER = ("client_no_context_takeover", "server_no_context_takeover")
_WINDOWS = ("client_max_window_bits", "server_max_window_bits")


class BadAnswer(ValueError):
    """The server agreed to what was not offered, or in a way that means nothing; the text goes on from "the 101"."""


class BadMessage(Exception):
    """A compressed message cannot be taken; ``code`` is what the connection is closed with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def _window_bits(_: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 8 <= value <= 15):
        raise ValueError(f"{field.name} must be a number from 8 to 15, not {value!r}")


# -- the agreement ----------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Agreement:
    """
    What both sides do, from the server's answer.

    Attributes:
        client_no_context_takeover: We begin each message without the ones before it.
        server_no_context_takeover: The server does.
        client_max_window_bits: How far back we refer: 2 to the power of this, in bytes.
        server_max_window_bits: How far back the server does.
    """

    client_no_context_takeover: bool = False
    server_no_context_takeover: bool = False
    client_max_window_bits: int = 15
    server_max_window_bits: int = 15


@attrs.frozen(kw_only=True)
class Offer:
    """
    What the client offers.

    Attributes:
        client_no_context_takeover: We shall begin each message anew, whatever the server says: less memory there.
        server_no_context_takeover: The server has to begin each message anew: less memory here, larger messages.
        client_max_window_bits: Our window is at most this one; the server may ask for a smaller one. None: not even
            that may be asked.
        server_max_window_bits: The server's window has to be at most this one; None: as it likes.
    """

    client_no_context_takeover: bool = False
    server_no_context_takeover: bool = False
    client_max_window_bits: int | None = attrs.field(default=15, validator=_window_bits)
    server_max_window_bits: int | None = attrs.field(default=None, validator=_window_bits)

    @property
    def header(self) -> str:
        """Give the value of Sec-WebSocket-Extensions; a window of 15 bits is what everybody has, and goes unsaid."""
        parts = [NAME, *(name for name in _TAKEOVER if getattr(self, name))]
        if self.client_max_window_bits is not None:
            bits = self.client_max_window_bits
            parts.append("client_max_window_bits" if bits == 15 else f"client_max_window_bits={bits}")
        if self.server_max_window_bits is not None:
            parts.append(f"server_max_window_bits={self.server_max_window_bits}")
        return "; ".join(parts)

    def agree(self, answers: Sequence[str]) -> Agreement | None:
        """
        Read what the server answered.

        Args:
            answers: The values of every Sec-WebSocket-Extensions header.

        Returns:
            What was agreed; None where the server does not compress.

        Raises:
            BadAnswer: The answer breaks RFC 7692; never quotes it.
        """
        named = ",".join(answers)
        if not named.strip(" \t,"):
            return None
        said = _parameters(named)
        no_takeover = {name: name in said for name in _TAKEOVER}
        bits = {name: None if name not in said else _bits(name, said[name]) for name in _WINDOWS}
        if self.server_no_context_takeover and not no_takeover["server_no_context_takeover"]:
            raise BadAnswer("takes permessage-deflate without server_no_context_takeover, which was asked for")
        self._check_server_window(bits["server_max_window_bits"])
        client_bits = self._client_window(bits["client_max_window_bits"])
        return Agreement(
            client_no_context_takeover=self.client_no_context_takeover or no_takeover["client_no_context_takeover"],
            server_no_context_takeover=no_takeover["server_no_context_takeover"],
            client_max_window_bits=client_bits,
            server_max_window_bits=bits["server_max_window_bits"] or 15,
        )

    def _check_server_window(self, said: int | None) -> None:
        if self.server_max_window_bits is not None and (said is None or said > self.server_max_window_bits):
            what = "without server_max_window_bits" if said is None else f"with server_max_window_bits={said}"
            raise BadAnswer(f"takes permessage-deflate {what}, at most {self.server_max_window_bits} was asked for")

    def _client_window(self, said: int | None) -> int:
        own = self.client_max_window_bits
        if said is None:
            return own or 15
        if own is None:
            raise BadAnswer("names client_max_window_bits, which was not offered")
        if said > own:
            raise BadAnswer(f"names client_max_window_bits={said}, at most {own} was offered")
        return said


def _parameters(named: str) -> dict[str, str | None]:
    """Return the parameters of the one extension that may be named; a flag has the value None."""
    match = _EXTENSION.fullmatch(named)
    if match is None or match[1].lower() != NAME:
        raise BadAnswer("names an extension that was not offered, or the header cannot be read")
    said: dict[str, str | None] = {}
    for written in match[2].split(";")[1:]:
        found = _PARAMETER.fullmatch(written)
        if found is None:
            raise BadAnswer("names an extension that was not offered, or the header cannot be read")
        key, value = found[1].lower(), found[2] or found[3]
        if key not in (*_TAKEOVER, *_WINDOWS):
            raise BadAnswer("has a parameter that permessage-deflate does not know")
        if key in said:
            raise BadAnswer(f"has {key} twice")
        if key in _TAKEOVER and value is not None:
            raise BadAnswer(f"gives {key} a value; it has none")
        said[key] = value
    return said


def _bits(name: str, value: str | None) -> int:
    if value is None or not _BITS.fullmatch(value):
        raise BadAnswer(f"gives {name} no number from 8 to 15")
    return int(value)


# -- messages ---------------------------------------------------------------------------------------------------------


class Deflater:
    """
    Makes the messages of one connection smaller, in the order in which they go out; for one thread at a time.

    Args:
        agreement: What was agreed.
    """

    __slots__ = ("_flush", "_strategy", "_stream", "_window_bits")

    def __init__(self, agreement: Agreement) -> None:
        # zlib deflates with a window of 2^9 at least. Where only 2^8 is allowed it may refer to the last byte and to
        # nothing else (Z_RLE), which is inside any window.
        is_tiny = agreement.client_max_window_bits == 8
        self._window_bits = max(agreement.client_max_window_bits, 9)
        self._strategy = zlib.Z_RLE if is_tiny else zlib.Z_DEFAULT_STRATEGY
        # A full flush forgets what was before, which is cheaper than a new stream.
        self._flush = zlib.Z_FULL_FLUSH if agreement.client_no_context_takeover else zlib.Z_SYNC_FLUSH
        self._stream: Any = None

    def deflate(self, payload: bytes) -> bytes | None:
        """
        Compress one message; what comes out has to be sent, for the next ones may refer to it: see ``forget``.

        Returns:
            The payload of its frame; None where it is so small that it goes as it is.
        """
        if len(payload) < MIN_SIZE:
            return None
        if self._stream is None:
            self._stream = zlib.compressobj(wbits=-self._window_bits, strategy=self._strategy)
        small: bytes = self._stream.compress(payload) + self._stream.flush(self._flush)
        return small[: -len(_TAIL)]

    def forget(self) -> None:
        """Begin anew: something that was compressed is not sent, and nothing may refer to it."""
        self._stream = None


class Inflater:
    """
    Makes the messages of one connection whole again, in the order in which they come; for one thread at a time.

    Args:
        agreement: What was agreed.
    """

    __slots__ = ("_has_takeover", "_history", "_stream", "_window_bits")

    def __init__(self, agreement: Agreement) -> None:
        self._has_takeover = not agreement.server_no_context_takeover
        self._window_bits = -agreement.server_max_window_bits
        self._stream: Any = None
        # The last 32 KiB: a peer may end its stream with a message (RFC 7692 section 7.2.3.4) and refer to it later.
        self._history = bytearray()

    def inflate(self, payload: bytes | bytearray, limit: int) -> bytes:
        """
        Inflate one message; stops as soon as it is above ``limit`` bytes.

        Raises:
            BadMessage: It is above the limit (1009), or no deflate stream (1002).
        """
        if self._stream is None:
            self._stream = zlib.decompressobj(self._window_bits)
        try:
            message: bytes = self._stream.decompress(payload + _TAIL, limit + 1)
            if self._stream.eof and len(message) <= limit:
                message = self._past_final_blocks(message, limit)
        except zlib.error:
            raise BadMessage(1002, "compressed message that is no deflate stream") from None
        if len(message) > limit:
            raise BadMessage(1009, f"message of more than {limit} bytes when inflated")
        if self._has_takeover:
            self._remember(message)
        else:
            self._stream = None
        return message

    def _past_final_blocks(self, message: bytes, limit: int) -> bytes:
        """Go on behind a final block, which ends a zlib stream and no context."""
        parts, size = [message], len(message)
        for _ in range(MAX_FINAL_BLOCKS):
            rest = self._stream.unused_data
            window = b"".join([self._history, *parts])[-_WINDOW:]
            self._stream = zlib.decompressobj(self._window_bits, zdict=window)
            parts.append(self._stream.decompress(rest, limit + 1 - size))
            size += len(parts[-1])
            if size > limit or not self._stream.eof:
                return b"".join(parts)
        raise BadMessage(1002, f"compressed message with more than {MAX_FINAL_BLOCKS} final blocks")

    def _remember(self, message: bytes) -> None:
        self._history += message[-_WINDOW:]
        if len(self._history) > 2 * _WINDOW:
            del self._history[:-_WINDOW]
