"""Planted defects of a node: sessions, hellos, appends, liveness. What it reads is in ``reading.py``."""

from __future__ import annotations

from typing import Any

import attrs

from resilient_ws.frames import Ack, SeqMark
from server_fixture import actions, entering, session
from server_fixture.actions import Outlet
from server_fixture.appending import Appending
from server_fixture.backplane import Append, Appended, EnterSession, Entry, Fence, ProducerState, SessionEntered
from server_fixture.entering import Entering
from server_fixture.reading import Reader, Reading
from server_fixture.session import ServerSession
from tests.simulation.mutants.mutant import Mutant, replaced, together


def _no_refresh(original: Any) -> Any:
    def refresh(self: ServerSession) -> None:
        self._timers["refresh"] = self._now + 1000.0

    return refresh


def _ack_before_append(original: Any) -> Any:
    def append(self: Appending, lane: Any) -> None:
        if lane.waiting and not lane.is_busy:
            last = lane.waiting[-1][0]
            original(self, lane)
            lane.committed = max(lane.committed, last)
            self._outlet.send(Ack(committed=self.marks()))
        else:
            original(self, lane)

    return append


def _no_reject(original: Any) -> Any:
    def appended(self: Appending, lane: Any, last: int, answer: Appended) -> None:
        original(self, lane, last, attrs.evolve(answer, rejected=()))

    return appended


def _reject_not_in_welcome(original: Any) -> Any:
    def settle(self: Entering, outbound: Any, state: ProducerState) -> None:
        original(self, outbound, attrs.evolve(state, rejected=()))

    return settle


def _committed_ahead(original: Any) -> Any:
    def settle(self: Entering, outbound: Any, state: ProducerState) -> None:
        ahead = min(state.seq + 1, outbound.next - 1)
        original(self, outbound, attrs.evolve(state, seq=ahead, known=True))

    return settle


def _keeps_its_sessions(original: Any) -> Any:
    return lambda self, now: None


def _unknown_append_is_ok(original: Any) -> Any:
    def call(self: Outlet, request: Any, then: Any, **how: Any) -> None:
        if isinstance(request, Append):
            last = request.first + len(request.entries) - 1
            how["failed"] = lambda: then(Appended(seq=last))
        original(self, request, then, **how)

    return call


def _unreachable_is_new(original: Any) -> Any:
    def call(self: Outlet, request: Any, then: Any, **how: Any) -> None:
        if isinstance(request, EnterSession):
            fence = Fence(1, request.instance, request.attempt)
            how["failed"] = lambda: then(
                SessionEntered(
                    session=request.new_session, fence=fence, verdict="new", reason="unknown", incarnation="0" * 32
                )
            )
        original(self, request, then, **how)

    return call


def _ack_overtakes_reject(original: Any) -> Any:
    def appended(self: Appending, lane: Any, last: int, answer: Appended) -> None:
        self._outlet.send(Ack(committed=(SeqMark(lane.index, lane.wire, max(lane.committed, last)),)))
        original(self, lane, last, answer)

    return appended


def _reject_spreads(original: Any) -> Any:
    def append(self: Appending, lane: Any) -> None:
        spread = None
        for place, (seq, entry) in enumerate(lane.waiting):
            spread = spread or entry.code
            if spread is not None and entry.code is None:
                lane.waiting[place] = (seq, Entry(b"", False, code="too_large"))
        original(self, lane)

    return append


def _no_instance(original: Any) -> Any:
    return lambda instance: "superseded"


def _spare_enters(original: Any) -> Any:
    def stand(self: ServerSession, hello: Any) -> None:
        original(self, hello)
        claim = entering.claim_of(self._settings, hello)
        if claim is not None:
            request = EnterSession(
                session=claim.session,
                presented=claim.generation,
                new_session=f"{claim.session[:2]}{self._rng.getrandbits(128):032x}",
                instance=hello.instance,
                attempt=hello.attempt,
                principal=self._gate.principal,
                ttl=self._settings.ttl,
            )
            self._outlet.call(request, self._ignored, failed=lambda: None)

    return stand


