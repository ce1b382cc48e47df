"""P1 to P4 through the whole Client: proxies named and found, that fail, hang, change, and must not hear a secret."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from resilient_ws import ConnectError, ConnectTimeout, ProxyError, Retry, Wire, connect
from resilient_ws.proxying import Proxy
from server_fixture import rude
from server_fixture.rude import Behaviour, RudeServer
from tests.fault_server import AT_ONCE, Model, opened, taken
from tests.proxy_tools import Tunnels
from tests.test_faults_secrets import SECRETS, Watch, secretive, was_sent, watch  # noqa: F401 - a fixture
from tests.transport_tools import PATIENCE

pytestmark = pytest.mark.faults

PLAIN = Wire(allow_plaintext=True)
LOGIN = f"{SECRETS['user']}:{SECRETS['password']}@"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy but those that a test names."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("kind", ["connect", "socks5", "socks4"])
def test_session_goes_on_through_the_proxy(kind: str) -> None:
    """Every connection of a session goes through the proxy; what is lost on the way is sent again."""
    tunnels, model = Tunnels(), Model("a")
    scheme = {"connect": "http", "socks5": "socks5h", "socks4": "socks4a"}[kind]
    with RudeServer(model.serve) as server, RudeServer(getattr(tunnels, kind)) as proxy:
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        with opened(f"ws://node.invalid:{server.port}/", proxy=url, wire=PLAIN) as client:
            assert taken(client, 1) == ["a"]
            tunnels.cut_all()
            model.log.append("b")
            client.send("c").result(PATIENCE)
            assert taken(client, 1) == ["b"]
        assert tunnels.targets == [("node.invalid", server.port)] * 2
        assert model.received == ["c"]


def test_P4_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment is taken for the whole session, whatever becomes of the variable."""
    tunnels = Tunnels()
    with RudeServer(Model("a").serve) as server, RudeServer(tunnels.connect) as proxy:
        monkeypatch.setenv("ws_proxy", f"http://127.0.0.1:{proxy.port}")
        with opened(f"ws://node.invalid:{server.port}/", wire=PLAIN) as client:
            assert taken(client, 1) == ["a"]
            monkeypatch.setenv("no_proxy", "*")
            monkeypatch.delenv("ws_proxy")
            tunnels.cut_all()
            client.send("b").result(PATIENCE)
        assert len(tunnels.targets) == 2


@pytest.mark.parametrize(("settings", "is_direct"), [({}, True), ({"proxy": None}, True), ({"proxy": "URL"}, False)])
def test_this_machine_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], is_direct: bool
) -> None:
    """No proxy of the environment comes before this machine; one that is named does."""
    tunnels = Tunnels()
    with RudeServer(Model("a").serve) as server, RudeServer(tunnels.connect) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        monkeypatch.setenv("ws_proxy", url)
        with opened(server.url, **{name: value and url for name, value in settings.items()}) as client:
            assert taken(client, 1) == ["a"]
        assert (tunnels.targets == []) is is_direct


def refused(behaviour: Behaviour, **settings: Any) -> tuple[ConnectError, RudeServer]:
    """Fail to open a Client through a proxy that does not do it; give why."""
    with RudeServer(behaviour) as proxy:
        settings = {"proxy": f"http://127.0.0.1:{proxy.port}", "open_timeout": PATIENCE, "retry": AT_ONCE, **settings}
        with pytest.raises(ConnectError) as caught:
            connect("wss://node.invalid/", **settings)
    return caught.value, proxy


@pytest.mark.parametrize(("status", "words"), [(407, "no credentials were sent"), (403, "does not allow this server")])
def test_P1_final_refusals(status: int, words: str) -> None:
    """Where somebody has to change something there is one attempt, and its error comes out of connect()."""
    error, proxy = refused(rude.status(status))
    assert isinstance(error, ProxyError)
    assert (error.status, error.retryable, proxy.connections) == (status, False, 1)
    assert words in str(error)


def test_P1_passing_trouble_is_tried_again() -> None:
    """A proxy that cannot reach the server now is asked again, and quoted when the time is over."""
    error, proxy = refused(rude.status(502), open_timeout=0.5)
    assert isinstance(error, ConnectTimeout)
    assert isinstance(error.__cause__, ProxyError)
    assert "HTTP 502 (it could not reach the server)" in str(error)
    assert proxy.connections > 1


