"""The Autobahn job judges what the fuzzing server found, and says where it cannot run; the run is a tox job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from server_fixture.rude import RudeServer, echo
from tests.autobahn import __main__ as job
from tests.autobahn import client, suite
from tests.autobahn.judging import failure_of, judge, table

GOOD = {"behavior": "OK", "behaviorClose": "OK"}


def test_counts_are_by_section() -> None:
    """Cases are counted by the first number of their ids, and the table has a line for each and one for all."""
    odd = {"behavior": "NON-STRICT", "behaviorClose": "OK"}
    told = {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"}
    summary = judge(["1.1.1", "1.1.2", "6.4.1", "7.1.6"], {"1.1.1": GOOD, "1.1.2": GOOD, "6.4.1": odd, "7.1.6": told})
    assert summary.sections == {"1": {"OK": 2}, "6": {"NON-STRICT": 1}, "7": {"INFORMATIONAL": 1}}
    assert not summary.is_bad
    assert list(summary.not_strict) == ["6.4.1"]
    assert "not at each fragment" in summary.not_strict["6.4.1"]
    lines = table(summary)
    assert lines[2] == "| 1. framing | 2 | 0 | 0 | 0 |"
    assert lines[-1] == "| all | 2 | 1 | 1 | 0 |"


@pytest.mark.parametrize(
    ("case", "result", "how"),
    [
        ("1.1.1", None, "no result"),
        ("1.1.1", {**GOOD, "behavior": "FAILED"}, "FAILED, closing OK"),
        ("1.1.1", {**GOOD, "behavior": "UNIMPLEMENTED"}, "UNIMPLEMENTED"),
        ("1.1.1", {**GOOD, "behaviorClose": "WRONG CODE"}, "closing WRONG CODE"),
        ("1.1.1", {**GOOD, "behaviorClose": "UNCLEAN"}, "closing UNCLEAN"),
        ("6.40.1", {**GOOD, "behavior": "NON-STRICT"}, "no reason is known"),
    ],
)
def test_failures_are_failures(case: str, result: dict[str, Any] | None, how: str) -> None:
    """What failed, was not run, closed badly, or is not strict without a known reason makes the run a bad one."""
    assert how in (failure_of(case, result) or "")
    summary = judge([case], {} if result is None else {case: result})
    assert summary.is_bad
    assert list(summary.failures) == [case]
    assert summary.sections == {case.split(".")[0]: {"FAILED": 1}}


def test_run_of_nothing_is_bad() -> None:
    """A pattern that matches no case proves nothing."""
    assert judge([], {}).is_bad


@pytest.mark.parametrize(("flags", "status", "word"), [([], 0, "skipped"), (["--required"], 1, "failed")])
def test_without_python27_it_says_so(
    flags: list[str],
    status: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a machine without Python 2.7 the run is skipped in words, and failed where it is required."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["autobahn", "--cache", str(tmp_path / "cache"), *flags])
    assert job.main() == status
    assert capsys.readouterr().out.startswith(f"{word}: the Autobahn suite needs Python 2.7: no python2.7 on the path")
    assert not (tmp_path / "cache").exists()


def test_shim_without_a_version_behind_it_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``python2.7`` that does not start is passed over for one that does."""
    (tmp_path / "python2.7").write_text("#!/bin/sh\nexit 127\n")
    real = tmp_path / "versions" / "2.7.18" / "bin" / "python2.7"
    real.parent.mkdir(parents=True)
    real.write_text("#!/bin/sh\nexit 0\n")
    for program in (tmp_path / "python2.7", real):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert suite.find_python27() == real


def test_compression_is_offered_where_it_is_tested() -> None:
    """Sections 12 and 13 offer compression, the others do not."""
    with RudeServer([_short_echo] * 3) as server:
        for case in ("1.1.1", "12.1.1", "13.7.18"):
            client.run_case(server.url.rstrip("/"), 1, case)
        assert [request.get("sec-websocket-extensions") is not None for request in server.requests] == [
            False,
            True,
            True,
        ]
        assert server.requests[0].line == "GET /runCase?case=1&agent=resilient_ws HTTP/1.1"


def _short_echo(caller: Any) -> None:
    sent = iter([True])
    receive = caller.read_frame

    def read_frame() -> tuple[int, bytes]:
        return (8, b"\x03\xe8") if next(sent, None) else receive()

    caller.read_frame = read_frame
    echo(caller)
