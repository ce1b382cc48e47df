"""
How long a consumer hears nothing when its server dies, stands still or drains: ours, the least possible, the peers.

``python -m benchmarks recovery``. A session takes a feed from a cluster of three nodes, over Redis; the feed goes on
meanwhile. Peers that connect again by themselves have three servers behind one address, which greet each connection;
so has one floor, a bare socket that connects, upgrades and has one ping answered; the other floor does so at the
cluster's own nodes. Everybody loses its server in turn, those that wait by design all together, and every server is
replaced before the next one goes. The first loss of each does not count, and every new node has served a guest before
the next one goes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence

import attrs

from benchmarks.mortal import Helper, Loss, Pool, publish
from benchmarks.plan import Plan
from benchmarks.players import SESSION, SUBJECTS
from benchmarks.rows import TAIL, Row, compared
from benchmarks.turns import Player, Process, Stage
from server_fixture.cluster import Cluster

UNIT = "ms"
KEEPALIVE = 1.0
"""Seconds of silence after which the nodes have a client ping."""
DEADLINE = 1.0
"""The floor of the deadline after a ping (``Keepalive.min_timeout``); a round trip on one machine is far below."""
MARGIN = 0.5
"""Seconds that finding another node may take once a silent one is given up."""

HOME = "benchmarks.players_recovery:"
OURS = Player(SESSION.name, f"{HOME}Session")
GUEST = Player("guest", f"{HOME}Session")
"""Whom every new node serves before anything is measured."""
NODES = Player("floor: a bare socket, at the nodes", f"{HOME}Floor", options={"subprotocol": "resilient.v1"})
SERVERS = Player("floor: a bare socket, at the peers' servers", f"{HOME}Floor")
AT_ONCE = (
    Player("websockets, reconnect()", f"{HOME}Websockets", needs="websockets"),
    Player("azure-messaging-webpubsubclient", f"{HOME}Azure", "azure", "azure.messaging.webpubsubclient"),
    Player(
        "python-socketio, reconnection_delay=0.01, not random",
        f"{HOME}SocketIO",
        "socket.io",
        "socketio",
        {"reconnection_delay": 0.01, "randomization_factor": 0},
    ),
    Player("jetsocket, BackoffConfig(base=0.01)", f"{HOME}Jetsocket", needs="jetsocket", options={"base": 0.01}),
)
"""Peers that try again within some milliseconds, or were told to."""
WAITING = (
    Player("websocket-client, run_forever(reconnect=5)", f"{HOME}WebsocketClient", options={"reconnect": 5}),
    Player("websocket-client, run_forever(reconnect=1)", f"{HOME}WebsocketClient", options={"reconnect": 1}),
    Player("python-socketio", f"{HOME}SocketIO", "socket.io", "socketio"),
    Player("jetsocket", f"{HOME}Jetsocket", needs="jetsocket"),
)
"""Peers that wait for about a second or more before they try again."""
BOUND = f"ping interval {KEEPALIVE:g} s + deadline {DEADLINE:g} s + {MARGIN:g} s"
QUIET = "nothing drained"
SOON, SPARE = "session, again", "session, with a spare"
LOOK = 0.5
"""Seconds for which silences are looked at: a node that drains has sent its clients away by then."""


@attrs.frozen
class Scene:
    """The processes of a run; ``peers`` are those of this run, each with a pool of its own."""

    cluster: Cluster
    stage: Stage
    pools: dict[str, Pool]
    at_once: Sequence[Player]
    waiting: Sequence[Player]

    @property
    def session(self) -> Process:
        return self.stage.process(OURS)

    def lose_node(self, number: int, *how: str | bool, least: float = 0.0) -> Loss:
        """Have the node of a new session get a signal, and serve again; ``how``: a verb of the session, and for it."""
        name = self.session.ask(*(how or ("join",))).found
        return self._lost(self.session, [node.name for node in self.cluster.nodes].index(name), number, least)

    def lose_bare(self) -> Loss:
        """Kill the node that the floor is on, which is not the session's."""
        name = self.session.ask("rest").found
        at = next(at for at, node in enumerate(self.cluster.nodes) if node.name != name)
        self.stage.process(NODES).ask("join", at)
        return self._lost(self.stage.process(NODES), at, signal.SIGKILL)

    def _lost(self, process: Process, at: int, number: int, *more: float) -> Loss:
        node = self.cluster.nodes[at]
        node.is_meant_to_live = False
        loss: Loss = process.ask("lose", node.pid, number, *more).found
        node.restart()
        self.stage.process(GUEST).ask("visit", node.url)
        return loss

    def lose_servers(self, players: Sequence[Player]) -> dict[str, Loss]:
        """Kill the servers of some players at the same time, and replace them when all hear again."""
        processes = {player.name: self.stage.process(player) for player in players}
        pids = {name: int(process.ask("join").found) for name, process in processes.items()}
        for name, process in processes.items():
            process.begin("lose", pids[name], signal.SIGKILL)
        losses: dict[str, Loss] = {name: process.end("lose").found for name, process in processes.items()}
        for name, pid in pids.items():
            self.pools[name].replace(pid)
        return losses

    def lose_all(self) -> dict[str, Loss]:
        """Have everybody lose its server by SIGKILL, one after the other, those that wait by design together."""
        losses = {OURS.name: self.lose_node(signal.SIGKILL), SOON: self.lose_node(signal.SIGKILL, "rest")}
        losses |= {NODES.name: self.lose_bare(), SPARE: self.lose_node(signal.SIGKILL, "join", True)}
        for player in (SERVERS, *self.at_once):
            losses |= self.lose_servers([player])
        return losses | self.lose_servers(self.waiting)


