"""
The least server of ``resilient.v1`` on a raw socket, for the fault rows: right, until a test has it do something else.

One log that clients read (stream ``s``) and what they sent live in a :class:`Model`, over all its connections; a
behaviour of ``rude.py`` is ``model.serve`` or a function that talks through a :class:`Line`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tenacity

from resilient_ws import Client, Retry, connect
from resilient_ws.dialects.native import Native
from resilient_ws.frames import (
    Ack,
    Batch,
    CommittedAnswer,
    Hello,
    KeepaliveAdvice,
    Ping,
    Pong,
    Ready,
    SeqMark,
    StreamAnswer,
    Subscribe,
    Subscribed,
    Welcome,
)
from server_fixture.link import Proxy
from server_fixture.rude import BINARY, CLOSE, PING, PONG, TEXT, Caller, RudeServer, accept_upgrade, frame
from tests.transport_tools import PATIENCE


class Line:
    """One connection on which frames of the dialect are said and heard."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.codec = Native().server()
        self.producers: tuple[str, ...] = ()
        self.closed: tuple[int, str] | None = None

    def heard(self) -> Iterator[Any]:
        """Give what the client says until its close frame, which is answered; EOFError where there is none."""
        while self.closed is None:
            opcode, payload = self.caller.read_frame()
            if opcode == CLOSE:
                self.closed = int.from_bytes(payload[:2], "big"), payload[2:].decode()
                self.caller.send(frame(CLOSE, payload))
            elif opcode == PING:
                self.caller.send(frame(PONG, payload))
            elif opcode in (TEXT, BINARY):
                yield from self.codec.decode([payload.decode() if opcode == TEXT else payload])

    def expect(self, kind: type) -> Any:
        """Give the next item of this kind."""
        for item in self.heard():
            if isinstance(item, kind):
                return item
        raise EOFError("the client closed")

    def say(self, *items: Any) -> None:
        """Send frames of the dialect."""
        self.caller.send(b"".join(map(framed, self.codec.encode(items))))


def framed(message: str | bytes) -> bytes:
    """Put one message into a WebSocket frame."""
    return frame(TEXT, message.encode()) if isinstance(message, str) else frame(BINARY, message)


