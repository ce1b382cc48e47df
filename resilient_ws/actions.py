"""
What a session asks of its shell: dial, write, shut, and find out. Values; nothing is done here.
"""

from __future__ import annotations

from typing import ClassVar, Union

import attrs

from resilient_ws.frames import Batch, Frame


@attrs.frozen
class Dial:
    """
    Open a connection; answer with ``connection_made`` or ``connection_lost``.

    ``is_fresh``: not to the node that served before, so without the cookies that lead there. ``token``: to be sent with
    the upgrade; None where tokens are not fetched by :class:`FetchToken`.
    """

    conn: int
    url: str
    timeout: float
    is_fresh: bool = False
    token: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class FetchToken:
    """Get an access token; answer with ``access_token``. One that comes too late is good as well."""

    what: ClassVar[str] = "an access token"

    timeout: float
    conn: int = 0


@attrs.frozen
class Discover:
    """Find out which endpoints there are; answer with ``endpoints_found``. ``token``: as in :class:`Dial`."""

    what: ClassVar[str] = "endpoints"

    timeout: float
    token: str | None = attrs.field(default=None, repr=False)
    conn: int = 0


@attrs.frozen
class Write:
    """Encode and write these items in order; answer with ``written`` when they are out."""

    conn: int
    items: list[Batch | Frame]


@attrs.frozen
class Shut:
    """End a connection (or its dial) with this close code; no answer is needed."""

    conn: int
    code: int
    reason: str


Action = Union[Dial, Write, Shut, FetchToken, Discover]
