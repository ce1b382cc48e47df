"""The transport with permessage-deflate: what is offered, what goes out compressed and what never does."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from resilient_ws import transport as transport_module
from resilient_ws.config import Wire
from resilient_ws.deflating import Agreement, Offer
from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import HandshakeRejected
from resilient_ws.transport import DialOptions, dial
from server_fixture.rude import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Behaviour,
    Caller,
    RudeServer,
    accept_upgrade,
    echo,
    frame,
)
from tests.transport_tools import PATIENCE, collect, dialled, ending

NAME = "permessage-deflate"
RSV1 = 0x40
TAIL = b"\x00\x00\xff\xff"
LONG = "a message that is long enough to be compressed, and then some more of it"
ANEW = f"{NAME}; client_no_context_takeover; server_no_context_takeover"


def agreeing(act: Callable[[Caller], object], answer: str = NAME) -> Behaviour:
    """Make a behaviour that agrees to compression and goes on with ``act``."""

    def behave(caller: Caller) -> None:
        accept_upgrade(caller, headers=[("Sec-WebSocket-Extensions", answer)])
        act(caller)

    return behave


class Recorded:
    """
    A behaviour that agrees to compression, and keeps what comes until the client closes.

    Attributes:
        frames: First byte and payload of each frame, as they are on the wire.
    """

    def __init__(self, answer: str = NAME) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self._answer = answer

    def __call__(self, caller: Caller) -> None:
        """Behave."""
        agreeing(self._keep, self._answer)(caller)

    def _keep(self, caller: Caller) -> None:
        while True:
            first, payload = caller.read_whole_frame()
            self.frames.append((first, payload))
            if first & 0x0F == CLOSE:
                caller.send(frame(CLOSE, payload))
                return

    def messages(self) -> list[str | bytes]:
        """Inflate what came, with one context for all."""
        stream = zlib.decompressobj(-15)
        found: list[str | bytes] = []
        for first, payload in self.frames:
            data = stream.decompress(payload + TAIL) if first & RSV1 else payload
            if first & 0x0F in (TEXT, BINARY):
                found.append(data.decode() if first & 0x0F == TEXT else data)
        return found


def sent_to(recorded: Recorded, act: Callable[[Any], object], **options: Any) -> None:
    """Dial, act, close, and wait until the server has all."""
    with RudeServer(recorded) as server:
        with dialled(server.url, **{"compression": Offer(), **options}) as transport:
            act(transport)
            transport.close()
            ending(transport)
        assert server.errors == []


def deflated(*messages: bytes, window: int = 15) -> list[bytes]:
    """Compress as a server does, with one context."""
    stream = zlib.compressobj(wbits=-window)
    return [(stream.compress(message) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4] for message in messages]


# -- the upgrade ------------------------------------------------------------------------------------------------------


def test_nothing_is_offered_unless_asked_for() -> None:
    """By default there is no offer, and the setting of a Client is off."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        assert transport.compression is None
        assert server.requests[0].get("sec-websocket-extensions") is None
    assert Wire().compression is None
    with pytest.raises(ValueError, match=r"Wire\(compression='gzip'\): must be one of None, 'deflate'"):
        Wire(compression="gzip")  # type: ignore[arg-type]


def test_offer_that_is_declined() -> None:
    """A server that does not compress gets messages as they are."""
    with RudeServer(echo) as server, dialled(server.url, compression=Offer()) as transport:
        assert server.requests[0].get("sec-websocket-extensions") == f"{NAME}; client_max_window_bits"
        assert transport.compression is None
        transport.write([LONG])
        assert collect(transport, 1) == [LONG]


def test_agreement_is_kept() -> None:
    """What the server answered is what the connection says of itself."""
    answer = f"{ANEW}; client_max_window_bits=9; server_max_window_bits=10"
    with RudeServer(agreeing(Caller.wait_gone, answer)) as server:
        with dialled(server.url, compression=Offer()) as transport:
            assert transport.compression == Agreement(
                client_no_context_takeover=True,
                server_no_context_takeover=True,
                client_max_window_bits=9,
                server_max_window_bits=10,
            )


