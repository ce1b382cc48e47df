"""
The server's half of two other protocols, as far as the benchmarks use them: Socket.IO 4, and Azure Web PubSub's
``json.reliable.webpubsub.azure.v1``. Written from their public descriptions; nothing of ``resilient_ws`` is here.
"""

from __future__ import annotations

import json

from benchmarks.feeds import Numbered, Plain
from benchmarks.framing import frame

HOUR = 3_600_000
"""Milliseconds between Socket.IO's pings: none comes while anything is measured."""


class SocketIO(Plain):
    """Events named ``m`` over Engine.IO 4, WebSocket only."""

    def __init__(self, size: int, **how: bool) -> None:
        super().__init__(size, **how)
        facts = {"sid": "e", "upgrades": [], "pingInterval": HOUR, "pingTimeout": HOUR, "maxPayload": 1 << 20}
        self.said.append(frame("0" + json.dumps(facts)))
        self._frame = frame(f'42["m","{self.payload.decode()}"]')

    @property
    def peek(self) -> int:
        return 1 << 30 if self.is_echo else 64

    def hear(self, opcode: int, size: int, start: bytes) -> None:
        if start.startswith(b"40"):
            self.said.append(frame('40{"sid":"s"}'))
        elif start.startswith(b'42["ask",') and size < 64:
            self.obey(start[10:-2])
        elif self.is_echo and start.startswith(b"42"):
            self.said.append(frame(start.decode()))

    def one(self, text: str) -> bytes:
        return frame(f'42["m","{text}"]')


class Azure(Numbered):
    """Messages from the server with sequence ids; an event that wants an ack gets one."""

    subprotocol = "json.reliable.webpubsub.azure.v1"
    before, after = b'{"sequenceId":', b',"type":"message","from":"server","dataType":"text","data":"%b"}'

    def __init__(self, size: int, **how: bool) -> None:
        super().__init__(size, **how)
        facts = {"type": "system", "event": "connected", "userId": "u", "connectionId": "c", "reconnectionToken": "t"}
        self.said.append(frame(json.dumps(facts)))

    @property
    def peek(self) -> int:
        return 1 << 30

    def hear(self, opcode: int, size: int, start: bytes) -> None:
        message = json.loads(start)
        if message["type"] != "event":
            return  # its cumulative acks
        if "ackId" in message:
            self.said.append(frame(json.dumps({"type": "ack", "ackId": message["ackId"], "success": True})))
        if message["event"] == "ask":
            self.obey(message["data"].encode())
        elif self.is_echo:
            self.said.append(self.one(message["data"]))

    def one(self, text: str) -> bytes:
        self._last += 1
        facts = {"sequenceId": self._last, "type": "message", "from": "server", "dataType": "text", "data": text}
        return frame(json.dumps(facts))
