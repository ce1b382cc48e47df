"""The second judge of a history: each predicate by what it must find and what it must let pass."""

from __future__ import annotations

import collections.abc
import json
import re
import subprocess
import sys
import time

import pytest

from server_fixture import history as h
from server_fixture import second_checker, second_facts
from tests.test_checker import CLEAN, EPOCH, ME, PLANTED, STREAM, came, deliver, e, effect, gap, read, sends, subscribed


@pytest.mark.parametrize("ops", CLEAN.values(), ids=CLEAN.keys())
def test_clean_history_is_whole(ops: list[h.Op]) -> None:
    """What the promises allow is no anomaly."""
    assert second_checker.check(ops).report() == "whole"


@pytest.mark.parametrize(("ops", "expected"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_anomaly_is_found(ops: list[h.Op], expected: dict[str, int]) -> None:
    """A planted anomaly is found, as its kind and as nothing else."""
    verdict = second_checker.check(ops)
    assert (verdict.is_whole, verdict.kinds) == (False, set(expected))


@pytest.mark.parametrize("predicate", second_checker.PREDICATES, ids=lambda predicate: predicate.__name__)
def test_every_predicate_is_needed_and_cites_what_it_negates(
    predicate: collections.abc.Callable[[second_facts.Facts], collections.abc.Iterator[second_checker.Anomaly]],
) -> None:
    """Each predicate finds something planted, and its docstring begins with an invariant or a rule."""
    assert any(list(predicate(second_facts.Facts(ops))) for ops, _ in PLANTED.values())
    assert re.match(r"\s*([SL]\d|rule \d+)(, rule \d+)?: ", predicate.__doc__ or "")


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ([*sends(1, 2), subscribed(), *deliver(1), read(*e(1, 2))], ("lost", ME, STREAM, EPOCH, 2)),
        ([*sends(1, 2), read(effect(1))], ("false_receipt", "p", STREAM, None, 2)),
        ([read(h.Effect(1, "text:x"))], ("phantom", None, STREAM, EPOCH, 1)),
    ],
    ids=["process", "producer", "log"],
)
def test_anomaly_has_its_key(ops: list[h.Op], expected: tuple[str, str | None, str, str | None, int]) -> None:
    """An anomaly says who and which message: an offset of an epoch, or the seq of a producer."""
    (anomaly,) = second_checker.check(ops).anomalies
    assert (anomaly.kind, anomaly.who, anomaly.stream, anomaly.epoch, anomaly.number) == expected


def test_report_is_limited() -> None:
    """A report is the verdict and some of the anomalies, each with its key, and says how many it leaves out."""
    stored = [h.Effect(n, "text:x") for n in range(1, 31)]
    lines = second_checker.check([*sends(3), read(*stored)]).report(3).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("broken", 5, "... and 28 more")
    assert lines[1] == "false_receipt: p, stream 'orders', 3: was committed, and nobody can have read it"
    assert lines[2].startswith("phantom: the log, stream 'orders' (epoch e1), 1: holds Effect(")


def test_late_message_of_an_old_epoch() -> None:
    """What comes late, of an epoch that the reader has left, is judged by that epoch, and moves him nowhere."""
    here = [*sends(1, 2, 3), subscribed(epoch="e0"), *deliver(1, epoch="e0"), gap(2, None, 1, "epoch")]
    late = h.Deliver(ME, 9.0, STREAM, "e0", 2, "text:p/3")
    rest = [came(1, "text:p/2"), h.FinalRead(9.0, STREAM, "e0", 1, (effect(1), effect(2)))]
    verdict = second_checker.check([*here, late, *rest, read(effect(1, 2), effect(2, 3))])
    assert {(a.kind, a.epoch, a.number) for a in verdict.anomalies} == {
        ("reordered", "e0", 2),
        ("phantom", "e0", 2),
        ("lost", EPOCH, 2),
    }


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        ([*sends(1)], "no final read of 'orders'"),
        ([h.Publish("node", 1.0, STREAM, "text:a")], "no final read of 'orders'"),
        ([subscribed()], "no final read of 'orders'"),
        ([*deliver(1), read()], "follows nothing"),
        ([gap(1, 1, 2), read()], "follows nothing"),
        ([subscribed(), h.Unsubscribed(ME, 2.0, STREAM), *deliver(1), read()], "follows nothing"),
        ([read(*e(1, 1))], "the read itself is wrong"),
        ([read(*e(1, 2), first=2)], "the read itself is wrong"),
    ],
)
def test_history_that_cannot_be_judged_is_refused(ops: list[h.Op], said: str) -> None:
    """Without the store's last word, or a start position, there is no verdict, in particular not that it is whole."""
    with pytest.raises(h.MalformedHistory, match=said):
        second_checker.check(ops)


def test_leaving_twice_is_no_anomaly() -> None:
    """Who left may leave again: nothing is owed to him anyhow."""
    leave = h.Unsubscribed(ME, 2.0, STREAM)
    assert second_checker.check([*sends(1), subscribed(), leave, leave, read(effect(1))]).is_whole


def test_a_demonstration_is_judged_in_seconds() -> None:
    """Four subscribers of 5,000 messages, with a jump at every other one, take under ten seconds of CPU."""
    offsets = range(1, 5001)
    ops: list[h.Op] = [*sends(*offsets)]
    for process in "abcd":
        ops.append(h.Subscribed(process, 1.0, STREAM, EPOCH, 1))
        ops += deliver(*(n for n in offsets if n % 2), process=process)
    ops.append(read(*e(*offsets)))
    begin = time.process_time()
    assert second_checker.check(ops).kinds == {"lost", "unreported_gap"}
    assert time.process_time() - begin < 10.0


def test_it_shares_no_code_with_the_first_or_the_accused() -> None:
    """Importing the second checker imports neither the library under test nor anything of the first checker."""
    code = (
        "import json, sys, server_fixture.second_checker; ours = ('resilient_ws', 'server_fixture'); "
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] in ours]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    ours = {"", ".history", ".second_checker", ".second_facts"}
    assert set(json.loads(done.stdout)) == {f"server_fixture{name}" for name in ours}
