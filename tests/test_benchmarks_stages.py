"""The benchmark of stages measures each of them, and shows the one that is slowed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from benchmarks import __main__ as dispatcher
from benchmarks import stages
from benchmarks.players_ours import burn
from resilient_ws.framing import Decoder

pytestmark = pytest.mark.cluster  # its server is a process, so this runs on one Python


@pytest.mark.parametrize("verb", stages.VERBS)
def test_every_verb_is_measured(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each names its stages and a sum, and leaves the functions as they were."""
    before = Decoder.feed
    dispatcher.main(["stages", verb, "--count", "30"])
    assert Decoder.feed is before
    first, *rows, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{verb}, 30 messages of 100 B")
    names = {row[:24].strip() for row in rows}
    assert {"what is decided", stages.REST} <= names <= {*stages.STAGES, stages.REST}
    total = sum(float(row.split()[-2]) for row in rows)
    assert float(last.split()[-2]) == pytest.approx(total, abs=0.001 * len(rows))
    assert total > 0


def test_a_slowed_stage_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some milliseconds in one stage is that stage's, and nobody else's."""
    feed = Decoder.feed

    def slow(self: Decoder, data: bytes) -> Any:
        burn(0.02)
        return feed(self, data)

    monkeypatch.setattr(Decoder, "feed", slow)
    rows = stages.run("echo", 100, 5)
    assert rows[0][0] == "cut frames"
    assert rows[0][2] > 10_000


def test_stages_inside_of_each_other_are_told_apart() -> None:
    """What an inner one takes is not counted again for the outer one, though either fail."""
    clock = stages.Clock()
    outer, inner = list(stages.STAGES)[:2]

    def fails() -> None:
        burn(0.02)
        raise LookupError

    with pytest.raises(LookupError):
        clock.around(outer, clock.around(inner, fails))()
    assert clock.spent[inner].seconds > 0.01
    assert clock.spent[outer].seconds < clock.spent[inner].seconds
    assert clock.spent[outer].calls == 1


def test_threads_do_not_mix() -> None:
    """What another thread does meanwhile is no part of a stage that encloses it in time alone."""
    clock = stages.Clock()
    outer, other = list(stages.STAGES)[:2]

    def meanwhile() -> None:
        thread = threading.Thread(target=clock.around(other, burn), args=(0.02,))
        thread.start()
        thread.join()

    clock.around(outer, meanwhile)()
    assert clock.spent[other].seconds > clock.spent[outer].seconds > 0
