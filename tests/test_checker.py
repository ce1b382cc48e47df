"""The judge of a history: clean runs pass, and every kind of broken promise is found for what it is."""

from __future__ import annotations

import collections.abc
import subprocess
import sys
import time
import typing

import attrs
import pytest

from server_fixture import checker, evidence
from server_fixture import history as h

STREAM, EPOCH = "orders", "e1"
ME = "sub"


def read(*effects: h.Effect, first: int = 1, epoch: str = EPOCH, contiguous: bool = True) -> h.FinalRead:
    """The store's last word."""
    return h.FinalRead(90.0, STREAM, epoch, first, effects, contiguous)


def effect(offset: int, seq: int | None = None, producer: str = "p") -> h.Effect:
    """The message that `send` of the same seq puts at this offset (seq equals offset unless given)."""
    seq = offset if seq is None else seq
    return h.Effect(offset, f"text:{producer}/{seq}", producer, seq)


def send(seq: int, outcome: str | None = "ok", producer: str = "p", time: float = 1.0) -> list[h.Op]:
    """A send and its receipt, without one where the outcome is None."""
    sent = h.Send("pub", time, producer, STREAM, seq, f"text:{producer}/{seq}")
    return [sent] if outcome is None else [sent, h.Receipt("pub", time, producer, STREAM, seq, outcome)]


def sends(*seqs: int) -> list[h.Op]:
    """Several committed sends."""
    return [op for seq in seqs for op in send(seq)]


def subscribed(first: int = 1, epoch: str = EPOCH) -> h.Op:
    """The subscriber starts here."""
    return h.Subscribed(ME, 2.0, STREAM, epoch, first)


def deliver(*offsets: int, epoch: str = EPOCH, again: bool = False, process: str = ME) -> list[h.Op]:
    """Deliver the messages at these offsets (seq equals offset)."""
    return [h.Deliver(process, 3.0 + n, STREAM, epoch, n, f"text:p/{n}", again) for n in offsets]


def came(offset: int, payload: str, process: str = ME) -> h.Op:
    """Deliver something under this offset."""
    return h.Deliver(process, 3.0 + offset, STREAM, EPOCH, offset, payload)


def other_gap(first: int, last: int, after: int, reason: str = "rewritten") -> h.Op:
    """Report a gap to another subscriber."""
    return h.GapReported("b", 9.0, STREAM, EPOCH, first, last, after, reason)


def gap(first: int, last: int | None, after: int, reason: str = "trimmed", epoch: str = EPOCH, at: float = 4.0) -> h.Op:
    """Report a gap."""
    return h.GapReported(ME, at, STREAM, epoch, first, last, after, reason)


def clean() -> list[h.Op]:
    """Five committed sends, delivered to one subscriber in order."""
    return [*sends(1, 2, 3, 4, 5), subscribed(), *deliver(1, 2, 3, 4, 5), read(*map(effect, range(1, 6)))]


def found(ops: collections.abc.Iterable[h.Op]) -> dict[str, int]:
    """The kinds of anomaly in a history, with their counts."""
    verdict = checker.check(ops)
    counts = {kind: count for kind, count in verdict.counts.items() if count}
    assert (verdict.value == "anomaly") == bool(counts) == bool(verdict.anomalies)
    return counts


def e(*offsets: int) -> list[h.Effect]:
    """Effects whose seq equals their offset."""
    return [effect(n) for n in offsets]


