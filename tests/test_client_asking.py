"""A Client's questions for endpoints and access tokens, in real threads, over connections that the test plays."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import responses
import tenacity
from seen import Seen

from resilient_ws import attempts, events
from resilient_ws.client import Client
from resilient_ws.config import Failover, Retry, Wire
from resilient_ws.exceptions import AccessDenied, ConnectTimeout
from resilient_ws.frames import Ack, Auth, Batch, SeqMark
from resilient_ws.testing import Peer, ScriptedDialer

SOON = 5.0
FAST = Retry(wait=tenacity.wait_fixed(0.01), budget=None)
ONE, TWO = "ws://127.0.0.1:1/", "ws://127.0.0.1:2/"


@pytest.fixture
def dialer() -> Iterator[ScriptedDialer]:
    """A dialer whose connections are all cut in the end."""
    dialer = ScriptedDialer()
    yield dialer
    dialer.close()


@pytest.fixture(autouse=True)
def leave_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that the test plays seldom answer a close frame: do not wait a second for each."""
    monkeypatch.setattr("resilient_ws.performing.LEAVE_TIMEOUT", 0.1)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for what blocks."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def welcomed(dialer: ScriptedDialer) -> Peer:
    """Accept a connection and welcome it; skips the ready."""
    peer = dialer.accept()
    peer.welcome()
    peer.expect()
    return peer


def bearer(peer: Peer) -> str | None:
    """Return the credentials of an upgrade."""
    return dict(peer.options.headers).get("Authorization")


class Source:
    """A function of a user's that can be held up, and counts who is in it."""

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self.answer, self.calls, self.inside, self.most = answer, 0, 0, 0
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock:
            self.calls, self.inside = self.calls + 1, self.inside + 1
            self.most, number = max(self.most, self.inside), self.calls
        self.entered.set()
        assert self.gate.wait(SOON)
        with self._lock:
            self.inside -= 1
        return self.answer(number)


# -- access tokens ----------------------------------------------------------------------------------------------------


