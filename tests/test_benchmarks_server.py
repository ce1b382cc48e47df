"""What the benchmarks' server says is what the protocols say: frames, positions, credit; and it reads what is split."""

from __future__ import annotations

import json

import attrs
import pytest
import websocket

from benchmarks.feeds import Batch, Envelope, Plain, Session, noise
from benchmarks.foreign import Azure, SocketIO
from benchmarks.framing import BINARY, COMPRESSED, TEXT, cut, frame, inflated, numbered
from benchmarks.serving import Connection, upgrade
from resilient_ws import frames
from resilient_ws.deflating import Agreement, Deflater, Inflater, Offer
from resilient_ws.dialects.native import Native
from resilient_ws.framing import Decoder


def read(data: bytes, agreement: Agreement | None = None) -> list[str | bytes]:
    """Take a server's bytes apart with the client's own decoder."""
    decoder = Decoder(1 << 30, None if agreement is None else Inflater(agreement))
    messages = decoder.feed(data)
    assert decoder.failure is None
    assert not decoder.has_partial
    return messages


def hello(messages: int, size: int) -> bytes:
    """Write a hello with so much credit."""
    said = frames.Hello(
        instance="1" * 32,
        attempt=1,
        producers=("2" * 32,),
        credit=frames.Credit(messages, size),
        max_message=1 << 20,
        streams=(frames.HelloStream(stream="s", id=1, start="now"),),
    )
    (written,) = Native().client().encode([said])
    assert isinstance(written, str)
    return written.encode()


def said(feed: Plain) -> list[str | bytes]:
    """Take everything that a session's feed has to say now."""
    wire, feed.said = b"".join(feed.said), []
    while (more := feed.more(feed.wanted))[0]:
        wire += more[1]
    return read(wire)


def taken(feed: Plain) -> list[frames.Item]:
    """Take everything that a session's feed has to say now, as the client would."""
    return Native().client().decode(said(feed))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_those_of_the_protocol(size: int) -> None:
    """Each way to write a length is read back, text and binary."""
    assert read(frame("x" * size) + frame(b"y" * size)) == ["x" * size, b"y" * size]


ALONE = Agreement(client_no_context_takeover=True, server_no_context_takeover=True)


@pytest.mark.parametrize("kind", [Plain, Session])
def test_compressed_messages_are_those_of_the_protocol(kind: type[Plain]) -> None:
    """Each stands alone, is smaller than it was, and of a session has its number."""
    feed = kind(1000, is_text=True, is_echo=False, is_deflated=True)
    feed.hear(TEXT, len(hello(10, 20_000)), hello(10, 20_000))
    for seq in (1, 2):
        feed.hear(TEXT, 8, b"flood 5" if kind is Plain else b"o:%d:flood 5" % seq)
    count, wire = feed.more(10)
    messages = read(wire, ALONE)
    start = "" if kind is Plain else "s:10:"
    assert (count, len(messages), messages[-1]) == (10, 10, start + feed.payload.decode())
    assert len(wire) < 7500


def test_a_compressed_request_is_read() -> None:
    """Of what a client compresses the server takes the beginning, as it does of everything else."""
    deflater = Deflater(ALONE)
    for text in (b"flood 10" + b" " * 100, noise(500_000)):
        body = deflater.deflate(text)
        assert body is not None
        masked = websocket.ABNF.create_frame(body, 2).format()
        ((opcode, _, start),), _ = cut(bytes((masked[0] | COMPRESSED,)) + masked[1:])
        assert (opcode, inflated(start)[:8]) == (BINARY | COMPRESSED, text[:8])


def test_numbered_frames_grow_with_their_numbers() -> None:
    """Where a number gets a digit more, and where the length of a frame gets another form, the frames are right."""
    for rest in (b":", b":" + b"x" * 121):
        messages = read(b"".join(numbered(b"s:", 8, 995, rest, BINARY)))
        assert messages == [b"s:%d%b" % (number, rest) for number in range(8, 1003)]


def test_client_frames_are_read_however_they_are_split() -> None:
    """What a client masks is read, whole frames first, up to the limit; the rest is left for later."""
    payloads = [b"", b"short", b"m" * 126, b"l" * 70_000]
    data = b"".join(websocket.ABNF.create_frame(payload, BINARY).format() for payload in payloads)
    found, done = cut(data, 1 << 30)
    assert found == [(BINARY, len(payload), payload) for payload in payloads]
    assert done == len(data)
    assert [start for _, _, start in cut(data, 3)[0]] == [b"", b"sho", b"mmm", b"lll"]
    for split in [*range(200), len(data) - 1]:
        some, done = cut(data[:split], 1 << 30)
        rest, _ = cut(data[done:], 1 << 30)
        assert some + rest == found


@pytest.mark.parametrize("kind", [Session, Batch])
@pytest.mark.parametrize("is_text", [True, False])
def test_a_session_gets_every_message_and_no_more_than_its_credit(kind: type[Session], is_text: bool) -> None:
    """After a hello messages come in order, whole, until the credit is used up; more credit lets more come."""
    feed = kind(10, is_text=is_text, is_echo=False)
    feed.hear(TEXT, 400, hello(150, 1520))
    assert feed.obey(b"flood 1000")
    wire = said(feed)
    welcome, batch = Native().client().decode(wire)
    assert isinstance(welcome, frames.Welcome)
    assert welcome.streams[0].id == 1
    payload = "x" * 10 if is_text else b"x" * 10
    assert batch == frames.Batch("s", 1, [payload] * 150)
    assert len(wire) == 1 + (3 if kind is Batch else 150), "64, 64 and 22 messages, or single frames"
    feed.hear(TEXT, 60, b'{"type":"credit","messages":1000,"bytes":1525}')
    (last,) = taken(feed)
    assert last == frames.Batch("s", 151, [payload] * 2), "bytes are the tighter bound now"


