"""Recorded operations: what they hold, how they are written and read back."""

from __future__ import annotations

import io
import time
import typing

import attrs
import pytest

from server_fixture import history as h

EVERY_OP: list[h.Op] = [
    h.Subscribed("sub", 0.0, "orders", "e1", 1),
    h.Send("pub", 0.1, "p1", "orders", 1, "text:ü"),
    h.Receipt("pub", 0.2, "p1", "orders", 1, "ok"),
    h.Receipt("pub", 0.2, "p1", "orders", 2, "fail", "too_large"),
    h.AcknowledgedLost("pub", 0.3, "p1", "orders", 3, 4),
    h.Publish("node-1", 0.3, "orders", "text:b", "e1", 2),
    h.Deliver("sub", 0.4, "orders", "e1", 1, "text:ü", True),
    h.GapReported("sub", 0.5, "orders", "e1", 2, None, 3, "trimmed"),
    h.Acked("sub", 0.6, "orders", "e1", 1),
    h.SessionLostReported("sub", 0.7, "expired"),
    h.Reconnected("sub", 0.8, "node-2"),
    h.Resumed("sub", 0.9),
    h.Fault("kill", "node-1", 1.0),
    h.Heal("kill", "node-1", 1.1),
    h.Unsubscribed("sub", 1.2, "orders"),
    h.FinalRead(1.3, "orders", "e1", 1, (h.Effect(1, "text:ü", "p1", 1), h.Effect(2, "text:b")), False),
]


def written(history: h.History) -> str:
    """Dump a history to a string."""
    file = io.StringIO()
    history.dump(file)
    return file.getvalue()


def test_every_kind_of_op_is_in_the_sample() -> None:
    """The round trip below covers every op that can be recorded."""
    assert {type(op) for op in EVERY_OP} == set(typing.get_args(h.Op))


def test_ops_survive_the_file() -> None:
    """What was dumped loads as equal ops in the same order, one line each."""
    history = h.History()
    for op in EVERY_OP:
        history.append(op)
    text = written(history)
    assert len(text.splitlines()) == len(history) == len(EVERY_OP)
    assert list(h.History.load(io.StringIO(text))) == EVERY_OP


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '"text"',
        "{}",
        '{"op":"Unheard"}',
        '{"op":"Fault","kind":"kill"}',
        '{"op":"Heal","x":1}',
        '{"op":"Receipt","process":"p","time":0,"producer":"p","stream":"s","seq":1,"outcome":"maybe"}',
    ],
)
def test_damaged_line_is_named(line: str) -> None:
    """A line that is no op is an error with its number."""
    good = written(h.History([EVERY_OP[0]]))
    with pytest.raises(h.MalformedHistory, match="line 2 of the history"):
        h.History.load(io.StringIO(good + line + "\n"))


@pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: type(op).__name__)
def test_op_cannot_be_changed(op: h.Op) -> None:
    """A recorded op stays what it was."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        op.time = 9.0  # type: ignore[misc]


def test_fingerprint_tells_payloads_apart() -> None:
    """Equal payloads have equal names, different ones do not, and text is never taken for binary."""
    payloads: list[str | bytes] = ["", b"", "a", b"a", "61", b"\x61\x61", "x" * 48, "x" * 49, "y" * 49, b"x" * 49]
    assert len({h.fingerprint(payload) for payload in payloads}) == len(payloads)
    assert h.fingerprint("x" * 10_000) == h.fingerprint("x" * 10_000)


def test_fingerprint_is_readable_where_short_and_short_where_long() -> None:
    """A short payload can be read in a report, a long one does not fill it."""
    assert h.fingerprint("p1/7") == "text:p1/7"
    assert h.fingerprint(b"\x01\xff") == "binary:01ff"
    assert len(h.fingerprint("x" * 1_000_000)) < 60


def test_recording_is_cheap() -> None:
    """Twenty thousand ops are recorded, written and read back within two seconds of CPU."""
    begin = time.process_time()
    history = h.History()
    for n in range(20_000):
        history.append(h.Deliver("sub", float(n), "orders", "e1", n + 1, f"text:{n}"))
    again = h.History.load(io.StringIO(written(history)))
    assert len(again) == 20_000
    assert time.process_time() - begin < 2.0
