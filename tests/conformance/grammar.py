"""
What a server may say: every frame by its fields, and data frames by their header (sections 4 and 5 of the protocol).

Written from ``docs/protocol.md`` and from nothing else; the package's own codec is not asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MOST = 2**53 - 1
STREAM = r"[A-Za-z0-9_~][A-Za-z0-9._~/-]{0,127}"
_DATA = re.compile(rf"({STREAM}):([^:]{{1,256}}):".encode())
_FIRST = r"([1-9]\d{0,15})(?:-(0|[1-9]\d{0,15})|\*([1-9]\d{0,3}))?"
_FIELD = re.compile(_FIRST + r"((?:;[a-z][a-z0-9_]{0,15}(?:=[\w.~-]{0,64})?)*)")


class Message(NamedTuple):
    """One message of a stream, as it came."""

    stream: str
    offset: int
    data: str | bytes


Check = Callable[[Any], bool]


def _number(value: object) -> bool:
    return type(value) is int and 0 < value <= MOST


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST


def _seconds(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1e9  # type: ignore[arg-type]


def _matches(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _every(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _row(*checks: Check) -> Check:
    return lambda value: (
        isinstance(value, list) and len(value) == len(checks) and all(f(v) for f, v in zip(checks, value, strict=True))
    )


def _object(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    def check(value: object) -> bool:
        if not isinstance(value, dict):
            return False
        given = {key: found for key, found in value.items() if found is not None}
        known = {**required, **(optional or {})}
        return set(required) <= set(given) and all(known[key](given[key]) for key in given if key in known)

    return check


_id, _stream, _visible = _matches(r"[A-Za-z0-9._-]{1,64}"), _matches(STREAM), _matches(r"[!-~]{1,255}")
_hint, _token, _echo = _matches(r"[^\x00-\x1f\x7f]{0,1024}"), _matches(r"[!-~]{1,1024}"), _matches(r"[ -~]{0,128}")
_urls, _true = _every(_matches(r"wss?://.+")), lambda value: type(value) is bool
_gap = _object({"from": _number, "next": _number, "reason": _id}, {"to": _number})
_refused = _object({"stream": _stream, "id": _number, "error": _object({"code": _id}, {"hint": _hint})})
_answered = _object(
    {"stream": _stream, "id": _number, "epoch": _id, "from": _number},
    {"crc": lambda value: _natural(value) and value < 1 << 32, "live": _natural, "gap": _gap},
)
_committed = _every(_row(_natural, _stream, _number))
_offsets = _every(_row(_stream, _number, _id, _natural))
_settled = _object(
    {"producer": _natural, "stream": _stream, "seq": _natural},
    {"known": _true, "rejected": _every(_row(_number, _id))},
)


def _answer(value: Any) -> bool:
    return _refused(value) if "error" in value else _answered(value)


GRAMMAR: dict[str, Check] = {
    "welcome": _object(
        {
            "version": lambda value: type(value) is int and value == 1,
            "session": _matches(r"[0-9a-f]{2}[A-Za-z0-9_-]{20,62}"),
            "token": _token,
            "generation": _number,
            "verdict": _matches("resumed|new"),
            "ttl": _seconds,
            "node": _visible,
            "incarnation": _id,
            "producer_ttl": _seconds,
            "max_message": _number,
        },
        {
            "features": _every(_id),
            "reason": _matches("unknown|expired|superseded"),
            "committed": _every(_settled),
            "streams": _every(_answer),
            "keepalive": _object({"interval": _seconds, "timeout": _seconds}),
            "peers": _urls,
            "spread": _seconds,
        },
    ),
    "standing": _object({"node": _visible}),
    "subscribed": _answer,
    "ack": _object({"committed": _committed}),
    "gap": _object(
        {"stream": _stream, "id": _number, "epoch": _id, "from": _number, "next": _number, "reason": _id},
        {"to": _number},
    ),
    "reject": _object(
        {"producer": _natural, "stream": _stream, "seq": _number, "code": _id}, {"hint": _hint}
    ),
    "ping": _object({"echo": _echo}, {"committed": _committed, "sent_offsets": _offsets, "spread": _seconds}),
    "pong": _object({"echo": _echo}, {"committed": _committed, "sent_offsets": _offsets, "spread": _seconds}),
    "drain": _object({"within": _seconds}, {"jitter": _seconds, "spread": _seconds, "peers": _urls}),
    "error": _object({"code": _id}, {"hint": _hint, "fatal": _true}),
    "bye": _object({}, {"code": _id, "hint": _hint}),
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a field is given twice"
    return dict(pairs)


def parse_control(text: str) -> dict[str, Any]:
    """Read a control frame of a server; AssertionError where it is none."""
    frame = json.loads(text, object_pairs_hook=_once)
    assert frame.get("type") in GRAMMAR, f"no frame of a server: {text[:200]}"
    assert GRAMMAR[frame["type"]](frame), f"against the grammar of section 5: {text[:1000]}"
    return dict(frame)


def parse_data(raw: bytes, is_text: bool) -> tuple[int | None, list[Message]]:
    """Read a data frame of a server: what its ``skip`` says, and its messages (section 4)."""
    head = _DATA.match(raw)
    field = None if head is None else _FIELD.fullmatch(head[2].decode("ascii"))
    assert head is not None, f"no data frame: {raw[:200]!r}"
    assert field is not None, f"no data frame: {raw[:200]!r}"
    stream, first, skip, many = head[1].decode(), int(field[1]), field[2], field[3]
    attributes = dict(part.partition("=")[::2] for part in field[4].split(";")[1:])
    body, payloads = raw[head.end() :], []
    if many is None:
        payloads = [body]
    else:
        assert not is_text, "a batch frame is a binary message"
        lengths, _, body = body.partition(b":")
        for length in map(int, lengths.split(b",")):
            payloads.append(body[:length])
            body = body[length:]
        assert (len(payloads), body) == (int(many), b""), "the lengths of a batch do not fit"
    if skip is not None:
        assert int(skip) < first, "skip is not below the offset"
    texts = is_text or "text" in attributes
    found = [Message(stream, first + i, data.decode() if texts else data) for i, data in enumerate(payloads)]
    return None if skip is None else int(skip), found
