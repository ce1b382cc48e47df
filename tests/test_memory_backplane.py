"""The reference semantics of the backplane's verbs, one sentence per promise."""

from __future__ import annotations

import asyncio
import random
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server_fixture.backplane import (
    Answer,
    Append,
    Appended,
    Confirm,
    Done,
    EndSession,
    EnterSession,
    EnterStream,
    Entry,
    Fence,
    Foreign,
    Hole,
    OldFence,
    Publish,
    Published,
    Read,
    Refresh,
    Request,
    SessionEntered,
    SessionUnknown,
    Slice,
    Stale,
    StreamEntered,
    Tick,
    TrimPrivate,
    bucket_of,
)
from server_fixture.backplane.local import LocalBackplane
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.slots import INSTANCES, REMEMBERED

A, B = "aa" * 16, "bb" * 16
SESSION = "01" + "c" * 32
OTHER = "01" + "d" * 32
TTL = 60.0


@pytest.fixture
def store() -> MemoryBackplane:
    """A backplane with small retention."""
    return MemoryBackplane(random.Random(1), retention=100, producer_ttl=1000.0)


def enter(store: MemoryBackplane, now: float = 0.0, **changes: Any) -> Answer:
    """Say hello as instance A with its first attempt, unless told otherwise."""
    asked: dict[str, Any] = {
        "session": None,
        "presented": None,
        "new_session": SESSION,
        "instance": A,
        "attempt": 1,
        "principal": "alice",
        "ttl": TTL,
    }
    return store.step(EnterSession(**{**asked, **changes}), now)


def entered(store: MemoryBackplane, now: float = 0.0, **changes: Any) -> SessionEntered:
    """Say hello and expect a verdict."""
    answer = enter(store, now, **changes)
    assert isinstance(answer, SessionEntered)
    return answer


def entry(text: str) -> Entry:
    return Entry(text.encode(), True)


def publish(store: MemoryBackplane, stream: str, *texts: str) -> Published:
    answer = store.step(Publish(stream=stream, entries=tuple(map(entry, texts))), 0.0)
    assert isinstance(answer, Published)
    return answer


def append(
    store: MemoryBackplane, first: int, *texts: str, fence: Fence | None = None, stream: str = "s", now: float = 0.0
) -> Answer:
    entries = tuple(Entry(b"", True, code=text[1:]) if text.startswith("!") else entry(text) for text in texts)
    fence = fence or Fence(1, A, 1)
    return store.step(
        Append(stream=stream, session=SESSION, fence=fence, producer="p", first=first, entries=entries), now
    )


def look(store: MemoryBackplane, now: float = 0.0, **changes: Any) -> StreamEntered:
    asked: dict[str, Any] = {"stream": "s", "session": SESSION, "fence": Fence(1, A, 1)}
    answer = store.step(EnterStream(**{**asked, **changes}), now)
    assert isinstance(answer, StreamEntered)
    return answer


def read(store: MemoryBackplane, after: int, **changes: Any) -> Slice:
    asked: dict[str, Any] = {
        "stream": "s",
        "epoch": look(store).epoch,
        "after": after,
        "crc": None,
        "max_messages": 100,
        "max_bytes": 10_000,
    }
    answer = store.step(Read(**{**asked, **changes}), 0.0)
    assert isinstance(answer, Slice)
    return answer


def texts(found: Slice) -> list[tuple[int, str]]:
    return [(e.offset, e.payload.decode()) for e in found.entries]


