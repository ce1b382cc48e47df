"""permessage-deflate, the pure half: what is agreed, what a message becomes, and what a message may cost."""

from __future__ import annotations

import itertools
import random
import zlib
from typing import Any

import pytest

from resilient_ws.deflating import Agreement, BadAnswer, BadMessage, Deflater, Inflater, Offer

LIMIT = 1 << 20
TAIL = b"\x00\x00\xff\xff"
#: Long enough to be compressed, and with parts that come again from far behind.
MESSAGES = [b'{"symbol": "ABC", "price": %d, "pad": "%s"}' % (number, bytes(range(32, 126)) * 9) for number in range(9)]


# -- the agreement ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "header"),
    [
        (Offer(), "permessage-deflate; client_max_window_bits"),
        (Offer(client_max_window_bits=None), "permessage-deflate"),
        (Offer(client_max_window_bits=10), "permessage-deflate; client_max_window_bits=10"),
        (
            Offer(
                client_no_context_takeover=True,
                server_no_context_takeover=True,
                client_max_window_bits=None,
                server_max_window_bits=15,
            ),
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover; server_max_window_bits=15",
        ),
    ],
)
def test_offer_is_written(offer: Offer, header: str) -> None:
    """An offer names what differs from what everybody does."""
    assert offer.header == header


@pytest.mark.parametrize("bits", [7, 16, True, "9", 9.0])
@pytest.mark.parametrize("name", ["client_max_window_bits", "server_max_window_bits"])
def test_offer_of_no_window_is_refused(name: str, bits: Any) -> None:
    """A window that RFC 7692 does not have is a mistake of the caller's."""
    with pytest.raises(ValueError, match=f"{name} must be a number from 8 to 15"):
        Offer(**{name: bits})


@pytest.mark.parametrize(
    ("offer", "answers", "agreed"),
    [
        ({}, [], None),
        ({}, ["", " , "], None),
        ({}, ["permessage-deflate"], {}),
        ({}, ["Permessage-Deflate ; Server_No_Context_Takeover"], {"server_no_context_takeover": True}),
        ({}, ["permessage-deflate;client_no_context_takeover"], {"client_no_context_takeover": True}),
        ({}, ['permessage-deflate; client_max_window_bits="9"'], {"client_max_window_bits": 9}),
        ({}, ["permessage-deflate; client_max_window_bits=8"], {"client_max_window_bits": 8}),
        ({}, ["permessage-deflate; server_max_window_bits = 10"], {"server_max_window_bits": 10}),
        ({"client_max_window_bits": 11}, ["permessage-deflate"], {"client_max_window_bits": 11}),
        ({"client_max_window_bits": None}, ["permessage-deflate"], {}),
        ({"client_no_context_takeover": True}, ["permessage-deflate"], {"client_no_context_takeover": True}),
        (
            {"server_no_context_takeover": True, "server_max_window_bits": 12},
            ["permessage-deflate; server_max_window_bits=12; server_no_context_takeover"],
            {"server_no_context_takeover": True, "server_max_window_bits": 12},
        ),
    ],
)
def test_answer_is_taken(offer: dict[str, Any], answers: list[str], agreed: dict[str, Any] | None) -> None:
    """What the server may answer is what both sides do; no answer is no compression."""
    assert Offer(**offer).agree(answers) == (None if agreed is None else Agreement(**agreed))


@pytest.mark.parametrize(
    ("offer", "answer", "why"),
    [
        ({}, "x-webkit-deflate-frame", "extension that was not offered"),
        ({}, "permessage-deflate, permessage-deflate", "extension that was not offered"),
        ({}, "permessage-deflate; server_no_context_takeover, other", "extension that was not offered"),
        ({}, "permessage-deflate; =9", "cannot be read"),
        ({}, "permessage-deflate;", "cannot be read"),
        ({}, "permessage-deflate; secret", "parameter that permessage-deflate does not know"),
        ({}, "permessage-deflate; server_no_context_takeover; server_no_context_takeover", "has .* twice"),
        ({}, "permessage-deflate; server_no_context_takeover=1", "gives server_no_context_takeover a value"),
        ({}, "permessage-deflate; client_no_context_takeover=true", "gives client_no_context_takeover a value"),
        ({}, "permessage-deflate; server_max_window_bits", "gives server_max_window_bits no number"),
        ({}, "permessage-deflate; client_max_window_bits", "gives client_max_window_bits no number"),
        ({}, "permessage-deflate; server_max_window_bits=7", "no number from 8 to 15"),
        ({}, "permessage-deflate; server_max_window_bits=16", "no number from 8 to 15"),
        ({}, "permessage-deflate; server_max_window_bits=09", "no number from 8 to 15"),
        ({}, "permessage-deflate; server_max_window_bits=\u0669", "cannot be read"),
        ({"client_max_window_bits": None}, "permessage-deflate; client_max_window_bits=15", "was not offered"),
        ({"client_max_window_bits": 10}, "permessage-deflate; client_max_window_bits=11", "at most 10 was offered"),
        ({"server_max_window_bits": 10}, "permessage-deflate", "without server_max_window_bits, at most 10"),
        ({"server_max_window_bits": 10}, "permessage-deflate; server_max_window_bits=11", "bits=11, at most 10"),
        ({"server_no_context_takeover": True}, "permessage-deflate", "without server_no_context_takeover"),
    ],
)
def test_answer_is_refused(offer: dict[str, Any], answer: str, why: str) -> None:
    """What the server may not answer is refused with what is wrong about it, never with its own words."""
    with pytest.raises(BadAnswer, match=why) as caught:
        Offer(**offer).agree([answer])
    assert "secret" not in str(caught.value)