def test_a_token_is_renewed_over_the_open_connection(
    dialer: ScriptedDialer, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """The new one comes in an auth frame before the old one is over; nothing reconnects, and no log has either."""
    caplog.set_level(logging.DEBUG)
    source = Source(lambda number: (f"canary-{number}", 1.0))
    seen = Seen()
    first = pool.submit(welcomed, dialer)
    with dialer.connect(ONE, access_token=source, on_event=seen) as client:
        peer = first.result(SOON)
        assert bearer(peer) == "Bearer canary-1"
        assert [peer.expect(Auth).access_token for _ in range(2)] == ["canary-2", "canary-3"]
        seen.wait(events.AccessTokenRenewed, 2)
        assert (client.stats()["connects"], len(dialer.dials)) == (1, 1)
        assert client.stats()["tokens"] >= 3
        assert "canary" not in repr((client, client._session._core.credentials, client.stats(), seen.events))
    assert "access_token_renewed" in caplog.text
    assert "canary" not in caplog.text
    assert source.most == 1


def test_a_source_that_hangs_is_called_once(dialer: ScriptedDialer) -> None:
    """However many attempts wait for it; connect() ends in time and says why."""
    source = Source(lambda number: f"t{number}")
    source.gate.clear()
    quick = Retry(wait=tenacity.wait_fixed(0.01), budget=None, connect_timeout=0.05, max_connect_timeout=0.05)
    with pytest.raises(ConnectTimeout, match="access_token= has not answered in time"):
        dialer.connect(ONE, access_token=source, open_timeout=0.3, retry=quick)
    assert (source.calls, dialer.dials) == (1, [])
    source.gate.set()


def test_what_was_sent_goes_out_when_a_source_answers_at_last(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """A token that comes after its attempt was given up serves the next one."""
    source = Source(lambda number: f"t{number}")
    source.gate.clear()
    seen = Seen()
    patient = Retry(wait=tenacity.wait_fixed(0.01), budget=None, connect_timeout=1.0)
    client = dialer.connect(ONE, access_token=source, wait=False, stream="out", retry=patient, on_event=seen)
    try:
        receipt = client.send("kept")
        seen.wait(events.AccessTokenFailed)
        assert source.calls == 1
        source.gate.set()
        peer = pool.submit(welcomed, dialer).result(SOON)
        assert bearer(peer) == "Bearer t1"
        assert peer.expect(Batch).payloads == ["kept"]
        peer.send(Ack(committed=(SeqMark(0, "out", 1),)))
        receipt.result(SOON)
    finally:
        dialer.close()
        client.close()


def test_close_does_not_wait_for_a_source(dialer: ScriptedDialer) -> None:
    """Its answer comes to nobody, and is dropped."""
    source = Source(lambda number: "late")
    source.gate.clear()
    client = dialer.connect(ONE, access_token=source, wait=False)
    assert source.entered.wait(SOON)
    client.close()
    source.gate.set()
    assert dialer.dials == []


def test_a_source_that_raises_is_an_event_and_another_attempt(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """The session opens when it gives a token."""

    def give(number: int) -> str:
        if number < 3:
            raise OSError("the vault canary")
        return "t"

    seen = Seen()
    first = pool.submit(welcomed, dialer)
    with dialer.connect(ONE, access_token=Source(give), retry=FAST, on_event=seen):
        assert bearer(first.result(SOON)) == "Bearer t"
        failed = seen.wait(events.AccessTokenFailed, 2)
        assert [(event.is_kept, "OSError" in event.error) for event in failed] == [(False, True)] * 2
        assert "canary" not in repr(seen.events)


def test_H1_a_refused_token_is_fetched_anew(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """The second attempt has another token; when that is refused too, connect() says so at once."""
    source = Source(lambda number: (f"t{number}", 100.0))
    denied = AccessDenied("401", status=401)
    dialer.refuse(denied)
    first = pool.submit(welcomed, dialer)
    with dialer.connect(ONE, access_token=source, retry=FAST):
        assert bearer(first.result(SOON)) == "Bearer t2"
    dialer.refuse(denied, denied)
    with pytest.raises(AccessDenied):
        dialer.connect(ONE, access_token=source, retry=FAST)
    assert source.calls == 4


def test_4401_over_an_open_connection(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """The session goes on with a fresh token."""
    source = Source(lambda number: (f"t{number}", 100.0))
    first = pool.submit(welcomed, dialer)
    with dialer.connect(ONE, access_token=source, retry=FAST) as client:
        first.result(SOON).close(4401, "expired")
        assert bearer(welcomed(dialer)) == "Bearer t2"
        assert client.connected


def test_a_source_over_http(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """A URL in place of a token is who gives one; the URL is sent to nobody."""
    url = "https://auth.example/token?client=canary"
    with responses.RequestsMock() as server:
        server.post(url, json={"access_token": "abc", "expires_in": 60})
        first = pool.submit(welcomed, dialer)
        with dialer.connect(ONE, access_token=url, headers={"X-Key": "mine"}):
            peer = first.result(SOON)
            assert peer.options.headers == (("X-Key", "mine"), ("Authorization", "Bearer abc"))
        assert "X-Key" not in server.calls[0].request.headers


# -- endpoints --------------------------------------------------------------------------------------------------------


def test_discovery_over_http(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """What the answer names is dialled when the connection is lost, what must not be is reported."""
    seen = Seen()
    nodes = [{"url": TWO}, {"url": "wss://evil.example/?canary"}]
    with responses.RequestsMock() as server:
        server.get("http://127.0.0.1:1/endpoints", json={"endpoints": nodes, "ttl": 60})
        first = pool.submit(welcomed, dialer)
        settings: dict[str, Any] = {"failover": Failover(discover="http://127.0.0.1:1/endpoints"), "on_event": seen}
        with dialer.connect(ONE, access_token="secret", retry=FAST, **settings) as client:
            peer = first.result(SOON)
            assert seen.wait(events.EndpointsChanged)[0].endpoints == 2
            refused = seen.wait(events.EndpointsRefused)[0]
            assert (refused.source, refused.count) == ("discover", 1)
            assert "evil.example" in refused.why
            assert "canary" not in repr(seen.events)
            assert server.calls[0].request.headers["Authorization"] == "Bearer secret"
            peer.cut()
            assert welcomed(dialer).url == TWO
            assert sorted(url for url, _ in client.stats()["endpoints"]) == [ONE[:-1], TWO[:-1]]


def test_discovery_without_a_url(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """connect([]) waits for the first answer; where there is none the error says why."""
    first = pool.submit(welcomed, dialer)
    with dialer.connect([], failover=Failover(discover=lambda: [TWO])):
        assert first.result(SOON).url == TWO

    def fails() -> Any:
        raise LookupError("canary")

    with pytest.raises(ConnectTimeout, match=r"Failover\(discover=\) failed with LookupError") as caught:
        dialer.connect([], failover=Failover(discover=fails), open_timeout=0.2)
    assert "canary" not in str(caught.value)
    hangs = Source(lambda number: [TWO])
    hangs.gate.clear()
    with pytest.raises(ConnectTimeout, match="has named no endpoint yet"):
        dialer.connect([], failover=Failover(discover=hangs), open_timeout=0.1)
    hangs.gate.set()


def test_discovery_that_fails_leaves_what_is_known(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """The session does not notice."""
    source = Source(lambda number: ([TWO], 0.1) if number == 1 else [])
    seen = Seen()
    first = pool.submit(welcomed, dialer)
    with dialer.connect(ONE, failover=Failover(discover=source), retry=FAST, on_event=seen) as client:
        first.result(SOON)
        assert seen.wait(events.DiscoveryFailed)[0].endpoints == 2
        assert client.connected
        assert client.stats()["discoveries_failed"] >= 1


def test_headers_that_fail_are_told_without_their_text(dialer: ScriptedDialer) -> None:
    """They go along with a question over HTTP, and what they raise may hold a secret."""
    seen = Seen()

    def headers() -> dict[str, str]:
        raise KeyError("canary")

    discovering = Failover(discover="http://127.0.0.1:1/endpoints")
    client = dialer.connect(ONE, headers=headers, failover=discovering, wait=False, on_event=seen)
    assert "asking for endpoints failed with KeyError" in seen.wait(events.DiscoveryFailed)[0].error
    assert "canary" not in repr(seen.events)
    client.close()


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"access_token": "http://auth.example/token"}, ValueError, "access_token=: http:// to auth.example"),
        ({"access_token": "https://me:pw@auth.example/"}, ValueError, "access_token=: .* credentials"),
        ({"failover": Failover(discover="http://a.example/")}, ValueError, r"Failover\(discover=\): http:// to a"),
        ({"failover": Failover(discover="wss://a.example/")}, ValueError, r"Failover\(discover=\) takes an https://"),
        ({"failover": Failover(trusted_hosts=["*"])}, ValueError, "trusted_hosts"),
    ],
)
def test_wrong_sources_are_refused_at_once(
    dialer: ScriptedDialer, settings: dict[str, Any], error: type, text: str
) -> None:
    """Before anything is asked; no password is shown."""
    with pytest.raises(error, match=text) as caught:
        dialer.connect(ONE, **settings)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"discover": 7}, {"discover": b"x"}, {"trusted_hosts": "a"}, {"trusted_hosts": [1]}])
def test_wrong_settings_are_refused_at_once(wrong: dict[str, Any]) -> None:
    """When the group is made."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Failover(**wrong)


def test_without_discovery_a_url_is_needed(dialer: ScriptedDialer) -> None:
    """And with plain text allowed, a source may be asked in plain text."""
    with pytest.raises(ValueError, match=r"at least one wss:// URL is needed, or Failover\(discover=\)"):
        dialer.connect([])
    plain = Failover(discover="http://a.example/")
    dialer.connect(ONE, failover=plain, wire=Wire(allow_plaintext=True), wait=False).close()


# -- threads ----------------------------------------------------------------------------------------------------------


def test_a_system_without_threads_is_a_failure_of_the_question(
    dialer: ScriptedDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and asked again."""
    seen = Seen()

    def no(work: object, kind: str = "dial") -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(attempts, "start", no)
    client = dialer.connect(ONE, access_token=lambda: "t", wait=False, retry=FAST, on_event=seen)
    assert "no thread could be started" in seen.wait(events.AccessTokenFailed, 2)[1].error
    client.close()


def test_a_client_that_is_dropped_is_not_kept_by_its_questions(
    dialer: ScriptedDialer, pool: ThreadPoolExecutor
) -> None:
    """Sources are often methods of what holds the Client: neither is kept alive by what asks them."""

    class Holder:
        client: Client

        def token(self) -> tuple[str, float]:
            return "t", 3600.0

        def endpoints(self) -> list[str]:
            return [ONE, TWO]

    holder, seen = Holder(), Seen()
    first = pool.submit(welcomed, dialer)
    discovering = Failover(discover=holder.endpoints)
    holder.client = dialer.connect(ONE, access_token=holder.token, failover=discovering, on_event=seen)
    first.result(SOON)
    seen.wait(events.EndpointsChanged)
    gone = weakref.ref(holder)
    del holder, discovering
    with pytest.warns(ResourceWarning, match="unclosed"):
        collect(gone)
    assert gone() is None


def collect(gone: weakref.ref[Any]) -> None:
    """Collect until it is gone, a thread that is about to end may hold it, but not for ever."""
    for _ in range(200):
        gc.collect()
        if gone() is None:
            return
        threading.Event().wait(0.01)
