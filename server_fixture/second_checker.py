"""
A second judge of histories: each promise as a definition over the whole record, one predicate for each way to break it.

It shares no code with the first judge (``checker.py``, ``evidence.py``, ``follower.py``) and is plainer and slower: it
asks of every op whether there is another one that it needs. The docstring of a predicate says what it asks, and names
what this is the negation of: an invariant as in the simulation (S1 an ack implies the effect, S2 at most once, S3
order, S4 no invention, S5 no silent gap, S7 no spurious loss, L3 everything arrives or is in a gap), or a rule of
``docs/protocol.md``. What the ops say by themselves is in ``second_facts.py``. Nothing here takes a clock or imports
the library under test.

Two limits are meant. Every receipt is judged by itself: one place that retention freed may excuse two of them. And the
store's last word cannot tell whether `AcknowledgedLost` or a gap ``too_large`` was true.
"""

from __future__ import annotations

import collections
import collections.abc
import math
import typing

import attrs

from . import history as h
from .second_facts import Facts, Key, Line, Stay, Step, by, last_of


@attrs.frozen
class Anomaly:
    """
    One broken promise: its kind, and about which message.

    ``who`` is the process that saw it (then ``number`` is an offset of ``epoch``) or the producer (then ``number`` is a
    seq and ``epoch`` is None); None where the log itself is wrong. ``why`` is for people.
    """

    kind: str
    who: str | None
    stream: str
    epoch: str | None
    number: int
    why: str = attrs.field(eq=False)

    def __str__(self) -> str:
        under = "" if self.epoch is None else f" (epoch {self.epoch})"
        return f"{self.kind}: {self.who or 'the log'}, stream {self.stream!r}{under}, {self.number}: {self.why}"


@attrs.frozen
class Verdict:
    """
    What the second checker found: nothing (the history is whole), or every anomaly once.
    """

    anomalies: frozenset[Anomaly]

    @property
    def is_whole(self) -> bool:
        return not self.anomalies

    @property
    def kinds(self) -> set[str]:
        return {anomaly.kind for anomaly in self.anomalies}

    def report(self, limit: int = 20) -> str:
        """
        Tell the verdict in lines: one word, then at most ``limit`` anomalies.
        """
        found = sorted(self.anomalies, key=lambda a: (a.kind, a.who or "", a.stream, a.epoch or "", a.number))
        lines = [str(anomaly) for anomaly in found]
        rest = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
        return "\n".join(["whole" if self.is_whole else "broken", *lines[:limit], *rest])


def check(history: collections.abc.Iterable[h.Op]) -> Verdict:
    """
    Judge a history that ends with a final read of every stream in it.

    Args:
        history: The ops; the order of the ops of one process counts, and the times of receipts and of the gaps that
            tell of a forgetful store.

    Returns:
        The verdict.

    Raises:
        MalformedHistory: The history cannot be judged: no final read or an impossible one, or something came to
            somebody who never subscribed.
    """
    facts = Facts(history)
    return Verdict(frozenset(anomaly for predicate in PREDICATES for anomaly in predicate(facts)))


# -- the predicates: what came to a process ---------------------------------------------------------------------------

Found: typing.TypeAlias = "collections.abc.Iterator[Anomaly]"


def _due(kind: str, stay: Stay, offset: int, why: str) -> Anomaly:
    return Anomaly(kind, stay.process, *stay.line, offset, why)


def _came(kind: str, delivery: h.Deliver, why: str) -> Anomaly:
    return Anomaly(kind, delivery.process, delivery.stream, delivery.epoch, delivery.offset, why)


def _sent(kind: str, key: Key, why: str) -> Anomaly:
    producer, stream, seq = key
    return Anomaly(kind, producer, stream, None, seq, why)


def _stored(kind: str, line: Line, offset: int, why: str) -> Anomaly:
    return Anomaly(kind, None, *line, offset, why)


