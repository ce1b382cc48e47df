"""Planted defects of a node: what it says, when it reads and acks, what it concludes."""

from __future__ import annotations

from typing import Any

import attrs

from resilient_ws.frames import Ack, Held
from server_fixture.appending import Appending
from server_fixture.backplane import Appended, ProducerState
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


def _no_gap(original: Any) -> Any:
    def settle(self: Reader, held: Held | None, facts: Any) -> Any:
        gap = original(self, held, facts)
        return None if gap is not None and gap.reason == "trimmed" else gap

    return settle


def _epoch_not_compared(original: Any) -> Any:
    def settle(self: Reader, held: Held | None, facts: Any) -> Any:
        if held is not None and held.epoch != facts.epoch:
            self.epoch, self.end, self.offset, self.crc = facts.epoch, facts.last, held.offset, None
            return None
        return original(self, held, facts)

    return settle


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

MUTANTS = {
    "no_refresh": Mutant("1", "idle", replaced(ServerSession, "_refresh", _no_refresh)),
    "ack_before_append": Mutant("2", "store", replaced(Appending, "_append", _ack_before_append)),
    "no_reject": Mutant("2", "usual", replaced(Appending, "_appended", _no_reject)),
    "reject_not_in_welcome": Mutant("2", "store", replaced(Entering, "_settle", _reject_not_in_welcome)),
    "committed_ahead": Mutant("2", "store", replaced(Entering, "_settle", _committed_ahead)),
    "no_gap": Mutant("7", "epoch", replaced(Reader, "settle", _no_gap)),
    "epoch_not_compared": Mutant("8", "epoch", replaced(Reader, "settle", _epoch_not_compared)),
    "server_ping_marks": Mutant("ping", "swallow", replaced(Appending, "marks", _server_marks_missing)),
}