class Model:
    """
    A server whose data outlive its connections.

    Args:
        log: What stream ``s`` holds, from offset 1.
        welcome: Fields of every welcome that differ from the usual.
    """

    def __init__(self, *log: str, **welcome: Any) -> None:
        self.log: list[str] = list(log)
        self.given = welcome
        self.sent: dict[tuple[str, str], list[Any]] = {}
        self.hellos: list[Hello] = []
        self.closes: list[tuple[int, str]] = []
        self.changed = threading.Condition()

    @property
    def received(self) -> list[Any]:
        """All that clients sent, in order where one stream of one producer is used."""
        with self.changed:
            return [payload for lane in self.sent.values() for payload in lane]

    def wait_for(self, condition: Callable[[Model], object], timeout: float = 10.0) -> bool:
        """Wait until something holds."""
        with self.changed:
            return bool(self.changed.wait_for(lambda: condition(self), timeout))

    def serve(self, caller: Caller) -> None:
        """Keep every rule: a behaviour for RudeServer."""
        accept_upgrade(caller)
        self.talk(self.enter(caller))

    def enter(self, caller: Caller, *, with_log: bool = True, **fields: Any) -> Line:
        """Hear hello, say welcome and, with it, what the log holds beyond ``held``."""
        line = Line(caller)
        hello: Hello = line.expect(Hello)
        with self.changed:
            self.hellos.append(hello)
            line.producers = hello.producers
            said = {**self.welcome(hello), **self.given, **fields}
            news = [
                Batch(asked.stream, self.start_of(asked), list(self.log[self.start_of(asked) - 1 :]))
                for asked in hello.streams
                if len(self.log) >= self.start_of(asked)
            ]
            self.changed.notify_all()
        line.say(Welcome(**said))
        line.say(*news if with_log else ())
        return line

    def start_of(self, asked: Any) -> int:
        """Give the offset from which a subscription is served."""
        if asked.held is not None:
            return int(asked.held.offset) + 1
        return 1 if asked.start == "earliest" else len(self.log) + 1

    def welcome(self, hello: Hello) -> dict[str, Any]:
        """Give the fields of a right welcome; the session is known."""
        committed = tuple(
            CommittedAnswer(
                producer=asked.producer,
                stream=asked.stream,
                seq=len(self.sent.get((hello.producers[asked.producer], asked.stream), [])),
                known=(hello.producers[asked.producer], asked.stream) in self.sent,
            )
            for asked in hello.outbound
        )
        return {
            "session": hello.session or "session-1",
            "token": f"token-{len(self.hellos)}",
            "generation": len(self.hellos),
            "verdict": "new" if hello.session is None else "resumed",
            "ttl": 60.0,
            "node": "model",
            "incarnation": "i1",
            "producer_ttl": 3600.0,
            "max_message": 1 << 20,
            "committed": committed,
            "streams": tuple(self.answer(asked) for asked in hello.streams),
        }

    def answer(self, asked: Any) -> StreamAnswer:
        """Give what a welcome or subscribed says of a stream."""
        first = self.start_of(asked)
        live = max(first - 1, len(self.log))
        return StreamAnswer(stream=asked.stream, id=asked.id, epoch="e1", first=first, live=live)

    def talk(self, line: Line) -> None:
        """Store and ack what comes, answer pings, until the client closes."""
        for item in line.heard():
            if isinstance(item, Batch):
                line.say(self.store(line, item))
            elif isinstance(item, Ping):
                line.say(Pong(echo=item.echo))
            elif isinstance(item, Subscribe):
                line.say(Subscribed(answer=self.answer(item)))
        with self.changed:
            if line.closed is not None:
                self.closes.append(line.closed)
            self.changed.notify_all()

    def store(self, line: Line, batch: Batch) -> Ack:
        """Append what is new of a batch; a hole is an error of the client."""
        with self.changed:
            lane = self.sent.setdefault((line.producers[batch.producer], batch.stream), [])
            assert batch.first <= len(lane) + 1, f"a hole: {batch.first} after {len(lane)}"
            lane.extend(batch.payloads[len(lane) + 1 - batch.first :])
            self.changed.notify_all()
            return Ack(committed=(SeqMark(batch.producer, batch.stream, len(lane)),))

    def then(self, act: Callable[[Line], object]) -> Callable[[Caller], None]:
        """Make a behaviour that welcomes rightly, waits for ready, and goes on with ``act``."""

        def behave(caller: Caller) -> None:
            accept_upgrade(caller)
            line = self.enter(caller)
            line.expect(Ready)
            act(line)

        return behave


def quick(interval: float = 0.1, timeout: float = 0.3) -> KeepaliveAdvice:
    """Give short durations for a welcome."""
    return KeepaliveAdvice(interval=interval, timeout=timeout)


#: Retries without a pause.
AT_ONCE = Retry(wait=tenacity.wait_none())


def numbers(count: int, first: int = 1) -> list[str]:
    """Give payloads that can be told apart."""
    return [str(number) for number in range(first, first + count)]


@contextlib.contextmanager
def opened(*urls: str, **settings: Any) -> Iterator[Client]:
    """Open a Client that reads ``s`` from the start and sends to ``out``; closed in the end, whatever it holds."""
    defaults = {"subscribe": {"s": "earliest"}, "stream": "out", "retry": AT_ONCE, "open_timeout": PATIENCE}
    client = connect(urls, **{**defaults, **settings})
    try:
        yield client
    finally:
        client.close()


def taken(client: Client, count: int) -> list[Any]:
    """Receive so many messages and give their data."""
    return [client.recv(PATIENCE).data for _ in range(count)]


def proxied(server: RudeServer, **settings: Any) -> Proxy:
    """Put a proxy before a server."""
    return Proxy("127.0.0.1", server.port, **settings)


def url_of(proxy: Proxy) -> str:
    """Give what a client dials."""
    return f"ws://127.0.0.1:{proxy.port}/"
