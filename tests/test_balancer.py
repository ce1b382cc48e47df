"""The balancer: where it leads, what it sets, and what it says when nobody is there; and the Client behind it."""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Iterator

import attrs
import pytest

from resilient_ws.affinity import parse_date
from resilient_ws.dialling import DialOptions
from resilient_ws.exceptions import HandshakeRejected
from resilient_ws.transport import Transport, dial
from server_fixture import rude
from server_fixture.balancer import AFFINITIES, Affinity, Balancer, cookies_in, seal, unseal
from server_fixture.cluster import Cluster
from server_fixture.link import Proxy
from server_fixture.rude import RudeServer
from tests.fault_server import Model, opened, taken, url_of
from tests.transport_tools import PATIENCE

KEY = b"k" * 32


@attrs.define
class Stand:
    """A node for the balancer."""

    name: str
    port: int
    is_draining: bool = False


def unused_port() -> int:
    """Give a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def three(affinity: Affinity) -> Iterator[tuple[Balancer, list[Stand]]]:
    """Put a balancer before three servers that upgrade and echo."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RudeServer(rude.echo)) for _ in range(3)]
        nodes = [Stand(f"n{number}", server.port) for number, server in enumerate(servers)]
        yield stack.enter_context(Balancer(nodes, affinity)), nodes


@contextlib.contextmanager
def dialled(balancer: Balancer, cookie: str | None = None) -> Iterator[Transport]:
    """Open a connection through it."""
    transport = dial(balancer.url, DialOptions(cookie=cookie))
    try:
        yield transport
    finally:
        transport.shut()
        transport.release()


def led_to(balancer: Balancer, cookie: str | None = None) -> tuple[str, list[str]]:
    """Give the node that a new connection is led to, and what the answer sets."""
    before = balancer.led.copy()
    with dialled(balancer, cookie) as transport:
        (node,) = balancer.led - before
        return node, [value for name, value in transport.headers if name == "set-cookie"]


def refusal(balancer: Balancer, cookie: str | None = None) -> int:
    """Give the status that a handshake is refused with."""
    with pytest.raises(HandshakeRejected) as caught:
        dial(balancer.url, DialOptions(cookie=cookie))
    assert caught.value.status is not None
    return caught.value.status


# -- where to ---------------------------------------------------------------------------------------------------------


def test_none_takes_turns_and_sets_nothing() -> None:
    """Without affinity each node is led to in turn."""
    with three("none") as (balancer, _), contextlib.ExitStack() as stack:
        transports = [stack.enter_context(dialled(balancer)) for _ in range(6)]
        assert sorted(balancer.open.values()) == [2, 2, 2]
        assert all(name != "set-cookie" for transport in transports for name, _ in transport.headers)


def test_least_connections_fills_up() -> None:
    """The node with the fewest connections is next."""
    with three("least_connections") as (balancer, _), contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(dialled(balancer))
        (emptiest,) = [name for name, count in balancer.open.items() if count == 1]
        assert led_to(balancer)[0] == emptiest


def test_ip_hash_is_the_same_for_an_address() -> None:
    """One address goes to one node; many addresses go to all."""
    with three("ip_hash") as (balancer, _), contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(dialled(balancer))
        assert list(balancer.open.values()) == [4]
        firsts = {balancer._router.candidates({}, f"10.0.0.{number}")[0].name for number in range(30)}
        assert firsts == {"n0", "n1", "n2"}


def test_cookie_pins_and_is_set_where_it_is_news() -> None:
    """The cookie names the node, comes once, leads back, and is replaced when it names nobody."""
    with three("cookie") as (balancer, _):
        node, lines = led_to(balancer)
        assert lines == [f"SRV={node}; Path=/; HttpOnly"]
        assert [led_to(balancer, f"a=b; SRV={node}") for _ in range(4)] == [(node, [])] * 4
        other, lines = led_to(balancer, "SRV=gone")
        assert lines == [f"SRV={other}; Path=/; HttpOnly"]


def test_alb_sets_both_each_time() -> None:
    """Two opaque cookies with one value, never the same twice; either leads back, one that was changed does not."""
    with three("alb") as (balancer, _):
        node, (plain, cors) = led_to(balancer)
        value = plain.partition(";")[0].partition("=")[2]
        assert cors.startswith(f"AWSALBCORS={value}; Expires=")
        assert cors.endswith("; Path=/; SameSite=None; Secure")
        for name in ("AWSALB", "AWSALBCORS"):
            again, (renewed, _) = led_to(balancer, f"{name}={value}")
            assert again == node
            assert value not in renewed
        assert balancer._router.pin({"AWSALB": value[:-4] + "AAAA"}) is None