class TestSession:
    """The session's slot."""

    def test_a_first_hello_creates_a_session_in_one_step(self, store: MemoryBackplane) -> None:
        """Without a token the verdict is new, without a reason."""
        answer = entered(store)
        assert (answer.session, answer.verdict, answer.reason) == (SESSION, "new", None)
        assert answer.fence == Fence(1, A, 1)
        assert answer.incarnation == store.incarnation

    def test_an_accepted_hello_raises_the_generation_above_record_and_token(self, store: MemoryBackplane) -> None:
        """The new generation is max(record, presented) + 1, even where the record was rolled back (H11)."""
        entered(store)
        answer = entered(store, session=SESSION, presented=7, new_session=OTHER, attempt=2)
        assert (answer.session, answer.verdict, answer.fence) == (SESSION, "resumed", Fence(8, A, 2))

    def test_a_ghost_changes_nothing(self, store: MemoryBackplane) -> None:
        """An attempt that is not higher is stale, whatever its token and principal."""
        entered(store)
        entered(store, session=SESSION, presented=1, new_session=OTHER, attempt=3)
        for attempt in (2, 3):
            assert enter(store, session=SESSION, new_session=OTHER, attempt=attempt, principal="eve") == Stale()
        assert entered(store, session=SESSION, presented=2, new_session=OTHER, attempt=4).fence.generation == 3

    def test_a_ghost_of_an_expired_session_creates_none(self, store: MemoryBackplane) -> None:
        """The attempt is judged before expiry."""
        entered(store, ttl=1.0)
        store.step(Tick(bucket=bucket_of(SESSION)), 2.0)
        assert enter(store, 2.0, session=SESSION, new_session=OTHER) == Stale()
        assert store.sessions() == ()

    def test_the_last_attempts_of_eight_instances_are_remembered(self, store: MemoryBackplane) -> None:
        """The instance that was heard longest ago is forgotten first."""
        entered(store)
        for number in range(INSTANCES):
            entered(store, session=SESSION, presented=1, new_session=OTHER, instance=f"{number:032x}")
        assert enter(store, session=SESSION, new_session=OTHER, instance=f"{0:032x}") == Stale()
        assert isinstance(enter(store, session=SESSION, new_session=OTHER, instance=A), SessionEntered)

    def test_another_principal_is_foreign(self, store: MemoryBackplane) -> None:
        """A session belongs to the principal that created it."""
        entered(store)
        assert enter(store, session=SESSION, new_session=OTHER, attempt=2, principal="eve") == Foreign()

    def test_a_token_below_the_confirmed_generation_is_superseded(self, store: MemoryBackplane) -> None:
        """A restored journal gets a new session and does not disturb the old one (H12)."""
        entered(store)
        entered(store, session=SESSION, presented=1, new_session=OTHER, attempt=2)
        assert store.step(Confirm(session=SESSION, generation=2), 0.0) == Done()
        assert store.step(Confirm(session=SESSION, generation=1), 0.0) == Done()
        answer = entered(store, session=SESSION, presented=1, new_session=OTHER, instance=B)
        assert (answer.session, answer.verdict, answer.reason) == (OTHER, "new", "superseded")
        assert store.step(Refresh(session=SESSION, fence=Fence(2, A, 2), ttl=TTL), 0.0) == Done()
        assert entered(store, session=SESSION, presented=2, new_session="01e", attempt=3).verdict == "resumed"

    def test_an_unknown_session_gets_a_new_one_in_the_same_bucket(self, store: MemoryBackplane) -> None:
        """The reason says that the record is gone."""
        answer = entered(store, session=SESSION, presented=3, new_session=OTHER)
        assert (answer.session, answer.reason, answer.fence.generation) == (OTHER, "unknown", 1)

    def test_an_expired_session_is_told_apart_from_an_unknown_one_for_a_while(self, store: MemoryBackplane) -> None:
        """After that the record is gone."""
        entered(store, ttl=1.0)
        store.step(Tick(bucket=bucket_of(SESSION)), 1.0)
        assert entered(store, 1.0, session=SESSION, presented=1, new_session=OTHER, attempt=2).reason == "expired"
        now = 1.0
        while now < REMEMBERED + 2.0:
            now += 2.0
            store.step(Tick(bucket=bucket_of(SESSION)), now)
        assert entered(store, now, session=SESSION, presented=1, new_session=OTHER, attempt=3).reason == "unknown"

    def test_H14_an_outage_of_the_store_is_not_counted(self, store: MemoryBackplane) -> None:
        """A pause between two operations of a bucket counts two seconds at most, whatever happens in other buckets."""
        entered(store, ttl=8.0)
        store.step(Tick(bucket=bucket_of(SESSION) + 1), 500.0)
        assert store.step(Refresh(session=SESSION, fence=Fence(1, A, 1), ttl=8.0), 1000.0) == Done()
        store.step(Tick(bucket=bucket_of(SESSION)), 900.0)
        assert store.sessions() == (SESSION,)

    def test_time_in_which_the_bucket_is_used_counts(self, store: MemoryBackplane) -> None:
        """Without a refresh a session expires, and everything that needs it says so."""
        entered(store, ttl=8.0)
        for second in range(9):
            store.step(Tick(bucket=bucket_of(SESSION)), float(second))
        fence = Fence(1, A, 1)
        asked: list[Request] = [
            Refresh(session=SESSION, fence=fence, ttl=8.0),
            Confirm(session=SESSION, generation=1),
            EndSession(session=SESSION, fence=fence),
            TrimPrivate(session=SESSION, fence=fence, epoch="e", offset=1),
            EnterStream(stream=f"~{SESSION}", session=SESSION, fence=fence),
            Append(stream=f"~{SESSION}", session=SESSION, fence=fence, producer="p", first=1, entries=()),
            Publish(stream=f"~{SESSION}", entries=(entry("x"),)),
            Read(stream=f"~{SESSION}", epoch="e", after=0, crc=None, max_messages=1, max_bytes=1),
        ]
        assert [store.step(request, 8.0) for request in asked] == [SessionUnknown()] * len(asked)

    def test_an_old_fence_refreshes_trims_and_ends_nothing(self, store: MemoryBackplane) -> None:
        """The newer fence is named in the answer (rule 4)."""
        entered(store)
        entered(store, session=SESSION, presented=1, new_session=OTHER, instance=B)
        epoch = publish(store, f"~{SESSION}", "x").epoch
        old, new = Fence(1, A, 1), Fence(2, B, 1)
        asked: list[Request] = [
            Refresh(session=SESSION, fence=old, ttl=TTL),
            TrimPrivate(session=SESSION, fence=old, epoch=epoch, offset=1),
            EndSession(session=SESSION, fence=old),
            EnterStream(stream=f"~{SESSION}", session=SESSION, fence=old),
        ]
        assert [store.step(request, 0.0) for request in asked] == [OldFence(new)] * len(asked)
        assert len(store.contents(f"~{SESSION}")) == 1

    def test_H11_a_refresh_lifts_a_record_that_was_rolled_back(self, store: MemoryBackplane) -> None:
        """A generation is not minted twice once the node has written its own back."""
        entered(store)
        fence = entered(store, session=SESSION, presented=1, new_session=OTHER, instance=B).fence
        store.lose_session(SESSION, 1)
        assert store.step(Refresh(session=SESSION, fence=fence, ttl=TTL), 0.0) == Done()
        assert entered(store, session=SESSION, presented=1, new_session=OTHER, attempt=2).fence == Fence(3, A, 2)

    def test_a_session_record_can_be_lost_for_good(self, store: MemoryBackplane) -> None:
        """Losing it twice, or further back than it remembers, is the same."""
        entered(store)
        store.lose_session(SESSION, 5)
        store.lose_session(SESSION)
        assert store.sessions() == ()

    def test_the_end_of_a_session_takes_its_private_stream(self, store: MemoryBackplane) -> None:
        """A private stream exists only with a living record, and each creation has a new epoch."""
        entered(store)
        epoch = publish(store, f"~{SESSION}", "x").epoch
        assert store.step(EndSession(session=SESSION, fence=Fence(1, A, 1)), 0.0) == Done()
        assert store.contents(f"~{SESSION}") == ()
        entered(store, attempt=2)
        again = publish(store, f"~{SESSION}", "y")
        assert again.last == 1
        assert again.epoch != epoch

    def test_acks_trim_the_private_stream_of_their_own_epoch(self, store: MemoryBackplane) -> None:
        """An ack of another epoch, or without a stream, trims nothing."""
        entered(store)
        fence = Fence(1, A, 1)
        assert store.step(TrimPrivate(session=SESSION, fence=fence, epoch="e", offset=9), 0.0) == Done()
        epoch = publish(store, f"~{SESSION}", "x", "y", "z").epoch
        for wanted, left in (("other", [1, 2, 3]), (epoch, [3])):
            assert store.step(TrimPrivate(session=SESSION, fence=fence, epoch=wanted, offset=2), 0.0) == Done()
            assert [e.offset for e in store.contents(f"~{SESSION}")] == left