@pytest.mark.parametrize(
    ("offer", "answers", "why"),
    [
        (None, [NAME], "names an extension that was not offered"),
        (Offer(), ["x-webkit-deflate-frame"], "names an extension that was not offered"),
        (Offer(), [NAME, NAME], "names an extension that was not offered"),
        (Offer(), [f"{NAME}; canary"], "has a parameter that permessage-deflate does not know"),
        (Offer(), [f"{NAME}; server_max_window_bits=16"], "gives server_max_window_bits no number from 8 to 15"),
        (Offer(client_max_window_bits=None), [f"{NAME}; client_max_window_bits=9"], "which was not offered"),
        (Offer(server_no_context_takeover=True), [NAME], "without server_no_context_takeover"),
    ],
)
def test_bad_answer_is_rejected(offer: Offer | None, answers: list[str], why: str) -> None:
    """An answer that breaks the RFC ends the dial, says what is wrong, and is not worth another try."""
    headers = [("Sec-WebSocket-Extensions", answer) for answer in answers]
    with RudeServer(lambda caller: accept_upgrade(caller, headers=headers)) as server:
        with pytest.raises(HandshakeRejected, match=f"the server's 101 .*{why}") as caught:
            dial(server.url, DialOptions(compression=offer, connect_timeout=PATIENCE))
    assert (caught.value.status, caught.value.retryable) == (101, False)
    assert "canary" not in str(caught.value)


# -- out --------------------------------------------------------------------------------------------------------------


def test_only_what_may_be_is_compressed() -> None:
    """Long messages of data are compressed; short ones, and control frames of both protocols, are not."""
    control = '{"type": "hello", "token": "%s"}' % ("t" * 200)
    recorded = Recorded()

    def act(transport: Any) -> None:
        transport.write(["s:1:" + LONG, control, "s:2:short", b"s:3:" + LONG.encode(), "s:4:" + LONG])
        transport.ping(b"p" * 100)

    sent_to(recorded, act, is_compressible=Native().is_compressible)
    kinds = [first for first, _ in recorded.frames]
    assert sorted(kinds[:-1]) == sorted(
        [0x80 | RSV1 | TEXT, 0x80 | TEXT, 0x80 | TEXT, 0x80 | RSV1 | BINARY, 0x80 | RSV1 | TEXT, 0x80 | PING]
    )
    assert (0x80 | TEXT, control.encode()) in recorded.frames
    assert (0x80 | PING, b"p" * 100) in recorded.frames
    assert kinds[-1] == 0x80 | CLOSE
    expected = ["s:1:" + LONG, control, "s:2:short", b"s:3:" + LONG.encode(), "s:4:" + LONG]
    assert recorded.messages() == expected
    assert len(recorded.frames[-3][1]) < len(LONG) / 3  # the context is one


def test_everything_is_compressed_where_nobody_objects() -> None:
    """The check above fails for a dialect that keeps nothing out: its control frame is compressed."""
    recorded = Recorded()
    sent_to(recorded, lambda transport: transport.write(['{"type": "hello", "token": "%s"}' % ("t" * 200)]))
    assert recorded.frames[0][0] == 0x80 | RSV1 | TEXT


def test_each_message_begins_anew_where_that_was_agreed() -> None:
    """With client_no_context_takeover each message can be read alone."""
    recorded = Recorded(ANEW)
    sent_to(recorded, lambda transport: transport.write([LONG] * 3))
    assert [zlib.decompress(payload + TAIL + b"\x03\x00", -15) for _, payload in recorded.frames[:3]] == [
        LONG.encode()
    ] * 3


