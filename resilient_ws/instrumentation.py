"""
What a Client tells the outside beside the user's own ``on_event``: by default, the log.

Records have a structured name (``resilient_ws.retry_scheduled``) as their message and the event's fields as attributes
``resilient_ws_<field>``. Payloads, tokens and headers are in no event, so they are in no record.
"""

from __future__ import annotations

import logging
import re

import attrs

from resilient_ws import events

log = logging.getLogger("resilient_ws.client")
log.addHandler(logging.NullHandler())  # a program that sets up no logging hears of events by on_event only

_LEVELS: dict[type, int] = {
    events.ConnectionEnded: logging.WARNING,
    events.EndpointEjected: logging.WARNING,
    events.EndpointsRefused: logging.WARNING,
    events.DiscoveryFailed: logging.WARNING,
    events.AccessTokenFailed: logging.WARNING,
    events.SessionReplaced: logging.WARNING,
    events.GapFound: logging.WARNING,
    events.DeadLettered: logging.ERROR,
    events.StreamRefused: logging.WARNING,
    events.MessageRejected: logging.WARNING,
    events.MessagesDropped: logging.WARNING,
    events.AcknowledgedLost: logging.ERROR,
    events.JournalRolledBack: logging.ERROR,
    events.JournalStalled: logging.ERROR,
    events.IndefiniteResent: logging.WARNING,
    events.ServerNoticed: logging.WARNING,
    events.TableFailed: logging.ERROR,
}


def level_of(event: events.Event) -> int:
    """Return the level under which an event is logged."""
    return _LEVELS.get(type(event), logging.INFO)


def name_of(event: events.Event) -> str:
    """Return the structured name of an event: ``resilient_ws.connection_ended``."""
    return "resilient_ws." + re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def log_event(event: events.Event) -> None:
    """Write one event to the log."""
    fields = attrs.asdict(event, recurse=False)
    text = " ".join(f"{name}={value!r}" for name, value in fields.items())
    extra = {f"resilient_ws_{name}": value for name, value in fields.items()}
    log.log(level_of(event), "%s %s", name_of(event), text, extra=extra)


def is_logged(event: events.Event) -> bool:
    """Say whether anybody would see the record."""
    return log.isEnabledFor(level_of(event))
