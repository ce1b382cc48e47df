"""
Which rows of the two state tables were taken, and which never can be.

A row that the tables have and no schedule takes is either untested or dead: each is listed here with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from resilient_ws import connection, conversation, hearing, session, state
from resilient_ws.state import CONNECTION_TABLE, SESSION_TABLE, ConnectionInput, Phase, SessionInput, SessionState

IMPOSSIBLE = {
    "leaving lost": "what is shut leaves the session's dict in the same step, so its loss is reported to nobody",
}
"""Rows that a session cannot take, by name, with the reason."""


def rows() -> list[str]:
    """Return the name of every row of both tables."""
    tables = (SESSION_TABLE, CONNECTION_TABLE)
    return [f"{at.value} {happened.value}" for table in tables for at, taken in table.items() for happened in taken]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count every row that is taken inside."""
    taken: Counter[str] = Counter()

    def session_step(at: SessionState, happened: SessionInput) -> SessionState:
        taken[f"{at.value} {happened.value}"] += 1
        return state.next_session_state(at, happened)

    def connection_step(at: Phase, happened: ConnectionInput) -> Phase:
        taken[f"{at.value} {happened.value}"] += 1
        return state.next_phase(at, happened)

    with (
        patch.object(connection, "next_phase", connection_step),
        patch.object(conversation, "next_session_state", session_step),
        patch.object(hearing, "next_session_state", session_step),
        patch.object(session, "next_session_state", session_step),
    ):
        yield taken


def not_taken(taken: Counter[str]) -> list[str]:
    """Return the rows that were not taken although they can be, and those that were although they cannot."""
    missed = [row for row in rows() if row not in taken and row not in IMPOSSIBLE]
    return missed + [f"{row} (listed as impossible)" for row in IMPOSSIBLE if row in taken]
