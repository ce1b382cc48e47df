"""Which endpoints are believed that nobody gave to ``connect()``: tables of what is taken and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws.advertised import MAX_ENDPOINTS, Rules, Trusted, check_source, choose, read_endpoints, read_object

HTTPS = check_source("https://feed.example/endpoints", "discover")
HTTP = check_source("http://127.0.0.1:8000/endpoints", "discover")


def rules(*urls: str, trusted: tuple[str, ...] = (), plain: bool = False) -> Rules:
    """Make rules; without URLs one endpoint is given."""
    return Rules.of(urls or ("wss://feed.example/x",), trusted, allow_plaintext=plain)


# -- who is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://feed.example/", "http:// to feed.example would send everything in the clear; use https://"),
        ("wss://feed.example/", "takes an https:// URL"),
        ("ftp://feed.example/", "takes an https:// URL"),
        ("https://me:pw@feed.example/", "contains credentials"),
        ("https://feed.example/#a", "fragment"),
        ("https:///x", "no host"),
        ("https://feed.example:99999/", "malformed"),
        ("https://feed.example/a b", "spaces or control"),
    ],
)
def test_who_must_not_be_asked(url: str, why: str) -> None:
    """The rules are those of endpoints, in the words of HTTP; a query is never shown."""
    with pytest.raises(ValueError, match=why) as caught:
        check_source(url, "Failover(discover=)")
    assert str(caught.value).startswith("Failover(discover=)")
    assert "pw" not in str(caught.value)


def test_who_may_be_asked() -> None:
    """TLS to anybody, plain HTTP to this machine, and to others only where plain text is allowed."""
    assert HTTPS.origin == "https://feed.example:443"
    assert HTTP.origin == "http://127.0.0.1:8000"
    assert not check_source("http://feed.example/", "discover", allow_plaintext=True).secure


# -- what discovery names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("wss://feed.example/", ""),
        ("wss://feed.example:8443/other", ""),
        ("wss://n1.feed.example/", ""),
        ("wss://given.example/", ""),
        ("ws://127.0.0.1:9/", "belongs to somebody else"),
        ("ws://localhost/", "belongs to somebody else"),
        ("ws://feed.example/", "without TLS|in the clear"),
        ("wss://evil.example/", "belongs to somebody else"),
        ("wss://xfeed.example/", "belongs to somebody else"),
        ("wss://feed.example.evil.example/", "belongs to somebody else"),
        ("wss://127.0.0.1/", "belongs to somebody else"),
        ("https://feed.example/", "must start with wss://"),
        ("wss://u:p@feed.example/", "credentials"),
        ("wss://feed.example/\r\nX: y", "control characters"),
        ("javascript:alert(1)", "must start with"),
        ("", "must start with"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_what_a_url_may_name(url: str, why: str, plain: bool) -> None:
    """Own hosts and names below them, with TLS where discovery had it, whatever Wire allows for what was given."""
    ours = rules("wss://given.example/", plain=plain)
    if not why:
        ours.check_found(url, HTTPS)
        return
    with pytest.raises(ValueError, match=why):
        ours.check_found(url, HTTPS)


def test_this_machine_may_be_named_without_tls() -> None:
    """A sidecar, say: loopback is no downgrade, where the host is trusted."""
    rules(trusted=("127.0.0.1",)).check_found("ws://127.0.0.1:9/", HTTPS)
    rules("ws://127.0.0.1:1/").check_found("ws://127.0.0.1:9/", HTTP)
    with pytest.raises(ValueError, match="somebody else"):
        rules().check_found("wss://[::1]/", HTTP)


def test_a_function_may_name_anybody() -> None:
    """It is the user's own code; what must not be dialled at all it may not name either."""
    rules().check_found("wss://evil.example/", None)
    with pytest.raises(ValueError, match="in the clear"):
        rules().check_found("ws://evil.example/", None)


# -- what a server names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "trusted", "is_believed"),
    [
        ("wss://feed.example/other", (), True),
        ("wss://feed.example:443/", (), True),
        ("wss://feed.example:8443/", (), False),
        ("wss://n1.feed.example/", (), False),
        ("wss://n1.feed.example/", ("*.feed.example",), True),
        ("wss://n1.feed.example:8443/", ("*.feed.example:443",), False),
        ("wss://n1.feed.example/", ("*.feed.example:443",), True),
        ("wss://feed.example:8443/", ("*.feed.example",), False),
        ("wss://n2.example/", ("n2.example",), True),
        ("wss://N2.Example/", ("n2.example",), True),
        ("wss://x.n2.example/", ("n2.example",), False),
        ("wss://xn2.example/", ("*.n2.example", "n2.example"), False),
        ("wss://[2001:db8::1]:444/", ("[2001:db8::1]:444",), True),
        ("wss://[2001:db8::1]/", ("[2001:db8::1]:444",), False),
        ("ws://feed.example/", ("feed.example",), False),
        ("ws://127.0.0.1:1/", ("127.0.0.1",), False),
        ("ws://localhost/", (), False),
        ("http://feed.example/", ("feed.example",), False),
        ("wss://feed.example/ x", (), False),
    ],
)
def test_whom_a_server_may_name(peer: str, trusted: tuple[str, ...], is_believed: bool) -> None:
    """Scheme, host and port of an endpoint that was given, or a trusted host; never without TLS where it had TLS."""
    ours = rules("wss://feed.example/", trusted=trusted, plain=True)
    assert ours.vet([peer], "wss://feed.example/") == ([peer] if is_believed else [])