CLEAN: dict[str, list[h.Op]] = {
    "in order": clean(),
    "empty stream": [subscribed(), read()],
    "nothing at all": [],
    "start position after the first message": [*sends(1, 2, 3), subscribed(3), *deliver(3), read(*e(1, 2, 3))],
    "send not ok in the log": [*send(1, "info"), *send(2, None), *send(3), read(*e(1, 2, 3))],
    "send not ok not in the log": [*send(1, "info"), *send(2, None), *send(3, "fail"), *send(4), read(effect(1, 4))],
    "the same send recorded again": [*send(1, "info"), *send(1), read(effect(1))],
    "trimmed part reported": [
        *sends(1, 2, 3, 4),
        subscribed(),
        *deliver(1),
        gap(2, 3, 4),
        *deliver(4),
        read(effect(4), first=4),
    ],
    "end of a gap told by next": [
        *sends(1, 2, 3),
        subscribed(),
        gap(1, None, 3),
        *deliver(3),
        read(effect(3), first=3),
    ],
    "gap over what was had": [
        *sends(1, 2),
        subscribed(),
        *deliver(1),
        gap(1, 1, 2),
        *deliver(2),
        read(effect(2), first=2),
    ],
    "everything trimmed": [*sends(1, 2), subscribed(), *deliver(1, 2), read(first=3)],
    "redelivered": [*sends(1, 2), subscribed(), *deliver(1), *deliver(1, again=True), *deliver(2), read(*e(1, 2))],
    "subscribed again, lower": [
        *sends(1, 2),
        subscribed(2),
        *deliver(2),
        subscribed(1),
        *deliver(1, 2),
        read(*e(1, 2)),
    ],
    "subscribed again where it stood": [
        *sends(1, 2),
        subscribed(),
        *deliver(1),
        subscribed(2),
        *deliver(2),
        read(*e(1, 2)),
    ],
    "nothing owed after unsubscribing": [
        *sends(1, 2, 3, 4),
        subscribed(),
        *deliver(1),
        h.Unsubscribed(ME, 3.0, STREAM),
        subscribed(4),
        *deliver(4),
        read(*e(1, 2, 3, 4)),
    ],
    "numbers that the log skips": [
        *send(1),
        *send(2),
        subscribed(),
        *deliver(1),
        read(effect(1), effect(9, 2)),
        h.Deliver(ME, 5.0, STREAM, EPOCH, 9, "text:p/2"),
    ],
    "numbers that a trimmed log skipped": [*send(9), subscribed(), *deliver(9), read(first=10, contiguous=False)],
    "too large for this client": [
        *sends(1, 2, 3),
        subscribed(),
        *deliver(1),
        gap(2, 2, 3, "too_large"),
        *deliver(3),
        read(*e(1, 2, 3)),
    ],
    "epoch changed and told": [
        *sends(1, 2, 3),
        subscribed(epoch="e0"),
        *deliver(1, 2, epoch="e0"),
        gap(3, None, 1, "epoch"),
        *[h.Deliver(ME, 5.0, STREAM, EPOCH, 1, "text:p/3")],
        read(effect(1, 3)),
    ],
    "offsets go on after a failover": [
        *sends(1, 2, 3, 4, 5),
        subscribed(epoch="e0"),
        *deliver(1, 2, epoch="e0"),
        gap(3, None, 5, "epoch"),
        *deliver(5),
        read(*e(1, 2, 5)),
    ],
    "store forgot, epoch told": [*send(1), subscribed(epoch="e0"), gap(1, None, 1, "epoch"), read()],
    "old epoch, producer gone with it": [*send(1), subscribed(epoch="e0"), *deliver(epoch="e0"), subscribed(), read()],
    "log rewritten and told": [
        *sends(1, 2, 3),
        subscribed(),
        *deliver(1, 2),
        gap(1, 2, 3, "rewritten"),
        *deliver(3),
        read(effect(1), effect(3), h.Effect(2, "text:other")),
        h.Publish("node", 2.0, STREAM, "text:other"),
    ],
    "rewritten part trimmed later": [
        *sends(1, 2, 3),
        h.Subscribed("early", 1.0, STREAM, EPOCH, 1),
        *deliver(1, process="early"),
        h.GapReported("early", 4.0, STREAM, EPOCH, 1, 1, 2, "rewritten"),
        *deliver(3, process="early"),
        subscribed(1),
        h.Deliver(ME, 4.0, STREAM, EPOCH, 1, "text:p/2"),
        *deliver(3),
        read(effect(3), first=3),
    ],
    "loss that the client told of": [
        *sends(1, 2, 3),
        h.AcknowledgedLost("pub", 2.0, "p", STREAM, 2, 2),
        read(effect(1), effect(2, 3)),
    ],
    "trimmed before anybody saw it": [*sends(1, 2, 3), read(effect(3), first=3)],
    "trimmed, but somebody had it": [*sends(1, 2, 3), subscribed(), *deliver(1, 2, 3), read(effect(3), first=3)],
    "trimmed, payload not unique": [
        *send(1),
        h.Send("pub", 1.0, "q", STREAM, 1, "text:p/1"),
        subscribed(),
        *deliver(1),
        read(first=2),
    ],
    "published by the server": [
        h.Publish("node", 1.0, STREAM, "text:a", EPOCH, 1),
        h.Publish("node", 1.0, STREAM, "text:a", EPOCH, 2),
        h.Publish("node", 1.0, STREAM, "text:b"),
        read(h.Effect(2, "text:a"), h.Effect(3, "text:b"), first=2),
    ],
    "publish that the store forgot, told": [
        h.Publish("node", 1.0, STREAM, "text:a", EPOCH, 1),
        subscribed(),
        gap(1, 0, 1, "rewritten"),
        read(),
    ],
    "publish in an epoch that nobody can read": [h.Publish("node", 1.0, STREAM, "text:a", "e0", 1), read()],
    "rewritten when the reader had left": [
        *sends(1, 2),
        h.Publish("node", 2.0, STREAM, "text:other"),
        subscribed(),
        *deliver(1, 2),
        h.Unsubscribed(ME, 8.0, STREAM),
        h.Subscribed("b", 1.0, STREAM, EPOCH, 1),
        *deliver(1, process="b"),
        other_gap(1, 1, 2),
        came(2, "text:other", "b"),
        read(effect(1), h.Effect(2, "text:other")),
    ],
    "rewritten when the reader had gone back": [
        *sends(1, 2),
        h.Publish("node", 2.0, STREAM, "text:other"),
        subscribed(),
        *deliver(1, 2),
        subscribed(2),
        h.Subscribed("b", 1.0, STREAM, EPOCH, 3),
        other_gap(1, 2, 3),
        came(2, "text:other"),
        read(effect(1), h.Effect(2, "text:other")),
    ],
    "rewritten where the log had skipped a number": [
        *sends(1, 2, 3),
        subscribed(),
        *deliver(1, 3),
        gap(1, 3, 4, "rewritten"),
        read(*e(1, 2, 3)),
    ],
    "skipped a number that a rewritten log has, and left": [
        *sends(1, 2, 3),
        subscribed(),
        *deliver(1, 3),
        h.Unsubscribed(ME, 8.0, STREAM),
        h.Subscribed("b", 1.0, STREAM, EPOCH, 4),
        other_gap(1, 3, 4),
        read(*e(1, 2, 3)),
    ],
    "trimmed, seen before and after the log was rewritten": [
        *sends(1, 2),
        subscribed(),
        came(1, "text:p/2"),
        gap(1, 1, 2, "rewritten"),
        h.Subscribed("b", 1.0, STREAM, EPOCH, 1),
        *deliver(1, 2, process="b"),
        read(first=3),
    ],
    "old epoch of a log that skips numbers": [
        *sends(1),
        subscribed(epoch="e0"),
        *deliver(1, epoch="e0"),
        gap(9, None, 1, "epoch"),
        read(contiguous=False),
    ],
    "committed in an epoch that only a publish names": [
        *send(1),
        h.Publish("node", 2.0, STREAM, "text:a", "e0", 2),
        read(),
    ],
    "two producers, mixed": [
        *send(1),
        *send(1, producer="q"),
        *send(2),
        read(effect(1), effect(2, 1, "q"), effect(3, 2)),
    ],
    "ops that nothing is judged by": [
        h.Acked(ME, 1.0, STREAM, EPOCH, 1),
        h.SessionLostReported(ME, 1.0, "expired"),
        h.Resumed(ME, 1.0),
        h.Reconnected(ME, 1.0),
        h.Fault("kill", "node-1", 0.5),
        h.Heal("kill", "node-1", 0.6),
    ],
}


