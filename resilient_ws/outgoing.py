"""
Whole frames on their way out of one connection: which bytes the system is offered next.

Pure: no socket, no clock, no lock; the transport has the lock.
"""

from __future__ import annotations

from collections import deque

#: How much is handed to one ``send``; on TLS a piece that was refused must be offered again unchanged.
_PIECE = 64 << 10


class Outgoing:
    """
    Whole frames on their way out: one piece in hand, urgent ones (the newest ping and pongs), the rest in order.

    A piece that was offered once stays the same object until it is out, as TLS demands.
    """

    __slots__ = ("_piece", "_queue", "_urgent", "size")

    def __init__(self) -> None:
        self.size = 0
        self._piece = memoryview(b"")
        self._urgent: dict[int, deque[bytes]] = {}
        self._queue: deque[bytes] = deque()

    def extend(self, frames: list[bytes]) -> None:
        size = sum(map(len, frames))
        self.size += size
        # A large batch stays in its frames, so that a ping or pong need not wait for all of it.
        self._queue.extend([b"".join(frames)] if 0 < size <= _PIECE else frames)

    def urgent(self, opcode: int, frame: bytes, most: int = 1) -> None:
        waiting = self._urgent.setdefault(opcode, deque())
        waiting.append(frame)
        self.size += len(frame)
        if len(waiting) > most:
            self.size -= len(waiting.popleft())

    def piece(self) -> memoryview:
        if not self._piece:
            chunks = [frame for waiting in self._urgent.values() for frame in waiting]
            self._urgent.clear()
            total = sum(map(len, chunks))
            while self._queue and (not total or total + len(self._queue[0]) <= _PIECE):
                chunks.append(self._queue.popleft())
                total += len(chunks[-1])
            self._piece = memoryview(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        return self._piece[:_PIECE]

    def advance(self, sent: int) -> None:
        self._piece = self._piece[sent:]
        self.size -= sent
