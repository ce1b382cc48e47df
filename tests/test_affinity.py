"""The cookie jar: what is kept, for how long, and where it goes back to."""

from __future__ import annotations

import datetime
import email.utils
import math
import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws import affinity
from resilient_ws.affinity import Jar, domain_matches, names_in, parse_date, path_matches

WALL = 1_800_000_000.0
DATE = email.utils.formatdate(WALL, usegmt=True)


@attrs.frozen(kw_only=True)
class At:
    """A place that is dialled."""

    host: str = "lb.example.com"
    port: int = 443
    path: str = "/"
    secure: bool = True


def public(domain: str) -> bool:
    """A list of public suffixes with two rows."""
    return domain in ("com", "co.uk")


def heard(jar: Jar, *lines: str, at: At | None = None, date: str = DATE, now: float = 0.0) -> None:
    """Let an answer set cookies."""
    jar.hear(jar.visit(at or At()), lines, date=date, wall=WALL, now=now)


def sent(jar: Jar, at: At | None = None, now: float = 0.0, own: tuple[str, ...] = ()) -> str:
    """Give the Cookie header of the next handshake."""
    return jar.cookies(jar.visit(at or At()), now, own=own).decode("latin-1")


# -- values -----------------------------------------------------------------------------------------------------------

#: Set-Cookie headers as the balancers of the clouds and of three servers write them, and what goes back.
WRITTEN = {
    "AWSALB": ("AWSALB=a+/b=c==; Expires=Tue, 01 Dec 2099 17:20:00 GMT; Path=/", "AWSALB=a+/b=c=="),
    "AWSALBCORS": ("AWSALBCORS=a+/b==; Expires=Tue, 01 Dec 2099 17:20:00 GMT; Path=/; SameSite=None; Secure", None),
    "AWSALBAPP": ("AWSALBAPP-0=_remove_; Path=/", "AWSALBAPP-0=_remove_"),
    "GCLB": ('GCLB="CIOx-7a"; path=/; HttpOnly', 'GCLB="CIOx-7a"'),
    "Azure": ("ApplicationGatewayAffinityCORS=4f5e; Path=/; SameSite=None; Secure", None),
    "ARRAffinity": ("ARRAffinity=0a1b;Path=/;HttpOnly;Secure;Domain=lb.example.com", "ARRAffinity=0a1b"),
    "HAProxy": ("SRV=a; path=/; HttpOnly", "SRV=a"),
    "Caddy": ("lb=9f86d081; Path=/", "lb=9f86d081"),
    "NGINX": ("route=%2Fa%20b; Path=/; Max-Age=3600", "route=%2Fa%20b"),
    "no attributes": ("a=b", "a=b"),
    "no value": ("a=", "a="),
    "blanks around": (" a \t=  b c  ;  path = / ", "a=b c"),
    "bytes above ASCII": ("a=\xe9\xff\xc3\xa4", "a=\xe9\xff\xc3\xa4"),
    "odd signs": ('a="x,y\\z{|}"', 'a="x,y\\z{|}"'),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_value_goes_back_byte_for_byte(name: str) -> None:
    """Whatever a balancer puts in its cookie comes back as it was."""
    line, expected = WRITTEN[name]
    jar = Jar(public)
    heard(jar, line)
    assert sent(jar) == (expected or line.split(";")[0])


BROKEN = [
    "",
    ";",
    "=",
    "=b",
    "a",
    "a;b=c",
    "  =x",
    "a=b\x00",
    "a=b\x07; Path=/",
    "a=\u20ac",
    "a=" + "x" * 4096,
    "; a=b",
]


@pytest.mark.parametrize("line", BROKEN)
def test_H21_malformed_is_ignored(line: str) -> None:
    """A cookie that cannot be kept is passed over; what stands before and behind it, and what was kept, stays."""
    jar = Jar(public)
    heard(jar, "old=1")
    heard(jar, "first=1", line, "last=2")
    assert sent(jar) == "old=1; first=1; last=2"


def test_largest_cookie_is_kept() -> None:
    """The limit of a cookie's size is the last size that is kept."""
    jar = Jar()
    heard(jar, "a=" + "x" * (affinity.MAX_SIZE - 1))
    assert len(sent(jar)) == affinity.MAX_SIZE + 1


def test_long_attribute_is_passed_over() -> None:
    """An attribute of more than a kilobyte is as if it were not there; the cookie is kept."""
    jar = Jar()
    heard(jar, f"a=1; Path=/{'x' * 1024}", f"b=2; Max-Age={'0' * 1025}")
    assert sent(jar) == "a=1; b=2"


def test_later_attribute_counts() -> None:
    """Of an attribute that is named twice the last one counts."""
    jar = Jar()
    heard(jar, "a=1; Path=/x; path=/y")
    assert (sent(jar, At(path="/x")), sent(jar, At(path="/y"))) == ("", "a=1")


# -- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ("Max-Age=10", 10.0),
        ("max-age=10; Expires=Thu, 01 Jan 1970 00:00:00 GMT", 10.0),
        ("Max-Age=0", None),
        ("Max-Age=-5", None),
        ("Max-Age=+5", math.inf),
        ("Max-Age=soon", math.inf),
        ("Max-Age=" + "9" * 30, affinity.MAX_AGE),
        (f"Expires={email.utils.formatdate(WALL + 20, usegmt=True)}", 20.0),
        (f"Expires={email.utils.formatdate(WALL, usegmt=True)}", None),
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("Expires=Fri, 31 Dec 9999 23:59:59 GMT", affinity.MAX_AGE),
        ("Expires=never", math.inf),
        ("Secure", math.inf),
    ],
)
def test_lifetime(attributes: str, seconds: float | None) -> None:
    """Max-Age goes before Expires, what cannot be read is not there, nothing lives for ever, and the past deletes."""
    jar = Jar()
    heard(jar, f"a=1; {attributes}", now=100.0)
    assert sent(jar, now=100.0) == ("" if seconds is None else "a=1")
    if seconds not in (None, math.inf):
        assert sent(jar, now=100.0 + seconds - 0.01) == "a=1"
        assert sent(jar, now=100.0 + seconds) == ""
        assert len(jar) == 0


