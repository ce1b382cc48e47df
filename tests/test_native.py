"""Tests of resilient_ws.dialects.native, with its table (native_control) and the table's parts (fields)."""

from __future__ import annotations

import json
import string
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilient_ws import frames as f
from resilient_ws.dialects import Codec, Item, Wire, native, native_control
from resilient_ws.dialects.fields import Bad
from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import LocalProtocolError, RemoteProtocolError
from resilient_ws.frames import MAX_NUMBER, Batch

A32, B32 = "a" * 32, "b" * 32
HELLO: dict[str, Any] = {
    "type": "hello",
    "version": 1,
    "instance": A32,
    "attempt": 1,
    "producers": [B32],
    "credit": {"messages": 4, "bytes": 100},
    "max_message": 1024,
}
WELCOME: dict[str, Any] = {
    "type": "welcome",
    "version": 1,
    "session": "0f" + "1" * 30,
    "token": "v1.s.1.ff",
    "generation": 1,
    "verdict": "new",
    "ttl": 60,
    "node": "n1",
    "incarnation": "i1",
    "producer_ttl": 604800,
    "max_message": 1024,
}


def client() -> Codec:
    return Native().client()


def server() -> Codec:
    return Native().server()


def refused(codec: Codec, wire: Wire) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode([wire])
    return caught.value


def control(**members: Any) -> str:
    return json.dumps(members, separators=(",", ":"))


def test_the_dialect_names_itself_and_promises_everything() -> None:
    """The native dialect is resilient.v1 with positions, acks, credit and resume."""
    dialect = Native()
    assert (dialect.name, dialect.subprotocol) == ("native", "resilient.v1")
    able = dialect.capabilities
    assert able.positions
    assert able.acks
    assert able.credit
    assert able.resume


# -- data, decoded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "batch"),
    [
        ("t:1:hello", Batch("t", 1, ["hello"])),
        (b"t:1:hello", Batch("t", 1, [b"hello"])),
        ("t:1:", Batch("t", 1, [""])),
        (b"t:1:", Batch("t", 1, [b""])),
        ("t:1::a:b", Batch("t", 1, [":a:b"])),
        ("t:1:{}", Batch("t", 1, ["{}"])),
        ("t:1:\u00fc\n", Batch("t", 1, ["\u00fc\n"])),
        ("~:7:x", Batch("~", 7, ["x"])),
        ("a~b/c.d-e_f:7:x", Batch("a~b/c.d-e_f", 7, ["x"])),
        ("n" * 128 + ":1:x", Batch("n" * 128, 1, ["x"])),
        (f"t:{MAX_NUMBER}:x", Batch("t", MAX_NUMBER, ["x"])),
        ("t:1;later=1.x~-;flag:x", Batch("t", 1, ["x"])),
        (b"t:1;text:\xc3\xbc", Batch("t", 1, ["\u00fc"])),
        ("t:1;text:x", Batch("t", 1, ["x"])),
        (b"t:3*2:1,0:a", Batch("t", 3, [b"a", b""])),
        (b"t:3*1:0:", Batch("t", 3, [b""])),
        (b"t:3*2;text:2,1:\xc3\xbcb", Batch("t", 3, ["\u00fc", "b"])),
        (b"t:3*2;x=1;text;y:1,1:ab", Batch("t", 3, ["a", "b"])),
        (b"t:%d*2:1,1:ab" % (MAX_NUMBER - 1), Batch("t", MAX_NUMBER - 1, [b"a", b"b"])),
        (b"t:1*1024:" + b",".join([b"0"] * 1024) + b":", Batch("t", 1, [b""] * 1024)),
    ],
)
def test_data_that_either_side_may_send(wire: Wire, batch: Batch) -> None:
    """Every form of a data frame reads the same in both roles."""
    assert client().decode([wire]) == [batch]
    assert server().decode([wire]) == [batch]


@pytest.mark.parametrize(
    "wire",
    [
        "",
        b"",
        ":",
        "t",
        "t:",
        "t:1",
        ":1:x",
        "t:0:x",
        "t:01:x",
        "t:+1:x",
        "t:-1:x",
        "t: 1:x",
        "t:1 :x",
        "t:1_0:x",
        "t:\u0661:x",
        "t:1.0:x",
        "t:1e3:x",
        "t:x:x",
        f"t:{MAX_NUMBER + 1}:x",
        "t:99999999999999999:x",
        "-t:1:x",
        ".t:1:x",
        "/t:1:x",
        "t t:1:x",
        "t\n:1:x",
        "\u00fc:1:x",
        b"\xfc:1:x",
        b"t:\xfc:x",
        "n" * 129 + ":1:x",
        "t:1;" + "a" * 300 + ":x",
        "t:1;:x",
        "t:1;A:x",
        "t:1;a=\u00fc:x",
        "t:1;a=1;a=2:x",
        "t:1;text=1:x",
        b"t:1;text:\xff",
        "[1,2]",
        b'{"type":"ready","generation":1}',
        # batches
        "t:1*1:1:a",
        b"t:1*0::",
        b"t:1*01:1:a",
        b"t:1*2:1:a",
        b"t:1*1:1,1:ab",
        b"t:1*2:1,1:a",
        b"t:1*2:1,1:abc",
        b"t:1*2:1,-1:a",
        b"t:1*2:01,1:ab",
        b"t:1*2:1,:a",
        b"t:1*2:,1:a",
        b"t:1*2::ab",
        b"t:1*2:1,1",
        b"t:1*2",
        b"t:1*2:",
        b"t:1*1:99999999999:a",
        b"t:1*2;text:1,1:\xc3\xbc",
        b"t:1*1025:" + b",".join([b"0"] * 1025) + b":",
        b"t:1*9999:0:",
        b"t:%d*2:1,1:ab" % MAX_NUMBER,
        b"t:2-1*1:1:a",
    ],
)
def test_data_that_neither_side_may_send(wire: Wire) -> None:
    """A data frame that breaks the grammar is a protocol error, 4400, with a hint, in both roles."""
    for codec in (client(), server()):
        error = refused(codec, wire)
        assert error.code == 4400
        assert error.hint


