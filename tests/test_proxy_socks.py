"""A dial through SOCKS proxies over real sockets, and what python-socks must not do: resolve, wait, or be needed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import traceback
from typing import Any

import attrs
import pytest

from resilient_ws import connect
from resilient_ws.connecting import Deadline
from resilient_ws.exceptions import ConnectTimeout, NoEndpoint, ProxyError
from resilient_ws.proxying import Proxies, Proxy, check_proxy
from resilient_ws.transport import DialOptions, dial
from resilient_ws.tunnelling import _socks
from server_fixture.rude import Behaviour, Caller, RudeServer, echo
from tests.proxy_tools import Tunnels, through
from tests.transport_tools import PATIENCE, collect, dialled

#: In no source line, so that a traceback that shows one has it from a value.
CANARY = "".join(["cana", "ry"])
SECRETS = {"headers": {"Authorization": f"Bearer {CANARY}"}}
LOGIN = (f"{CANARY}-user", f"{CANARY}-password")
GIVEN = f"{LOGIN[0]}:{LOGIN[1]}@"
BOUND = b"\0\1\0\0\0\0\0\0"


@pytest.fixture(autouse=True)
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name that this machine looks up; ``node.example`` has two addresses, both of this machine."""
    names: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *rest: Any) -> Any:
        names.append(host)
        if host != "node.example":
            return real(host, port, *rest)
        four = [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.3")]
        six = [(socket.AF_INET6, 1, 6, "", ("::1", port, 0, 0))]
        return four if rest[0] == socket.AF_INET else six + four

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def failed(behaviour: Behaviour, scheme: str = "socks5h", login: str = GIVEN, **options: Any) -> ProxyError:
    """Dial through a proxy that does not do it; give why."""
    with RudeServer(behaviour) as proxy:
        way = through(f"{scheme}://{login}127.0.0.1:{proxy.port}", **SECRETS, **options)
        with pytest.raises(ProxyError) as caught:
            dial("wss://node.example/", DialOptions(**way))
        assert proxy.errors == []
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert f"wss://node.example through the proxy {scheme}://127.0.0.1:" in str(caught.value)
    return caught.value


# -- proxies that do it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "asked", "is_looked_up"),
    [
        ("socks5h", "node.example", False),
        ("socks4a", "node.example", False),
        ("socks5", "::1", True),
        ("socks4", "127.0.0.2", True),
    ],
)
def test_who_looks_up_the_name(scheme: str, asked: str, is_looked_up: bool, looked_up: list[str]) -> None:
    """With an ``h`` or ``a`` the proxy gets the name and this machine never asks for it; else it gets an address."""
    tunnels = Tunnels()
    with RudeServer(echo) as server, RudeServer(getattr(tunnels, scheme[:6].rstrip("ah"))) as proxy:
        way = through(f"{scheme}://127.0.0.1:{proxy.port}", allow_plaintext=True)
        with dialled(f"ws://node.example:{server.port}/", **way) as transport:
            transport.write(["x" * 100_000])
            assert collect(transport, 1) == ["x" * 100_000]
    assert tunnels.targets == [(asked, server.port)]
    assert ("node.example" in looked_up) is is_looked_up


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_address_is_named_as_an_address(scheme: str, host: str) -> None:
    """A server that is given by its address needs no look-up by anybody."""
    tunnels = Tunnels()
    with RudeServer(echo) as server, RudeServer(tunnels.socks5) as proxy:
        with dialled(f"ws://{host}:{server.port}/", **through(f"{scheme}://127.0.0.1:{proxy.port}")):
            assert tunnels.targets == [(host.strip("[]"), server.port)]


def test_P3_login_goes_to_the_proxy_only() -> None:
    """User name and password reach the proxy, nothing of them the server."""
    tunnels = Tunnels(login=LOGIN)
    with RudeServer(echo) as server, RudeServer(tunnels.socks5) as proxy:
        way = through(f"socks5h://{GIVEN}127.0.0.1:{proxy.port}")
        with dialled(server.url, **way) as transport:
            transport.write(["x"])
            assert collect(transport, 1) == ["x"]
        assert LOGIN[1].encode() in tunnels.heard
        assert CANARY.encode() not in server.requests[0].raw


def test_login_that_is_not_asked_for_is_not_sent() -> None:
    """A proxy that lets everybody in does not hear the password."""
    tunnels = Tunnels()
    with RudeServer(echo) as server, RudeServer(tunnels.socks5) as proxy:
        with dialled(server.url, **through(f"socks5h://{GIVEN}127.0.0.1:{proxy.port}")):
            assert CANARY.encode() not in tunnels.heard


