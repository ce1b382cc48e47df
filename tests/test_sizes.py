"""Sizes of payloads on the wire."""

from __future__ import annotations

import pytest

from resilient_ws.sizes import size_of, sizes_of


@pytest.mark.parametrize(
    ("payloads", "size"),
    [([], 0), (["abc", ""], 3), ([b"abc", b"\x80"], 4),
     (["a", "\u00e9"], 3), (["a", b"bc"], 3), (["\U0001f600", b""], 4),
     (["x" * 2000, "y"], 2001), ([b"x" * 2000, b"y"], 2001),
     (["\u00e9" * 2000, "y"], 4001), (["x" * 2000, b"yz"], 2002)],
)
def test_sizes_are_bytes_of_utf_8(payloads: list[str | bytes], size: int) -> None:
    """Text counts as it goes out, whatever else there is."""
    assert sizes_of(payloads) == size
    assert sum(map(size_of, payloads)) == size
