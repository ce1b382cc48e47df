"""
One connection between a device and a node, as five queues of which each can be held, stepped and robbed.

Here lives what is on its way, and what happens when it arrives. Which node a device dials never lives here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import ConnectionLost, LocalProtocolError
from resilient_ws.frames import Hello
from schedules.judging import Broken
from server_fixture.backplane import Answer, BackplaneError
from server_fixture.session import Call, Send, ServerSession, Unwatch, Watch

if TYPE_CHECKING:
    from schedules.stage import Device, Node

CHANNELS = ("up", "requests", "answers", "wakes", "fences", "down")
"""Device to node, node to store, store to node (the three of them), node to device."""
CLOSED = object()
"""What stands in ``up`` where the device closed: the node reads it behind everything else."""


class Line:
    """
    One connection.

    Attributes:
        queues: What is on its way, by channel. One item of ``up`` or ``down`` is one frame or batch.
        held: Channels that :meth:`Stage.run` leaves alone; :meth:`deliver` does not.
        watched: Streams whose appends wake the node's side.
    """

    def __init__(self, device: Device, node: Node, conn: int, server: ServerSession) -> None:
        self.device = device
        self.node = node
        self.conn = conn
        self.server = server
        self.queues: dict[str, deque[Any]] = {channel: deque() for channel in CHANNELS}
        self.held: set[str] = set()
        self.watched: set[str] = set()
        self._native = Native()
        self._writers = {"up": self._native.client(), "down": self._native.server()}
        self._readers = {"up": self._native.server(), "down": self._native.client()}
        self._arrive: dict[str, Callable[[Any], None]] = {
            "up": self._to_node,
            "requests": self._to_store,
            "answers": self._answer,
            "wakes": lambda stream: server.woken(stream, node.stage.now),
            "fences": lambda raised: server.fence_raised(*raised, node.stage.now),
            "down": self._to_device,
        }

    # -- the script's hands -------------------------------------------------------------------------------------------

    def hold(self, *channels: str) -> None:
        """Keep what comes on these channels until :meth:`release`."""
        self.held.update(channels)

    def release(self, *channels: str) -> None:
        """Let these channels go on (all of them by default), and run."""
        self.held.difference_update(channels or CHANNELS)
        self.node.stage.run()

    def deliver(self, channel: str, index: int = 0) -> None:
        """Let one item arrive, by default the oldest, and nothing else: held channels stay held."""
        queue = self.queues[channel]
        queue.rotate(-index)
        item = queue.popleft()
        queue.rotate(index)
        self._arrive[channel](item)
        self.serve()
        self.device.drive()

    def swallow(self, channel: str, kind: type) -> None:
        """Take the first waiting item of one kind off the wire."""
        queue = self.queues[channel]
        item = next(item for item in queue if isinstance(item, kind))
        queue.remove(item)

    def waiting(self, channel: str, kind: type = object) -> int:
        """Count what waits on a channel."""
        return sum(isinstance(item, kind) for item in self.queues[channel])

    def hello(self) -> Hello | None:
        """Return the hello that waits on its way up."""
        return next((item for item in self.queues["up"] if isinstance(item, Hello)), None)

    def cut(self, *, node_knows: bool = True) -> None:
        """Lose the connection; a node that does not know keeps what waits on its side, and serves on."""
        if node_knows:
            self.drop()
        self.lose(ConnectionLost("the line was cut"))

    # -- what the stage does ------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Let the oldest item of the first free channel arrive; returns whether there was one."""
        stopped = {"up", "answers", "wakes", "fences"} if self.node.is_paused else set()
        for channel in CHANNELS:
            if self.queues[channel] and channel not in self.held and channel not in stopped:
                self.deliver(channel)
                return True
        return False

    def write(self, channel: str, items: list[Any]) -> None:
        """Put items on the wire as the dialect says them, one by one."""
        try:
            said = self._writers[channel].encode(items)
        except LocalProtocolError as error:
            raise Broken(f"X0: a side says what cannot be said: {error}") from error
        decoded = self._readers[channel].decode(said)
        failure = self._readers[channel].failure
        self.queues[channel].extend(decoded)
        if failure is not None:
            self.queues[channel].append(failure)

    def lose(self, error: Exception) -> None:
        """Tell the device that the connection is gone, and what was on its way down with it."""
        self.queues["down"].clear()
        self.device.lines.pop(self.conn, None)
        self.device.session.connection_lost(self.conn, error, self.node.stage.now)
        self.device.drive()

    def drop(self) -> None:
        """Tell the node that the connection is gone, and what was on its way up with it."""
        self.queues["up"].clear()
        self.server.connection_lost(self.node.stage.now)
        self.serve()

    @property
    def is_over(self) -> bool:
        """Nobody has it any more, and nothing is on its way."""
        mine = self.device.lines.get(self.conn) is self
        return self.server.is_closed and not mine and not any(self.queues.values())

    def tick(self) -> None:
        """Run the node's timers."""
        due = self.server.next_deadline()
        if due is not None and due <= self.node.stage.now:
            self.server.handle_timer(self.node.stage.now)
            self.serve()

    # -- arrivals -----------------------------------------------------------------------------------------------------

    def _to_node(self, item: Any) -> None:
        if item is CLOSED:
            self.drop()
        elif isinstance(item, Exception):
            self.server.broken(item, self.node.stage.now)  # type: ignore[arg-type]
        else:
            self.server.received([item], self.node.stage.now)

    def _to_store(self, call: Call) -> None:
        answer: Answer | BackplaneError = BackplaneError("unreachable")
        if self.node.reaches_store:
            answer = self.node.stage.perform(call.request)
        self.queues["answers"].append((call.id, answer))

    def _answer(self, answered: tuple[int, Answer | BackplaneError]) -> None:
        if not isinstance(answered[1], BackplaneError):
            self.node.answered_at = self.node.stage.now
        self.server.answered(*answered, self.node.stage.now)

    def _to_device(self, item: Any) -> None:
        if isinstance(item, Exception):
            self.lose(item)
        elif self.conn in self.device.lines:
            self.device.session.received(self.conn, [item], self.node.stage.now)

    def serve(self) -> None:
        """Carry out what the node's side asks for."""
        for action in self.server.actions():
            if isinstance(action, Send):
                self.write("down", list(action.items))
            elif isinstance(action, Call):
                self.queues["requests"].append(action)
            elif isinstance(action, Watch):
                self.watched.add(action.stream)
            elif isinstance(action, Unwatch):
                self.watched.discard(action.stream)
            else:
                closed = (action.code, action.reason)
                lost = ConnectionLost("closed", code=action.code, reason=action.reason, rcvd=closed)
                self.queues["down"].append(lost)
