"""
Translations between bytes and values, one module per server protocol.

Here lives what a dialect is. A dialect never stores a position: it makes one codec per connection, and what a codec
keeps is at most the failure that ended it. Sessions keep positions (``session.py``); sockets are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Union

from resilient_ws.config import Capabilities
from resilient_ws.exceptions import RemoteProtocolError
from resilient_ws.frames import Batch, Frame

Item = Union[Batch, Frame]
"""What crosses the door: data as a batch, everything else as a control frame."""

Wire = Union[str, bytes]
"""One whole WebSocket message: text or binary."""


class Codec(Protocol):
    """One connection's translator; not shared between threads, both directions may be used independently."""

    @property
    def failure(self) -> RemoteProtocolError | None:
        """What ended decoding, from the moment it was found; the next :meth:`decode` raises it."""

    def decode(self, messages: Sequence[Wire]) -> list[Item]:
        """
        Translate what one read brought, in order.

        What stands before a bad message is returned first; look at ``failure`` after each call, because no further
        message may come. Consecutive messages of a stream become one batch.

        Raises:
            RemoteProtocolError: The first message is bad, or an earlier call found a bad one.
        """

    def encode(self, items: Sequence[Item]) -> list[Wire]:
        """
        Translate ``items`` into WebSocket messages, in order.

        Raises:
            LocalProtocolError: An item cannot be said in this role.
        """


class Dialect(Protocol):
    """A stateless factory of codecs."""

    @property
    def name(self) -> str:
        """Name under which ``connect(dialect=)`` finds it."""

    @property
    def subprotocol(self) -> str | None:
        """What is negotiated in the upgrade (RFC 6455 section 1.9), None: nothing."""

    @property
    def capabilities(self) -> Capabilities:
        """What this protocol can do at all."""

    def client(self) -> Codec:
        """Return the codec of one new connection, for its client."""

    def is_compressible(self, message: Wire) -> bool:
        """
        Say whether an encoded message may share a compression context with others.

        Nothing that holds a credential may. Where a dialect lacks this method, nothing that it writes is compressed.
        """
