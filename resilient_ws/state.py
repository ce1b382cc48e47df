"""
The two state machines of a client: literal tables, and the essay that explains them.

**Theory of operation.** A *session* outlives its *connections*. The session has four states and five inputs; a
connection has six phases and a role. Waiting between attempts is a deadline of the session, not a state of a socket, so
a session without any connection is still LIVE. Every connection has a number; once it is GONE it leaves the session's
dict, and whatever still arrives under its number is dropped. Nothing else in the package keeps a state of its own: a
boolean beside these tables would be a second, hidden machine.

**How the two are coupled.**

* At most one connection is HANDSHAKING (rule 6): one hello is outstanding, whoever else is UPGRADED waits.
* At most one connection is OPEN. It becomes so when its welcome is *read*; in the same step the one that was OPEN
  before turns LEAVING, and from then on nothing of it counts.
* A *candidate* is a hedge: it races a primary that is still DIALLING or HANDSHAKING. A *successor* is dialled while a
  primary is OPEN (make before break). A *standby* is accepted by its node (``standing``) and then waits in UPGRADED,
  until it says an ordinary hello.
* A session that ENDED has no connection outside LEAVING and GONE.

An input that the table does not have is a :class:`~resilient_ws.exceptions.LocalProtocolError`: a bug of ours.
"""

from __future__ import annotations

from enum import Enum

from resilient_ws.exceptions import LocalProtocolError


class SessionState(Enum):
    """The states of a session."""

    NEW = "new"
    LIVE = "live"
    DRAINING = "draining"
    ENDED = "ended"


class SessionInput(Enum):
    """What moves a session."""

    CONNECT = "connect"
    WELCOMED = "welcomed"
    DRAIN = "drain"
    FLUSHED = "flushed"
    END = "end"


class Phase(Enum):
    """The phases of a connection."""

    DIALLING = "dialling"
    UPGRADED = "upgraded"
    HANDSHAKING = "handshaking"
    OPEN = "open"
    LEAVING = "leaving"
    GONE = "gone"


class Role(Enum):
    """What a connection is for."""

    PRIMARY = "primary"
    CANDIDATE = "candidate"
    SUCCESSOR = "successor"
    STANDBY = "standby"
    LANE = "lane"


class ConnectionInput(Enum):
    """What moves a connection."""

    MADE = "made"
    HELLO = "hello"
    STANDING = "standing"
    WELCOMED = "welcomed"
    LEAVE = "leave"
    LOST = "lost"


SESSION_TABLE: dict[SessionState, dict[SessionInput, SessionState]] = {
    SessionState.NEW: {
        SessionInput.CONNECT: SessionState.NEW,
        SessionInput.WELCOMED: SessionState.LIVE,
        SessionInput.DRAIN: SessionState.DRAINING,
        SessionInput.END: SessionState.ENDED,
    },
    SessionState.LIVE: {
        SessionInput.WELCOMED: SessionState.LIVE,
        SessionInput.DRAIN: SessionState.DRAINING,
        SessionInput.END: SessionState.ENDED,
    },
    SessionState.DRAINING: {
        SessionInput.WELCOMED: SessionState.DRAINING,
        SessionInput.DRAIN: SessionState.DRAINING,
        SessionInput.FLUSHED: SessionState.ENDED,
        SessionInput.END: SessionState.ENDED,
    },
    SessionState.ENDED: {
        SessionInput.END: SessionState.ENDED,
    },
}

CONNECTION_TABLE: dict[Phase, dict[ConnectionInput, Phase]] = {
    Phase.DIALLING: {
        ConnectionInput.MADE: Phase.UPGRADED,
        ConnectionInput.LEAVE: Phase.LEAVING,
        ConnectionInput.LOST: Phase.GONE,
    },
    Phase.UPGRADED: {
        ConnectionInput.HELLO: Phase.HANDSHAKING,
        ConnectionInput.LEAVE: Phase.LEAVING,
        ConnectionInput.LOST: Phase.GONE,
    },
    Phase.HANDSHAKING: {
        ConnectionInput.WELCOMED: Phase.OPEN,
        ConnectionInput.STANDING: Phase.UPGRADED,
        ConnectionInput.LEAVE: Phase.LEAVING,
        ConnectionInput.LOST: Phase.GONE,
    },
    Phase.OPEN: {
        ConnectionInput.LEAVE: Phase.LEAVING,
        ConnectionInput.LOST: Phase.GONE,
    },
    Phase.LEAVING: {
        ConnectionInput.LOST: Phase.GONE,
    },
    Phase.GONE: {},
}


def next_session_state(state: SessionState, happened: SessionInput) -> SessionState:
    """
    Return the state after ``happened``.

    Raises:
        LocalProtocolError: The table has no such row.
    """
    try:
        return SESSION_TABLE[state][happened]
    except KeyError:
        raise LocalProtocolError(f"a session that is {state.value} cannot take {happened.value!r}") from None


def next_phase(phase: Phase, happened: ConnectionInput) -> Phase:
    """
    Return the phase after ``happened``.

    Raises:
        LocalProtocolError: The table has no such row.
    """
    try:
        return CONNECTION_TABLE[phase][happened]
    except KeyError:
        raise LocalProtocolError(f"a connection that is {phase.value} cannot take {happened.value!r}") from None