def test_P1_trouble_that_passes() -> None:
    """Two bad answers, then a good one: connect() returns."""
    tunnels = Tunnels()
    script = [rude.status(502), rude.status(503), tunnels.connect]
    with RudeServer(Model("a").serve) as server, RudeServer(script) as proxy:
        with opened(server.url, proxy=f"http://127.0.0.1:{proxy.port}") as client:
            assert taken(client, 1) == ["a"]
        assert proxy.connections == 3


def test_P2_a_proxy_that_hangs_once() -> None:
    """An attempt that the proxy does not answer is over after connect_timeout; the next may do."""
    started = time.monotonic()
    script = [lambda caller: caller.wait_gone(), Tunnels().connect]
    with RudeServer(Model("a").serve) as server, RudeServer(script) as proxy:
        way = {"proxy": f"http://127.0.0.1:{proxy.port}", "retry": Retry(connect_timeout=0.3)}
        with opened(server.url, **way) as client:
            assert taken(client, 1) == ["a"]
    assert 0.3 <= time.monotonic() - started < PATIENCE


@pytest.mark.parametrize(
    "behaviour",
    [
        rude.status(407, headers=[("Proxy-Authenticate", f"X{SECRETS['body']}")], body=SECRETS["body"].encode()),
        rude.status(502, headers=[("X", SECRETS["body"])]),
        rude.http(b"HTTP/1.1 " + SECRETS["body"].encode() + b"\r\n\r\n"),
        lambda caller: caller.wait_gone(),
    ],
    ids=["407", "502", "garbage", "hangs"],
)
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_H24_proxies_that_fail(scheme: str, behaviour: Behaviour, watch: Watch) -> None:  # noqa: F811
    """No secret of ours, of the proxy's URL or of its answer is in an error, an event, a repr or a log."""
    with RudeServer(behaviour) as proxy:
        url = f"{scheme}://{LOGIN}127.0.0.1:{proxy.port}"
        with pytest.raises(ConnectError) as caught:
            secretive("wss://node.invalid/", watch, proxy=url, retry=Retry(connect_timeout=0.3))
        watch.error(caught.value)
    assert watch.leaks() == []


@pytest.mark.parametrize("proxy", ["ftp://{}proxy", "http://{}pro xy", "http://{}proxy/x", "socks4://{}proxy", "{}"])
def test_H24_proxies_that_are_refused(proxy: str, watch: Watch) -> None:  # noqa: F811
    """A proxy's URL that cannot be right is not shown."""
    with pytest.raises(ValueError, match="proxy=: ") as caught:
        connect("wss://node.invalid/", proxy=proxy.format(LOGIN))
    watch.error(caught.value)
    assert watch.leaks() == []


def test_H24_control_a_proxy_that_names_its_password_is_seen(
    watch: Watch,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were the proxy named with its whole URL, the watch would see it."""
    monkeypatch.setattr(Proxy, "__str__", lambda proxy: f"{proxy.username}:{proxy.password}")
    with RudeServer(rude.status(407)) as proxy, pytest.raises(ConnectError) as caught:
        connect("wss://node.invalid/", proxy=f"http://{LOGIN}127.0.0.1:{proxy.port}", on_event=watch.see)
    watch.error(caught.value)
    with watch.changed:  # what is still on its way to the log would be seen by the next test's watch
        assert watch.changed.wait_for(lambda: any("Ended(" in text for text in watch.seen), PATIENCE)
    assert any(SECRETS["password"] in text for text in watch.leaks())


def test_H24_a_session_through_a_proxy(watch: Watch) -> None:  # noqa: F811
    """A session through a proxy that asks who we are shows no secret, and the server hears none of the proxy's."""
    tunnels = Tunnels(login=(SECRETS["user"], SECRETS["password"]))
    model = Model(SECRETS["payload"])
    with RudeServer(model.serve) as server, RudeServer(tunnels.socks5) as proxy:
        url = f"socks5h://{LOGIN}127.0.0.1:{proxy.port}"
        with secretive(server.url, watch, proxy=url, open_timeout=PATIENCE) as client:
            client.recv(PATIENCE)
            tunnels.cut_all()
            client.send(SECRETS["payload"]).result(PATIENCE)
            for thing in (client, client.stats(), client._arguments, client._arguments.dial_options(1.0)):
                watch.see(thing)
        assert was_sent(server)
        assert SECRETS["password"].encode() in tunnels.heard  # it was said, and to the proxy only
        assert not any(SECRETS["password"].encode() in request.raw for request in server.requests)
    assert watch.leaks() == []
