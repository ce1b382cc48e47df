"""A Client with ``Wire(compression="deflate")``: tokens stay out of the context; the reference server can do it too."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import pytest

import resilient_ws
from resilient_ws import Failover, Wire
from resilient_ws.arguments import Arguments
from resilient_ws.deflating import MIN_SIZE, Agreement, Offer
from resilient_ws.dialects.native import Native
from server_fixture.cluster import Cluster
from server_fixture.rude import TEXT, Caller, RudeServer, accept_upgrade
from tests.transport_tools import PATIENCE, dialled

COMPRESSED = Wire(compression="deflate")
FACTS = "a fact that comes again and again, " * 10


def first_frame(**settings: Any) -> tuple[int, bytes]:
    """Have a Client dial a server that agrees to compress; give the first byte and the payload of its first frame."""
    heard: list[tuple[int, bytes]] = []
    done = threading.Event()

    def behave(caller: Caller) -> None:
        accept_upgrade(caller, headers=[("Sec-WebSocket-Extensions", "permessage-deflate")])
        heard.append(caller.read_whole_frame())
        done.set()

    with RudeServer(behave) as server:
        with resilient_ws.connect(server.url, wait=False, wire=COMPRESSED, open_timeout=PATIENCE, **settings):
            assert done.wait(PATIENCE)
        assert server.requests[0].get("sec-websocket-extensions") == Offer().header
    return heard[0]


def test_hello_is_not_compressed() -> None:
    """A hello is long enough to be compressed and goes out as it is, for it may hold a token."""
    first, payload = first_frame()
    assert len(payload) > MIN_SIZE
    assert (first, payload[:1]) == (0x80 | TEXT, b"{")


def test_compressed_hello_is_noticed() -> None:
    """The check above fails for a dialect that lets everything be compressed."""

    class Leaking(Native):
        def is_compressible(self, message: str | bytes) -> bool:
            return True

    first, payload = first_frame(dialect=Leaking())
    assert (first, payload[:1] == b"{") == (0x80 | 0x40 | TEXT, False)


@pytest.mark.parametrize(
    ("message", "may"),
    [
        ('{"type":"hello"}', False),
        ("{", False),
        ("orders:1:{}", True),
        (b"orders:1:{}", True),
        (b"{is no control frame", True),
        ("", True),
    ],
)
def test_native_dialect_keeps_control_frames_out(message: str | bytes, may: bool) -> None:
    """What begins as a control frame of ``resilient.v1`` is not compressed, whatever is in it."""
    assert Native().is_compressible(message) is may


def arguments(**given: Any) -> Arguments:
    """Make the arguments of a Client."""
    fields: dict[str, Any] = dict.fromkeys(attrs.fields_dict(Arguments))
    return Arguments(**{**fields, "dialect": Native(), "failover": Failover(), "wire": Wire(), **given})


def test_what_is_offered_is_what_the_setting_says() -> None:
    """Nothing is offered by default; ``deflate`` offers it."""
    assert arguments().dial_options(1.0).compression is None
    assert arguments(wire=COMPRESSED).dial_options(1.0).compression == Offer()


def test_dialect_that_says_nothing_gets_nothing_compressed() -> None:
    """Where a dialect does not say what may be compressed, nothing that it writes is."""

    @attrs.frozen
    class Silent:
        subprotocol: str | None = None

    options = arguments(wire=COMPRESSED, dialect=Silent()).dial_options(1.0)
    assert options.is_compressible is not None
    assert not options.is_compressible("data")


@pytest.mark.cluster
def test_reference_server_compresses_where_it_is_told_to() -> None:
    """With ``--compression=deflate`` a node agrees to an offer, and a Client's messages go both ways."""
    with Cluster(1, backplane="memory", flags={"compression": "deflate"}) as cluster:
        (url,) = cluster.urls
        with dialled(url, subprotocols=("resilient.v1",), compression=Offer()) as transport:
            assert transport.compression == Agreement()
        with dialled(url, subprotocols=("resilient.v1",)) as transport:
            assert transport.compression is None
        for wire in (COMPRESSED, Wire()):
            with resilient_ws.connect(url, subscribe=["s"], stream="s", wire=wire) as client:
                for number in range(200):
                    client.send(f"{number} {FACTS}")
                    client.send(f"{number} {FACTS}".encode())
                assert [client.recv(PATIENCE).data for _ in range(400)] == [
                    sent for number in range(200) for sent in (f"{number} {FACTS}", f"{number} {FACTS}".encode())
                ]
                client.flush(PATIENCE)


@pytest.mark.cluster
def test_reference_server_declines_by_default() -> None:
    """A node that was not told to compress takes a Client that offers it, without compression."""
    with Cluster(1, backplane="memory") as cluster:
        with dialled(cluster.urls[0], subprotocols=("resilient.v1",), compression=Offer()) as transport:
            assert transport.compression is None
        with resilient_ws.connect(cluster.urls, subscribe=["s"], stream="s", wire=COMPRESSED) as client:
            client.send(FACTS)
            assert client.recv(PATIENCE).data == FACTS
            client.flush(PATIENCE)
