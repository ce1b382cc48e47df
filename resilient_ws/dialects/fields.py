"""
Typed JSON objects by table: kinds of values, the fields of an object, and the code that loads and dumps by them.

Here lives nothing of one protocol; a dialect writes its table with these parts. No value that came from the peer is
ever quoted in an error: it may be a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import attrs

from resilient_ws.exceptions import LocalProtocolError

MAX_NUMBER = 2**53 - 1
MAX_SECONDS = 1e9

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Bad(ValueError):
    """A frame breaks the table; the text names the field, never its value."""


def _same(value: Any) -> Any:
    return value


@attrs.frozen
class Kind:
    """How one value looks on the wire."""

    load: Callable[[Any], Any]
    dump: Callable[[Any], Any] = _same


@attrs.frozen
class Field:
    """One field of an object: its JSON key, the attribute, the kind, and what absence means."""

    key: str
    kind: Kind
    name: str
    required: bool
    default: Any = None
    always: bool = False


def need(key: str, kind: Kind, name: str | None = None) -> Field:
    return Field(key, kind, name or key, True, always=True)


def may(key: str, kind: Kind, default: Any = None, *, name: str | None = None, always: bool = False) -> Field:
    return Field(key, kind, name or key, False, default, always)


def _no_fault(value: Any) -> str | None:
    return None


@attrs.frozen
class Spec:
    """
    One kind of JSON object.

    Attributes:
        build: Makes the value from the attributes.
        fields: In canonical order.
        check: What the fields alone cannot say; returns a text, or None where all is well.
        source: Where the attributes are read from when dumping.
        unsaid: Attributes with their defaults that this object cannot say.
    """

    build: Callable[..., Any]
    fields: tuple[Field, ...]
    check: Callable[[Any], str | None] = _no_fault
    source: Callable[[Any], Any] = _same
    unsaid: tuple[tuple[str, Any], ...] = ()

    def load(self, value: Any) -> Any:
        """Build the value that a parsed JSON object stands for, or raise :class:`Bad`."""
        if type(value) is not dict:
            raise Bad("must be an object")
        values = {field.name: _load_field(field, value.get(field.key)) for field in self.fields}
        built = self.build(**values)
        fault = self.check(built)
        if fault is not None:
            raise Bad(fault)
        return built

    def dump(self, value: Any) -> dict[str, Any]:
        """Return the JSON object of ``value``; raises LocalProtocolError where it cannot be said."""
        fault = self.check(value)
        if fault is not None:
            raise LocalProtocolError(f"{type(value).__name__}: {fault}")
        source = self.source(value)
        for name, default in self.unsaid:
            if getattr(source, name) != default:
                raise LocalProtocolError(f"{type(value).__name__}.{name} is not said in this direction; leave it empty")
        said: dict[str, Any] = {}
        for field in self.fields:
            member = getattr(source, field.name)
            if field.always or member != field.default:
                said[field.key] = None if member is None else field.kind.dump(member)
        return said


def _load_field(field: Field, raw: Any) -> Any:
    if raw is None:
        if field.required:
            raise Bad(f"field {field.key!r} is missing")
        return field.default
    try:
        return field.kind.load(raw)
    except Bad as bad:
        raise Bad(f"field {field.key!r}: {bad}") from None


def _unsaid(cls: type, fields: tuple[Field, ...]) -> tuple[tuple[str, Any], ...]:
    """List the defaulted attributes of ``cls`` that no field says."""
    said = {field.name for field in fields}
    others = [a for a in attrs.fields(cls) if a.name not in said and a.default is not attrs.NOTHING]
    return tuple([(a.name, a.default) for a in others])


def spec(cls: type, *fields: Field, check: Callable[[Any], str | None] = _no_fault) -> Spec:
    return Spec(cls, fields, check, _same, _unsaid(cls, fields))


# -- kinds ------------------------------------------------------------------------------------------------------------


def integer(low: int = 0, high: int = MAX_NUMBER) -> Kind:
    def load(raw: Any) -> int:
        if type(raw) is not int or not low <= raw <= high:
            raise Bad(f"must be an integer from {low} to {high}")
        return raw

    return Kind(load)


def _load_seconds(raw: Any) -> float:
    if type(raw) not in (int, float) or not 0 <= raw <= MAX_SECONDS:
        raise Bad("must be a number of seconds, 0 or above")
    return float(raw)


def _dump_seconds(value: float) -> float:
    """Write a whole number without a fraction, so that there is one way to write it."""
    return int(value) if value == int(value) else value


def _load_flag(raw: Any) -> bool:
    if type(raw) is not bool:
        raise Bad("must be true or false")
    return raw


SECONDS = Kind(_load_seconds, _dump_seconds)
FLAG = Kind(_load_flag)


def matching(pattern: str, what: str) -> Kind:
    compiled = re.compile(pattern)

    def load(raw: Any) -> str:
        if type(raw) is not str or compiled.fullmatch(raw) is None:
            raise Bad(f"must be {what}")
        return raw

    return Kind(load)


def free_text(limit: int) -> Kind:
    """Text for people: cleaned when it is written, so that reporting a fault cannot be a fault."""

    def load(raw: Any) -> str:
        if type(raw) is not str or len(raw) > limit or _UNPRINTABLE.search(raw) is not None:
            raise Bad(f"must be at most {limit} characters of text without control characters")
        return raw

    return Kind(load, lambda value: _UNPRINTABLE.sub(" ", value)[:limit])


def listed(kind: Kind, limit: int) -> Kind:
    def load(raw: Any) -> tuple[Any, ...]:
        if type(raw) is not list or len(raw) > limit:
            raise Bad(f"must be a list of at most {limit}")
        return tuple([kind.load(entry) for entry in raw])

    return Kind(load, lambda values: [kind.dump(entry) for entry in values])


def row(build: Callable[..., Any], *columns: tuple[str, Kind]) -> Kind:
    """A mark: a short JSON array instead of an object, because there are many."""

    def load(raw: Any) -> Any:
        if type(raw) is not list or len(raw) != len(columns):
            raise Bad(f"must be a list of {', '.join(name for name, _ in columns)}")
        return build(*[kind.load(cell) for (_, kind), cell in zip(columns, raw, strict=True)])

    return Kind(load, lambda value: list(attrs.astuple(value) if attrs.has(type(value)) else value))


def nested(spec: Spec) -> Kind:
    return Kind(spec.load, spec.dump)


# -- JSON -------------------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Bad("a field is given twice")
    return members


def _short_integer(digits: str) -> int:
    """Refuse long numbers before they are converted: the conversion's time grows with the square of the length."""
    if len(digits) > 17:
        raise Bad("a number is too long")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise Bad(f"{name} is not JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_short_integer, parse_constant=_no_constant)
ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
