"""
A client of ``resilient.v1`` that shares no code with the package: websocket-client, JSON, and the rules by hand.

It holds what a node says against the specification: the grammar of every frame, the order of every stream, credit and
acks. Section and rule numbers are those of ``docs/protocol.md``. It answers pings by itself.
"""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import websocket

from tests.conformance.grammar import Message, parse_control, parse_data

PATIENCE = 15.0
"""Seconds that a single wait may take."""


class Closed(Exception):
    """The node closed: its code and reason; 1006 where it went without a word."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason!r}")
        self.code, self.reason = code, reason


def crc(data: str | bytes) -> int:
    """Return the CRC-32 of a payload's bytes."""
    return zlib.crc32(data.encode() if isinstance(data, str) else data)


def random_id() -> str:
    """Return 128 random bits, as instances and producers are."""
    return uuid.uuid4().hex


class Followed:
    """What this connection knows of one subscription."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.id, self.epoch = answer["id"], answer["epoch"]
        self.position = answer["from"] - 1
        self.repeated = max(answer.get("live", 0), self.position)


class _Socket(websocket.WebSocket):
    """Answers a close frame where it can, and gives it to its reader where the node did not wait for the answer."""

    def send_close(self, *args: Any, **options: Any) -> None:
        with suppress(OSError):
            super().send_close(*args, **options)


class PlainPeer:
    """
    One connection to a node.

    Args:
        url: The node.
        headers: More headers of the upgrade.
        subprotocols: What is offered.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str] | None = None, subprotocols: tuple[str, ...] = ("resilient.v1",)
    ) -> None:
        self.socket = websocket.create_connection(
            url,
            timeout=PATIENCE,
            subprotocols=list(subprotocols),
            suppress_origin=True,
            header=dict(headers or {}),
            class_=_Socket,
        )
        self.instance, self.producer = random_id(), random_id()
        self.followed: dict[str, Followed] = {}
        self.messages: list[Message] = []
        self.written: dict[tuple[int, str], int] = {}
        self.committed: dict[tuple[int, str], int] = {}
        self.rejected: list[tuple[str, int, str]] = []
        self.granted, self.used = {"messages": 0, "bytes": 0}, {"messages": 0, "bytes": 0}
        self.answers_pings = True

    # -- out ----------------------------------------------------------------------------------------------------------

    def text(self, wire: str) -> None:
        self.socket.send(wire)

    def binary(self, wire: bytes) -> None:
        self.socket.send_binary(wire)

    def frame(self, kind: str, **fields: Any) -> None:
        """Write a control frame."""
        if kind == "credit" or "credit" in fields:
            self.granted = fields if kind == "credit" else fields["credit"]
        self.text(json.dumps({"type": kind, **fields}))

    def send(self, stream: str, seq: int, data: str | bytes, attributes: str = "") -> None:
        """Write a message."""
        head = f"{stream}:{seq}{attributes}:"
        self.written[0, stream] = max(seq, self.written.get((0, stream), 0))
        self.text(head + data) if isinstance(data, str) else self.binary(head.encode() + data)

    def hello_fields(self, **fields: Any) -> dict[str, Any]:
        """Return a hello's fields; those that are not given ask for a new session."""
        return {
            "version": 1,
            "features": ["batch", "void"],
            "instance": self.instance,
            "attempt": 1,
            "producers": [self.producer],
            "credit": {"messages": 1000, "bytes": 1 << 20},
            "max_message": 1 << 20,
            **fields,
        }

    def hello(self, *, ready: bool = True, **fields: Any) -> dict[str, Any]:
        """Say hello and read the welcome."""
        self.frame("hello", **self.hello_fields(**fields))
        for entry in fields.get("outbound", ()):
            self.written[entry["producer"], entry["stream"]] = entry["next"] - 1
        welcome = self.wait("welcome")
        for answer in welcome.get("streams", ()):
            self._follow(answer)
        if ready:
            self.frame("ready", generation=welcome["generation"])
        return welcome

    def resume(self, last: PlainPeer, welcome: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Go on with the session of another connection of the same client, which was welcomed so."""
        self.instance, self.producer = last.instance, last.producer
        session = {"session": welcome["session"], "token": welcome["token"]}
        return self.hello(**{"attempt": 2, **session, **fields})

    # -- in -----------------------------------------------------------------------------------------------------------

    def next(self) -> dict[str, Any] | list[Message]:
        """
        Read one frame, answer it if it is a ping.

        Raises:
            Closed: The node closed.
        """
        try:
            opcode, frame = self.socket.recv_data_frame(True)
        except websocket.WebSocketTimeoutException:
            raise AssertionError("what was waited for did not come in time") from None
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            raise Closed(1006, "") from None
        data = bytes(frame.data)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            raise Closed(int.from_bytes(data[:2], "big") if data else 1005, data[2:].decode())
        if opcode not in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
            return {"type": {websocket.ABNF.OPCODE_PONG: "PONG", websocket.ABNF.OPCODE_PING: "PING"}[opcode]}
        is_text = opcode == websocket.ABNF.OPCODE_TEXT
        return self._heard(parse_control(data.decode())) if is_text and data[:1] == b"{" else self._got(data, is_text)

    def _frames(self) -> Iterator[dict[str, Any] | list[Message]]:
        """Read frame after frame, until the time is over."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            yield self.next()
        raise AssertionError("other things came, what was waited for did not come in time")

    def wait(self, kind: str) -> dict[str, Any]:
        """Read until a frame of this type, and return it; messages that come before it are kept."""
        return next(frame for frame in self._frames() if isinstance(frame, dict) and frame["type"] == kind)

    def take(self, count: int) -> list[str | bytes]:
        """Return the payloads of the next so many messages."""
        if len(self.messages) < count:
            next(None for _ in self._frames() if len(self.messages) >= count)
        taken, self.messages = self.messages[:count], self.messages[count:]
        return [message.data for message in taken]

    def wait_ack(self, stream: str, seq: int) -> None:
        """Read until everything up to this seq is committed."""
        for frame in self._frames():
            marks = frame.get("committed", ()) if isinstance(frame, dict) else ()
            if any(mark[1] == stream and mark[2] >= seq for mark in marks):
                return

    def wait_closed(self) -> Closed:
        """Read until the node closes."""
        try:
            for _ in self._frames():
                pass
        except Closed as closed:
            return closed
        raise AssertionError("unreachable: the frames end by an error")

    def round_trip(self) -> dict[str, Any]:
        """Ping, and return the pong: everything that the node wrote before it has been read then."""
        echo = random_id()[:8]
        self.frame("ping", echo=echo)
        return next(f for f in self._frames() if isinstance(f, dict) and f["type"] == "pong" and f["echo"] == echo)

    def close(self) -> None:
        """End the connection without a word."""
        self.socket.shutdown()

    # -- what the rules say of it -------------------------------------------------------------------------------------

    def _heard(self, frame: dict[str, Any]) -> dict[str, Any]:
        if frame["type"] == "ping" and self.answers_pings:
            self.frame("pong", echo=frame["echo"])
        elif frame["type"] == "subscribed":
            self._follow(frame)
        elif frame["type"] == "gap":
            assert frame["stream"] in self.followed, f"a gap of a stream that is not followed: {frame}"
            followed = self.followed[frame["stream"]]
            if frame["id"] == followed.id:
                assert frame["epoch"] != followed.epoch or frame["from"] <= followed.position + 1, f"a hole: {frame}"
                followed.position, followed.epoch = frame["next"] - 1, frame["epoch"]
        elif frame["type"] == "reject":
            lane = frame["producer"], frame["stream"]
            assert frame["seq"] > self.committed.get(lane, 0), f"an ack overtook a reject (rule 2): {frame}"
            self.rejected.append((frame["stream"], frame["seq"], frame["code"]))
        for producer, stream, seq in frame.get("committed", ()) if frame["type"] != "welcome" else ():
            assert seq <= self.written.get((producer, stream), 0), f"an ack of what was never written: {frame}"
            self.committed[producer, stream] = max(seq, self.committed.get((producer, stream), 0))
        return frame

    def _follow(self, answer: Mapping[str, Any]) -> None:
        if "error" not in answer:
            self.followed[answer["stream"]] = Followed(answer)

    def _got(self, raw: bytes, is_text: bool) -> list[Message]:
        skip, messages = parse_data(raw, is_text)
        fresh = []
        for message in messages:
            followed = self.followed.get(message.stream)
            assert followed is not None, f"data of {message.stream} without a subscription"
            self.used["messages"] += 1
            self.used["bytes"] += len(message.data.encode() if isinstance(message.data, str) else message.data)
            if message.offset <= followed.position:
                assert message.offset <= followed.repeated, f"{message} came twice (rule 7)"
                continue
            before = message.offset - 1 if skip is None or message is not messages[0] else skip
            assert before <= followed.position, f"{message} follows {followed.position}: a hole (rule 7)"
            followed.position = message.offset
            fresh.append(message)
        assert all(self.used[key] <= self.granted[key] for key in self.used), "more than the credit allows (rule 9)"
        self.messages += fresh
        return fresh


@contextmanager
def plain(url: str, headers: Mapping[str, str] | None = None) -> Iterator[PlainPeer]:
    """Give a connection, and end it."""
    peer = PlainPeer(url, headers)
    try:
        yield peer
    finally:
        peer.close()
