"""
A balancer in this process: it leads each connection to a node, by a cookie, an address or a count, and carries it.

Here lives what balancers do to a WebSocket handshake: choose, pass over dead nodes, set cookies, answer 502, 503 or 504
where no node does. It looks at no frame. It does not ask nodes how they are: a node that hangs is led to again and
again, as by most balancers without active checks. Nothing of the client is used here.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import concurrent.futures
import email.utils
import hashlib
import hmac
import secrets
import struct
import threading
import time
import types
import typing
from collections.abc import Callable, Sequence

import attrs

AFFINITIES = ("none", "cookie", "alb", "ip_hash", "least_connections")
Affinity = typing.Literal["none", "cookie", "alb", "ip_hash", "least_connections"]
COOKIE = "SRV"
"""Name of the cookie of affinity ``cookie``; its value is the node's name."""
ALB_COOKIES = ("AWSALB", "AWSALBCORS")
"""Names of those of ``alb``."""
REMEMBERED = 100_000
"""How many handshakes are remembered at most."""
HEAD_LIMIT = 64 << 10
HEAD_TIMEOUT = 10.0
_START_TIMEOUT = 10.0
_READ = 64 << 10
_END = b"\r\n\r\n"
_REASONS = {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


class Backend(typing.Protocol):
    """What the balancer needs of a node."""

    @property
    def name(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def is_draining(self) -> bool: ...


# -- cookies ----------------------------------------------------------------------------------------------------------


def cookies_in(head: bytes) -> dict[str, str]:
    """Read the cookies of a request's head."""
    found = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        pairs = value.split(";") if name.lower() == "cookie" else ()
        found.update({key.strip(): said for key, _, said in (pair.partition("=") for pair in pairs)})
    return found


def seal(key: bytes, name: str, expires: float) -> str:
    """Hide a node's name and a time in an opaque value: never the same twice, with the signs of base64 in it."""
    nonce, plain = secrets.token_bytes(8), struct.pack(">d", expires) + name.encode()
    hidden = _mix(key, nonce, plain)
    return base64.b64encode(nonce + _mac(key, nonce + hidden) + hidden).decode()


def unseal(key: bytes, value: str, now: float) -> str | None:
    """Read what :func:`seal` wrote; None where it was changed by as much as a bit, is not ours, or is too old."""
    try:
        raw = base64.b64decode(value, validate=True)
    except ValueError:
        return None
    nonce, mac, hidden = raw[:8], raw[8:16], raw[16:]
    if len(hidden) < 8 or not hmac.compare_digest(mac, _mac(key, nonce + hidden)):
        return None
    plain = _mix(key, nonce, hidden)
    return plain[8:].decode() if now < struct.unpack(">d", plain[:8])[0] else None


def _mix(key: bytes, nonce: bytes, data: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, hashlib.shake_256(key + nonce).digest(len(data)), strict=True))


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")[:8]


@attrs.define(eq=False)
class Router:
    """
    Which nodes to try for a request, best first, and which cookies its answer gets.

    Attributes:
        lifetime: Seconds that a pin of ``alb`` is good.
        open: Connections to each node at this moment, by its name.
    """

    nodes: Sequence[Backend]
    affinity: Affinity
    lifetime: float
    wall: Callable[[], float]
    open: collections.Counter[str] = attrs.field(factory=collections.Counter)
    _key: bytes = attrs.field(factory=lambda: secrets.token_bytes(32), repr=False)
    _turn: int = 0

    def candidates(self, cookies: dict[str, str], address: str) -> list[Backend]:
        """Return the nodes that do not drain, in the order in which to try them."""
        self._turn += 1
        start = self._turn % len(self.nodes)
        found = [node for node in (*self.nodes[start:], *self.nodes[:start]) if not node.is_draining]
        if self.affinity == "least_connections":
            found.sort(key=lambda node: self.open[node.name])
        elif self.affinity == "ip_hash":
            found.sort(key=lambda node: hashlib.sha256(f"{address} {node.name}".encode()).digest())
        pin = self.pin(cookies)
        return sorted(found, key=lambda node: node.name != pin)

    def pin(self, cookies: dict[str, str]) -> str | None:
        """Return the name of the node that the cookies lead to."""
        if self.affinity == "cookie":
            return cookies.get(COOKIE)
        if self.affinity == "alb":
            read = (unseal(self._key, cookies.get(name, ""), self.wall()) for name in ALB_COOKIES)
            return next(filter(None, read), None)
        return None

    def cookies_for(self, node: Backend, cookies: dict[str, str]) -> list[str]:
        """Return what the answer of a node sets: ``cookie`` only where it is news, ``alb`` every time anew."""
        if self.affinity == "cookie" and self.pin(cookies) != node.name:
            return [f"{COOKIE}={node.name}; Path=/; HttpOnly"]
        if self.affinity == "alb":
            until = self.wall() + self.lifetime
            value, expires = seal(self._key, node.name, until), email.utils.formatdate(until, usegmt=True)
            plain, cors = (f"{name}={value}; Expires={expires}; Path=/" for name in ALB_COOKIES)
            return [plain, f"{cors}; SameSite=None; Secure"]
        return []


# -- the balancer -----------------------------------------------------------------------------------------------------


@typing.final
class Balancer:
    """
    Leads connections to nodes, from a thread of its own; a context manager.

    Args:
        nodes: Where to; one that refuses a connection is passed over, one that drains is not tried.
        affinity: ``none``: one after the other; ``cookie``: a cookie with the node's name, as HAProxy sets it;
            ``alb``: two opaque ones that are renewed with each answer, as AWS does; ``ip_hash``: by the client's
            address; ``least_connections``.
        lifetime: Seconds that a pin of ``alb`` is good.
        answer_timeout: Seconds that a node has to answer a handshake, then it is 504.
        wall: Seconds since 1970.

    Attributes:
        led: How many handshakes each node has answered, by its name.
        came: When handshakes came, answered or not, by the monotonic clock: the last ``REMEMBERED`` of them.
    """

    def __init__(
        self,
        nodes: Sequence[Backend],
        affinity: Affinity = "none",
        *,
        lifetime: float = 604_800.0,
        answer_timeout: float = 60.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if affinity not in AFFINITIES:
            raise ValueError(f"affinity={affinity!r}: must be one of {', '.join(AFFINITIES)}")
        self.affinity = affinity
        self.port = 0
        self.led: collections.Counter[str] = collections.Counter()
        self.came: collections.deque[float] = collections.deque(maxlen=REMEMBERED)
        self._router = Router(nodes, affinity, lifetime, wall)
        self._answer_timeout = answer_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        # asyncio itself holds no task that waits for a stream, so one could be collected while it waits.
        self._tasks: set[asyncio.Task[None] | None] = set()

    @property
    def url(self) -> str:
        """Where clients dial it."""
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def open(self) -> dict[str, int]:
        """How many connections each node has through here."""
        return {name: count for name, count in self._router.open.items() if count}

    def start(self) -> None:
        """
        Serve; returns when it listens. It keeps the port that it had before.

        Raises:
            OSError: The port cannot be had.
        """
        listening: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listening)), name="balancer", daemon=True)
        self._thread.start()
        self.port = listening.result(_START_TIMEOUT)

    def close(self) -> None:
        """End it and every connection through it."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Balancer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: types.TracebackType | None
    ) -> None:
        self.close()

    async def _run(self, listening: concurrent.futures.Future[int]) -> None:
        try:
            server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=HEAD_LIMIT)
        except OSError as error:
            listening.set_exception(error)
            return
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        listening.set_result(server.sockets[0].getsockname()[1])
        await self._stopping.wait()
        server.close()
        # A connection that was accepted a moment ago gets its task in one of the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    # -- one connection -----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            head = await asyncio.wait_for(reader.readuntil(_END), HEAD_TIMEOUT)
            self.came.append(time.monotonic())
            status = await self._lead(head, reader, writer)
            if status is not None:
                writer.write(f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except asyncio.CancelledError:  # close(): nothing more goes out
            writer.transport.abort()
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _lead(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        """Carry a connection until it ends; returns the status to refuse it with."""
        cookies, address = cookies_in(head), writer.get_extra_info("peername")[0]
        candidates = self._router.candidates(cookies, address)
        for node in candidates:
            try:
                from_node, to_node = await asyncio.open_connection("127.0.0.1", node.port, limit=HEAD_LIMIT)
            except OSError:
                continue
            self._router.open[node.name] += 1
            try:
                return await self._carry(head, node, (reader, writer), (from_node, to_node))
            finally:
                self._router.open[node.name] -= 1
                to_node.transport.abort()
        return 502 if candidates else 503

    async def _carry(
        self,
        head: bytes,
        node: Backend,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> int | None:
        (from_client, to_client), (from_node, to_node) = client, server
        to_node.write(head)
        try:
            answer = await asyncio.wait_for(from_node.readuntil(_END), self._answer_timeout)
        except asyncio.TimeoutError:
            return 504
        except (OSError, EOFError, asyncio.LimitOverrunError):
            return 502
        self.led[node.name] += 1
        lines = self._router.cookies_for(node, cookies_in(head))
        added = "".join(f"\r\nSet-Cookie: {line}" for line in lines).encode()
        to_client.write(answer.removesuffix(_END) + added + _END)
        await asyncio.gather(_pump(from_client, to_node), _pump(from_node, to_client))
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction until its end, which goes on to the other side."""
    try:
        while data := await reader.read(_READ):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
