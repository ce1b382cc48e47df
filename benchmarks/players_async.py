"""
Asynchronous clients: aiohttp, picows, jetsocket; each with an event loop that runs while it is asked for something.

The verbs are those of ``players_ours.py``.
"""

from __future__ import annotations

import abc
import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.players_tls import trusting


class Looping(abc.ABC):
    """What they have in common."""

    library: Any
    recv: Callable[[], Awaitable[Any]]
    send_one: Callable[[Any], Awaitable[None]]

    def __init__(self, url: str, certificate: str | None = None, *, deflate: bool = False) -> None:
        self.deflate = deflate
        self.loop = asyncio.new_event_loop()
        self.run(self.open(url, certificate))

    def run(self, work: Awaitable[Any]) -> Any:
        """Run the loop until the work is done."""
        return self.loop.run_until_complete(work)

    @abc.abstractmethod
    async def open(self, url: str, certificate: str | None) -> None:
        """Connect, and say how messages are received."""

    def close(self) -> None:
        self.run(self.leave())
        self.loop.close()

    async def leave(self) -> None:
        await self.library.close()

    def receive(self, count: int, verb: str = "flood") -> None:
        self.run(self._receive(count, verb))

    def pace(self, count: int) -> None:
        self.receive(count, "pace")

    def send(self, payload: str | bytes, count: int) -> None:
        self.run(self._send(payload, count))

    def echo(self, payload: str | bytes, count: int) -> list[float]:
        found: list[float] = self.run(self._echo(payload, count))
        return found

    async def _receive(self, count: int, verb: str) -> None:
        await self.send_one(f"{verb} {count}")
        recv = self.recv
        for _ in range(count):
            await recv()

    async def _send(self, payload: str | bytes, count: int) -> None:
        send_one = self.send_one
        for _ in range(count):
            await send_one(payload)
        await send_one("sync")
        await self.recv()

    async def _echo(self, payload: str | bytes, count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            await self.send_one(payload)
            await self.recv()
            times.append(time.perf_counter() - start)
        return times


class Aiohttp(Looping):
    """aiohttp with its C reader; no limit of its own in the way, compression only where it is asked for."""

    async def open(self, url: str, certificate: str | None) -> None:
        import aiohttp

        self.session = aiohttp.ClientSession()
        self.library = await self.session.ws_connect(
            url,
            ssl=trusting(certificate) or True,
            autoclose=False,
            max_msg_size=0,
            compress=15 if self.deflate else 0,
        )
        self.recv = self.library.receive

    async def leave(self) -> None:
        await self.session.close()

    async def send_one(self, payload: str | bytes) -> None:
        await (self.library.send_str(payload) if isinstance(payload, str) else self.library.send_bytes(payload))

    async def _send(self, payload: str | bytes, count: int) -> None:
        send_one: Any = self.library.send_str if isinstance(payload, str) else self.library.send_bytes
        for _ in range(count):
            await send_one(payload)
        await self.library.send_str("sync")
        await self.library.receive()


class Jetsocket(Looping):
    """jetsocket's asynchronous client with its Cython parser; payloads as they are, not as JSON."""

    async def open(self, url: str, certificate: str | None) -> None:
        jetsocket: Any = importlib.import_module("jetsocket")  # what it exports is typed as object
        is_text = "text=1" in url
        self.library = jetsocket.WebSocket(
            url,
            ssl_context=trusting(certificate),
            reconnect=False,
            compress=False,
            serializer=str.encode,
            deserializer=bytes.decode if is_text else bytes,
        )
        await self.library.connect()
        self.recv = self.library.recv

    async def send_one(self, payload: str | bytes) -> None:
        if isinstance(payload, str):
            await self.library.send(payload)
        else:
            await self.library.send_raw(payload)


class Picows(Looping):
    """picows' core API: a method is called for every frame, takes the payload out of it, and answers an echo itself."""

    async def open(self, url: str, certificate: str | None) -> None:
        import picows

        self.text, self.binary = picows.WSMsgType.TEXT, picows.WSMsgType.BINARY
        self.is_writable = asyncio.Event()
        self.is_writable.set()
        self.listener = make_listener(picows, self)
        self.library, _ = await picows.ws_connect(lambda: self.listener, url, ssl_context=trusting(certificate))

    async def leave(self) -> None:
        self.library.disconnect()
        await self.library.wait_disconnected()

    def expect(self, count: int) -> asyncio.Future[None]:
        """Get ready for so many messages."""
        self.listener.left = count
        done: asyncio.Future[None] = self.loop.create_future()
        self.listener.done = done
        return done

    async def _receive(self, count: int, verb: str) -> None:
        done = self.expect(count)
        self.library.send(self.text, f"{verb} {count}".encode())
        await done

    async def _send(self, payload: str | bytes, count: int) -> None:
        kind = self.text if isinstance(payload, str) else self.binary
        send, is_writable = self.library.send, self.is_writable
        for _ in range(count):
            send(kind, payload.encode() if isinstance(payload, str) else payload)
            if not is_writable.is_set():
                await is_writable.wait()
        done = self.expect(1)
        send(self.text, b"sync")
        await done

    async def _echo(self, payload: str | bytes, count: int) -> list[float]:
        kind = self.text if isinstance(payload, str) else self.binary
        data = payload.encode() if isinstance(payload, str) else payload
        listener = self.listener
        listener.again = (kind, data)
        listener.times = []
        done = self.expect(count)
        listener.start = time.perf_counter()
        self.library.send(kind, data)
        await done
        listener.again = None
        times: list[float] = listener.times
        return times


def make_listener(picows: Any, player: Picows) -> Any:
    """Return what picows calls."""

    class Listener(picows.WSListener):  # type: ignore[misc]
        left = 0
        start = 0.0
        again: Any = None
        put: Any = None
        times: list[float]
        done: asyncio.Future[None]

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type is player.text:
                data = frame.get_payload_as_utf8_text()
            else:
                data = frame.get_payload_as_bytes()
            if self.put is not None:
                self.put(data)
                return
            self.left -= 1
            if self.again is not None:
                self.come_back(transport)
            if not self.left:
                self.done.set_result(None)

        def come_back(self, transport: Any) -> None:
            now = time.perf_counter()
            self.times.append(now - self.start)
            if self.left:
                self.start = time.perf_counter()
                transport.send(*self.again)

        def pause_writing(self) -> None:
            player.is_writable.clear()

        def resume_writing(self) -> None:
            player.is_writable.set()

    return Listener()
