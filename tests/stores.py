"""
Backplanes behind one synchronous door, for the tests that every backplane has to pass.

What lives here: starting a store, moving its clocks, losing its tail. What never does: a test.
"""

from __future__ import annotations

import abc
import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import redis

from server_fixture.backplane import Answer, Backplane, Fence, Request
from server_fixture.backplane.inspect import cut_tail
from server_fixture.backplane.local import LocalBackplane
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.redis import RedisBackplane
from server_fixture.engine import Engine, EngineNotFound

T = TypeVar("T")

RETENTION = 20
PRODUCER_TTL = 1000.0


class Store(abc.ABC):
    """One backplane with its event loop; every subclass can move the clock and lose a tail."""

    door: Backplane

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.woken: list[str] = []
        self.fences: list[tuple[str, Fence]] = []
        self._change = asyncio.Condition()

    def run(self, request: Request) -> Answer:
        """Perform one request."""
        return self.wait(self.door.run(request))

    def wait(self, coroutine: Coroutine[Any, Any, T], seconds: float = 10.0) -> T:
        """Run a coroutine to its end on the store's loop."""
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, seconds))

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Run the loop until the callbacks have made the condition true."""

        async def wait() -> None:
            async with self._change:
                await self._change.wait_for(condition)

        self.wait(wait(), seconds)

    def start(self) -> None:
        """Begin to hear of appends and fences."""
        self.wait(self.door.start(self.wake, self.fence))

    def wake(self, stream: str) -> None:
        self.woken.append(stream)
        self._tasks = self.loop.create_task(self._tell())

    def fence(self, session: str, fence: Fence) -> None:
        self.fences.append((session, fence))
        self._tasks = self.loop.create_task(self._tell())

    async def _tell(self) -> None:
        async with self._change:
            self._change.notify_all()

    def close(self) -> None:
        """Close the door and the loop."""
        self.wait(self.door.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    @abc.abstractmethod
    def advance(self, seconds: float) -> None:
        """Let time pass without any operation."""

    @abc.abstractmethod
    def cut_tail(self, stream: str, last: int) -> int:
        """Lose what is after ``last``, producers rolled back, the epoch kept."""


class MemoryStore(Store):
    """The reference semantics."""

    def __init__(self, retention: int = RETENTION) -> None:
        super().__init__()
        self.now = 1000.0
        self.core = MemoryBackplane(random.Random(7), retention=retention, producer_ttl=PRODUCER_TTL)
        self.door = LocalBackplane(self.core, lambda: self.now)
        self.start()

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def cut_tail(self, stream: str, last: int) -> int:
        lost = [entry for entry in self.core.contents(stream) if entry.offset > last]
        return self.core.lose_tail(stream, len(lost))


_OLDER = """
for _, key in ipairs(redis.call('KEYS', 'resilient:*:clock')) do redis.call('HINCRBY', key, 'seen', -ARGV[1]) end
for _, key in ipairs(redis.call('KEYS', 'resilient:*:used')) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ARGV[1], member) end
end
for _, key in ipairs(redis.call('KEYS', 'resilient:*:until')) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ARGV[1], member) end
end
"""


class RedisStore(Store):
    """A node's door to a real store."""

    def __init__(self, url: str, retention: int = RETENTION, **options: Any) -> None:
        super().__init__()
        self.url = url
        self.admin = redis.Redis.from_url(url)
        self.door = RedisBackplane(url, retention=retention, producer_ttl=PRODUCER_TTL, **options)
        self.start()

    def advance(self, seconds: float) -> None:
        """Make everything that the store remembers that much older."""
        self.admin.eval(_OLDER, 0, round(seconds * 1000))

    def cut_tail(self, stream: str, last: int) -> int:
        return cut_tail(self.url, stream, last)

    def close(self) -> None:
        super().close()
        self.admin.close()


@contextmanager
def engine(*options: str) -> Iterator[Engine]:
    """Run a store of our own; where tests run for the project its absence is an error, elsewhere a skip."""
    try:
        found = Engine(options=options)
    except EngineNotFound as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with found:
        yield found
