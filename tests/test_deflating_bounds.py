"""permessage-deflate, what a server may send: the RFC's examples, streams that end, bombs, and what is no stream."""

from __future__ import annotations

import functools
import time
import tracemalloc
import zlib

import pytest

from resilient_ws.deflating import MAX_FINAL_BLOCKS, MIN_SIZE, Agreement, BadMessage, Deflater, Inflater

LIMIT = 1 << 20
TAIL = b"\x00\x00\xff\xff"
ANEW = Agreement(client_no_context_takeover=True, server_no_context_takeover=True)


def ended(message: bytes, before: bytes = b"") -> bytes:
    """Compress with a stream that ends, and the empty block that RFC 7692 wants behind its end."""
    stream = zlib.compressobj(wbits=-15, zdict=before) if before else zlib.compressobj(wbits=-15)
    return stream.compress(message) + stream.flush(zlib.Z_FINISH) + b"\x00"


@pytest.mark.parametrize(
    "wires",
    [
        pytest.param(["f248cdc9c90700"], id="one-block"),
        pytest.param(["f248cdc9c90700", "f200110000"], id="takeover"),
        pytest.param(["000500faff48656c6c6f00"], id="stored"),
        pytest.param(["f348cdc9c9070000"], id="final"),
        pytest.param(["f348cdc9c9070000", "f248cdc9c90700", "f200110000"], id="after-final"),
        pytest.param(["f248050000" + "00ffffcac9c90700"], id="two-blocks"),
    ],
)
def test_examples_of_the_rfc(wires: list[str]) -> None:
    """The examples of RFC 7692 section 7.2.3 all say Hello."""
    inflater = Inflater(Agreement())
    assert [inflater.inflate(bytes.fromhex(wire), LIMIT) for wire in wires] == [b"Hello"] * len(wires)


def test_empty_message() -> None:
    """An empty message is one byte by the RFC, and none where a server takes it literally."""
    inflater = Inflater(Agreement())
    assert (inflater.inflate(b"\x00", LIMIT), inflater.inflate(b"", LIMIT)) == (b"", b"")


def test_small_messages_are_left_alone() -> None:
    """Where there is little to gain nothing is compressed."""
    deflater = Deflater(Agreement())
    assert deflater.deflate(b"x" * (MIN_SIZE - 1)) is None
    assert deflater.deflate(b"x" * MIN_SIZE) is not None


def test_forgotten_message_is_not_referred_to() -> None:
    """After something was compressed and not sent, what follows can be read without it."""
    deflater, inflater = Deflater(Agreement()), Inflater(Agreement())
    one, two = bytes(range(200)), bytes(range(250, 50, -1))
    assert inflater.inflate(deflater.deflate(one) or b"", LIMIT) == one
    deflater.deflate(two)
    deflater.forget()
    for message in (two, one, two):
        assert inflater.inflate(deflater.deflate(message) or b"", LIMIT) == message


def test_context_goes_on_behind_a_final_block() -> None:
    """A stream that ends ends no context: later messages may refer to what was before it and in it."""
    one, two, three = bytes(range(256)) * 4, b"two" * 100 + bytes(range(40)), b"three"
    inflater = Inflater(Agreement())
    assert inflater.inflate(ended(one), LIMIT) == one
    assert inflater.inflate(ended(two, one), LIMIT) == two
    last = ended(one + two + three, one + two)
    assert len(last) < 40
    assert inflater.inflate(last, LIMIT) == one + two + three


def test_final_block_where_each_message_begins_anew() -> None:
    """Without takeover a stream may end as well, and more than once in a message."""
    inflater = Inflater(ANEW)
    for _ in range(2):
        assert inflater.inflate(ended(b"one")[:-1] + ended(b"two", b"one"), LIMIT) == b"onetwo"


def test_many_final_blocks_are_refused() -> None:
    """Each end of a stream costs an inflater, so that a message may have some and not a million."""
    block = ended(b"")[:-1]
    assert Inflater(Agreement()).inflate(block * MAX_FINAL_BLOCKS + b"\x00", LIMIT) == b""
    with pytest.raises(BadMessage, match="final blocks") as caught:
        Inflater(Agreement()).inflate(block * 200_000 + b"\x00", LIMIT)
    assert caught.value.code == 1002


@pytest.mark.parametrize("payload", [b"\xff", b"\x07", b"\x00\x05\x00\x00\x00hello", b"Hello, I am not compressed"])
def test_no_deflate_stream(payload: bytes) -> None:
    """Bytes that are no deflate stream are the server's fault, 1002."""
    with pytest.raises(BadMessage, match="no deflate stream") as caught:
        Inflater(Agreement()).inflate(payload, LIMIT)
    assert caught.value.code == 1002


@functools.cache
def bomb(size: int) -> bytes:
    """Compress so many zeros, a thousand to one."""
    stream = zlib.compressobj(9, wbits=-15)
    parts = [stream.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return (b"".join(parts) + stream.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]


@pytest.mark.parametrize("agreement", [Agreement(), ANEW], ids=["takeover", "anew"])
@pytest.mark.parametrize("is_ended", [False, True], ids=["bomb", "bomb-behind-a-final-block"])
def test_F18_bomb_stops_at_the_limit(agreement: Agreement, is_ended: bool) -> None:
    """A quarter of a megabyte that stands for 256 is refused, 1009, without more memory or time than the limit has."""
    payload = (ended(b"x")[:-1] if is_ended else b"") + bomb(256 << 20)
    assert len(payload) < 1 << 19
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(BadMessage, match=f"more than {LIMIT} bytes when inflated") as caught:
            Inflater(agreement).inflate(payload, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 5 * LIMIT
    finally:
        tracemalloc.stop()
    assert caught.value.code == 1009
    assert time.process_time() - started < 1


def test_F18_bomb_without_a_limit_is_one() -> None:
    """The same payload does need the memory where the limit allows it: the check above can fail."""
    payload = bomb(64 << 20)
    tracemalloc.start()
    try:
        assert len(Inflater(Agreement()).inflate(payload, 64 << 20)) == 64 << 20
        assert tracemalloc.get_traced_memory()[1] > 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 1000, 40_000])
def test_limit_is_exact(size: int) -> None:
    """A message of exactly the limit is taken, one byte more is not."""
    message = bytes(size)
    payload = ended(message)
    assert Inflater(Agreement()).inflate(payload, size) == message
    with pytest.raises(BadMessage, match="when inflated"):
        Inflater(Agreement()).inflate(ended(message + b"x"), size)


def test_what_is_remembered_is_bounded() -> None:
    """Any number of messages, small, empty or large, leave no more than two windows behind."""
    inflater, wires = Inflater(Agreement()), [ended(b"ab"), b"\x00"] * 400 + [ended(bytes(100_000))]
    tracemalloc.start()
    try:
        for _ in range(20):
            for wire in wires:
                inflater.inflate(wire, LIMIT)
        assert tracemalloc.get_traced_memory()[0] < 256 << 10
    finally:
        tracemalloc.stop()
