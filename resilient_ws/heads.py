"""
The head of an HTTP/1 answer: read line by line within limits, and what its status means.

No socket is here: who reads hands over a function that gives more bytes, and one that makes the error. Bodies are
nobody's business: none is ever read.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from resilient_ws.exceptions import ConnectError

MAX_LINE = 8 << 10
MAX_HEAD = 64 << 10
MAX_HEADERS = 100
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

#: Names in lower case, in order, repeated ones apart.
Headers = list[tuple[str, str]]
#: Makes the exception of what the other side did wrong.
Broken = Callable[[str], ConnectError]


def values_of(headers: Headers, name: str) -> list[str]:
    """Give every value of a header, by its lower-case name."""
    return [value for key, value in headers if key == name]


def read_answer(read: Callable[[], bytes], broken: Broken) -> tuple[int, Headers, bytes]:
    """
    Read the head of the answer; those with 1xx before it are passed (RFC 9110 section 15.2), except 101.

    Args:
        read: Gives more bytes, at least one, or raises.
        broken: Makes the exception where a limit is passed or the answer is malformed.

    Returns:
        Status, headers, and what came behind the head. The limits count passed heads and the last one together.
    """
    head = _Head(broken)
    while True:
        status, headers = _read_head(head, read)
        if status == 101 or status >= 200:
            return status, headers, head.rest()


def _read_head(head: _Head, read: Callable[[], bytes]) -> tuple[int, Headers]:
    status = None
    headers: Headers = []
    while True:
        line = head.line()
        if line is None:
            head.feed(read())
        elif status is None:
            status = head.status(line)
        elif not line:
            return status, headers
        else:
            headers.append(head.header(line, len(headers)))


@attrs.define
class _Head:
    """The bytes of the answer, line by line, within the limits."""

    broken: Broken
    _data: bytearray = attrs.field(factory=bytearray, init=False)
    _start: int = attrs.field(default=0, init=False)

    def feed(self, data: bytes) -> None:
        self._data += data
        if not b"HTTP/1."[: len(self._data)].startswith(bytes(self._data[:7])):
            raise self.broken("does not speak HTTP/1.1; is this the right port?")

    def line(self) -> bytes | None:
        """Give the next whole line without its end, or None where more must be read."""
        end = self._data.find(b"\n", self._start)
        length = (len(self._data) if end < 0 else end) - self._start
        if length > MAX_LINE:
            raise self.broken(f"sent a header line of more than {MAX_LINE} bytes")
        if (len(self._data) if end < 0 else end) > MAX_HEAD:
            raise self.broken(f"sent more than {MAX_HEAD} bytes of headers")
        if end < 0:
            return None
        line = bytes(self._data[self._start : end])
        self._start = end + 1
        return line.removesuffix(b"\r")

    def status(self, line: bytes) -> int:
        match = _STATUS.fullmatch(line)
        if match is None:
            raise self.broken("answered with a malformed status line")
        return int(match[1])

    def header(self, line: bytes, count: int) -> tuple[str, str]:
        if count >= MAX_HEADERS:
            raise self.broken(f"sent more than {MAX_HEADERS} headers")
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not _NAME.fullmatch(name) or "\r" in value or "\0" in value:
            raise self.broken("answered with a malformed header")
        return name.lower(), value.strip(" \t")

    def rest(self) -> bytes:
        return bytes(self._data[self._start :])