def _may_pass_over(stay: Stay, step: Step, gap: h.GapReported, offset: int) -> bool:
    """
    Whether a gap covers a message rightly although the store holds it: this client takes none of its size, or a gap
    ``rewritten`` says that what he had there was replaced; that one never goes beyond his position.
    """
    is_covered = gap.epoch == stay.line[1] and gap.first <= offset <= last_of(gap)
    return is_covered and (gap.reason == "too_large" or (gap.reason == "rewritten" and offset < step.due))


def lost(facts: Facts) -> Found:
    """
    L3: every message that the store holds, and that a process is owed, was delivered to it or is rightly in a gap.
    """
    for stay in facts.stays:
        told = facts.told[stay.process, stay.line]
        for offset in facts.held.get(stay.line, {}):
            is_owed = stay.first <= offset < stay.end()
            if not is_owed or (stay.process, stay.line, offset) in facts.had:
                continue
            if facts.was_given_up(stay.process, stay.line, offset, stay.ended_at):
                continue
            if not any(_may_pass_over(stay, step, gap, offset) for step, gap in told):
                yield _due("lost", stay, offset, "is in the store and never came")


def unreported_gap(facts: Facts) -> Found:
    """
    S5: between what came and what came before it, whatever is missing is in a gap that came in between. No message
    that certainly existed is passed over without a word: not on the way, and not below what is retained at the end.
    """
    for stay, at, first, last in _passed_over(facts):
        for offset in range(first, last + 1):
            if (stay.process, stay.line, offset) in facts.had or not facts.existed(stay.line, offset):
                continue
            if not facts.may_be_replaced(stay.process, stay.line, offset, at):
                yield _due("unreported_gap", stay, offset, "never came, and no gap was reported for it")


def _passed_over(facts: Facts) -> collections.abc.Iterator[tuple[Stay, float, int, int]]:
    """
    Name the stretches that a process was led over without a word: at which place in the history, first and last offset.
    """
    for stay, step, delivery in facts.deliveries():
        if delivery.epoch == stay.line[1]:
            yield stay, step.at, step.due, delivery.offset - 1
    for stay, step, gap in facts.gaps():
        yield stay, step.at, step.due, gap.first - 1
        if gap.epoch == stay.line[1]:
            yield stay, step.at, max(step.due, last_of(gap) + 1), gap.next - 1
    for stay in facts.stays:
        if stay.ended_by is not None:
            yield stay, stay.ended_at, stay.due, int(stay.end()) - 1
        elif stay.line in facts.reads:
            yield stay, math.inf, stay.due, facts.reads[stay.line].first_offset - 1


def unreported_epoch(facts: Facts) -> Found:
    """
    S5, rule 8: who holds another epoch gets a gap whose end is unknown, before anything of the new epoch comes and
    before all is over.
    """
    for stay in facts.stays:
        stream, epoch = stay.line
        if isinstance(stay.begun_by, h.Deliver):
            yield _due("unreported_gap", stay, stay.begun_by.offset, "came of a new epoch that no gap told of")
        if isinstance(stay.ended_by, h.GapReported) and stay.ended_by.last is not None:
            yield _due("unreported_gap", stay, stay.ended_by.last + 1, "and the rest of its epoch are in no gap")
        if stay.ended_by is None and epoch != facts.last_epoch[stream]:
            yield _due("unreported_gap", stay, stay.due, f"is due, and no gap told of {facts.last_epoch[stream]}")


def untrue_gap(facts: Facts) -> Found:
    """
    S7: a gap is reported only over what retention has taken, all of it, but for what it may pass over rightly; and
    what comes next is none of what it says cannot come (section 5, `gap`).
    """
    for stay, step, gap in facts.gaps():
        if gap.epoch != stay.line[1]:
            continue
        if gap.next <= last_of(gap):
            yield _due("gap_over_existing", stay, gap.next, f"comes next after a gap up to {last_of(gap)}")
        for offset in range(gap.first, last_of(gap) + 1):
            is_empty = facts.may_skip(stay.line) and not facts.existed(stay.line, offset)
            is_retained = facts.can_read(stay.line, offset) and not is_empty
            if is_retained and not _may_pass_over(stay, step, gap, offset):
                yield _due("gap_over_existing", stay, offset, f"is in a gap ({gap.reason}), and not trimmed")


