"""
What a history says, by key, for the second checker: definitions that follow from the ops alone.

Nothing here is a judgement (``second_checker.py`` has those), takes a clock, or imports the library under test; nothing
is shared with the first checker but the ops.
"""

from __future__ import annotations

import collections
import collections.abc
import math
import typing

import attrs

from . import history as h

Line: typing.TypeAlias = "tuple[str, str]"  # stream, epoch
Key: typing.TypeAlias = "tuple[str, str, int]"  # producer, stream, seq
Seen: typing.TypeAlias = h.Deliver | h.GapReported
Inbound: typing.TypeAlias = h.Subscribed | h.Unsubscribed | Seen
_T = typing.TypeVar("_T")
_K = typing.TypeVar("_K")

FORGETFUL = ("epoch", "rewritten")
"""Reasons of gaps that say that the store lost what it had confirmed (rules 7 and 8)."""


@attrs.frozen
class Step:
    """
    Something that a process got in a stay: its place in the history, and the offset that was due before it.
    """

    at: int
    op: Seen
    due: int


@attrs.define(eq=False)
class Stay:
    """
    One process in one epoch of a stream: from the op that put it there to the one that took it elsewhere.

    ``due`` is the offset that comes next, after all steps; ``ended_by`` is None where the process is there at the end,
    ``ended_at`` is the place of that op in the history.
    """

    process: str
    line: Line
    first: int
    begun_by: h.Subscribed | Seen
    due: int
    steps: list[Step] = attrs.field(factory=list)
    ended_by: Inbound | None = None
    ended_at: float = math.inf

    def take(self, at: int, op: Seen) -> None:
        """
        Note one more step; what belongs to another epoch does not move the process in this one.
        """
        self.steps.append(Step(at, op, self.due))
        if op.epoch == self.line[1]:
            self.due = max(self.due, op.offset + 1 if isinstance(op, h.Deliver) else op.next)

    def end(self) -> float:
        """
        The offset from which on nothing is owed. Who subscribes again in this epoch without having left is owed what
        that passes over: ``now`` is resolved once (rule 12).
        """
        if self.ended_by is None:
            return math.inf
        is_again = isinstance(self.ended_by, h.Subscribed) and self.ended_by.epoch == self.line[1]
        return max(self.due, self.ended_by.first) if is_again else self.due  # type: ignore[union-attr]


def last_of(gap: h.GapReported) -> int:
    """
    The last offset of a gap within one epoch: the one before ``next`` where none is named (section 5, `gap`).
    """
    return gap.next - 1 if gap.last is None else gap.last


def _stays(process: str, stream: str, ops: list[tuple[int, Inbound]]) -> list[Stay]:
    """
    Tell where a process was. What comes late, of an epoch that it has been in before, moves it nowhere.
    """
    stays: list[Stay] = []
    here: Stay | None = None
    for at, op in ops:
        first = None  # where the op leads to another stay: its first offset
        if isinstance(op, h.Subscribed):
            first = op.first
        elif isinstance(op, (h.Deliver, h.GapReported)):
            if here is None:
                raise h.MalformedHistory(
                    f"{process!r} got something of {stream!r} at {op.time:.3f} s and follows nothing: record Subscribed"
                )
            if isinstance(op, h.GapReported):
                first = None if op.epoch == here.line[1] else op.next
            elif all(stay.line[1] != op.epoch for stay in stays):
                first = 1
            if first is None or isinstance(op, h.GapReported):
                here.take(at, op)
        if here is not None and (first is not None or isinstance(op, h.Unsubscribed)):
            here.ended_by, here.ended_at, here = op, at, None
        if first is not None and not isinstance(op, h.Unsubscribed):
            here = Stay(process, (stream, op.epoch), first, op, first)
            stays.append(here)
            if isinstance(op, h.Deliver):
                here.take(at, op)
    return stays


def by(ops: collections.abc.Iterable[_T], key: collections.abc.Callable[[_T], _K]) -> dict[_K, list[_T]]:
    """
    Group by a key; a key that nothing has, has nothing.
    """
    groups: dict[_K, list[_T]] = collections.defaultdict(list)
    for op in ops:
        groups[key(op)].append(op)
    return groups


def _held(read: h.FinalRead) -> dict[int, h.Effect]:
    """
    What a final read holds, by offset.
    """
    held = {effect.offset: effect for effect in read.messages}
    if len(held) < len(read.messages) or min(held, default=read.first_offset) < read.first_offset:
        raise h.MalformedHistory(
            f"the final read of stream {read.stream!r} (epoch {read.epoch}) has an offset twice, or one below its "
            f"first offset {read.first_offset}: the read itself is wrong"
        )
    return held