def test_only_a_server_sends_prev() -> None:
    """The offset before a message must be below it, and comes from a server only."""
    assert client().decode(["t:5-3:x"]) == [Batch("t", 5, ["x"], prev=3)]
    assert client().decode(["t:5-0;x:y"]) == [Batch("t", 5, ["y"], prev=0)]
    for wire in ("t:5-5:x", "t:5-6:x", "t:5-03:x", "t:5-:x"):
        refused(client(), wire)
    refused(server(), "t:5-3:x")


def test_only_a_client_names_a_producer() -> None:
    """Attribute p is an index into the hello's producers; from a server it is an unknown attribute like any other."""
    assert server().decode(["t:5;p=3:x"]) == [Batch("t", 5, ["x"], producer=3)]
    assert server().decode([b"t:5*2;p=1023:1,1:ab"]) == [Batch("t", 5, [b"a", b"b"], producer=1023)]
    assert client().decode(["t:5;p=zz:x"]) == [Batch("t", 5, ["x"])]
    for value in (";p", ";p=", ";p=01", ";p=-1", ";p=1024", ";p=99999", ";p=x"):
        refused(server(), f"t:5{value}:x")


def test_only_a_client_withdraws_a_message() -> None:
    """Attribute void is a code on an empty message; from a server it is an unknown attribute like any other."""
    assert server().decode([b"t:5;p=1;void=expired:"]) == [Batch("t", 5, [b""], producer=1, void="expired")]
    assert server().decode([b"t:5*2;void=x:0,0:"]) == [Batch("t", 5, [b"", b""], void="x")]
    twice = [b"t:5;void=x:", b"t:6;void=x:"]
    assert server().decode(twice) == [Batch("t", 5, [b""], void="x"), Batch("t", 6, [b""], void="x")]
    assert client().decode(["t:5;void=x:y"]) == [Batch("t", 5, ["y"])]
    for wire in ("t:5;void:", "t:5;void=:", "t:5;void=a~b:", "t:5;void=x:y", b"t:5*2;void=x:0,1:y"):
        refused(server(), wire)
    assert client().encode([Batch("t", 5, [b""], producer=1, void="x")]) == [b"t:5;p=1;void=x:"]


