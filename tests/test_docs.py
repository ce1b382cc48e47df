"""The pages of ``docs/`` say what is so: links lead somewhere, names are explained, tables agree with the code."""

from __future__ import annotations

import inspect
import logging
import pkgutil
import re
import typing
from pathlib import Path

import attrs
import pytest
from documents import PAGES, README, ROOT, anchors, blocks, broken_links, rows

import resilient_ws
from resilient_ws import config, events, exceptions, instrumentation, state

GUIDE = ROOT / "docs" / "guide.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"
DESIGN = ROOT / "docs" / "design.md"
PROOF = ROOT / "docs" / "proof.md"
ERRORS = [found for found in vars(exceptions).values() if inspect.isclass(found)]
GROUPS = (config.Retry, config.Budget, config.Failover, config.Keepalive, config.Outbox, config.Inbox, config.Wire)


def names_in(text: str) -> set[str]:
    """Return every word that may be a name."""
    return set(re.findall(r"[A-Za-z_]\w*", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file or heading of the project finds it."""
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A link to nothing is reported, be it a file or a heading; what is in a code block is no link."""
    page = tmp_path / "page.md"
    text = "# A head: line\n[a](b.md) [c](page.md#nowhere) [d](#a-head-line)\n```sh\n[e](f.md)\n```\n"
    page.write_text(text, "utf-8")
    assert broken_links(page) == ["b.md", "page.md#nowhere"]
    assert anchors("## 12. What cannot be noticed\n") == {"12-what-cannot-be-noticed"}


def test_every_page_is_on_the_map() -> None:
    """``docs/index.md`` names every page."""
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert [page.name for page in PAGES if page.name not in text and page.name != "index.md"] == []


def test_every_public_name_is_in_the_guide() -> None:
    """What ``resilient_ws`` exports is mentioned in the guide, and so is every method of a Client."""
    words = names_in(GUIDE.read_text("utf-8"))
    assert [name for name in resilient_ws.__all__ if name not in words] == []
    public = [
        name
        for kind in (resilient_ws.Client, resilient_ws.Receipt, resilient_ws.Message)
        for name in vars(kind)
        if not name.startswith("_") and callable(getattr(kind, name))
    ]
    assert "flush" in public
    assert [name for name in public if name not in words] == []


def test_table_of_errors_is_true() -> None:
    """The guide has every error, with its ``retryable`` and ``definite``."""
    said = {name: (retryable, definite) for name, retryable, definite, _ in rows(GUIDE, "error")}
    words = {True: "yes", False: "no"}
    true = {kind.__name__: (words[kind.retryable], words[kind.definite]) for kind in ERRORS}
    true["HandshakeRejected"] = true["ProxyError"] = ("by status", "yes")
    true["AccessDenied"] = (words[resilient_ws.AccessDenied("refused").retryable], "yes")
    del true["ResilientWSError"]
    assert said == true


def test_table_of_events_is_true() -> None:
    """The guide has every event, with the level under which it is logged."""
    kinds = typing.get_args(events.Event)
    said = {name: level for name, level, _ in rows(GUIDE, "event")}
    levels = {kind.__name__: instrumentation.level_of(object.__new__(kind)) for kind in kinds}
    assert said == {name: logging.getLevelName(level) for name, level in levels.items()}


def test_table_of_settings_is_true() -> None:
    """The guide has every setting of every group."""
    said = {name: settings.split(", ") for name, settings in rows(GUIDE, "group")}
    assert said == {group.__name__: [field.name for field in attrs.fields(group)] for group in GROUPS}


def test_table_of_states_is_true() -> None:
    """The design has the states of both machines."""
    said = dict(rows(DESIGN, "machine"))
    machines = {"session": state.SessionState, "connection": state.Phase, "role of a connection": state.Role}
    assert said == {name: ", ".join(member.value for member in machine) for name, machine in machines.items()}


def test_table_of_floors_is_complete() -> None:
    """The design has every module of the client on one floor."""
    said = [name for _, modules, _ in rows(DESIGN, "floor") for name in modules.split()]
    assert sorted(said) == sorted(module.name for module in pkgutil.iter_modules(resilient_ws.__path__))


def test_tables_of_faults_are_true() -> None:
    """The page on proofs has what the demonstration can be asked for, how often it comes, and every kind."""
    from server_fixture.faults import CHOICES

    said = {name.strip("`"): (float(every), tuple(kinds.split(", "))) for name, every, kinds in rows(PROOF, "fault")}
    assert said == {name: (choice.every, choice.kinds) for name, choice in CHOICES.items()}
    assert {kind for kind, *_ in rows(PROOF, "kind")} == {kind for choice in CHOICES.values() for kind in choice.kinds}


def test_proofs_exist() -> None:
    """Each test that a page names is there."""
    named = [name for page in PAGES for name in re.findall(r"`tests/(\w+\.py)::(\w+)`", page.read_text("utf-8"))]
    assert len(named) > 20
    for module, test in named:
        assert f"def {test}(" in (ROOT / "tests" / module).read_text("utf-8"), f"{module}::{test}"
    promises = rows(GUARANTEES, "promise")
    assert [promise for promise, proof in promises if "tests/" not in proof] == []


@pytest.mark.cluster
def test_blocks_of_the_guide_run() -> None:
    """Every Python block of the guide runs against a cluster, as the page says."""
    from server_fixture.cluster import Cluster

    found = blocks(GUIDE, "python")
    assert len(found) >= 8
    with Cluster(2) as cluster:
        for code in found:
            exec(code, {"resilient_ws": resilient_ws, "urls": cluster.urls, "publish": cluster.publish})


def test_pages_name_nothing_private() -> None:
    """No page or example has a path or a host of the machine it was written on."""
    private = re.compile(r"/(?:root|home|work|tmp)/|simple/|\blocalhost:\d{2,}")
    pages = (*PAGES, *(ROOT / "examples").glob("*.py"))
    assert [page.name for page in pages if private.search(page.read_text("utf-8"))] == []
    assert private.search("see /work/x")
    assert README in PAGES
