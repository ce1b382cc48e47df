"""
Ways to spoil a history so that it is known beforehand what kind of anomaly that makes.

A way takes dice and ops and gives other ops and the kind, or None where there is nothing to spoil. Nothing here judges.
"""

from __future__ import annotations

import collections.abc
import random
import typing

import attrs

from server_fixture import history as h

Ops: typing.TypeAlias = "list[h.Op]"
Spoiled: typing.TypeAlias = "tuple[Ops, str] | None"
INBOUND = (h.Deliver, h.GapReported, h.Unsubscribed)


def pick(dice: random.Random, ops: Ops, wanted: collections.abc.Callable[[int], bool]) -> int | None:
    """Choose the place of an op that is wanted, if there is one."""
    places = [at for at in range(len(ops)) if wanted(at)]
    return dice.choice(places) if places else None


def final(ops: Ops, stream: str) -> h.FinalRead:
    """The store's last word on a stream."""
    return [op for op in ops if isinstance(op, h.FinalRead) and op.stream == stream][-1]


def some_final(dice: random.Random, ops: Ops) -> h.FinalRead:
    """The store's last word on one of the streams."""
    return final(ops, dice.choice(sorted({op.stream for op in ops if isinstance(op, h.FinalRead)})))


def with_messages(ops: Ops, read: h.FinalRead, messages: collections.abc.Iterable[h.Effect]) -> Ops:
    """The same run, but the store holds this at the end."""
    return [attrs.evolve(op, messages=tuple(messages)) if op is read else op for op in ops]


def goes_on(ops: Ops, at: int) -> bool:
    """Tell whether what this reader does next is no leave, so that he is owed what is at this place."""
    op = typing.cast("h.Deliver", ops[at])
    later = [o for o in ops[at + 1 :] if isinstance(o, INBOUND) and (o.process, o.stream) == (op.process, op.stream)]
    return all(not isinstance(op, h.Unsubscribed) for op in later[:1])


def delivery(ops: Ops, at: int, held: bool) -> bool:
    """Tell whether here is the only delivery of a message, owed, in the store at the end or not."""
    op = ops[at]
    if not isinstance(op, h.Deliver) or op.redelivered or not goes_on(ops, at):
        return False
    same = [
        o
        for o in ops
        if isinstance(o, h.Deliver)
        and (o.process, o.stream, o.epoch, o.offset) == (op.process, op.stream, op.epoch, op.offset)
    ]
    read = final(ops, op.stream)
    is_held = op.epoch == read.epoch and op.offset >= read.first_offset
    return len(same) == 1 and op.epoch == read.epoch and is_held == held


def has_all_numbers(ops: Ops, at: int) -> bool:
    """Tell whether every offset of the stream here had a message, so that whatever is missing is known to be."""
    return final(ops, typing.cast("h.Deliver | h.GapReported", ops[at]).stream).contiguous


def swallow(dice: random.Random, ops: Ops) -> Spoiled:
    """One message that the store holds is not delivered."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=True))
    return None if at is None else (ops[:at] + ops[at + 1 :], "lost")


def swallow_trimmed(dice: random.Random, ops: Ops) -> Spoiled:
    """One message that the store holds no longer was not delivered and not reported."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=False) and has_all_numbers(ops, at))
    return None if at is None else (ops[:at] + ops[at + 1 :], "unreported_gap")


def repeat(dice: random.Random, ops: Ops) -> Spoiled:
    """One message is delivered twice."""
    at = pick(dice, ops, lambda at: isinstance(ops[at], h.Deliver))
    if at is None:
        return None
    again = attrs.evolve(typing.cast("h.Deliver", ops[at]), redelivered=False)
    return [*ops[: at + 1], again, *ops[at + 1 :]], "duplicated"


def swap(dice: random.Random, ops: Ops) -> Spoiled:
    """Two messages are delivered in the wrong order."""

    def is_pair(at: int) -> bool:
        pair = ops[at : at + 2]
        if not all(isinstance(op, h.Deliver) and not op.redelivered for op in pair) or len(pair) < 2:
            return False
        one, two = typing.cast("list[h.Deliver]", pair)
        mine = (one.process, one.stream, one.epoch, one.offset + 1)
        return mine == (two.process, two.stream, two.epoch, two.offset) and delivery(ops, at + 1, held=True)

    at = pick(dice, ops, is_pair)
    return None if at is None else ([*ops[:at], ops[at + 1], ops[at], *ops[at + 2 :]], "reordered")


def forge(dice: random.Random, ops: Ops) -> Spoiled:
    """One message is delivered with other bytes."""
    at = pick(dice, ops, lambda at: isinstance(ops[at], h.Deliver))
    if at is None:
        return None
    forged = attrs.evolve(typing.cast("h.Deliver", ops[at]), payload="text:forged")
    return [*ops[:at], forged, *ops[at + 1 :]], "phantom"


