"""Which proxy is taken, and what a proxy's URL may say: pure, no socket."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from typing import Any

import pytest

from resilient_ws.dialling import DialOptions, check_url
from resilient_ws.proxying import Proxies, Proxy, check_proxy

#: In no source line, so that a traceback that shows one has it from a value.
CANARY = "".join(["cana", "ry"])
SECURE = "wss://node.example/"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy but those that a test names."""
    for name in ("ws", "wss", "http", "https", "socks", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


def chosen(url: str, **settings: Any) -> str | None:
    """Say which proxy the environment, read now, has for a URL."""
    endpoint = check_url(url, allow_plaintext=True)
    proxy = Proxies.from_environment().choose(endpoint, **{"allow_plaintext": True, **settings})
    return None if proxy is None else str(proxy)


# -- a proxy's URL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://proxy", ("http", "proxy", 80, None, None)),
        ("HTTPS://Proxy.Example/", ("https", "proxy.example", 443, None, None)),
        ("http://proxy:3128", ("http", "proxy", 3128, None, None)),
        ("http://[::1]:3128", ("http", "::1", 3128, None, None)),
        ("socks5://proxy", ("socks5", "proxy", 1080, None, None)),
        ("socks5h://u:p@proxy:9", ("socks5h", "proxy", 9, "u", "p")),
        ("socks4://u@proxy", ("socks4", "proxy", 1080, "u", "")),
        ("socks4a://proxy", ("socks4a", "proxy", 1080, None, None)),
        ("http://user@proxy", ("http", "proxy", 80, "user", "")),
        ("http://user:p%40%3A%2F%C3%A9@proxy", ("http", "proxy", 80, "user", "p@:/\u00e9")),
        ("http://user:p@ss@[::1]", ("http", "::1", 80, "user", "p@ss")),
        ("http://b\u00fccher.example", ("http", "xn--bcher-kva.example", 80, None, None)),
    ],
)
def test_url_is_taken_apart(url: str, parts: tuple[Any, ...]) -> None:
    """Host in lower case, the scheme's port, credentials without their %-encoding."""
    proxy = check_proxy(url)
    assert (proxy.scheme, proxy.host, proxy.port, proxy.username, proxy.password) == parts


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "a proxy's URL is scheme://"),
        ("proxy:3128", "a proxy's URL is scheme://"),
        ("ftp://proxy", "http, https, socks5"),
        ("http://", "a proxy's URL is scheme://"),
        (f"http://{CANARY}:b@pro xy", "a proxy's URL is scheme://"),
        (f"http://{CANARY}:b\r\n@proxy", "a proxy's URL is scheme://"),
        (f"http://user:{CANARY}/x@proxy", "%-encoded"),
        (f"http://user:1/{CANARY}@proxy", "%-encoded"),
        (f"http://user:1#{CANARY}@proxy", "%-encoded"),
        (f"http://user:1?{CANARY}@proxy", "%-encoded"),
        (f"http://proxy/{CANARY}", "nothing follows host and port"),
        ("http://proxy:0", "port is 0"),
        ("http://proxy:70000", "malformed"),
        ("http://-proxy-", "malformed"),
        (f"http://{CANARY}@", "no host"),
        ("http://[::1", "malformed"),
        ("http://[fe80::zz]", "malformed"),
        (f"http://{CANARY}%3Ab:c@proxy", "colon"),
        (f"http://{CANARY}%0d%0aX:c@proxy", "control character"),
        (f"http://{CANARY}%ff:c@proxy", "not UTF-8"),
        (f"socks5://{CANARY}@proxy", "both a user name and a password"),
        (f"socks5://:{CANARY}@proxy", "both a user name and a password"),
        (f"socks5://{CANARY}:%C3%A9@proxy", "ASCII"),
        (f"socks5://{CANARY}:{'x' * 256}@proxy", "at most 255"),
        (f"socks4://u:{CANARY}@proxy", "SOCKS4 knows a user name only"),
    ],
)
def test_wrong_url_is_refused_without_being_shown(url: str, words: str) -> None:
    """A URL that cannot be right is a ValueError that says what to do and never shows a credential."""
    with pytest.raises(ValueError, match=words) as caught:
        check_proxy(url)
    assert str(caught.value).startswith("proxy=: ")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", [False, 3128, b"http://proxy", ["http://proxy"]])