def test_threads_that_write_share_one_context_in_wire_order() -> None:
    """Two threads write compressed messages; each of them arrives whole."""
    recorded = Recorded()
    texts = {who: [f"{who} {number} {LONG}" for number in range(300)] for who in "ab"}

    def act(transport: Any) -> None:
        threads = [
            threading.Thread(target=lambda who=who: [transport.write([text]) for text in texts[who]]) for who in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

    sent_to(recorded, act)
    messages = recorded.messages()
    assert len(messages) == 600
    assert {who: [text for text in messages if str(text).startswith(who)] for who in "ab"} == texts


@pytest.mark.parametrize("failing", ["message", "dialect", "frame"])
def test_write_that_fails_leaves_the_context_whole(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a message of several cannot be written none is, and later ones do not refer to it."""
    recorded = Recorded()
    secret = "never sent " * 20

    def allowed(message: str | bytes) -> bool:
        if failing == "dialect" and message == "bad":
            raise ZeroDivisionError
        return True

    def no_memory(*_: Any) -> bytes:
        raise MemoryError

    def act(transport: Any) -> None:
        transport.write([LONG])
        with monkeypatch.context() as patched:
            if failing == "frame":
                patched.setattr(transport_module, "framed", no_memory)
            with pytest.raises((UnicodeEncodeError, ZeroDivisionError, MemoryError)):
                transport.write([secret, "\ud800" if failing == "message" else "bad"])
        transport.write([secret + LONG, LONG])

    sent_to(recorded, act, is_compressible=allowed)
    assert recorded.messages() == [LONG, secret + LONG, LONG]


# -- in ---------------------------------------------------------------------------------------------------------------


def received(wire: Iterable[bytes], count: int, answer: str = NAME, **options: Any) -> list[str | bytes]:
    """Receive so many messages of a server that sends this."""
    with RudeServer(agreeing(lambda caller: (caller.send(*wire), caller.wait_gone()), answer)) as server:
        with dialled(server.url, **{"compression": Offer(), **options}) as transport:
            return collect(transport, count)


def test_compressed_and_plain_messages_are_taken() -> None:
    """Compressed messages, whole and in fragments with a ping between them, come out beside uncompressed ones."""
    one, two, three = deflated(LONG.encode(), b"binary " * 20, "\u20ac uro".encode() * 9)
    wire = [
        frame(TEXT, one, rsv=4),
        frame(TEXT, b'{"type":"ping"}'),
        frame(BINARY, two[:3], fin=False, rsv=4) + frame(PING, b"p") + frame(CONTINUATION, two[3:]),
        frame(TEXT, three[:1], fin=False, rsv=4) + frame(CONTINUATION, three[1:5], fin=False),
        frame(CONTINUATION, three[5:]) + frame(BINARY, b"plain"),
    ]
    assert received(wire, 5) == [LONG, '{"type":"ping"}', b"binary " * 20, "\u20ac uro" * 9, b"plain"]


def test_message_that_cannot_be_compressed_may_be_as_large_as_any() -> None:
    """A message of the largest size that got larger by being compressed is taken, in one frame and in fragments."""
    message = zlib.compress(bytes(range(256)) * 4096, 9)[:5000].ljust(5000, b"\x01")
    stream = zlib.compressobj(0, wbits=-15)
    payload = (stream.compress(message) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(payload) > len(message)
    wire = (
        frame(BINARY, payload, rsv=4),
        frame(BINARY, payload[:5000], fin=False, rsv=4) + frame(CONTINUATION, payload[5000:]),
    )
    assert received(wire, 2, max_message=5000) == [message, message]


@pytest.mark.parametrize(
    ("wire", "code", "said"),
    [
        pytest.param(frame(PING, b"x", rsv=4), 1002, "reserved bit", id="F2-ping"),
        pytest.param(frame(CLOSE, b"\x03\xe8", rsv=4), 1002, "reserved bit", id="F2-close"),
        pytest.param(frame(TEXT, b"x", rsv=6), 1002, "reserved bit", id="F2-rsv2"),
        pytest.param(frame(TEXT, b"x", rsv=1), 1002, "reserved bit", id="F2-rsv3"),
        pytest.param(
            frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", rsv=4), 1002, "reserved bit", id="F2-continuation"
        ),
        pytest.param(frame(TEXT, b"\xff\xff", rsv=4), 1002, "no deflate stream", id="F18-garbage"),
        pytest.param(frame(TEXT, deflated(b"\xff" * 99)[0], rsv=4), 1007, "not UTF-8", id="F11-inflated"),
        pytest.param(frame(TEXT, deflated("\u20ac".encode()[:-1])[0], rsv=4), 1007, "not UTF-8", id="F12-inflated"),
        pytest.param(frame(BINARY, deflated(bytes(70_000))[0], rsv=4), 1009, "when inflated", id="F18-bomb"),
        pytest.param(frame(BINARY, length=80_000), 1009, "at most 65536", id="F6-plain"),
        pytest.param(frame(BINARY, length=80_000, rsv=4), 1009, "at most 73792", id="F6-compressed"),
        pytest.param(
            frame(BINARY, bytes(70_000), fin=False, rsv=4) + frame(CONTINUATION, length=9_999),
            1009,
            "fragments of more than 73792",
            id="F9-compressed",
        ),
    ],
)
def test_F_broken_rule_is_answered_with_compression_too(wire: bytes, code: int, said: str) -> None:
    """The message before arrives, the close frame has the right code, and the error names the rule."""
    before = frame(TEXT, deflated(b"before")[0], rsv=4)
    closes: list[tuple[int, bytes]] = []

    def act(caller: Caller) -> None:
        caller.send(before, wire)
        closes.append(caller.read_frame())

    with RudeServer(agreeing(act, ANEW)) as server:
        with dialled(server.url, compression=Offer(), max_message=1 << 16) as transport:
            messages, lost = ending(transport)
    assert (messages, lost.code) == (["before"], code)
    assert said in str(lost)
    assert [(opcode, int.from_bytes(payload[:2], "big")) for opcode, payload in closes] == [(CLOSE, code)]


def test_pong_is_not_compressed() -> None:
    """The answer to a ping has no reserved bit, however long it is."""
    found: list[tuple[int, bytes]] = []

    def act(caller: Caller) -> None:
        caller.send(frame(PING, b"p" * 125), frame(TEXT, b"go"))
        found.append(caller.read_whole_frame())

    with RudeServer(agreeing(act)) as server, dialled(server.url, compression=Offer()) as transport:
        assert collect(transport, 1) == ["go"]
        ending(transport)
    assert found == [(0x80 | PONG, b"p" * 125)]
