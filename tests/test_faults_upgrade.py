"""The whole Client against servers that break the upgrade; the ids are those of the fault catalogue."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest

from resilient_ws import (
    AccessDenied,
    ConnectError,
    ConnectTimeout,
    HandshakeRejected,
    Retry,
    SessionClosed,
    Undelivered,
    connect,
)
from server_fixture import rude
from server_fixture.rude import Behaviour, RudeServer, answer
from tests.fault_server import AT_ONCE, Model, opened, proxied, taken, url_of
from tests.transport_tools import PATIENCE


def refused(behaviour: Behaviour, **settings: Any) -> tuple[ConnectError, RudeServer]:
    """Fail to open a Client at a server that upgrades wrongly; give why."""
    with RudeServer(behaviour) as server:
        started = time.monotonic()
        with pytest.raises(ConnectError) as caught:
            connect(server.url, **{"open_timeout": 0.5, "retry": AT_ONCE, **settings})
        assert time.monotonic() - started < 4.0
        assert server.errors == []
    return caught.value, server


# -- servers that may answer better later -----------------------------------------------------------------------------

LATER: dict[str, tuple[Behaviour, str]] = {
    "H7_500": (rude.status(500), "HTTP 500 .the server or its balancer is in trouble"),
    "H7_502": (rude.status(502), "HTTP 502"),
    "H7_504": (rude.status(504), "HTTP 504"),
    "H8_html": (rude.html_200, "a page instead of a WebSocket: a login portal, or the wrong path"),
    "H12_wrong_accept": (rude.wrong_accept, "wrong Sec-WebSocket-Accept"),
    "H12_wrong_case": (rude.accept_wrong_case, "wrong Sec-WebSocket-Accept"),
    "H15_cut_101": (rude.cut_101(40), "closed the connection before it answered the upgrade"),
    "H16_ssh": (rude.ssh_banner, "does not speak HTTP/1.1; is this the right port"),
    "H16_bad_status": (rude.http(b"HTTP/1.1 9999 Odd\r\n\r\n"), "malformed status line"),
    "H17_endless_line": (rude.endless_header_line, "header line of more than 8192 bytes"),
    "H17_endless_headers": (rude.endless_headers, "more than 100 headers"),
}


@pytest.mark.parametrize("name", LATER)
def test_H_may_be_better_later(name: str) -> None:
    """What a server says in trouble is tried again until connect()'s time is over, and quoted by its error."""
    behaviour, words = LATER[name]
    error, server = refused(behaviour)
    assert isinstance(error, ConnectTimeout)
    assert error.retryable
    assert server.connections > 1
    with pytest.raises(ConnectTimeout, match=words):
        raise error


@pytest.mark.parametrize("name", LATER)
def test_H_is_better_later(name: str) -> None:
    """Two bad answers, then a good one: connect() returns, and what was there to receive and to send goes through."""
    behaviour, _ = LATER[name]
    model = Model("a")
    with RudeServer([behaviour, behaviour, model.serve]) as server, opened(server.url) as client:
        client.send("b").result(PATIENCE)
        assert taken(client, 1) == ["a"]
    assert (server.connections, model.received) == (3, ["b"])


@pytest.mark.parametrize("name", LATER)
def test_H_in_a_session(name: str) -> None:
    """The same bad answers to a reconnect cost the session nothing."""
    behaviour, _ = LATER[name]
    model = Model("a")
    script = [model.serve, behaviour, behaviour, model.serve]
    with RudeServer(script) as server, proxied(server) as proxy, opened(url_of(proxy)) as client:
        assert taken(client, 1) == ["a"]
        model.log.append("b")
        proxy.cut_all()
        client.send("c").result(PATIENCE)
        assert taken(client, 1) == ["b"]
        assert client.stats()["resumes"] == 1


@pytest.mark.parametrize("behaviour", [rude.upgrade_never, rude.drip(0.02)], ids=["H22_never", "H18_slowloris"])
def test_H18_H22_an_upgrade_that_does_not_end(behaviour: Behaviour) -> None:
    """An upgrade that is not answered, or by a byte now and then, is over after connect_timeout; the next may do."""
    model = Model("a")
    started = time.monotonic()
    with RudeServer([behaviour, model.serve]) as server:
        with opened(server.url, retry=Retry(connect_timeout=0.3)) as client:
            assert taken(client, 1) == ["a"]
    assert 0.3 <= time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("behaviour", [rude.upgrade_never, rude.drip(0.02)], ids=["H22_never", "H18_slowloris"])
def test_H18_H22_the_error_says_what_was_waited_for(behaviour: Behaviour) -> None:
    """connect() keeps its own time while the upgrade hangs."""
    error, _ = refused(behaviour)
    assert isinstance(error, ConnectTimeout)
    assert "TLS or upgrade" in str(error)


# -- servers that will not answer better ------------------------------------------------------------------------------

NEVER: dict[str, tuple[Behaviour, str]] = {
    "H2_403": (rude.status(403), "does not allow us in .HTTP 403.; check access_token= or headers="),
    "H1_401": (rude.status(401), "does not know who we are .HTTP 401.; check access_token= or headers="),
    "H3_404": (rude.status(404), "HTTP 404 .check the URL"),
    "H10_redirect": (rude.redirect("ws://127.0.0.2:1/"), "redirects are never followed .* use the final URL"),
    "H13_unasked": (rude.unasked_subprotocol, "subprotocol that was not offered; see the dialect= option"),
    "H13_none": (lambda caller: caller.send(answer(caller.read_request())), "does not speak resilient.v1; see the dia"),
    "H14_extension": (rude.unasked_extension, "extension that was not offered"),
}