@pytest.mark.parametrize("count", [2, 64, 65, 66, 130])
@pytest.mark.parametrize("kind", [str, bytes])
def test_many_messages_are_decoded_as_one_by_one(count: int, kind: type) -> None:
    """Whatever stands where: another stream, another kind, a number twice, an empty payload, a control frame."""
    strays: list[Any] = ["u:1:x", b"t:7:x", "t:1:again", f"t:{count + 5}:", '{"type":"drain","within":1,"spread":0}']
    plain = [f"t:{n}:{'' if n % 5 == 0 else n}" for n in range(1, count + 1)]
    for place in (1, 2, count // 2, count):
        for stray in strays:
            wires = [wire if kind is str else wire.encode() for wire in plain]
            wires.insert(place, stray)
            codec = client()
            singly = [item for wire in wires for item in codec.decode([wire])]
            assert flat(client().decode(wires)) == flat(singly)


@pytest.mark.parametrize(
    ("wires", "batches"),
    [
        (["t:1:a", "t:2:b", b"t:3:c", "t:4:d"], [Batch("t", 1, ["a", "b", b"c", "d"])]),
        (["t:9:a", "t:10:b"], [Batch("t", 9, ["a", "b"])]),
        (["t:1:a", "t:3:b"], [Batch("t", 1, ["a"]), Batch("t", 3, ["b"])]),
        (["t:1:a", "t:1:b"], [Batch("t", 1, ["a"]), Batch("t", 1, ["b"])]),
        (["t:2:a", "t:1:b"], [Batch("t", 2, ["a"]), Batch("t", 1, ["b"])]),
        (["t:1:a", "u:2:b", "t:2:c"], [Batch("t", 1, ["a"]), Batch("u", 2, ["b"]), Batch("t", 2, ["c"])]),
        (["t:1;p=1:a", "t:2;p=1:b"], [Batch("t", 1, ["a", "b"], producer=1)]),
        (["t:1;p=1:a", "t:2:b"], [Batch("t", 1, ["a"], producer=1), Batch("t", 2, ["b"])]),
        (["t:1:a", "t:2;p=1:b"], [Batch("t", 1, ["a"]), Batch("t", 2, ["b"], producer=1)]),
        ([b"t:1;text:a", b"t:2;text:b"], [Batch("t", 1, ["a", "b"])]),
        ([b"t:1*2:1,1:ab", b"t:3:c", b"t:4*2;text:1,1:de"], [Batch("t", 1, [b"a", b"b", b"c", "d", "e"])]),
        ([b"t:1*2;p=1:1,1:ab", b"t:3:c"], [Batch("t", 1, [b"a", b"b"], producer=1), Batch("t", 3, [b"c"])]),
        ([b"t:1*2:1,1:ab", b"t:4*2:1,1:de"], [Batch("t", 1, [b"a", b"b"]), Batch("t", 4, [b"d", b"e"])]),
        (["t:1:a", "t:2;void=x:"], [Batch("t", 1, ["a"]), Batch("t", 2, [""], void="x")]),
        (["t:1;void=x:", "t:2:a"], [Batch("t", 1, [""], void="x"), Batch("t", 2, ["a"])]),
        ([f"t:{MAX_NUMBER}:a"], [Batch("t", MAX_NUMBER, ["a"])]),
    ],
)
def test_consecutive_messages_of_one_read_are_one_batch(wires: list[Wire], batches: list[Batch]) -> None:
    """Only messages that follow each other in one stream, by one producer, are joined."""
    assert server().decode(wires) == batches


@pytest.mark.parametrize(
    ("wire", "payloads"),
    [
        (b"t:1*3:2,2,2:abcdef", [b"ab", b"cd", b"ef"]),
        (b"t:1*3;text:2,2,2:abcdef", ["ab", "cd", "ef"]),
        ("t:1*2;text:2,2:\u00e9\u00e8".encode(), ["\u00e9", "\u00e8"]),
        (b"t:1*3:0,0,0:", [b"", b"", b""]),
        (b"t:1*3;text:0,0,0:", ["", "", ""]),
        (b"t:1*3;text:1,0,2:abc", ["a", "", "bc"]),
    ],
)
def test_batch_frames_of_any_lengths_are_cut_alike(wire: bytes, payloads: list[str | bytes]) -> None:
    """All of one length, which is cut at once, and others; text that is ASCII, and text that is not."""
    assert client().decode([wire]) == [Batch("t", 1, payloads)]


@pytest.mark.parametrize(
    "wire",
    [
        b"t:1*3:2,2,2:abcde", b"t:1*3:2,2,2:abcdefg", b"t:1*3:2,2:abcd", b"t:1*2:2,2,2:abcdef", b"t:1*2:02,02:abcd",
        b"t:1*2:+2,+2:abcd", b"t:1*2:,:", b"t:1*2;text:1,1:\xc3\xa9", b"t:1*2:2,2",
    ],
)  # fmt: skip
def test_batch_frames_whose_lengths_are_wrong_are_refused(wire: bytes) -> None:
    """Too short, too long, one too few or too many, not written as numbers are, through a character, or no end."""
    refused(client(), wire)


def test_a_message_after_a_skip_is_never_joined() -> None:
    """Where the log skipped numbers the message stands alone, and so does the one after it."""
    wires = ["t:1:a", "t:4-1:b", "t:5:c", "t:6:d"]
    assert client().decode(wires) == [Batch("t", 1, ["a"]), Batch("t", 4, ["b"], prev=1), Batch("t", 5, ["c", "d"])]


def test_a_control_frame_keeps_its_place_between_data() -> None:
    """Messages are not joined across a control frame."""
    items = server().decode(["t:1:a", control(type="ready", generation=1), "t:2:b"])
    assert items == [Batch("t", 1, ["a"]), f.Ready(generation=1), Batch("t", 2, ["b"])]


def test_the_largest_number_has_no_successor() -> None:
    """A message after number 2^53 - 1 is a protocol error even where it would continue a run."""
    codec = server()
    assert codec.decode([f"t:{MAX_NUMBER}:a", f"t:{MAX_NUMBER + 1}:b"]) == [Batch("t", MAX_NUMBER, ["a"])]
    assert codec.failure is not None


def test_what_stands_before_a_bad_message_is_not_lost() -> None:
    """The good items come back first; the failure is visible at once, and every later call raises it."""
    codec = server()
    assert codec.decode(["t:1:a", "t:2:b", "nonsense", "t:3:c"]) == [Batch("t", 1, ["a", "b"])]
    assert isinstance(codec.failure, RemoteProtocolError)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="neither a control frame nor"):
            codec.decode([])


def test_a_good_codec_has_no_failure() -> None:
    """A codec that has seen nothing bad says so (the negative control of the test above)."""
    codec = server()
    codec.decode(["t:1:a"])
    assert codec.failure is None


# -- data, encoded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "wires"),
    [
        (Batch("t", 1, ["a"]), ["t:1:a"]),
        (Batch("t", 1, [b"a"]), [b"t:1:a"]),
        (Batch("t", 1, []), []),
        (Batch("t", 1, ["\u00fc", "b"]), [b"t:1*2;text:2,1:\xc3\xbcb"]),
        (Batch("t", 1, [b"a", b""]), [b"t:1*2:1,0:a"]),
        (Batch("t", 1, ["a", b"b", b"c", "d", "e"]), ["t:1:a", b"t:2*2:1,1:bc", b"t:4*2;text:1,1:de"]),
        (Batch("t", 1, [b"x" * 40_000, b"y" * 40_000]), [b"t:1:" + b"x" * 40_000, b"t:2:" + b"y" * 40_000]),
        (
            Batch("t", 1, [b"a", b"x" * 70_000, b"b", b"c"]),
            [b"t:1:a", b"t:2:" + b"x" * 70_000, b"t:3*2:1,1:bc"],
        ),
    ],
)
def test_data_as_either_side_writes_it(batch: Batch, wires: list[Wire]) -> None:
    """One message has the short form, more share frames of one type, and frames stay below the bounds."""
    assert client().encode([batch]) == wires
    assert server().encode([batch]) == wires


def test_a_batch_frame_carries_at_most_64_messages() -> None:
    """A longer batch is split, and what is left over alone has the short form."""
    wires = client().encode([Batch("t", 1, ["a"] * 129)])
    assert [wire[:11] for wire in wires] == [b"t:1*64;text", b"t:65*64;tex", "t:129:a"]


