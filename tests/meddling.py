"""
Ways to meddle with a history of which nobody knows beforehand what they break, if anything.

They take one op, or two, wherever it is, and drop, double, move or change it. Nothing here judges.
"""

from __future__ import annotations

import collections.abc
import random
import typing

import attrs

from server_fixture import history as h
from tests.spoiling import Ops, some_final, with_messages

Meddled: typing.TypeAlias = "Ops | None"
_T = typing.TypeVar("_T")


def _some(dice: random.Random, ops: Ops, kind: type[_T]) -> tuple[int, _T] | None:
    found = [(at, op) for at, op in enumerate(ops) if isinstance(op, kind)]
    return dice.choice(found) if found else None


def _put(ops: Ops, at: int, *instead: h.Op) -> Ops:
    return [*ops[:at], *instead, *ops[at + 1 :]]


def _change(
    dice: random.Random, ops: Ops, kind: type[_T], how: collections.abc.Callable[[_T], dict[str, typing.Any]]
) -> Meddled:
    found = _some(dice, ops, kind)
    if found is None:
        return None
    at, op = found
    return _put(ops, at, attrs.evolve(op, **how(op)))  # type: ignore[type-var, arg-type]


def _drop(dice: random.Random, ops: Ops, kind: type[_T]) -> Meddled:
    found = _some(dice, ops, kind)
    return None if found is None else _put(ops, found[0])


# -- what came to a process


def drop_delivery(dice: random.Random, ops: Ops) -> Meddled:
    """A message does not come."""
    return _drop(dice, ops, h.Deliver)


def drop_gap(dice: random.Random, ops: Ops) -> Meddled:
    """A gap is not reported."""
    return _drop(dice, ops, h.GapReported)


def drop_leave(dice: random.Random, ops: Ops) -> Meddled:
    """A reader has not left."""
    return _drop(dice, ops, h.Unsubscribed)


def drop_subscribed(dice: random.Random, ops: Ops) -> Meddled:
    """A reader has not subscribed."""
    return _drop(dice, ops, h.Subscribed)


def leave_early(dice: random.Random, ops: Ops) -> Meddled:
    """A reader leaves behind a message, and what comes after it comes all the same."""
    found = _some(dice, ops, h.Deliver)
    if found is None:
        return None
    at, op = found
    return _put(ops, at, op, h.Unsubscribed(op.process, op.time, op.stream))


def repeat_later(dice: random.Random, ops: Ops) -> Meddled:
    """A message comes again later, marked as such or not."""
    found = _some(dice, ops, h.Deliver)
    if found is None:
        return None
    at, op = found
    place = dice.randint(at + 1, len(ops))
    return [*ops[:place], attrs.evolve(op, redelivered=dice.random() < 0.3), *ops[place:]]


def move_delivery(dice: random.Random, ops: Ops) -> Meddled:
    """A message comes sooner or later than it did."""
    found = _some(dice, ops, h.Deliver)
    if found is None:
        return None
    at, op = found
    rest = _put(ops, at)
    place = min(len(rest), max(0, at + dice.choice([-9, -4, -2, 2, 4, 9])))
    return [*rest[:place], op, *rest[place:]]


def move_gap(dice: random.Random, ops: Ops) -> Meddled:
    """A gap is reported sooner or later than it was."""
    found = _some(dice, ops, h.GapReported)
    if found is None:
        return None
    at, op = found
    rest = _put(ops, at)
    place = min(len(rest), max(0, at + dice.choice([-9, -4, -2, 2, 4, 9])))
    return [*rest[:place], op, *rest[place:]]


def exchange(dice: random.Random, ops: Ops) -> Meddled:
    """Two deliveries change their payloads."""
    one, two = _some(dice, ops, h.Deliver), _some(dice, ops, h.Deliver)
    if one is None or two is None:
        return None
    first = _put(ops, one[0], attrs.evolve(one[1], payload=two[1].payload))
    return _put(first, two[0], attrs.evolve(two[1], payload=one[1].payload))


def forge_as_other(dice: random.Random, ops: Ops) -> Meddled:
    """A message comes with the bytes of another one."""
    payloads = [op.payload for op in ops if isinstance(op, (h.Send, h.Publish))]
    return _change(dice, ops, h.Deliver, lambda op: {"payload": dice.choice(payloads)}) if payloads else None


def shift_delivery(dice: random.Random, ops: Ops) -> Meddled:
    """A message comes under another offset."""
    return _change(dice, ops, h.Deliver, lambda op: {"offset": max(1, op.offset + dice.choice([-2, -1, 1, 2, 5]))})