class TestAppend:
    """Rule 2."""

    def test_seqs_are_stored_once_and_answered_again(self, store: MemoryBackplane) -> None:
        """What is at or below last is answered from what was stored."""
        assert append(store, 1, "a", "b") == Appended(seq=2)
        assert append(store, 1, "a", "b", "c") == Appended(seq=3)
        assert append(store, 1, "a") == Appended(seq=3)
        assert [e.payload for e in store.contents("s")] == [b"a", b"b", b"c"]

    def test_a_hole_stores_nothing(self, store: MemoryBackplane) -> None:
        """The answer names the producer's last seq."""
        assert append(store, 2, "b") == Hole(last=0)
        append(store, 1, "a")
        assert append(store, 3, "c") == Hole(last=1)
        assert len(store.contents("s")) == 1

    def test_a_tombstone_consumes_its_seq_and_no_offset(self, store: MemoryBackplane) -> None:
        """Rejected seqs are answered whenever they are asked for (H3, H4)."""
        assert append(store, 1, "a", "!too_large", "c") == Appended(seq=3, rejected=((2, "too_large"),))
        assert append(store, 3, "c") == Appended(seq=3)
        assert append(store, 2, "?") == Appended(seq=3, rejected=((2, "too_large"),))
        assert texts(read(store, 0)) == [(1, "a"), (2, "c")]

    def test_H1_the_stream_remembers_the_newest_fence_that_named_it(self, store: MemoryBackplane) -> None:
        """A node that was stopped meanwhile appends nothing and learns who superseded it."""
        new = Fence(2, B, 1)
        look(store, fence=new)
        assert append(store, 1, "zombie") == OldFence(new)
        assert store.step(EnterStream(stream="s", session=SESSION, fence=Fence(1, A, 1)), 0.0) == OldFence(new)
        assert append(store, 1, "a", fence=new) == Appended(seq=1)
        assert append(store, 2, "b", fence=Fence(3, A, 2)) == Appended(seq=2)
        assert append(store, 3, "c", fence=new) == OldFence(Fence(3, A, 2))

    def test_H11_a_fence_is_compared_whole(self, store: MemoryBackplane) -> None:
        """The same generation of another instance or attempt is another fence."""
        look(store, fence=Fence(2, B, 1))
        assert append(store, 1, "a", fence=Fence(2, A, 9)) == OldFence(Fence(2, B, 1))
        assert append(store, 1, "a", fence=Fence(2, B, 2)) == Appended(seq=1)

    def test_H2_first_settles_everything_below_it(self, store: MemoryBackplane) -> None:
        """What the store forgot is told, until the next message is stored, and nothing is refused for ever."""
        append(store, 1, "a", "b")
        for _ in range(2):
            (state,) = look(store, producers=(("p", 4),)).producers
            assert (state.seq, state.known) == (2, True)
        assert append(store, 4, "d") == Appended(seq=4)
        (state,) = look(store, producers=(("p", 5),)).producers
        assert (state.seq, state.known) == (4, True)

    def test_a_forgotten_producer_stays_unknown_until_it_stores_something(self, store: MemoryBackplane) -> None:
        """A lost welcome does not make it known (rule 11); first = 1 says that nothing was ever stored."""
        (state,) = look(store, producers=(("p", 1),)).producers
        assert (state.seq, state.known) == (0, False)
        for _ in range(2):
            (state,) = look(store, producers=(("p", 4),)).producers
            assert (state.seq, state.known) == (0, False)
        append(store, 4, "d")
        (state,) = look(store, producers=(("p", 4),)).producers
        assert (state.seq, state.known) == (4, True)

    def test_a_hello_reads_the_rejected_seqs_from_first_on(self, store: MemoryBackplane) -> None:
        """Those below are settled and forgotten."""
        append(store, 1, "!x", "b", "!y")
        (state,) = look(store, producers=(("p", 2),)).producers
        assert (state.seq, state.rejected) == (3, ((3, "y"),))
        (state,) = look(store, producers=(("p", 1),)).producers
        assert state.rejected == ((3, "y"),)

    def test_a_producer_lives_while_its_messages_or_its_ttl_do(self, store: MemoryBackplane) -> None:
        """Both have to be over before it is forgotten; so with a fence that nobody used."""
        append(store, 1, "a")
        assert look(store, 2000.0, producers=(("p", 2),), session=OTHER).producers[0].known is True
        store.trim("s", 1)
        assert look(store, 2500.0, producers=(("p", 2),), session=OTHER).producers[0].known is True
        assert look(store, 4000.0, producers=(("p", 2),), session=OTHER).producers[0].known is False


