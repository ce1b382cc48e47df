"""
``resilient.v1``: data frames and the codec of both roles.

Here live the wire forms of data and the door of the dialect; the table of control frames is in ``native_control.py``.
Positions, subscriptions and everything else that outlives a call never live here. The grammar is in
``docs/protocol.md``. The common form, one message in one frame, makes no object but its payload.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any

from resilient_ws.config import Capabilities
from resilient_ws.dialects import Codec, Item, Wire, native_control
from resilient_ws.dialects.fields import Bad
from resilient_ws.dialects.native_control import Table
from resilient_ws.exceptions import LocalProtocolError, RemoteProtocolError
from resilient_ws.frames import MAX_NUMBER, STREAM_NAME, Batch, Payload

PROTOCOL_ERROR = 4400
BATCH_MESSAGES = 64
"""Most messages that a written batch frame carries."""
BATCH_BYTES = 64 << 10
"""Payload bytes that a written batch frame does not pass, unless one message alone is larger."""
MAX_BATCH = 1024
"""Most messages that a received batch frame may carry."""

_HINT = "see docs/protocol.md, 'Data frames' and 'Control frames'"
_MAX_NAME = 128
_MAX_FIELD = 256
_MAX_LENGTH = 11
_MAX_OVERHEAD = 4096
_AT_ONCE = 64
_HEADER = re.compile(
    r"([1-9][0-9]{0,15})(?:-(0|[1-9][0-9]{0,15})|\*([1-9][0-9]{0,3}))?"
    r"((?:;[a-z][a-z0-9_]{0,15}(?:=[A-Za-z0-9._~-]{0,64})?)*)\Z"
)
# Nearly all data is plain: no attribute, and a number of at most 15 digits is below 2^53. Whatever else is _HEADER's.
_PLAIN = re.compile(r"([A-Za-z0-9_~][A-Za-z0-9._~/-]{0,127}):([1-9][0-9]{0,14}):")
_PLAIN_BINARY = re.compile(_PLAIN.pattern.encode())
_LENGTHS = re.compile(rb"(?:0|[1-9][0-9]{0,9})(?:,(?:0|[1-9][0-9]{0,9}))*\Z")
_CODE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_PRODUCER = re.compile(r"(?:0|[1-9][0-9]{0,3})\Z")


class _Header:
    """What stands before the payload of one data frame; ``body`` is where the payload, or a batch's lengths, begin."""

    __slots__ = ("attributes", "body", "count", "number", "prev", "producer", "stream", "text", "void")

    def __init__(self, message: Wire, *, from_server: bool) -> None:
        name_end, self.body = _colons(message)
        written = _ascii(message[: self.body - 1])
        match = _HEADER.match(written, name_end + 1)
        self.stream = written[:name_end]
        if match is None or STREAM_NAME.match(self.stream) is None:
            raise Bad("the header of a data frame is not 'stream:number'")
        number, prev, count, self.attributes = match.groups()
        self.number = int(number)
        self.prev = None if prev is None else int(prev)
        self.count = None if count is None else int(count)
        attributes = _attributes(self.attributes)
        self.text = "text" in attributes
        if attributes.get("text") is not None:
            raise Bad("attribute 'text' has no value")
        self.producer = 0 if from_server or "p" not in attributes else _producer(attributes["p"])
        self.void = None if from_server or "void" not in attributes else _code(attributes["void"])
        if self.number > MAX_NUMBER - (self.count or 1) + 1:
            raise Bad("the number of a message is above 2^53 - 1")
        if self.prev is not None and (not from_server or self.prev >= self.number):
            raise Bad("the number before a message is not below it, or a client sent one")


def _colons(message: Wire) -> tuple[int, int]:
    """Return where the stream's name ends and where the body begins; look no further than a header may reach."""
    colon = ":" if isinstance(message, str) else b":"
    name_end = message.find(colon, 0, _MAX_NAME + 1)  # type: ignore[arg-type]
    field_end = message.find(colon, name_end + 1, name_end + 2 + _MAX_FIELD)  # type: ignore[arg-type]
    if name_end < 1 or field_end < 0:
        raise Bad("a message is neither a control frame nor 'stream:number:payload'")
    return name_end, field_end + 1


def _ascii(header: Wire) -> str:
    if isinstance(header, str):
        return header
    try:
        return header.decode("ascii")
    except UnicodeDecodeError:
        raise Bad("the header of a data frame is not ASCII") from None


def _attributes(written: str) -> dict[str, str | None]:
    """Parse ``;key=value;flag``; a flag has the value None."""
    attributes: dict[str, str | None] = {}
    for attribute in written.split(";")[1:]:
        key, equals, value = attribute.partition("=")
        if key in attributes:
            raise Bad("an attribute of a data frame is given twice")
        attributes[key] = value if equals else None
    return attributes


def _producer(value: str | None) -> int:
    if value is None or _PRODUCER.match(value) is None or int(value) >= native_control.MAX_PRODUCERS:
        raise Bad("attribute 'p' is not an index into the hello's producers")
    return int(value)