def test_each_side_writes_its_own_attributes_only() -> None:
    """A client writes p, a server prev; the other way round is a local error, and so is a missing number."""
    assert client().encode([Batch("t", 1, ["a"], producer=2)]) == ["t:1;p=2:a"]
    assert client().encode([Batch("t", 1, ["a", "b"], producer=2)]) == [b"t:1*2;p=2;text:1,1:ab"]
    assert server().encode([Batch("t", 5, ["a"], prev=3)]) == ["t:5-3:a"]
    assert server().encode([Batch("t", 5, ["a", "b", "c"], prev=3)]) == ["t:5-3:a", b"t:6*2;text:1,1:bc"]
    for codec, batch in (
        (client(), Batch("t", 5, ["a"], prev=3)),
        (server(), Batch("t", 5, ["a"], producer=1)),
        (server(), Batch("t", 5, [""], void="x")),
        (client(), Batch("t", None, ["a"])),
    ):
        with pytest.raises(LocalProtocolError, match="needs 'first'"):
            codec.encode([batch])


def test_a_receiver_leaves_room_for_headers_and_control_frames() -> None:
    """The limit of a WebSocket message is above that of a payload, and never below that of a control frame."""
    assert native.wire_limit(100) == 4 << 20
    assert native.wire_limit(4 << 20) == (4 << 20) + 4096
    (wire,) = client().encode([Batch("n" * 128, MAX_NUMBER, [b"x" * (2 << 20)], producer=1023)])
    assert len(wire) <= native.wire_limit(2 << 20)


def test_no_frame_within_the_other_limits_is_too_long() -> None:
    """The fullest hello, welcome and pings are read whole; a quarter of the limit would not do."""
    number, opaque, names = MAX_NUMBER, "x" * 64, ["n" * 124 + f"{i:04}" for i in range(8192)]
    held = f.Held(opaque, number, 2**32 - 1)
    gap = {"epoch": opaque, "first": number, "last": number, "next": number, "reason": opaque}
    hello = f.Hello(
        instance="a" * 32, attempt=number, session=opaque, token="t" * 1024, credit=f.Credit(number, number),
        producers=tuple(f"{i:032x}" for i in range(1024)), max_message=number, features=(opaque,) * 64,
        streams=tuple(f.HelloStream(stream=n, id=number, held=held, acked=number) for n in names[:4096]),
        outbound=tuple(f.HelloOutbound(producer=1023, stream=n, first=number, next=number) for n in names),
    )  # fmt: skip
    welcome = f.Welcome(
        features=(opaque,) * 64, session=opaque, token="t" * 1024, generation=number, verdict="resumed", reason=opaque,
        ttl=1e9, node="n" * 255, incarnation=opaque, producer_ttl=1e9, max_message=number, peers=("u" * 2048,) * 64,
        committed=tuple(
            f.CommittedAnswer(
                producer=1023, stream=n, seq=number, known=False, rejected=((number, opaque),) if i % 2 else ()
            )
            for i, n in enumerate(names)
        ),
        streams=tuple(
            f.StreamAnswer(
                stream=n, id=number, epoch=opaque, first=number, crc=2**32 - 1, live=number,
                gap=f.GapFrame(stream=n, id=number, **gap),
            )
            for n in names[:4096]
        ),
    )  # fmt: skip
    acked = tuple(f.AckedMark(n, opaque, number) for n in names)
    seqs = tuple(f.SeqMark(1023, n, number) for n in names)
    offsets = tuple(f.OffsetMark(n, number, opaque, number) for n in names[:4096])
    ours = [hello, f.Ping(echo="x" * 128, acked=acked, sent_seqs=seqs, credit=hello.credit)]
    theirs = [welcome, f.Pong(echo="x" * 128, committed=seqs, sent_offsets=offsets, spread=1e9)]
    said = client().encode(ours) + server().encode(theirs)
    assert server().decode(said[:2]) == ours
    assert client().decode(said[2:]) == theirs
    assert 1 << 20 < max(map(len, said)) <= native.wire_limit(1)


# -- control frames: tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (f.Ready(generation=3), '{"type":"ready","generation":3}'),
        (f.Subscribe(stream="t", id=1, start="now"), '{"type":"subscribe","stream":"t","id":1,"start":"now"}'),
        (
            f.Subscribe(stream="t", id=1, start=f.Position("e", 0)),
            '{"type":"subscribe","stream":"t","id":1,"start":{"epoch":"e","offset":0}}',
        ),
        (
            f.Subscribe(stream="t", id=2, held=f.Held("e", 0)),
            '{"type":"subscribe","stream":"t","id":2,"held":{"epoch":"e","offset":0}}',
        ),
        (f.Unsubscribe(stream="t", id=1), '{"type":"unsubscribe","stream":"t","id":1}'),
        (f.Ack(acked=(f.AckedMark("t", "e", 0),)), '{"type":"ack","acked":[["t","e",0]]}'),
        (f.Grant(credit=f.Credit(0, 0)), '{"type":"credit","messages":0,"bytes":0}'),
        (f.Ping(echo=""), '{"type":"ping","echo":""}'),
        (
            f.Pong(echo="1", sent_seqs=(f.SeqMark(0, "t", 9),), credit=f.Credit(1, 2)),
            '{"type":"pong","echo":"1","sent_seqs":[[0,"t",9]],"credit":{"messages":1,"bytes":2}}',
        ),
        (f.Auth(access_token="x y"), '{"type":"auth","access_token":"x y"}'),
        (f.Error(code="oops"), '{"type":"error","code":"oops"}'),
        (f.Bye(), '{"type":"bye","code":"closed"}'),
    ],
)
def test_frames_as_a_client_writes_them(frame: Any, wire: str) -> None:
    """Absent and default values are left out, zero is not absent, and the server reads the same frame."""
    assert client().encode([frame]) == [wire]
    assert server().decode([wire]) == [frame]


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (f.Standing(node="n1"), '{"type":"standing","node":"n1"}'),
        (f.Ack(committed=(f.SeqMark(0, "t", 0),)), '{"type":"ack","committed":[[0,"t",0]]}'),
        (
            f.GapFrame(stream="t", id=1, epoch="e", first=1, last=None, next=4, reason="epoch"),
            '{"type":"gap","stream":"t","id":1,"epoch":"e","from":1,"to":null,"next":4,"reason":"epoch"}',
        ),
        (
            f.Subscribed(answer=f.StreamAnswer(stream="t", id=1, error=f.Error(code="forbidden", hint="no"))),
            '{"type":"subscribed","stream":"t","id":1,"error":{"code":"forbidden","hint":"no"}}',
        ),
        (
            f.Subscribed(
                answer=f.StreamAnswer(
                    stream="t",
                    id=1,
                    epoch="e",
                    first=5,
                    crc=0,
                    live=9,
                    gap=f.GapFrame(stream="t", id=1, epoch="e", first=1, last=4, next=5, reason="trimmed"),
                )
            ),
            (
                '{"type":"subscribed","stream":"t","id":1,"epoch":"e","from":5,"crc":0,"live":9,'
                '"gap":{"from":1,"to":4,"next":5,"reason":"trimmed"}}'
            ),
        ),
        (
            f.Reject(producer=0, stream="t", seq=2, code="too_large"),
            '{"type":"reject","producer":0,"stream":"t","seq":2,"code":"too_large"}',
        ),
        (
            f.Pong(echo="x", sent_offsets=(f.OffsetMark("t", 1, "e", 0),), spread=0.0),
            '{"type":"pong","echo":"x","sent_offsets":[["t",1,"e",0]],"spread":0}',
        ),
        (f.Drain(within=2.5, jitter=1.0), '{"type":"drain","within":2.5,"jitter":1}'),
        (f.Error(code="x", fatal=True), '{"type":"error","code":"x","fatal":true}'),
    ],
)
def test_frames_as_a_server_writes_them(frame: Any, wire: str) -> None:
    """A gap inside an answer does not repeat its stream; an unknown end is a written null."""
    assert server().encode([frame]) == [wire]
    assert client().decode([wire]) == [frame]