def test_alb_pin_ends() -> None:
    """A pin is good for its lifetime by the balancer's clock, and says so."""
    moment = [1_000.0]
    with RudeServer(rude.echo) as server:
        with Balancer([Stand("n", server.port)], "alb", lifetime=60.0, wall=lambda: moment[0]) as balancer:
            _, (plain, _) = led_to(balancer)
            cookies = cookies_in(f"GET / HTTP/1.1\r\nCookie: {plain.partition(';')[0]}\r\n\r\n".encode())
            assert parse_date(plain.split("Expires=")[1].split(";")[0]) == 1_060.0
            moment[0] = 1_059.0
            assert balancer._router.pin(cookies) == "n"
            moment[0] = 1_060.0
            assert balancer._router.pin(cookies) is None


@pytest.mark.parametrize(
    "value", ["", "x", "====", base64.b64encode(b"0" * 30).decode(), base64.b64encode(b"0").decode()]
)
def test_what_is_no_seal_is_refused(value: str) -> None:
    """Anything else than what was sealed with the same key leads nowhere."""
    assert unseal(KEY, value, 0.0) is None
    assert unseal(KEY, seal(b"other", "n", 1.0), 0.0) is None
    assert unseal(KEY, seal(KEY, "n", 1.0), 0.0) == "n"


# -- where nobody is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affinity", AFFINITIES)
def test_dead_and_draining_nodes_are_passed_over(affinity: Affinity) -> None:
    """Whatever leads there: a node that refuses connections, or drains, is not where a handshake ends."""
    with RudeServer(rude.echo) as server:
        nodes = [Stand("dead", unused_port()), Stand("leaving", server.port, is_draining=True), Stand("n", server.port)]
        with Balancer(nodes, affinity) as balancer:
            assert {led_to(balancer, f"SRV={name}")[0] for name in ("dead", "leaving", "n")} == {"n"}


def test_refusals_say_why() -> None:
    """502: all refuse, or the node ends without an answer; 503: none is to be tried; 504: the node does not answer."""
    with RudeServer([rude.Caller.read_request, rude.upgrade_never]) as server:
        nodes = [Stand("dead", unused_port())]
        with Balancer(nodes, answer_timeout=0.2) as balancer:
            assert refusal(balancer) == 502
            nodes[0].port = server.port
            assert refusal(balancer) == 502
            assert refusal(balancer) == 504
            nodes[0].is_draining = True
            assert refusal(balancer) == 503
            assert balancer.open == {}


def test_a_refusal_of_the_node_goes_through() -> None:
    """What a node answers is the answer, with the cookie of its own."""
    with RudeServer(rude.status(429, headers=[("Retry-After", "7")])) as server:
        with Balancer([Stand("n", server.port)], "cookie") as balancer:
            heard: list[tuple[str, str]] = []
            options = DialOptions(on_response=lambda status, headers: heard.extend(headers))
            with pytest.raises(HandshakeRejected):
                dial(balancer.url, options)
            assert ("retry-after", "7") in heard
            assert ("set-cookie", "SRV=n; Path=/; HttpOnly") in heard


def test_close_ends_connections_and_the_port_stays() -> None:
    """Nothing goes through a balancer that was closed; started again it has its old address."""
    with three("none") as (balancer, _):
        url = balancer.url
        with dialled(balancer) as transport:
            balancer.close()
            balancer.close()
            sock = transport._sock
            sock.setblocking(True)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        balancer.start()
        assert balancer.url == url
        led_to(balancer)


def test_a_bad_request_is_not_led_anywhere() -> None:
    """A head without end, or none at all, costs the balancer nothing."""
    with three("none") as (balancer, _):
        for said in (b"x" * (100 << 10), b"GET"):
            with socket.create_connection(("127.0.0.1", balancer.port)) as sock:
                with contextlib.suppress(OSError):
                    sock.sendall(said)
                    sock.shutdown(socket.SHUT_WR)
                    assert sock.recv(1) == b""
        assert balancer.open == {}


def test_settings_are_checked() -> None:
    """An affinity that is not known, or without a balancer, is refused."""
    with pytest.raises(ValueError, match="must be one of none, cookie, alb"):
        Balancer([], "sticky")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="affinity='cookie' needs balancer='embedded'"):
        Cluster(1, backplane="memory", affinity="cookie")
    with pytest.raises(ValueError, match="balancer='nginx': must be 'embedded' or None"):
        Cluster(1, backplane="memory", balancer="nginx")  # type: ignore[arg-type]


# -- the Client behind it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affinity", ["cookie", "alb"])
def test_H21_what_was_set_is_on_the_wire(affinity: Affinity) -> None:
    """A whole Client through the balancer: each reconnect has the newest cookie in its handshake, as it was given."""
    model = Model("a")
    with RudeServer(model.serve) as server, Balancer([Stand("n", server.port)], affinity) as balancer:
        with Proxy("127.0.0.1", balancer.port) as proxy, opened(url_of(proxy)) as client:
            assert taken(client, 1) == ["a"]
            for number in range(3):
                proxy.cut_all()
                client.send(str(number)).result(PATIENCE)
        first, *others = [request.get("cookie") for request in server.requests]
        assert first is None
        if affinity == "cookie":
            assert others == ["SRV=n"] * 3
            return
        assert [balancer._router.pin(cookies_in(request.raw)) for request in server.requests] == [None, "n", "n", "n"]
        assert len(set(others)) == 3
