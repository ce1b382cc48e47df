"""What the tests of the transport share: dialling with test-sized times, and driving a connection by a selector."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_ws.exceptions import ConnectionLost
from resilient_ws.transport import DialOptions, Transport, dial

#: No single wait of a test is longer.
PATIENCE = 10.0


@contextlib.contextmanager
def dialled(url: str, **options: Any) -> Iterator[Transport]:
    """Dial, and release at the end."""
    transport = dial(url, DialOptions(**{"connect_timeout": PATIENCE, **options}))
    try:
        yield transport
    finally:
        transport.release()


def pump(transport: Transport, deadline: float) -> list[str | bytes]:
    """Wait until the connection is ready for something, do it, and give what came."""
    if not transport.has_buffered:
        wants = [transport] if transport.wants_write else []
        left = deadline - time.monotonic()
        assert left > 0, "nothing came in time"
        _, writable, _ = select.select([transport], wants, [], left)
        if writable:
            transport.flush()
    return transport.receive()


def collect(transport: Transport, count: int) -> list[str | bytes]:
    """Receive until so many messages are there."""
    deadline = time.monotonic() + PATIENCE
    messages: list[str | bytes] = []
    while len(messages) < count:
        messages += pump(transport, deadline)
    return messages


def ending(transport: Transport) -> tuple[list[str | bytes], ConnectionLost]:
    """Receive until the connection is over; give what came before, and how it ended."""
    deadline = time.monotonic() + PATIENCE
    messages: list[str | bytes] = []
    while True:
        try:
            messages += pump(transport, deadline)
        except ConnectionLost as lost:
            return messages, lost


@contextlib.contextmanager
def black_hole(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Give a port that never answers a SYN: its queue of connections is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.bind((host, port))
    listener.listen(0)
    parked = []
    try:
        for _ in range(8):
            sock = socket.socket(family)
            parked.append(sock)
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
    finally:
        for sock in [*parked, listener]:
            sock.close()


def closed_port() -> int:
    """Give a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for a name; give the context of a server that has it, and one of a client that trusts it."""
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("needs the openssl command")
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName=DNS:{name}"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))