def test_hello_and_welcome_need_no_more_than_this() -> None:
    """The smallest hello and welcome are read with the documented defaults."""
    assert server().decode([json.dumps(HELLO)]) == [
        f.Hello(instance=A32, attempt=1, producers=(B32,), credit=f.Credit(4, 100), max_message=1024)
    ]
    (welcome,) = client().decode([json.dumps(WELCOME)])
    assert isinstance(welcome, f.Welcome)
    assert (welcome.streams, welcome.committed, welcome.keepalive, welcome.reason, welcome.spread) == (
        (),
        (),
        None,
        None,
        0.0,
    )
    assert type(welcome.ttl) is float


@pytest.mark.parametrize("key", [key for key in HELLO if key != "type"])
def test_every_required_field_of_hello_is_required(key: str) -> None:
    """A hello without it is a protocol error that names the field; null is the same as absent."""
    without = {k: v for k, v in HELLO.items() if k != key}
    assert repr(key) in str(refused(server(), json.dumps(without)))
    assert repr(key) in str(refused(server(), json.dumps({**HELLO, key: None})))


@pytest.mark.parametrize("key", [key for key in WELCOME if key != "type"])
def test_every_required_field_of_welcome_is_required(key: str) -> None:
    """A welcome without it is a protocol error that names the field."""
    assert repr(key) in str(refused(client(), json.dumps({k: v for k, v in WELCOME.items() if k != key})))


HELLO_STREAM = {"stream": "t", "id": 1, "start": "now"}
HELD = {"epoch": "e", "offset": 3, "crc": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": True},
        {"version": 1.0},
        {"version": "1"},
        {"attempt": 0},
        {"attempt": -1},
        {"attempt": MAX_NUMBER + 1},
        {"instance": "a" * 31},
        {"instance": "A" * 32},
        {"instance": "a" * 32 + "\n"},
        {"instance": 7},
        {"features": "acks"},
        {"features": ["x"] * 65},
        {"features": [1]},
        {"features": ["a b"]},
        {"producers": [B32] * 1025},
        {"producers": ["x"]},
        {"producers": {"0": B32}},
        {"session": "s"},
        {"token": "t"},
        {"session": "", "token": "t"},
        {"session": "s", "token": "with space"},
        {"session": "s", "token": "x" * 1025},
        {"credit": {"messages": 1}},
        {"credit": {"messages": -1, "bytes": 0}},
        {"credit": [1, 2]},
        {"max_message": 0},
        {"standby": 1},
        {"streams": {"t": HELLO_STREAM}},
        {"streams": [["t", 1]]},
        {"streams": [HELLO_STREAM, {**HELLO_STREAM, "id": 2}]},
        {"streams": [{**HELLO_STREAM, "id": 0}]},
        {"streams": [{**HELLO_STREAM, "stream": "a b"}]},
        {"streams": [{**HELLO_STREAM, "held": HELD}]},
        {"streams": [{"stream": "t", "id": 1}]},
        {"streams": [{"stream": "t", "id": 1, "acked": 1}]},
        {"streams": [{"stream": "t", "id": 1, "held": {**HELD, "crc": 2**32}}]},
        {"streams": [{"stream": "t", "id": 1, "held": {**HELD, "offset": -1}}]},
        {"streams": [{"stream": "t", "id": 1, "held": {**HELD, "epoch": ""}}]},
        {"streams": [{**HELLO_STREAM, "start": "later"}]},
        {"streams": [{**HELLO_STREAM, "start": 7}]},
        {"streams": [{**HELLO_STREAM, "start": ["now"]}]},
        {"streams": [{**HELLO_STREAM, "start": {"epoch": "e"}}]},
        {"outbound": [{"producer": 1, "stream": "t", "first": 1, "next": 2}]},
        {"outbound": [{"producer": 0, "stream": "t", "first": 3, "next": 2}]},
        {"outbound": [{"producer": 0, "stream": "t", "first": 0, "next": 2}]},
        {"outbound": [{"producer": 0, "stream": "t", "first": 1, "next": 2}] * 2},
    ],
)
def test_a_hello_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    """Each change alone makes a good hello a protocol error (the good one is read in the test above)."""
    assert refused(server(), json.dumps({**HELLO, **change})).code == 4400