@pytest.mark.parametrize(("date", "base"), [(email.utils.formatdate(5e8, usegmt=True), 5e8), ("", WALL), ("x", WALL)])
def test_expires_counts_from_the_answers_own_date(date: str, base: float) -> None:
    """A server whose clock is wrong is wrong in both dates; the wall time that comes in stands in where it has none."""
    jar = Jar()
    heard(jar, f"a=1; Expires={email.utils.formatdate(base + 60, usegmt=True)}", date=date, now=7.0)
    assert sent(jar, now=66.9) == "a=1"
    assert sent(jar, now=67.0) == ""


def test_deletion_is_of_the_same_cookie_only() -> None:
    """A cookie is deleted by its name and path; another path is another cookie."""
    jar = Jar()
    heard(jar, "a=1; Path=/", "a=2; Path=/x", "b=3")
    heard(jar, "a=; Path=/; Max-Age=0", "c=; Max-Age=0")
    assert sent(jar, At(path="/x")) == "a=2; b=3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tue, 24 Nov 2026 17:20:49 GMT", "2026-11-24T17:20:49"),
        ("Tuesday, 24-Nov-26 17:20:49 GMT", "2026-11-24T17:20:49"),
        ("Tue Nov 24 17:20:49 2026", "2026-11-24T17:20:49"),
        ("24 november 1994 1:2:3", "1994-11-24T01:02:03"),
        ("24 Nov 70 00:00:00", "1970-11-24T00:00:00"),
        ("24 Nov 69 00:00:00", "2069-11-24T00:00:00"),
        ("17:20:49x 24th Nov 2026year", "2026-11-24T17:20:49"),
        ("24 Nov 2026", None),
        ("Nov 2026 17:20:49", None),
        ("24 2026 17:20:49", None),
        ("24 Nov 17:20:49", None),
        ("31 Feb 2026 17:20:49", None),
        ("24 Nov 2026 24:00:00", None),
        ("24 Nov 1600 17:20:49", None),
        ("124 Nov 2026 17:20:49", None),
        ("", None),
    ],
)
def test_dates(text: str, expected: str | None) -> None:
    """Dates are read as forgivingly as RFC 6265 asks, and no further."""
    moment = None if expected is None else datetime.datetime.fromisoformat(f"{expected}+00:00").timestamp()
    assert parse_date(text) == moment


