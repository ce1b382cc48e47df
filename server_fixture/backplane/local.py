"""
The memory backplane behind the verbs' asynchronous door, for several nodes in one process.

Here lives what wakes and warns the peers of a node. A store's semantics never live here (see ``memory.py``), nor does a
loop: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable

from server_fixture.backplane import (
    Answer,
    Append,
    Appended,
    OnFence,
    OnWake,
    Publish,
    Published,
    Request,
    SessionEntered,
)
from server_fixture.backplane.memory import MemoryBackplane


class LocalBackplane:
    """
    One node's door to a :class:`MemoryBackplane` that several nodes of one process share.

    Args:
        core: The shared backplane.
        clock: Where ``now`` comes from.
    """

    def __init__(self, core: MemoryBackplane, clock: Callable[[], float]) -> None:
        self._core = core
        self._clock = clock
        self._watched: set[str] = set()
        self._on_wake: OnWake | None = None
        self._on_fence: OnFence | None = None

    async def start(self, on_wake: OnWake, on_fence: OnFence) -> None:
        """Begin to hear of appends and fences."""
        self._on_wake, self._on_fence = on_wake, on_fence
        self._core.peers.append(self)

    async def run(self, request: Request) -> Answer:
        """Perform one request; every peer hears of it before the answer is returned."""
        answer = self._core.step(request, self._clock())
        for peer in list(self._core.peers):
            peer.hear(request, answer)
        return answer

    async def watch(self, stream: str) -> None:
        """Be woken after appends to ``stream``."""
        self._watched.add(stream)

    async def unwatch(self, stream: str) -> None:
        """Be woken no more."""
        self._watched.discard(stream)

    async def close(self) -> None:
        """Hear nothing any more."""
        if self in self._core.peers:
            self._core.peers.remove(self)

    def hear(self, request: Request, answer: Answer) -> None:
        """Take note of what a peer did."""
        if isinstance(answer, (Appended, Published)) and isinstance(request, (Append, Publish)):
            if request.stream in self._watched and self._on_wake is not None:
                self._on_wake(request.stream)
        elif isinstance(answer, SessionEntered) and self._on_fence is not None:
            self._on_fence(answer.session, answer.fence)