def _code(value: str | None) -> str:
    if value is None or _CODE.match(value) is None:
        raise Bad("attribute 'void' is not a code")
    return value


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Bad("a payload that is said to be text is not UTF-8") from None


def _batch(message: Wire, header: _Header) -> Batch:
    """Return the batch of one data frame whose header is known."""
    payloads: list[Payload] = [message[header.body :]] if header.count is None else _parts(message, header)
    if header.text:
        payloads = [_text(payload) if isinstance(payload, bytes) else payload for payload in payloads]
    return Batch(header.stream, header.number, payloads, prev=header.prev, producer=header.producer, void=header.void)


def _parts(message: Wire, header: _Header) -> list[Payload]:
    """Cut a batch frame's payloads out; they are text already where that is said of them and all of it is ASCII."""
    count = header.count or 1
    if count > MAX_BATCH or not isinstance(message, bytes):
        raise Bad(f"a batch frame is not binary, or carries more than {MAX_BATCH} messages")
    start = message.find(b":", header.body, header.body + count * _MAX_LENGTH) + 1
    listed = message[header.body : max(start - 1, 0)]
    ends = _ends(listed, start, count)
    if ends[-1] != len(message):
        raise Bad("the lengths of a batch frame do not add up to its size")
    whole = message.decode("ascii") if header.text and message.isascii() else message
    return [whole[begin:end] for begin, end in pairwise(ends)]


def _ends(listed: bytes, start: int, count: int) -> Sequence[int]:
    """Return where each of a batch frame's payloads begins, and where the last one ends."""
    length = listed.partition(b",")[0]
    if length != b"0" and _LENGTHS.match(length) and listed == b",".join([length] * count):
        return range(start, start + int(length) * count + 1, int(length))
    if _LENGTHS.match(listed) is None or listed.count(b",") != count - 1:
        raise Bad("the lengths of a batch frame are not one number for each message")
    return list(accumulate(map(int, listed.split(b",")), initial=start))


def _is_next(batch: Batch, last: Batch) -> bool:
    """Say whether a batch can be put behind the one before it, so that there is one for the session to take."""
    return (
        last.stream == batch.stream
        and last.producer == batch.producer
        and (last.prev, batch.prev, last.void, batch.void) == (None,) * 4
        and (last.first or 0) + len(last.payloads) == batch.first
    )


def _continue(batch: Batch, head: str, tail: str, messages: Sequence[Wire], at: int) -> int:
    """
    Take what continues a batch of plain messages into it; returns the place of what does not.

    The header of the next one is known before it comes, so that cutting it off checks everything in it. That is done
    for many at once, which makes a message cheap: a header that was not cut off shows in the sum of the lengths.
    """
    payloads, number = batch.payloads, (batch.first or 0) + 1
    while at < len(messages):
        some = messages[at : at + _AT_ONCE]
        texts = [f"{head}{n}{tail}" for n in range(number, number + len(some))]
        headers: list[Any] = texts
        cut: Any = str.removeprefix
        if not isinstance(some[0], str):
            cut, headers = bytes.removeprefix, [header.encode() for header in texts]
        try:
            bodies: list[Payload] = list(map(cut, some, headers))
            is_all = sum(map(len, some)) - sum(map(len, bodies)) == sum(map(len, headers))
        except TypeError:  # text among bytes, or bytes among text
            is_all = False
        if not is_all or number + len(some) - 1 > MAX_NUMBER:
            return at + _continue_singly(payloads, number, texts, some)
        payloads += bodies
        number += len(some)
        at += len(some)
    return at


def _continue_singly(payloads: list[Payload], number: int, headers: list[str], some: Sequence[Wire]) -> int:
    """Take the messages in front that have the header which is expected; returns how many."""
    count = 0
    for message, header in zip(some, headers, strict=True):
        is_next = message.startswith(header) if isinstance(message, str) else message.startswith(header.encode())
        if not is_next or number + count > MAX_NUMBER:
            break
        payloads.append(message[len(header) :])
        count += 1
    return count


