"""What the check of the built wheel finds wrong."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.floors

TOOLS = Path(__file__).resolve().parent.parent / "tools"
REQUIRES = [
    "attrs>=23",
    "requests<3,>=2.31",
    "tenacity<10,>=9",
    "urllib3<3,>=2",
    "websocket-client<2,>=1.8",
    'redis>=5; extra == "fixture"',
]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, as a module."""
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.delitem(sys.modules, "check_package", raising=False)
    return importlib.import_module("check_package")


def test_wheel_as_it_should_be(check: ModuleType) -> None:
    """A wheel with both packages, their type markers and the four dependencies is right."""
    assert check.wheel_faults({*check.IN_WHEEL, "resilient_ws-0.1.0.dist-info/METADATA"}, REQUIRES) == []


def test_missing_file_is_found(check: ModuleType) -> None:
    """A wheel without a type marker is wrong."""
    faults = check.wheel_faults(check.IN_WHEEL - {"server_fixture/py.typed"}, REQUIRES)
    assert faults == ["the wheel lacks server_fixture/py.typed"]


def test_stray_package_is_found(check: ModuleType) -> None:
    """A wheel that would install the tests is wrong."""
    faults = check.wheel_faults({*check.IN_WHEEL, "tests/__init__.py"}, REQUIRES)
    assert faults == ["the wheel holds tests, which is no part of it"]


@pytest.mark.parametrize("requires", [REQUIRES[1:], [*REQUIRES, "aiohttp>=3.9"]])
def test_other_dependencies_are_found(check: ModuleType, requires: list[str]) -> None:
    """A wheel that needs more, or less, than the four dependencies is wrong."""
    (fault,) = check.wheel_faults(check.IN_WHEEL, requires)
    assert fault.startswith("the wheel needs ")