def _is_late(stay: Stay, step: Step, delivery: h.Deliver) -> bool:
    return delivery.epoch != stay.line[1] or delivery.offset < step.due


def delivered_twice(facts: Facts) -> Found:
    """
    S2: a message comes to a process once; again only where it is marked so, or where the process went back itself.
    """
    for stay, step, delivery in facts.deliveries():
        is_again = facts.had[stay.process, (delivery.stream, delivery.epoch), delivery.offset] < step.at
        if _is_late(stay, step, delivery) and is_again and not delivery.redelivered:
            yield _came("duplicated", delivery, "came again")


def delivered_late(facts: Facts) -> Found:
    """
    S3: what comes to a process is above all that came before, and above what it was told cannot come.
    """
    for stay, step, delivery in facts.deliveries():
        is_again = facts.had[stay.process, (delivery.stream, delivery.epoch), delivery.offset] < step.at
        if _is_late(stay, step, delivery) and not is_again:
            yield _came("reordered", delivery, f"came when {step.due} of {stay.line[1]} was due")


def delivered_invention(facts: Facts) -> Found:
    """
    S4: a delivery has the bytes of a send or publish, and of the one that is at its place, where that can be read.
    """
    for stay, step, delivery in facts.deliveries():
        line, offset, payload = (delivery.stream, delivery.epoch), delivery.offset, delivery.payload
        if not facts.origins[delivery.stream, payload]:
            yield _came("phantom", delivery, f"came as {payload}, which nobody sent or published")
        held = facts.held[line].get(offset) if facts.can_read(line, offset) else None
        is_other = facts.can_read(line, offset) and (held is None or held.payload != payload)
        if is_other and not facts.may_be_replaced(stay.process, line, offset, step.at):
            yield _came("phantom", delivery, f"came as {payload}, the store says {held}")


def seen_differently(facts: Facts) -> Found:
    """
    S4: a place that cannot be read any more had one message: all who had it, or put it there, say the same.
    """
    for line, offsets in facts.witnessed.items():
        for offset, payloads in offsets.items():
            if len(payloads) > 1 and not facts.can_read(line, offset) and line not in facts.rewritten:
                yield _stored("phantom", line, offset, f"was seen as {sorted(payloads)}")


# -- the predicates: what was sent and published ----------------------------------------------------------------------


def _of_producers(facts: Facts) -> collections.abc.Iterator[tuple[Line, str, list[tuple[int, h.Effect]]]]:
    """
    Name what each producer has in each epoch: (seq, message), in the order of places.
    """
    for line, effects in facts.places.items():
        for producer, mine in by(effects, lambda effect: effect.producer).items():
            if producer is not None:
                yield line, producer, [(effect.seq, effect) for effect in mine if effect.seq is not None]


def stored_twice(facts: Facts) -> Found:
    """
    S2: a producer's message, named by its seq, is at one place of an epoch at most.
    """
    for line, producer, mine in _of_producers(facts):
        first: dict[int, int] = {}
        for seq, effect in mine:
            if first.setdefault(seq, effect.offset) != effect.offset and not facts.is_invented(line, effect):
                why = f"is at {effect.offset} of epoch {line[1]}, and at {first[seq]}"
                yield _sent("duplicated", (producer, line[0], seq), why)


def stored_too_often(facts: Facts) -> Found:
    """
    S2: a payload is at no more places of an epoch than it was sent and published; and, as the server's own, at no more
    than it was published. (What never was is an invention instead.)
    """
    for line, effects in facts.places.items():
        for payload, places in by(effects, lambda effect: effect.payload).items():
            can_be = [p for p in places if not (facts.can_read(line, p.offset) and facts.is_invented(line, p))]
            own = [place for place in can_be if place.producer is None and facts.can_read(line, place.offset)]
            origins = facts.origins[line[0], payload]
            published = facts.published[line[0], payload]
            extra = can_be[len(origins - {None}) + published :] if origins else []
            for place in extra + own[published:]:
                yield _stored("duplicated", line, place.offset, f"holds {payload} once more than it was sent")