@given(st.integers(0, 4_000_000_000))
def test_every_http_date_is_read(seconds: int) -> None:
    """What HTTP writes is read to the second."""
    assert parse_date(email.utils.formatdate(seconds, usegmt=True)) == seconds


# -- where to ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "domain", "matches"),
    [
        ("a.example.com", "example.com", True),
        ("example.com", "example.com", True),
        ("badexample.com", "example.com", False),
        ("example.com", "a.example.com", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.1", False),
        ("::1", "::1", True),
    ],
)
def test_domain_matches(host: str, domain: str, matches: bool) -> None:
    """A domain has what ends with it behind a dot, but no addresses."""
    assert domain_matches(host, domain) is matches


@pytest.mark.parametrize(
    ("path", "given_path", "matches"),
    [("/", "/", True), ("/a/b", "/a", True), ("/ab", "/a", False), ("/a", "/a/", False), ("/a/b", "/a/", True)],
)
def test_path_matches(path: str, given_path: str, matches: bool) -> None:
    """A path has what lies below it."""
    assert path_matches(path, given_path) is matches


A, B, OTHER = At(host="a.example.com"), At(host="b.example.com"), At(host="a.example.org")


@pytest.mark.parametrize(
    ("at", "attributes", "goes_to"),
    [
        (A, "", [A]),
        (A, "; Domain=", [A]),
        (A, "; Domain=example.com", [A, B]),
        (A, "; Domain=.Example.COM", [A, B]),
        (A, "; Domain=a.example.com", [A]),
        (A, "; Domain=b.example.com", []),
        (A, "; Domain=example.org", []),
        (A, "; Domain=com", [A]),
        (A, "; Domain=xample.com", []),
        (At(host="x.co.uk"), "; Domain=co.uk", [At(host="x.co.uk")]),
        (At(host="localhost"), "; Domain=localhost", [At(host="localhost")]),
        (At(host="127.0.0.1"), "; Domain=127.0.0.1", [At(host="127.0.0.1")]),
    ],
)
def test_H21_domains(at: At, attributes: str, goes_to: list[At]) -> None:
    """Host-only is kept; a domain widens to the hosts in it, never where anybody may register; foreign is refused."""
    everywhere = [A, B, OTHER, *(At(host=host) for host in ("x.co.uk", "y.co.uk", "localhost", "127.0.0.1"))]
    jar = Jar(public)
    heard(jar, f"a=1{attributes}", at=at)
    assert [place for place in everywhere if sent(jar, place)] == goes_to


def test_nobody_knows_the_suffixes() -> None:
    """Without a list of public suffixes a Domain widens nothing, and the cookie is kept for its own server."""
    jar = Jar()
    heard(jar, "a=1; Domain=example.com", at=A)
    assert (sent(jar, A), sent(jar, B)) == ("a=1", "")


def test_host_only_belongs_to_the_port_too() -> None:
    """Two servers on one host do not get each other's cookies, unless a Domain says so."""
    jar = Jar(public)
    heard(jar, "a=1", "b=2; Domain=lb.example.com")
    assert sent(jar, At(port=8443)) == "b=2"


