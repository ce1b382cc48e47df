"""A DNS server of one answer for tests: A and AAAA over UDP, and what it says is changed at run time."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import final

NO_ERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
_KINDS = {1: socket.AF_INET, 28: socket.AF_INET6}
_ANSWERED = 0x8180  # an answer; recursion was desired, and is available


@final
class NameServer:
    """
    Answer every name alike.

    Args:
        addresses: What names have, IPv4 and IPv6 as they come.

    Attributes:
        asked: Name and kind (1: A, 28: AAAA) of every question.
    """

    def __init__(self, *addresses: str) -> None:
        self.asked: list[tuple[str, int]] = []
        self._addresses = addresses
        self._code: int | None = NO_ERROR
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._thread = threading.Thread(target=self._serve, name="name-server", daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of a socket that is not connected; it wakes the reader nevertheless
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def say(self, *addresses: str) -> None:
        """Answer with these addresses from now on."""
        with self._changed:
            self._addresses, self._code = addresses, NO_ERROR

    def fail(self, code: int | None) -> None:
        """Answer with an error from now on; None: say nothing at all."""
        with self._changed:
            self._code = code

    def wait_asked(self, more: int = 1, timeout: float = 10.0) -> None:
        """Wait for so many more questions; AssertionError where they do not come."""
        with self._changed:
            goal = len(self.asked) + more
            assert self._changed.wait_for(lambda: len(self.asked) >= goal, timeout), self.asked

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            answer = self._answer(question)
            if answer is not None:
                with contextlib.suppress(OSError):  # the network may be down by now
                    self._socket.sendto(answer, client)

    def _answer(self, question: bytes) -> bytes | None:
        labels, at = [], 12
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind, _ = struct.unpack_from("!HH", question, at + 1)
        with self._changed:
            self.asked.append((".".join(labels), kind))
            self._changed.notify_all()
            code, addresses = self._code, self._addresses
        if code is None:
            return None
        found = [] if code else [packed for address in addresses if (packed := _packed(kind, address))]
        head = struct.pack("!2s5H", question[:2], _ANSWERED | code, 1, len(found), 0, 0)
        return head + question[12 : at + 5] + b"".join(_record(kind, packed) for packed in found)


def _packed(kind: int, address: str) -> bytes | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address) if _KINDS.get(kind) == family else None


def _record(kind: int, packed: bytes) -> bytes:
    """Make one resource record for the name of the question, not to be kept by anybody."""
    return struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed
