"""
What every backplane promises, verb by verb: each test runs against the memory backplane and against a real store.

The random comparison of the two is in ``test_backplane_differential.py``, what only the real store has in
``test_redis_backplane.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from stores import PRODUCER_TTL, RETENTION, MemoryStore, RedisStore, Store, engine

from server_fixture.backplane import (
    BUCKETS,
    Announce,
    Announced,
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
    LivingNode,
    OldFence,
    ProducerState,
    Publish,
    Published,
    Read,
    Refresh,
    SessionEntered,
    SessionUnknown,
    Slice,
    Stale,
    StreamEntered,
    Tick,
    TrimPrivate,
    bucket_of,
)

A, B = "aa" * 16, "bb" * 16
P, Q = "1f" * 16, "2f" * 16
TTL = 60.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def redis_store() -> Iterator[RedisStore]:
    """One real store for the module; tests keep apart by names."""
    with engine() as running:
        store = RedisStore(running.url)
        yield store
        store.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each backplane in turn."""
    if request.param == "redis":
        yield request.getfixturevalue("redis_store")
        return
    memory = MemoryStore()
    yield memory
    memory.close()


@pytest.fixture
def session() -> str:
    """An unused session id."""
    return f"{next(_numbers) % 256:02x}{next(_numbers):032x}"


@pytest.fixture
def stream() -> str:
    """An unused stream name."""
    return f"stream{next(_numbers)}"


def other_of(session: str) -> str:
    """Give an unused session id in the same bucket."""
    return f"{session[:2]}{next(_numbers):032x}"


def hello(store: Store, session: str | None, new: str, **changes: Any) -> Answer:
    """Say hello as instance A with attempt 1, unless told otherwise."""
    request = EnterSession(
        session=session, presented=1, new_session=new, instance=A, attempt=1, principal="ann", ttl=TTL
    )  # fmt: skip
    return store.run(attrs.evolve(request, **changes))


def begin(store: Store, session: str) -> Fence:
    """Create the session; give its fence."""
    answer = hello(store, None, session, presented=None)
    assert isinstance(answer, SessionEntered)
    return answer.fence


def enter(store: Store, stream: str, **changes: Any) -> StreamEntered:
    """Enter a stream as a session that no other test uses."""
    request = EnterStream(stream=stream, session="00s", fence=Fence(1, A, 1))
    answer = store.run(attrs.evolve(request, **changes))
    assert isinstance(answer, StreamEntered)
    return answer


def append(store: Store, stream: str, first: int, *payloads: bytes | str, **changes: Any) -> Answer:
    """Append as producer P: bytes are payloads, texts the codes of tombstones."""
    entries = tuple(Entry(b"", False, code=p) if isinstance(p, str) else Entry(p, False) for p in payloads)
    request = Append(stream=stream, session="00s", fence=Fence(1, A, 1), producer=P, first=first, entries=entries)
    return store.run(attrs.evolve(request, **changes))


def publish(store: Store, stream: str, *payloads: bytes) -> Published:
    """Publish the payloads."""
    answer = store.run(Publish(stream=stream, entries=tuple(Entry(payload, False) for payload in payloads)))
    assert isinstance(answer, Published)
    return answer


def read(store: Store, stream: str, epoch: str, after: int = 0, **changes: Any) -> Slice:
    """Read everything after an offset."""
    request = Read(stream=stream, epoch=epoch, after=after, crc=None, max_messages=1000, max_bytes=1 << 20)
    answer = store.run(attrs.evolve(request, **changes))
    assert isinstance(answer, Slice)
    return answer


def log(store: Store, stream: str) -> list[tuple[int, bytes]]:
    """Read all that is retained."""
    entered = enter(store, stream)
    return [(e.offset, e.payload) for e in read(store, stream, entered.epoch, entered.first - 1).entries]


# -- the slot of the nodes --------------------------------------------------------------------------------------------


def announce(store: Store, name: str, ttl: float = 6.0, **said: Any) -> dict[str, LivingNode]:
    """Say that a node lives; give the others by their names."""
    node = LivingNode(**{"name": name, "url": f"ws://{name}/", "sessions": 0, "accept_rate": 200, **said})
    answer = store.run(Announce(node=node, ttl=ttl))
    assert isinstance(answer, Announced)
    assert list(answer.others) == sorted(answer.others, key=lambda other: other.name)
    return {other.name: other for other in answer.others}


@pytest.fixture
def names(store: Store) -> Iterator[tuple[str, str, str]]:
    """Unused names of nodes, in order; nodes share one slot, so what was announced is taken back."""
    unused = (f"a{next(_numbers)}", f"b{next(_numbers)}", f"c{next(_numbers)}")
    yield unused
    for name in unused:
        announce(store, name, 0.0)


def test_nodes_hear_of_each_other(store: Store, names: tuple[str, str, str]) -> None:
    """Who announces itself hears what the others said last, never of itself."""
    one, two, three = names
    assert announce(store, two, sessions=3, accept_rate=7, is_draining=True, url="wss://b.example/x?y=1:2") == {}
    assert announce(store, one) == {
        two: LivingNode(name=two, url="wss://b.example/x?y=1:2", sessions=3, accept_rate=7, is_draining=True)
    }
    announce(store, two, sessions=4)
    assert list(announce(store, three)) == [one, two]
    assert announce(store, one)[two].sessions == 4


def test_killed_node_is_gone_after_its_ttl(store: Store, names: tuple[str, str, str]) -> None:
    """Who says nothing any more lives until the ttl is over by the store's time; who says it again lives on."""
    one, two, three = names
    announce(store, one, ttl=6.0)
    announce(store, two, ttl=6.0)
    store.advance(4.0)
    assert list(announce(store, three)) == [one, two]
    announce(store, two, ttl=6.0)
    store.advance(4.0)
    assert list(announce(store, three)) == [two]


def test_node_that_stops_is_gone_at_once(store: Store, names: tuple[str, str, str]) -> None:
    """A ttl of 0 takes a node out and still says who lives; one that was not there does no harm."""
    one, two, three = names
    announce(store, one)
    announce(store, two)
    assert list(announce(store, one, 0.0)) == [two]
    assert list(announce(store, one, 0.0)) == [two]
    assert list(announce(store, three)) == [two]


# -- the session's slot -----------------------------------------------------------------------------------------------


def test_first_hello_creates_a_session(store: Store, session: str) -> None:
    """A hello without a token gets a new session, generation 1, and no reason."""
    answer = hello(store, None, session, presented=None, attempt=7)
    assert isinstance(answer, SessionEntered)
    assert (answer.session, answer.verdict, answer.reason) == (session, "new", None)
    assert answer.fence == Fence(1, A, 7)


def test_incarnation_is_the_same_for_everybody(store: Store, session: str) -> None:
    """Every hello learns the same, unguessable incarnation."""
    answers = [hello(store, None, other_of(session)) for _ in range(2)]
    incarnations = {answer.incarnation for answer in answers if isinstance(answer, SessionEntered)}
    assert len(incarnations) == 1
    assert len(incarnations.pop()) >= 16


def test_resume_raises_the_fence(store: Store, session: str) -> None:
    """A resumed session gets the next generation, with the hello's instance and attempt."""
    begin(store, session)
    answer = hello(store, session, other_of(session), attempt=2)
    assert isinstance(answer, SessionEntered)
    assert (answer.session, answer.verdict, answer.reason) == (session, "resumed", None)
    assert answer.fence == Fence(2, A, 2)


def test_generation_is_above_the_presented_one(store: Store, session: str) -> None:
    """A record that lost its tail never mints a generation twice: the token's one counts too (H11)."""
    begin(store, session)
    answer = hello(store, session, other_of(session), presented=5, attempt=2)
    assert isinstance(answer, SessionEntered)
    assert answer.fence == Fence(6, A, 2)


def test_unknown_session_is_new(store: Store, session: str) -> None:
    """A token of a session that the store does not know gets a new one in the same round trip."""
    new = other_of(session)
    answer = hello(store, session, new)
    assert isinstance(answer, SessionEntered)
    assert (answer.session, answer.verdict, answer.reason) == (new, "new", "unknown")
    assert store.run(Refresh(session=session, fence=answer.fence, ttl=TTL)) == SessionUnknown()
    assert store.run(Refresh(session=new, fence=answer.fence, ttl=TTL)) == Done()


@pytest.mark.parametrize("attempt", [0, 1])
def test_attempt_that_is_not_higher_is_stale(store: Store, session: str, attempt: int) -> None:
    """A ghost changes nothing and creates nothing (rule 3)."""
    fence = begin(store, session)
    new = other_of(session)
    assert hello(store, session, new, attempt=attempt) == Stale()
    assert store.run(Refresh(session=session, fence=fence, ttl=TTL)) == Done()
    assert store.run(Refresh(session=new, fence=fence, ttl=TTL)) == SessionUnknown()


def test_attempts_are_judged_per_instance(store: Store, session: str) -> None:
    """Another instance may begin at 0, and the first one's attempts are still known after it."""
    begin(store, session)
    answer = hello(store, session, other_of(session), instance=B, attempt=0)
    assert isinstance(answer, SessionEntered)
    assert answer.fence == Fence(2, B, 0)
    assert hello(store, session, other_of(session), attempt=1) == Stale()


def test_last_eight_instances_are_remembered(store: Store, session: str) -> None:
    """The ninth instance makes the one that was heard longest ago forgotten."""
    begin(store, session)
    for number in range(8):
        hello(store, session, other_of(session), instance=f"{number:032x}")
    assert hello(store, session, other_of(session), instance=f"{0:032x}") == Stale()
    assert isinstance(hello(store, session, other_of(session)), SessionEntered)


def test_other_principal_is_foreign(store: Store, session: str) -> None:
    """Another principal changes nothing, not even the attempt; a stale attempt is judged first."""
    begin(store, session)
    assert hello(store, session, other_of(session), attempt=2, principal="böb") == Foreign()
    assert hello(store, session, other_of(session), attempt=1, principal="böb") == Stale()
    answer = hello(store, session, other_of(session), attempt=2)
    assert isinstance(answer, SessionEntered)
    assert answer.verdict == "resumed"


def test_generation_below_the_confirmed_one_is_superseded(store: Store, session: str) -> None:
    """A restored journal's token gets a new session, and its ghost none (rule 5, H12)."""
    begin(store, session)
    assert store.run(Confirm(session=session, generation=3)) == Done()
    assert store.run(Confirm(session=session, generation=2)) == Done()
    new = other_of(session)
    answer = hello(store, session, new, presented=2, attempt=2)
    assert isinstance(answer, SessionEntered)
    assert (answer.session, answer.verdict, answer.reason) == (new, "new", "superseded")
    assert hello(store, session, other_of(session), presented=2, attempt=2) == Stale()
    answer = hello(store, session, other_of(session), presented=3, attempt=3)
    assert isinstance(answer, SessionEntered)
    assert (answer.verdict, answer.fence.generation) == ("resumed", 4)


def test_confirm_of_nobody(store: Store, session: str) -> None:
    """A record that is gone cannot be confirmed."""
    assert store.run(Confirm(session=session, generation=1)) == SessionUnknown()


def pass_time(store: Store, session: str, steps: int) -> None:
    """Let 1.5 seconds pass between ticks of the session's bucket."""
    for _ in range(steps):
        store.advance(1.5)
        assert store.run(Tick(bucket=bucket_of(session))) == Done()


def test_session_expires_by_its_buckets_clock(store: Store, session: str) -> None:
    """After the ttl the session is unknown to its node, and a hello gets a new one with the reason."""
    fence = attrs.evolve(begin(store, session), attempt=2)
    hello(store, session, other_of(session), attempt=2, ttl=5.0)
    pass_time(store, session, 4)
    assert store.run(Refresh(session=session, fence=fence, ttl=TTL)) == SessionUnknown()
    answer = hello(store, session, other_of(session), attempt=3)
    assert isinstance(answer, SessionEntered)
    assert (answer.verdict, answer.reason) == ("new", "expired")
    assert hello(store, session, other_of(session), attempt=3) == Stale()


def test_refresh_prolongs(store: Store, session: str) -> None:
    """A consumer that only listens does not expire while its node refreshes."""
    fence = begin(store, session)
    for _ in range(3):
        assert store.run(Refresh(session=session, fence=fence, ttl=5.0)) == Done()
        pass_time(store, session, 3)
    assert store.run(Refresh(session=session, fence=fence, ttl=5.0)) == Done()


def test_outage_expires_nobody(store: Store, session: str) -> None:
    """Time in which nobody reached the bucket counts two seconds at most (H14)."""
    fence = begin(store, session)
    store.run(Refresh(session=session, fence=fence, ttl=5.0))
    store.advance(1000.0)
    store.run(Tick(bucket=bucket_of(session)))
    assert store.run(Refresh(session=session, fence=fence, ttl=5.0)) == Done()


def test_expired_session_is_forgotten_in_the_end(store: Store, session: str) -> None:
    """Some time after it expired nothing is known of a session."""
    begin(store, session)
    hello(store, session, other_of(session), attempt=2, ttl=0.0)
    for _ in range(301):
        store.advance(2.0)
        store.run(Tick(bucket=bucket_of(session)))
    answer = hello(store, session, other_of(session), attempt=1)
    assert isinstance(answer, SessionEntered)
    assert answer.reason == "unknown"


def test_refresh_under_an_old_fence(store: Store, session: str) -> None:
    """The node of a superseded connection is told the fence that stands."""
    old = begin(store, session)
    hello(store, session, other_of(session), instance=B, attempt=0)
    answer = store.run(Refresh(session=session, fence=old, ttl=TTL))
    assert answer == OldFence(Fence(2, B, 0))


def test_refresh_lifts_a_record_that_lost_its_tail(store: Store, session: str) -> None:
    """A node that holds a higher fence writes it back (H11)."""
    old = begin(store, session)
    higher = Fence(2, A, 1)
    assert store.run(Refresh(session=session, fence=higher, ttl=TTL)) == Done()
    assert store.run(Refresh(session=session, fence=old, ttl=TTL)) == OldFence(higher)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (Fence(9, "f", 9), Fence(10, "a", 0)),
        (Fence(2, "a", 9), Fence(2, "b", 0)),
        (Fence(2, "B", 9), Fence(2, "a", 0)),
        (Fence(2, "a", 9), Fence(2, "aa", 0)),
        (Fence(2, "a", 9), Fence(2, "a", 10)),
        (Fence(2**53 - 2, "a", 2**53 - 2), Fence(2**53 - 1, "a", 0)),
    ],
)
def test_fences_are_compared_whole(store: Store, session: str, low: Fence, high: Fence) -> None:
    """Generation by number, then instance by its bytes, then attempt by number (rule 4)."""
    assert low < high
    begin(store, session)
    assert store.run(Refresh(session=session, fence=high, ttl=TTL)) == Done()
    assert store.run(Refresh(session=session, fence=high, ttl=TTL)) == Done()
    assert store.run(Refresh(session=session, fence=low, ttl=TTL)) == OldFence(high)


def test_end_session(store: Store, session: str) -> None:
    """Only the present fence ends a session; record and private stream are gone then."""
    old = begin(store, session)
    now = Fence(2, A, 2)
    hello(store, session, other_of(session), attempt=2)
    publish(store, f"~{session}", b"hello")
    assert store.run(EndSession(session=session, fence=old)) == OldFence(now)
    assert store.run(EndSession(session=session, fence=now)) == Done()
    assert store.run(EndSession(session=session, fence=now)) == SessionUnknown()
    assert store.run(Publish(stream=f"~{session}", entries=(Entry(b"x", False),))) == SessionUnknown()


def test_trim_private(store: Store, session: str) -> None:
    """Acks trim the private stream, but not under an old fence and not in another epoch."""
    old = begin(store, session)
    private = f"~{session}"
    epoch = publish(store, private, b"1", b"2", b"3").epoch
    trim = TrimPrivate(session=session, fence=old, epoch=epoch, offset=2)
    assert store.run(attrs.evolve(trim, epoch="other")) == Done()
    assert read(store, private, epoch).first == 1
    assert store.run(trim) == Done()
    answer = read(store, private, epoch, 2)
    assert (answer.first, answer.last, [e.payload for e in answer.entries]) == (3, 3, [b"3"])
    hello(store, session, other_of(session), attempt=2)
    assert store.run(attrs.evolve(trim, offset=3)) == OldFence(Fence(2, A, 2))
    assert read(store, private, epoch, 2).first == 3
    assert store.run(attrs.evolve(trim, session=other_of(session))) == SessionUnknown()


def test_private_stream_that_was_trimmed_empty_goes_on(store: Store, session: str) -> None:
    """No offset is given twice after everything was acked."""
    fence = begin(store, session)
    private = f"~{session}"
    epoch = publish(store, private, b"1", b"2").epoch
    store.run(TrimPrivate(session=session, fence=fence, epoch=epoch, offset=2))
    answer = read(store, private, epoch, 2)
    assert (answer.first, answer.last) == (3, 2)
    assert publish(store, private, b"3").last == 3


def test_private_stream_of_nobody(store: Store, session: str) -> None:
    """Nobody enters, reads, appends to or publishes into the private stream of a session that is not there."""
    private, fence = f"~{session}", Fence(1, A, 1)
    entries = (Entry(b"x", False),)
    for request in (
        EnterStream(stream=private, session=session, fence=fence),
        Append(stream=private, session=session, fence=fence, producer=P, first=1, entries=entries),
        Publish(stream=private, entries=entries),
        Read(stream=private, epoch="", after=0, crc=None, max_messages=1, max_bytes=1),
    ):
        assert store.run(request) == SessionUnknown()


def test_private_stream_goes_with_its_session(store: Store, session: str) -> None:
    """What was private to an expired session is not readable any more."""
    begin(store, session)
    publish(store, f"~{session}", b"secret")
    hello(store, session, other_of(session), attempt=2, ttl=1.0)
    pass_time(store, session, 2)
    request = Read(stream=f"~{session}", epoch="", after=0, crc=None, max_messages=1, max_bytes=1)
    assert store.run(request) == SessionUnknown()


def test_private_stream_knows_the_records_fence(store: Store, session: str) -> None:
    """A fence raised in the session's record holds in its private stream at once: both are one slot."""
    old = begin(store, session)
    hello(store, session, other_of(session), attempt=2)
    answer = store.run(EnterStream(stream=f"~{session}", session=session, fence=old))
    assert answer == OldFence(Fence(2, A, 2))


@pytest.mark.parametrize("bucket", range(BUCKETS))
def test_every_bucket_can_be_ticked(store: Store, bucket: int) -> None:
    """A tick of a bucket without sessions is done as well."""
    assert store.run(Tick(bucket=bucket)) == Done()


# -- a stream's slot --------------------------------------------------------------------------------------------------


def test_entering_creates_the_stream(store: Store, stream: str) -> None:
    """A new stream is empty, its position zero is one to resume from, and each has an epoch of its own (rule 10)."""
    answer = enter(store, stream, at="now")
    assert (answer.first, answer.last, answer.position, answer.crc) == (1, 0, 0, None)
    assert len(answer.epoch) >= 16
    assert enter(store, stream).epoch == answer.epoch
    assert enter(store, stream + "2").epoch != answer.epoch
    again = enter(store, stream, held_epoch=answer.epoch, held_offset=0)
    assert (again.position, again.matches, again.lifted) == (0, None, False)


def test_newer_fence_in_the_stream(store: Store, stream: str) -> None:
    """The fence that a hello wrote into the stream stops the old connection's hello and appends there (H1)."""
    high, low = Fence(3, A, 1), Fence(2, A, 9)
    enter(store, stream, fence=high)
    enter(store, stream, fence=high)
    assert store.run(EnterStream(stream=stream, session="00s", fence=low)) == OldFence(high)
    assert append(store, stream, 1, b"x", fence=low) == OldFence(high)
    assert append(store, stream, 1, b"x", fence=high) == Appended(seq=1)
    assert append(store, stream, 2, b"y", fence=low, session="00other") == Appended(seq=2)


def test_append_raises_the_fence(store: Store, stream: str) -> None:
    """A stream that no hello named learns the fence from the first append."""
    assert append(store, stream, 1, b"x", fence=Fence(3, A, 1)) == Appended(seq=1)
    assert append(store, stream, 2, b"y", fence=Fence(2, A, 1)) == OldFence(Fence(3, A, 1))


def test_starts(store: Store, stream: str) -> None:
    """``now`` is the log's end, ``earliest`` before the first retained message, each with the CRC there (H11)."""
    publish(store, stream, *(b"%d" % number for number in range(1, RETENTION + 3)))
    end = RETENTION + 2
    now, earliest = enter(store, stream, at="now"), enter(store, stream, at="earliest")
    assert (now.first, now.last, now.position, now.crc) == (3, end, end, zlib.crc32(b"%d" % end))
    assert (earliest.position, earliest.crc) == (2, None)


def test_held_is_compared(store: Store, stream: str) -> None:
    """The message that the client holds is compared by its CRC; nothing to compare is no match and no mismatch."""
    epoch = publish(store, stream, b"one", b"two").epoch
    for crc, matches in ((zlib.crc32(b"one"), True), (zlib.crc32(b"two"), False), (None, None)):
        answer = enter(store, stream, held_epoch=epoch, held_offset=1, held_crc=crc)
        assert (answer.matches, answer.position, answer.crc) == (matches, 1, zlib.crc32(b"one"))


def test_held_of_another_epoch(store: Store, stream: str) -> None:
    """A position of another epoch says nothing about this log and lifts nothing."""
    publish(store, stream, b"one")
    answer = enter(store, stream, held_epoch="elsewhere", held_offset=9, held_crc=1)
    assert (answer.last, answer.lifted, answer.matches, answer.position) == (1, False, None, 0)


def test_held_that_was_trimmed(store: Store, stream: str) -> None:
    """A position below the first retained message continues before that one."""
    epoch = publish(store, stream, *[b"x"] * (RETENTION + 5)).epoch
    answer = enter(store, stream, held_epoch=epoch, held_offset=2, held_crc=zlib.crc32(b"x"))
    assert (answer.first, answer.matches, answer.position, answer.crc) == (6, None, 5, None)


def test_held_above_the_end_lifts_it(store: Store, stream: str) -> None:
    """No offset is given twice under one epoch, and who held one in the hole learns that it is gone (H6)."""
    epoch = publish(store, stream, b"1", b"2", b"3", b"4").epoch
    assert store.cut_tail(stream, 2) == 2
    answer = enter(store, stream, held_epoch=epoch, held_offset=4, held_crc=zlib.crc32(b"4"))
    assert (answer.lifted, answer.last, answer.matches, answer.position, answer.crc) == (True, 4, None, 4, None)
    assert publish(store, stream, b"5").last == 5
    assert log(store, stream) == [(1, b"1"), (2, b"2"), (5, b"5")]
    assert enter(store, stream, held_epoch=epoch, held_offset=3, held_crc=zlib.crc32(b"3")).matches is False
    assert read(store, stream, epoch, 3, crc=zlib.crc32(b"3")).matches is False
    assert [e.offset for e in read(store, stream, epoch, 2, crc=zlib.crc32(b"2")).entries] == [5]


def test_numbers_up_to_the_last_one(store: Store, stream: str) -> None:
    """Offsets and seqs are exact up to 2^53-1."""
    epoch, top = enter(store, stream).epoch, 2**53 - 1
    enter(store, stream, held_epoch=epoch, held_offset=top - 2)
    assert enter(store, stream, producers=((P, top - 1),)).last == top - 2
    assert append(store, stream, top - 1, b"x") == Appended(seq=top - 1)
    assert enter(store, stream).last == top - 1
    assert [e.offset for e in read(store, stream, epoch, top - 2).entries] == [top - 1]


def test_appended_in_order(store: Store, stream: str) -> None:
    """Messages get the next offsets, with payload and kind verbatim."""
    entries = (Entry(b"\x00\r\n\xff:,", False), Entry("ä".encode(), True), Entry(b"", True))
    answer = store.run(
        Append(stream=stream, session="00s", fence=Fence(1, A, 1), producer=P, first=1, entries=entries)
    )
    assert answer == Appended(seq=3)
    found = read(store, stream, enter(store, stream).epoch).entries
    assert found == tuple(attrs.evolve(entry, offset=offset) for offset, entry in enumerate(entries, 1))


def test_resent_messages_are_stored_once(store: Store, stream: str) -> None:
    """What is stored is answered again; a batch that overlaps stores only its new part."""
    assert append(store, stream, 1, b"1", b"2") == Appended(seq=2)
    assert append(store, stream, 1, b"1", b"2") == Appended(seq=2)
    assert append(store, stream, 2, b"2", b"3") == Appended(seq=3)
    assert append(store, stream, 1) == Appended(seq=3)
    assert log(store, stream) == [(1, b"1"), (2, b"2"), (3, b"3")]


def test_hole_is_refused(store: Store, stream: str) -> None:
    """A seq above the next one stores nothing and says what the last one is."""
    assert append(store, stream, 2, b"2") == Hole(last=0)
    append(store, stream, 1, b"1")
    assert append(store, stream, 3, b"3", b"4") == Hole(last=1)
    assert log(store, stream) == [(1, b"1")]


def test_producers_are_apart(store: Store, stream: str) -> None:
    """Each producer has its own numbers in each stream."""
    assert append(store, stream, 1, b"p") == Appended(seq=1)
    assert append(store, stream, 1, b"q", producer=Q) == Appended(seq=1)
    assert append(store, stream + "2", 1, b"p") == Appended(seq=1)
    assert log(store, stream) == [(1, b"p"), (2, b"q")]


def test_tombstone_consumes_its_seq(store: Store, stream: str) -> None:
    """A rejected message has no offset; every answer that covers it names it, and later ones go on (H3, H4)."""
    answer = append(store, stream, 1, b"1", "too_large", b"3")
    assert answer == Appended(seq=3, rejected=((2, "too_large"),))
    assert log(store, stream) == [(1, b"1"), (2, b"3")]
    assert append(store, stream, 2, b"2 again") == answer
    assert append(store, stream, 3, b"3") == Appended(seq=3)
    assert append(store, stream, 1, "too_late") == Appended(seq=3)
    assert append(store, stream, 1, b"q", producer=Q) == Appended(seq=1)


def test_hello_reads_the_rejected_seqs(store: Store, stream: str) -> None:
    """A hello learns the rejected seqs from ``first`` on, in order; those below it are settled for ever (H3)."""
    append(store, stream, 1, *(["no"] * 12))
    append(store, stream, 1, "other", producer=Q)
    (state,) = enter(store, stream, producers=((P, 9),)).producers
    assert state == ProducerState(
        producer=P, seq=12, known=True, rejected=((9, "no"), (10, "no"), (11, "no"), (12, "no"))
    )
    (state,) = enter(store, stream, producers=((P, 1),)).producers
    assert [seq for seq, _ in state.rejected] == [9, 10, 11, 12]


def test_unknown_producer(store: Store, stream: str) -> None:
    """A producer that the stream does not know has committed nothing."""
    answer = enter(store, stream, producers=((P, 1), (Q, 1)))
    assert answer.producers == (
        ProducerState(producer=P, seq=0, known=False),
        ProducerState(producer=Q, seq=0, known=False),
    )
    assert append(store, stream, 1, b"1") == Appended(seq=1)


def test_first_settles_what_is_below_it(store: Store, stream: str) -> None:
    """A store that forgot the producer is told where to go on, and says what it knew until then (H2, rule 11)."""
    before = (ProducerState(producer=P, seq=0, known=False),)
    assert enter(store, stream, producers=((P, 4),)).producers == before
    assert enter(store, stream, producers=((P, 4),)).producers == before
    assert append(store, stream, 5, b"5") == Hole(last=3)
    assert append(store, stream, 4, b"4") == Appended(seq=4)
    (state,) = enter(store, stream, producers=((P, 5),)).producers
    assert (state.seq, state.known) == (4, True)


def test_lost_tail_of_a_producer(store: Store, stream: str) -> None:
    """Acknowledged seqs that the store lost are told by number, and nothing is refused for ever."""
    append(store, stream, 1, b"1", b"2", b"3")
    store.cut_tail(stream, 1)
    (state,) = enter(store, stream, producers=((P, 4),)).producers
    assert (state.seq, state.known) == (1, True)
    assert append(store, stream, 4, b"4") == Appended(seq=4)


def test_unused_producer_is_forgotten(store: Store, stream: str) -> None:
    """A producer is forgotten after its ttl, but not while a message of it is retained (rule 2)."""
    append(store, stream, 1, b"p")
    append(store, stream, 1, "no", producer=Q)
    store.advance(PRODUCER_TTL + 1)
    states = enter(store, stream, producers=((P, 2), (Q, 2))).producers
    assert [(state.seq, state.known) for state in states] == [(1, True), (0, False)]
    publish(store, stream, *[b"x"] * RETENTION)
    store.advance(2 * PRODUCER_TTL + 7200)
    (state,) = enter(store, stream, producers=((P, 2),)).producers
    assert (state.seq, state.known) == (0, False)


def test_publish(store: Store, stream: str) -> None:
    """The server's own messages share the log's offsets, and publishing nothing tells the end."""
    answer = publish(store, stream, b"1", b"2")
    assert answer.last == 2
    append(store, stream, 1, b"3")
    assert publish(store, stream) == Published(epoch=answer.epoch, last=3)
    assert log(store, stream) == [(1, b"1"), (2, b"2"), (3, b"3")]


def test_retention(store: Store, stream: str) -> None:
    """Only the newest messages are kept, their offsets go on."""
    publish(store, stream, *[b"x"] * (RETENTION - 1))
    append(store, stream, 1, b"y", b"z")
    answer = enter(store, stream)
    assert (answer.first, answer.last) == (2, RETENTION + 1)
    assert len(log(store, stream)) == RETENTION


