"""
A TCP proxy in user space whose every link, one direction of one connection, takes faults at run time.

Three ways to lose a connection are three faults: ``stall`` stops the data and keeps the connection (back-pressure; it
heals without losing a byte), ``cut`` ends it with FIN after an exact number of bytes, ``reset`` ends it with RST.
Beside them ``delay`` and ``slice``. One selector thread serves a proxy; a fault is in force when its call returns. No
privileges are needed. Which fault comes when is decided elsewhere: by chaos.py or a test.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import final

from server_fixture.direction import Link

__all__ = ["Carried", "Link", "Proxy"]

_READ = 64 << 10


@final
class Carried:
    """
    One connection through the proxy: two links.

    Attributes:
        number: 0 for the proxy's first.
        c2s: The link from client to server.
        s2c: The link from server to client.
        is_ended: A cut has happened; both sides have seen FIN and are drained.
        is_over: Both sockets are closed.
    """

    def __init__(self, proxy: Proxy, number: int, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.number = number
        self.c2s = Link(self, client, server)
        self.s2c = Link(self, server, client)
        self.is_ended = False
        self.is_over = False
        self._is_connected = False
        self._client = client
        self._server = server
        self._drained: set[socket.socket] = set()

    def stall(self) -> None:
        """Stall both directions."""
        self.c2s.stall()
        self.s2c.stall()

    def heal(self) -> None:
        """Heal both directions."""
        self.c2s.heal()
        self.s2c.heal()

    def cut(self) -> None:
        """End the connection with FIN to both sides, now."""
        self.proxy.run(self.end)

    def reset(self) -> None:
        """End the connection with RST to both sides, now."""
        self.proxy.run(self.drop)

    def run(self, call: Callable[[], object]) -> None:
        """Run a change in the proxy's thread, and return when it is in force."""
        self.proxy.run(call)

    # -- in the proxy's thread only

    def end(self) -> None:
        """Send FIN to both sides; from here on what they send is read and forgotten, so that no RST overtakes it."""
        if self.is_ended or self.is_over:
            return
        self.is_ended = True
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def drop(self) -> None:
        """Send RST to both sides."""
        if not self.is_over:
            for sock in (self._client, self._server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        """Close both sockets, once."""
        if not self.is_over:
            self.is_over = True
            for sock in (self._client, self._server):
                self.proxy.forget(sock)
                sock.close()

    def interests(self, now: float) -> list[tuple[socket.socket, int]]:
        """Give both sockets with what to wait for on each."""
        if not self._is_connected and not self.is_ended:
            return [(self._server, selectors.EVENT_WRITE), (self._client, 0)]
        wanted = []
        for sock, out, into in ((self._client, self.c2s, self.s2c), (self._server, self.s2c, self.c2s)):
            due = into.due_at()
            reads = sock not in self._drained if self.is_ended else out.wants_read()
            writes = not self.is_ended and due is not None and due <= now
            wanted.append((sock, selectors.EVENT_READ * reads | selectors.EVENT_WRITE * writes))
        return wanted

    def handle(self, sock: socket.socket, mask: int, now: float) -> None:
        """Move what a ready socket has or takes; an error on one side is an RST for the other."""
        try:
            if self.is_ended:
                self._drain(sock)
            elif self._is_connected:
                self._move(sock, mask, now)
            elif self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.drop()
            else:
                self._is_connected = True
        except BlockingIOError:
            pass
        except OSError:
            self.drop()

    def due_at(self) -> float | None:
        """Give the instant from which a link has something to pass on, or None."""
        if self.is_ended or not self._is_connected:
            return None
        return min((at for at in (self.c2s.due_at(), self.s2c.due_at()) if at is not None), default=None)

    def _move(self, sock: socket.socket, mask: int, now: float) -> None:
        out, into = (self.c2s, self.s2c) if sock is self._client else (self.s2c, self.c2s)
        if mask & selectors.EVENT_WRITE:
            into.write(now)
        if mask & selectors.EVENT_READ and not self.is_ended and out.wants_read():
            out.read(now)
        if not self.is_ended and all([self.c2s.finish(), self.s2c.finish()]):
            self.close()

    def _drain(self, sock: socket.socket) -> None:
        if not sock.recv(_READ):
            self._drained.add(sock)
        if len(self._drained) == 2:
            self.close()


@final
class Proxy:
    """
    Listen on a port of its own and carry every connection to the target.

    Args:
        target_host: Where connections go.
        target_port: Its port.
        on_connect: Called in the proxy's thread with every new connection before a byte moves, to set faults.

    Attributes:
        on_connect: As the argument; may be set anew at any time.
        host: Where it listens.
        port: The port, the same over refuse and accept.
        carried: Every connection since the start.
        is_stalled: Whether connections that come now are stalled from their first byte on.
    """

    def __init__(
        self, target_host: str, target_port: int, *, on_connect: Callable[[Carried], object] | None = None
    ) -> None:
        self.host = "127.0.0.1"
        self.carried: list[Carried] = []
        self.is_stalled = False
        self._target = (target_host, target_port)
        self.on_connect = on_connect
        self._calls: queue.SimpleQueue[tuple[Callable[[], object], threading.Event]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._masks: dict[socket.socket, int] = {}
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._serve, name="fixture-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close every connection and the port, and end the thread."""
        self.run(lambda: setattr(self, "_is_stopped", True))
        self._thread.join(5)

    def refuse(self) -> None:
        """Close the port: connections are refused until :meth:`accept`; those that exist go on."""
        self.run(self._close_listener)

    def accept(self) -> None:
        """Open the same port again."""
        self.run(self._listen)

    def retarget(self, host: str, port: int) -> None:
        """Carry the connections that come from now on elsewhere."""
        self.run(lambda: setattr(self, "_target", (host, port)))

    def cut_all(self) -> None:
        """End every connection with FIN."""
        self.run(lambda: list(map(Carried.end, self.carried)))

    def reset_all(self) -> None:
        """End every connection with RST."""
        self.run(lambda: list(map(Carried.drop, self.carried)))

    def stall_all(self) -> None:
        """Stall every connection, those to come too, until :meth:`heal_all`."""
        self.run(lambda: self._set_stalled(True))

    def heal_all(self) -> None:
        """Heal every connection; what is held goes on at once."""
        self.run(lambda: self._set_stalled(False))

    def _set_stalled(self, is_stalled: bool) -> None:
        self.is_stalled = is_stalled
        for carried in self.carried:
            if not carried.is_over:
                (carried.stall if is_stalled else carried.heal)()

    def wait_for(self, condition: Callable[[Proxy], bool], timeout: float = 5.0) -> bool:
        """Wait until a condition on the connections holds; False where it did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def run(self, call: Callable[[], object]) -> None:
        """Run a change in the proxy's thread, and return when it is in force."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            call()
            return
        done = threading.Event()
        self._calls.put((call, done))
        with contextlib.suppress(OSError):
            self._wake.send(b"!")
        while not done.wait(0.1) and self._thread.is_alive():
            pass

    def forget(self, sock: socket.socket) -> None:
        """Wait for nothing more on a socket; before it is closed."""
        if self._masks.pop(sock, 0):
            self._selector.unregister(sock)

    # -- the thread

    def _serve(self) -> None:
        while not self._is_stopped:
            now = time.monotonic()
            waiting = []
            for carried in [carried for carried in self.carried if not carried.is_over]:
                for sock, mask in carried.interests(now):
                    self._watch(sock, mask, carried)
                due = carried.due_at()
                waiting += [due - now] if due is not None and due > now else []
            for key, mask in self._selector.select(min(waiting, default=None)):
                self._handle(key, mask)
            with self._changed:
                self._changed.notify_all()
        self._close_listener()
        for carried in self.carried:
            carried.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _watch(self, sock: socket.socket, mask: int, data: Carried | None) -> None:
        old = self._masks.get(sock, 0)
        if mask == old:
            return
        self._masks[sock] = mask
        if not old:
            self._selector.register(sock, mask, data)
        elif mask:
            self._selector.modify(sock, mask, data)
        else:
            self._selector.unregister(sock)

    def _handle(self, key: selectors.SelectorKey, mask: int) -> None:
        sock = key.fileobj
        if sock is self._woken:
            self._woken.recv(4096)
            while not self._calls.empty():
                call, done = self._calls.get()
                call()
                done.set()
        elif sock is self._listener:
            self._take()
        elif isinstance(key.data, Carried) and isinstance(sock, socket.socket) and not key.data.is_over:
            key.data.handle(sock, mask, time.monotonic())

    def _take(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            client, _ = self._listener.accept()
            family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
            server = socket.socket(family, socket.SOCK_STREAM)
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            carried = Carried(self, len(self.carried), client, server)
            self.carried.append(carried)
            server.connect_ex(self._target)
            if self.is_stalled:
                carried.stall()
            if self.on_connect is not None:
                self.on_connect(carried)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((self.host, self.port), backlog=128)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._watch(self._listener, selectors.EVENT_READ, None)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self.forget(self._listener)
            self._listener.close()
            self._listener = None