class TestReading:
    """Rules 7 and 8."""

    def test_a_read_gives_what_comes_after(self, store: MemoryBackplane) -> None:
        """At most so many messages and about so many bytes, at least one."""
        publish(store, "s", "aaaa", "bbbb", "cccc")
        assert [offset for offset, _ in texts(read(store, 1))] == [2, 3]
        assert [offset for offset, _ in texts(read(store, 0, max_messages=2))] == [1, 2]
        assert [offset for offset, _ in texts(read(store, 0, max_bytes=8))] == [1, 2]
        assert [offset for offset, _ in texts(read(store, 0, max_bytes=0))] == [1]
        assert texts(read(store, 3)) == []

    def test_a_read_of_nothing_creates_nothing(self, store: MemoryBackplane) -> None:
        """The epoch differs from any that a reader can have."""
        asked = Read(stream="s", epoch="e", after=0, crc=None, max_messages=1, max_bytes=1)
        assert store.step(asked, 0.0) == Slice(epoch="", first=1, last=0, matches=None, entries=())

    def test_H5_a_read_compares_the_message_before_it(self, store: MemoryBackplane) -> None:
        """A log that was cut and grew again does not match, and gives nothing."""
        publish(store, "s", *"abcde")
        crc = zlib.crc32(b"e")
        assert read(store, 5, crc=crc).matches is True
        assert store.lose_tail("s", 2) == 2
        publish(store, "s", *"DEF")
        found = read(store, 5, crc=crc)
        assert (found.matches, found.entries, found.last) == (False, (), 6)

    def test_a_read_in_another_epoch_or_below_retention_gives_nothing(self, store: MemoryBackplane) -> None:
        """The facts say why."""
        publish(store, "s", *"abcde")
        store.trim("s", 3)
        found = read(store, 2)
        assert (found.first, found.last, found.entries) == (4, 5, ())
        assert [offset for offset, _ in texts(read(store, 3))] == [4, 5]
        assert read(store, 3, epoch="other").entries == ()

    def test_H6_held_above_the_end_lifts_the_end(self, store: MemoryBackplane) -> None:
        """No offset is given twice under one epoch; a second hello finds that its message is gone."""
        epoch = publish(store, "s", *"abcde").epoch
        store.lose_tail("s", 2)
        held: dict[str, Any] = {"held_epoch": epoch, "held_offset": 5, "held_crc": zlib.crc32(b"e")}
        first = look(store, **held)
        assert (first.lifted, first.matches, first.last, first.position) == (True, None, 5, 5)
        again = look(store, **held)
        assert (again.lifted, again.matches, again.last) == (False, False, 5)
        assert publish(store, "s", "F").last == 6
        assert texts(read(store, 3)) == [(6, "F")]

    def test_held_is_compared_where_it_is_retained(self, store: MemoryBackplane) -> None:
        """Zero is before the first message and matches nothing; without a CRC there is nothing to compare."""
        epoch = publish(store, "s", *"abc").epoch
        crc = zlib.crc32(b"b")
        assert look(store, held_epoch=epoch, held_offset=2, held_crc=crc).matches is True
        assert look(store, held_epoch=epoch, held_offset=2, held_crc=crc + 1).matches is False
        assert look(store, held_epoch=epoch, held_offset=2).matches is None
        at_zero = look(store, held_epoch=epoch, held_offset=0, held_crc=0)
        assert (at_zero.matches, at_zero.position, at_zero.crc) == (None, 0, None)
        store.trim("s", 2)
        trimmed = look(store, held_epoch=epoch, held_offset=1, held_crc=crc)
        assert (trimmed.matches, trimmed.position, trimmed.first) == (None, 2, 3)

    def test_a_start_is_resolved_to_a_position(self, store: MemoryBackplane) -> None:
        """Now is the log's end, earliest the offset before the first that is retained."""
        assert look(store, at="earliest").position == 0
        publish(store, "s", *"abc")
        store.trim("s", 1)
        now, earliest = look(store, at="now"), look(store, at="earliest")
        assert (now.position, now.crc) == (3, zlib.crc32(b"c"))
        assert (earliest.position, earliest.crc) == (1, None)

    def test_a_failover_mints_epochs_and_goes_on_counting(self, store: MemoryBackplane) -> None:
        """A holder of the old epoch continues after what survived; a new reader gets that too (rule 8)."""
        entered(store)
        publish(store, f"~{SESSION}", "x")
        old, incarnation = publish(store, "s", *"abc").epoch, store.incarnation
        store.new_incarnation()
        assert store.incarnation != incarnation
        assert publish(store, "s", "d").last == 4
        after = look(store, held_epoch=old, held_offset=1, held_crc=zlib.crc32(b"a"))
        assert (after.position, after.matches, after.lifted) == (3, None, False)
        assert after.epoch != old
        assert look(store, at="earliest").position == 0
        store.trim("s", 4)
        assert look(store, held_epoch=old, held_offset=1).position == 4

    def test_everything_can_be_lost(self, store: MemoryBackplane) -> None:
        """Sessions and streams begin anew, in another incarnation."""
        entered(store)
        old, incarnation = publish(store, "s", *"abc").epoch, store.incarnation
        store.lose_all()
        assert store.sessions() == ()
        assert store.incarnation != incarnation
        answer = look(store, held_epoch=old, held_offset=2)
        assert (answer.position, answer.last) == (0, 0)

    def test_retention_takes_the_oldest(self, store: MemoryBackplane) -> None:
        """A stream keeps as many messages as it was told."""
        publish(store, "s", *(str(number) for number in range(150)))
        assert [e.offset for e in store.contents("s")] == list(range(51, 151))


