"""
The proof of the journal: devices are killed a thousand times while nodes are killed too, and what they were told holds.

Here live the order of such a run and what makes it prove something. What a device does is in ``device.py``, what its
lives must show in ``lives.py``, when nodes die in ``chaos.py``.
"""

from __future__ import annotations

import pathlib
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Literal

import attrs

import resilient_ws
from server_fixture import device, history, lives
from server_fixture.chaos import Nemesis
from server_fixture.cluster import Cluster
from server_fixture.lives import End, Life, Mode
from server_fixture.process import Child, ChildFailed

SHORTEST, LONGEST = 0.02, 0.4
"""Seconds that a device lives until it is killed."""
READY: tuple[device.Ready, ...] = ("born", "opened", "heard", "heard")
"""From when on those are counted; never what Python needs to start."""
CLOSES = 0.1
"""Part of the lives that close their Client about when the kill comes, so that it often comes in the middle of that."""
NODES_EVERY = 2.0
"""Seconds between two kills of nodes, on average."""
FEED_RATE = 60.0
"""Messages a second of the feed that the devices consume."""
TTL = 600.0
"""Seconds that a session outlives its device: one that has had all its kills waits for the other one."""
RETENTION = 1_000_000
"""Messages that a stream keeps; a run that is longer than that would find a gap."""
REST = 20
"""Messages of the feed that come when all kills are done: the last life of a device has something to wait for."""
PEACE = 90.0
"""Seconds that the last life of a device gets."""
MOST_REASONS = 12
FEED = "orders"
_END = "the end"
_MODES: tuple[Mode, ...] = ("manual", "auto")

Show = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Options:
    """
    What a run is asked for.

    Attributes:
        kills: Of devices.
        journal: False: each life has a file of its own, which must not go well.
    """

    kills: int = attrs.field(default=1000, validator=attrs.validators.ge(len(_MODES)))
    seed: int
    nodes: int = attrs.field(default=3, validator=attrs.validators.ge(1))
    sync: Literal["full", "normal"] = "full"
    journal: bool = True

    @property
    def command(self) -> str:
        """The line that runs the same schedule again."""
        flags = f"--kills {self.kills} --seed {self.seed} --nodes {self.nodes} --sync {self.sync}"
        return f"python -m server_fixture kills {flags}{'' if self.journal else ' --no-journal'}"


@attrs.define(eq=False)
class Owner:
    """
    Who has one device, starts it, kills it and keeps what it wrote down.

    Attributes:
        quota: How often it is to be killed.
        kills: How often it was.
    """

    options: Options
    cluster: Cluster
    mode: Mode
    quota: int
    kills: int = 0
    lives: list[Life] = attrs.field(factory=list)
    _rng: random.Random = attrs.field(init=False)
    _next: dict[str, int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rng = random.Random(f"{self.options.seed}:{self.mode}")
        self._next = {f"{self.mode}-{lane}": 1 for lane in (1, 2)}

    @property
    def lanes(self) -> list[str]:
        """The streams that it publishes on."""
        return list(self._next)

    def kill_all_lives(self, stopping: threading.Event) -> None:
        """Have it live, and kill it, until the quota is reached; a life that fails ends that."""
        while self.kills < self.quota and not stopping.is_set():
            lasts = self._rng.uniform(SHORTEST, LONGEST)
            closes = lasts - self._rng.uniform(0.0, 0.03) if self._rng.random() < CLOSES else None
            child = self._start(ready=self._rng.choice(READY), close_after=closes)
            if self._end(child, lasts) == "failed":
                return

    def drain(self, until: int) -> None:
        """Have it live a last time, in peace, until it has everything and everything that it sent is committed."""
        self._end(self._start(until=until), PEACE)

    def _start(
        self, *, ready: device.Ready = "born", until: int | None = None, close_after: float | None = None
    ) -> Child:
        number, place = len(self.lives) + 1, self.cluster.directory
        orders = device.Orders(
            urls=self.cluster.urls,
            journal=str(place / (f"{self.mode}.db" if self.options.journal else f"{self.mode}-{number}.db")),
            sync=self.options.sync,
            log=str(self._log(number)),
            feed=FEED,
            mode=self.mode,
            lanes=dict(self._next) if until is None else {},
            seed=f"{self.options.seed}:{number}",
            ready=ready,
            until=until,
            close_after=None if close_after is None else max(0.0, close_after),
        )
        argv = [sys.executable, "-m", "server_fixture.device", orders.written]
        # Whatever this machine does with bytecode: a life that only compiles is no life.
        env = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(place / "bytecode")}
        child = Child(argv, name=f"device {self.mode}", log_path=place / f"device-{self.mode}.log", env=env)
        child.wait_ready(30.0)
        return child

    def _log(self, number: int) -> pathlib.Path:
        return self.cluster.directory / f"{self.mode}-{number:05d}.life"

    def _end(self, child: Child, lasts: float) -> End:
        """Wait, kill it if it still lives, and read what it wrote down."""
        try:
            code = child.wait(lasts)
        except TimeoutError:
            code = child.kill()
        number = len(self.lives) + 1
        ended: End = "closed" if code == 0 else "killed" if code == -signal.SIGKILL else "failed"
        log = self._log(number)
        text = log.read_text("utf-8") if log.exists() else ""
        life = lives.read_life(text, number=number, mode=self.mode, ended=ended)
        if ended == "failed":
            life.told.append(str(ChildFailed(child, f"ended with {code}")))
        if lasts == PEACE and ended == "killed":
            life.told.append(f"to go on after {PEACE:g} s: it had not got everything, or not all was committed")
        for lane, begun in life.begun.items():
            self._next[lane] = max(begun) + 1
        self.lives.append(life)
        self.kills += ended == "killed" and lasts != PEACE
        return ended


