"""
Many connections at once that do nothing: what each kind of client keeps for one, in memory and threads.

Every client answers the server's pings: where its library needs a thread or a task for that, it has one.
"""

from __future__ import annotations

import abc
import asyncio
import gc
import os
import threading
import time
from typing import Any

from benchmarks.serving import raise_limit

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident() -> int:
    """Return the memory of this process that is in use, in bytes (Linux)."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


class Idle(abc.ABC):
    """Opens so many connections; what came before, the first of many included, is not counted."""

    def __init__(self, url: str, certificate: str | None = None, *, count: int) -> None:
        raise_limit()
        self.kept: list[Any] = []
        self.get_ready(url)
        if count > 1:
            self.kept.append(self.open_one())
            self.settle()
        before = resident()
        self.kept += [self.open_one() for _ in range(count)]
        self.settle()
        # Less than a page is not seen.
        self.found = (max(PAGE, resident() - before) / 1024 / count, float(threading.active_count()))

    def weigh(self) -> tuple[float, float]:
        """Return KiB for each connection, and the threads of the process."""
        return self.found

    def close(self) -> None:
        """Let go; the process ends."""
        self.kept.clear()

    def get_ready(self, url: str) -> None:
        """Import what there is to import."""
        self.url = url

    @abc.abstractmethod
    def open_one(self) -> Any:
        """Open one connection, and return what keeps it."""

    def settle(self) -> None:
        """Wait until threads that were for the opening are gone."""
        until, last = time.monotonic() + 10, -1
        while time.monotonic() < until and last != threading.active_count():
            last = threading.active_count()
            time.sleep(0.3)


class Sessions(Idle):
    """Ours."""

    def get_ready(self, url: str) -> None:

        self.url = url

    def open_one(self) -> Any:
        import resilient_ws

        return resilient_ws.connect(self.url, subscribe=["s"])


class Apps(Idle):
    """websocket-client: its ``WebSocketApp`` in a thread."""

    def open_one(self) -> Any:
        import websocket

        opened = threading.Event()
        app = websocket.WebSocketApp(self.url, on_open=lambda app: opened.set())
        threading.Thread(target=app.run_forever, daemon=True).start()
        if not opened.wait(10):
            raise RuntimeError("it did not open")
        return app


class Websockets(Idle):
    """websockets, sync: it starts its threads itself; with its default keepalive, and without compression."""

    def open_one(self) -> Any:
        from websockets.sync.client import connect

        return connect(self.url, compression=None, proxy=None)


class SimpleWebsockets(Idle):
    """simple-websocket: it starts its thread itself."""

    def open_one(self) -> Any:
        import simple_websocket  # type: ignore[import-untyped]

        return simple_websocket.Client.connect(self.url)


class Tasks(Idle):
    """What has one event loop in one thread."""

    def get_ready(self, url: str) -> None:
        self.url = url
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def open_one(self) -> Any:
        return asyncio.run_coroutine_threadsafe(self.open_async(), self.loop).result(10)

    @abc.abstractmethod
    async def open_async(self) -> Any:
        """Open one in the loop."""


class Aiohttps(Tasks):
    """aiohttp: one session for all, a task for each connection that waits for a message."""

    session: Any = None

    async def open_async(self) -> Any:
        import aiohttp

        self.session = self.session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        connection = await self.session.ws_connect(self.url)
        return connection, self.loop.create_task(connection.receive())


class Picowses(Tasks):
    """picows: a listener for each connection."""

    async def open_async(self) -> Any:
        import picows

        return await picows.ws_connect(picows.WSListener, self.url)
