"""The fuzz run of the frame path finds nothing in what is shipped, and finds what is planted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_ws import framing
from resilient_ws.deflating import Agreement, Deflater, Inflater
from resilient_ws.framing import TEXT, Decoder
from server_fixture.rude import BINARY, CONTINUATION, PING, frame
from tests.fuzz_frames import problems_of

ENOUGH = 600
"""So many streams find each planted defect many times over."""


def test_frame_path_agrees_with_the_oracle() -> None:
    """Streams of every kind give what the oracle says, at once and in pieces, and all kinds are among them."""
    counts: Counter[str] = Counter()
    assert [what for seed in range(400) for what in problems_of(seed, counts)] == []
    assert {"code 1002", "code 1007", "code 1009", "closed", "open"} <= set(counts)


class Forgetful(Decoder):
    """Loses what is left of a read when the next one comes."""

    def feed(self, data: bytes) -> list[Any]:
        """Decode."""
        self._rest.clear()
        return super().feed(data)


def test_a_run_of_like_frames_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and bytes, each kind of length, up to the first other frame; the rest waits for the next read."""
    for size, text in [(5, True), (5, False), (200, True), (1_900, False)]:
        message = "x" * size if text else b"x" * size
        wire = frame(TEXT if text else BINARY, b"x" * size)
        taken: list[int] = []
        cut = framing._cut_alike

        def counted(*args: Any, cut: Any = cut, taken: list[int] = taken) -> tuple[int, int]:
            before = len(args[3])
            found: tuple[int, int] = cut(*args)
            taken.append(len(args[3]) - before)
            return found

        monkeypatch.setattr(framing, "_cut_alike", counted)
        decoder = Decoder(1 << 20)
        assert decoder.feed(wire * 20 + frame(BINARY, b"y") + wire[:4]) == [message] * 20 + [b"y"]
        assert taken == [19]
        assert decoder.feed(wire[4:]) == [message]
        monkeypatch.setattr(framing, "_cut_alike", cut)


def test_a_bad_one_in_a_run_of_like_frames_ends_it_there() -> None:
    """Those before it are given."""
    decoder = Decoder(1 << 20)
    good = frame(TEXT, "\u00e9".encode())
    assert decoder.feed(good * 12 + frame(TEXT, b"\xc3\x28") + good * 12) == ["\u00e9"] * 12
    assert decoder.failure is not None
    assert decoder.failure[0] == 1007


class Lenient(Decoder):
    """Takes RSV1 wherever it stands."""

    def _refuse_reserved(self, first: int) -> None:
        if self.inflater is None:
            super()._refuse_reserved(first)


class Unchecked(Decoder):
    """Takes text that is not UTF-8 once it is inflated."""

    def _whole(self, first: int, payload: bytes | bytearray) -> Any:
        whole = super()._whole(first & ~TEXT, payload)
        return whole.decode(errors="replace") if first & 0x0F == TEXT and isinstance(whole, bytes) else whole


class Unbounded(Decoder):
    """Holds compressed frames to the limit, and not what they become."""

    def _whole(self, first: int, payload: bytes | bytearray) -> Any:
        limit, self.max_message = self.max_message, 1 << 30
        try:
            return super()._whole(first, payload)
        finally:
            self.max_message = limit


class Short(Inflater):
    """Forgets the context where a stream ends."""

    __slots__ = ()

    def _remember(self, message: bytes) -> None:
        pass


class Deaf(Inflater):
    """Hears nothing behind a final block, as zlib does by itself."""

    __slots__ = ()

    def _past_final_blocks(self, message: bytes, limit: int) -> bytes:
        return message


def with_inflater(kind: type[Inflater]) -> Any:
    """Make a decoder whose inflater is of this kind."""

    def make(limit: int, inflater: Inflater | None) -> Decoder:
        if inflater is not None:
            inflater.__class__ = kind
        return Decoder(limit, inflater)

    return make


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Forgetful, id="loses-partial-frames"),
        pytest.param(Lenient, id="rsv1-anywhere"),
        pytest.param(Unchecked, id="utf8-not-checked-after-inflating"),
        pytest.param(Unbounded, id="inflated-size-not-limited"),
        pytest.param(with_inflater(Short), id="context-lost-at-the-end-of-a-stream"),
        pytest.param(with_inflater(Deaf), id="deaf-behind-the-end-of-a-stream"),
    ],
)
def test_planted_defect_is_found(make: Any) -> None:
    """Each defect of the frame path shows itself within some hundred streams."""
    counts: Counter[str] = Counter()
    assert any(problems_of(seed, counts, make) for seed in range(ENOUGH))


def _blind(data: bytes, before: int, position: int, messages: list[Any], tries: int) -> tuple[int, int]:
    """Take the frames behind one for frames like it, and look at one column of their headers only."""
    width, first = position - before, data[before : before + 1]
    count = len(data[position::width]) - len(data[position::width].lstrip(first))
    end = position + min(count, (len(data) - position) // width) * width
    payloads = [data[at + 2 : at + width] for at in range(position, end, width)]
    messages += map(bytes.decode, payloads) if first == b"\x81" else payloads
    return end, tries


def test_a_run_that_is_taken_blindly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "_cut_alike", _blind)
    assert any(problems_of(seed, Counter()) for seed in range(ENOUGH))


# -- any split --------------------------------------------------------------------------------------------------------

AGREEMENTS = [
    None,
    Agreement(),
    Agreement(client_no_context_takeover=True, server_no_context_takeover=True),
    Agreement(client_max_window_bits=9, server_max_window_bits=9),
]


@st.composite
def compressed_messages(draw: st.DrawFn) -> tuple[list[Any], Agreement | None, bytes]:
    """Draw messages and their frames: compressed or not, in fragments or not, with pings between."""
    agreement = draw(st.sampled_from(AGREEMENTS))
    deflater = None if agreement is None else Deflater(agreement)
    texts = st.text(max_size=300) | st.sampled_from(["again and again " * 20, "\u20ac" * 100])
    messages = draw(st.lists(texts | st.binary(max_size=300), max_size=6))
    wire = b""
    for message in messages:
        payload = message.encode() if isinstance(message, str) else message
        small = deflater.deflate(payload) if deflater is not None and draw(st.booleans()) else None
        body = payload if small is None else small
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        for index, piece in enumerate(pieces):
            opcode = CONTINUATION if index else TEXT if isinstance(message, str) else BINARY
            rsv = 4 if small is not None and index == 0 else 0
            wire += frame(opcode, piece, fin=index == len(pieces) - 1, rsv=rsv)
            wire += frame(PING, b"p") if draw(st.booleans()) else b""
    return messages, agreement, wire


@settings(max_examples=150, deadline=None)
@given(drawn=compressed_messages(), data=st.data())
def test_any_split_gives_the_same_messages(
    drawn: tuple[list[Any], Agreement | None, bytes], data: st.DataObject
) -> None:
    """With and without compression, bytes cut anywhere give the messages that they give in one piece."""
    messages, agreement, wire = drawn
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    for places in ([], cuts, range(len(wire))):
        decoder = Decoder(1 << 16, None if agreement is None else Inflater(agreement))
        received = []
        for start, end in zip([0, *places], [*places, len(wire)], strict=True):
            received += decoder.feed(wire[start:end])
        assert received == messages
        assert (decoder.failure, decoder.has_partial) == (None, False)