def test_read_is_bounded(store: Store, stream: str) -> None:
    """A read ends at either bound, but gives one message if there is one."""
    epoch = publish(store, stream, b"aaaa", b"bbbb", b"cccc", b"dddd").epoch

    def offsets(after: int, **bounds: int) -> list[int]:
        return [entry.offset for entry in read(store, stream, epoch, after, **bounds).entries]

    assert offsets(1) == [2, 3, 4]
    assert offsets(0, max_messages=3) == [1, 2, 3]
    assert offsets(0, max_bytes=8) == [1, 2]
    assert offsets(0, max_bytes=11) == [1, 2]
    assert offsets(2, max_bytes=1) == [3]
    assert offsets(4) == []
    assert offsets(9) == []
    assert offsets(0, max_messages=0) == []


def test_read_names_what_is_before_it(store: Store, stream: str) -> None:
    """A read under a message that is not what the node sent gives nothing (H5)."""
    epoch = publish(store, stream, b"one", b"two").epoch
    good, bad = (read(store, stream, epoch, 1, crc=zlib.crc32(payload)) for payload in (b"one", b"uno"))
    assert (good.matches, [e.payload for e in good.entries]) == (True, [b"two"])
    assert (bad.matches, bad.entries, bad.last) == (False, (), 2)
    assert read(store, stream, epoch, 1).matches is None
    assert read(store, stream, epoch, 0, crc=7).matches is None


def test_rewritten_tail_is_seen_by_a_live_reader(store: Store, stream: str) -> None:
    """A log that was cut and grew again under the position gives the reader nothing in silence (H5)."""
    epoch = publish(store, stream, b"1", b"2", b"3").epoch
    store.cut_tail(stream, 1)
    publish(store, stream, b"2'", b"3'", b"4'")
    answer = read(store, stream, epoch, 3, crc=zlib.crc32(b"3"))
    assert (answer.matches, answer.entries, answer.last) == (False, (), 4)


def test_read_in_another_epoch_or_below_the_log(store: Store, stream: str) -> None:
    """What cannot be continued gives the facts and no message."""
    epoch = publish(store, stream, *[b"x"] * (RETENTION + 2)).epoch
    nothing = Slice(epoch=epoch, first=3, last=RETENTION + 2, matches=None, entries=())
    assert read(store, stream, "other", 5, crc=1) == nothing
    assert read(store, stream, epoch, 1) == nothing
    assert len(read(store, stream, epoch, 2).entries) == RETENTION


def test_read_of_nothing(store: Store, stream: str) -> None:
    """A stream that nobody created is empty and reading does not create it."""
    for _ in range(2):
        assert read(store, stream, "", 0) == Slice(epoch="", first=1, last=0, matches=None, entries=())


# -- several at once --------------------------------------------------------------------------------------------------


def test_concurrent_appends(store: Store, stream: str) -> None:
    """Fifty appends at once of five producers, each sent twice, are each stored once and in their producer's order."""
    producers = [f"{number:032x}" for number in range(5)]

    async def insist(producer: str, seq: int) -> None:
        entry = Entry(f"{producer}:{seq}".encode(), True)
        request = Append(
            stream=stream, session="00s", fence=Fence(1, A, 1), producer=producer, first=seq, entries=(entry,)
        )
        answer: Answer = Hole(last=0)
        while isinstance(answer, Hole):
            answer = await store.door.run(request)
        assert isinstance(answer, Appended)

    async def all_at_once() -> None:
        both = [(producer, seq) for producer in producers for seq in (*range(1, 5), *range(4, 0, -1))]
        await asyncio.gather(*(insist(producer, seq) for producer, seq in [*both, *both[:10]]))

    store.wait(all_at_once())
    found = [payload.decode().split(":") for _, payload in log(store, stream)]
    assert len(found) == 20
    for producer in producers:
        assert [int(seq) for name, seq in found if name == producer] == [1, 2, 3, 4]


def test_watched_stream_wakes(store: Store, stream: str) -> None:
    """Appends and publishes wake those who watch the stream, until they unwatch it."""
    store.wait(store.door.watch(stream))
    append(store, stream, 1, b"x")
    store.until(lambda: stream in store.woken)
    store.wait(store.door.unwatch(stream))
    store.wait(store.door.watch(stream + "2"))
    store.woken.clear()
    publish(store, stream, b"y")
    publish(store, stream + "2", b"z")
    store.until(lambda: stream + "2" in store.woken)
    assert stream not in store.woken


def test_raised_fence_is_told(store: Store, session: str) -> None:
    """Every node hears of a session that was resumed."""
    begin(store, session)
    hello(store, session, other_of(session), instance=B, attempt=0)
    store.until(lambda: (session, Fence(2, B, 0)) in store.fences)
