"""The cookies of balancers, seen on the wire by a server; the ids are those of the fault catalogue."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient_ws import Failover, HandshakeRejected, Retry
from resilient_ws.dialling import DialOptions
from resilient_ws.exceptions import ConnectError, ConnectTimeout, NoEndpoint
from resilient_ws.frames import Drain
from resilient_ws.pinning import Pinning, is_public_suffix
from resilient_ws.transport import dial
from server_fixture import rude
from server_fixture.rude import CLOSE, Behaviour, Caller, RudeServer, accept_upgrade, frame
from tests.fault_server import AT_ONCE, Line, Model, opened, proxied, taken, url_of
from tests.transport_tools import PATIENCE

PIN = "AWSALB=a+/b=c==; Path=/"
SENT = "AWSALB=a+/b=c=="


def pins(*lines: str) -> list[tuple[str, str]]:
    """Give headers that set cookies."""
    return [("Set-Cookie", line) for line in lines]


def pinning(model: Model, *lines: str) -> Behaviour:
    """Serve rightly, with cookies in the 101."""

    def behave(caller: Caller) -> None:
        accept_upgrade(caller, headers=pins(*(lines or (PIN,))))
        model.talk(model.enter(caller))

    return behave


def cookies_of(server: RudeServer) -> list[str | None]:
    """Give the Cookie header of every handshake."""
    return [request.get("cookie") for request in server.requests]


def over(*between: Behaviour, lines: tuple[str, ...] = (PIN,), **settings: Any) -> list[str | None]:
    """Get a pin, lose the connection, meet these behaviours, be served again; give the cookies of all handshakes."""
    model = Model("a")
    script = [pinning(model, *lines), *between, model.serve]
    with RudeServer(script) as server, proxied(server) as proxy, opened(url_of(proxy), **settings) as client:
        assert taken(client, 1) == ["a"]
        proxy.cut_all()
        client.send("b").result(PATIENCE)
        assert client.stats()["resumes"] == 1
        assert server.errors == []
        return cookies_of(server)


# -- H21: what is kept and sent ---------------------------------------------------------------------------------------


def test_H21_a_pin_goes_back_as_it_came() -> None:
    """The cookie of a 101 is on the wire of the next handshake, byte for byte."""
    assert over() == [None, SENT]


def test_H21_no_cookie_without_affinity() -> None:
    """The control, and the switch: nothing is sent back where the user says so."""
    assert over(failover=Failover(affinity=False)) == [None, None]


def test_H21_bytes_are_bytes() -> None:
    """What is not ASCII, or not even UTF-8, is the same bytes on the way back."""
    model, raw = Model("a"), b'a=\xe9\xff"x\\y"'

    def behave(caller: Caller) -> None:
        request = caller.read_request()
        head = rude.answer(request, headers=[("Set-Cookie", "PLACE"), ("Sec-WebSocket-Protocol", "resilient.v1")])
        caller.send(head.replace(b"PLACE", raw))
        model.talk(model.enter(caller))

    with RudeServer([behave, model.serve]) as server, proxied(server) as proxy, opened(url_of(proxy)) as client:
        assert taken(client, 1) == ["a"]
        proxy.cut_all()
        client.send("b").result(PATIENCE)
        assert server.requests[-1].raw.endswith(b"\r\nCookie: " + raw)


@pytest.mark.parametrize("status", [429, 503, 200, 408])
def test_H21_refusals_set_cookies_too(status: int) -> None:
    """The cookie of an answer that is not 101 goes with the next handshake."""
    model = Model("a")
    with RudeServer([rude.status(status, headers=pins(PIN)), model.serve]) as server, opened(server.url) as client:
        assert taken(client, 1) == ["a"]
        assert cookies_of(server) == [None, SENT]


def test_H21_odd_ones_are_passed_over() -> None:
    """Malformed cookies and those of foreign domains are ignored; two good ones beside them are both kept."""
    lines = (
        "",
        "nonsense",
        "a=1; Domain=example.com",
        "=b",
        "one=1",
        "two=2; Domain=.com",
        "two=2; HttpOnly",
        "x=\x01",
    )
    assert over(lines=lines) == [None, "one=1; two=2"]


def test_H21_each_answer_renews() -> None:
    """Both cookies of an ALB are renewed with every answer; the one for TLS alone is not sent without it."""
    model = Model("a")
    script = [
        pinning(model, f"AWSALB=v{number}; Path=/", f"AWSALBCORS=v{number}; Path=/; SameSite=None; Secure")
        for number in range(3)
    ]
    with RudeServer(script) as server, proxied(server) as proxy, opened(url_of(proxy)) as client:
        for number in range(3):
            client.send(str(number)).result(PATIENCE)
            proxy.cut_all() if number < 2 else None
        assert cookies_of(server) == [None, "AWSALB=v0", "AWSALB=v1"]


def test_H21_the_users_own_header_goes_first() -> None:
    """headers= and the jar make one Cookie header; a name that the user has is the user's."""
    lines = ("mine=theirs", PIN)
    assert over(lines=lines, headers={"Cookie": "mine=1; other=2"}) == ["mine=1; other=2", f"mine=1; other=2; {SENT}"]