def old_epoch(dice: random.Random, ops: Ops) -> Meddled:
    """A message comes under another epoch."""
    return _change(dice, ops, h.Deliver, lambda op: {"epoch": dice.choice(["e1", "e2", "e3", "e9"])})


def invent_delivery(dice: random.Random, ops: Ops) -> Meddled:
    """A message comes that follows another one, and is nowhere."""
    found = _some(dice, ops, h.Deliver)
    if found is None:
        return None
    at, op = found
    return _put(ops, at, op, attrs.evolve(op, offset=op.offset + dice.randint(1, 3), payload="text:invented"))


def change_gap(dice: random.Random, ops: Ops) -> Meddled:
    """A gap begins, ends, or goes on elsewhere."""
    by = dice.choice([-3, -1, 1, 3])
    what = dice.choice(["first", "last", "next", "both", "all", "unknown"])

    def how(op: h.GapReported) -> dict[str, typing.Any]:
        last = op.next - 1 if op.last is None else op.last
        return {
            "first": {"first": max(1, op.first + by)},
            "last": {"last": max(0, last + by)},
            "next": {"next": max(1, op.next + by)},
            "both": {"last": max(0, last + by), "next": max(1, op.next + by)},
            "all": {"first": max(1, op.first + by), "last": max(0, last + by), "next": max(1, op.next + by)},
            "unknown": {"last": None},
        }[what]

    return _change(dice, ops, h.GapReported, how)


def rename_gap(dice: random.Random, ops: Ops) -> Meddled:
    """A gap is reported for another reason."""
    reasons = ["trimmed", "epoch", "rewritten", "too_large", "session", "strange"]
    return _change(dice, ops, h.GapReported, lambda op: {"reason": dice.choice(reasons)})


def gap_to_epoch(dice: random.Random, ops: Ops) -> Meddled:
    """A gap tells of another epoch."""
    return _change(dice, ops, h.GapReported, lambda op: {"epoch": dice.choice(["e1", "e2", "e9"])})


def invent_gap(dice: random.Random, ops: Ops) -> Meddled:
    """A gap is reported behind a message, and nothing is missing, or all of it is there."""
    found = _some(dice, ops, h.Deliver)
    if found is None:
        return None
    at, op = found
    first, size = op.offset + 1, dice.randint(1, 3)
    reason = dice.choice(["trimmed", "too_large", "rewritten", "epoch"])
    place = (op.process, op.time, op.stream, op.epoch)
    return _put(ops, at, op, h.GapReported(*place, first, first + size - 1, first + size, reason))


def gap_for_delivery(dice: random.Random, ops: Ops) -> Meddled:
    """A gap is reported instead of a message."""
    found = _some(dice, ops, h.Deliver)
    if found is None:
        return None
    at, op = found
    reason = dice.choice(["trimmed", "too_large", "rewritten", "session"])
    place = (op.process, op.time, op.stream, op.epoch)
    return _put(ops, at, h.GapReported(*place, op.offset, op.offset, op.offset + 1, reason))


def shift_start(dice: random.Random, ops: Ops) -> Meddled:
    """A reader begins elsewhere."""
    return _change(dice, ops, h.Subscribed, lambda op: {"first": max(1, op.first + dice.choice([-3, -1, 1, 3]))})


def skip_ahead(dice: random.Random, ops: Ops) -> Meddled:
    """A reader subscribes again ahead of where he is."""
    found = _some(dice, ops, h.Deliver)
    if found is None:
        return None
    at, op = found
    place = (op.process, op.time, op.stream, op.epoch)
    return _put(ops, at, op, h.Subscribed(*place, op.offset + dice.randint(1, 4)))


# -- what was sent and published


def drop_send(dice: random.Random, ops: Ops) -> Meddled:
    """A message was never sent."""
    return _drop(dice, ops, h.Send)


def drop_publish(dice: random.Random, ops: Ops) -> Meddled:
    """A message was never published."""
    return _drop(dice, ops, h.Publish)


def drop_confession(dice: random.Random, ops: Ops) -> Meddled:
    """The store's loss is not told to the sender."""
    return _drop(dice, ops, h.AcknowledgedLost)


def flip_receipt(dice: random.Random, ops: Ops) -> Meddled:
    """A send ended in another way than it did."""
    return _change(dice, ops, h.Receipt, lambda op: {"outcome": dice.choice(["ok", "fail", "info"])})


def add_receipt(dice: random.Random, ops: Ops) -> Meddled:
    """A send ended in two ways, or one without an end has one."""
    found = _some(dice, ops, h.Send)
    if found is None:
        return None
    at, op = found
    outcome = dice.choice(["ok", "fail"])
    return _put(ops, at, op, h.Receipt(op.process, op.time, op.producer, op.stream, op.seq, outcome))


