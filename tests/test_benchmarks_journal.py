"""The benchmark of the journal runs, its ratios are those of what was measured, and a slowed side shows in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from benchmarks import __main__ as dispatcher
from benchmarks import journal
from benchmarks.journal import Case, Row, compare, rate
from resilient_ws.testing import FakeClock

pytestmark = pytest.mark.cluster  # real runs of some seconds, so this runs on one Python

APPENDS = [f"append, {count} per transaction, sync {sync}" for sync in ("full", "normal") for count in (1, 100)]
SENDS = [f"send(), {threads}, sync {sync}" for sync in ("full", "normal") for threads in ("1 thread", "8 threads")]
RECEIVES = ["recv()", "recv_many(100)"]


def stepping(clock: FakeClock, cost: float) -> Callable[[float], float]:
    """Make a side whose messages take ``cost`` seconds each."""

    def step() -> int:
        clock.advance(cost)
        return 1

    return lambda seconds: rate(step, seconds, clock)


def table_of(ours: float, theirs: float) -> Row:
    """Compare two sides whose messages take that long."""
    clock = FakeClock()
    return compare(Case("a case", "ours", "a peer", stepping(clock, ours), stepping(clock, theirs)), 1.0)


def test_every_row_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each case has its pairs, both rates are of the case and above 0, and the ratio is that of their medians."""
    found = tmp_path / "rows.json"
    dispatcher.main(["journal", "--seconds", "0.2", "--directory", str(tmp_path), "--json", str(found)])
    rows = json.loads(found.read_text("utf-8"))["rows"]
    assert [row["case"] for row in rows] == [*APPENDS, *SENDS, *RECEIVES]
    printed = capsys.readouterr().out
    for row in rows:
        assert row.keys() == {field.name for field in attrs.fields(Row)}
        assert len(row["runs"]) >= 7
        assert min(map(min, row["runs"])) > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])
        assert f"{row['ours']:10,.0f}  {row['peer']:40} {row['theirs']:10,.0f}  {row['ratio']:6.2f}" in printed
    assert list(tmp_path.iterdir()) == [found], "a benchmark leaves no file behind"


def test_a_slowed_side_shows() -> None:
    """A subject that takes twice as long has half the ratio; one that is as fast as its peer has 1."""
    assert table_of(0.001, 0.001).ratio == pytest.approx(1.0)
    assert table_of(0.002, 0.001).ratio == pytest.approx(0.5)
    assert table_of(0.001, 0.003).ratio == pytest.approx(3.0)


def test_a_slowed_journal_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that has to write everything twenty times is measurably behind the one that need not."""
    quick = journal.append(str(tmp_path), 100, 0.2, durable=False)
    open_quick = journal.open_journal

    def open_slow(*args: Any, **settings: Any) -> Any:
        opened: Any = open_quick(*args, **settings)
        once = opened.write

        def often(records: Any, *, durable: bool) -> None:
            for _ in range(20):
                once(records, durable=durable)

        opened.write = often
        return opened

    monkeypatch.setattr(journal, "open_journal", open_slow)
    assert journal.append(str(tmp_path), 100, 0.2, durable=False) < 0.5 * quick


def test_medians_of_pairs_in_turn() -> None:
    """The sides run A B B A, after a run of each that does not count; one disturbed run changes nothing."""
    order = []

    def side(name: str, rates: list[float]) -> Callable[[float], float]:
        def run(seconds: float) -> float:
            order.append((name, seconds))
            return rates.pop(0)

        return run

    ours, theirs = side("A", [9.0, 5.0, 6.0, 100.0]), side("B", [9.0, 10.0, 12.0, 11.0])
    row = compare(Case("a case", "ours", "a peer", ours, theirs), 2.0, pairs=3)
    assert "".join(name for name, _ in order) == "AB" + "ABBAAB"
    assert [seconds for _, seconds in order] == [0.5, 0.5] + [2.0] * 6
    assert (row.ours, row.theirs, row.ratio) == (6.0, 11.0, pytest.approx(6 / 11))
    assert row.runs == [(5.0, 10.0), (6.0, 12.0), (100.0, 11.0)]


def test_a_thread_that_fails_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sending thread ends early there is an error, and not the rate of the others."""
    calls = []

    def failing(step: Callable[[], int], seconds: float) -> float:
        calls.append(seconds)
        if len(calls) == 1:
            raise ZeroDivisionError("planted")
        return 1.0

    monkeypatch.setattr(journal, "rate", failing)
    with pytest.raises(ZeroDivisionError, match="planted"):
        journal.send(str(tmp_path), 2, 0.01, sync="normal")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["__main__"], ["--seconds"]])
def test_an_unknown_benchmark_is_refused(arguments: list[str]) -> None:
    """Who names no benchmark that there is gets the names."""
    with pytest.raises(SystemExit, match=r"NAME is one of: .*journal"):
        dispatcher.main(arguments)


def test_no_time_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of no seconds says what is wrong with it."""
    with pytest.raises(SystemExit):
        journal.main(["--seconds", "0"])
    assert "--seconds must be above 0" in capsys.readouterr().err
