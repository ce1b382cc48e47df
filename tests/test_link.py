"""The proxy and its links: bytes pass unchanged, and each fault does what its name says and nothing else."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from server_fixture.link import Carried, Proxy

PATIENCE = 5.0


class Target:
    """A server that keeps what it reads, and sends back what it is told to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.peers: list[socket.socket] = []

    def accept(self) -> socket.socket:
        """Accept one connection."""
        self.listener.settimeout(PATIENCE)
        peer, _ = self.listener.accept()
        peer.settimeout(PATIENCE)
        self.peers.append(peer)
        return peer


@pytest.fixture
def target() -> Iterator[Target]:
    """A target that is closed at the end."""
    target = Target()
    yield target
    for sock in [target.listener, *target.peers]:
        sock.close()


@pytest.fixture
def proxy(target: Target) -> Iterator[Proxy]:
    """A proxy in front of the target."""
    with Proxy("127.0.0.1", target.port) as proxy:
        yield proxy


def connected(proxy: Proxy, target: Target) -> tuple[socket.socket, socket.socket, Carried]:
    """Connect through the proxy; give the client's end, the server's end and the connection."""
    client = socket.create_connection((proxy.host, proxy.port), PATIENCE)
    target.peers.append(client)
    return client, target.accept(), proxy.carried[-1]


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Read so many bytes, or what comes before the end."""
    data = b""
    while len(data) < count and (part := sock.recv(count - len(data))):
        data += part
    return data


def is_silent(sock: socket.socket, seconds: float = 0.05) -> bool:
    """Tell whether nothing, not even an end, arrives for a while."""
    return select.select([sock], [], [], seconds)[0] == []


def send_all_later(sock: socket.socket, data: bytes) -> threading.Thread:
    """Send in a thread of its own."""
    thread = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
    thread.start()
    return thread


def test_bytes_pass_both_ways_unchanged(proxy: Proxy, target: Target) -> None:
    """Megabytes pass in both directions at once, byte for byte, and are counted."""
    client, server, carried = connected(proxy, target)
    up, down = bytes(range(256)) * 8192, bytes(reversed(range(256))) * 8192
    senders = [send_all_later(client, up), send_all_later(server, down)]
    assert read_exactly(server, len(up)) == up
    assert read_exactly(client, len(down)) == down
    for sender in senders:
        sender.join(PATIENCE)
    assert proxy.wait_for(lambda _: (carried.c2s.passed, carried.s2c.passed) == (len(up), len(down)))


def test_half_close_passes(proxy: Proxy, target: Target) -> None:
    """A FIN of one side reaches the other, which can still answer; then the connection is over."""
    client, server, carried = connected(proxy, target)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_exactly(server, 100) == b"question"
    server.sendall(b"answer")
    server.close()
    assert read_exactly(client, 100) == b"answer"
    assert proxy.wait_for(lambda _: carried.is_over)


def test_stall_holds_and_heal_loses_nothing(proxy: Proxy, target: Target) -> None:
    """While a link is stalled nothing passes and the connection stays; healed, every byte arrives in order."""
    client, server, carried = connected(proxy, target)
    client.sendall(b"before ")
    assert read_exactly(server, 7) == b"before "
    carried.c2s.stall()
    client.sendall(b"during")
    assert is_silent(server)
    server.sendall(b"other way")
    assert read_exactly(client, 9) == b"other way"
    carried.c2s.heal()
    assert read_exactly(server, 6) == b"during"


def test_stall_of_all_takes_those_to_come_too(proxy: Proxy, target: Target) -> None:
    """A connection that is made while everything is stalled carries nothing either, until everything is healed."""
    client, server, _ = connected(proxy, target)
    proxy.stall_all()
    later, its_server, _ = connected(proxy, target)
    client.sendall(b"first")
    later.sendall(b"later")
    assert is_silent(server)
    assert is_silent(its_server)
    proxy.heal_all()
    assert read_exactly(server, 5) == b"first"
    assert read_exactly(its_server, 5) == b"later"
    last, its_server, _ = connected(proxy, target)
    last.sendall(b"last")
    assert read_exactly(its_server, 4) == b"last"


def test_retarget_takes_new_connections_elsewhere(proxy: Proxy, target: Target) -> None:
    """What is carried stays where it is; what comes from now on goes to the other target."""
    client, server, _ = connected(proxy, target)
    other = Target()
    proxy.retarget("127.0.0.1", other.port)
    target.peers.append(other.listener)
    later, its_server, _ = connected(proxy, other)
    later.sendall(b"later")
    assert read_exactly(its_server, 5) == b"later"
    its_server.close()
    client.sendall(b"first")
    assert read_exactly(server, 5) == b"first"
    later.close()


def test_stall_is_back_pressure(proxy: Proxy, target: Target) -> None:
    """A sender into a stalled link blocks once the buffers are full, instead of filling the proxy's memory."""
    client, server, carried = connected(proxy, target)
    carried.c2s.stall()
    data = bytes(32 << 20)
    sender = send_all_later(client, data)
    sender.join(0.2)
    assert sender.is_alive()
    assert carried.c2s.received == 0
    carried.c2s.heal()
    assert len(read_exactly(server, len(data))) == len(data)
    sender.join(PATIENCE)


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_cut_is_fin_after_exactly_k_bytes(target: Target, after: int) -> None:
    """A cut lets exactly so many bytes through and then both sides see FIN, not RST."""
    with Proxy("127.0.0.1", target.port, on_connect=lambda carried: carried.c2s.cut(after=after)) as proxy:
        client, server, carried = connected(proxy, target)
        if after:
            client.sendall(b"123456789")
        assert read_exactly(server, 100) == b"123456789"[:after]
        assert read_exactly(client, 100) == b""
        assert carried.is_ended


