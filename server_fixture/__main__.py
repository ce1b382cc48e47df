"""
``python -m server_fixture``: ``up`` starts a cluster, ``demo`` shows that sessions survive its nodes, ``kills`` that a
journal survives its device, ``watch`` that no connection is given up without a cause.

Here live arguments, output and exit codes; what runs is in ``cluster.py``, ``demo.py``, ``killing.py`` and
``watching.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from server_fixture.balancer import AFFINITIES
from server_fixture.commands import parse
from server_fixture.extra import require_or_exit
from server_fixture.faults import CHOICES

INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m server_fixture", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster, print its URLs, run until Ctrl-C")
    up.add_argument("--nodes", type=int, default=3, help="how many (default 3)")
    up.add_argument("--ttl", type=float, default=60.0, help="seconds that a session outlives its last refresh")
    _add_node_command(up)
    _add_balancer(up)
    up.set_defaults(run=_up)
    demo = commands.add_parser(
        "demo",
        help="break nodes under load and check that nothing is lost",
        description="Exit status 0: nothing was lost and the run proves it; 1: an anomaly; 2: the run proves nothing.",
    )
    demo.add_argument("--nodes", type=int, default=3, help="how many (default 3)")
    demo.add_argument("--seconds", type=float, default=20.0, help="of load and faults (default 20)")
    demo.add_argument("--fault", choices=tuple(CHOICES), default="kill", help="what is done to nodes (default kill)")
    paces = ", ".join(f"{name} {choice.every:g}" for name, choice in CHOICES.items())
    demo.add_argument(
        "--fault-every",
        "--kill-every",
        type=float,
        metavar="SECONDS",
        help=f"between two faults on average (default: {paces})",
    )
    demo.add_argument("--seed", type=int, help="of the schedule (default: a random one, which is printed)")
    demo.add_argument("--sessions", type=int, default=6, help="how many, at least 3 (default 6)")
    demo.add_argument("--json", metavar="FILE", help="write the numbers there")
    demo.add_argument(
        "--no-replay",
        action="store_true",
        help="negative control: each connection starts a new session from now and forgets what it sent; must exit 1",
    )
    _add_node_command(demo)
    _add_balancer(demo)
    demo.set_defaults(run=_demo)
    _add_kills(commands.add_parser)
    _add_watch(commands.add_parser)
    return parser


def _add_kills(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    kills = add_parser(
        "kills",
        help="kill devices that have a journal, and nodes, and check that nothing is lost or seen twice",
        description="Exit status 0: all held and the run proves it; 1: an anomaly; 2: the run proves nothing.",
    )
    kills.add_argument("--kills", type=int, default=1000, help="of devices (default 1000)")
    kills.add_argument("--seed", type=int, help="of the schedule (default: a random one, which is printed)")
    kills.add_argument("--nodes", type=int, default=3, help="how many (default 3)")
    kills.add_argument("--sync", choices=("full", "normal"), default="full", help="as Outbox.sync (default full)")
    kills.add_argument("--json", metavar="FILE", help="write the numbers there")
    kills.add_argument(
        "--no-journal", action="store_true", help="negative control: each life has a file of its own; must exit 1"
    )
    kills.set_defaults(run=_kills)


def _add_watch(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    watch = add_parser(
        "watch",
        help="load without faults: no connection may be given up unless a loop stood still",
        description="Exit status 0: none was; 1: one was, or ended otherwise; 2: the run proves nothing.",
    )
    watch.add_argument("--nodes", type=int, default=3, help="how many (default 3)")
    watch.add_argument("--seconds", type=float, default=60.0, help="of load (default 60)")
    watch.add_argument("--sessions", type=int, default=6, help="how many, and as many more without load (default 6)")
    watch.add_argument("--keepalive", type=float, default=1.0, help="seconds of silence before a ping (default 1)")
    watch.add_argument(
        "--timeout", type=float, help="seconds of silence after it that a client bears (default: its own, 1 at least)"
    )
    watch.add_argument("--json", metavar="FILE", help="write the numbers there")
    watch.set_defaults(run=_watch)


def _add_node_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--node-command",
        metavar="N:COMMAND",
        action="append",
        default=[],
        help="start node N by this command, as in '2:node server.js'; for several nodes, several times (docs/node.md)",
    )


def _add_balancer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--balancer", choices=("embedded",), help="put one before the nodes; clients dial it")
    parser.add_argument(
        "--affinity", choices=AFFINITIES, default="none", help="how it leads clients back to a node (default none)"
    )


def _commands(options: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """
    Read the commands of nodes.

    Raises:
        ValueError: One cannot be read, or a node has two.
    """
    found: dict[int, tuple[str, ...]] = {}
    for number, command in map(parse, options):
        if number in found:
            raise ValueError(f"--node-command: node {number} has two commands; give it one")
        found[number] = command
    return found


def _up(arguments: argparse.Namespace) -> int:
    from server_fixture.cluster import Cluster

    commands = _commands(arguments.node_command)
    before = {"balancer": arguments.balancer, "affinity": arguments.affinity}
    with Cluster(arguments.nodes, ttl=arguments.ttl, commands=commands, **before) as cluster:
        for url in cluster.urls:
            print(url, flush=True)
        for number, command in commands.items():
            print(f"node-{number}: {shlex.join(command)}", flush=True)
        print(f"logs: {cluster.directory}\nCtrl-C ends it", flush=True)
        watch = threading.Event()
        while not watch.wait(0.5):
            cluster.expect_alive()
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from server_fixture.demo import Options, run_demo
    from server_fixture.display import display_for, verdict_lines

    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    options = Options(
        nodes=arguments.nodes,
        seconds=arguments.seconds,
        fault=arguments.fault,
        fault_every=arguments.fault_every,
        seed=seed,
        sessions=arguments.sessions,
        replay=not arguments.no_replay,
        commands=_commands(arguments.node_command),
        balancer=arguments.balancer,
        affinity=arguments.affinity,
    )
    print(f"{options.command}", flush=True)
    with contextlib.closing(display_for(sys.stdout)) as display:
        outcome, kept = run_demo(options, display.show)
    for line in verdict_lines(outcome, options.command, kept):
        print(line, flush=True)
    if arguments.json is not None:
        Path(arguments.json).write_text(json.dumps(outcome.report, indent=2) + "\n", encoding="utf-8")
    return outcome.exit_code


def _kills(arguments: argparse.Namespace) -> int:
    from server_fixture.killing import Options, run_kills, verdict_lines

    options = Options(
        kills=arguments.kills,
        seed=random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed,
        nodes=arguments.nodes,
        sync=arguments.sync,
        journal=not arguments.no_journal,
    )
    print(f"{options.command}", flush=True)
    outcome, kept = run_kills(options, lambda line: print(line, flush=True))
    for line in verdict_lines(outcome, options.command, kept):
        print(line, flush=True)
    if arguments.json is not None:
        Path(arguments.json).write_text(json.dumps(outcome.report, indent=2) + "\n", encoding="utf-8")
    return outcome.exit_code


def _watch(arguments: argparse.Namespace) -> int:
    from server_fixture.watching import Options, run_watch, verdict_lines

    options = Options(
        nodes=arguments.nodes,
        seconds=arguments.seconds,
        sessions=arguments.sessions,
        keepalive=arguments.keepalive,
        timeout=arguments.timeout,
    )
    print(f"{options.command}", flush=True)
    outcome = run_watch(options, lambda line: print(line, flush=True))
    for line in verdict_lines(outcome, options.command):
        print(line, flush=True)
    if arguments.json is not None:
        Path(arguments.json).write_text(json.dumps(outcome.report, indent=2) + "\n", encoding="utf-8")
    return outcome.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; Ctrl-C and SIGTERM end it, and every process that it started."""
    arguments = _parser().parse_args(argv)
    require_or_exit()
    from server_fixture.engine import EngineNotFound
    from server_fixture.process import ChildFailed

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 0 if arguments.command == "up" else INTERRUPTED
    except (EngineNotFound, ChildFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