def test_what_is_no_url_is_a_type_error(url: object) -> None:
    """Anything but a str is refused by its type."""
    with pytest.raises(TypeError, match="proxy= takes True, None or a URL"):
        check_proxy(url)


def test_credentials_are_in_no_repr() -> None:
    """Neither the proxy nor what holds it shows user name or password; a control shows where they are."""
    proxy = check_proxy(f"http://{CANARY}-user:{CANARY}-password@proxy:3128")
    options = DialOptions(proxies=Proxies(named=proxy))
    found = Proxies(found={"https": f"http://{CANARY}@proxy"})
    assert CANARY not in f"{proxy} {proxy!r} {Proxies(named=proxy)!r} {options!r} {found!r}"
    assert str(proxy) == "http://proxy:3128"
    assert proxy.username == f"{CANARY}-user"


def test_basic_is_rfc_7617() -> None:
    """User name and password are joined by a colon, in UTF-8, in base64."""
    assert check_proxy("http://Aladdin:open%20sesame@p").basic == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert check_proxy("http://test:123%C2%A3@p").basic == "Basic dGVzdDoxMjPCow=="
    assert check_proxy("http://p").basic is None


# -- which one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url", "proxy"),
    [
        ({}, SECURE, None),
        ({"https_proxy": "http://a:1"}, SECURE, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1"}, SECURE, "http://a:1"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, SECURE, "http://a:1"),
        ({"https_proxy": "http://a:1", "wss_proxy": "http://b:1"}, SECURE, "http://b:1"),
        ({"https_proxy": "http://a:1", "socks_proxy": "http://b:1"}, SECURE, "socks5h://b:1"),
        ({"https_proxy": "http://a:1", "socks_proxy": "socks4://b:1"}, SECURE, "socks4://b:1"),
        ({"https_proxy": "a:1"}, SECURE, "http://a:1"),
        ({"https_proxy": "socks5://a"}, SECURE, "socks5://a:1080"),
        ({"https_proxy": ""}, SECURE, None),
        ({"http_proxy": "http://a:1"}, SECURE, None),
        ({"ws_proxy": "http://a:1"}, SECURE, None),
        ({"all_proxy": "http://a:1"}, SECURE, None),
        ({"http_proxy": "http://a:1"}, "ws://node.example/", "http://a:1"),
        ({"http_proxy": "http://a:1", "https_proxy": "http://b:1"}, "ws://node.example/", "http://b:1"),
        ({"http_proxy": "http://a:1", "ws_proxy": "http://b:1"}, "ws://node.example/", "http://b:1"),
        ({"wss_proxy": "http://a:1"}, "ws://node.example/", None),
        ({"wss_proxy": "http://a:1"}, "wss://localhost/", None),
        ({"wss_proxy": "http://a:1"}, "wss://a.localhost/", None),
        ({"wss_proxy": "http://a:1"}, "wss://127.0.0.2/", None),
        ({"wss_proxy": "http://a:1"}, "wss://[::1]/", None),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], url: str, proxy: str | None) -> None:
    """The scheme's own variable first, then SOCKS, then HTTP's; this machine is always reached directly."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert chosen(url) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("*", SECURE, True),
        ("node.example", SECURE, True),
        ("NODE.Example", SECURE, True),
        ("example", SECURE, True),
        (".example", SECURE, True),
        ("other.example, node.example", SECURE, True),
        ("node.example:443", SECURE, True),
        ("node.example:444", SECURE, False),
        ("node.example:444", "wss://node.example:444/", True),
        ("de.example", SECURE, False),
        ("node.example", "wss://a.node.example/", True),
        ("a.node.example", SECURE, False),
        ("192.0.2.1", "wss://192.0.2.1/", True),
        ("192.0.2.1", "wss://192.0.2.11/", False),
        ("2001:db8::1", "wss://[2001:db8::1]/", True),
        ("[2001:db8::1]", "wss://[2001:db8::1]/", True),
        ("2001:db8::1", "wss://[2001:db8::2]/", False),
        ("", SECURE, False),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, name: str, no_proxy: str, url: str, is_direct: bool) -> None:
    """NO_PROXY names hosts, domains, with a port or without, or all by a star."""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv(name, no_proxy)
    assert chosen(url) == (None if is_direct else "http://proxy:3128")


def test_P4_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is changed in the environment later has no effect on what was read."""
    monkeypatch.setenv("https_proxy", "http://a:1")
    proxies = Proxies.from_environment()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("https_proxy", "http://b:1")
    assert str(proxies.choose(check_url(SECURE))) == "http://a:1"
    assert chosen(SECURE) is None


