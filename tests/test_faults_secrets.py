"""H24 through the whole Client: no secret in an error, a repr, an event, a log at DEBUG, or the library's own trace."""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket

from resilient_ws import Client, connect, events
from resilient_ws.exceptions import ResilientWSError
from server_fixture import rude
from server_fixture.rude import Caller, RudeServer, accept_upgrade, close_frame
from tests.fault_server import AT_ONCE, Model, framed, proxied, url_of
from tests.transport_tools import PATIENCE, closed_port

#: In no source line, so that a traceback that shows one has it from a value.
MARK = "".join(["ca", "na", "ry"])
SECRETS = {
    name: f"{MARK}-{name}"
    for name in ("token", "header", "cookie", "query", "resume", "payload", "body", "jar", "user", "password")
}


class Watch:
    """Everything that a program could print of a Client: log records, trace, events, reprs, errors."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.count = 0
        self.changed = threading.Condition()

    def see(self, what: object) -> None:
        """Keep one thing as text."""
        with self.changed:
            self.seen.append(str(what))
            self.seen.append(repr(what))
            self.changed.notify_all()

    def error(self, error: BaseException) -> None:
        """Keep an error: its text, its attributes, its chain as a traceback shows it."""
        self.see("".join(traceback.format_exception(error)))
        while error is not None:
            self.see(error)
            self.see(vars(error))
            error = error.__cause__ or error.__context__  # type: ignore[assignment]

    def record(self, record: logging.LogRecord) -> bool:
        """Keep a log record, its fields and its traceback."""
        self.see(record.getMessage())
        self.see(vars(record))
        if record.exc_info and record.exc_info[1] is not None:
            self.error(record.exc_info[1])
        return True

    def leaks(self) -> list[str]:
        """Give what shows a secret."""
        with self.changed:
            return [text for text in self.seen if MARK in text]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Watch every logger at DEBUG, with the library's trace on."""
    watch = Watch()
    handler = logging.Handler(logging.DEBUG)
    handler.emit = watch.record  # type: ignore[method-assign, assignment]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    websocket.enableTrace(True, handler=handler)
    yield watch
    websocket.enableTrace(False)
    logging.getLogger("websocket").removeHandler(handler)
    root.removeHandler(handler)
    root.setLevel(level)


def secretive(url: str, watch: Watch, **settings: Any) -> Client:
    """Open a Client with a secret wherever one can be put."""
    return connect(
        f"{url}?key={SECRETS['query']}",
        **{
            "subscribe": {"s": "earliest"},
            "stream": "out",
            "access_token": SECRETS["token"],
            "headers": {"X-Api-Key": SECRETS["header"], "Cookie": f"session={SECRETS['cookie']}"},
            "on_event": watch.see,
            "retry": AT_ONCE,
            "open_timeout": 0.5,
            **settings,
        },
    )


def was_sent(server: RudeServer) -> bool:
    """Say whether the secrets were really put into a request, without which a test would show nothing."""
    raw = server.requests[0].raw.decode("latin-1")
    return all(SECRETS[name] in raw for name in ("token", "header", "cookie", "query"))


BODY = SECRETS["body"].encode()
JAR = [("Set-Cookie", f"AWSALB={SECRETS['jar']}")]


def odd(text: str) -> Callable[[Caller], None]:
    """Answer a hello with a message that is no good and holds a secret."""

    def behave(caller: Caller) -> None:
        accept_upgrade(caller, headers=JAR)
        caller.read_frame()
        caller.send(framed(text))
        caller.wait_gone()

    return behave