ANSWER = {"stream": "t", "id": 1, "epoch": "e", "from": 5, "live": 9}
GAP = {"from": 1, "to": 4, "next": 5, "reason": "trimmed"}


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "maybe"},
        {"ttl": -1},
        {"ttl": True},
        {"ttl": "60"},
        {"ttl": 1e10},
        {"node": ""},
        {"node": "a b"},
        {"peers": ["wss://x"] * 65},
        {"peers": ["wss://x y"]},
        {"keepalive": {"interval": 1}},
        {"committed": [{"producer": 0, "stream": "t", "seq": -1}]},
        {"committed": [{"producer": 0, "stream": "t", "seq": 1, "known": 0}]},
        {"committed": [{"producer": 0, "stream": "t", "seq": 1, "rejected": [[1]]}]},
        {"committed": [{"producer": 0, "stream": "t", "seq": 1, "rejected": [[0, "x"]]}]},
        {"streams": [{**ANSWER, "from": 0}]},
        {"streams": [{"stream": "t", "id": 1, "from": 5}]},
        {"streams": [{"stream": "t", "id": 1, "epoch": "e"}]},
        {"streams": [{**ANSWER, "error": {"code": "forbidden"}}]},
        {"streams": [{"stream": "t", "id": 1, "error": {"code": "x", "hint": "a\nb"}}]},
        {"streams": [{"stream": "t", "id": 1, "error": {"code": "x", "hint": "\ud800"}}]},
        {"streams": [{"stream": "t", "id": 1, "error": {"code": "x", "hint": "x" * 1025}}]},
        {"streams": [{**ANSWER, "gap": {**GAP, "from": 5}}]},
        {"streams": [{**ANSWER, "gap": {**GAP, "next": None}}]},
        {"streams": [{**ANSWER, "gap": "trimmed"}]},
    ],
)
def test_a_welcome_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    """Each change alone makes a good welcome a protocol error."""
    assert refused(client(), json.dumps({**WELCOME, **change})).code == 4400


def test_a_refusal_never_quotes_a_value() -> None:
    """What the peer sent may be a token: the error names the field only."""
    error = refused(server(), json.dumps({**HELLO, "session": "s", "token": "s3cret value"}))
    assert "token" in str(error)
    assert "s3cret" not in repr(error) + str(error.__cause__) + str(error.__context__)


@pytest.mark.parametrize(
    "wire",
    [
        "{",
        "{}",
        '{"type":1}',
        '{"type":null}',
        '{"type":["ready"]}',
        '{"type":"nonsense"}',
        '{"type":"ready","generation":1} x',
        '{"type":"ready","generation":NaN}',
        '{"type":"ready","generation":-Infinity}',
        '{"type":"ready","generation":1,"generation":1}',
        '{"type":"ready","generation":' + "9" * 18 + "}",
        '{"type":"ready","generation":1e400}',
        "{" + '"a":[' * 100_000,
        '{"a":' * 100_000,
        '{"type":"ready","generation":1,"x":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type":"ready","generation":1,"x":"' + "y" * (4 << 20) + '"}',
        '{"type":"ready","generation":1,"x":"\n"}',
    ],
)
def test_a_control_frame_that_is_not_one(wire: str) -> None:
    """Broken, doubled, endless, deep or oversized JSON is a protocol error and nothing else."""
    assert refused(server(), wire).code == 4400


def test_the_negative_control_of_the_bombs() -> None:
    """The same frame with unknown fields of a modest size is read; they are ignored."""
    deep = '{"type":"ready","generation":1,"x":' + "[" * 50 + "]" * 50 + ',"y":{"z":1.5}}'
    assert server().decode([deep]) == [f.Ready(generation=1)]
    assert sys.getrecursionlimit() >= 1000


@pytest.mark.parametrize(
    ("codec", "wire"),
    [(client(), json.dumps(HELLO)), (server(), json.dumps(WELCOME)), (server(), '{"type":"standing","node":"n"}')],
)
def test_a_frame_of_the_wrong_side(codec: Codec, wire: str) -> None:
    """A server's frame that reaches a server is a protocol error that says so, and the other way round."""
    assert "wrong side" in str(refused(codec, wire))


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        (server(), f.Ready(generation=1)),
        (client(), f.Standing(node="n")),
        (client(), f.Ack(committed=(f.SeqMark(0, "t", 1),))),
        (client(), f.Ping(echo="", sent_offsets=(f.OffsetMark("t", 1, "e", 1),))),
        (server(), f.Pong(echo="", acked=(f.AckedMark("t", "e", 1),))),
        (client(), f.Subscribe(stream="t", id=1)),
        (
            server(),
            f.Subscribed(
                answer=f.StreamAnswer(
                    stream="t",
                    id=1,
                    epoch="e",
                    first=1,
                    gap=f.GapFrame(stream="u", id=1, epoch="e", first=1, last=1, next=2, reason="x"),
                )
            ),
        ),
        (server(), f.Subscribed(answer=f.StreamAnswer(stream="t", id=1, epoch="e", first=1, error=f.Error(code="x")))),
    ],
)
def test_a_frame_that_this_side_cannot_say(codec: Codec, frame: Item) -> None:
    """What would be dropped or refused on the other side is an error here, before it is written."""
    with pytest.raises(LocalProtocolError):
        codec.encode([frame])