class TestFaults:
    """What a store can do to its tail."""

    def test_a_rolled_back_log_takes_its_producers_back(self, store: MemoryBackplane) -> None:
        """Their seqs can be stored again, rejected ones too."""
        append(store, 1, "a", "!x", "c", "!y")
        publish(store, "s", "other")
        assert store.lose_tail("s", 2) == 2
        assert append(store, 4, "d") == Hole(last=2)
        assert append(store, 2, "b", "c") == Appended(seq=3, rejected=((2, "x"),))
        assert append(store, 4, "d") == Appended(seq=4)

    def test_a_log_can_forget_its_producers(self, store: MemoryBackplane) -> None:
        """Then nobody is known there."""
        append(store, 1, "a", "b")
        store.lose_tail("s", 1, producers="forgotten")
        assert append(store, 3, "c") == Hole(last=0)

    def test_losing_nothing_loses_nothing(self, store: MemoryBackplane) -> None:
        """An unknown stream has no tail, an empty one neither."""
        store.trim("unknown", 1)
        assert store.lose_tail("unknown", 1) == 0
        look(store)
        assert store.lose_tail("s", 1) == 0
        publish(store, "s", "a")
        assert store.lose_tail("s", 0) == 0
        assert store.contents("unknown") == ()


class TestLocal:
    """The asynchronous door."""

    def test_peers_hear_of_appends_and_fences(self, store: MemoryBackplane) -> None:
        """A watched stream wakes its watcher until it is unwatched; fences reach every node that is open."""
        heard: list[object] = []
        here, there = LocalBackplane(store, lambda: 0.0), LocalBackplane(store, lambda: 0.0)

        async def scenario() -> None:
            await there.start(heard.append, lambda session, fence: heard.append((session, fence)))
            await there.watch("s")
            await here.run(Publish(stream="s", entries=(entry("a"),)))
            await here.run(Publish(stream="t", entries=(entry("a"),)))
            await there.unwatch("s")
            await here.run(Publish(stream="s", entries=(entry("b"),)))
            await here.run(
                EnterSession(
                    session=None,
                    presented=None,
                    new_session=SESSION,
                    instance=A,
                    attempt=1,
                    principal="alice",
                    ttl=TTL,
                )
            )
            await there.close()
            await there.close()
            await here.run(Tick(bucket=0))

        asyncio.run(scenario())
        assert heard == ["s", (SESSION, Fence(1, A, 1))]

    def test_a_node_that_did_not_start_hears_nothing(self, store: MemoryBackplane) -> None:
        """Its own operations work all the same."""
        node = LocalBackplane(store, lambda: 0.0)
        node.hear(Publish(stream="s", entries=()), Published(epoch="e", last=1))
        node.hear(Tick(bucket=0), Done())
        answer = asyncio.run(node.run(Publish(stream="s", entries=(entry("a"),))))
        assert isinstance(answer, Published)