def test_secure_goes_over_tls_only() -> None:
    """A Secure cookie does not go in the clear; the other one does."""
    jar = Jar(public)
    heard(jar, "a=1; Secure; Domain=example.com", "b=2; Domain=example.com")
    assert sent(jar) == "a=1; b=2"
    assert sent(jar, At(port=80, secure=False)) == "b=2"


def test_who_speaks_in_the_clear_touches_nothing_secure() -> None:
    """Over ws:// a Secure cookie is neither set, nor replaced, nor deleted; others are."""
    clear, jar = At(port=80, secure=False), Jar(public)
    heard(jar, "a=1; Secure; Domain=example.com", "b=2; Domain=example.com")
    heard(jar, "a=x; Domain=example.com", "b=3; Domain=example.com", "c=4; Secure; Domain=example.com", at=clear)
    heard(jar, "a=; Max-Age=0; Domain=example.com", at=clear)
    assert sent(jar) == "a=1; b=3"


@pytest.mark.parametrize(
    ("path", "attribute", "goes_to"),
    [
        ("/", "", ["/", "/a", "/a/b", "/ab"]),
        ("/a/b?q=/x/y", "", ["/a", "/a/b"]),
        ("/a", "", ["/", "/a", "/a/b", "/ab"]),
        ("/", "; Path=/a", ["/a", "/a/b"]),
        ("/a/b", "; Path=a", ["/a", "/a/b"]),
        ("/a/b", "; Path=", ["/a", "/a/b"]),
    ],
)
def test_paths(path: str, attribute: str, goes_to: list[str]) -> None:
    """A cookie goes to its path and below; without one, to where its server's own path lies."""
    jar = Jar()
    heard(jar, f"a=1{attribute}", at=At(path=path))
    assert [place for place in ("/", "/a", "/a/b", "/ab") if sent(jar, At(path=f"{place}?q"))] == goes_to


def test_order_is_longer_paths_first_then_age() -> None:
    """As RFC 6265 has it; one that is set again keeps its place."""
    jar, at = Jar(), At(path="/x/y")
    heard(jar, "a=1; Path=/", "b=2; Path=/x", "c=3; Path=/", "a=4; Path=/", at=at)
    assert sent(jar, at) == "b=2; a=4; c=3"


def test_own_header_goes_first() -> None:
    """A name that the user's own Cookie header has is left to it."""
    jar = Jar()
    heard(jar, "a=1", "b=2")
    assert names_in(["b=x; c=y", "d"]) == {"b", "c", "d"}
    assert sent(jar, own=("b",)) == "a=1"


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_a_flood_costs_the_oldest_and_nobody_else() -> None:
    """Each server has a bounded number; what it sets too much costs its own oldest, not another server's."""
    jar, other = Jar(), At(port=1)
    heard(jar, "theirs=1", at=other)
    heard(jar, "pin=1", "old=2")
    heard(jar, "pin=3", *(f"n{number}=" for number in range(affinity.MAX_COOKIES - 1)))
    assert len(jar) == affinity.MAX_COOKIES + 1
    assert "pin=3" in sent(jar)
    assert "old" not in sent(jar)
    assert sent(jar, other) == "theirs=1"


def test_sizes_are_bounded_together() -> None:
    """Three large cookies are more than a header may hold: the oldest goes."""
    jar = Jar()
    heard(jar, *(f"{name}={'x' * 4000}" for name in "abc"))
    assert [pair[0] for pair in sent(jar).split("; ")] == ["b", "c"]


def test_nothing_secret_is_in_a_repr() -> None:
    """Neither the jar nor a visit shows values, or the path, which may hold a secret."""
    jar = Jar()
    heard(jar, "a=canary; Path=/canary")
    visit = jar.visit(At(path="/canary"))
    shown = [
        repr(jar),
        repr(visit),
        *map(repr, jar._cookies.values()),
        repr(affinity._parse_line("a=canary; b=canary")),
    ]
    assert not any("canary" in text for text in shown)
    assert shown[0] == "<Jar of 1 cookies>"


