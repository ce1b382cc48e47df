"""
The control frames of ``resilient.v1`` as one table: which JSON fields each has, their kinds and bounds.

Here lives the table; the code that loads and dumps by it is in ``fields.py``, data frames are in ``native.py``. The
meaning of each field is written down in ``docs/protocol.md``; the order of the fields is the canonical order there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from resilient_ws import frames as f
from resilient_ws.dialects.fields import (
    DECODER,
    ENCODER,
    FLAG,
    SECONDS,
    Bad,
    Kind,
    Spec,
    free_text,
    integer,
    listed,
    matching,
    may,
    need,
    nested,
    row,
    spec,
)
from resilient_ws.exceptions import LocalProtocolError

MAX_CONTROL = 4 << 20
"""Longest control frame in characters; looked at before the content. Frames within the other limits are shorter."""

MAX_PRODUCERS = 1024
MAX_STREAMS = 4096
MAX_MARKS = 8192
_NUMBER = integer(1)
_COUNT = integer(0)
_CRC = integer(0, 0xFFFFFFFF)
_PRODUCER = integer(0, MAX_PRODUCERS - 1)
_RANDOM_ID = matching(r"[0-9a-f]{32}", "32 lower-case hexadecimal digits")
_OPAQUE_ID = matching(r"[A-Za-z0-9._-]{1,64}", "1 to 64 of A-Z a-z 0-9 . _ -")
_CODE = _OPAQUE_ID
_NODE = matching(r"[!-~]{1,255}", "1 to 255 visible ASCII characters")
_TOKEN = matching(r"[!-~]{1,1024}", "1 to 1024 visible ASCII characters")
_ACCESS_TOKEN = matching(r"[ -~]{1,16384}", "1 to 16384 printable ASCII characters")
_ECHO = matching(r"[ -~]{0,128}", "at most 128 printable ASCII characters")
_URL = matching(r"[!-~]{1,2048}", "1 to 2048 visible ASCII characters")
_STREAM = matching(f.STREAM_NAME.pattern, "the name of a stream")
_HINT = free_text(1024)
_FEATURES = listed(_CODE, 64)
_PEERS = listed(_URL, 64)

# -- parts of frames --------------------------------------------------------------------------------------------------

_POSITION = spec(f.Position, need("epoch", _OPAQUE_ID), need("offset", _COUNT))
_HELD = nested(spec(f.Held, need("epoch", _OPAQUE_ID), need("offset", _COUNT), may("crc", _CRC)))
_CREDIT_FIELDS = (need("messages", _COUNT), need("bytes", _COUNT))
_CREDIT = nested(spec(f.Credit, *_CREDIT_FIELDS))
_ACKED = listed(row(f.AckedMark, ("stream", _STREAM), ("epoch", _OPAQUE_ID), ("offset", _COUNT)), MAX_MARKS)
_SEQS = listed(row(f.SeqMark, ("producer", _PRODUCER), ("stream", _STREAM), ("seq", _COUNT)), MAX_MARKS)
_OFFSETS = listed(
    row(f.OffsetMark, ("stream", _STREAM), ("id", _NUMBER), ("epoch", _OPAQUE_ID), ("offset", _COUNT)), MAX_MARKS
)
_REJECTED = listed(row(lambda seq, code: (seq, code), ("seq", _NUMBER), ("code", _CODE)), MAX_MARKS)


def _load_start(raw: Any) -> f.Start:
    if raw == "now":
        return "now"
    if raw == "earliest":
        return "earliest"
    if type(raw) is dict:
        return _POSITION.load(raw)  # type: ignore[no-any-return]
    raise Bad("must be 'now', 'earliest' or a position")


def _dump_start(start: f.Start) -> Any:
    return start if isinstance(start, str) else _POSITION.dump(start)


_START = Kind(_load_start, _dump_start)


def _one_beginning(asked: f.HelloStream | f.Subscribe) -> str | None:
    if (asked.held is None) == (asked.start is None):
        return "needs either 'held' (it was answered once) or 'start' (it never was)"
    return None


def _outbound_order(outbound: f.HelloOutbound) -> str | None:
    return None if outbound.first <= outbound.next else "'first' is above 'next'"


def _hello_whole(hello: f.Hello) -> str | None:
    if (hello.session is None) != (hello.token is None):
        return "'session' and 'token' go together"
    if len({s.stream for s in hello.streams}) != len(hello.streams):
        return "a stream is named twice"
    if len({(o.producer, o.stream) for o in hello.outbound}) != len(hello.outbound):
        return "a producer and stream are named twice in 'outbound'"
    if any(o.producer >= len(hello.producers) for o in hello.outbound):
        return "'outbound' names a producer that is not in the list"
    return None


def _gap_order(gap: Any) -> str | None:
    return None if gap.last is None or gap.first <= gap.last else "'from' is above 'to'"


@attrs.frozen
class _GapPart:
    """A gap inside an answer: it has the answer's stream, id and epoch."""

    first: int
    last: int | None
    next: int
    reason: str