def test_a_session_is_acked_up_to_the_last_message() -> None:
    """One read, however its messages are framed, gets one ack for all; a small one may be a request."""
    feed = Session(10, is_text=True, is_echo=False)
    feed.hear(TEXT, 400, hello(5, 1000))
    feed.said.clear()
    for message in (b"out:1:" + b"x" * 100, b"out:2*3;text:100,100,100:" + b"x" * 300, b"out:5:flood 2"):
        feed.hear(TEXT if message[4:6] == b"1:" else BINARY, len(message), message)
    feed.heard_all()
    ack, batch = taken(feed)
    assert ack == frames.Ack(committed=(frames.SeqMark(0, "out", 5),))
    assert batch == frames.Batch("s", 1, ["x" * 10] * 2)


def test_an_echo_comes_behind_its_ack() -> None:
    """What a session sends to an echo comes back as a message of its stream, acked before."""
    feed = Session(10, is_text=True, is_echo=True)
    feed.hear(TEXT, 12, b"out:1:grue\xc3\x9fe")
    feed.hear(BINARY, 12, b"out:2:\x00\xff")
    feed.heard_all()
    ack, *batches = taken(feed)
    assert ack == frames.Ack(committed=(frames.SeqMark(0, "out", 2),))
    assert [payload for b in batches for payload in b.payloads] == ["grueße", b"\x00\xff"]  # type: ignore[union-attr]


def test_envelopes_rise_and_what_comes_in_one_is_acked() -> None:
    """Each envelope has the next offset; one from the client gets its number back, an ack of it nothing."""
    feed = Envelope(5, is_text=True, is_echo=False)
    assert feed.obey(b"flood 12")
    count, data = feed.more(100)
    assert count == 12
    assert [json.loads(message) for message in read(data)] == [
        {"stream": "s", "offset": offset, "data": "xxxxx"} for offset in range(1, 13)
    ]
    feed.hear(TEXT, 40, b'{"ack":12}')
    feed.hear(TEXT, 40, b'{"stream":"s","offset":70,"data":"y"}')
    assert [json.loads(message) for message in read(b"".join(feed.said))] == [{"ack": 70}]


def test_other_protocols_are_spoken() -> None:
    """Socket.IO's events and Azure's sequence are as their clients expect them."""
    socketio = SocketIO(3, is_text=True, is_echo=False)
    socketio.hear(TEXT, 4, b"40{}")
    socketio.hear(TEXT, 16, b'42["ask","flood 2"]')
    assert [str(message)[:2] for message in read(b"".join(socketio.said))] == ["0{", "40"]
    assert read(socketio.more(9)[1]) == ['42["m","xxx"]'] * 2
    azure = Azure(3, is_text=True, is_echo=True)
    azure.said.clear()
    azure.hear(TEXT, 90, b'{"type":"event","event":"m","dataType":"text","data":"hi","ackId":4}')
    azure.hear(TEXT, 90, b'{"type":"event","event":"ask","dataType":"text","data":"flood 2"}')
    azure.hear(TEXT, 90, b'{"type":"sequenceAck","sequenceId":1}')
    ack, echo, *more = [json.loads(message) for message in read(b"".join(azure.said) + azure.more(9)[1])]
    assert ack == {"type": "ack", "ackId": 4, "success": True}
    assert [(m["sequenceId"], m["data"]) for m in (echo, *more)] == [(1, "hi"), (2, "xxx"), (3, "xxx")]


def test_pacing_keeps_the_rate_and_forgets_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is due every 0.4 ms; who was late sends what is due, and a pause is not made up for."""
    now = [100.0]
    monkeypatch.setattr("benchmarks.serving.time.perf_counter", lambda: now[0])
    feed = Plain(10, is_text=True, is_echo=False)
    connection = Connection(None, feed)  # type: ignore[arg-type]
    feed.obey(b"pace 1000")
    sent = []
    for later in (0.0, 0.0001, 0.0004, 0.002, 5.0):
        now[0] += later
        connection.fill()
        sent.append(len(read(bytes(connection.out))))
    assert sent == [1, 0, 1, 5, 1]


@attrs.define
class Request:
    """A socket that has a request, in two pieces, and keeps what is answered."""

    pieces: list[bytes]
    answer: bytes = b""

    def recv(self, size: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def sendall(self, data: bytes) -> None:
        self.answer += data


def test_the_path_says_what_is_served() -> None:
    """Feed, size, kind and echo are those of the URL; a client that leaves in between is an error."""
    head = b"GET /batch/echo?size=7&text=0 HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    request = Request([head, b"\r\n"])
    feed = upgrade(request)  # type: ignore[arg-type]
    assert type(feed) is Batch
    assert (feed.payload, feed.opcode, feed.is_echo) == (b"x" * 7, BINARY, True)
    assert (
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: resilient.v1" in request.answer
    )
    squeezed = head.replace(b"text=0", b"text=1&deflate=1")
    extension = f"Sec-WebSocket-Extensions: {Offer().header}\r\n".encode()
    request = Request([squeezed, extension, b"\r\n"])
    assert upgrade(request).is_deflated  # type: ignore[arg-type]
    assert b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover" in request.answer
    with pytest.raises(ConnectionError, match="does not compress"):
        upgrade(Request([squeezed, b"\r\n"]))  # type: ignore[arg-type]
    with pytest.raises(ConnectionError, match="left"):
        upgrade(Request([head]))  # type: ignore[arg-type]