# -- the pin ----------------------------------------------------------------------------------------------------------


def test_S26_pin_is_dropped_when_it_leads_nowhere() -> None:
    """A handshake with cookies that failed drops them; one without, or one that is overtaken, drops nothing."""
    jar = Jar()
    blank = jar.visit(At())
    assert jar.cookies(blank, 0.0) == b""
    heard(jar, "pin=a")
    jar.missed(blank)
    assert sent(jar) == "pin=a"
    first, second = jar.visit(At()), jar.visit(At())
    assert jar.cookies(first, 0.0) == jar.cookies(second, 0.0) == b"pin=a"
    jar.missed(first)
    assert sent(jar) == ""
    heard(jar, "pin=b")
    jar.missed(second)
    assert sent(jar) == "pin=b"


def test_an_overtaken_answer_does_not_lead_back() -> None:
    """What was asked with cookies that are dropped by now is not taken from; what was asked without is."""
    jar = Jar()
    heard(jar, "pin=a")
    led, unled = jar.visit(At()), jar.visit(At())
    jar.cookies(led, 0.0)
    jar.forget(At())
    jar.hear(led, ["pin=a"], date=DATE, wall=WALL, now=0.0)
    assert sent(jar) == ""
    jar.hear(unled, ["pin=b"], date=DATE, wall=WALL, now=0.0)
    assert sent(jar) == "pin=b"


def test_forget_takes_all_that_leads_there() -> None:
    """Cookies of a domain and of other paths go too, those of other servers stay."""
    jar = Jar(public)
    heard(jar, "a=1; Path=/x", "b=2; Domain=example.com", "c=3")
    heard(jar, "d=4", at=B)
    jar.forget(At())
    assert len(jar) == 1
    assert sent(jar, B) == "d=4"


def test_a_renewed_pin_replaces_the_old_one() -> None:
    """A balancer that renews both its cookies with each answer gets the newest back."""
    jar = Jar()
    for number in range(5):
        heard(jar, f"AWSALB=v{number}+/==; Path=/", f"AWSALBCORS=v{number}+/==; Path=/; SameSite=None; Secure")
        assert sent(jar) == f"AWSALB=v{number}+/==; AWSALBCORS=v{number}+/=="
    assert len(jar) == 2


# -- anything ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(max_codepoint=0x17F), max_size=40), max_size=20), st.integers())
def test_anything_may_be_said(lines: list[str], seed: int) -> None:
    """No header makes the jar fail, lose what it had, or give out what cannot stand in a header."""
    jar = Jar(public)
    heard(jar, "pin=\xe9+/=; Path=/")
    dice = random.Random(seed)
    for line in lines:
        heard(jar, line, at=dice.choice([A, B, OTHER]))
    assert sent(jar) == "pin=\xe9+/="
    for place in (A, B, OTHER):
        assert not affinity._CONTROL.search(sent(jar, place))


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from(["", "; Max-Age=0", "; Max-Age=5"])),
        max_size=30,
    )
)
def test_jar_is_a_dict_with_deadlines(said: list[tuple[str, int, str]]) -> None:
    """For one place and path the jar does what a dictionary does whose entries end."""
    jar, model = Jar(), {}
    for now, (name, value, attributes) in enumerate(said):
        heard(jar, f"{name}={value}{attributes}", now=float(now))
        model = {key: entry for key, entry in model.items() if now < entry[1]}
        if attributes == "; Max-Age=0":
            model.pop(name, None)
        else:
            model[name] = value, now + 5.0 if attributes else math.inf
        expected = {f"{key}={entry[0]}" for key, entry in model.items() if now < entry[1]}
        assert set(filter(None, sent(jar, now=float(now)).split("; "))) == expected