def test_cut_behind_what_has_passed_is_now(proxy: Proxy, target: Target) -> None:
    """A cut at a place that is already past ends the connection at once."""
    client, server, carried = connected(proxy, target)
    client.sendall(b"12345")
    assert read_exactly(server, 5) == b"12345"
    carried.c2s.cut(after=3)
    assert read_exactly(server, 1) == b""
    assert read_exactly(client, 1) == b""


def test_cut_closes_when_both_sides_have_gone(proxy: Proxy, target: Target) -> None:
    """After a cut the proxy forgets what still comes, and closes when both sides have ended."""
    client, server, carried = connected(proxy, target)
    carried.cut()
    client.sendall(b"too late")
    client.close()
    assert read_exactly(server, 100) == b""
    server.close()
    assert proxy.wait_for(lambda _: carried.is_over)


def test_reset_is_rst_to_both(proxy: Proxy, target: Target) -> None:
    """A reset is a ConnectionResetError on both sides."""
    client, server, carried = connected(proxy, target)
    carried.c2s.reset()
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_rst_of_one_side_passes(proxy: Proxy, target: Target) -> None:
    """When one side resets, the other sees a reset, as without the proxy."""
    client, server, _ = connected(proxy, target)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_delay_shifts_one_direction(proxy: Proxy, target: Target) -> None:
    """What passes a delayed link arrives later by the delay; the other direction is as fast as ever."""
    client, server, carried = connected(proxy, target)
    carried.c2s.delay(0.15)
    started = time.monotonic()
    client.sendall(b"slow")
    server.sendall(b"fast")
    assert read_exactly(client, 4) == b"fast"
    assert time.monotonic() - started < 0.15
    assert read_exactly(server, 4) == b"slow"
    assert time.monotonic() - started >= 0.15


def test_heal_releases_what_a_delay_holds(proxy: Proxy, target: Target) -> None:
    """Healing a delayed link passes on at once what waits in it."""
    client, server, carried = connected(proxy, target)
    carried.c2s.delay(60.0)
    client.sendall(b"held")
    assert proxy.wait_for(lambda _: carried.c2s.received == 4)
    assert is_silent(server)
    carried.c2s.heal()
    assert read_exactly(server, 4) == b"held"


def test_slice_passes_small_pieces_slowly(proxy: Proxy, target: Target) -> None:
    """A sliced link gives at most so many bytes at a time, with the pause in between."""
    client, server, carried = connected(proxy, target)
    carried.c2s.slice(2, pause=0.03)
    started = time.monotonic()
    client.sendall(b"abcdefgh")
    assert server.recv(100) == b"ab"
    assert read_exactly(server, 6) == b"cdefgh"
    assert time.monotonic() - started >= 0.09


def test_refuse_and_accept_use_the_same_port(proxy: Proxy, target: Target) -> None:
    """Refused connections fail while old ones go on; then the same port answers again."""
    client, server, _ = connected(proxy, target)
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, port), PATIENCE)
    client.sendall(b"old")
    assert read_exactly(server, 3) == b"old"
    proxy.accept()
    assert proxy.port == port
    connected(proxy, target)


def test_cut_all_ends_every_connection(proxy: Proxy, target: Target) -> None:
    """Every connection sees FIN, and new ones are carried."""
    pairs = [connected(proxy, target) for _ in range(3)]
    proxy.cut_all()
    for client, server, _ in pairs:
        assert client.recv(1) == b""
        assert server.recv(1) == b""
    client, server, _ = connected(proxy, target)
    client.sendall(b"new")
    assert read_exactly(server, 3) == b"new"


def test_reset_all_resets_every_connection(proxy: Proxy, target: Target) -> None:
    """Every connection sees RST."""
    pairs = [connected(proxy, target) for _ in range(2)]
    proxy.reset_all()
    for client, _, _ in pairs:
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_target_that_refuses_resets_the_client(target: Target) -> None:
    """A client whose target does not listen sees its connection end."""
    target.listener.close()
    with Proxy("127.0.0.1", target.port) as proxy:
        with pytest.raises(ConnectionResetError):
            # The reset may come before connect() has returned.
            with socket.create_connection((proxy.host, proxy.port), PATIENCE) as client:
                client.recv(1)


def test_stop_ends_the_thread_and_the_port(target: Target) -> None:
    """A stopped proxy leaves no thread and no port."""
    proxy = Proxy("127.0.0.1", target.port)
    connected(proxy, target)
    proxy.stop()
    assert "fixture-proxy" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), PATIENCE)
