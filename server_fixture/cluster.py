"""
A cluster on this machine: one store and some nodes, real processes that can be killed, stopped, drained and restarted.

Here live the cluster and its addresses; one node's process is in ``member.py``. When what is broken never lives here
(``chaos.py``), nor does what a node does (``node.py``). Nothing outlives the process that made the cluster, however
that one ends.
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import secrets
import shutil
import tempfile
import time
import types
import typing
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

from server_fixture import commands as named
from server_fixture import history
from server_fixture.backplane import Published
from server_fixture.balancer import Affinity, Balancer
from server_fixture.engine import Engine
from server_fixture.extra import require
from server_fixture.link import Proxy
from server_fixture.member import START_TIMEOUT, Node
from server_fixture.process import ChildFailed

_ASK_TIMEOUT = 10.0
_LOOK = 0.05

__all__ = ["ChildFailed", "Cluster", "Node"]


def _silence(node: Node, deadline: float) -> str:
    url = f"http://127.0.0.1:{node.dialled_port}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=max(_LOOK, deadline - time.monotonic())):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"


class _Dialled:
    """A node as the balancer sees it: its port is that of its link where it has one."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def port(self) -> int:
        return self._node.dialled_port

    @property
    def is_draining(self) -> bool:
        return self._node.is_draining


