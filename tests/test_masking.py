"""Frames out: read back by an oracle of its own, whatever their number and sizes, each with its own key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws.deflating import COMPRESSED
from resilient_ws.masking import KEY, framed

TEXT, BINARY, PING = 1, 2, 9
SIZES = (0, 1, 3, 4, 5, 125, 126, 127, 4095, 4096, 4097, 8192, 8193, 65535, 65536, 100_001)


def unframed(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """Read masked frames byte by byte: first byte, key and payload of each; a length has its shortest form."""
    found = []
    at = 0
    while at < len(data):
        first, second = data[at], data[at + 1]
        assert second & 0x80, "a client masks"
        size, at = second & 0x7F, at + 2
        for mark, width, least in ((126, 2, 126), (127, 8, 1 << 16)):
            if second & 0x7F == mark:
                size, at = int.from_bytes(data[at : at + width], "big"), at + width
                assert size >= least
        key, at = data[at : at + 4], at + 4
        found.append((first, key, bytes(byte ^ key[i % 4] for i, byte in enumerate(data[at : at + size]))))
        at += size
    assert at == len(data)
    return found


def keys_for(count: int) -> bytes:
    """Keys of which no two are alike, and none is nothing."""
    return b"".join((0x9E3779B1 * (number + 1) % (1 << 32)).to_bytes(4, "little") for number in range(count))


def payload_of(size: int) -> bytes:
    """Bytes that do not repeat every four or every 256."""
    return bytes((i * 7 + i // 251) & 0xFF for i in range(size))


@pytest.mark.parametrize("size", SIZES)
def test_each_size_is_framed_as_the_rfc_says(size: int) -> None:
    """Every form of a length, and payloads below, at and above what is masked at once."""
    keys = keys_for(1)
    assert unframed(b"".join(framed([(BINARY, payload_of(size))], keys))) == [(0x82, keys, payload_of(size))]


@given(st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING, TEXT | COMPRESSED]), st.sampled_from(SIZES[:13]))))
def test_many_messages_are_framed_in_order(drawn: list[tuple[int, int]]) -> None:
    """However small and large ones follow each other; each has the key that was meant for it."""
    messages = [(opcode, payload_of(size)) for opcode, size in drawn]
    keys = keys_for(len(messages))
    cut = [keys[i : i + KEY] for i in range(0, len(keys), KEY)]
    expected = [(0x80 | opcode, key, payload) for (opcode, payload), key in zip(messages, cut, strict=True)]
    assert unframed(b"".join(framed(messages, keys))) == expected


def test_small_frames_come_together_and_a_large_one_alone() -> None:
    """A piece is small enough to be masked at once, or one frame."""
    small, large = (TEXT, b"x" * 1000), (TEXT, b"y" * 10_000)
    pieces = framed([small] * 10 + [large] * 2 + [small], keys_for(13))
    assert [len(unframed(piece)) for piece in pieces] == [4, 4, 2, 1, 1, 1]
    assert framed([], b"") == []
