"""The packages as they are installed: version, type marker, public names, and what is there without the extras."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import subprocess
import sys
from importlib.resources import files
from types import ModuleType

import pytest

import resilient_ws
import server_fixture

BARE = os.environ.get("RESILIENT_WS_BARE") == "1"


def modules(package: ModuleType) -> list[str]:
    """Name the package and every module in it, ``__main__`` excepted."""
    found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    return [package.__name__, *(module.name for module in found if not module.name.endswith(".__main__"))]


def absent_names(module: ModuleType) -> list[str]:
    """Name what the module's ``__all__`` promises and the module does not have."""
    return [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]


def test_version_is_the_installed_one() -> None:
    """The package says the version that its metadata say."""
    assert resilient_ws.__version__ == importlib.metadata.version("resilient-ws")


@pytest.mark.parametrize("package", ["resilient_ws", "server_fixture"])
def test_types_are_shipped(package: str) -> None:
    """Both packages tell type checkers that they are typed."""
    assert files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", modules(resilient_ws) + ([] if BARE else modules(server_fixture)))
def test_public_names_exist(name: str) -> None:
    """Every name in ``__all__`` of every module can be had."""
    assert absent_names(importlib.import_module(name)) == []


def test_absent_public_name_is_found() -> None:
    """A name in ``__all__`` that does not exist is reported."""
    planted = ModuleType("planted")
    planted.__dict__.update(__all__=["here", "nowhere"], here=1)
    assert absent_names(planted) == ["nowhere"]


def test_star_import_of_the_client() -> None:
    """``from resilient_ws import *`` gives the public names."""
    namespace: dict[str, object] = {}
    exec("from resilient_ws import *", namespace)
    assert set(resilient_ws.__all__) <= set(namespace)


@pytest.mark.skipif(not BARE, reason="only where the wheel is installed without an extra")
def test_fixture_without_its_extra_names_the_extra() -> None:
    """The fixture's command line says what to install, without a traceback, where its extra is missing."""
    done = subprocess.run([sys.executable, "-m", "server_fixture", "demo"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'resilient-ws[fixture]'" in done.stderr
    assert "Traceback" not in done.stderr