@pytest.mark.parametrize("name", NEVER)
def test_H_is_final(name: str) -> None:
    """Where somebody has to change something there is one attempt, at once an error, and no storm."""
    behaviour, words = NEVER[name]
    error, server = refused(behaviour, open_timeout=PATIENCE)
    assert isinstance(error, AccessDenied if name in ("H1_401", "H2_403") else HandshakeRejected)
    assert not error.retryable
    assert server.connections == 1
    with pytest.raises(HandshakeRejected, match=words):
        raise error


def test_H2_access_is_withdrawn_in_a_session() -> None:
    """A 403 to a reconnect ends the session: every call says so, what has no ack is named, and nobody dials again."""
    model = Model("a")
    with RudeServer([model.serve, rude.status(403)]) as server, proxied(server) as proxy:
        with opened(url_of(proxy)) as client:
            assert taken(client, 1) == ["a"]
            proxy.carried[0].c2s.stall()
            receipt = client.send("b")
            proxy.cut_all()
            with pytest.raises(AccessDenied, match="check access_token="):
                client.recv(PATIENCE)
            with pytest.raises(AccessDenied):
                client.send("c")
            with pytest.raises(Undelivered, match="'out': 1 to 1"):
                client.flush(PATIENCE)
            with pytest.raises(Undelivered):
                receipt.result(PATIENCE)
        assert server.connections == 2
    assert not isinstance(AccessDenied("x"), SessionClosed)


def test_H10_nothing_goes_to_the_other_host() -> None:
    """No connection is made to where a redirect points, with credentials or without."""
    with RudeServer(Model().serve, host="127.0.0.2") as other:
        error, _ = refused(rude.redirect(other.url), access_token="token", headers={"Cookie": "a=b"})
        assert other.connections == 0
        assert not error.retryable
        with opened(other.url):  # the control: it could have been reached
            assert other.connections == 1


@pytest.mark.parametrize("name", [name for name in NEVER if name not in ("H1_401", "H2_403")])
def test_H_final_for_one_endpoint_is_not_final_for_another(name: str) -> None:
    """A wrong endpoint beside a good one is passed over (a refusal of who we are, above, holds for all)."""
    behaviour, _ = NEVER[name]
    with RudeServer(behaviour) as wrong, RudeServer(Model("a").serve) as good:
        for _ in range(4):  # the endpoints are shuffled
            with opened(wrong.url, good.url) as client:
                assert taken(client, 1) == ["a"]


# -- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"headers": {"X-Key": "a\r\nX-More: b"}},
        {"headers": [("X-Key\r\nX-More", "b")]},
        {"headers": {"Cookie": "a=b\r\nX-More: c"}},
        {"headers": {"X-Key": "a\0"}},
        {"access_token": "a\nX-More: b"},
        {"url": "?a=b\r\nX-More:%20c"},
    ],
)
def test_H23_nothing_is_dialled_with_an_injection(settings: dict[str, Any]) -> None:
    """CR, LF or NUL in a header, a cookie, a token or a URL is a ValueError at once."""
    with RudeServer(Model().serve) as server:
        with pytest.raises(ValueError, match=r"CR, LF|not an RFC 9110 token"):
            connect(server.url + settings.pop("url", ""), **settings)
        assert server.connections == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"access_token": lambda: "a\nX-More: b"}, "access_token=: the answer cannot be used: .* printable ASCII"),
        ({"headers": lambda: {"X": "a\r\nY: b"}}, "ValueError; if headers= raised it, look there"),
    ],
)
def test_H23_nor_with_one_that_a_function_returns(settings: dict[str, Any], text: str) -> None:
    """What a function returns is held against the same rules before each dial; the error points to it."""
    with RudeServer(Model().serve) as server:
        with pytest.raises(ConnectTimeout, match=text):
            connect(server.url, open_timeout=0.3, retry=AT_ONCE, **settings)
        assert server.connections == 0


@pytest.mark.parametrize("status", [429, 503])
def test_H5_H6_retry_after_is_waited_for(status: int) -> None:
    """The next request comes when the seconds are over, not before."""
    busy = rude.status(status, headers=[("Retry-After", "1")])
    started = time.monotonic()
    with RudeServer([busy, Model("a").serve]) as server, opened(server.url) as client:
        assert taken(client, 1) == ["a"]
        assert 1.0 <= time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("value", ["31536000", "-5", "soon", "", "1e9"])
def test_H5_H6_a_retry_after_that_is_none_holds_nobody_up(value: str) -> None:
    """What cannot be read is ignored; a year is waited for no longer than Retry(max_retry_after=)."""
    busy = rude.status(503, headers=[("Retry-After", value)])
    retry = attrs.evolve(AT_ONCE, max_retry_after=0.3)
    started = time.monotonic()
    with RudeServer([busy, Model("a").serve]) as server, opened(server.url, retry=retry) as client:
        assert taken(client, 1) == ["a"]
    assert time.monotonic() - started < PATIENCE
