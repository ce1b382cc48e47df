"""
What the recovery benchmark kills, and a feed that goes on whatever dies.

The servers of a pool accept from one listening socket, so that whoever is left of them takes the next connection and
nothing stands in between. Each connection is greeted with the number of the process that serves it, in the words of
the path's protocol, and what it sends comes back. The nodes of ours are a real cluster and not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import threading
import time
import typing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import attrs

from benchmarks import serving
from benchmarks.feeds import Plain
from benchmarks.foreign import Azure, SocketIO
from benchmarks.framing import frame

INTERVAL = 0.005
"""Seconds between two messages of the feed."""
STREAM = "feed"
PATIENCE = 30.0
"""Seconds that a process gets until it serves."""


@attrs.frozen
class Loss:
    """
    What happened, in seconds since an instant that all processes of the machine share.

    Attributes:
        told: The signal was sent.
        ended: A socket said that its connection is over; where none did before a message came again, that instant.
        again: The first message that the next connection brought was in the user's hands.
        silence: The longest time between two messages from ``told`` until both ``ended`` and ``again`` were over.
    """

    told: float
    ended: float
    again: float
    silence: float = 0.0


class Greeting(Plain):
    """Plain WebSocket: the process's number at once, then an echo."""

    def __init__(self, size: int, **how: bool) -> None:
        super().__init__(size, **{**how, "is_echo": True})
        self.said.append(frame(str(os.getpid())))


class GreetingSocketIO(SocketIO):
    """The same as an event ``m``, once the client is in its namespace."""

    def hear(self, opcode: int, size: int, start: bytes) -> None:
        super().hear(opcode, size, start)
        if start.startswith(b"40"):
            self.said.append(self.one(str(os.getpid())))


class GreetingAzure(Azure):
    """The same as a message from the server; its number is the time, so that the next server's is above it."""

    def __init__(self, size: int, **how: bool) -> None:
        super().__init__(size, **how)
        facts = {"sequenceId": time.monotonic_ns() // 1000, "type": "message", "from": "server", "dataType": "text"}
        self.said.append(frame(json.dumps({**facts, "data": str(os.getpid())})))


GREETINGS: dict[str, type[Plain]] = {"plain": Greeting, "socket.io": GreetingSocketIO, "azure": GreetingAzure}


def serve(listener: socket.socket, pipe: Connection) -> None:
    """Be one server of a pool: say so, and serve until killed or the parent is gone."""
    serving.FEEDS.update(GREETINGS)
    threading.Thread(target=serving.listen, args=(listener, None), daemon=True).start()
    pipe.send(os.getpid())
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os._exit(0)


def publish(store: str, pipe: Connection) -> None:
    """Be the feed: append to the stream, straight at the store, until the parent says so or is gone."""
    from server_fixture.backplane import Entry, Publish
    from server_fixture.backplane.redis import RedisBackplane

    async def run() -> None:
        backplane, number, due = RedisBackplane(store), 0, time.monotonic()
        while not pipe.poll():
            number += 1
            await backplane.run(Publish(stream=STREAM, entries=(Entry(payload=b"%d" % number, text=True),)))
            if number == 1:
                pipe.send(number)
            due = max(due + INTERVAL, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    with contextlib.suppress(EOFError, OSError):
        asyncio.run(run())
    os._exit(0)


@typing.final
class Helper:
    """A process of the benchmark that says when it is ready, and ends with its pipe."""

    def __init__(self, work: typing.Callable[..., None], what: typing.Any) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process: BaseProcess = context.Process(target=work, args=(what, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def wait_ready(self) -> None:
        """
        Wait until it has said so.

        Raises:
            RuntimeError: It did not.
        """
        try:
            if self._pipe.poll(PATIENCE):
                self._pipe.recv()
                return
        except EOFError:
            pass
        raise RuntimeError(f"process {self.pid} of the benchmark did not get ready within {PATIENCE:g} s")

    def close(self) -> None:
        """End it, whatever state it is in."""
        self._pipe.close()
        self._process.kill()
        self._process.join()


@typing.final
class Pool:
    """
    Three servers behind one address.

    Args:
        feed: What they speak: a key of :data:`GREETINGS`.
    """

    def __init__(self, feed: str = "plain", size: int = 3) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}/{feed}/echo"
        self._servers = [Helper(serve, self._listener) for _ in range(size)]

    def wait_ready(self) -> None:
        """Wait until each serves."""
        for server in self._servers:
            server.wait_ready()

    def replace(self, pid: int) -> None:
        """Start another one in place of that which was killed, and wait until it serves."""
        dead = next(server for server in self._servers if server.pid == pid)
        dead.close()
        self._servers.remove(dead)
        self._servers.append(Helper(serve, self._listener))
        self._servers[-1].wait_ready()

    def close(self) -> None:
        """End them."""
        for server in self._servers:
            server.close()
        self._listener.close()
