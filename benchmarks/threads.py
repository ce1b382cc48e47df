"""
Who should read: the user's own thread, or a reader thread that hands over by a Condition?

    python -m benchmarks.threads [--idle 1000]

Compares, against a small server in another process: the round trip of an echo (p50, p99), the rate of inbound messages,
and the threads and descriptors of many idle, connected Clients. Both variants run in the same run; the ratio is what
counts.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import multiprocessing
import os
import resource
import statistics
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import resilient_ws
from resilient_ws.dialects.native import Native
from resilient_ws.frames import Ack, Batch, Hello, Ping, Pong, SeqMark, StreamAnswer, Welcome

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# -- a server that does as little as it can ---------------------------------------------------------------------------


def frame(message: str | bytes) -> bytes:
    """Frame a message as a server does."""
    data = message.encode() if isinstance(message, str) else message
    opcode = 0x81 if isinstance(message, str) else 0x82
    if len(data) < 126:
        return bytes((opcode, len(data))) + data
    if len(data) < 1 << 16:
        return struct.pack(">BBH", opcode, 126, len(data)) + data
    return struct.pack(">BBQ", opcode, 127, len(data)) + data


async def read_message(reader: asyncio.StreamReader) -> str | bytes | None:
    """Read one unfragmented message; None at a close frame."""
    first, second = await reader.readexactly(2)
    size = second & 127
    if size == 126:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    plain = (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")
    opcode = first & 15
    return None if opcode == 8 else plain.decode() if opcode == 1 else plain


class Serving:
    """One connection: echoes what is sent to ``out``, floods when it is told ``flood <count>``."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.codec = Native().server()
        self.offset = 0
        self.credit = 0

    def say(self, *items: Any) -> None:
        self.writer.write(b"".join(frame(message) for message in self.codec.encode(items)))

    def hear(self, item: Any) -> None:
        if isinstance(item, Hello):
            answers = tuple(StreamAnswer(stream=s.stream, id=s.id, epoch="e", first=1) for s in item.streams)
            self.say(
                Welcome(
                    session="s", token="t", generation=1, verdict="new", ttl=60.0, node="n", incarnation="i",
                    producer_ttl=60.0, max_message=1 << 20, streams=answers,
                )
            )  # fmt: skip
        elif isinstance(item, Ping):
            self.say(Pong(echo=item.echo))
        elif isinstance(item, Batch):
            self.echo(item)

    def echo(self, batch: Batch) -> None:
        last = (batch.first or 0) + len(batch.payloads) - 1
        payloads = batch.payloads
        told = str(payloads[0])
        if told.startswith("flood "):
            payloads = ["x" * 100] * int(told[6:])
        self.say(Ack(committed=(SeqMark(0, batch.stream, last),)), Batch("s", self.offset + 1, list(payloads)))
        self.offset += len(payloads)


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Upgrade and serve."""
    request = await reader.readuntil(b"\r\n\r\n")
    key = next(line[19:].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: resilient.v1\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    serving = Serving(writer)
    try:
        while (message := await read_message(reader)) is not None:
            for item in serving.codec.decode([message]):
                serving.hear(item)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def run_server(pipe: Any) -> None:
    """Serve until the parent is gone."""

    async def main() -> None:
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)
        server.close()

    raise_limit()
    asyncio.run(main())
    os._exit(0)


# -- the two variants -------------------------------------------------------------------------------------------------


class UserReads:
    """The thread that waits for the message reads it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.recv = client.recv

    def close(self) -> None:
        self.client.close()


class ReaderThread:
    """A thread reads and hands over lists by a Condition."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.waiting: deque[Any] = deque()
        self.changed = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        try:
            while True:
                messages = self.client.recv_many(1000)
                with self.changed:
                    self.waiting.extend(messages)
                    self.changed.notify()
        except resilient_ws.SessionClosed:
            pass

    def recv(self) -> Any:
        with self.changed:
            while not self.waiting:
                self.changed.wait()
            return self.waiting.popleft()

    def close(self) -> None:
        self.client.close()


def measure(url: str, variant: Any, echoes: int, inbound: int) -> tuple[float, float, float, float]:
    """Return echo p50 and p99 in us, inbound messages per second, and the CPU us of each."""
    inbox = resilient_ws.Inbox(max_messages=2 * inbound, max_bytes=1 << 30)
    side = variant(resilient_ws.connect(url, subscribe=["s"], stream="out", inbox=inbox))
    times = []
    for i in range(echoes):
        start = time.perf_counter()
        side.client.send("x" * 100)
        side.recv()
        if i >= echoes // 10:
            times.append(time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    side.client.send(f"flood {inbound}")
    for _ in range(inbound):
        side.recv()
    rate, cpu = inbound / (time.perf_counter() - start), (time.process_time() - cpu) / inbound
    side.close()
    times.sort()
    return statistics.median(times) * 1e6, times[int(len(times) * 0.99)] * 1e6, rate, cpu * 1e6


def idle(url: str, count: int) -> None:
    """Open many Clients and say what they cost."""
    raise_limit()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    start = time.perf_counter()
    clients = [resilient_ws.connect(url, subscribe=["s"]) for _ in range(count)]
    took = time.perf_counter() - start
    cpu, wall = time.process_time(), time.perf_counter()
    threading.Event().wait(3.0)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    open_files = len(os.listdir("/proc/self/fd")) - files if os.path.isdir("/proc/self/fd") else -1
    print(
        f"idle: {count} Clients opened in {took:.1f} s; {threading.active_count() - threads} threads, "
        f"{open_files} descriptors, {100 * cpu / wall:.1f} % of a core"
    )
    for client in clients:
        client.close()


def raise_limit() -> None:
    """Allow as many descriptors as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both variants a few times, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--echoes", type=int, default=3000)
    parser.add_argument("--inbound", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=run_server, args=(theirs,), daemon=True)
    server.start()
    url = f"ws://127.0.0.1:{ours.recv()}/"
    found: dict[str, list[tuple[float, float, float, float]]] = {"UserReads": [], "ReaderThread": []}
    for _ in range(chosen.rounds):
        for variant in (UserReads, ReaderThread):
            found[variant.__name__].append(measure(url, variant, chosen.echoes, chosen.inbound))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    for name, (p50, p99, rate, cpu) in medians.items():
        print(f"{name:13} echo p50 {p50:7.1f} us  p99 {p99:7.1f} us  inbound {rate:9.0f} /s, {cpu:5.2f} us of CPU each")
    user, thread = medians["UserReads"], medians["ReaderThread"]
    p50, p99, rate, cpu = (mine / other for mine, other in zip(user, thread, strict=True))
    print(f"ratio         echo p50 {p50:7.2f}     p99 {p99:7.2f}     inbound {rate:9.2f}     {cpu:5.2f}")
    if chosen.idle:
        idle(url, chosen.idle)
    ours.send(None)
    server.join(5)
    sys.exit(0)


if __name__ == "__main__":
    main()