@pytest.mark.parametrize(("scheme", "code"), [("socks5", 4), ("socks4", 0x5B)])
def test_next_address_where_the_proxy_cannot_reach_one(scheme: str, code: int) -> None:
    """Where this machine looks up, each address has its turn."""
    tunnels = Tunnels()
    tunnels.replies = [code]
    with RudeServer(echo) as server, RudeServer(getattr(tunnels, scheme)) as proxy:
        way = through(f"{scheme}://127.0.0.1:{proxy.port}", allow_plaintext=True)
        with dialled(f"ws://node.example:{server.port}/", **way):
            assert len({host for host, _ in tunnels.targets}) == 2


# -- proxies that do not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "is_retryable", "words"),
    [
        (1, True, "could not reach the server (reply 1)"),
        (2, False, "does not allow this server (reply 2)"),
        (3, True, "could not reach the server"),
        (4, True, "could not reach the server"),
        (5, True, "could not reach the server"),
        (6, True, "could not reach the server"),
        (7, False, "cannot do this kind of connection or address; try socks5h://"),
        (8, False, "cannot do this kind of connection or address"),
    ],
)
def test_replies_of_socks5(code: int, is_retryable: bool, words: str) -> None:
    """Each reply says what it means and whether trying again is worth it."""
    tunnels = Tunnels(login=LOGIN)
    tunnels.replies = [code]
    error = failed(tunnels.socks5)
    assert words in str(error)
    assert (error.status, error.retryable) == (code, is_retryable)


@pytest.mark.parametrize(("code", "is_retryable"), [(0x5B, True), (0x5C, False), (0x5D, False)])
def test_replies_of_socks4(code: int, is_retryable: bool) -> None:
    """A refusal is worth another try, a user that is not known is not."""
    tunnels = Tunnels()
    tunnels.replies = [code]
    error = failed(tunnels.socks4, "socks4a", f"{CANARY}@")
    assert (error.status, error.retryable) == (code, is_retryable)
    assert ("does not know who we are (credentials were sent)" in str(error)) is not is_retryable


@pytest.mark.parametrize(
    ("login", "given", "words"),
    [
        (("a", "b"), GIVEN, "does not let us log in (credentials were sent)"),
        (("a", "b"), "", "does not let us log in (no credentials were sent); name user and password: socks5://user:"),
    ],
)
def test_login_that_fails(login: tuple[str, str], given: str, words: str) -> None:
    """A proxy that does not let us in says so, and trying again is no use."""
    error = failed(Tunnels(login=login).socks5, login=given)
    assert words in str(error)
    assert (error.status, error.retryable) == (None, False)


def answers(*answers: bytes) -> Behaviour:
    """Answer what is said with these bytes, one after the other."""

    def behave(caller: Caller) -> None:
        for answer in answers:
            caller.socket.recv(1 << 16)
            caller.send(answer)

    return behave


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak SOCKS5; is this the right port?"),
        (answers(b"\5\7"), "does not let us log in"),
        (answers(b"\5\0", b"\4\0\0"), "does not speak SOCKS5"),
        (answers(b"\5\0", b"\5\x63\0"), "does not speak SOCKS5"),
        (answers(b"\5\0", b"\5\0\0\x09"), "does not speak SOCKS5"),
        (answers(b"\5\0", b"\5\0\0\3\4\xff\xff\xff\xff\0\0"), "an answer that nobody can read"),
        (lambda caller: None, "closed the connection before it answered"),
        (lambda caller: (caller.read(4), caller.reset()), "closed the connection before it answered"),
    ],
)
def test_broken_answers(behaviour: Behaviour, words: str) -> None:
    """What is no SOCKS is a ProxyError that shows nothing of what was said."""
    assert words in str(failed(behaviour))


ANSWERS = (b"\5\2", b"\1\0", b"\5\0" + BOUND)


@pytest.mark.parametrize("end", range(sum(map(len, ANSWERS))))
def test_answer_that_is_cut(end: int) -> None:
    """A proxy that goes after any byte of its answers did not open a tunnel."""
    whole = b"".join(ANSWERS)
    cuts = [whole[:2], whole[2:4], whole[4:]]
    parts = [part[: max(0, end - start)] for part, start in zip(cuts, (0, 2, 4), strict=True)]
    assert "closed the connection before it answered" in str(failed(answers(*[part for part in parts if part])))


class Slices:
    """A connection on which every answer comes byte by byte, with more behind the last that must not be read."""

    def __init__(self, answers: bytes) -> None:
        self.left = answers

    def send(self, data: bytes) -> int:
        """Take everything."""
        return len(data)

    def recv(self, size: int) -> bytes:
        """Give one byte."""
        data, self.left = self.left[:1], self.left[1:]
        return data

    def close(self) -> None:
        """Fail: nothing is wrong with this connection."""
        raise AssertionError("closed")