class Facts:
    """
    The ops of a history, by key.

    Attributes:
        sends, receipts: By (producer, stream, seq).
        confessed: What is reported as lost by the store, by (producer, stream).
        publishes: By stream.
        forgotten: The gaps that tell of a forgetful store, by stream.
        epochs: Every (stream, epoch) that any op names, by stream.
        reads, held: The last final read of each (stream, epoch), and what it holds, by offset.
        last_epoch: The epoch that a stream is in at the end.
        rewritten: The (stream, epoch) of which anybody was told that the log was cut and grew again: there, what was
            seen proves nothing of what was there before or after.
        had: (process, (stream, epoch), offset) -> the place in the history where the process got it first.
        witnessed: What deliveries, and answers to publishes, say of an offset; by (stream, epoch), then by offset.
        published: How often each (stream, payload) was published.
        origins: (stream, payload) -> the producer and seq of each send of it, and None where it was published.
        places: The messages whose place in a (stream, epoch) is known, in the order of places.
        present: (producer, stream, seq) of every message that is in `places`.
        stays: Where each process was; in ``alike`` by (process, (stream, epoch)).
        told: (process, (stream, epoch)) -> the gaps within that epoch that it was told of, in all its stays there.
    """

    def __init__(self, history: collections.abc.Iterable[h.Op]) -> None:
        self.ops = list(history)
        self.sends = by(self._all(h.Send), lambda op: (op.producer, op.stream, op.seq))
        self.receipts = by(self._all(h.Receipt), lambda op: (op.producer, op.stream, op.seq))
        self.confessed = by(self._all(h.AcknowledgedLost), lambda op: (op.producer, op.stream))
        self.publishes = by(self._all(h.Publish), lambda op: op.stream)
        self.published = collections.Counter((op.stream, op.payload) for op in self._all(h.Publish))
        self.forgotten = by((op for op in self._all(h.GapReported) if op.reason in FORGETFUL), lambda op: op.stream)
        self.reads = {(op.stream, op.epoch): op for op in self._all(h.FinalRead)}
        self.held = {line: _held(read) for line, read in self.reads.items()}
        self.last_epoch = {op.stream: op.epoch for op in self._all(h.FinalRead)}
        self.rewritten = {(op.stream, op.epoch) for op in self._all(h.GapReported) if op.reason == "rewritten"}
        self.stays = self._where()
        self.alike = by(self.stays, lambda stay: (stay.process, stay.line))
        self.told: dict[tuple[str, Line], list[tuple[Step, h.GapReported]]] = collections.defaultdict(list)
        for stay, step, gap in self.gaps():
            if gap.epoch == stay.line[1]:
                self.told[stay.process, stay.line].append((step, gap))
        self.had: dict[tuple[str, Line, int], int] = {}
        self.witnessed: dict[Line, dict[int, set[str]]] = collections.defaultdict(dict)
        self.origins: dict[tuple[str, str], set[tuple[str, int] | None]] = collections.defaultdict(set)
        for at, op in enumerate(self.ops):
            self._note(at, op)
        lines = {*self.reads, *self.witnessed, *(stay.line for stay in self.stays)}
        self.epochs = by(lines, lambda line: line[0])
        self.places = {line: self._places(line) for line in lines}
        self.present = {
            (effect.producer, line[0], effect.seq) for line, effects in self.places.items() for effect in effects
        }

    def _all(self, kind: type[_T]) -> list[_T]:
        return [op for op in self.ops if isinstance(op, kind)]

    def _where(self) -> list[Stay]:
        inbound: dict[tuple[str, str], list[tuple[int, Inbound]]] = collections.defaultdict(list)
        for at, op in enumerate(self.ops):
            if isinstance(op, (h.Subscribed, h.Unsubscribed, h.Deliver, h.GapReported)):
                inbound[op.process, op.stream].append((at, op))
        named = {stream for _, stream in inbound} | {stream for _, stream, _ in (*self.sends, *self.receipts)}
        missing = sorted((named | set(self.publishes)) - set(self.last_epoch))
        if missing:
            raise h.MalformedHistory(
                f"no final read of {', '.join(map(repr, missing))}: nothing tells what the store holds; record a "
                "FinalRead of every stream when the run is quiet"
            )
        return [stay for (process, stream), ops in inbound.items() for stay in _stays(process, stream, ops)]

    def _note(self, at: int, op: h.Op) -> None:
        if isinstance(op, (h.Send, h.Publish)):
            origin = (op.producer, op.seq) if isinstance(op, h.Send) else None
            self.origins[op.stream, op.payload].add(origin)
        if isinstance(op, h.Deliver):
            self.had.setdefault((op.process, (op.stream, op.epoch), op.offset), at)
        if isinstance(op, (h.Deliver, h.Publish)) and op.epoch is not None and op.offset is not None:
            self.witnessed[op.stream, op.epoch].setdefault(op.offset, set()).add(op.payload)

    def _places(self, line: Line) -> list[h.Effect]:
        """
        What the store holds, and, where it cannot be read any more, what all witnesses saw alike: of the one producer
        and seq that it can be, without both where it can be several or was published.
        """
        effects = list(self.held.get(line, {}).values())
        for offset, payloads in self.witnessed.get(line, {}).items():
            if self.can_read(line, offset) or line in self.rewritten or len(payloads) > 1:
                continue
            (payload,) = payloads
            origins = self.origins[line[0], payload]
            (origin,) = origins if len(origins) == 1 else (None,)
            effects.append(h.Effect(offset, payload, *(origin or (None, None))))
        return sorted(effects, key=lambda effect: effect.offset)

    # -- questions that several predicates ask

    def deliveries(self) -> collections.abc.Iterator[tuple[Stay, Step, h.Deliver]]:
        """
        Name every delivery, with where its process was then.
        """
        return ((stay, step, step.op) for stay in self.stays for step in stay.steps if isinstance(step.op, h.Deliver))

    def gaps(self) -> collections.abc.Iterator[tuple[Stay, Step, h.GapReported]]:
        """
        Name every gap, with where its process was then.
        """
        return (
            (stay, step, step.op) for stay in self.stays for step in stay.steps if isinstance(step.op, h.GapReported)
        )

    def can_read(self, line: Line, offset: int) -> bool:
        """
        Whether the store's last word says what is at this offset, be it that nothing is.
        """
        return line in self.reads and offset >= self.reads[line].first_offset

    def may_skip(self, line: Line) -> bool:
        """
        Whether an offset of this epoch may never have had a message: as its final read says, or, where it has none,
        that of the stream's last epoch, for the log is of the same make.
        """
        last = self.reads[line[0], self.last_epoch[line[0]]]
        return line in self.rewritten or not self.reads.get(line, last).contiguous

    def existed(self, line: Line, offset: int) -> bool:
        """
        Whether there certainly was a message. Where it cannot be read any more: if the log skips no numbers, or if
        anybody had it.
        """
        if self.can_read(line, offset):
            return offset in self.held[line]
        was_seen = line not in self.rewritten and offset in self.witnessed.get(line, {})
        return was_seen or not self.may_skip(line)

    def was_told_of_loss(self, stream: str, time: float) -> bool:
        """
        Whether anybody was told, at this time or later, that the store had lost what it had confirmed.
        """
        return any(gap.time >= time for gap in self.forgotten[stream])

    def was_glimpsed(self, key: Key) -> bool:
        """
        Whether anybody saw the bytes of a message at a place that cannot be read any more.
        """
        payloads = {send.payload for send in self.sends[key]}
        return any(
            payloads & seen and not self.can_read(line, offset)
            for line in self.epochs[key[1]]
            for offset, seen in self.witnessed.get(line, {}).items()
        )

    def is_invented(self, line: Line, effect: h.Effect) -> bool:
        """
        Whether nobody sent this under its producer and seq, or published it where it has none.
        """
        origin = None if effect.producer is None or effect.seq is None else (effect.producer, effect.seq)
        return origin not in self.origins[line[0], effect.payload]

    def had_room(self, key: Key) -> bool:
        """
        Whether a message may have been at a place that nobody can vouch for any more: in any epoch but those before
        the last one where that has an earlier message of its producer.
        """
        producer, stream, seq = key
        last = (stream, self.last_epoch[stream])
        is_in_last = any(other < seq for other, _ in self._of(producer, last))
        return any(self._has_room(line, key) for line in ([last] if is_in_last else self.epochs[stream]))

    def _has_room(self, line: Line, key: Key) -> bool:
        """
        Whether this epoch has such a place behind every earlier message of the producer and before every later one.
        """
        producer, _, seq = key
        earlier = [offset for other, offset in self._of(producer, line) if other < seq]
        later = [offset for other, offset in self._of(producer, line) if other > seq]
        seen = {} if line in self.rewritten else self.witnessed.get(line, {})
        end = self.reads[line].first_offset if line in self.reads else max(seen, default=0) + 2
        return any(offset not in seen for offset in range(max(earlier, default=0) + 1, min([end, *later])))

    def _of(self, producer: str, line: Line) -> list[tuple[int, int]]:
        return [(e.seq, e.offset) for e in self.places[line] if e.producer == producer and e.seq is not None]

    def was_given_up(self, process: str, line: Line, offset: int, at: float) -> bool:
        """
        Whether a process gave up, at this place in the history or later, a position behind this offset of a log that
        was rewritten: then only others are told, and what the store holds may be something else than he passed.
        """
        return line in self.rewritten and any(
            isinstance(stay.ended_by, (h.Subscribed, h.Unsubscribed)) and stay.ended_at >= at and offset < stay.due
            for stay in self.alike[process, line]
        )

    def may_be_replaced(self, process: str, line: Line, offset: int, at: float) -> bool:
        """
        Whether what the store holds may be something else than a process had or passed, at this place in the history:
        he was told so later, or had given his position up.
        """
        return self.was_given_up(process, line, offset, at) or any(
            gap.reason == "rewritten" and step.at > at and offset <= last_of(gap)
            for step, gap in self.told[process, line]
        )