def test_a_server_on_this_machine_may_name_what_is_trusted() -> None:
    """Plain text leads to plain text, and each URL counts once."""
    ours = rules("ws://127.0.0.1:1/", trusted=("127.0.0.1",))
    assert ours.vet(["ws://127.0.0.1:2/", "ws://127.0.0.1:2/"], "ws://127.0.0.1:1/") == ["ws://127.0.0.1:2/"]
    assert rules("ws://127.0.0.1:1/").vet(["ws://127.0.0.1:2/"], "ws://127.0.0.1:1/") == []


@pytest.mark.parametrize(
    "written", ["*", "*.com", "a.*.b", "https://a.example", "a:0", "a:x", "", "a b", "me@a", "[::g]"]
)
def test_a_host_that_is_no_pattern(written: str) -> None:
    """It is refused when it is written down, with the form that is meant."""
    with pytest.raises(ValueError, match=r"Failover\(trusted_hosts=\): "):
        Trusted.read(written)


# -- the answer -------------------------------------------------------------------------------------------------------


def answer(*urls: Any, **more: Any) -> bytes:
    """Write an answer down."""
    return json.dumps({"endpoints": [{"url": url, "name": "n", "draining": False} for url in urls], **more}).encode()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no object"),
        (b"null", "no object"),
        (b"{}", "no list"),
        (b'{"endpoints": {}}', "no list"),
        (b'{"endpoints": ["wss://a"]}', "no object with a string"),
        (b'{"endpoints": [{"url": 1}]}', "no object with a string"),
        (answer("wss://a", ttl=-1), "ttl"),
        (answer("wss://a", ttl=True), "ttl"),
        (answer("wss://a", ttl="6"), "ttl"),
        (b'{"endpoints": [{"url": "wss://a"}], "ttl": NaN}', "ttl"),
        (b'{"endpoints": [{"url": "wss://a"}], "ttl": Infinity}', "ttl"),
    ],
)
def test_an_answer_that_is_none(body: bytes, why: str) -> None:
    """Each is an error that says what is wrong, and quotes nothing."""
    with pytest.raises(ValueError, match=why):
        read_endpoints(body)


def test_what_an_answer_says() -> None:
    """Draining endpoints are left out while there are others; unknown fields are ignored."""
    assert read_endpoints(answer("wss://a", "wss://b", ttl=6, new=[])) == (["wss://a", "wss://b"], 6.0)
    one = {"url": "wss://a", "draining": True}
    assert read_endpoints(json.dumps({"endpoints": [one, {"url": "wss://b"}]}).encode()) == (["wss://b"], None)
    assert read_endpoints(json.dumps({"endpoints": [one]}).encode()) == (["wss://a"], None)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """Nothing but a ValueError comes out of a bad body."""
    for read in (read_object, read_endpoints):
        try:
            read(body)
        except ValueError:
            continue


def test_what_is_left_of_an_answer() -> None:
    """Who is not believed is left out and counted; when nobody is left, or too many are named, it is an error."""
    found = choose(["wss://feed.example/", "wss://evil.example/?token=x"], 6.0, rules(), HTTPS)
    assert (found.urls, found.ttl, found.refused) == (("wss://feed.example/",), 6.0, 1)
    assert "evil.example" in found.why
    assert "token" not in found.why
    with pytest.raises(ValueError, match=r"none of the endpoints .* somebody else"):
        choose(["wss://evil.example/"], None, rules(), HTTPS)
    with pytest.raises(ValueError, match="no endpoint"):
        choose([], None, rules(), HTTPS)
    many = [f"wss://n{number}.feed.example/" for number in range(MAX_ENDPOINTS + 1)]
    assert len(choose(many[1:] * 2, None, rules(), HTTPS).urls) == MAX_ENDPOINTS
    with pytest.raises(ValueError, match="at most 256"):
        choose(many, None, rules(), HTTPS)