def numbered_twice(facts: Facts) -> Found:
    """
    S2: a seq names one message.
    """
    for key, sends in facts.sends.items():
        if len({send.payload for send in sends}) > 1:
            yield _sent("duplicated", key, f"was given to {sorted({send.payload for send in sends})}")


def stored_late(facts: Facts) -> Found:
    """
    S3: the messages of a producer are in an epoch in the order of their seqs; of one that is there twice the first
    place counts.
    """
    for line, producer, mine in _of_producers(facts):
        seen: set[int] = set()
        highest = 0
        for seq, effect in mine:
            if seq < highest and seq not in seen and not facts.is_invented(line, effect):
                why = f"is at {effect.offset} of epoch {line[1]}, behind seq {highest}"
                yield _sent("reordered", (producer, line[0], seq), why)
            seen.add(seq)
            highest = max(highest, seq)


def stored_invention(facts: Facts) -> Found:
    """
    S4: what the store holds was sent under its number with these bytes, or was published.
    """
    for line, held in facts.held.items():
        for effect in held.values():
            if facts.is_invented(line, effect):
                yield _stored("phantom", line, effect.offset, f"holds {effect}, which nobody sent or published")


def receipt_of_nothing(facts: Facts) -> Found:
    """
    S4: a receipt has a send.
    """
    for key in facts.receipts:
        if key not in facts.sends:
            yield _sent("phantom", key, "has a receipt, and was never sent")


def false_refusal(facts: Facts) -> Found:
    """
    S1, rule 2: what was refused is in the stream nowhere, and was never said to be committed.
    """
    for key, receipts in facts.receipts.items():
        outcomes = {receipt.outcome for receipt in receipts}
        if key in facts.sends and "fail" in outcomes and (key in facts.present or "ok" in outcomes):
            yield _sent("false_receipt", key, "was refused, and is in the store or was said to be committed")


def false_promise(facts: Facts) -> Found:
    """
    S1: of what was committed there is one in the store, or it was there as far as anybody can tell: somebody had these
    bytes from a place that cannot be read any more; the store's loss was told, to its sender (rule 11) or to a reader
    (rules 7 and 8) when the receipt was there; or retention has taken a place that can have been its own.
    """
    for key, receipts in facts.receipts.items():
        producer, stream, seq = key
        promises = [op for op in receipts if op.outcome == "ok" and not facts.was_told_of_loss(stream, op.time)]
        is_told = any(loss.first <= seq <= loss.last for loss in facts.confessed[producer, stream])
        if not promises or key not in facts.sends or key in facts.present or is_told:
            continue
        if not facts.was_glimpsed(key) and not facts.had_room(key):
            yield _sent("false_receipt", key, "was committed, and nobody can have read it")


def false_answer(facts: Facts) -> Found:
    """
    S1: what the server's own append put at an offset is there, if the offset can be read and no loss was told since.
    """
    for op in (op for ops in facts.publishes.values() for op in ops):
        if op.epoch is None or op.offset is None or not facts.can_read((op.stream, op.epoch), op.offset):
            continue
        held = facts.held[op.stream, op.epoch].get(op.offset)
        if (held is None or held.payload != op.payload) and not facts.was_told_of_loss(op.stream, op.time):
            yield _stored("false_receipt", (op.stream, op.epoch), op.offset, f"was to be {op.payload}, and is {held}")


PREDICATES: tuple[collections.abc.Callable[[Facts], Found], ...] = (
    lost,
    unreported_gap,
    unreported_epoch,
    untrue_gap,
    delivered_twice,
    delivered_late,
    delivered_invention,
    seen_differently,
    stored_twice,
    stored_too_often,
    numbered_twice,
    stored_late,
    stored_invention,
    receipt_of_nothing,
    false_refusal,
    false_promise,
    false_answer,
)
