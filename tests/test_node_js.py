"""The node in Node.js beside Python nodes: it serves, takes sessions over and hands them on, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_ws import events
from server_fixture.cluster import Cluster
from server_fixture.commands import shown, written
from server_fixture.engine import find_server
from tests.conformance.plain_peer import plain
from tests.documents import ROOT, blocks
from tests.fault_server import numbers, opened, taken
from tests.node_js import OLDEST, SOURCE, node_js_command, node_js_directory
from tests.test_demo import demo
from tests.test_foreign_nodes import reads_at_one_and_writes_at_the_other
from tests.transport_tools import PATIENCE

cluster_test = pytest.mark.cluster


@pytest.fixture(scope="module")
def node_js(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a node in Node.js."""
    return node_js_command(tmp_path_factory)


@pytest.fixture(scope="module")
def pair(node_js: list[str]) -> Iterator[Cluster]:
    """A node of each kind on one store."""
    with Cluster(2, keepalive=0.5, ttl=30.0, flags={"drain": 5}, commands={2: node_js}) as running:
        yield running


class Seen:
    """The events of a Client, to wait for."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, event: Any) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self._events if isinstance(event, kind)]

    def wait(self, kind: type, count: int = 1) -> list[Any]:
        """Wait for so many events of a kind."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(kind)) >= count, PATIENCE), f"no {kind.__name__}"
            return self.of(kind)


@cluster_test
def test_every_node_of_a_mixed_cluster_serves(pair: Cluster) -> None:
    """Nodes of both kinds welcome Clients, and what is written at one is read at the other."""
    reads_at_one_and_writes_at_the_other(pair)
    assert pair.publish("published", b"\x00").last == 1
    pair.nodes[0].pause()
    try:
        place = pair.publish("published", "two")
    finally:
        pair.nodes[0].resume()
    read = pair.final_read("published")
    assert read is not None
    assert (place.last, [effect.payload for effect in read.messages]) == (2, ["binary:00", "text:two"])


@cluster_test
def test_session_moves_between_kinds_and_loses_nothing(pair: Cluster) -> None:
    """A Client whose nodes are killed in turn resumes at the other kind, there and back, with nothing lost or twice."""
    seen, rounds, each = Seen(), 4, 50
    with opened(*pair.urls, subscribe={"in": "now"}, stream="out", on_event=seen) as client:
        session, served = client.session_id, [client.stats()["node"]]
        for number in range(rounds):
            for text in numbers(each, 1 + number * each):
                pair.publish("in", text)
                client.send(text)
            node = next(node for node in pair.nodes if node.name == served[-1])
            node.kill()
            served.append(seen.wait(events.Resumed, number + 1)[-1].node)
            assert taken(client, each) == numbers(each, 1 + number * each)
            node.restart()
        client.flush(PATIENCE)
        assert client.session_id == session
        assert not seen.of(events.SessionReplaced)
    assert served == [served[0], served[1]] * 2 + [served[0]]
    read = pair.final_read("out")
    assert read is not None
    assert [effect.payload for effect in read.messages] == [f"text:{text}" for text in numbers(rounds * each)]


@cluster_test
def test_session_taken_over_at_another_kind(pair: Cluster) -> None:
    """A token from one kind is good at the other, whose hello closes the old connection, in both directions."""
    for here, there in (pair.urls, reversed(pair.urls)):
        with plain(here) as first, plain(there) as second, plain(here) as third:
            one = first.hello()
            two = second.resume(first, one)
            assert (two["verdict"], two["session"]) == ("resumed", one["session"])
            assert (first.wait_closed().code, third.resume(second, two, attempt=3)["verdict"]) == (4409, "resumed")
            assert second.wait_closed().reason.endswith(f"instance={first.instance}")


