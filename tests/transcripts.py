"""
Loads the golden transcripts of ``docs/transcripts``: what crosses the wire in the situations that the protocol is for.

Each file is JSON lines. The first has one member, ``about``. Every other says ``at`` (seconds), ``conn`` (number of
the connection) and ``from`` (``client``, ``server`` or ``network``), with ``text`` or ``base64`` for a WebSocket
message, or ``close`` (a code) and ``reason`` for the end of the connection.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import attrs

from resilient_ws.dialects import Wire

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "transcripts"


@attrs.frozen(kw_only=True)
class Line:
    """
    One line of a transcript.

    Attributes:
        wire: The message, or None where the connection ended.
        close: (code, reason) where it ended.
    """

    number: int
    at: float
    conn: int
    sender: str
    wire: Wire | None = None
    close: tuple[int, str] | None = None


@attrs.frozen(kw_only=True)
class Transcript:
    """One scenario, in the order in which its messages were sent."""

    name: str
    about: str
    lines: tuple[Line, ...]


def load(path: Path) -> Transcript:
    """
    Read one file.

    Raises:
        ValueError: A line is not what the module's docstring says.
    """
    head, *rest = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if list(head) != ["about"]:
        raise ValueError(f"{path.name}: the first line must have 'about' and nothing else")
    return Transcript(
        name=path.stem, about=head["about"], lines=tuple([_line(path, i, raw) for i, raw in enumerate(rest, 2)])
    )


def load_all() -> list[Transcript]:
    """Read every transcript, in the order of their names."""
    return [load(path) for path in sorted(FOLDER.glob("*.jsonl"))]


def _line(path: Path, number: int, raw: dict[str, object]) -> Line:
    at, conn, sender = raw.get("at"), raw.get("conn"), raw.get("from")
    if not isinstance(at, (int, float)) or not isinstance(conn, int) or sender not in ("client", "server", "network"):
        raise ValueError(f"{path.name}:{number}: needs 'at', 'conn' and 'from'")
    match {key: value for key, value in raw.items() if key not in ("at", "conn", "from")}:
        case {"text": str(text), **none} if not none:
            return Line(number=number, at=at, conn=conn, sender=sender, wire=text)
        case {"base64": str(coded), **none} if not none:
            return Line(number=number, at=at, conn=conn, sender=sender, wire=base64.b64decode(coded, validate=True))
        case {"close": int(code), "reason": str(reason), **none} if not none:
            return Line(number=number, at=at, conn=conn, sender=sender, close=(code, reason))
    raise ValueError(f"{path.name}:{number}: needs 'text', or 'base64', or 'close' with 'reason'")