class _NativeCodec:
    """The codec of one connection in one role; what it keeps is the failure that ended it."""

    __slots__ = ("_dump", "_from_server", "_other", "_sent", "failure")

    def __init__(self, sent: Table, said: Table, *, from_server: bool) -> None:
        self.failure: RemoteProtocolError | None = None
        self._sent = sent
        self._other = said
        self._from_server = from_server
        self._dump = native_control.dumper(said)

    def decode(self, messages: Sequence[Wire]) -> list[Item]:
        """Translate what one read brought; see :meth:`resilient_ws.dialects.Codec.decode`."""
        if self.failure is not None:
            raise self.failure
        items: list[Item] = []
        try:
            self._decode(messages, items)
        except Bad as bad:
            self.failure = RemoteProtocolError(str(bad), hint=_HINT, code=PROTOCOL_ERROR)
            if not items:
                raise self.failure from None
        return items

    def _decode(self, messages: Sequence[Wire], items: list[Item]) -> None:
        at, end = 0, len(messages)
        while at < end:
            message = messages[at]
            at += 1
            if isinstance(message, str) and message.startswith("{"):
                items.append(native_control.load(message, self._sent, self._other))
                continue
            batch, attributes = self._data(message)
            last = items[-1] if items else None
            if type(last) is Batch and _is_next(batch, last):
                last.payloads += batch.payloads
                batch = last
            else:
                items.append(batch)
            if attributes is not None and at < end:
                at = _continue(batch, f"{batch.stream}:", f"{attributes}:", messages, at)

    def _data(self, message: Wire) -> tuple[Batch, str | None]:
        """Return a batch, and the attributes with which another message would continue it (None: none could)."""
        plain = _PLAIN.match(message) if isinstance(message, str) else _PLAIN_BINARY.match(message)
        if plain is not None:
            stream, number = plain.groups()
            name = stream if isinstance(stream, str) else stream.decode()
            return Batch(name, int(number), [message[plain.end() :]]), ""
        header = _Header(message, from_server=self._from_server)
        batch = _batch(message, header)
        if header.void is not None and any(batch.payloads):
            raise Bad("a message that was withdrawn has a payload")
        is_alone = header.count is not None or header.prev is not None or header.void is not None or header.text
        return batch, None if is_alone else header.attributes

    def encode(self, items: Sequence[Item]) -> list[Wire]:
        """Translate into WebSocket messages; see :meth:`resilient_ws.dialects.Codec.encode`."""
        wires: list[Wire] = []
        for item in items:
            if type(item) is Batch:
                wires.extend(self._written(item))
            else:
                wires.append(self._dump(item))  # type: ignore[arg-type]
        return wires

    def _written(self, batch: Batch) -> Iterator[Wire]:
        """Write a batch: a message that stands alone in the short form, others in batch frames of one type."""
        number, payloads = batch.first, batch.payloads
        foreign = batch.prev is not None if self._from_server else batch.producer or batch.void is not None
        if number is None or foreign:
            raise LocalProtocolError(f"{batch!r}: needs 'first'; a client sends no 'prev', a server no 'p' and 'void'")
        stream, mark = batch.stream, f";p={batch.producer}" if batch.producer else ""
        if batch.void is not None:
            mark += f";void={batch.void}"
        if len(payloads) == 1 or batch.prev is not None:
            skipped = "" if batch.prev is None else f"-{batch.prev}"
            yield _short(f"{stream}:{number}{skipped}{mark}:", payloads[0])
            number, payloads = number + 1, payloads[1:]
        for is_text, same in groupby(payloads, lambda payload: isinstance(payload, str)):
            run = list(same)
            encoded = [payload.encode() if isinstance(payload, str) else payload for payload in run]
            for begin, end in _chunks(encoded):
                if end - begin == 1:
                    yield _short(f"{stream}:{number}{mark}:", run[begin])
                else:
                    attributes = f"{mark};text" if is_text else mark
                    yield _long(f"{stream}:{number}*{end - begin}{attributes}:", encoded[begin:end])
                number += end - begin


def _short(header: str, payload: Payload) -> Wire:
    return header + payload if isinstance(payload, str) else header.encode() + payload


def _long(header: str, payloads: list[bytes]) -> Wire:
    lengths = ",".join([str(len(payload)) for payload in payloads])
    return b"".join([header.encode(), lengths.encode(), b":", *payloads])


def _chunks(payloads: list[bytes]) -> Iterator[tuple[int, int]]:
    """Cut ``payloads`` (at least one) where a batch frame is full; every chunk has at least one message."""
    begin, size = 0, 0
    for index, payload in enumerate(payloads):
        if index > begin and (index - begin == BATCH_MESSAGES or size + len(payload) > BATCH_BYTES):
            yield begin, index
            begin, size = index, 0
        size += len(payload)
    yield begin, len(payloads)


def wire_limit(max_message: int) -> int:
    """Return how many bytes a WebSocket message may have that a receiver must accept, header included."""
    return max(max_message + _MAX_OVERHEAD, native_control.MAX_CONTROL)


class Native:
    """The native dialect: makes one codec per connection and role."""

    name = "native"
    subprotocol = "resilient.v1"
    capabilities = Capabilities(positions=True, acks=True, credit=True, resume=True)

    def client(self) -> Codec:
        """Return a codec that decodes what a server sends and encodes what a client sends."""
        return _NativeCodec(native_control.SERVER, native_control.CLIENT, from_server=True)

    def server(self) -> Codec:
        """Return a codec that decodes what a client sends and encodes what a server sends."""
        return _NativeCodec(native_control.CLIENT, native_control.SERVER, from_server=False)

    def is_compressible(self, message: Wire) -> bool:
        """Say yes to data; control frames have tokens in them."""
        return not (isinstance(message, str) and message.startswith("{"))