@typing.final
class Cluster:
    """
    A store and some nodes.

    As a context manager it serves on entry; on exit every process is gone. Where a process ended that nobody killed,
    leaving the block says so. The logs are kept where the block is left by an exception, but for Ctrl-C.

    Args:
        nodes: How many.
        ttl: Seconds that a session outlives its last refresh.
        keepalive: Seconds of silence after which nodes and clients ping.
        backplane: ``redis`` starts a store of its own, a URL uses that one, ``memory`` is for a single node.
        flags: More of ``python -m server_fixture.node``, as in ``{"max-message": 1000}``.
        directory: Where the logs go; None: a new directory that goes with the cluster.
        commands: Nodes that are not the reference server, by their numbers: ``{2: ["node", "server.js"]}`` starts
            node-2 by this program, with the same flags and variables as the others; ``docs/node.md`` has the contract.
        balancer: ``embedded`` puts one before the nodes, and clients dial it: ``urls`` has its address only, and so has
            what the nodes say of themselves (``--url``). None: the nodes are dialled directly.
        affinity: How it leads clients back to the same node; see :class:`server_fixture.balancer.Balancer`.
        links: Puts a :class:`server_fixture.link.Proxy` before each node, for faults of the network: :attr:`links` has
            them, ``urls`` and ``--url`` their addresses; an embedded balancer reaches the nodes through them. A link
            outlives its node: while that is down, its connections are taken and reset.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        ttl: float = 60.0,
        keepalive: float = 1.0,
        backplane: str = "redis",
        flags: Mapping[str, object] | None = None,
        directory: str | os.PathLike[str] | None = None,
        commands: Mapping[int, Sequence[str]] | None = None,
        balancer: typing.Literal["embedded"] | None = None,
        affinity: Affinity = "none",
        links: bool = False,
    ) -> None:
        if nodes < 1 or (nodes > 1 and backplane == "memory"):
            raise ValueError(f"nodes={nodes}: at least one, and only one without a shared backplane ('memory')")
        if balancer not in (None, "embedded"):
            raise ValueError(f"balancer={balancer!r}: must be 'embedded' or None")
        if balancer is None and affinity != "none":
            raise ValueError(f"affinity={affinity!r} needs balancer='embedded'")
        given = named.checked(commands, nodes)
        require("aiohttp", "redis")
        self._is_own_directory = directory is None
        made = tempfile.mkdtemp(prefix="resilient-ws-cluster-") if directory is None else directory
        self.directory = pathlib.Path(made)
        self.keep_logs = False
        self.engine = Engine(log_path=self.directory / "engine.log") if backplane == "redis" else None
        self._store = backplane if self.engine is None else self.engine.url
        settings = {"backplane": self._store, "ttl": ttl, "keepalive": keepalive, **(flags or {})}
        written = [f"--{name}={value}" for name, value in settings.items()]
        env = {"RESILIENT_WS_TOKEN_KEY": secrets.token_hex(32)}
        self.nodes = tuple(
            Node(f"node-{number}", written, self.directory, env, given.get(number, named.REFERENCE))
            for number in range(1, nodes + 1)
        )
        self._has_links = links
        self.balancer = None if balancer is None else Balancer([_Dialled(node) for node in self.nodes], affinity)

    # -- the processes ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Start the store, then every node that does not run, and wait until all serve.

        Raises:
            ChildFailed: One did not get ready.
        """
        if self.engine is not None:
            self.engine.start()
        for node in self.nodes if self._has_links else ():
            if node.link is None:
                node.link = Proxy("127.0.0.1", 0)  # carries nothing yet, but the node has to know its address
        if self.balancer is not None:
            self.balancer.start()
        for node in self.nodes:
            node.told_url = self._url_of(node)
            node.start()
        self.wait_ready()
        for node in self.nodes:
            if node.link is not None:
                node.link.retarget("127.0.0.1", node.port)

    def _url_of(self, node: Node) -> str:
        """Return what a node is told of its address; empty: it knows better."""
        if self.balancer is not None:
            return self.balancer.url
        return "" if node.link is None else node.url

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """
        Wait until every node that runs serves.

        Raises:
            ChildFailed: One ended, or did not get ready.
        """
        deadline = time.monotonic() + timeout
        for node in self.nodes:
            if node.is_meant_to_live:
                node.wait_ready(max(0.0, deadline - time.monotonic()))

    @property
    def links(self) -> tuple[Proxy, ...]:
        """
        The proxy before each node, in the order of the nodes.

        Raises:
            RuntimeError: There are none.
        """
        return tuple(node.door for node in self.nodes)

    @property
    def urls(self) -> list[str]:
        """Where clients dial: the balancer, each link or each node; the same for as long as the cluster lives."""
        if self.balancer is not None:
            return [self.balancer.url]
        return [node.url for node in self.nodes]

    @property
    def alive(self) -> list[Node]:
        """The nodes that serve."""
        return [node for node in self.nodes if node.is_serving]

    def kill_all(self) -> None:
        """Kill every node that runs; the store goes on."""
        for node in self.nodes:
            if node.is_alive:
                node.kill()

    def rolling_restart(self, timeout: float = 60.0) -> None:
        """
        Restart every node that serves, one after the other, as a deploy does.

        Each is drained, ended and started, and serves again before the next one leaves.

        Args:
            timeout: Seconds for each drain.

        Raises:
            TimeoutError: A node still drains.
            ChildFailed: One did not end well, or did not get ready again.
        """
        for node in self.nodes:
            if node.is_serving:
                node.drain(timeout=timeout)
                node.start()
                node.wait_ready()

    def expect_alive(self) -> None:
        """
        Check that nothing ended a process but us.

        Raises:
            ChildFailed: One has ended; the text has its exit code and the end of its log.
        """
        if self.engine is not None:
            self.engine.expect_alive()
        for node in self.nodes:
            node.expect_alive()

    def silent(self, timeout: float = _ASK_TIMEOUT) -> list[str]:
        """
        Ask every node something, by the way that connections take; any answer is one.

        Args:
            timeout: Seconds that each gets.

        Returns:
            Who gives no answer, and what happens instead.
        """
        found = []
        for node in self.nodes:
            deadline = time.monotonic() + timeout
            while (why := _silence(node, deadline)) and time.monotonic() < deadline:
                time.sleep(_LOOK)
            found += [f"{node.name} gives no answer: {why}"] if why else []
        return found

    def close(self, *, keep_logs: bool = False) -> None:
        """End every process; the logs go too, unless they are to be kept (``keep_logs``) or their place is not ours."""
        if self.balancer is not None:
            self.balancer.close()
        for node in self.nodes:
            node.close()
            if node.link is not None:
                node.link.stop()
        if self.engine is not None:
            self.engine.close()
        if self._is_own_directory and not keep_logs and not self.keep_logs:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.close(keep_logs=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: types.TracebackType | None
    ) -> None:
        failure: ChildFailed | None = None
        try:
            self.expect_alive()
        except ChildFailed as failed:
            failure = failed
        self.close(keep_logs=isinstance(error, Exception) or failure is not None)
        if failure is not None and error is None:
            raise failure

    # -- what it stores -----------------------------------------------------------------------------------------------

    def publish(self, stream: str, payload: str | bytes) -> Published:
        """
        Append a message by the server's own API, at any node that serves.

        Returns:
            Where it is.

        Raises:
            ConnectionError: No node serves; nothing was appended.
            urllib.error.HTTPError: The node refused, or (503) does not know whether the message was appended.
        """
        body = payload.encode() if isinstance(payload, str) else payload
        kind = "text/plain" if isinstance(payload, str) else "application/octet-stream"
        for node in self.alive:
            url = f"http://127.0.0.1:{node.port}/streams/{stream}"
            request = urllib.request.Request(url, body, {"Content-Type": kind})
            try:
                with urllib.request.urlopen(request, timeout=_ASK_TIMEOUT) as answer:
                    place = json.load(answer)
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionRefusedError):
                    raise
                continue
            return Published(epoch=place["epoch"], last=place["offset"])
        raise ConnectionError("no node of the cluster serves: nothing was appended; restart one first")

    def final_read(self, stream: str) -> history.FinalRead | None:
        """
        Read all that the store holds of a stream, past every node.

        Returns:
            The op for the checker, or None where the stream does not exist.

        Raises:
            ValueError: The store is a node's own memory, which nobody else can read.
            ConnectionError: The store does not answer.
        """
        if self._store == "memory":
            raise ValueError("the memory of a node cannot be read from outside: use backplane='redis'")
        from redis.exceptions import RedisError

        from server_fixture.backplane.inspect import read_all

        try:
            epoch, first, _, entries = read_all(self._store, stream)
        except RedisError as error:
            what = f"the store does not answer ({type(error).__name__}): there is no final read of {stream!r}"
            raise ConnectionError(what) from error
        if epoch is None:
            return None
        effects = (
            history.Effect(
                entry.offset,
                history.fingerprint(entry.payload.decode() if entry.text else entry.payload),
                entry.producer,
                None if entry.producer is None else entry.seq,
            )
            for entry in entries
        )
        return history.FinalRead(time.monotonic(), stream, epoch, first, tuple(effects))