def test_marks_of_the_other_direction_are_ignored() -> None:
    """A server that reads 'committed' in a client's ack treats it as any unknown field."""
    assert server().decode(['{"type":"ack","committed":[[0,"t",1]]}']) == [f.Ack()]


def test_reporting_a_fault_is_never_a_fault() -> None:
    """A hint with control characters or without end is cleaned and cut, not refused."""
    (wire,) = server().encode([f.Error(code="x", hint="a\nb\x00\ud800" + "c" * 2000)])
    assert client().decode([wire]) == [f.Error(code="x", hint="a b  " + "c" * 1019)]


def test_the_table_has_every_frame_and_no_other() -> None:
    """Each class of ClientFrame and ServerFrame has a row in the table of its side."""
    assert {cls for cls, _ in native_control.CLIENT.values()} == set(f.ClientFrame.__args__)  # type: ignore[attr-defined]
    assert {cls for cls, _ in native_control.SERVER.values()} == set(f.ServerFrame.__args__)  # type: ignore[attr-defined]


def test_a_bad_object_inside_a_frame_is_named_with_its_path() -> None:
    """The error of a nested field names every field on the way to it."""
    with pytest.raises(Bad, match=r"'hello'.*'streams'.*'held'.*'offset'"):
        native_control.load(
            json.dumps({**HELLO, "streams": [{"stream": "t", "id": 1, "held": {"epoch": "e", "offset": "3"}}]}),
            native_control.CLIENT,
            native_control.SERVER,
        )


# -- round trips ------------------------------------------------------------------------------------------------------

numbers = st.integers(1, MAX_NUMBER)
counts = st.integers(0, MAX_NUMBER)
names = st.from_regex(r"[A-Za-z0-9_~][A-Za-z0-9._~/-]{0,127}", fullmatch=True)
opaque = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)
hexes = st.text("0123456789abcdef", min_size=32, max_size=32)
visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100)
hints = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=100)
crcs = st.none() | st.integers(0, 2**32 - 1)
seconds = st.floats(0, 1e9) | st.integers(0, 10**9).map(float)
positions = st.builds(f.Position, opaque, counts)
helds = st.builds(f.Held, opaque, counts, crcs)
credits = st.builds(f.Credit, counts, counts)
indices = st.integers(0, 1023)
beginnings = st.one_of(
    helds.map(lambda held: {"held": held}), st.sampled_from(["now", "earliest"]).map(lambda at: {"start": at}),
    positions.map(lambda position: {"start": position}),
)  # fmt: skip


def tuples(of: st.SearchStrategy[Any], **bounds: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=3, **bounds).map(tuple)


peers = tuples(visible)
acked = tuples(st.builds(f.AckedMark, names, opaque, counts))
seqs = tuples(st.builds(f.SeqMark, indices, names, counts))
offsets = tuples(st.builds(f.OffsetMark, names, numbers, opaque, counts))


@st.composite
def hellos(draw: st.DrawFn) -> f.Hello:
    streams = draw(st.lists(names, max_size=3, unique=True))
    known = draw(st.booleans())
    outbound = draw(st.lists(st.tuples(st.integers(0, 1), names), max_size=3, unique=True))
    return f.Hello(
        instance=draw(hexes),
        attempt=draw(numbers),
        producers=(draw(hexes), draw(hexes)),
        credit=draw(credits),
        max_message=draw(numbers),
        version=draw(numbers),
        features=draw(tuples(opaque)),
        session=draw(opaque) if known else None,
        token=draw(visible) if known else None,
        streams=tuple(
            f.HelloStream(stream=s, id=draw(numbers), acked=draw(st.none() | counts), **draw(beginnings))
            for s in streams
        ),
        outbound=tuple(
            f.HelloOutbound(producer=p, stream=s, first=first, next=draw(st.integers(first, MAX_NUMBER)))
            for p, s in outbound
            for first in [draw(numbers)]
        ),
        standby=draw(st.booleans()),
    )


@st.composite
def gaps(draw: st.DrawFn, stream: str | None = None, id: int | None = None, epoch: str | None = None) -> f.GapFrame:
    first = draw(numbers)
    return f.GapFrame(
        stream=draw(names) if stream is None else stream,
        id=draw(numbers) if id is None else id,
        epoch=draw(opaque) if epoch is None else epoch,
        first=first,
        last=draw(st.none() | st.integers(first, MAX_NUMBER)),
        next=draw(numbers),
        reason=draw(opaque),
    )


@st.composite
def answers(draw: st.DrawFn) -> f.StreamAnswer:
    stream, number, epoch = draw(names), draw(numbers), draw(opaque)
    if draw(st.booleans()):
        return f.StreamAnswer(stream=stream, id=number, error=f.Error(code=draw(opaque), hint=draw(hints)))
    gap = draw(st.none() | gaps(stream, number, epoch))
    return f.StreamAnswer(
        stream=stream, id=number, epoch=epoch, first=draw(numbers), crc=draw(crcs), live=draw(counts), gap=gap
    )


