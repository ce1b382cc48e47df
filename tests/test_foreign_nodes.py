"""Clusters with nodes that are not the reference server, by commands of the test itself; Node.js: test_node_js.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from server_fixture import leash, node
from server_fixture.cluster import ChildFailed, Cluster
from server_fixture.commands import REFERENCE, checked, parse, shown, written
from server_fixture.demo import judge
from server_fixture.display import verdict_lines
from tests.documents import ROOT, rows
from tests.fault_server import opened, taken
from tests.test_cluster import has_ended, wait_until
from tests.test_demo import demo, faultless
from tests.transport_tools import PATIENCE

cluster_test = pytest.mark.cluster
linux = pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")

# The reference server under another name, which says how it was started.
NOTING = """
import json, os, pathlib, sys
names = ("RESILIENT_WS_TOKEN_KEY", "RESILIENT_WS_LEASH")
pathlib.Path(sys.argv.pop(1)).write_text(json.dumps([sys.argv[1:], {name: os.environ.get(name) for name in names}]))
from server_fixture import node
sys.exit(node.main())
"""
# Says READY, keeps its port, and lets nobody in.
REFUSING = """
import http.server, json, sys
port = next(int(flag.partition("=")[2]) for flag in sys.argv if flag.startswith("--port="))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(503)
with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
    print("READY", json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()
"""
SLEEPS = "import signal\nprint('READY', '{\"port\": 1234}', flush=True)\nsignal.pause()"


def python(code: str, *arguments: str) -> list[str]:
    """Return a command that is Python code."""
    return [sys.executable, "-c", code, *arguments]


# -- commands ---------------------------------------------------------------------------------------------------------


def test_command_survives_being_written() -> None:
    """What a command line says of a node is read back from the line that repeats a run."""
    command = ("node", "my server.js", "--quote='\"")
    assert parse(written(2, command)) == (2, command)
    assert parse("12:node server.js") == (12, ("node", "server.js"))
    assert parse("3:C:/x") == (3, ("C:/x",))
    assert shown(REFERENCE) == "python -m server_fixture.node"
    assert shown(command) == "node 'my server.js' '--quote='\"'\"'\"'"


@pytest.mark.parametrize("option", ["node server.js", "2", "2:", ":node", "two:node", "-1:node", "2: "])
def test_what_is_no_command_of_a_node(option: str) -> None:
    """Without a number or without a command the text says how it is done."""
    with pytest.raises(ValueError, match=r"is no command of a node: .* as in '2:node server.js'"):
        parse(option)


def test_open_quote_is_named() -> None:
    """A quote that is never closed is said to be that."""
    with pytest.raises(ValueError, match=r"No closing quotation.*close every quote"):
        parse("2:node 'server.js")


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ({3: ["true"]}, r"commands={3: \['true'\]}: there is no such node; number it from 1 to 2"),
        ({0: ["true"]}, "number it from 1 to 2"),
        ({"node-1": ["true"]}, "number it from 1 to 2"),
        ({1: "node server.js"}, r"a command is a list of strings.*docs/node.md"),
        ({1: []}, "a command is a list of strings"),
        ({1: ["true", 1]}, "a command is a list of strings"),
        ({1: ["no-such-program"]}, r"there is no program 'no-such-program', neither on PATH .* install it"),
        ({1: ["./no/such"]}, r"there is no program './no/such'"),
    ],
)
def test_command_that_cannot_be_is_refused(commands: Any, said: str) -> None:
    """A command that cannot be started is an error before anything is started, and says what, why and what to do."""
    with pytest.raises(ValueError, match=said):
        Cluster(2, commands=commands)


def test_no_commands() -> None:
    """Without commands every node is the reference server."""
    assert checked(None, 3) == {}
    assert {node.command for node in Cluster(3).nodes} == {REFERENCE}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["demo", "--node-command", "2"], "'2' is no command of a node"),
        (["up", "--node-command", "4:true"], "there is no such node; number it from 1 to 3"),
        (["demo", "--node-command", "1:true", "--node-command", "1:false"], "node 1 has two commands"),
        (["demo", "--node-command", "1:no-such-program x"], "there is no program 'no-such-program'"),
    ],
)
def test_bad_flags_are_named(flags: list[str], said: str) -> None:
    """On the command line such an error ends with status 2 and its text."""
    argv = [sys.executable, "-m", "server_fixture", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_page_has_every_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """``docs/node.md`` has each flag of the reference server with its default."""
    for name in [name for name in os.environ if name.startswith(node.PREFIX)]:
        monkeypatch.delenv(name)
    flags = {f"--{name.replace('_', '-')}": default for name, default in vars(node.parse([])).items()}
    said = {flag: default for flag, default, _ in rows(ROOT / "docs" / "node.md", "flag")}
    assert said == {flag: str(default) or "empty" for flag, default in flags.items()}


# -- a command as a node ----------------------------------------------------------------------------------------------


@cluster_test
def test_command_gets_flags_and_environment(tmp_path: Path) -> None:
    """A command is started with every flag and variable that the reference server gets, and serves beside it."""
    notes = tmp_path / "notes"
    command = python(NOTING, str(notes))
    with Cluster(2, ttl=20.0, flags={"max-message": 500}, commands={2: command}) as cluster:
        argv, env = json.loads(notes.read_text())
        assert cluster.engine is not None
        assert argv == [
            "--name=node-2",
            "--port=0",
            f"--backplane={cluster.engine.url}",
            "--ttl=20.0",
            "--keepalive=1.0",
            "--max-message=500",
        ]
        assert len(bytes.fromhex(env["RESILIENT_WS_TOKEN_KEY"])) == 32
        assert env["RESILIENT_WS_LEASH"].isdecimal()
        assert [node.command for node in cluster.nodes] == [REFERENCE, tuple(command)]
        reads_at_one_and_writes_at_the_other(cluster)
        cluster.nodes[1].kill()
        assert cluster.alive == [cluster.nodes[0]]
        cluster.nodes[1].restart()
        assert f"--port={cluster.nodes[1].port}" in json.loads(notes.read_text())[0]
        reads_at_one_and_writes_at_the_other(cluster)
        cluster.nodes[1].drain()
        assert cluster.nodes[1].child.exit_code == 0


def reads_at_one_and_writes_at_the_other(cluster: Cluster) -> None:
    """See that both nodes serve, in both directions, and share the streams."""
    one, two = cluster.urls
    for here, there in ((one, two), (two, one)):
        with opened(here, subscribe=["shared"]) as reader, opened(there, subscribe=[], stream="shared") as writer:
            assert (reader.stats()["node"], writer.stats()["node"]) == tuple(
                cluster.nodes[cluster.urls.index(url)].name for url in (here, there)
            )
            writer.send("across").result(PATIENCE)
            assert taken(reader, 1) == ["across"]


@cluster_test
def test_command_that_ends_is_reported(tmp_path: Path) -> None:
    """A command that ends before it is ready fails the start with its exit code and what it said."""
    commands = {1: python("import sys; sys.exit('no such flag: ' + sys.argv[1])")}
    cluster = Cluster(1, backplane="memory", commands=commands, directory=tmp_path)
    with pytest.raises(ChildFailed, match=r"node-1 ended with exit code 1(.|\n)*no such flag: --name=node-1"), cluster:
        pass


@cluster_test
def test_command_that_is_no_program_is_reported(tmp_path: Path) -> None:
    """A file that is there and cannot be run says so."""
    script = tmp_path / "node"
    script.write_text("no program")
    script.chmod(0o755)
    cluster = Cluster(1, backplane="memory", commands={1: [str(script)]}, directory=tmp_path)
    with pytest.raises(ChildFailed, match=r"exit code 127(.|\n)*cannot be started \(Exec format error\)"), cluster:
        pass


@cluster_test
@pytest.mark.parametrize("said", ["{}", '{"port": "80"}', '{"port": 0}', '{"port": true}', '{"port": 65536}'])
def test_ready_without_a_port_is_reported(said: str, tmp_path: Path) -> None:
    """A READY line that does not say where the node listens fails the start, and the process is gone."""
    code = f"import signal\nprint('READY', {said!r}, flush=True)\nsignal.pause()"
    cluster = Cluster(1, backplane="memory", commands={1: python(code)}, directory=tmp_path)
    with pytest.raises(ChildFailed, match=r"said READY .*, where 'port' is to be its port"), cluster:
        pass
    assert not cluster.nodes[0].is_alive


@cluster_test
def test_node_that_leaves_its_port_is_reported(tmp_path: Path) -> None:
    """A node that is restarted has to listen where it did: clients know its URL."""
    ready = "print('READY', '{\"port\": %d}' % (1024 + os.getpid() % 60000), flush=True)"
    moving = f"import os, signal\n{ready}\nsignal.pause()"
    with Cluster(1, backplane="memory", commands={1: python(moving)}, directory=tmp_path) as cluster:
        node = cluster.nodes[0]
        told = node.port
        with pytest.raises(ChildFailed, match=rf"it was told {told}"):
            node.restart()


@cluster_test
def test_command_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    """A command that says nothing is given up and ended."""
    cluster = Cluster(1, backplane="memory", commands={1: python("import signal; signal.pause()")}, directory=tmp_path)
    cluster.nodes[0].start()
    with pytest.raises(ChildFailed, match=r"did not get ready within 0.5 s"):
        cluster.nodes[0].wait_ready(0.5)
    assert not cluster.nodes[0].is_alive
    cluster.close()


@cluster_test
@linux
def test_command_that_knows_no_leash_dies_with_its_parent() -> None:
    """A program that never looks at its leash, and is stopped besides, goes with the process that made the cluster."""
    code = (
        "import sys, signal\n"
        "from server_fixture.cluster import Cluster\n"
        "with Cluster(1, backplane='memory', commands={1: [sys.executable, '-c', sys.argv[1]]}) as c:\n"
        "    c.nodes[0].pause()\n"
        "    print(c.nodes[0].pid, flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([*python(code), SLEEPS], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert not has_ended(pid)
        finally:
            parent.kill()
        parent.wait(10.0)
    assert wait_until(lambda: has_ended(pid))


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are handed on")
def test_command_of_a_parent_that_is_gone_is_not_started() -> None:
    """Where the parent went while the command was being started, nothing is started."""
    near, far = os.pipe()
    os.close(far)
    with subprocess.Popen(
        [sys.executable, "-m", "server_fixture.leash", "echo", "started"],
        stdout=subprocess.PIPE,
        env={**os.environ, leash.LEASH: str(near), "PYTHONPATH": str(Path(leash.__file__).parent.parent)},
        pass_fds=(near,),
        text=True,
    ) as process:
        os.close(near)
        assert process.communicate(timeout=30) == ("", None)
        assert process.returncode == 1


@cluster_test
def test_up_says_which_node_has_a_command(tmp_path: Path) -> None:
    """``up`` prints the URLs first, one a line, then the commands."""
    argv = [sys.executable, "-m", "server_fixture", "up", "--nodes", "2"]
    argv += ["--node-command", written(2, python(NOTING, str(tmp_path / "notes")))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(3)]
        finally:
            process.terminate()
    assert [line[:5] for line in said] == ["ws://", "ws://", "node-"]
    assert said[2].startswith(f"node-2: {sys.executable} -c ")


# -- the verdict on a mixed run ---------------------------------------------------------------------------------------


def mixed(**counts: tuple[int, int]) -> Any:
    """Judge a run that went well, whose node-2 has a command, with these (welcomes, resumes) of each node."""
    run, reads = faultless()
    run.options = attrs.evolve(run.options, commands={2: ("node", "server.js")})
    commands = {"node_1": REFERENCE, "node_2": ("node", "server.js")}
    run.cluster.nodes = tuple(  # type: ignore[misc]
        SimpleNamespace(name=name.replace("_", "-"), command=command) for name, command in commands.items()
    )
    for name, (welcomes, resumes) in counts.items():
        run.recorder.welcomes[name.replace("_", "-")] = welcomes
        run.recorder.resumes[name.replace("_", "-")] = resumes
    return run, judge(run, [], reads)


def test_mixed_run_says_what_each_node_did() -> None:
    """The report and the last lines have each node's command, its welcomes and its resumes."""
    run, outcome = mixed(node_1=(5, 3), node_2=(4, 4))
    assert (outcome.verdict, outcome.reasons) == ("ok", ())
    assert outcome.report["served"] == {
        "node-1": {"command": "python -m server_fixture.node", "welcomes": 5, "resumed": 3},
        "node-2": {"command": "node server.js", "welcomes": 4, "resumed": 4},
    }
    lines = verdict_lines(outcome, run.options.command, None)
    assert "node-2 (node server.js): 4 welcomes, 4 resumed" in lines
    assert "node-1 (python -m server_fixture.node): 5 welcomes, 3 resumed" in lines
    assert run.options.command.endswith(" --sessions 6 --node-command '2:node server.js'")


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"node_1": (5, 3), "node_2": (0, 0)}, "node-2 (node server.js) welcomed nobody"),
        ({"node_1": (0, 0), "node_2": (5, 3)}, "node-1 (python -m server_fixture.node) welcomed nobody"),
        ({"node_1": (5, 3), "node_2": (2, 0)}, "no session resumed at node-2 (node server.js)"),
    ],
)
def test_mixed_run_without_one_kind_proves_nothing(counts: dict[str, tuple[int, int]], said: str) -> None:
    """Where a node served nobody, or nobody came back to it, the run is inconclusive."""
    outcome = mixed(**counts)[1]
    assert (outcome.verdict, outcome.exit_code, outcome.reasons) == ("inconclusive", 2, (said,))


@pytest.mark.demo
def test_demo_with_a_node_that_serves_nobody(tmp_path: Path) -> None:
    """A node that says READY and lets nobody in makes a real run inconclusive, however well the others did."""
    flags = ("--seconds", "6", "--kill-every", "0.6", "--node-command", written(2, python(REFUSING)))
    status, report, said = demo(tmp_path, *flags)
    assert status == 2, said
    assert report["served"]["node-2"]["welcomes"] == 0
    assert "welcomed nobody" in said
    assert report["lost"] == 0