class Producers(RuleBasedStateMachine):
    """Two instances of one session append, resend and say hello again, while the log is trimmed and rolled back."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.store = MemoryBackplane(random.Random(seed), retention=8)
        self.fence = Fence(1, A, 1)
        self.sent = 0
        self.stored: dict[int, bytes] = {}
        self.top = 0

    @rule(back=st.integers(0, 3), count=st.integers(1, 4), old=st.booleans())
    def send(self, back: int, count: int, old: bool) -> None:
        fence = Fence(0, A, 1) if old else self.fence
        first = max(1, self.sent - back)
        answer = self.store.step(
            Append(
                stream="s",
                session=SESSION,
                fence=fence,
                producer="p",
                first=first,
                entries=tuple(entry(str(seq)) for seq in range(first, first + count)),
            ),
            0.0,
        )
        if isinstance(answer, Appended):
            assert not old or self.fence == Fence(1, A, 1)
            assert answer.seq >= first + count - 1
            self.sent = answer.seq
        elif isinstance(answer, Hole):
            assert first > answer.last + 1

    @rule()
    def hello(self) -> None:
        self.fence = Fence(self.fence.generation + 1, A, self.fence.attempt + 1)
        held = look(self.store, fence=self.fence, producers=(("p", max(1, self.sent)),))
        assert held.first <= held.last + 1

    @rule(count=st.integers(1, 3))
    def roll_back(self, count: int) -> None:
        self.store.lose_tail("s", count)
        self.stored.clear()
        self.sent = 0 if not self.store.contents("s") else self.sent

    @rule(upto=st.integers(0, 20))
    def trim(self, upto: int) -> None:
        self.store.trim("s", upto)

    @invariant()
    def every_seq_is_stored_once_and_in_order(self) -> None:
        """INV-S2, INV-S3: offsets and seqs rise strictly in what is retained."""
        if not hasattr(self, "store"):
            return
        contents = self.store.contents("s")
        seqs = [int(e.payload) for e in contents]
        assert seqs == sorted(set(seqs))
        offsets = [e.offset for e in contents]
        assert offsets == sorted(set(offsets))
        assert len(contents) <= 8


TestProducers = Producers.TestCase
TestProducers.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
