"""Planted defects of the journal, and of the numbering that outlives a session or a process."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from resilient_ws import frames, hearing, journalling
from resilient_ws.conversation import Conversation
from resilient_ws.frames import Position
from resilient_ws.inbox import Arrivals
from resilient_ws.ledger import Ledger
from resilient_ws.outbox import Unacked
from resilient_ws.records import Forgotten, RestoredLane, Void, Welcomed, Withdrawn
from resilient_ws.sizes import size_of
from resilient_ws.subscription import Subscription
from tests.simulation.mutants.mutant import Mutant, replaced, together


def _seq_per_session() -> Any:
    """A new session begins at seq 1 again, under the producer that the streams know."""
    original = hearing.HANDLERS[frames.Welcome]

    def on_welcome(core: Conversation, connection: Any, welcome: frames.Welcome, now: float) -> None:
        original(core, connection, welcome, now)
        if welcome.verdict == "new" and connection.hello.session is not None:
            for lane in core.outbox._lanes.values():
                lane.first, lane.next = 1, 1 + len(lane)
                lane.written = lane.acked = 0
            connection.cursors.clear()

    return patch.dict(hearing.HANDLERS, {frames.Welcome: on_welcome})


def _continues_producer(original: Any) -> Any:
    """What is new goes on under the producer of the last life, from the seq on that the journal knows."""

    def restore(self: Unacked, kept: RestoredLane) -> None:
        original(self, kept)
        self.producer = kept.producer

    return restore


def _renumbers(original: Any) -> Any:
    """What was kept is sent under the new life's producer."""

    def restore(self: Unacked, kept: RestoredLane) -> None:
        for item in kept.items:
            if not isinstance(item, Void):
                self.accept(kept.stream, item, size_of(item), 0.0)
                lane = self.lane(self.producer, kept.stream)
                assert lane is not None
                lane.safe = lane.next - 1

    return restore


def _ready_before_disk() -> Any:
    """A token is written like anything else, and ``ready`` does not wait for the disk."""
    original = hearing.HANDLERS[frames.Welcome]

    def on_welcome(core: Conversation, connection: Any, welcome: frames.Welcome, now: float) -> None:
        original(core, connection, welcome, now)
        held, connection.held_back = connection.held_back, None
        core.write(connection, held or [])

    return patch.dict(hearing.HANDLERS, {frames.Welcome: on_welcome})


def _sent_before_disk(original: Any) -> Any:
    """A message may go out as soon as it has a number."""

    def accept(self: Unacked, stream: str, *args: Any, **rest: Any) -> int:
        seq: int = original(self, stream, *args, **rest)
        self._lanes[self.producer, stream].safe = seq
        return seq

    return accept


def _told_before_disk(original: Any) -> Any:
    """What is handled is told to the server at once, although the journal may lose it."""

    def note(self: Arrivals, subscription: Subscription) -> None:
        original(self, subscription)
        subscription.told = subscription.acked

    return note


def _released_by_any_token(original: Any) -> Any:
    """Whatever token becomes safe, what waits for the newest one goes out."""

    def keep_place(core: Conversation, group: Any) -> None:
        original(core, group)
        if any(isinstance(record, Welcomed) for record in group.records.values()):
            journalling.release(core)

    return keep_place


def _start_gap_passed(original: Any) -> Any:
    """A gap in the first answer counts as passed before the user has it."""

    def begin(self: Subscription, answer: frames.StreamAnswer) -> None:
        original(self, answer)
        self.passed = self.acked = self.told = Position(answer.epoch, answer.first - 1)

    return begin


def _refused_stays(original: Any) -> Any:
    """What the journal had no room for keeps its number, and goes out with what follows."""
    return lambda self, accepted: None


def _rewind_not_written(original: Any) -> Any:
    """That a stream was asked for anew is not written down."""

    def add(self: Ledger, record: Any) -> None:
        if not isinstance(record, Forgotten):
            original(self, record)

    return add


def _drop_not_written(original: Any) -> Any:
    """That a message was withdrawn is not written down: a restart sends it."""

    def add(self: Ledger, record: Any) -> None:
        if not isinstance(record, Withdrawn):
            original(self, record)

    return add


def _taken_is_handled(original: Any) -> Any:
    """What the user took counts as handled at once: the position covers what is in hand."""

    def taken(self: Subscription, receiver: int, epoch: str, first: int, last: int) -> None:
        original(self, receiver, epoch, first, last)
        self.acked = self.passed

    return taken


def _all_at_once(original: Any) -> Any:
    """Every lane may be written, whoever's it is."""
    return lambda self: iter(list(self._busy.values()))


def _new_producer(original: Any) -> Any:
    """Every hello names a new producer, under which what is unacked is sent again."""

    def hello(self: Conversation, connection: Any, now: float, *, standby: bool = False) -> None:
        if not standby:
            _rename(self.outbox, f"{self.outbox.producer[:24]}{self.attempts:08x}")
        original(self, connection, now, standby=standby)

    return hello


def _rename(outbox: Unacked, producer: str) -> None:
    for name in ("_lanes", "_busy"):
        lanes = getattr(outbox, name)
        renamed = {(producer, stream) if own == outbox.producer else (own, stream): lane
                   for (own, stream), lane in lanes.items()}  # fmt: skip
        lanes.clear()
        lanes.update(renamed)
    for lane in outbox._lanes.values():
        lane.producer = producer if lane.producer == outbox.producer else lane.producer
    outbox.producer = producer


def _outcome_of_any(original: Any) -> Any:
    """The application still asks under the producer that ``send()`` told it."""

    def outcome(self: Unacked, producer: str, stream: str, seq: int) -> Any:
        return original(self, producer if (producer, stream) in self._lanes else self.producer, stream, seq)

    return outcome


MUTANTS = {
    "seq_per_session": Mutant("2, 15", "pair", _seq_per_session),
    "journal_continues_producer": Mutant("2", "journal", replaced(Unacked, "restore", _continues_producer)),
    "journal_renumbers": Mutant("2", "journal", replaced(Unacked, "restore", _renumbers)),
    "ready_before_disk": Mutant("5, 16", "journal", _ready_before_disk),
    "sent_before_disk": Mutant("16", "journal", replaced(Unacked, "accept", _sent_before_disk)),
    "taken_is_handled": Mutant("9, 16", "journal", replaced(Subscription, "taken", _taken_is_handled)),
    "told_before_disk": Mutant("16", "acks", replaced(Arrivals, "_note", _told_before_disk)),
    "released_by_any_token": Mutant("16", "slow_disk", replaced(journalling, "keep_place", _released_by_any_token)),
    "start_gap_passed": Mutant("16", "rewind", replaced(Subscription, "begin", _start_gap_passed)),
    "refused_stays": Mutant("16", "full", replaced(Unacked, "refuse", _refused_stays)),
    "rewind_not_written": Mutant("16", "rewind", replaced(Ledger, "add", _rewind_not_written)),
    "drop_not_written": Mutant("16", "drops", replaced(Ledger, "add", _drop_not_written)),
    "later_producer_not_waiting": Mutant("11", "restart", replaced(Unacked, "writable", _all_at_once)),
    "producer_per_connection": Mutant("2, 11", "store", together(
        replaced(Conversation, "hello", _new_producer), replaced(Unacked, "outcome", _outcome_of_any))),
}  # fmt: skip