def conceal(dice: random.Random, ops: Ops) -> Spoiled:
    """One gap, but for one about size, is not reported; the reader goes on with a message, or hears nothing more."""

    def is_missed(at: int) -> bool:
        op = ops[at]
        if not isinstance(op, h.GapReported) or op.reason == "too_large" or not has_all_numbers(ops, at):
            return False
        mine = [o for o in ops[at + 1 :] if isinstance(o, (*INBOUND, h.Subscribed)) and o.process == op.process]
        return all(isinstance(o, h.Deliver) for o in [o for o in mine if o.stream == op.stream][:1])

    at = pick(dice, ops, is_missed)
    return None if at is None else (ops[:at] + ops[at + 1 :], "unreported_gap")


def pretend(dice: random.Random, ops: Ops) -> Spoiled:
    """A gap is reported instead of a message that the store holds."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=True))
    if at is None:
        return None
    op = typing.cast("h.Deliver", ops[at])
    gap = h.GapReported(op.process, op.time, op.stream, op.epoch, op.offset, op.offset, op.offset + 1, "trimmed")
    return [*ops[:at], gap, *ops[at + 1 :]], "gap_over_existing"


def deny(dice: random.Random, ops: Ops) -> Spoiled:
    """A message that is in the store is said to have been refused."""
    streams = sorted({op.stream for op in ops if isinstance(op, h.Send)})
    held = {(e.producer, stream, e.seq) for stream in streams for e in final(ops, stream).messages}
    at = pick(dice, ops, lambda at: isinstance(op := ops[at], h.Receipt) and (op.producer, op.stream, op.seq) in held)
    if at is None:
        return None
    denied = attrs.evolve(typing.cast("h.Receipt", ops[at]), outcome="fail")
    return [*ops[:at], denied, *ops[at + 1 :]], "false_receipt"


def erase(dice: random.Random, ops: Ops) -> Spoiled:
    """A committed message is not in the store although an earlier one of its producer is; nobody was given it."""
    read = some_final(dice, ops)
    messages, stream = read.messages, read.stream
    gaps = [op for op in ops if isinstance(op, h.GapReported) and op.stream == stream]
    told = [op.time for op in gaps if op.reason in ("epoch", "rewritten")]
    lost = [op for op in ops if isinstance(op, h.AcknowledgedLost) and op.stream == stream]
    receipts = [op for op in ops if isinstance(op, h.Receipt) and op.stream == stream and op.outcome == "ok"]
    late = {(op.producer, op.seq) for op in receipts if op.time > max(told, default=0.0)}
    late -= {(op.producer, seq) for op in lost for seq in range(op.first, op.last + 1)}

    def is_later(at: int) -> bool:
        mine = messages[at]
        earlier = any(e.producer == mine.producer for e in messages[:at])
        return earlier and (mine.producer, mine.seq) in late and mine.payload != "text:tick"

    places = [at for at in range(len(messages)) if is_later(at)]
    if not places:
        return None
    at = dice.choice(places)
    gone = (stream, messages[at].payload)
    rest = [op for op in ops if not (isinstance(op, h.Deliver) and (op.stream, op.payload) == gone)]
    return with_messages(rest, read, messages[:at] + messages[at + 1 :]), "false_receipt"


def store_twice(dice: random.Random, ops: Ops) -> Spoiled:
    """A message is in the store a second time."""
    read = some_final(dice, ops)
    messages = [message for message in read.messages if message.payload != "text:tick"]
    if not messages:
        return None
    again = attrs.evolve(dice.choice(messages), offset=read.messages[-1].offset + 1)
    return with_messages(ops, read, [*read.messages, again]), "duplicated"


def store_swapped(dice: random.Random, ops: Ops) -> Spoiled:
    """Two messages of one producer are in the store in the wrong order."""
    read = some_final(dice, ops)
    messages = list(read.messages)
    pairs = [
        (i, j)
        for i, one in enumerate(messages)
        for j, two in enumerate(messages[i + 1 :], i + 1)
        if one.producer is not None and one.producer == two.producer
    ]
    if not pairs:
        return None
    i, j = dice.choice(pairs)
    one, two = messages[i], messages[j]
    messages[i] = attrs.evolve(two, offset=one.offset)
    messages[j] = attrs.evolve(one, offset=two.offset)
    return with_messages(ops, read, messages), "reordered"


def store_invented(dice: random.Random, ops: Ops) -> Spoiled:
    """The store holds something that nobody sent."""
    read = some_final(dice, ops)
    last = read.messages[-1].offset if read.messages else read.first_offset - 1
    origin = dice.choice([(None, None), ("p", 10_000), ("nobody", 1)])
    return with_messages(ops, read, [*read.messages, h.Effect(last + 1, "text:invented", *origin)]), "phantom"


def skip_to_now(dice: random.Random, ops: Ops) -> Spoiled:
    """A reader subscribes again behind a message that the store holds instead of resuming."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=True))
    if at is None:
        return None
    op = typing.cast("h.Deliver", ops[at])
    return [*ops[:at], h.Subscribed(op.process, op.time, op.stream, op.epoch, op.offset + 1), *ops[at + 1 :]], "lost"


Known: typing.TypeAlias = "collections.abc.Callable[[random.Random, Ops], Spoiled]"
KNOWN: tuple[Known, ...] = (
    swallow,
    swallow_trimmed,
    repeat,
    swap,
    forge,
    conceal,
    pretend,
    deny,
    erase,
    store_twice,
    store_swapped,
    store_invented,
    skip_to_now,
)