@contextlib.contextmanager
def scene(plan: Plan) -> Iterator[Scene]:
    """Start everything, and wait until everybody is connected."""
    libraries = {peer.needs for peer in plan.peers}
    at_once, waiting = ([p for p in players if p.needs in libraries] for players in (AT_ONCE, WAITING))
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(3, keepalive=KEEPALIVE))
        assert cluster.engine is not None
        feed = stack.enter_context(contextlib.closing(Helper(publish, cluster.engine.url)))
        pools = {
            player.name: stack.enter_context(contextlib.closing(Pool(player.feed)))
            for player in (SERVERS, *at_once, *waiting)
        }
        stage = stack.enter_context(contextlib.closing(Stage()))
        feed.wait_ready()
        for pool in pools.values():
            pool.wait_ready()
        urls = {name: pool.url for name, pool in pools.items()} | dict.fromkeys(
            (OURS.name, GUEST.name, NODES.name), " ".join(cluster.urls)
        )
        delayed = attrs.evolve(OURS, options={"delay": plan.slowed})
        stage.open([delayed, GUEST, NODES, SERVERS, *at_once, *waiting], lambda player: urls[player.name])
        for url in cluster.urls:
            stage.process(GUEST).ask("visit", url)
        yield Scene(cluster, stage, pools, at_once, waiting)


def millis(start: str, losses: Sequence[dict[str, Loss]]) -> dict[str, list[float]]:
    """Return everybody's times from an instant of a :class:`Loss` to the message that came again."""
    return {name: [1e3 * (loss[name].again - getattr(loss[name], start)) for loss in losses] for name in losses[0]}


def both(case: str, found: dict[str, list[float]]) -> list[Row]:
    """Return the rows of the median, and those of the 99th percentile."""
    rows = compared("recovery", f"{case}, p50", UNIT, found, SUBJECTS)
    return rows + compared("recovery", f"{case}, p99", UNIT, found, SUBJECTS, TAIL)


def killed(plan: Plan, scene: Scene) -> Iterator[list[Row]]:
    """Kill with SIGKILL: from the end of the connection, and from the signal."""
    scene.lose_all()
    losses = [scene.lose_all() for _ in range(plan.repetitions)]
    found, since = millis("ended", losses), millis("told", losses)
    soon, spare = ({OURS.name: found.pop(name), NODES.name: found[NODES.name]} for name in (SOON, SPARE))
    since = {name: times for name, times in since.items() if name in found}
    yield both("SIGKILL, from the connection's end to the next message", found)
    yield both("SIGKILL, from the signal to the next message", since)
    yield both("SIGKILL with Failover(standby=True), from the connection's end to the next message", spare)
    yield both("a second SIGKILL at once, from the connection's end to the next message", soon)


def stopped(plan: Plan, scene: Scene) -> Iterator[list[Row]]:
    """Stop with SIGSTOP, so that nothing ends: from the signal, beside what it may take."""
    times = millis("told", [{OURS.name: scene.lose_node(signal.SIGSTOP)} for _ in range(plan.repetitions)])
    bound = [1e3 * (KEEPALIVE + DEADLINE + MARGIN)] * plan.repetitions
    yield both("SIGSTOP, from the signal to the next message", {**times, BOUND: bound})


def drained(plan: Plan, scene: Scene) -> Iterator[list[Row]]:
    """Drain with SIGTERM: the longest silence of the feed in a while, beside one in which nothing happens."""
    silences: dict[str, list[float]] = {OURS.name: [], QUIET: []}
    for _ in range(plan.repetitions):
        loss = scene.lose_node(signal.SIGTERM, least=LOOK)
        silences[OURS.name].append(1e3 * loss.silence)
        silences[QUIET].append(1e3 * scene.session.ask("quiet", LOOK).found)
    yield both(f"drain, longest silence between two messages in {LOOK:g} s", silences)


def run(plan: Plan) -> list[Row]:
    """Run all three."""
    rows: list[Row] = []
    with scene(plan) as ready:
        for work in (killed, stopped, drained):
            for some in work(plan, ready):
                plan.tell(some)
                rows += some
    return rows