def _refused_stream_fails_hello(original: Any) -> Any:
    def plan(self: Entering, entered: Any) -> None:
        original(self, entered)
        if self._answers:
            self._outlet.close(1012, "a stream of this hello is refused")

    return plan


def _hello_is_no_ack(original: Any) -> Any:
    return lambda asked: ()


def _rides_without_acks(original: Any) -> Any:
    def rode_along(self: ServerSession, frame: Any) -> None:
        original(self, attrs.evolve(frame, acked=()))

    return rode_along


def _never_looks(original: Any) -> Any:
    def poll(self: ServerSession) -> None:
        self._timers["poll"] = self._now + self._settings.poll_interval

    return poll


def _patient(original: Any) -> Any:
    def quiet(self: ServerSession) -> None:
        self._heard_at = max(self._heard_at, self._now - self._settings.keepalive_interval)
        original(self)

    return quiet


def _server_marks_missing(original: Any) -> Any:
    return lambda self: ()


def _answers_an_older_subscribe(original: Any) -> Any:
    return lambda self, reader: reader.wire in self._readers


def _ends_whatever(original: Any) -> Any:
    def remove(self: Reading, wire: str, id: int | None = None) -> None:
        original(self, wire)

    return remove


def _reads_for_the_latest(original: Any) -> Any:
    def found(self: Reading, reader: Reader, part: Any, claim: int) -> None:
        if self._readers.get(reader.wire) is reader:
            original(self, reader, part, claim)

    return found


node_without_ids = together(
    replaced(Reading, "is_current", _answers_an_older_subscribe),
    replaced(Reading, "remove", _ends_whatever),
    replaced(Reading, "_found", _reads_for_the_latest),
)
"""A node that answers and ends whatever subscription there is of a stream: the client's ids alone cover that."""

_PINGS_ARE_NO_ACKS = replaced(ServerSession, "_rode_along", _rides_without_acks)

MUTANTS = {
    "no_refresh": Mutant("1", "idle", replaced(ServerSession, "_refresh", _no_refresh)),
    "unrefreshed_is_kept": Mutant("1", "flapping", replaced(session, "UNREFRESHED", lambda original: 1e9)),
    "no_refresh_giveup": Mutant("1", "node", replaced(ServerSession, "store_silent", _keeps_its_sessions)),
    "ack_before_append": Mutant("2", "store", replaced(Appending, "_append", _ack_before_append)),
    "unknown_append_is_ok": Mutant("2", "store", replaced(Outlet, "call", _unknown_append_is_ok)),
    "no_reject": Mutant("2", "usual", replaced(Appending, "_appended", _no_reject)),
    "reject_not_in_welcome": Mutant("2", "store", replaced(Entering, "_settle", _reject_not_in_welcome)),
    "ack_overtakes_reject": Mutant("2", "usual", replaced(Appending, "_appended", _ack_overtakes_reject)),
    "reject_spreads": Mutant("2", "rights", replaced(Appending, "_append", _reject_spreads)),
    "committed_ahead": Mutant("2", "store", replaced(Entering, "_settle", _committed_ahead)),
    "no_instance_in_4409": Mutant("4", "drain", together(
        replaced(actions, "superseded_by", _no_instance), replaced(session, "superseded_by", _no_instance))),
    "spare_raises_the_fence": Mutant("6", "drain", replaced(ServerSession, "_stand", _spare_enters)),
    "unreachable_is_new": Mutant("12", "store", replaced(Outlet, "call", _unreachable_is_new)),
    "refused_stream_fails_hello": Mutant("14", "usual", replaced(Entering, "_plan", _refused_stream_fails_hello)),
    "pings_are_no_acks": Mutant("9, ping", "private", _PINGS_ARE_NO_ACKS),
    "pings_and_hellos_are_no_acks": Mutant("9", "private", together(
        _PINGS_ARE_NO_ACKS, replaced(entering, "_acked", _hello_is_no_ack))),
    "server_ping_marks": Mutant("ping", "swallow", replaced(Appending, "marks", _server_marks_missing)),
    "no_poll": Mutant("7", "idle", replaced(ServerSession, "_poll", _never_looks)),
    "no_node_deadline": Mutant("liveness", "usual", replaced(ServerSession, "_quiet", _patient)),
}  # fmt: skip