@attrs.define(eq=False)
class Feed:
    """Publishes what the devices consume."""

    cluster: Cluster
    stopping: threading.Event
    last: int = 0

    def run(self) -> None:
        """Publish at a steady pace until told to stop, and a few more; returns when all is committed."""
        with self.connect() as client:
            while not self.stopping.wait(1.0 / FEED_RATE):
                self._publish(client)
            for _ in range(REST):
                self._publish(client)
            client.flush(PEACE)

    def _publish(self, client: resilient_ws.Client) -> None:
        client.send(lives.payload_of(self.last + 1), FEED)
        self.last += 1

    def connect(self, **settings: Any) -> resilient_ws.Client:
        """Open a Client without a journal."""
        settings = {"retry": device.RETRY, "failover": device.FAILOVER, "open_timeout": 30.0, **settings}
        return resilient_ws.connect(self.cluster.urls, **settings)


@attrs.frozen(kw_only=True)
class Outcome:
    """
    How a run ended.

    Attributes:
        verdict: ``ok``, ``anomaly`` or ``inconclusive``.
        reasons: Why, where it is not ``ok``.
        report: The keys that ``--json`` writes.
    """

    verdict: Literal["ok", "anomaly", "inconclusive"]
    reasons: tuple[str, ...]
    report: dict[str, Any]

    @property
    def exit_code(self) -> int:
        return {"ok": 0, "anomaly": 1, "inconclusive": 2}[self.verdict]