committed = st.builds(
    f.CommittedAnswer,
    producer=indices,
    stream=names,
    seq=counts,
    known=st.booleans(),
    rejected=tuples(st.tuples(numbers, opaque)),
)
welcomes = st.builds(
    f.Welcome,
    session=opaque,
    token=visible,
    generation=numbers,
    verdict=st.sampled_from(["resumed", "new"]),
    ttl=seconds,
    node=visible,
    incarnation=opaque,
    producer_ttl=seconds,
    max_message=numbers,
    version=numbers,
    features=tuples(opaque),
    reason=st.none() | opaque,
    committed=tuples(committed),
    streams=tuples(answers()),
    keepalive=st.none() | st.builds(f.KeepaliveAdvice, interval=seconds, timeout=seconds),
    peers=peers,
    spread=seconds,
)
errors = st.builds(f.Error, code=opaque, hint=hints, fatal=st.booleans())
byes = st.builds(f.Bye, code=opaque, hint=hints)
echoes = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=128)
client_marks: dict[str, Any] = {"echo": echoes, "acked": acked, "sent_seqs": seqs, "credit": st.none() | credits}
server_marks: dict[str, Any] = {
    "echo": echoes,
    "committed": seqs,
    "sent_offsets": offsets,
    "spread": st.none() | seconds,
}
client_frames: st.SearchStrategy[Any] = st.one_of(
    hellos(),
    st.builds(f.Ready, generation=numbers),
    st.builds(lambda stream, id, begin: f.Subscribe(stream=stream, id=id, **begin), names, numbers, beginnings),
    st.builds(f.Unsubscribe, stream=names, id=numbers),
    st.builds(f.Ack, acked=acked),
    st.builds(f.Grant, credit=credits),
    st.builds(f.Ping, **client_marks),
    st.builds(f.Pong, **client_marks),
    st.builds(f.Auth, access_token=visible),
    errors,
    byes,
)
server_frames: st.SearchStrategy[Any] = st.one_of(
    welcomes,
    st.builds(f.Standing, node=visible),
    st.builds(f.Subscribed, answer=answers()),
    st.builds(f.Ack, committed=seqs),
    gaps(),
    st.builds(f.Reject, producer=indices, stream=names, seq=numbers, code=opaque, hint=hints),
    st.builds(f.Ping, **server_marks),
    st.builds(f.Pong, **server_marks),
    st.builds(f.Drain, within=seconds, jitter=seconds, spread=seconds, peers=peers),
    errors,
    byes,
)
payloads = st.lists(st.text(max_size=20) | st.binary(max_size=20), min_size=1, max_size=80)
firsts = st.integers(1, MAX_NUMBER - 100)
empties = st.integers(1, 3).map(lambda count: [b""] * count)
client_batches: st.SearchStrategy[Any] = st.one_of(
    st.builds(Batch, names, firsts, payloads, producer=indices),
    st.builds(Batch, names, firsts, empties, producer=indices, void=opaque),
)


@st.composite
def server_batches(draw: st.DrawFn) -> Batch:
    first = draw(firsts)
    if draw(st.booleans()):
        return Batch(draw(names), first, draw(payloads))
    return Batch(draw(names), first, draw(payloads)[:1], prev=draw(st.integers(0, first - 1)))


def flat(items: list[Item]) -> list[Any]:
    """Take batches apart into messages, so that how they were cut and joined does not matter."""
    out: list[Any] = []
    for item in items:
        if not isinstance(item, Batch):
            out.append(item)
            continue
        assert item.first is not None
        for index, payload in enumerate(item.payloads):
            out.append((item.stream, item.first + index, item.producer, item.prev, item.void, payload))
    return out


@settings(max_examples=150, deadline=None)
@given(st.lists(client_frames | client_batches, max_size=4))
def test_what_a_client_writes_a_server_reads(items: list[Item]) -> None:
    """Encoding and decoding changes nothing but how messages are grouped; encoding again changes no byte."""
    wires = client().encode(items)
    read = server().decode(wires)
    assert flat(read) == flat(items)
    for wire in wires:
        assert client().encode(server().decode([wire])) == [wire]


@settings(max_examples=150, deadline=None)
@given(st.lists(server_frames | server_batches(), max_size=4))
def test_what_a_server_writes_a_client_reads(items: list[Item]) -> None:
    """The same from the server to the client."""
    wires = server().encode(items)
    read = client().decode(wires)
    assert flat(read) == flat(items)
    for wire in wires:
        assert server().encode(client().decode([wire])) == [wire]


# -- fuzz -------------------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from(sorted(native_control.CLIENT | native_control.SERVER))
keys = st.sampled_from(
    sorted(
        {
            key.key
            for table in (native_control.CLIENT, native_control.SERVER)
            for _, spec in table.values()
            for key in spec.fields
        }
    )
)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A good frame of either side with some of its fields replaced by anything."""
    frame = draw(client_frames | server_frames)
    codec = client() if type(frame) in f.ClientFrame.__args__ else server()  # type: ignore[attr-defined]
    try:
        members = json.loads(codec.encode([frame])[0])
    except LocalProtocolError:
        members = {"type": draw(kinds)}
    members.update(draw(st.dictionaries(keys, values, max_size=2)))
    return json.dumps(members)


fuzz_wires: st.SearchStrategy[Wire] = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60),
    st.from_regex(r"[a-z~]{1,3}:[0-9*;p=text,-]{1,12}:[0-9,]{0,6}:?[a-z]{0,6}", fullmatch=True),
    st.from_regex(rb"[a-z~]{1,3}:[0-9*;p=text,-]{1,12}:[0-9,]{0,6}:?[a-z]{0,6}", fullmatch=True),
    mutants(),
    values.map(lambda value: json.dumps({"type": "hello", "streams": value})),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(fuzz_wires, max_size=3))
@example(["t:1:\ud800"])
def test_nothing_that_arrives_raises_anything_else(wires: list[Wire]) -> None:
    """Whatever a peer sends, a codec returns items or raises RemoteProtocolError, and stays failed once it failed."""
    for codec in (client(), server()):
        failure = None
        try:
            assert len(codec.decode(wires)) <= len(wires)
        except RemoteProtocolError as error:
            failure = error
        assert failure is None or (failure is codec.failure and failure.code == native.PROTOCOL_ERROR)