@pytest.mark.parametrize("ops", CLEAN.values(), ids=CLEAN.keys())
def test_clean_history_passes(ops: list[h.Op]) -> None:
    """What the promises allow is no anomaly."""
    assert checker.check(ops).report() == "ok: " + ", ".join(f"{kind} 0" for kind in evidence.KINDS)


PLANTED: dict[str, tuple[list[h.Op], dict[str, int]]] = {
    "missing tail": ([*sends(1, 2, 3), subscribed(), *deliver(1), read(*e(1, 2, 3))], {"lost": 2}),
    "nothing delivered": ([*sends(1, 2), subscribed(), read(*e(1, 2))], {"lost": 2}),
    "skipped in silence": (
        [*sends(1, 2, 3), subscribed(), *deliver(1, 3), read(*e(1, 2, 3))],
        {"lost": 1, "unreported_gap": 1},
    ),
    "subscribed to now and skipped": (
        [*sends(1, 2, 3, 4), subscribed(), *deliver(1), subscribed(4), *deliver(4), read(*e(1, 2, 3, 4))],
        {"lost": 2, "unreported_gap": 1},
    ),
    "reported over what is stored": (
        [*sends(1, 2, 3), subscribed(), *deliver(1), gap(2, 2, 3), *deliver(3), read(*e(1, 2, 3))],
        {"lost": 1, "gap_over_existing": 1},
    ),
    "reported over what was delivered": (
        [*sends(1, 2), subscribed(), *deliver(1), gap(1, 1, 2), *deliver(2), read(*e(1, 2))],
        {"gap_over_existing": 1},
    ),
    "subscribed to now over what was trimmed": (
        [*sends(1, 2, 3, 4), subscribed(), *deliver(1), subscribed(4), *deliver(4), read(effect(4), first=4)],
        {"unreported_gap": 1},
    ),
    "reported for another epoch, in the same one": (
        [*sends(1, 2), subscribed(), gap(1, None, 2, "epoch"), *deliver(2), read(*e(1, 2))],
        {"lost": 1, "gap_over_existing": 1},
    ),
    "reported over what never was": (
        [*sends(1, 2), subscribed(), *deliver(1, 2), gap(3, 4, 5), read(*e(1, 2))],
        {"gap_over_existing": 1},
    ),
    "reported, and then it came": (
        [*sends(1, 2, 3), subscribed(), *deliver(1), gap(2, 3, 3), *deliver(3), read(first=4)],
        {"gap_over_existing": 1},
    ),
    "reported as rewritten, ahead of the reader": (
        [*sends(1, 2, 3), subscribed(), *deliver(1), gap(1, 3, 4, "rewritten"), read(*e(1, 2, 3))],
        {"lost": 2, "gap_over_existing": 1},
    ),
    "epoch changed, and not all of the old one reported": (
        [*sends(1), subscribed(epoch="e0"), *deliver(1, epoch="e0"), gap(2, 3, 1, "epoch"), read()],
        {"unreported_gap": 1},
    ),
    "passed over what another one had, in a log that skips numbers": (
        [
            *sends(1, 2, 3),
            h.Subscribed("b", 1.0, STREAM, EPOCH, 1),
            *deliver(1, 2, 3, process="b"),
            subscribed(),
            *deliver(1, 3),
            read(first=4, contiguous=False),
        ],
        {"unreported_gap": 1},
    ),
    "trimmed, not reported": (
        [*sends(1, 2, 3), subscribed(), *deliver(1, 3), read(effect(3), first=3)],
        {"unreported_gap": 1},
    ),
    "trimmed at the end, not reported": (
        [*sends(1, 2, 3), subscribed(), *deliver(1), read(first=4)],
        {"unreported_gap": 1},
    ),
    "reported too late": (
        [*sends(1, 2, 3), subscribed(), *deliver(1, 3), gap(2, 2, 3), read(effect(3), first=3)],
        {"unreported_gap": 1},
    ),
    "hole before the gap": (
        [*sends(1, 2, 3, 4), subscribed(), *deliver(1), gap(3, 3, 4), *deliver(4), read(effect(4), first=4)],
        {"unreported_gap": 1},
    ),
    "hole after the gap": (
        [*sends(1, 2, 3, 4), subscribed(), *deliver(1), gap(2, 2, 4), *deliver(4), read(effect(4), first=4)],
        {"unreported_gap": 1},
    ),
    "hole before a change of epoch": (
        [*sends(1, 2), subscribed(epoch="e0"), *deliver(1, epoch="e0"), gap(4, None, 1, "epoch"), read()],
        {"unreported_gap": 1},
    ),
    "epoch changed in silence": (
        [
            *send(1),
            *send(2),
            subscribed(epoch="e0"),
            *deliver(1, epoch="e0"),
            h.Deliver(ME, 5.0, STREAM, EPOCH, 1, "text:p/2"),
            read(effect(1, 2)),
        ],
        {"unreported_gap": 1},
    ),
    "change of epoch never heard of": (
        [*send(1), subscribed(epoch="e0"), *deliver(1, epoch="e0"), read()],
        {"unreported_gap": 1},
    ),
    "delivered twice": ([*sends(1, 2), subscribed(), *deliver(1, 1, 2), read(*e(1, 2))], {"duplicated": 1}),
    "delivered twice, later": ([*sends(1, 2), subscribed(), *deliver(1, 2, 1), read(*e(1, 2))], {"duplicated": 1}),
    "old epoch's message again": (
        [
            *send(1),
            *send(2),
            subscribed(epoch="e0"),
            *deliver(1, epoch="e0"),
            gap(2, None, 1, "epoch"),
            *deliver(1, epoch="e0"),
            h.Deliver(ME, 9.0, STREAM, EPOCH, 1, "text:p/2"),
            read(effect(1, 2)),
        ],
        {"duplicated": 1},
    ),
    "old epoch's message late": (
        [
            *send(1),
            *send(2),
            subscribed(epoch="e0"),
            gap(1, None, 1, "epoch"),
            *deliver(1, epoch="e0"),
            h.Deliver(ME, 9.0, STREAM, EPOCH, 1, "text:p/2"),
            read(effect(1, 2)),
        ],
        {"reordered": 1},
    ),
    "out of order": ([*sends(1, 2, 3), subscribed(), *deliver(1, 3, 2), read(*e(1, 2, 3))], {"reordered": 1}),
    "redelivered what never came": (
        [*sends(1, 2), subscribed(2), *deliver(2), *deliver(1, again=True), read(*e(1, 2))],
        {"reordered": 1},
    ),
    "delivered, never in the log": ([*sends(1), subscribed(), *deliver(1, 2), read(effect(1))], {"phantom": 1}),
    "delivered with another payload": (
        [*sends(1, 2), subscribed(), *deliver(1), h.Deliver(ME, 5.0, STREAM, EPOCH, 2, "text:p/1"), read(*e(1, 2))],
        {"phantom": 1},
    ),
    "trimmed, two saw different messages": (
        [
            *sends(1, 2),
            subscribed(),
            *deliver(1, 2),
            h.Subscribed("b", 1.0, STREAM, EPOCH, 1),
            *deliver(1, process="b"),
            h.Deliver("b", 5.0, STREAM, EPOCH, 2, "text:p/1"),
            read(first=3),
        ],
        {"phantom": 1},
    ),
    "trimmed, published there and seen as something else": (
        [*send(1), h.Publish("node", 1.0, STREAM, "text:a", EPOCH, 1), subscribed(), *deliver(1), read(first=2)],
        {"phantom": 1},
    ),
    "rewritten and trimmed, nobody sent it": (
        [*sends(1), subscribed(), *deliver(1), gap(1, 1, 2, "rewritten"), came(2, "text:forged"), read(first=3)],
        {"phantom": 1},
    ),
    "trimmed, nobody sent it": ([subscribed(), *deliver(1), read(first=2)], {"phantom": 1}),
    "in the log, nobody sent it": ([*send(1), read(*e(1, 2))], {"phantom": 1}),
    "in the log, another payload": ([*send(1), read(h.Effect(1, "text:x", "p", 1))], {"phantom": 1}),
    "in the log, nobody published it": ([read(h.Effect(1, "text:x"))], {"phantom": 1}),
    "receipt for what nobody sent": ([h.Receipt("pub", 1.0, "p", STREAM, 1, "ok"), read()], {"phantom": 1}),
    "in the log twice": ([*sends(1, 2), read(effect(1), effect(2, 1), effect(3, 2))], {"duplicated": 1}),
    "trimmed once, in the log again": (
        [
            *sends(1, 2),
            subscribed(),
            *deliver(1),
            h.Deliver(ME, 5.0, STREAM, EPOCH, 2, "text:p/1"),
            h.Deliver(ME, 6.0, STREAM, EPOCH, 3, "text:p/2"),
            read(effect(2, 1), effect(3, 2), first=2),
        ],
        {"duplicated": 1},
    ),
    "published once, seen twice where it was trimmed": (
        [h.Publish("node", 1.0, STREAM, "text:a"), subscribed(), came(1, "text:a"), came(2, "text:a"), read(first=3)],
        {"duplicated": 1},
    ),
    "published once, in the log twice": (
        [h.Publish("node", 1.0, STREAM, "text:a"), read(h.Effect(1, "text:a"), h.Effect(2, "text:a"))],
        {"duplicated": 1},
    ),
    "seq given twice": (
        [*send(1), h.Send("pub", 1.0, "p", STREAM, 1, "text:other"), read(effect(1))],
        {"duplicated": 1},
    ),
    "log out of order": ([*sends(1, 2, 3), read(effect(1), effect(2, 3), effect(3, 2))], {"reordered": 1}),
    "committed, not in the log": ([*sends(1, 2, 3), read(effect(1), effect(2, 3))], {"false_receipt": 1}),
    "committed last, not in the log": ([*sends(1, 2), read(effect(1))], {"false_receipt": 1}),
    "committed, retention covers it": (
        [*sends(2, 3, 4), read(effect(3, 2), effect(4, 4), first=3)],
        {"false_receipt": 1},
    ),
    "committed, everything trimmed was seen": (
        [*sends(1, 2), *send(1, producer="q"), subscribed(), *deliver(1, 2), read(effect(2), first=2)],
        {"false_receipt": 1},
    ),
    "committed, and no place between those around it": (
        [*sends(1, 2, 3), subscribed(), *deliver(1), came(2, "text:p/3"), gap(3, 3, 4), read(first=4)],
        {"false_receipt": 1},
    ),
    "committed after the store forgot": (
        [*sends(1), subscribed(), gap(1, 0, 1, "rewritten", at=0.5), read()],
        {"false_receipt": 1},
    ),
    "refused, and in the log": ([*send(1, "fail"), read(effect(1))], {"false_receipt": 1}),
    "committed and refused": ([*send(1), *send(1, "fail"), read(effect(1))], {"false_receipt": 1}),
    "published there, not in the log": (
        [h.Publish("node", 1.0, STREAM, "text:a", EPOCH, 1), read()],
        {"false_receipt": 1},
    ),
    "published there, something else in the log": (
        [h.Publish("node", 1.0, STREAM, "text:a", EPOCH, 1), *send(1), read(effect(1))],
        {"false_receipt": 1},
    ),
}