@cluster_test
@pytest.mark.parametrize("number", [1, 0], ids=["node_js", "python"])
def test_drained_node_hands_its_clients_over(pair: Cluster, number: int) -> None:
    """SIGTERM sends a node's Clients to the other kind without a loss, and the process ends with 0."""
    node, other = pair.nodes[number], pair.nodes[1 - number]
    seen, stream = Seen(), f"drained-{number}"
    other.kill()
    with opened(*pair.urls, subscribe={stream: "now"}, stream=stream, on_event=seen) as client:
        assert client.stats()["node"] == node.name
        other.restart()
        for text in numbers(50):
            client.send(text)
        node.drain(wait=False)
        for text in numbers(50, 51):
            client.send(text)
        assert seen.wait(events.Resumed)[0].node == other.name
        assert taken(client, 100) == numbers(100)
        client.flush(PATIENCE)
        assert seen.of(events.DrainNoticed)
    assert node.child.wait(30.0) == 0
    node.restart()


@cluster_test
def test_block_of_the_page_runs(node_js: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The Python block of ``docs/node.md`` runs, from wherever the program is."""
    (code,) = blocks(ROOT / "docs" / "node.md", "python")
    path = "examples/node_js/src/node.js"
    assert path in code
    exec(code.replace(path, node_js[1]), {})
    assert capsys.readouterr().out == "through node-2 node-2\n"


@cluster_test
@pytest.mark.timeout(300)
def test_node_in_node_js_passes_its_own_tests(node_js: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """It writes what every golden transcript has, byte for byte, and two of it live on a real store."""
    directory = node_js_directory(tmp_path_factory)
    env = {**os.environ, "RESILIENT_WS_REDIS_SERVER": find_server().path}
    argv = ["node", "--test"]
    done = subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    figures = dict(re.findall(r"^# (pass|fail|skipped) (\d+)$", done.stdout, re.MULTILINE))
    assert int(figures["pass"]) >= 90
    assert (figures["fail"], figures["skipped"]) == ("0", "0")


@pytest.mark.demo
@pytest.mark.timeout(120)
def test_demo_of_a_mixed_cluster_loses_nothing(node_js: list[str], tmp_path: Path) -> None:
    """Sessions survive the kills of a cluster of both kinds, and each kind served and resumed some."""
    flags = ("--seconds", "16", "--kill-every", "1.0", "--seed", "11", "--node-command", written(2, node_js))
    status, report, said = demo(tmp_path, *flags)
    assert status == 0, said
    assert (report["verdict"], report["lost"], report["duplicated"], report["reordered"]) == ("ok", 0, 0, 0)
    assert report["kills"] >= 10
    assert all(served["welcomes"] >= served["resumed"] > 0 for served in report["served"].values())
    assert f"node-2 ({shown(node_js)}): " in said


@pytest.mark.demo
@pytest.mark.timeout(120)
def test_demo_of_a_mixed_cluster_without_replay_loses_messages(node_js: list[str], tmp_path: Path) -> None:
    """The negative control: without replay the same cluster loses messages and exits 1."""
    flags = ("--seconds", "10", "--kill-every", "0.7", "--no-replay", "--node-command", written(2, node_js))
    status, report, said = demo(tmp_path, *flags)
    assert status == 1, said
    assert (report["verdict"], report["resumed"]) == ("anomaly", 0)
    assert report["lost"] > 0
    assert report["served"]["node-2"]["welcomes"] > 0


# -- where Node.js is not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "said"), [(None, "node and npm not found"), ("v18.20.4", "node v18.20.4 is too old")]
)
@pytest.mark.parametrize("ci", ["", "true"])
def test_missing_node_js_skips_but_not_in_ci(
    version: str | None, said: str, ci: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a Node.js that is new enough these tests are skipped on a user's machine, and fail where CI is set."""
    for program in ("node", "npm") if version else ():
        (tmp_path / program).write_text(f"#!{shutil.which('sh')}\necho {version}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match=rf"{said}.*install Node.js 20.15"):
        node_js_command(None)  # type: ignore[arg-type]


def test_oldest_node_js_is_what_the_package_asks_for() -> None:
    """The version that the tests look for is that of ``package.json``."""
    asked = json.loads((SOURCE / "package.json").read_text("utf-8"))["engines"]["node"]
    assert asked == f">={OLDEST[0]}.{OLDEST[1]}"
