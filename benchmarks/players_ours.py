"""
Ours: the whole session, and the bare transport under it.

Every player has the same verbs: ``receive(count)``, ``send(payload, count)`` (ends when the server has all of it) and
``echo(payload, count)`` (seconds of each round trip). Each uses its library as its author would for speed.
"""

from __future__ import annotations

import select
import time
from typing import Any

import resilient_ws
from benchmarks.players_tls import trusting
from resilient_ws.deflating import Offer
from resilient_ws.transport import DialOptions, Transport, dial

MOST = 1000
"""Messages that one ``recv_many()`` may give."""


class Session:
    """A Client with default settings: ordering, de-duplication, credit, acks; ``many``: by ``recv_many()``."""

    def __init__(
        self, url: str, certificate: str | None = None, *, many: bool = True, delay: float = 0.0, deflate: bool = False
    ) -> None:
        wire = resilient_ws.Wire(compression="deflate" if deflate else None)
        self.client = resilient_ws.connect(url, subscribe=["s"], stream="out", ssl=trusting(certificate), wire=wire)
        self.many = many
        self.delay = delay

    def close(self) -> None:
        self.client.close()

    def receive(self, count: int, verb: str = "flood") -> None:
        self.client.send(f"{verb} {count}")
        if self.many:
            self._receive_many(count)
            return
        recv = self.client.recv
        for _ in range(count):
            recv()

    def _receive_many(self, count: int) -> None:
        recv_many = self.client.recv_many
        while count:
            messages = recv_many(MOST)
            for message in messages:
                message.data  # noqa: B018 - as a user would
                if self.delay:
                    burn(self.delay)
            count -= len(messages)

    def pace(self, count: int) -> None:
        self.receive(count, "pace")

    def send(self, payload: str | bytes, count: int) -> None:
        send = self.client.send
        for _ in range(count):
            send(payload)
            if self.delay:
                burn(self.delay)
        self.client.flush(60)

    def echo(self, payload: str | bytes, count: int) -> list[float]:
        client, times = self.client, []
        for _ in range(count):
            start = time.perf_counter()
            client.send(payload)
            client.recv()
            if self.delay:
                burn(self.delay)
            times.append(time.perf_counter() - start)
        return times


class Bare:
    """The transport with a poll of its own, nothing above it; ``many``: so many messages to one ``write()``."""

    def __init__(self, url: str, certificate: str | None = None, *, many: int = 1, deflate: bool = False) -> None:
        tls: Any = {} if certificate is None else {"ssl": trusting(certificate)}
        offer = Offer() if deflate else None
        self.transport: Transport = dial(url, DialOptions(connect_timeout=10.0, compression=offer, **tls))
        self.poll = select.poll()
        self.poll.register(self.transport.fileno(), select.POLLIN)
        self.many = many

    def close(self) -> None:
        self.transport.shut()
        self.transport.release()

    def next(self) -> list[str | bytes]:
        """Wait for messages."""
        transport = self.transport
        while not (messages := transport.receive()):
            if not transport.has_buffered:
                self.poll.poll()
        return messages

    def write(self, messages: list[str | bytes]) -> None:
        """Write, and wait until the kernel has it."""
        if not self.transport.write(messages):
            while self.transport.wants_write:
                select.select([], [self.transport], [])
                self.transport.flush()

    def receive(self, count: int, verb: str = "flood") -> None:
        self.write([f"{verb} {count}"])
        while count:
            messages = self.next()
            for _message in messages:
                pass  # as a user would
            count -= len(messages)

    def pace(self, count: int) -> None:
        self.receive(count, "pace")

    def send(self, payload: str | bytes, count: int) -> None:
        messages = [payload] * self.many
        for _ in range(0, count, self.many):
            self.write(messages)
        self.write(["sync"])
        self.next()

    def echo(self, payload: str | bytes, count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self.write([payload])
            self.next()
            times.append(time.perf_counter() - start)
        return times


def burn(seconds: float) -> None:
    """Use the processor for so long: what the benchmarks' own test slows a subject with."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