@pytest.mark.parametrize(("ops", "expected"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_anomaly_is_found(ops: list[h.Op], expected: dict[str, int]) -> None:
    """A planted anomaly is found, as its kind and as nothing else."""
    assert found(ops) == expected


def test_every_kind_is_planted() -> None:
    """No kind of anomaly goes untested."""
    assert {kind for _, expected in PLANTED.values() for kind in expected} == set(evidence.KINDS)


def test_judged_by_one_subscriber_each() -> None:
    """One subscriber who got everything does not excuse another who did not."""
    other = [h.Subscribed("b", 2.0, STREAM, EPOCH, 1), *deliver(1, 2, 3, process="b")]
    ops = [*clean()[:-1], *other, clean()[-1]]
    verdict = checker.check(ops)
    assert [(a.kind, a.process, a.first, a.last, a.count) for a in verdict.anomalies] == [("lost", "b", 4, 5, 2)]


def test_text_says_which_message_and_where_to_look() -> None:
    """An anomaly names stream, epoch, offsets and process, and the last fault before it."""
    faults: list[h.Op] = [
        h.Fault("kill", "node-1", 5.5),
        h.Heal("kill", "node-1", 2.0),
        h.Fault("stall", "node-2", 60.0),
    ]
    ops = [*faults, *sends(1, 2, 3), subscribed(), *deliver(1, 3), read(effect(3), first=3)]
    (anomaly,) = checker.check(ops).anomalies
    assert anomaly.text == (
        "unreported_gap: stream 'orders' (epoch e1): 2..2 never came and no gap was reported for it; "
        "look at 'sub' around 6.000 s, after fault kill of node-1 at 5.500 s"
    )


def test_text_without_a_fault_or_a_time() -> None:
    """Where no fault came before, none is named; where no time is known, the process still is."""
    early, late = checker.check([*sends(1, 2, 3), subscribed(), *deliver(1, 3), read(*e(1, 2, 3))]).anomalies
    assert early.text.endswith("look at 'sub' around 6.000 s")
    assert late.text.endswith("'sub' never got 2, which the store still holds; look at the last ops of 'sub'")


def test_lost_messages_are_told_as_ranges() -> None:
    """Many lost messages are one anomaly with a count and ranges, the first eight of them."""
    offsets = list(range(1, 41))
    got = [n for n in offsets if n % 4 in (0, 1)]
    (*_, lost) = checker.check([*sends(*offsets), subscribed(), *deliver(*got), read(*e(*offsets))]).anomalies
    assert (lost.kind, lost.count, lost.first, lost.last) == ("lost", 20, 2, 39)
    assert "never got 2..3, 6..7, 10..11, 14..15, 18..19, 22..23, 26..27, 30..31 and 2 ranges more," in lost.text


def test_report_is_limited() -> None:
    """A report has the counts first and says how many anomalies it leaves out."""
    verdict = checker.check([read(*(h.Effect(n, "text:x") for n in range(1, 31)))])
    lines = verdict.report(limit=3).splitlines()
    assert lines[0].startswith("anomaly: lost 0, duplicated 0, reordered 0, phantom 30,")
    assert len(lines) == 5
    assert lines[-1] == "... and 27 more"


def test_verdict_says_what_it_has_seen() -> None:
    """A run that did nothing, and sends that nobody answered, can be told from the verdict."""
    verdict = checker.check([*send(1, None), *send(2), subscribed(), *deliver(1, 2), read(*e(1, 2))])
    assert verdict.observed == {"Send": 2, "Receipt": 1, "Subscribed": 1, "Deliver": 2, "FinalRead": 1}
    assert verdict.unresolved == 1
    assert checker.check([]).observed == {}


@pytest.mark.parametrize(
    "op",
    [*send(1), *deliver(1), subscribed(), h.Publish("node", 1.0, STREAM, "text:a"), h.Unsubscribed(ME, 1.0, STREAM)],
    ids=lambda op: type(op).__name__,
)
def test_stream_without_final_read_is_not_judged(op: h.Op) -> None:
    """Without the store's last word there is no verdict, and in particular not 'ok'."""
    with pytest.raises(h.MalformedHistory, match="no final read of 'orders'"):
        checker.check([op])


@pytest.mark.parametrize("op", [*deliver(1), gap(1, 1, 2)], ids=["deliver", "gap"])
def test_delivery_without_subscription_is_not_judged(op: h.Op) -> None:
    """A delivery whose start position is unknown cannot be judged."""
    for before in ([], [subscribed(), h.Unsubscribed(ME, 2.5, STREAM)]):
        with pytest.raises(h.MalformedHistory, match="is not subscribed"):
            checker.check([*before, op, read()])


@pytest.mark.parametrize("wrong", [read(*e(1, 1)), read(*e(1, 2), first=2)], ids=["twice", "below the first"])
def test_impossible_final_read_is_refused(wrong: h.FinalRead) -> None:
    """A final read that contradicts itself is an error of the run, not of the library."""
    with pytest.raises(h.MalformedHistory, match="the read itself is wrong"):
        checker.check([wrong])


def test_later_final_read_counts() -> None:
    """Of two final reads of one epoch the later one is used."""
    assert found([*sends(1, 2), read(effect(1)), read(*e(1, 2))]) == {}
    assert found([*sends(1, 2), read(*e(1, 2)), read(effect(1))]) == {"false_receipt": 1}


def test_trimmed_jump_is_counted_from_either_side() -> None:
    """A long jump over few deliveries and a short one over many both see what came late."""
    many = [*sends(*range(1, 9)), subscribed(), *deliver(1, 2, 3, 4, 5, 6, 8, 7), read(first=9)]
    few = [*sends(1, 5), subscribed(), *deliver(5, 1), read(first=6)]
    assert found(many) == {"reordered": 1}
    assert found(few) == {"reordered": 1, "unreported_gap": 1}


def test_order_of_ops_decides_not_the_clock() -> None:
    """The order in which a process recorded its ops counts; equal times change nothing."""
    assert found([attrs.evolve(op, time=0.0) for op in clean()]) == {}


def test_a_minute_of_load_is_judged_in_seconds() -> None:
    """Four subscribers of 5,000 messages, with a jump at every other one, take under five seconds of CPU."""
    offsets = range(1, 5001)
    ops: list[h.Op] = [*sends(*offsets)]
    for process in "abcd":
        ops.append(h.Subscribed(process, 1.0, STREAM, EPOCH, 1))
        ops += deliver(*(n for n in offsets if n % 2), process=process)
    ops.append(read(*e(*offsets)))
    begin = time.process_time()
    assert found(ops) == {"lost": 10_000, "unreported_gap": 4 * 2499}
    assert time.process_time() - begin < 5.0


def test_judge_does_not_import_the_accused() -> None:
    """Importing the checker imports nothing of the library under test."""
    code = "import sys, server_fixture.checker; print([m for m in sys.modules if m.startswith('resilient_ws')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_kinds_are_the_documented_ones() -> None:
    """Every count is there, also where it is zero."""
    counts: typing.Mapping[str, int] = checker.check([]).counts
    assert list(counts) == list(evidence.KINDS)
