"""The vocabulary of the wire: stream names, batches, and values that cannot change."""

from __future__ import annotations

import typing

import attrs
import pytest

from resilient_ws import frames
from resilient_ws.frames import Batch, check_stream_name


@pytest.mark.parametrize("name", ["a", "~", "~9f/x", "0", "orders/eu", "a.b_c~d-e", "_", "x" * 128])
def test_stream_name_that_is_allowed(name: str) -> None:
    """An allowed name is given back."""
    assert check_stream_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "/a", ".a", "a b", "a:b", "a\n", "é", "x" * 129, "a;b"])
def test_stream_name_that_is_not_allowed(name: str) -> None:
    """Another name is refused with a text that says which ones are allowed."""
    with pytest.raises(ValueError, match="1 to 128 of"):
        check_stream_name(name)


def test_stream_name_of_another_type() -> None:
    """A name that is no str is a mistake of the caller's."""
    with pytest.raises(TypeError, match="not bytes"):
        check_stream_name(b"orders")


def test_long_name_is_not_said_whole() -> None:
    """A name of any length leaves the message short."""
    with pytest.raises(ValueError, match="1 to 128") as caught:
        check_stream_name("x" * 100_000)
    assert len(str(caught.value)) < 400


def test_batches_are_equal_by_what_they_carry() -> None:
    """Two batches are equal when everything in them is, and only to batches."""
    assert Batch("s", 1, ["a"]) == Batch("s", 1, ["a"])
    assert Batch("s", 1, ["a"], prev=0) != Batch("s", 1, ["a"])
    assert Batch("s", 1, ["a"]) != Batch("s", 1, [b"a"])
    assert Batch("s", 1, ["a"]) != "s"
    with pytest.raises(TypeError):
        hash(Batch("s", 1, []))


def test_batch_does_not_show_its_payloads() -> None:
    """Payloads may be secrets: a batch's repr counts them only."""
    shown = repr(Batch("s", 5, ["secret", "secret"], producer=1))
    assert shown == "Batch('s', first=5, count=2, prev=None, producer=1)"


@pytest.mark.parametrize("frame", typing.get_args(frames.Frame), ids=lambda frame: frame.__name__)
def test_frame_is_frozen(frame: type) -> None:
    """Every control frame is a frozen value."""
    assert attrs.has(frame)
    assert frame.__setattr__ is not object.__setattr__


def test_largest_number_is_exact_in_json() -> None:
    """The largest number is the largest that every JSON implementation keeps exact."""
    assert frames.MAX_NUMBER == 9007199254740991
    assert float(frames.MAX_NUMBER) == frames.MAX_NUMBER
