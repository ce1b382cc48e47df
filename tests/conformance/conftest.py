"""The cluster that the tests of a module share, once for each subject."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from server_fixture.commands import REFERENCE
from tests.conformance.subjects import NAMED, Nodes, nodes_of
from tests.node_js import node_js_command


@pytest.fixture(scope="package", params=["named"] if NAMED else ["python", "node_js"])
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The subject twice and a reference node, on one store."""
    commands = {
        "named": lambda: shlex.split(NAMED or ""),
        "python": lambda: REFERENCE,
        "node_js": lambda: node_js_command(tmp_path_factory),
    }
    with nodes_of(commands[request.param]()) as running:
        yield running