REFUSALS: dict[str, Callable[[Caller], object]] = {
    "401": rude.status(401, headers=JAR, body=BODY),
    "403": rude.status(403, headers=JAR, body=BODY),
    "404": rude.status(404, headers=JAR, body=BODY),
    "500": rude.status(500, headers=JAR, body=BODY),
    "html": rude.status(200, headers=JAR, body=BODY),
    "redirect": rude.redirect(f"ws://127.0.0.2/?key={SECRETS['query']}"),
    "wrong_accept": rude.wrong_accept,
    "banner": rude.http(b"SSH-2.0-" + BODY + b"\r\n"),
    "bad_header": rude.http(b"HTTP/1.1 500 Rude\r\nbad header " + BODY + b"\r\n\r\n"),
    "bad_status": rude.http(b"HTTP/1.1 " + BODY + b"\r\n\r\n"),
    "flap": rude.flap,
    "never": rude.upgrade_never,
    "echo": rude.echo,
    "odd_text": odd(f"s:1x:{SECRETS['payload']}"),
    "odd_json": odd(f'{{"type":"{SECRETS["payload"]}"}}'),
    "odd_welcome": odd(f'{{"type":"welcome","token":"{SECRETS["resume"]}"}}'),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_H24_connect_that_fails(name: str, watch: Watch) -> None:
    """Whatever the server answers, the error of connect() and all that is logged meanwhile shows no secret."""
    with RudeServer(REFUSALS[name]) as server:
        with pytest.raises(ResilientWSError) as caught:
            secretive(server.url, watch)
        assert was_sent(server)
    watch.error(caught.value)
    assert len(watch.seen) > 10
    assert watch.leaks() == []


def test_H24_connect_that_finds_nobody(watch: Watch) -> None:
    """Neither a refused port nor a name without an address shows the URL's query."""
    for url in (f"ws://127.0.0.1:{closed_port()}/", "ws://no-such-host.localhost:1/"):
        with pytest.raises(ResilientWSError) as caught:
            secretive(url, watch)
        watch.error(caught.value)
    assert watch.leaks() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": f"http://127.0.0.1/?key={SECRETS['query']}"},
        {"url": f"ws://user:{SECRETS['query']}@127.0.0.1/"},
        {"url": f"ws://127.0.0.1/?key={SECRETS['query']}\r\n"},
        {"url": f"ws://127.0.0.1/#{SECRETS['query']}"},
        {"headers": {"X-Api-Key": SECRETS["header"] + "\r\n"}},
        {"access_token": SECRETS["token"] + "\n"},
        {"access_token": [SECRETS["token"]]},
        {"headers": SECRETS["header"]},
    ],
)
def test_H24_arguments_that_are_refused(wrong: dict[str, Any], watch: Watch) -> None:
    """An argument that is refused is not shown where it may hold a secret."""
    arguments = dict(wrong)
    with pytest.raises((ValueError, TypeError)) as caught:
        connect(arguments.pop("url", "ws://127.0.0.1:1/"), **arguments)
    watch.error(caught.value)
    assert watch.leaks() == []


def test_H24_a_session_with_everything_in_it(watch: Watch) -> None:
    """A session that is welcomed, cut, resumed, sent to, received from and ended shows no secret anywhere."""
    model = Model(SECRETS["payload"], token=SECRETS["resume"])
    script = [model.serve, model.serve, model.then(lambda line: line.caller.send(close_frame(1002, "broken")))]
    with RudeServer(script) as server, proxied(server) as proxy:
        client = secretive(url_of(proxy), watch, open_timeout=PATIENCE)
        message = client.recv(PATIENCE)
        receipt = client.send(SECRETS["payload"])
        receipt.result(PATIENCE)
        for thing in (client, message, message.position, receipt, client.stats(), client.guarantee, client._arguments):
            watch.see(thing)
        proxy.cut_all()
        client.send(SECRETS["payload"]).result(PATIENCE)
        proxy.cut_all()
        with pytest.raises(ResilientWSError) as caught:
            client.recv(PATIENCE)
        watch.error(caught.value)
        for call in (lambda: client.send(SECRETS["payload"]), lambda: client.subscribe("x"), lambda: client.recv(0)):
            with pytest.raises(ResilientWSError) as caught:
                call()
            watch.error(caught.value)
        client.close()
        assert was_sent(server)
    with watch.changed:
        assert watch.changed.wait_for(lambda: any("Ended(" in text for text in watch.seen), PATIENCE)
    assert model.hellos[1].token == SECRETS["resume"]  # it was said, and to the server only
    watch.see(model.hellos[1])
    watch.see(client._session._core.identity)
    assert watch.leaks() == []


def test_H24_functions_that_raise(watch: Watch) -> None:
    """What a user's own function raises is in the chain, and its text in none of ours."""

    def token() -> str:
        raise KeyError("vault is sealed")

    with RudeServer(Model().serve) as server, pytest.raises(ResilientWSError) as caught:
        secretive(server.url, watch, access_token=token)
    assert isinstance(caught.value.__cause__, ResilientWSError)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)
    assert "sealed" not in str(caught.value) + str(caught.value.__cause__)
    watch.error(caught.value)
    assert watch.leaks() == []


def test_H24_control_the_watch_sees_what_the_bare_library_shows(watch: Watch) -> None:
    """The same request made by the library alone is seen, in its trace and in its error."""
    with RudeServer(REFUSALS["401"]) as server, contextlib.suppress(websocket.WebSocketException):
        websocket.create_connection(f"{server.url}?key={SECRETS['query']}", cookie=SECRETS["cookie"])
    assert any(SECRETS["query"] in text for text in watch.leaks())
    assert any(SECRETS["cookie"] in text for text in watch.leaks())


def test_H24_control_every_event_reaches_the_watch() -> None:
    """A secret in an event would be seen."""
    watch = Watch()
    watch.see(events.Ended(error=SECRETS["token"]))
    assert watch.leaks()
