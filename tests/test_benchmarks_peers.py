"""The benchmarks against other clients run, their ratios are those of what was measured, and a slowed subject shows."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest

from benchmarks import __main__ as dispatcher
from benchmarks import idle, inbound, latency, outbound, paced, players_idle, startup
from benchmarks.picture import drawn
from benchmarks.plan import TINY, Plan
from benchmarks.players import AIOHTTP, ENVELOPE, PEERS, PLAIN, SKIPPING, SUBJECTS, those_there
from benchmarks.rows import Row, compared, table
from benchmarks.serving import server
from benchmarks.turns import Player, Process, in_turn

pytestmark = pytest.mark.cluster  # every player is a process, so this runs on one Python

#: Libraries that every environment of the tests has.
FEW = (PLAIN, SKIPPING, ENVELOPE, AIOHTTP)
SLOW = attrs.evolve(TINY, peers=(SKIPPING, PLAIN), slowed=0.001)
FIELDS = {"bench", "case", "subject", "peer", "ratio", "ours", "theirs", "unit", "runs", "share"}


@pytest.mark.parametrize("bench", [name for name in dispatcher.TOGETHER if name not in ("recovery", "rolling")])
def test_every_row_is_whole(bench: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench compares each subject with each peer in its cases; medians and ratio are those of the runs."""
    monkeypatch.setattr(dispatcher, "QUICK", TINY)
    monkeypatch.setattr(dispatcher, "those_there", lambda peers: (FEW, ["another"]))
    file = tmp_path / "rows.json"
    dispatcher.main([bench, "--json", str(file)])
    content = json.loads(file.read_text("utf-8"))
    assert content["missing"] == ["another"]
    rows = content["rows"]
    assert rows
    assert {(row["bench"], row["subject"] in SUBJECTS) for row in rows} == {(bench, True)}
    for row in rows:
        assert row.keys() == FIELDS
        assert len(row["runs"]) == (1 if bench in ("idle", "storm") else TINY.rounds), "no round is left out"
        assert min(map(min, row["runs"])) > 0
        ours, theirs = (statistics.median(column) for column in zip(*row["runs"], strict=True))
        assert (row["ours"], row["theirs"]) == (ours, theirs)
        assert row["ratio"] == pytest.approx(theirs / ours), "every figure here is a cost"


