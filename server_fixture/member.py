"""
One node of a cluster: its address, and the process that it is at this moment, which can be killed, stopped and drained.

What a node does never lives here (``node.py``), nor do the other processes of a cluster (``cluster.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import typing
from collections.abc import Mapping, Sequence

from server_fixture import commands as named
from server_fixture.link import Proxy
from server_fixture.process import Child, ChildFailed

START_TIMEOUT = 30.0
"""Seconds that a process gets until it says READY; generous, because tests run on busy machines."""


@typing.final
class Node:
    """
    One node of a cluster, over all the processes that it has been.

    Args:
        name: As it is told in the welcome.
        flags: For the command, without name and port.
        directory: Where its log goes.
        env: What its environment has beside ours.
        command: What it is started with; the default is the reference server.

    Attributes:
        told_url: Where it is told that clients reach it; empty: where it listens.
        port: Its own, 0 before it first served.
        link: The proxy before it where it has one, which clients and the balancer dial then.
    """

    def __init__(
        self,
        name: str,
        flags: Sequence[str],
        directory: pathlib.Path,
        env: Mapping[str, str],
        command: tuple[str, ...] = named.REFERENCE,
    ) -> None:
        self.name = name
        self.command = command
        self.log_path = directory / f"{name}.log"
        self.port = 0
        self.told_url = ""
        self.link: Proxy | None = None
        self.is_paused = False
        self.is_draining = False
        self.is_meant_to_live = False
        self._flags = list(flags)
        self._env = dict(env)
        self._child: Child | None = None

    def start(self) -> None:
        """Start it and return at once; :meth:`wait_ready` waits. It keeps the port that it had before."""
        if self.is_alive:
            return
        url = [f"--url={self.told_url}"] if self.told_url else []
        argv = [*named.leashed(self.command), f"--name={self.name}", f"--port={self.port}", *url, *self._flags]
        self._child = Child(argv, name=self.name, log_path=self.log_path, env=self._env)
        self.is_paused = self.is_draining = False
        self.is_meant_to_live = True

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """
        Wait until it serves.

        Raises:
            ChildFailed: It ended, did not get ready, or did not say on which port; the text has the end of its log.
        """
        said = self.child.wait_ready(timeout)
        port = said.get("port")
        if type(port) is not int or not 0 < port < 65536 or self.port not in (0, port):
            self.close()
            asked = f" (it was told {self.port})" if self.port else ""
            raise ChildFailed(self.child, f"said READY {json.dumps(said)}, where 'port' is to be its port{asked}")
        self.port = port

    @property
    def child(self) -> Child:
        """
        Its process, dead or alive.

        Raises:
            RuntimeError: It was never started.
        """
        if self._child is None:
            raise RuntimeError(f"{self.name} was never started: call start(), or use the cluster in a with block")
        return self._child

    @property
    def url(self) -> str:
        """Where clients dial it; the same after a restart."""
        return f"ws://127.0.0.1:{self.dialled_port}/"

    @property
    def dialled_port(self) -> int:
        """The port that is dialled: that of its link, or its own."""
        return self.port if self.link is None else self.link.port

    @property
    def door(self) -> Proxy:
        """
        Its link.

        Raises:
            RuntimeError: There is none.
        """
        if self.link is None:
            raise RuntimeError(f"there is no link before {self.name}: use Cluster(links=True), and start it first")
        return self.link

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, serving or not."""
        return self._child is not None and self._child.is_alive

    @property
    def is_serving(self) -> bool:
        """Whether it said READY, and neither was stopped nor drains."""
        return self.is_alive and bool(self.child.ready) and not self.is_paused and not self.is_draining

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.is_meant_to_live = False
        self.child.kill()

    def restart(self, *, wait: bool = True) -> None:
        """
        Start it again on its port, killed before where it still lives.

        Args:
            wait: Return only when it serves.
        """
        if self.is_alive:
            self.kill()
        self.start()
        if wait:
            self.wait_ready()

    def pause(self) -> None:
        """Stop it where it stands (SIGSTOP): its sockets stay open, nothing answers."""
        self.child.pause()
        self.is_paused = True

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        self.child.resume()
        self.is_paused = False

    def drain(self, *, wait: bool = True, timeout: float = 60.0) -> None:
        """
        Ask it to send its clients away and to end (SIGTERM).

        Args:
            wait: Return only when it has ended.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: It still lives.
            ChildFailed: It ended with something else than 0.
        """
        self.child.expect_alive()
        self.is_meant_to_live, self.is_draining = False, True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child.pid, signal.SIGTERM)
        if wait:
            self.child.wait(timeout)
            self.expect_drained()

    def expect_alive(self) -> None:
        """
        Check that nothing ended it but us.

        Raises:
            ChildFailed: It has ended; the text has its exit code and the end of its log.
        """
        if self.is_meant_to_live:
            self.child.expect_alive()

    def expect_drained(self) -> None:
        """
        Check that it has ended, and in order.

        Raises:
            ChildFailed: It lives, or ended with something else than 0; the text has the end of its log.
        """
        if self.child.exit_code != 0:
            raise ChildFailed(self.child, f"was drained and ended with {self.child.exit_code}")

    def close(self) -> None:
        """End the process, whatever state it is in."""
        self.is_meant_to_live = False
        if self.is_alive:
            self.child.kill()

    def __repr__(self) -> str:
        states = {"serving": self.is_serving, "paused": self.is_paused, "draining": self.is_draining}
        state = next((name for name, holds in states.items() if holds and self.is_alive), None)
        return f"<Node {self.name} at {self.url} {state or ('starting' if self.is_alive else 'down')}>"