# -- messages ---------------------------------------------------------------------------------------------------------

AGREEMENTS = [
    Agreement(
        client_no_context_takeover=anew,
        server_no_context_takeover=anew,
        client_max_window_bits=bits,
        server_max_window_bits=bits,
    )
    for anew, bits in itertools.product([False, True], [8, 9, 12, 15])
]


def shrunk(deflater: Deflater, message: bytes) -> bytes:
    """Compress what is long enough."""
    small = deflater.deflate(message)
    assert small is not None
    return small


def strictly(stream: Any, payload: bytes) -> bytes:
    """Inflate byte by byte, so that zlib sees no further back than its window."""
    parts, rest = [], payload + TAIL
    while True:
        part = stream.decompress(rest, 1)
        rest = stream.unconsumed_tail
        if not part and not rest:
            return b"".join(parts)
        parts.append(part)


@pytest.mark.parametrize("agreement", AGREEMENTS, ids=str)
def test_what_is_deflated_is_inflated(agreement: Agreement) -> None:
    """Under every agreement messages come out as they went in, smaller on the way, without their last four bytes."""
    deflater, inflater = Deflater(agreement), Inflater(agreement)
    for message in MESSAGES:
        small = shrunk(deflater, message)
        assert len(small) < len(message)
        assert not small.endswith(TAIL)
        assert inflater.inflate(small, LIMIT) == message


@pytest.mark.parametrize("bits", range(8, 16))
def test_window_is_kept(bits: int) -> None:
    """Nothing refers further back than was agreed, with 8 bits neither, which zlib itself cannot do."""
    deflater, stream = Deflater(Agreement(client_max_window_bits=bits)), zlib.decompressobj(-bits)
    for message in MESSAGES * 5:
        assert strictly(stream, shrunk(deflater, message)) == message


@pytest.mark.parametrize("bits", [8, 9, 10, 11])
def test_larger_window_is_noticed(bits: int) -> None:
    """The check above fails on a deflater that has a larger window."""
    deflater, stream = Deflater(Agreement(client_max_window_bits=bits + 2)), zlib.decompressobj(-bits)
    far = random.Random(bits).randbytes(2**bits)
    messages = [far + b"%d" % number for number in range(4)]
    with pytest.raises(zlib.error, match="too far back"):
        assert [strictly(stream, shrunk(deflater, message)) for message in messages] == messages


def test_context_is_taken_over() -> None:
    """With takeover a message that came before costs next to nothing, and means nothing without the one before."""
    deflater = Deflater(Agreement())
    first, second = shrunk(deflater, MESSAGES[0]), shrunk(deflater, MESSAGES[0])
    assert len(second) < len(first) / 4
    with pytest.raises(BadMessage, match="no deflate stream"):
        Inflater(Agreement()).inflate(second, LIMIT)


def test_context_is_refused() -> None:
    """Without takeover each message stands for itself, on both sides."""
    agreement = Agreement(client_no_context_takeover=True, server_no_context_takeover=True)
    deflater = Deflater(agreement)
    first, second = shrunk(deflater, MESSAGES[0]), shrunk(deflater, MESSAGES[0])
    assert len(first) == len(second)
    assert Inflater(agreement).inflate(second, LIMIT) == MESSAGES[0]
    inflater, taking_over = Inflater(agreement), Deflater(Agreement())
    inflater.inflate(shrunk(taking_over, MESSAGES[0]), LIMIT)
    with pytest.raises(BadMessage, match="no deflate stream"):
        inflater.inflate(shrunk(taking_over, MESSAGES[0]), LIMIT)
