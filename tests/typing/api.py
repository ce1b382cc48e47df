"""
How the public names look to a type checker; mypy reads this file, nothing runs it.

What lives here: ``assert_type`` on what users write, and one wrong use per promise with the error code it must give.
"""

from __future__ import annotations

from typing_extensions import assert_type

import resilient_ws
from resilient_ws import exceptions

assert_type(resilient_ws.__version__, str)


def what_to_do(error: exceptions.ResilientWSError) -> None:
    """Both questions have an answer on every error."""
    assert_type(error.retryable, bool)
    assert_type(error.definite, bool)
    if isinstance(error, exceptions.Gap):
        assert_type(error.first, int)
        assert_type(error.last, int | None)
    if isinstance(error, exceptions.HandshakeRejected):
        assert_type(error.status, int | None)
    if isinstance(error, exceptions.ProxyError):
        assert_type(error.status, int | None)


resilient_ws.connect("wss://node.example/", proxy="socks5h://proxy", wait=False)
resilient_ws.connect("wss://node.example/", proxy=None, wait=False)
resilient_ws.connect("wss://node.example/", proxy=False, wait=False)  # type: ignore[arg-type]
exceptions.HandshakeRejected("rejected", 503)  # type: ignore[call-arg]