def _answer(**values: Any) -> f.StreamAnswer:
    gap = values.pop("gap")
    if gap is not None:
        keys = {name: values[name] for name in ("stream", "id", "epoch")}
        gap = f.GapFrame(**keys, first=gap.first, last=gap.last, next=gap.next, reason=gap.reason)
    return f.StreamAnswer(gap=gap, **values)


def _answer_whole(answer: f.StreamAnswer) -> str | None:
    gap = answer.gap
    if answer.error is not None:
        alone = f.StreamAnswer(stream=answer.stream, id=answer.id, error=answer.error)
        return None if answer == alone else "an error stands alone"
    if not answer.epoch or answer.first < 1:
        return "needs 'epoch' and 'from', or 'error'"
    if gap is not None and (gap.stream, gap.id, gap.epoch) != (answer.stream, answer.id, answer.epoch):
        return "the gap is not of this stream, id and epoch"
    return None


_GAP_FIELDS = (
    need("from", _NUMBER, "first"),
    may("to", _NUMBER, name="last", always=True),
    need("next", _NUMBER),
    need("reason", _CODE),
)
_ERROR_FIELDS = (need("code", _CODE), may("hint", _HINT, ""))
_ANSWER_FIELDS = (
    need("stream", _STREAM),
    need("id", _NUMBER),
    may("epoch", _OPAQUE_ID, ""),
    may("from", _NUMBER, 0, name="first"),
    may("crc", _CRC),
    may("live", _COUNT, 0),
    may("gap", nested(Spec(_GapPart, _GAP_FIELDS, _gap_order))),
    may("error", nested(spec(f.Error, *_ERROR_FIELDS))),
)
_ANSWER = Spec(_answer, _ANSWER_FIELDS, _answer_whole)
_HELLO_STREAM = spec(
    f.HelloStream,
    need("stream", _STREAM),
    need("id", _NUMBER),
    may("held", _HELD),
    may("acked", _COUNT),
    may("start", _START),
    check=_one_beginning,
)
_HELLO_OUTBOUND = spec(
    f.HelloOutbound,
    need("producer", _PRODUCER),
    need("stream", _STREAM),
    need("first", _NUMBER),
    need("next", _NUMBER),
    check=_outbound_order,
)
_COMMITTED_ANSWER = spec(
    f.CommittedAnswer,
    need("producer", _PRODUCER),
    need("stream", _STREAM),
    need("seq", _COUNT),
    may("known", FLAG, True),
    may("rejected", _REJECTED, ()),
)
_KEEPALIVE = spec(f.KeepaliveAdvice, need("interval", SECONDS), need("timeout", SECONDS))

# -- frames -----------------------------------------------------------------------------------------------------------

_HELLO = spec(
    f.Hello,
    need("version", _NUMBER),
    may("features", _FEATURES, ()),
    need("instance", _RANDOM_ID),
    need("attempt", _NUMBER),
    may("session", _OPAQUE_ID),
    may("token", _TOKEN),
    need("producers", listed(_RANDOM_ID, MAX_PRODUCERS)),
    may("streams", listed(nested(_HELLO_STREAM), MAX_STREAMS), ()),
    may("outbound", listed(nested(_HELLO_OUTBOUND), MAX_MARKS), ()),
    need("credit", _CREDIT),
    need("max_message", _NUMBER),
    may("standby", FLAG, False),
    check=_hello_whole,
)
_WELCOME = spec(
    f.Welcome,
    need("version", _NUMBER),
    may("features", _FEATURES, ()),
    need("session", _OPAQUE_ID),
    need("token", _TOKEN),
    need("generation", _NUMBER),
    need("verdict", matching("resumed|new", "'resumed' or 'new'")),
    may("reason", _CODE),
    need("ttl", SECONDS),
    need("node", _NODE),
    need("incarnation", _OPAQUE_ID),
    need("producer_ttl", SECONDS),
    need("max_message", _NUMBER),
    may("committed", listed(nested(_COMMITTED_ANSWER), MAX_MARKS), ()),
    may("streams", listed(nested(_ANSWER), MAX_STREAMS), ()),
    may("keepalive", nested(_KEEPALIVE)),
    may("peers", _PEERS, ()),
    may("spread", SECONDS, 0.0),
)
_SUBSCRIBE = spec(
    f.Subscribe,
    need("stream", _STREAM),
    need("id", _NUMBER),
    may("held", _HELD),
    may("start", _START),
    check=_one_beginning,
)
_GAP = spec(
    f.GapFrame, need("stream", _STREAM), need("id", _NUMBER), need("epoch", _OPAQUE_ID), *_GAP_FIELDS, check=_gap_order
)
_REJECT = spec(
    f.Reject,
    need("producer", _PRODUCER),
    need("stream", _STREAM),
    need("seq", _NUMBER),
    need("code", _CODE),
    may("hint", _HINT, ""),
)
_DRAIN = spec(
    f.Drain, need("within", SECONDS), may("jitter", SECONDS, 0.0), may("spread", SECONDS, 0.0), may("peers", _PEERS, ())
)
_FROM_CLIENT = (need("echo", _ECHO), may("acked", _ACKED, ()), may("sent_seqs", _SEQS, ()), may("credit", _CREDIT))
_FROM_SERVER = (
    need("echo", _ECHO),
    may("committed", _SEQS, ()),
    may("sent_offsets", _OFFSETS, ()),
    may("spread", SECONDS),
)
_ERROR = spec(f.Error, *_ERROR_FIELDS, may("fatal", FLAG, False))
_BYE = spec(f.Bye, may("code", _CODE, "closed", always=True), may("hint", _HINT, ""))

