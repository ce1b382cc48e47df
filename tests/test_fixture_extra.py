"""What the fixture says where the ``fixture`` extra is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from server_fixture.extra import MODULES, missing, require, require_or_exit

WITHOUT_AIOHTTP = """
import runpy, sys
sys.modules["aiohttp"] = None
sys.argv = ["server_fixture", "demo"]
runpy.run_module("server_fixture", run_name="__main__", alter_sys=True)
"""


def test_nothing_is_missing_where_the_extra_is_installed() -> None:
    """With the extra installed nothing is said."""
    assert missing() == []
    require()
    require_or_exit()


@pytest.mark.parametrize("absent", MODULES)
def test_missing_module_names_the_extra(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing module is named in the error, and so is the command that installs it."""
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ImportError, match=r"pip install 'resilient-ws\[fixture\]'") as caught:
        require()
    assert caught.value.name == absent
    assert f"needs {absent}," in str(caught.value)


def test_only_the_named_modules_are_looked_for() -> None:
    """A module that is asked for by name is the only one that is looked for."""
    assert missing("no_such_module_of_ours", "sys") == ["no_such_module_of_ours"]


def test_command_line_gets_a_message_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A command line ends with status 2 and the message on standard error."""
    with pytest.raises(SystemExit) as caught:
        require_or_exit("no_such_module_of_ours")
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("server_fixture needs no_such_module_of_ours,")


@pytest.mark.cluster
def test_module_without_the_extra_names_it() -> None:
    """``python -m server_fixture demo`` without aiohttp says what to install, without a traceback."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_AIOHTTP], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'resilient-ws[fixture]'" in done.stderr
    assert "Traceback" not in done.stderr
