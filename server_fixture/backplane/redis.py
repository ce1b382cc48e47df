"""
The backplane on Redis or Valkey, laid out for Redis Cluster: each request is one Lua script in one slot.

What lives here: the connections, their bounds, the wake-ups by publish/subscribe. What never does: the meaning of a
step (``scripts.py``), the keyspace (``steps.py``), or a second try of a step whose outcome is unknown: the caller has
to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from server_fixture.backplane import Answer, BackplaneError, EnterSession, OnFence, OnWake, Request
from server_fixture.backplane.steps import (
    FENCE_CHANNEL,
    INCARNATION,
    WAKE_CHANNEL,
    Call,
    Limits,
    answer_of,
    call_of,
    fence_of,
)

_FAILURES = (RedisError, OSError, asyncio.TimeoutError)


class RedisBackplane:
    """
    A node's door to the Redis backplane.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        retention: How many messages a stream keeps; the same for every node, as is ``producer_ttl``.
        producer_ttl: Seconds for which a producer is remembered at least.
        timeout: Seconds for one step, waiting for a connection included; after them its outcome is unknown.
        connections: How many steps may be under way at once.
    """

    def __init__(
        self,
        url: str,
        *,
        retention: int = 100_000,
        producer_ttl: float = 7 * 86400.0,
        timeout: float = 2.0,
        connections: int = 8,
    ) -> None:
        self._limits = Limits(retention=retention, producer_ttl=producer_ttl)
        self._timeout = timeout
        # A step that was sent may have happened: nothing below us may send it again.
        options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "protocol": 2}
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=timeout, socket_timeout=timeout,
            socket_connect_timeout=timeout, **options,
        )  # fmt: skip
        self._client: Any = redis.asyncio.Redis(connection_pool=pool)
        self._subscriber = _Subscriber(url, timeout, options, self._doubt_incarnation)
        self._incarnation = ""
        self._incarnation_at = float("-inf")
        self._hashes: dict[str, str] = {}

    async def start(self, on_wake: OnWake, on_fence: OnFence) -> None:
        """
        Connect, and mint the incarnation where there is none.

        Raises:
            BackplaneError: The store cannot be reached.
        """
        await self._know_incarnation()
        await self._subscriber.start(on_wake, on_fence)

    async def run(self, request: Request) -> Answer:
        """
        Perform one request as one script.

        Raises:
            BackplaneError: The outcome is unknown.
            ValueError: The request cannot be written; nothing was sent.
        """
        call = call_of(request, self._limits, secrets.token_hex(16))
        if isinstance(request, EnterSession) and time.monotonic() - self._incarnation_at > 1.0:
            await self._know_incarnation()
        reply = await self._bounded(self._evaluate(call), type(request).__name__)
        return answer_of(reply, request, self._incarnation)

    async def watch(self, stream: str) -> None:
        """Be woken after appends to ``stream``, and once when the watch has begun."""
        await self._subscriber.watch(stream)

    async def unwatch(self, stream: str) -> None:
        """Be woken no more."""
        await self._subscriber.unwatch(stream)

    async def close(self) -> None:
        """Close every connection; a step under way fails with an unknown outcome."""
        await self._subscriber.close()
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _evaluate(self, call: Call) -> Any:
        known = self._hashes.get(call.script)
        if known is None:
            known = self._hashes[call.script] = hashlib.sha1(call.script.encode(), usedforsecurity=False).hexdigest()
        rest = (len(call.keys), *call.keys, *call.args)
        try:
            return await self._client.execute_command("EVALSHA", known, *rest)
        except NoScriptError:
            return await self._client.execute_command("EVAL", call.script, *rest)

    async def _know_incarnation(self) -> None:
        async def read() -> bytes:
            found = await self._client.get(INCARNATION)
            if found is None:
                await self._client.set(INCARNATION, secrets.token_hex(16), nx=True)
                found = await self._client.get(INCARNATION)
            if not isinstance(found, bytes):
                raise BackplaneError("the incarnation vanished while it was read; say hello again")
            return found

        found = await self._bounded(read(), "reading the incarnation")
        self._incarnation = found.decode("ascii")
        self._incarnation_at = time.monotonic()

    def _doubt_incarnation(self) -> None:
        """A connection was lost: the store may be another one now."""
        self._incarnation_at = float("-inf")

    async def _bounded(self, step: Any, what: str) -> Any:
        try:
            return await asyncio.wait_for(step, self._timeout)
        except _FAILURES as error:
            self._doubt_incarnation()
            raise BackplaneError(
                f"the outcome of {what} is unknown: {type(error).__name__}; it may have happened, "
                f"so claim nothing and let the client say hello again"
            ) from error


class _Subscriber:
    """
    One connection that hears wake-ups and fences, dialled again for as long as it takes.

    Every confirmed subscription wakes its stream once, which covers what was published before it: after :meth:`watch`
    and after each reconnect.
    """

    def __init__(
        self, url: str, timeout: float, options: dict[str, Any], on_lost: Callable[[], None]
    ) -> None:
        self._pool: Any = redis.asyncio.ConnectionPool.from_url(
            url, socket_timeout=None, socket_connect_timeout=timeout, **options
        )
        self._timeout = timeout
        self._on_lost = on_lost
        self._watched: set[str] = set()
        self._connection: Any = None
        self._heard_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    async def start(self, on_wake: OnWake, on_fence: OnFence) -> None:
        self._on_wake, self._on_fence = on_wake, on_fence
        self._task = asyncio.create_task(self._live())
        try:
            await asyncio.wait_for(self._first.wait(), self._timeout)
        except asyncio.TimeoutError:
            await self.close()
            raise BackplaneError("no subscription was confirmed in time; check the store's address") from None

    async def watch(self, stream: str) -> None:
        if stream not in self._watched:
            self._watched.add(stream)
            await self._send("SUBSCRIBE", WAKE_CHANNEL + stream)

    async def unwatch(self, stream: str) -> None:
        if stream in self._watched:
            self._watched.discard(stream)
            await self._send("UNSUBSCRIBE", WAKE_CHANNEL + stream)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _send(self, *command: str) -> None:
        connection = self._connection
        if connection is None:
            return  # the next connection subscribes to all that is watched
        try:
            await asyncio.wait_for(connection.send_command(*command), self._timeout)
        except _FAILURES:
            await connection.disconnect(nowait=True)  # the reader notices and dials again

    async def _live(self) -> None:
        delay = 0.05
        while True:
            started = time.monotonic()
            with contextlib.suppress(*_FAILURES):
                await self._hear()
            self._on_lost()
            delay = 0.05 if time.monotonic() - started > 1.0 else min(delay * 2, 1.0)
            await asyncio.sleep(delay)

    async def _hear(self) -> None:
        connection: Any = self._pool.make_connection()
        guard = None
        try:
            await asyncio.wait_for(connection.connect(), self._timeout)
            channels = [FENCE_CHANNEL, *(WAKE_CHANNEL + stream for stream in sorted(self._watched))]
            self._connection = connection
            await connection.send_command("SUBSCRIBE", *channels)
            self._heard_at = time.monotonic()
            guard = asyncio.create_task(self._guard(connection))
            while True:
                message = await connection.read_response()
                self._heard_at = time.monotonic()
                self._tell(message)
        finally:
            self._connection = None
            if guard is not None:
                guard.cancel()
            await connection.disconnect(nowait=True)

    async def _guard(self, connection: Any) -> None:
        """End a connection on which even pings are not answered."""
        while time.monotonic() - self._heard_at < 2 * self._timeout:
            await self._send("PING")
            await asyncio.sleep(self._timeout / 2)
        await connection.disconnect(nowait=True)

    def _tell(self, message: Any) -> None:
        try:
            self._take(message)
        except Exception as error:  # a callback's, or a foreign message: the next one must still be heard
            context = {"message": "a wake-up or fence could not be handled", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _take(self, message: Any) -> None:
        kind, channel = message[0], message[1].decode()
        if kind == b"subscribe" and channel == FENCE_CHANNEL:
            self._first.set()
        elif kind in (b"subscribe", b"message") and channel.startswith(WAKE_CHANNEL):
            stream = channel[len(WAKE_CHANNEL) :]
            if stream in self._watched:
                self._on_wake(stream)
        elif kind == b"message" and channel == FENCE_CHANNEL:
            session, fence = message[2].decode().split(" ", 1)
            self._on_fence(session, fence_of(fence))
