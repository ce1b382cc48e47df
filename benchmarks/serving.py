"""
The server of the benchmarks: raw sockets, one thread for each connection, frames made ready in large pieces.

One process serves every client of a run. What it says to each is decided by the feed that the URL's path names
(``feeds.py``, ``foreign.py``): ``ws://host:port/<feed>[/echo]?size=100&text=1``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import select
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from benchmarks.feeds import Batch, Envelope, Plain, Session
from benchmarks.foreign import Azure, SocketIO
from benchmarks.framing import CLOSE, COMPRESSED, PING, PONG, accept, cut, head, inflated

FEEDS: dict[str, type[Plain]] = {
    "plain": Plain,
    "envelope": Envelope,
    "session": Session,
    "batch": Batch,
    "socket.io": SocketIO,
    "azure": Azure,
}
DEFLATE = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""Each message stands alone, so that they can be made ready."""
PACE = 2500
"""Messages per second where a client asked to be paced."""
READ_SIZE = 256 << 10
NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """One upgraded connection, served by the thread that runs :meth:`serve`."""

    def __init__(self, sock: socket.socket, feed: Plain) -> None:
        self.sock = sock
        self.feed = feed
        self.rest = b""
        self.out = memoryview(b"")
        self.due = 0.0
        self.is_over = False

    def serve(self) -> None:
        """Serve until the client leaves."""
        self.sock.setblocking(False)
        while not self.is_over:
            is_progress = self.read()
            if not self.out:
                self.fill()
            if self.out:
                is_progress |= self.write()
            if not is_progress:
                self.wait()

    def wait(self) -> None:
        """Wait until the socket is ready, or a paced message is due."""
        is_paced = self.feed.is_paced and self.feed.wanted > 0 and not self.out
        timeout = max(0.0, self.due - time.perf_counter()) if is_paced else None
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | (select.POLLOUT if self.out else 0))
        if timeout is None:
            poll.poll()
        elif timeout:
            select.select([self.sock], [], [], timeout)  # poll() knows whole milliseconds only

    def read(self) -> bool:
        """Read what is there; says whether there was something."""
        try:
            data = self.sock.recv(READ_SIZE)
        except NOT_NOW:
            return False
        if not data:
            self.is_over = True
            return True
        data = self.rest + data
        frames, done = cut(data, self.feed.peek)
        self.rest = data[done:]
        for opcode, size, start in frames:
            if opcode & COMPRESSED:
                start = inflated(start)
                self.feed.hear(opcode ^ COMPRESSED, max(size, len(start)), start)
            elif opcode == CLOSE:
                self.feed.said.append(head(0, CLOSE))
                self.is_over = True
            elif opcode == PING:
                self.feed.said.append(head(size, PONG) + start[:size])
            elif opcode != PONG:
                self.feed.hear(opcode, size, start)
        self.feed.heard_all()
        return True

    def fill(self) -> None:
        """Take from the feed what is to be sent next."""
        feed = self.feed
        pieces, feed.said = feed.said, []
        if feed.wanted:
            limit = self.due_now() if feed.is_paced else feed.wanted
            count, frames = feed.more(limit)
            self.due += count / PACE
            pieces.append(frames)
        self.out = memoryview(b"".join(pieces))

    def due_now(self) -> int:
        """How many paced messages are due; a pause before does not count."""
        now = time.perf_counter()
        if now - self.due > 0.1:
            self.due = now
        return max(0, 1 + int((now - self.due) * PACE)) if now >= self.due else 0

    def write(self) -> bool:
        """Write as much as goes; says whether something went."""
        try:
            sent = self.sock.send(self.out)
        except NOT_NOW:
            return False
        self.out = self.out[sent:]
        return True


def upgrade(sock: socket.socket) -> Plain:
    """Answer the request of a client; returns what it asked for."""
    request = b""
    while b"\r\n\r\n" not in request:
        data = sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the client left in its upgrade")
        request += data
    lines = request.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    url = urllib.parse.urlsplit(lines[0].split(b" ")[1].decode())
    query = dict(urllib.parse.parse_qsl(url.query))
    name, _, mode = url.path.strip("/").partition("/")
    kind = {"is_text": query.get("text", "1") == "1", "is_deflated": query.get("deflate") == "1"}
    feed = FEEDS[name](int(query.get("size", 100)), is_echo=mode.startswith("echo"), **kind)
    answer = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    answer.append(b"Sec-WebSocket-Accept: " + accept(fields[b"sec-websocket-key"]))
    if feed.subprotocol:
        answer.append(b"Sec-WebSocket-Protocol: " + feed.subprotocol.encode())
    if feed.is_deflated:
        answer.append(b"Sec-WebSocket-Extensions: " + DEFLATE)
        if b"permessage-deflate" not in fields.get(b"sec-websocket-extensions", b""):
            raise ConnectionError("a client that does not compress wants to be sent what is compressed")
    sock.sendall(b"\r\n".join([*answer, b"", b""]))
    return feed


def serve(sock: socket.socket, tls: ssl.SSLContext | None) -> None:
    """Serve one client until it leaves."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock if tls is None else tls.wrap_socket(sock, server_side=True) as ready:
            Connection(ready, upgrade(ready)).serve()


def listen(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
    """Take clients, each into a thread of its own."""
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, tls), daemon=True).start()


def run(pipe: Any, folder: str | None) -> None:
    """Be the server: say the ports (plain, TLS), and serve until the parent says so or is gone."""
    raise_limit()
    threading.stack_size(256 << 10)
    ports = []
    for tls in (None, server_context(folder)) if folder else (None,):
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        ports.append(listener.getsockname()[1])
        threading.Thread(target=listen, args=(listener, tls), daemon=True).start()
    pipe.send(ports)
    with contextlib.suppress(EOFError):
        pipe.recv()
    os._exit(0)


def raise_limit() -> None:
    """Allow as many descriptors as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# -- the parent's side ------------------------------------------------------------------------------------------------


@attrs.frozen
class Place:
    """Where the server is; ``certificate`` is the file to trust, None where it speaks no TLS."""

    port: int
    tls_port: int | None = None
    certificate: str | None = None

    def url(
        self,
        feed: str,
        *,
        size: int = 100,
        is_text: bool = True,
        is_echo: bool = False,
        tls: bool = False,
        is_deflated: bool = False,
    ) -> str:
        """Return the URL of a feed."""
        scheme, port = ("wss", self.tls_port) if tls else ("ws", self.port)
        query = f"size={size}&text={int(is_text)}&deflate={int(is_deflated)}"
        return f"{scheme}://127.0.0.1:{port}/{feed}{'/echo' * is_echo}?{query}"


def make_certificate(folder: str) -> str:
    """Make a key and a certificate of this machine for a day; returns the certificate's file."""
    key, certificate = Path(folder, "key.pem"), Path(folder, "certificate.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return str(certificate)


def server_context(folder: str) -> ssl.SSLContext:
    """Return what the server needs for TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(folder, "certificate.pem"), Path(folder, "key.pem"))
    return context


@contextlib.contextmanager
def server(*, tls: bool = False) -> Iterator[Place]:
    """Run a server in a process of its own; without TLS where there is no ``openssl`` to make a certificate."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        certificate = make_certificate(folder) if tls and shutil.which("openssl") else None
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=run, args=(theirs, folder if certificate else None), daemon=True)
        process.start()
        theirs.close()
        try:
            yield Place(*ours.recv(), *((certificate,) if certificate else ()))
        finally:
            ours.close()
            process.join(5)