def test_H21_a_jar_is_one_clients() -> None:
    """Another Client of the process does not send what this one got."""
    model = Model("a")
    with RudeServer(pinning(model)) as server, opened(server.url), opened(server.url):
        assert cookies_of(server) == [None, None]


def test_H23_a_cookie_injects_nothing() -> None:
    """Whatever a dial is told to take along, CR and LF do not go out."""
    with RudeServer(Model().serve) as server:
        with pytest.raises(ValueError, match="CR, LF"):
            dial(server.url, DialOptions(cookies=lambda: b"a=b\r\nX-More: c"))
        assert server.requests == []


# -- S26: a pin that leads nowhere ------------------------------------------------------------------------------------


def unwelcoming(caller: Caller) -> None:
    """Upgrade, and close 1013 in place of a welcome."""
    accept_upgrade(caller)
    caller.read_frame()
    caller.send(frame(CLOSE, (1013).to_bytes(2, "big")))
    caller.wait_gone()


LEADS_NOWHERE: dict[str, Behaviour] = {
    "S26_502": rude.status(502),
    "S26_503_renewed": rude.status(503, headers=pins(PIN)),
    "S26_504": rude.status(504),
    "S26_dead": Caller.read_request,
    "S26_hung": rude.upgrade_never,
    "S26_no_welcome": unwelcoming,
}


@pytest.mark.parametrize("name", LEADS_NOWHERE)
def test_S26_pin_is_dropped(name: str) -> None:
    """One handshake that fails where the pin leads, and the next one goes without: it is served."""
    assert over(LEADS_NOWHERE[name], retry=Retry(wait=AT_ONCE.wait, connect_timeout=0.3)) == [None, SENT, None]


@pytest.mark.parametrize("status", [408, 429])
def test_S26_pin_is_kept_where_the_node_is_well(status: int) -> None:
    """A node that asks to wait is still the right one."""
    assert over(rude.status(status)) == [None, SENT, SENT]


def test_S26_pin_is_dropped_when_the_node_leaves() -> None:
    """After a drain notice the next handshake is not led back."""
    model = Model("a")

    def leaves(caller: Caller) -> None:
        accept_upgrade(caller, headers=pins(PIN))
        line: Line = model.enter(caller)
        line.say(Drain(within=5.0))
        model.talk(line)

    with RudeServer([leaves, model.serve]) as server, proxied(server) as proxy:
        drained = threading.Event()
        watch = {"on_event": lambda event: drained.set() if type(event).__name__ == "DrainNoticed" else None}
        with opened(url_of(proxy), **watch) as client:
            assert drained.wait(PATIENCE)
            proxy.cut_all()
            client.send("b").result(PATIENCE)
            assert cookies_of(server) == [None, None]


# -- H10: to another place --------------------------------------------------------------------------------------------


def test_H10_no_cookie_follows_a_redirect() -> None:
    """A redirect of a session that has cookies is a clear error, and nobody connects to where it points."""
    model = Model("a")
    with RudeServer(model.serve, host="127.0.0.2") as other:
        with RudeServer([pinning(model), rude.redirect(other.url)]) as server, proxied(server) as proxy:
            with opened(url_of(proxy), access_token="token") as client:
                assert taken(client, 1) == ["a"]
                proxy.cut_all()
                with pytest.raises(HandshakeRejected, match=r"redirects are never followed .* use the final URL"):
                    client.recv(PATIENCE)
        assert cookies_of(server) == [None, SENT]
        assert other.connections == 0


def test_H10_another_endpoint_gets_no_cookie() -> None:
    """What one endpoint sets is not sent to another one, on the same host even."""
    jar, options = Pinning(clock=lambda: 0.0), DialOptions()
    with RudeServer(rude.status(429, headers=pins(PIN))) as first, RudeServer(rude.status(429)) as second:
        for server in (first, second, first):
            with pytest.raises(HandshakeRejected):
                jar.dial(dial, server.url, options, False)
        assert cookies_of(second) == [None]
        assert cookies_of(first) == [None, SENT]


