"""The negative control of the suite: nodes with planted faults fail the tests that are there for them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.conformance import plain_peer
from tests.conformance import test_conformance_entering as entering
from tests.conformance import test_conformance_input as broken
from tests.conformance import test_conformance_reading as reading
from tests.conformance import test_conformance_sending as sending
from tests.conformance import test_conformance_sessions as sessions
from tests.conformance.plain_peer import Closed
from tests.conformance.subjects import NAMED, SILENCE, VARIABLE, nodes_of

pytestmark = pytest.mark.cluster


PLANTED = """
import os
from resilient_ws.frames import Ack, Credit, SeqMark
from server_fixture import actions, appending, entering, host, node, reading, session, token
Appending, Reading, Reader, Session = appending.Appending, reading.Reading, reading.Reader, session.ServerSession
{}
node.main()
"""
FORGETS_PRODUCERS = """
init = Appending.__init__
def forgetful(self, outlet, session, fence, producers, **rest):
    init(self, outlet, session, fence, tuple(os.urandom(16).hex() for _ in producers), **rest)
Appending.__init__ = forgetful
"""
ACKS_TOO_MUCH = """
def boasting(committed):
    return Ack(committed=tuple(SeqMark(mark.producer, mark.stream, mark.seq + 1) for mark in committed))
appending.Ack = boasting
"""
IGNORES_CREDIT = """
init = Reading.__init__
Reading.__init__ = lambda self, outlet, session, fence, credit, size: init(
    self, outlet, session, fence, Credit(10**6, 10**9), size)
"""
TAKES_ANY_TOKEN = """
def trusting(keys, text):
    parts = text.split(".")
    return token.Claim(parts[1].lower(), int(parts[2])) if len(parts) == 4 else None
entering.verify = trusting
"""
TAKES_LATE_HELLOS = """
enter = entering.EnterSession
entering.EnterSession = lambda **fields: enter(**{**fields, "instance": os.urandom(16).hex()})
"""
LETS_ANYTHING_PASS = "actions.Outlet.refuse = lambda self, hint: None"
SKIPS_A_MESSAGE = """
answer = Reader.answer
def skipping(self, held, facts):
    found = answer(self, held, facts)
    self.offset += facts.last > self.offset
    return found
Reader.answer = skipping
"""
MAKES_TEXT_BYTES = """
entry = reading.Entry
appending.Entry = lambda payload, text, **rest: entry(payload, False, **rest)
"""
NEVER_PINGS = "Session._quiet = lambda self: self._timers.update(quiet=self._now + 60)"
LEAVES_WITHOUT_A_WORD = """
async def drain(self, within):
    self.is_draining = True
host.Host.drain = drain
"""
JUMPS_TO_ACKS = """
acked = Reading.acked
def jumping(self, marks):
    for mark in marks:
        reader = self._readers[mark.stream]
        reader.offset, reader.crc = max(reader.offset, mark.offset), None
    acked(self, marks)
Reading.acked = jumping
"""
TIMEOUT = "did not come in time"
# What shows first depends on whether the node's read, or its trim, is still on the way to the store.
JUMPED_BACK = f"skip is not below the offset|{TIMEOUT}"
TRIMMED = f"trimmed what|{TIMEOUT}"
FAULTS: dict[str, tuple[str, Any, tuple[Any, ...], str]] = {
    "forgets producers": (FORGETS_PRODUCERS, sending.test_resent_messages_are_stored_once, (), "'one' != 'four'"),
    "acks too much": (ACKS_TOO_MUCH, sending.test_payloads_come_back_as_they_went, (), "an ack of what was never"),
    "ignores credit": (IGNORES_CREDIT, reading.test_credit_bounds_messages, (), "more than the credit allows"),
    "takes any token": (TAKES_ANY_TOKEN, sessions.test_wrong_token, (), TIMEOUT),
    "takes late hellos": (TAKES_LATE_HELLOS, sessions.test_late_hello_is_refused, (), TIMEOUT),
    "lets anything pass": (LETS_ANYTHING_PASS, broken.test_bad_frame, ("another ready",), TIMEOUT),
    "skips a message": (SKIPS_A_MESSAGE, entering.test_starts, (), "a hole"),
    "makes text bytes": (MAKES_TEXT_BYTES, sending.test_payloads_come_back_as_they_went, (), "b'text' != 'text'"),
    "jumps to acks": (
        JUMPS_TO_ACKS, sessions.test_ack_of_what_an_older_connection_may_have_delivered, (), "passed what"
    ),
    "jumps from a start": (JUMPS_TO_ACKS, sessions.test_ack_above_a_start, (), TIMEOUT),
    "jumps into a hole": (JUMPS_TO_ACKS, sessions.test_ack_of_what_the_log_has_no_more, (), JUMPED_BACK),
    "trims what it jumped": (JUMPS_TO_ACKS, sessions.test_early_ack_of_the_private_stream, (), TRIMMED),
    "never pings": (NEVER_PINGS, sessions.test_node_pings_a_silent_client, (), TIMEOUT),
    "leaves without a word": (LEAVES_WITHOUT_A_WORD, sessions.test_drain, (), "1006"),
}


@pytest.mark.skipif(NAMED is not None, reason=f"the faults are the reference server's, and {VARIABLE} names another")
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with a fault lets somebody in as it should, and fails the test that is there for the fault."""
    code, test, arguments, said = FAULTS[fault]
    with nodes_of([sys.executable, "-c", PLANTED.format(code)]) as nodes:
        entering.test_new_session(nodes)
        monkeypatch.setattr(plain_peer, "PATIENCE", SILENCE + 2.5)
        with pytest.raises((AssertionError, Closed), match=said):
            test(nodes, *arguments)
