"""
A synchronous WebSocket client whose sessions outlive the connections under them.

What lives here: the public names, and nothing that runs. What never does: an import of a module with I/O, so that
``import resilient_ws`` stays cheap; a name is imported when it is asked for (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Budget",
    "Client",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "DeliveryError",
    "Failover",
    "Forked",
    "Gap",
    "HandshakeRejected",
    "Inbox",
    "JournalCorrupt",
    "JournalError",
    "JournalFailed",
    "JournalFull",
    "JournalLocked",
    "JournalRefused",
    "Keepalive",
    "LocalProtocolError",
    "Message",
    "NoEndpoint",
    "Outbox",
    "OutboxFull",
    "Position",
    "ProtocolError",
    "ProxyError",
    "Receipt",
    "Rejected",
    "RemoteProtocolError",
    "ResilientWSError",
    "Retry",
    "SessionClosed",
    "SessionError",
    "SessionLost",
    "SessionTakenOver",
    "SlowConsumer",
    "Treatment",
    "Undelivered",
    "Wire",
    "__version__",
    "connect",
    "events",
    "treat_close",
    "treat_status",
]

if TYPE_CHECKING:
    from resilient_ws import events
    from resilient_ws.client import Client, connect
    from resilient_ws.config import Budget, Failover, Inbox, Keepalive, Outbox, Retry, Wire
    from resilient_ws.events import Message, Receipt
    from resilient_ws.exceptions import (
        AccessDenied,
        ConnectError,
        ConnectionLost,
        ConnectTimeout,
        DeliveryError,
        Forked,
        Gap,
        HandshakeRejected,
        JournalCorrupt,
        JournalError,
        JournalFailed,
        JournalFull,
        JournalLocked,
        JournalRefused,
        LocalProtocolError,
        NoEndpoint,
        OutboxFull,
        ProtocolError,
        ProxyError,
        Rejected,
        RemoteProtocolError,
        ResilientWSError,
        SessionClosed,
        SessionError,
        SessionLost,
        SessionTakenOver,
        SlowConsumer,
        Undelivered,
    )
    from resilient_ws.frames import Position
    from resilient_ws.treatments import Treatment, treat_close, treat_status

_HOMES = {
    "Client": "client",
    "connect": "client",
    "Budget": "config",
    "Failover": "config",
    "Inbox": "config",
    "Keepalive": "config",
    "Outbox": "config",
    "Retry": "config",
    "Wire": "config",
    "Message": "events",
    "Receipt": "events",
    "Position": "frames",
    "Treatment": "treatments",
    "treat_close": "treatments",
    "treat_status": "treatments",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = "events" if name == "events" else _HOMES.get(name, "exceptions")
    module = importlib.import_module(f"resilient_ws.{home}")
    value = module if name == "events" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
