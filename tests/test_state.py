"""The two state tables of the client: what is in them, what is not, and what follows from a walk through them."""

from __future__ import annotations

import itertools

import pytest

from resilient_ws.exceptions import LocalProtocolError
from resilient_ws.state import (
    CONNECTION_TABLE,
    SESSION_TABLE,
    ConnectionInput,
    Phase,
    SessionInput,
    SessionState,
    next_phase,
    next_session_state,
)


@pytest.mark.parametrize(("state", "happened"), [*itertools.product(SessionState, SessionInput)])
def test_session_table(state: SessionState, happened: SessionInput) -> None:
    """A row of the session's table leads to its state; what the table does not have is an error that names both."""
    row = SESSION_TABLE[state]
    if happened in row:
        assert next_session_state(state, happened) is row[happened]
    else:
        with pytest.raises(LocalProtocolError, match=f"{state.value} cannot take '{happened.value}'"):
            next_session_state(state, happened)


@pytest.mark.parametrize(("phase", "happened"), [*itertools.product(Phase, ConnectionInput)])
def test_connection_table(phase: Phase, happened: ConnectionInput) -> None:
    """A row of the connection's table leads to its phase; what the table does not have is an error that names both."""
    row = CONNECTION_TABLE[phase]
    if happened in row:
        assert next_phase(phase, happened) is row[happened]
    else:
        with pytest.raises(LocalProtocolError, match=f"{phase.value} cannot take '{happened.value}'"):
            next_phase(phase, happened)


def test_tables_are_whole() -> None:
    """Every state and phase has a row, and every one of them can be reached from the first."""
    assert set(SESSION_TABLE) == set(SessionState)
    assert set(CONNECTION_TABLE) == set(Phase)
    assert reached(SESSION_TABLE, SessionState.NEW) == set(SessionState)
    assert reached(CONNECTION_TABLE, Phase.DIALLING) == set(Phase)


def reached(table: dict, first: object) -> set:
    """Return what can be reached from ``first``."""
    found = {first}
    while more := {after for state in found for after in table[state].values()} - found:
        found |= more
    return found


def test_an_ended_session_stays_so() -> None:
    """Nothing leads out of ENDED, and ending twice is allowed."""
    assert set(SESSION_TABLE[SessionState.ENDED].values()) == {SessionState.ENDED}


def test_a_connection_never_comes_back() -> None:
    """Nothing leads out of GONE, and a connection that we shut can only be lost."""
    assert CONNECTION_TABLE[Phase.GONE] == {}
    assert CONNECTION_TABLE[Phase.LEAVING] == {ConnectionInput.LOST: Phase.GONE}


def test_every_living_connection_can_be_lost_and_shut() -> None:
    """Whatever a connection does, the network may take it away; until then we may shut it."""
    for phase in set(Phase) - {Phase.GONE}:
        assert CONNECTION_TABLE[phase][ConnectionInput.LOST] is Phase.GONE
        if phase is not Phase.LEAVING:
            assert CONNECTION_TABLE[phase][ConnectionInput.LEAVE] is Phase.LEAVING