@pytest.mark.parametrize(
    ("bench", "subjects"),
    [
        (inbound, {"session", "batch", "transport"}),
        (outbound, {"session", "transport"}),
        (latency, {"session", "transport"}),
        (paced, {"session", "transport"}),
    ],
)
def test_a_slowed_session_shows(bench: Any, subjects: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that wastes a millisecond on each message is behind its peers; the transport, not slowed, is not."""
    if hasattr(bench, "CASES"):
        monkeypatch.setattr(bench, "CASES", bench.CASES[:1])
    rows = bench.run(SLOW)
    assert {row.subject for row in rows} == subjects
    # The tail of twenty round trips is the slowest one, which is whoever the machine left waiting.
    rows = [row for row in rows if not row.case.endswith("p99")]
    assert max(row.ratio for row in rows if row.subject != "transport") < 0.5
    assert min(row.ours for row in rows if row.subject == "transport") < 1000


def test_a_slowed_import_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that takes longer has a ratio below 1."""
    slow = "import time\nuntil = time.process_time() + 0.4\nwhile time.process_time() < until: pass"
    monkeypatch.setattr(startup, "OURS", {"slow": slow})
    rows = startup.run(attrs.evolve(TINY, rounds=1, peers=()))
    assert [(row.case, row.peer) for row in rows] == [("slow", f"import {startup.PARTS}")]
    assert rows[0].ours >= 400
    assert rows[0].ratio < 1


class Heavy(players_idle.Sessions):
    """A client that keeps 4 MiB beside each connection."""

    def open_one(self) -> Any:
        return super().open_one(), bytearray(b"x" * (4 << 20))


def test_a_heavy_idle_client_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client keeps for a connection is in its memory."""
    monkeypatch.setitem(idle.HOMES, "session", f"{__name__}:Heavy")
    rows = {row.unit: row for row in idle.run(attrs.evolve(TINY, counts=(1, 3), peers=(PLAIN,))) if row.case[0] == "3"}
    assert rows[idle.MEMORY].ours > 4000
    assert rows[idle.MEMORY].ratio < 1
    assert rows[idle.THREADS].theirs > rows[idle.THREADS].ours


def test_every_peer_plays() -> None:
    """Each client that is installed receives, sends and echoes what it is asked for, and is slower than nothing."""
    there, _ = those_there(PEERS)
    assert {player.name for player in FEW} <= {player.name for player in there}
    with server() as place:
        for player in there:
            process = Process(player)
            try:
                process.ask("open", player.home, player.options, place.url(player.feed, size=50), None)
                assert process.ask("receive", 70).cpu > 0
                process.ask("send", "x" * 50, 70)
                process.ask("receive", 70)
                if player != ENVELOPE:
                    process.ask("open", player.home, player.options, place.url(player.feed, is_echo=True), None)
                    assert len(process.ask("echo", "x" * 50, 5).found) == 5
            finally:
                process.close()


def test_a_player_that_fails_is_named() -> None:
    """What went wrong in a player's process, or that it died, is an error with its name."""
    player = Player("unlucky", "benchmarks.players_sync:Nobody")
    process = Process(player)
    try:
        with pytest.raises(RuntimeError, match=r"unlucky: 'open' failed:[\s\S]*Nobody"):
            process.ask("open", player.home, {}, "ws://127.0.0.1:9/", None)
        process._process.kill()
        with pytest.raises(RuntimeError, match=r"unlucky: its process died"):
            process.ask("receive", 1)
    finally:
        process.close()


def test_rounds_are_in_turn() -> None:
    """A B A B, every round that was asked for."""
    order: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.player = Player(name, "")

    def work(process: Any) -> float:
        order.append(process.player.name)
        return float(len(order))

    both: Any = [Fake("A"), Fake("B")]
    assert in_turn(both, 2, work) == {"A": [1.0, 3.0], "B": [2.0, 4.0]}
    assert "".join(order) == "ABAB"


def test_ratio_is_above_one_where_ours_is_better() -> None:
    """Of a cost the lower is better, of a rate the higher; one disturbed run changes nothing."""
    runs = [(1.0, 3.0), (2.0, 4.0), (90.0, 5.0)]
    assert Row("b", "c", "session", "p", "us", runs).ratio == pytest.approx(2.0)
    assert Row("b", "c", "session", "p", "messages/s", runs).ratio == pytest.approx(0.5)
    with pytest.raises(ValueError, match="shorter"):
        compared("b", "c", "us", {"session": [1.0, 2.0], "p": [1.0]}, SUBJECTS)


def test_what_is_found_is_told_and_drawn() -> None:
    """Table and picture have every subject and peer with its figure, the best bar first."""
    found = {"session": [2.0], "transport": [1.5], "a <peer>": [3.0]}
    rows = compared("inbound", "a case", "us", found, SUBJECTS)
    assert [(row.subject, row.peer) for row in rows] == [("session", "a <peer>"), ("transport", "a <peer>")]
    told = table(rows)
    assert "session 2.00, transport 1.50" in told
    assert "1.50x" in told
    texts = [element.text for element in ElementTree.fromstring(drawn(rows)).iter() if element.tag.endswith("text")]
    assert "Shorter is better" in str(texts[0])
    assert texts[2:] == ["resilient_ws, transport", "1.50", "resilient_ws, session", "2.00", "a <peer>", "3.00"]


def test_a_missing_library_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is not installed is named and not compared with."""
    nobody = Player("nobody", "nowhere:Nobody", needs="no_such_library.at_all")
    assert those_there([PLAIN, nobody]) == ([PLAIN], ["nobody"])
    plans: list[Plan] = []
    monkeypatch.setattr(dispatcher, "PEERS", (PLAIN, nobody))
    monkeypatch.setattr(dispatcher, "run", lambda names, plan, keep: plans.append(plan) or [])
    dispatcher.main(["inbound"])
    assert "not compared (pip install '.[bench]'): nobody" in capsys.readouterr().out
    assert plans[0].peers == [PLAIN]


def test_full_runs_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--full`` the picture of the docs is drawn; without it is left alone."""
    picture = tmp_path / "benchmarks.svg"
    monkeypatch.setattr(dispatcher, "PICTURE", picture)
    rows = compared("inbound", "a case", "us", {"session": [2.0], "peer": [3.0]}, SUBJECTS)
    monkeypatch.setattr(dispatcher, "run", lambda names, plan, keep: rows)
    dispatcher.main(["inbound"])
    assert not picture.exists()
    dispatcher.main(["inbound", "--full"])
    assert "resilient_ws, session" in picture.read_text("utf-8")


def test_rows_outlive_a_bench_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found before is in the file; the failure is not hidden."""
    rows = compared("inbound", "a case", "us", {"session": [2.0], "peer": [3.0]}, SUBJECTS)

    def fails(plan: Plan) -> list[Row]:
        raise RuntimeError("no answer")

    monkeypatch.setattr(inbound, "run", lambda plan: rows)
    monkeypatch.setattr(latency, "run", fails)
    file = tmp_path / "rows.json"
    with pytest.raises(RuntimeError, match="no answer"):
        dispatcher.main(["inbound", "latency", "--json", str(file)])
    assert [row["case"] for row in json.loads(file.read_text("utf-8"))["rows"]] == ["a case"]
