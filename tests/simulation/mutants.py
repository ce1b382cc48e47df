"""
Planted defects: each a patch by name of client, server or store, applied alone, in the fault mix that it needs.

A simulation that does not find them proves nothing; ``python -m tests.simulation --defects`` looks for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import attrs

from resilient_ws import hearing, losing
from resilient_ws.conversation import Conversation
from resilient_ws.frames import Held, HelloStream
from resilient_ws.inbox import Arrival, Arrivals, Run
from resilient_ws.liveness import Liveness
from resilient_ws.outbox import Unacked
from server_fixture.appending import Appending
from server_fixture.backplane import Appended, ProducerState
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.slots import Bucket, Producer
from server_fixture.entering import Entering
from server_fixture.reading import Reader
from server_fixture.session import ServerSession
from tests.simulation.schedule import run_seed


@attrs.frozen
class Mutant:
    """One defect: its rule, the mix that shows it, a seed where it is known to be found, and the patch."""

    rule: str
    mix: str
    seed: int
    planted: Callable[[], Any]


def _on(target: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], Any]:
    """Replace ``target.name`` by what ``make`` returns for the original."""
    return lambda: patch.object(target, name, make(getattr(target, name)))


def _no_refresh(original: Any) -> Any:
    def refresh(self: ServerSession) -> None:
        self._timers["refresh"] = self._now + 1000.0

    return refresh


def _no_fence_no_dedupe(original: Any) -> Any:
    """The fence in the slot and the comparison of seqs cover each other: only without both is anything stored twice."""

    def append(self: MemoryBackplane, r: Any, now: float) -> Any:
        slot = self._slot(r.stream)
        if slot is not None:
            slot.fences.pop(r.session, None)
            state = slot.producers.get(r.producer)
            if state is not None and state.last >= r.first:
                state.last = r.first - 1
        return original(self, r, now)

    return append


def _accept_hole(original: Any) -> Any:
    def append(self: MemoryBackplane, r: Any, now: float) -> Any:
        slot = self._slot(r.stream)
        if slot is not None:
            state = slot.producers.setdefault(r.producer, Producer())
            state.last = max(state.last, r.first - 1)
        return original(self, r, now)

    return append


def _ack_before_append(original: Any) -> Any:
    def append(self: Appending, lane: Any) -> None:
        if lane.waiting and not lane.is_busy:
            last = lane.waiting[-1][0]
            original(self, lane)
            lane.committed = max(lane.committed, last)
            self._outlet.send(hearing.frames.Ack(committed=self.marks()))
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


def _own_4409_ends(original: Any) -> Any:
    def superseded(core: Conversation, connection: Any, error: Exception, now: float) -> None:
        core.end(error, now)

    return superseded


def _client_no_dedupe(original: Any) -> Any:
    def data(self: Arrivals, batch: Any) -> Arrival:
        found = original(self, batch)
        subscription = self.subscriptions.get(batch.stream)
        if found is Arrival.DROPPED and subscription is not None and subscription.is_active:
            self._queue.append(Run(batch.stream, subscription.epoch, batch.first, list(batch.payloads)))
            self.messages += len(batch.payloads)
        return found

    return data


def _client_accepts_hole(original: Any) -> Any:
    def data(self: Arrivals, batch: Any) -> Arrival:
        subscription = self.subscriptions.get(batch.stream)
        if subscription is not None and subscription.is_active and batch.first > subscription.offset + 1:
            subscription.offset = batch.first - 1
        return original(self, batch)

    return data


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


def _now_again(original: Any) -> Any:
    def say(subscription: Any) -> HelloStream:
        return HelloStream(stream=subscription.stream, id=subscription.id, start="now")

    return say


def _no_credit(original: Any) -> Any:
    def marks(self: Conversation, connection: Any) -> dict[str, Any]:
        return {**original(self, connection), "credit": None}

    return marks


def _no_acks(original: Any) -> Any:
    def acks(self: Arrivals) -> Iterator[Any]:
        return iter(())

    return acks


def _zero_is_absent(original: Any) -> Any:
    def say(subscription: Any) -> HelloStream:
        found = original(subscription)
        if found.held is not None and not found.held.offset:
            return HelloStream(stream=found.stream, id=found.id, start="now")
        return found  # type: ignore[no-any-return]

    return say


def _ttl_counts_outage(original: Any) -> Any:
    def advance(self: Bucket, now: float) -> None:
        before = self.seen
        original(self, now)
        if before is not None:
            self.clock += max(now - before - 2.0, 0.0)

    return advance


def _only_current_token(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        answer = original(self, r, now)
        for bucket in self._buckets:
            for record in bucket.records.values():
                record.confirmed = record.fence.generation
        return answer

    return enter


def _patient(original: Any) -> Any:
    def liveness(core: Conversation, advice: Any, now: float) -> Liveness:
        return Liveness(interval=1.0, timeout=10_000.0, now=now)

    return liveness


def _marks_ignored(original: Any) -> Any:
    return lambda mark, stream_id, epoch, offset: False


def _server_marks_missing(original: Any) -> Any:
    return lambda self: ()


def _dropped_on_reconnect(original: Any) -> Any:
    def settle(outbox: Unacked, hello: Any, welcome: Any, **kwargs: Any) -> Iterator[Any]:
        yield from original(outbox, hello, welcome, **kwargs)
        for lane in list(outbox.writable()):
            if lane.written >= lane.first:
                outbox.committed(lane.producer, lane.stream, lane.written)

    return settle


def _trim_when_sent(original: Any) -> Any:
    def write(self: Conversation, connection: Any, items: Any) -> None:
        original(self, connection, items)
        for lane in list(self.outbox.writable()):
            if lane.written >= lane.first and any(type(item).__name__ == "Batch" for item in items):
                self.outbox.committed(lane.producer, lane.stream, lane.written)

    return write


def _no_attempt(original: Any) -> Any:
    def enter(self: MemoryBackplane, r: Any, now: float) -> Any:
        for bucket in self._buckets:
            record = bucket.records.get(r.session or "")
            if record is not None:
                record.attempts.clear()
        return original(self, r, now)

    return enter


def _patch_hello_stream(make: Callable[[Any], Any]) -> Callable[[], Any]:
    """``hello_stream`` is a function of two modules."""

    @contextmanager
    def planted() -> Iterator[None]:
        from resilient_ws import conversation

        mutant = make(conversation.hello_stream)
        with patch.object(conversation, "hello_stream", mutant), patch.object(hearing, "hello_stream", mutant):
            yield

    return planted


MUTANTS: dict[str, Mutant] = {
    "no_refresh": Mutant("1", "idle", 0, _on(ServerSession, "_refresh", _no_refresh)),
    "ttl_counts_outage": Mutant("1", "store", 7, _on(Bucket, "advance", _ttl_counts_outage)),
    "no_fence_no_dedupe": Mutant("2, 4", "pause", 4, _on(MemoryBackplane, "_append", _no_fence_no_dedupe)),
    "store_accepts_hole": Mutant("2", "swallow", 5, _on(MemoryBackplane, "_append", _accept_hole)),
    "ack_before_append": Mutant("2", "store", 0, _on(Appending, "_append", _ack_before_append)),
    "no_reject": Mutant("2", "usual", 3, _on(Appending, "_appended", _no_reject)),
    "reject_not_in_welcome": Mutant("2", "store", 24, _on(Entering, "_settle", _reject_not_in_welcome)),
    "committed_ahead": Mutant("2", "store", 0, _on(Entering, "_settle", _committed_ahead)),
    "trim_when_sent": Mutant("2", "usual", 0, _on(Conversation, "write", _trim_when_sent)),
    "dropped_on_reconnect": Mutant("2", "store", 0, _on(hearing, "settle", _dropped_on_reconnect)),
    "own_4409_ends": Mutant("4", "drain", 1, lambda: patch.dict(
        losing.AFTER_LOSS, {losing.Treatment.SUPERSEDED: _own_4409_ends(None)})),
    "only_current_token": Mutant("5", "ghost", 0, _on(MemoryBackplane, "_enter_session", _only_current_token)),
    "client_no_dedupe": Mutant("7", "drain", 100, _on(Arrivals, "data", _client_no_dedupe)),
    "client_accepts_hole": Mutant("7", "swallow", 0, _on(Arrivals, "data", _client_accepts_hole)),
    "no_gap": Mutant("7", "epoch", 17, _on(Reader, "settle", _no_gap)),
    "now_again": Mutant("7", "usual", 1, _patch_hello_stream(_now_again)),
    "epoch_not_compared": Mutant("8", "epoch", 0, _on(Reader, "settle", _epoch_not_compared)),
    "no_credit": Mutant("9", "usual", 0, _on(Conversation, "marks", _no_credit)),
    "no_acks": Mutant("9", "usual", 10, _on(Arrivals, "acks", _no_acks)),
    "zero_is_absent": Mutant("10", "usual", 0, _patch_hello_stream(_zero_is_absent)),
    "client_ping_marks": Mutant("ping", "swallow", 3, _on(hearing, "is_missing", _marks_ignored)),
    "server_ping_marks": Mutant("ping", "swallow", 20, _on(Appending, "marks", _server_marks_missing)),
    "no_client_deadline": Mutant("liveness", "usual", 1, _on(hearing, "_liveness", _patient)),
}  # fmt: skip


def find(name: str, first: int, count: int) -> tuple[int, str] | None:
    """Return the first seed that shows a mutant, and its first violation."""
    mutant = MUTANTS[name]
    with mutant.planted():
        for seed in range(first, first + count):
            violations = run_seed(seed, mutant.mix).violations
            if violations:
                return seed, violations[0]
    return None


def search_all(names: list[str] | None, first: int, count: int) -> int:
    """Look for each mutant in ``count`` seeds, its recorded one first; 0 where every one is found."""
    missed = 0
    for name in names or list(MUTANTS):
        recorded = MUTANTS[name].seed
        found = find(name, recorded, 1) or find(name, first, count)
        missed += found is None
        print(f"{name:24s} " + ("NOT FOUND" if found is None else f"seed {found[0]}: {found[1][:120]}"), flush=True)
    print(f"{len(names or MUTANTS) - missed} of {len(names or MUTANTS)} defects found")
    return 1 if missed else 0
