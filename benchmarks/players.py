"""
Who plays: ours and the peers, by name. Nothing of their libraries is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.turns import Player

SUBJECTS = ("session", "batch", "transport", "patient")
"""What a row may call ours."""

SESSION = Player("session", "benchmarks.players_ours:Session", "session")
BATCH = Player("batch", "benchmarks.players_ours:Session", "batch")
TRANSPORT = Player("transport", "benchmarks.players_ours:Bare")
OURS = (SESSION, BATCH, TRANSPORT)

_SYNC, _ASYNC = "benchmarks.players_sync:", "benchmarks.players_async:"
PLAIN = Player("websocket-client", f"{_SYNC}WebsocketClient")
SKIPPING = Player("websocket-client, skip_utf8_validation", f"{_SYNC}WebsocketClient", options={"skip": True})
ENVELOPE = Player(
    "websocket-client with json.loads of an envelope and acks",
    f"{_SYNC}EnvelopeClient",
    "envelope",
    options={"skip": True},
)
WEBSOCKETS = Player("websockets, sync", f"{_SYNC}Websockets", needs="websockets")
AIOHTTP = Player("aiohttp", f"{_ASYNC}Aiohttp", needs="aiohttp")
PICOWS = Player("picows", f"{_ASYNC}Picows", needs="picows")
JETSOCKET = Player("jetsocket", f"{_ASYNC}Jetsocket", needs="jetsocket")
SIMPLE = Player("simple-websocket", f"{_SYNC}SimpleWebsocket", needs="simple_websocket")
SOCKETIO = Player("python-socketio", f"{_SYNC}SocketIO", "socket.io", "socketio")
AZURE = Player("azure-messaging-webpubsubclient", f"{_SYNC}Azure", "azure", "azure.messaging.webpubsubclient")

BARE = (PLAIN, SKIPPING, WEBSOCKETS, AIOHTTP, PICOWS, SIMPLE, JETSOCKET)
"""Peers that speak nothing but WebSocket."""
RICH = (ENVELOPE, SOCKETIO, AZURE)
"""Peers that speak a protocol of their own over it."""
PEERS = (*BARE, *RICH)


def those_there(players: Sequence[Player]) -> tuple[list[Player], list[str]]:
    """Return the players whose libraries are installed, and the names of the others."""
    return [p for p in players if p.is_there], [p.name for p in players if not p.is_there]