# -- many dials at once -----------------------------------------------------------------------------------------------

Dialled = Callable[..., bytes]


def dialling(lines: list[str], error: ConnectError | None = None, status: int = 101) -> Dialled:
    """Make a dialer that asks for cookies and answers, or fails."""

    def dialer(url: str, options: DialOptions) -> bytes:
        assert options.cookies is not None
        assert options.on_response is not None
        sent = options.cookies()
        if error is not None:
            raise error
        options.on_response(status, [("set-cookie", line) for line in lines])
        return sent

    return dialer


def unreached(url: str, options: DialOptions) -> bytes:
    """Find no server."""
    raise NoEndpoint("nobody is there")


def test_a_balancer_that_is_not_reached_says_nothing_of_its_nodes() -> None:
    """Where no request went out the pin stays; where one did and nothing came back, it goes."""
    jar, url, options = Pinning(clock=lambda: 0.0), "ws://127.0.0.1:1/", DialOptions()
    assert jar.dial(dialling(["a=1"]), url, options, False) == b""
    with pytest.raises(NoEndpoint):
        jar.dial(unreached, url, options, False)
    assert jar.dial(dialling([]), url, options, False) == b"a=1"
    with pytest.raises(ConnectTimeout):
        jar.dial(dialling([], ConnectTimeout("hangs")), url, options, False)
    assert jar.dial(dialling([]), url, options, False) == b""


def test_a_fresh_dial_forgets() -> None:
    """A dial that must not lead back goes without, and what it gets is kept."""
    jar, url, options = Pinning(clock=lambda: 0.0), "ws://127.0.0.1:1/", DialOptions()
    jar.dial(dialling(["a=1"]), url, options, False)
    assert jar.dial(dialling(["a=2"]), url, options, True) == b""
    assert jar.dial(dialling([]), url, options, False) == b"a=2"


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        ([(101, "a=2"), (101, "a=3")], b"a=2"),
        ([(101, "a=2"), (503, "a=3")], b"a=2"),
        ([(429, "a=2"), (101, "a=3")], b"a=3"),
        ([(503, "a=2"), (429, "a=3")], b""),
        ([(503, "a=2"), None], b""),
        ([(429, "b=2"), None], b"a=1; b=2"),
        ([None, None], b""),
    ],
)
def test_one_dial_on_several_ways(answers: list[tuple[int, str] | None], left: bytes) -> None:
    """Of the addresses of a name, tried at once, the first that is upgraded says what is kept."""
    jar, url, options = Pinning(clock=lambda: 0.0), "ws://127.0.0.1:1/", DialOptions()
    jar.dial(dialling(["a=1"]), url, options, False)

    def racing(url: str, options: DialOptions) -> bytes:
        def way(answer: tuple[int, str] | None, turn: threading.Event, after: threading.Event) -> None:
            assert options.cookies is not None
            assert options.on_response is not None
            asked.append(options.cookies())
            both_asked.wait(PATIENCE)
            assert turn.wait(PATIENCE)
            if answer is not None:
                options.on_response(answer[0], [("set-cookie", answer[1])])
            after.set()

        asked: list[bytes] = []
        both_asked = threading.Barrier(2)
        turns = [threading.Event() for _ in range(3)]
        turns[0].set()
        ways = [threading.Thread(target=way, args=(answers[n], turns[n], turns[n + 1])) for n in range(2)]
        for thread in ways:
            thread.start()
        for thread in ways:
            thread.join(PATIENCE)
        assert asked == [b"a=1", b"a=1"]
        if not any(answer and answer[0] == 101 for answer in answers):
            raise HandshakeRejected("no way was upgraded")
        return b""

    with contextlib.suppress(HandshakeRejected):
        jar.dial(racing, url, options, False)
    assert jar.dial(dialling([]), url, options, False) == left


def test_dials_in_many_threads() -> None:
    """Threads that dial, renew and forget at once never see half a jar."""
    jar, options, seen, failed = Pinning(clock=lambda: 0.0), DialOptions(), set(), []

    def work(number: int) -> None:
        try:
            for turn in range(200):
                url = f"ws://127.0.0.1:{1 + turn % 2}/"
                seen.add(jar.dial(dialling(["a=x", "b=y"]), url, options, (turn + number) % 7 == 0))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    assert seen <= {b"", b"a=x; b=y"}
    assert b"a=x; b=y" in seen


def test_public_suffixes_are_known() -> None:
    """The list of the extra says which domains are nobody's own."""
    assert [is_public_suffix(name) for name in ("co.uk", "com", "example.com", "a.example.co.uk")] == [
        True,
        True,
        False,
        False,
    ]