@pytest.mark.parametrize("bound", [BOUND, b"\0\3\4host\0\0", b"\0\4" + bytes(18)])
def test_answers_byte_by_byte(bound: bytes) -> None:
    """Slow answers are put together, and not a byte of the server behind them is eaten."""
    line: Any = Slices(b"\5\2\1\0\5\0" + bound + b"SERVER")
    deadline = Deadline(time.monotonic() + PATIENCE, lambda: False, "node.example")
    _socks(("node.example", 443), check_proxy("socks5h://u:p@h"), deadline, line)
    assert line.left == b"SERVER"


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [(lambda caller: caller.wait_gone(), "asking the proxy"), (answers(b"\5\0", b"\5"), "asking the proxy")],
)
def test_P2_a_proxy_that_hangs_is_inside_the_deadline(behaviour: Behaviour, words: str) -> None:
    """The dial ends at its deadline, in its own thread, whatever python-socks waits for."""

    def hang(caller: Caller) -> None:
        behaviour(caller)
        caller.wait_gone()

    with RudeServer(hang) as proxy:
        started = time.monotonic()
        with pytest.raises(ConnectTimeout, match=words):
            dial("wss://node.example/", DialOptions(connect_timeout=0.3, **through(f"socks5h://127.0.0.1:{proxy.port}")))
        assert 0.3 <= time.monotonic() - started < 3.0


def test_names_that_this_machine_does_not_know() -> None:
    """Where this machine looks up, a name without an address is the server's error, before the proxy is asked."""
    with RudeServer(Tunnels().socks5) as proxy, pytest.raises(NoEndpoint, match=r"wss://node.invalid: the name has no"):
        dial("wss://node.invalid/", DialOptions(**through(f"socks5://127.0.0.1:{proxy.port}")))
    assert proxy.connections == 0


def test_socks4_and_ipv6() -> None:
    """SOCKS4 cannot name an IPv6 address, and the error says what can."""
    with pytest.raises(ProxyError, match="SOCKS4 knows no IPv6 addresses; use socks5://") as caught:
        dial("wss://[2001:db8::1]/", DialOptions(**through("socks4a://127.0.0.1:1")))
    assert not caught.value.retryable


def test_name_that_socks_cannot_carry() -> None:
    """A name with a label of more than 63 letters is an error of ours, not of python-socks."""
    with RudeServer(Tunnels().socks5) as proxy:
        with pytest.raises(ProxyError, match="could not be asked for the server"):
            dial(f"wss://{'x' * 64}.example/", DialOptions(**through(f"socks5h://127.0.0.1:{proxy.port}")))


def test_password_that_socks_cannot_carry_is_not_shown() -> None:
    """Were one let through, what is said of it, which quotes a character and holds the whole, would not come out."""
    named = Proxy(scheme="socks5h", host="127.0.0.1", port=0, username="u", password=f"{CANARY}\u00e9")
    with RudeServer(Tunnels(login=LOGIN).socks5) as server:
        proxies = Proxies(named=attrs.evolve(named, port=server.port))
        with pytest.raises(ProxyError, match="could not be asked for the server") as caught:
            dial("wss://node.example/", DialOptions(proxies=proxies))
    assert "UnicodeEncodeError" in str(caught.value)
    assert "xe9" not in "".join(traceback.format_exception(caught.value))


# -- without the extra ------------------------------------------------------------------------------------------------


def test_missing_library_is_named_before_anything_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """connect() says which extra is missing; another proxy does not need it."""
    monkeypatch.setitem(sys.modules, "python_socks", None)
    words = r"proxy=: a SOCKS proxy needs python-socks, .* pip install 'resilient-ws\[socks\]'"
    with pytest.raises(ImportError, match=words):
        connect("wss://node.example/", proxy=f"socks5://{GIVEN}127.0.0.1:1")
    with pytest.raises(ProxyError, match=r"resilient-ws\[socks\]") as caught, RudeServer(echo) as proxy:
        dial("wss://node.example/", DialOptions(**through(f"socks5h://127.0.0.1:{proxy.port}")))
    assert not caught.value.retryable
    connect("ws://127.0.0.1:1/", proxy="http://127.0.0.1:1", wait=False).close()


def test_library_is_imported_when_it_is_needed() -> None:
    """The module that needs python-socks does not import it by itself (websocket-client does, where it finds it)."""
    code = "import sys, resilient_ws.client, resilient_ws.tunnelling; print('python_socks' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "False\n"