def late_receipt(dice: random.Random, ops: Ops) -> Meddled:
    """A receipt comes when all is over."""
    return _change(dice, ops, h.Receipt, lambda op: {"time": 10_000.0})


def send_again(dice: random.Random, ops: Ops) -> Meddled:
    """A seq is given to another message as well."""
    found = _some(dice, ops, h.Send)
    if found is None:
        return None
    at, op = found
    return _put(ops, at, op, attrs.evolve(op, payload=dice.choice([op.payload, "text:other", "text:tick"])))


def shift_answer(dice: random.Random, ops: Ops) -> Meddled:
    """A publish was answered with another place."""
    return _change(
        dice,
        ops,
        h.Publish,
        lambda op: {"epoch": op.epoch or "e1", "offset": max(1, (op.offset or 3) + dice.choice([-1, 1]))},
    )


# -- what the store holds


def _meddle_messages(
    dice: random.Random, ops: Ops, how: collections.abc.Callable[[list[h.Effect], int], list[h.Effect]]
) -> Meddled:
    read = some_final(dice, ops)
    messages = list(read.messages)
    return with_messages(ops, read, how(messages, dice.randrange(len(messages)))) if messages else None


def store_less(dice: random.Random, ops: Ops) -> Meddled:
    """The store does not hold one of its messages."""
    return _meddle_messages(dice, ops, lambda messages, at: messages[:at] + messages[at + 1 :])


def store_more(dice: random.Random, ops: Ops) -> Meddled:
    """The store holds one of its messages once more, at its end."""
    return _meddle_messages(
        dice, ops, lambda messages, at: [*messages, attrs.evolve(messages[at], offset=messages[-1].offset + 1)]
    )


def store_other(dice: random.Random, ops: Ops) -> Meddled:
    """The store holds other bytes, or another seq, or another producer."""
    how = dice.choice([{"payload": "text:other"}, {"payload": "text:tick"}, {"seq": 1}, {"producer": "q"}])

    def other(messages: list[h.Effect], at: int) -> list[h.Effect]:
        if messages[at].producer is None and "payload" not in how:
            return messages
        return [*messages[:at], attrs.evolve(messages[at], **how), *messages[at + 1 :]]  # type: ignore[arg-type]

    return _meddle_messages(dice, ops, other)


def store_exchanged(dice: random.Random, ops: Ops) -> Meddled:
    """Two messages are in each other's place."""

    def exchanged(messages: list[h.Effect], at: int) -> list[h.Effect]:
        other = dice.randrange(len(messages))
        one, two = messages[at], messages[other]
        messages[at] = attrs.evolve(two, offset=one.offset)
        messages[other] = attrs.evolve(one, offset=two.offset)
        return messages

    return _meddle_messages(dice, ops, exchanged)


def trim_more(dice: random.Random, ops: Ops) -> Meddled:
    """Retention has taken more than anybody was told."""
    read = some_final(dice, ops)
    first = read.first_offset + dice.randint(1, 3)
    held = tuple(effect for effect in read.messages if effect.offset >= first)
    return [attrs.evolve(op, first_offset=first, messages=held) if op is read else op for op in ops]


def trim_less(dice: random.Random, ops: Ops) -> Meddled:
    """Retention has taken less than it seems, and nothing is there."""
    read = some_final(dice, ops)
    first = max(1, read.first_offset - dice.randint(1, 3))
    return [attrs.evolve(op, first_offset=first) if op is read else op for op in ops]


def skips(dice: random.Random, ops: Ops) -> Meddled:
    """The log skips numbers, or does not."""
    read = some_final(dice, ops)
    return [attrs.evolve(op, contiguous=not op.contiguous) if op is read else op for op in ops]  # type: ignore[union-attr]


def last_epoch(dice: random.Random, ops: Ops) -> Meddled:
    """The stream is in an epoch in the end that nobody heard of."""
    read = some_final(dice, ops)
    return [attrs.evolve(op, epoch="e9") if op is read else op for op in ops]


def no_final_read(dice: random.Random, ops: Ops) -> Meddled:
    """A stream was not read at the end."""
    read = some_final(dice, ops)
    return [op for op in ops if op is not read]


Way: typing.TypeAlias = "collections.abc.Callable[[random.Random, Ops], Meddled]"
WAYS: tuple[Way, ...] = tuple(
    way
    for name, way in list(globals().items())
    if callable(way) and getattr(way, "__module__", "") == __name__ and not name.startswith("_")
)
