"""
Planted defects of a node's reading: positions, gaps, credit, acks.

Not here, because nothing that anybody could see comes of them: a ``live`` that is too low (the client's own position
covers it), and a private stream that is trimmed up to an ack above what this connection sent: another connection gave
the client what it acked, and the gap that follows lies below its position (0 of 5,800 seeds of the mix ``private``).
A client that acks what it never got is ``acks_what_arrived`` in ``arrivals.py``.
"""

from __future__ import annotations

from typing import Any

import attrs

from resilient_ws.frames import Credit, Held, HelloStream, StreamAnswer
from server_fixture import entering, reading
from server_fixture.reading import Reader, Reading
from tests.simulation.mutants.mutant import Mutant, replaced, together


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


def _old_epoch_told(original: Any) -> Any:
    def answer(self: Reader, held: Held | None, facts: Any) -> StreamAnswer:
        found = original(self, held, facts)
        if held is None or found.gap is None or found.gap.reason != "epoch":
            return found  # type: ignore[no-any-return]
        return attrs.evolve(found, epoch=held.epoch, gap=attrs.evolve(found.gap, epoch=held.epoch))

    return answer


def _no_gap_on_reads(original: Any) -> Any:
    def check(self: Reading, reader: Reader) -> None:
        def checked(facts: Any) -> None:
            reader.is_busy = False
            reader.settle(held, facts)
            self._want(reader)
            self.turn()

        reader.is_busy = True
        held = Held(reader.epoch, reader.offset, reader.crc)
        asked = HelloStream(stream=reader.wire, id=reader.id, held=held)
        self._outlet.call(reader.step(asked, self._session, self._fence), checked)

    return check


def _no_prev(original: Any) -> Any:
    def add(items: list[Any], wire: str, before: int, entry: Any) -> None:
        original(items, wire, entry.offset - 1, entry)

    return add


def _prev_of_the_log(original: Any) -> Any:
    """What a log stores as the number before is that of its end when the message came (H8)."""

    def add(items: list[Any], wire: str, before: int, entry: Any) -> None:
        original(items, wire, before, entry)
        if items[-1].prev is not None:
            items[-1].prev = entry.offset - 1

    return add


def _no_replay(original: Any) -> Any:
    def opened(self: Reading, reader: Reader) -> None:
        reader.offset, reader.crc = max(reader.offset, reader.end), None
        original(self, reader)

    return opened


def _zero_is_no_position(original: Any) -> Any:
    def held_of(asked: Any) -> Held | None:
        held = original(asked)
        return None if held is not None and not held.offset else held

    return held_of


def _credit_kept_by_idle_streams(original: Any) -> Any:
    def found(self: Reading, reader: Reader, part: Any, claim: int) -> None:
        if not part.entries:
            self._reserve(1, 1)
        original(self, reader, part, claim)

    return found


def _credit_ignored(original: Any) -> Any:
    def begin(self: Reading, outlet: Any, session: str, fence: Any, credit: Credit, max_message: int) -> None:
        original(self, outlet, session, fence, Credit(1 << 40, 1 << 40), max_message)

    return begin


def _acks_prove_nothing(original: Any) -> Any:
    def found(self: Reading, reader: Reader, part: Any, claim: int) -> None:
        original(self, reader, part, 0)

    return found


def _no_gap_in_answers(original: Any) -> Any:
    def answer(self: Reader, held: Held | None, facts: Any) -> StreamAnswer:
        return attrs.evolve(original(self, held, facts), gap=None)

    return answer


MUTANTS = {
    "no_gap": Mutant("7", "epoch", replaced(Reader, "settle", _no_gap)),
    "no_gap_in_answers": Mutant("7", "tail", replaced(Reader, "answer", _no_gap_in_answers)),
    "no_gap_on_reads": Mutant("7", "tail", replaced(Reading, "_check", _no_gap_on_reads)),
    "old_epoch_told": Mutant("7", "epoch", replaced(Reader, "answer", _old_epoch_told)),
    "no_prev": Mutant("7", "tail", replaced(reading, "_add", _no_prev)),
    "prev_of_the_log": Mutant("7", "tail", replaced(reading, "_add", _prev_of_the_log)),
    "no_replay": Mutant("7", "usual", replaced(Reading, "open", _no_replay)),
    "epoch_not_compared": Mutant("8", "epoch", replaced(Reader, "settle", _epoch_not_compared)),
    "credit_kept_by_idle_streams": Mutant("9", "idle", replaced(Reading, "_found", _credit_kept_by_idle_streams)),
    "node_ignores_credit": Mutant("9", "usual", replaced(Reading, "__init__", _credit_ignored)),
    "acks_prove_nothing": Mutant("9, 7", "regrown", replaced(Reading, "_found", _acks_prove_nothing)),
    "node_zero_is_absent": Mutant("10", "usual", together(
        replaced(reading, "held_of", _zero_is_no_position), replaced(entering, "held_of", _zero_is_no_position))),
}  # fmt: skip