def test_system_settings_have_their_own_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a variable the system's proxies count, and the system says who is reached directly."""
    monkeypatch.setattr("resilient_ws.proxying.HAS_SETTINGS", True)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://a:1"})
    monkeypatch.setattr("urllib.request.proxy_bypass", lambda host: host == "other.example:443")
    assert (chosen(SECURE), chosen("wss://other.example/")) == ("http://a:1", None)
    monkeypatch.setenv("https_proxy", "http://b:1")  # the control: a variable goes before
    assert chosen("wss://other.example/") == "http://b:1"


@pytest.mark.parametrize(("variables", "is_imported"), [({}, False), ({"HTTPS_PROXY": "http://proxy"}, True)])
def test_nothing_is_imported_for_no_proxy(variables: dict[str, str], is_imported: bool) -> None:
    """Where nothing names a proxy, as nearly everywhere, connect() does not wait for that import."""
    code = (
        "import sys; from resilient_ws import proxying; proxying.HAS_SETTINGS = False; "
        "proxying.Proxies.from_environment(); print('urllib.request' in sys.modules)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run([sys.executable, "-c", code], env={**clean, **variables}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{is_imported}\n", "")


def test_named_proxy_is_for_every_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that was named is taken for this machine too, whatever the environment says."""
    monkeypatch.setenv("no_proxy", "*")
    named = Proxies(named=check_proxy("http://proxy:3128"))
    assert [str(named.choose(check_url(url))) for url in (SECURE, "wss://localhost/")] == ["http://proxy:3128"] * 2
    assert Proxies().choose(check_url(SECURE)) is None


def test_malformed_proxy_of_the_environment_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where the proxy comes from, without a credential."""
    monkeypatch.setenv("https_proxy", f"ftp://{CANARY}@proxy")
    with pytest.raises(ValueError, match=r"^https_proxy in the environment: a proxy's URL is") as caught:
        chosen(SECURE)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("proxy", "url", "is_refused"),
    [
        ("http://proxy", "ws://localhost/", True),
        ("http://proxy", "wss://localhost/", False),
        ("socks5h://proxy", "ws://127.0.0.1/", True),
        ("http://127.0.0.1", "ws://localhost/", False),
    ],
)
def test_plain_text_does_not_leave_this_machine(proxy: str, url: str, is_refused: bool) -> None:
    """``ws://localhost`` by way of another machine needs ``allow_plaintext`` as ``ws://`` to that machine does."""
    proxies = Proxies(named=check_proxy(proxy))
    if is_refused:
        with pytest.raises(ValueError, match="in the clear; use wss://, or Wire"):
            proxies.choose(check_url(url))
    assert isinstance(proxies.choose(check_url(url), allow_plaintext=is_refused), Proxy)