Table = dict[str, tuple[type, Spec]]
CLIENT: Table = {
    "hello": (f.Hello, _HELLO),
    "ready": (f.Ready, spec(f.Ready, need("generation", _NUMBER))),
    "subscribe": (f.Subscribe, _SUBSCRIBE),
    "unsubscribe": (f.Unsubscribe, spec(f.Unsubscribe, need("stream", _STREAM), need("id", _NUMBER))),
    "ack": (f.Ack, spec(f.Ack, may("acked", _ACKED, ()))),
    "credit": (
        f.Grant,
        Spec(lambda **totals: f.Grant(credit=f.Credit(**totals)), _CREDIT_FIELDS, source=lambda grant: grant.credit),
    ),
    "ping": (f.Ping, spec(f.Ping, *_FROM_CLIENT)),
    "pong": (f.Pong, spec(f.Pong, *_FROM_CLIENT)),
    "auth": (f.Auth, spec(f.Auth, need("access_token", _ACCESS_TOKEN))),
    "error": (f.Error, _ERROR),
    "bye": (f.Bye, _BYE),
}
"""What a client may send."""

SERVER: Table = {
    "welcome": (f.Welcome, _WELCOME),
    "standing": (f.Standing, spec(f.Standing, need("node", _NODE))),
    "subscribed": (
        f.Subscribed,
        Spec(
            lambda **values: f.Subscribed(answer=_answer(**values)),
            _ANSWER_FIELDS,
            lambda subscribed: _answer_whole(subscribed.answer),
            lambda subscribed: subscribed.answer,
        ),
    ),
    "ack": (f.Ack, spec(f.Ack, may("committed", _SEQS, ()))),
    "gap": (f.GapFrame, _GAP),
    "reject": (f.Reject, _REJECT),
    "ping": (f.Ping, spec(f.Ping, *_FROM_SERVER)),
    "pong": (f.Pong, spec(f.Pong, *_FROM_SERVER)),
    "drain": (f.Drain, _DRAIN),
    "error": (f.Error, _ERROR),
    "bye": (f.Bye, _BYE),
}
"""What a server may send."""


def load(text: str, sent: Table, other: Table) -> f.Frame:
    """
    Return the frame that ``text`` says.

    Args:
        text: The whole text message; its first character is ``{``.
        sent: What the peer may send.
        other: What only we may send, to name the mistake.

    Raises:
        Bad: It breaks the table.
    """
    if len(text) > MAX_CONTROL:
        raise Bad(f"a control frame of {len(text)} characters, at most {MAX_CONTROL} are allowed")
    try:
        members = DECODER.decode(text)
    except Bad:
        raise
    except RecursionError:
        raise Bad("a control frame is nested too deeply") from None
    except ValueError:
        raise Bad("a control frame is not JSON") from None
    kind = members.get("type")
    if type(kind) is not str or kind not in sent:
        role = isinstance(kind, str) and kind in other
        raise Bad(f"a {kind!r} frame came from the wrong side" if role else "a control frame has no known 'type'")
    try:
        return sent[kind][1].load(members)  # type: ignore[no-any-return]
    except Bad as bad:
        raise Bad(f"a {kind!r} frame breaks the protocol: {bad}") from None


def dumper(table: Table) -> Callable[[f.Frame], str]:
    """Return the function that writes the frames of ``table``."""
    by_class = {cls: (kind, spec) for kind, (cls, spec) in table.items()}

    def dump(frame: f.Frame) -> str:
        known = by_class.get(type(frame))
        if known is None:
            raise LocalProtocolError(f"{type(frame).__name__} is not a frame of this side; the other side sends it")
        return ENCODER.encode({"type": known[0], **known[1].dump(frame)})

    return dump