def run_kills(options: Options, show: Show) -> tuple[Outcome, pathlib.Path | None]:
    """
    Run it.

    Args:
        options: What is asked for.
        show: Called every few seconds with a line that says how far it is.

    Returns:
        The outcome, and where journals and logs were kept (None where all went as it should).

    Raises:
        ChildFailed: A node or the store ended by itself, or a device did not start.
    """
    started_at = time.monotonic()
    with Cluster(options.nodes, ttl=TTL, flags={"retention": RETENTION}) as cluster:
        nemesis = Nemesis(cluster, _ignore, options.seed, NODES_EVERY)
        share = len(_MODES)
        owners = [Owner(options, cluster, mode, (options.kills + at) // share) for at, mode in enumerate(_MODES)]
        feed = Feed(cluster, threading.Event())
        _load(owners, feed, nemesis, show, started_at)
        stored = {lane: read_back(feed, lane) for owner in owners for lane in owner.lanes}
        outcome = conclude(options, owners, feed.last, stored, len(nemesis.strikes), time.monotonic() - started_at)
        if outcome.verdict != "anomaly" or not options.journal:
            return outcome, None
        cluster.keep_logs = True
        return outcome, cluster.directory


def _ignore(op: history.Op) -> None:
    """The lives say what was done; when a node died is in nobody's judgement."""


def _load(owners: Sequence[Owner], feed: Feed, nemesis: Nemesis, show: Show, started_at: float) -> None:
    """Run the feed and all kills, heal, and have every device live a last time."""
    stopping = threading.Event()
    with ThreadPoolExecutor(len(owners) + 1) as pool:
        try:
            feeding = pool.submit(feed.run)
            nemesis.start()
            killing = [pool.submit(owner.kill_all_lives, stopping) for owner in owners]
            _follow(killing, owners, nemesis, show, started_at)
            nemesis.stop()
            feed.stopping.set()
            feeding.result(PEACE)
            show("the nodes are left alone, the devices live a last time")
            _follow([pool.submit(owner.drain, feed.last) for owner in owners], owners, nemesis, show, started_at)
        finally:
            stopping.set()
            feed.stopping.set()
            nemesis.stop()


def _follow(
    running: Sequence[Future[None]], owners: Sequence[Owner], nemesis: Nemesis, show: Show, started_at: float
) -> None:
    """Wait until all have ended, and say how far they are; raises what one of them raised."""
    pending = set(running)
    while pending:
        done, pending = wait(pending, timeout=5.0, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if nemesis.error is not None:
            raise nemesis.error
        kills, quota = sum(owner.kills for owner in owners), sum(owner.quota for owner in owners)
        show(
            f"{time.monotonic() - started_at:6.1f} s  kills {kills}/{quota}  node kills {len(nemesis.strikes)}  "
            f"sent {_sent(owners)}  consumed {max((max(life.got, default=0) for life in _all(owners)), default=0)}"
        )


def _all(owners: Sequence[Owner]) -> list[Life]:
    return [life for owner in owners for life in list(owner.lives)]


def _sent(owners: Sequence[Owner]) -> int:
    return sum(len(numbers) for life in _all(owners) for numbers in life.sent.values())


def read_back(feed: Feed, lane: str) -> list[int | None]:
    """Read a whole stream with a Client of its own; the stream gets a last message that says where it ends."""
    feed.cluster.publish(lane, _END)
    found: list[int | None] = []
    with feed.connect(subscribe={lane: "earliest"}) as reader:
        while (data := reader.recv(PEACE).data) != _END:
            found.append(lives.number_of(data))
    return found


# -- the verdict ------------------------------------------------------------------------------------------------------


def conclude(
    options: Options,
    owners: Sequence[Owner],
    end: int,
    stored: dict[str, list[int | None]],
    node_kills: int,
    seconds: float,
) -> Outcome:
    """
    Say whether the promises were kept, and whether the run could have shown that they were not.

    Args:
        options: What was asked for.
        owners: What the devices wrote down.
        end: The last number of the feed.
        stored: What an independent reader found in the stream of each lane.
        node_kills: How often nodes were killed.
        seconds: How long it took.
    """
    anomalies: list[str] = []
    for owner in owners:
        anomalies += lives.judge(owner.mode, owner.lives, {lane: stored[lane] for lane in owner.lanes}, end)
    report = _report(options, owners, stored, node_kills, seconds)
    doubts = doubts_of(report)
    verdict: Literal["ok", "anomaly", "inconclusive"]
    verdict = "anomaly" if anomalies else "inconclusive" if doubts else "ok"
    report["verdict"] = verdict
    return Outcome(verdict=verdict, reasons=tuple(anomalies or doubts), report=report)


def _report(
    options: Options, owners: Sequence[Owner], stored: dict[str, list[int | None]], node_kills: int, seconds: float
) -> dict[str, Any]:
    every = _all(owners)
    lanes = [(owner, lane) for owner in owners for lane in owner.lanes]
    return {
        "seed": options.seed,
        "nodes": options.nodes,
        "sync": options.sync,
        "kills": sum(owner.kills for owner in owners),
        "asked": options.kills,
        "node_kills": node_kills,
        "closed": sum(life.ended == "closed" for life in every),
        "sent": _sent(owners),
        "stored": sum(map(len, stored.values())),
        "stored_unconfirmed": sum(lives.unconfirmed(owner.lives, lane, stored[lane]) for owner, lane in lanes),
        "resent": sum(life.waiting for life in every),
        "lives_with_a_backlog": sum(life.waiting > 0 for life in every),
        "consumed": sum(len({number for life in owner.lives for number in life.got}) for owner in owners),
        "repeated": sum(lives.repeats_of(owner.lives) for owner in owners),
        "welcomed_lives": sum(life.welcomes > 0 for life in every),
        "resumed_lives": sum(life.resumes > 0 for life in every),
        "seconds": round(seconds, 1),
    }


def doubts_of(report: dict[str, Any]) -> list[str]:
    """Say why a run without anomaly would prove nothing."""
    doubts = []
    if report["kills"] < report["asked"]:
        doubts.append(f"{report['kills']} kills of {report['asked']}")
    if report["node_kills"] == 0:
        doubts.append("no node was killed")
    for key, what in (
        ("resumed_lives", "lives resumed the session of the one before"),
        ("lives_with_a_backlog", "lives found messages without an ack in their journal"),
    ):
        if report[key] < report["kills"] / 4:
            doubts.append(f"{report[key]} {what}, under a fourth of {report['kills']}")
    return doubts + [
        f"{report[key]} messages {key}, under one for each of {report['kills']} kills"
        for key in ("sent", "consumed")
        if report[key] < report["kills"]
    ]


def verdict_lines(outcome: Outcome, command: str, kept: pathlib.Path | None) -> list[str]:
    """Say in a few lines how a run went."""
    said = outcome.report
    lines = [
        f"{said['kills']} kills of devices, {said['node_kills']} of nodes, {said['seconds']:g} s",
        f"sent {said['sent']}, stored {said['stored']} ({said['stored_unconfirmed']} of a send() that was killed)",
        f"{said['lives_with_a_backlog']} lives began with messages to send again, {said['resumed_lives']} resumed",
        f"consumed {said['consumed']}, {said['repeated']} again (in hand at a kill)",
        *outcome.reasons[:MOST_REASONS],
    ]
    if len(outcome.reasons) > MOST_REASONS:
        lines.append(f"and {len(outcome.reasons) - MOST_REASONS} more")
    lines.append(f"verdict: {outcome.verdict} (seed {said['seed']})")
    if outcome.verdict != "ok":
        lines.append(f"run it again: {command}")
    if kept is not None:
        lines.append(f"journals and logs: {kept}")
    return lines
