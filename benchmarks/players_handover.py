"""
Messages that are used in another thread than the main one, with what each kind of client needs for that.

A session is received from by the thread that uses the messages. A client that only one thread may read has a thread
that reads, and a queue.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

from benchmarks import players_async, players_ours, players_sync


class Worker:
    """A thread that takes so many messages when it is told, and says when it has."""

    def __init__(self, take: Any) -> None:
        self.take = take
        self.orders: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        """Carry out orders."""
        while True:
            count = self.orders.get()
            try:
                self.take(count)
            except Exception as error:
                self.done.put(error)
            else:
                self.done.put(None)

    def __call__(self, count: int) -> None:
        self.orders.put(count)
        error = self.done.get(timeout=60)
        if error is not None:
            raise error


class Session(players_ours.Session):
    """The worker receives."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.worker = Worker(super().receive)

    def receive(self, count: int, verb: str = "flood") -> None:
        self.worker(count)


class Bare(players_ours.Bare):
    """The worker receives: a transport has one reader, which may be any thread."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.worker = Worker(super().receive)

    def receive(self, count: int, verb: str = "flood") -> None:
        self.worker(count)


class Queued(players_sync.WebsocketClient):
    """websocket-client with a thread that reads, and a queue of the kind that is named."""

    def __init__(self, url: str, certificate: str | None = None, *, kind: str) -> None:
        super().__init__(url, certificate, skip=True)
        self.queue: Any = getattr(queue, kind)()
        self.worker = Worker(self.use)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Read until the connection ends."""
        put, recv = self.queue.put, self.library.recv
        try:
            while True:
                put(recv())
        except Exception:  # it was closed
            pass

    def use(self, count: int) -> None:
        """Take messages."""
        self.library.send(f"flood {count}")
        get = self.queue.get
        for _ in range(count):
            get()

    def receive(self, count: int, verb: str = "flood") -> None:
        self.worker(count)


class Websockets(players_sync.Websockets):
    """websockets, sync: the worker receives from the thread and queue that it has of its own."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        super().__init__(url, certificate)
        self.worker = Worker(super().receive)

    def receive(self, count: int, verb: str = "flood") -> None:
        self.worker(count)


class QueuedPicows(players_async.Picows):
    """picows with its loop in a thread, and a SimpleQueue to the worker."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        self.is_running = False
        super().__init__(url, certificate)
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.listener.put = self.queue.put
        self.worker = Worker(self.use)

    def run(self, work: Any) -> Any:
        """Have the loop's own thread do it: picows takes calls from no other."""
        if not self.is_running:
            self.is_running = True
            threading.Thread(target=self.loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def use(self, count: int) -> None:
        """Take messages."""
        self.loop.call_soon_threadsafe(self.library.send, self.text, f"flood {count}".encode())
        get = self.queue.get
        for _ in range(count):
            get()

    def receive(self, count: int, verb: str = "flood") -> None:
        self.worker(count)

    def close(self) -> None:
        self.run(self.leave())
