"""
What only the Redis backplane has: its keyspace, unknown outcomes, lost connections, the direct reader.
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import redis
from stores import RedisStore, engine

from server_fixture.backplane import (
    Announce,
    Announced,
    Append,
    Appended,
    BackplaneError,
    Confirm,
    Done,
    EndSession,
    EnterSession,
    EnterStream,
    Entry,
    Fence,
    LivingNode,
    Publish,
    Published,
    Read,
    Refresh,
    Request,
    SessionEntered,
    Tick,
    TrimPrivate,
    export,
    scripts,
)
from server_fixture.backplane.inspect import Stored, cut_tail, read_all
from server_fixture.backplane.redis import RedisBackplane
from server_fixture.backplane.steps import FENCE_CHANNEL, INCARNATION, WAKE_CHANNEL, Call, Limits, answer_of, call_of
from server_fixture.engine import Engine

FENCE = Fence(1, "a", 1)
HELLO = EnterSession(
    session=None, presented=None, new_session="05s", instance="a", attempt=1, principal="ann", ttl=60.0
)  # fmt: skip
APPEND = Append(
    stream="x", session="05s", fence=FENCE, producer="p", first=1, entries=(Entry(b"1", False), Entry(b"2", True))
)
PUBLISH = Publish(stream="x", entries=(Entry(b"3", False),))
EVERY: list[Request] = [
    HELLO,
    Refresh(session="05s", fence=FENCE, ttl=60.0),
    Confirm(session="05s", generation=1),
    Tick(bucket=5),
    EnterStream(stream="x", session="05s", fence=FENCE, producers=(("p", 1),)),
    APPEND,
    PUBLISH,
    Read(stream="x", epoch="e", after=0, crc=None, max_messages=9, max_bytes=9),
    EnterStream(stream="~05s", session="05s", fence=FENCE),
    Publish(stream="~05s", entries=(Entry(b"4", False),)),
    Read(stream="~05s", epoch="e", after=0, crc=None, max_messages=9, max_bytes=9),
    TrimPrivate(session="05s", fence=FENCE, epoch="e", offset=1),
    attrs.evolve(HELLO, session="05s", presented=1, new_session="05t", attempt=2),
    Announce(node=LivingNode(name="n1", url="ws://a/", sessions=3, accept_rate=200), ttl=6.0),
    EndSession(session="05s", fence=Fence(2, "a", 2)),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    """One engine for the module."""
    with engine() as found:
        yield found


@pytest.fixture
def store(running: Engine) -> Iterator[RedisStore]:
    """A door to the module's engine, emptied."""
    with redis.Redis.from_url(running.url) as admin:
        admin.flushall()
    store = RedisStore(running.url)
    yield store
    store.close()


# -- keyspace and values ----------------------------------------------------------------------------------------------


def call(request: Request) -> Call:
    """Write a request."""
    return call_of(request, Limits(), "epoch")


@pytest.mark.parametrize("request_", EVERY, ids=lambda request: type(request).__name__)
def test_every_step_is_in_one_slot(request_: Request) -> None:
    """All keys of a step have the same hash tag: the stream's, the session's bucket's, or that of the nodes."""
    tags = {re.fullmatch(r"resilient:\{([^}]+)\}:.+", key).group(1) for key in call(request_).keys}  # type: ignore[union-attr]
    own = "nodes" if isinstance(request_, Announce) else "s05"
    assert tags == {"x" if getattr(request_, "stream", "") == "x" else own}


@pytest.mark.parametrize(
    "request_",
    [
        attrs.evolve(APPEND, producer="a b"),
        attrs.evolve(APPEND, producer=""),
        attrs.evolve(APPEND, fence=Fence(1, "a:b", 1)),
        attrs.evolve(APPEND, first=2**53 - 2),
        attrs.evolve(APPEND, fence=Fence(2**53, "a", 1)),
        attrs.evolve(HELLO, attempt=-1),
        attrs.evolve(HELLO, session="06s"),
        Publish(stream="x", entries=(Entry(b"", False, code="no"),)),
        Announce(node=LivingNode(name="n 1", url="ws://a/", sessions=3, accept_rate=200), ttl=6.0),
        Announce(node=LivingNode(name="n1", url="", sessions=3, accept_rate=200), ttl=6.0),
        Announce(node=LivingNode(name="n1", url="ws://a/", sessions=-1, accept_rate=200), ttl=6.0),
    ],
)
def test_what_the_scripts_cannot_count_is_not_sent(request_: Request) -> None:
    """An id or a number that the scripts would not keep exactly is refused before anything is sent."""
    with pytest.raises(ValueError, match=r"."):
        call(request_)


@pytest.mark.parametrize(
    "reply",
    [None, b"OK", [], [b"what"], [b"hole"], [b"hole", b"x"], [b"old", b"1:2"], [b"appended", b"1", [b"2"]],
     [b"slice", b"e", b"1", b"1", b"2", []], [b"session", b"s", b"1", b"maybe", b""], [b"published", b"\xff", b"1"],
     [b"nodes", [[b"n1"]]], [b"nodes", [[b"n1", b"1 2 ws://a/"]]]],
)  # fmt: skip
def test_foreign_reply_is_an_unknown_outcome(reply: Any) -> None:
    """What our scripts would not have said is not taken for an answer."""
    with pytest.raises(BackplaneError, match="not one of this version's scripts"):
        answer_of(reply, HELLO, "incarnation")


def test_documented() -> None:
    """The page for other languages names every script, reply and channel that there is, and all kinds of keys."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "backplane.md").read_text("utf-8")
    texts = {name: text for name, text in vars(scripts).items() if name.isupper() and isinstance(text, str)}
    names = {name for name in texts if not name.startswith("_")}
    replies = {reply for text in texts.values() for reply in re.findall(r"return \{'(\w+)'", text)}
    assert len(names) == 11
    assert replies >= {"session", "slice", "old"}
    keys = {key.rsplit(":", 1)[-1] for request_ in EVERY for key in call(request_).keys} - {"05s", "05t"}
    assert keys == {"clock", "index", "log", "meta", "rejected", "said", "until", "used"}
    for word in (*names, *replies, *keys):
        assert f"`{word}`" in page
    for word in (FENCE_CHANNEL, WAKE_CHANNEL, INCARNATION):
        assert f"`{word}" in page


# -- unknown outcomes -------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(running: Engine) -> Iterator[RedisStore]:
    """A door that gives a step little time."""
    store = RedisStore(running.url, timeout=0.2)
    yield store
    store.close()


def test_paused_store_is_an_unknown_outcome(running: Engine, hasty: RedisStore) -> None:
    """A store that does not answer fails the step in time; when it answers again, watched streams are woken."""
    hasty.wait(hasty.door.watch("x"))
    hasty.until(lambda: "x" in hasty.woken)
    hasty.woken.clear()
    running.pause()
    try:
        for _ in range(3):
            # A step that had to dial again, or to wait for a connection, fails by another name.
            with pytest.raises(BackplaneError, match=r"outcome of Publish is unknown: (TimeoutError|ConnectionError)"):
                hasty.run(PUBLISH)
    finally:
        running.resume()
    hasty.until(lambda: "x" in hasty.woken)
    assert isinstance(hasty.run(PUBLISH), Published)


def test_restarted_store_is_a_new_incarnation() -> None:
    """A store that came back empty has another incarnation, and its streams other epochs (rule 8)."""
    with engine() as own:
        store = RedisStore(own.url)
        before, old = store.run(HELLO), store.run(PUBLISH)
        own.kill()
        with pytest.raises(BackplaneError, match="unknown"):
            store.run(HELLO)
        own.start()
        after, new = store.run(attrs.evolve(HELLO, session="05s")), store.run(PUBLISH)
        assert isinstance(before, SessionEntered)
        assert isinstance(after, SessionEntered)
        assert after.incarnation != before.incarnation
        assert after.reason == "unknown"
        assert isinstance(old, Published)
        assert isinstance(new, Published)
        assert (new.last, new.epoch == old.epoch) == (1, False)
        store.close()


def test_lost_incarnation_key_is_minted_again(store: RedisStore) -> None:
    """Without its key the store gets another incarnation, which every node reads."""
    first = store.run(HELLO)
    store.admin.delete("resilient:{meta}:incarnation")
    other = RedisStore(store.url)
    second = other.run(attrs.evolve(HELLO, new_session="05t"))
    assert isinstance(first, SessionEntered)
    assert isinstance(second, SessionEntered)
    assert second.incarnation != first.incarnation
    assert store.admin.get("resilient:{meta}:incarnation") == second.incarnation.encode()
    other.close()


def test_unreachable_store_cannot_be_started(tmp_path: Any) -> None:
    """A node learns at once that there is no store, and the text has no password."""

    async def start() -> None:
        door = RedisBackplane(f"unix://:canary@{tmp_path}/nobody", timeout=0.5)
        try:
            with pytest.raises(BackplaneError, match="reading the incarnation") as caught:
                await door.start(lambda stream: None, lambda session, fence: None)
            assert "canary" not in str(caught.value) + repr(door)
        finally:
            await door.close()

    asyncio.run(start())


class DyingServer:
    """Answers OK to everything, and hangs up on a script, after it has read it."""

    def __init__(self) -> None:
        self.scripts = 0

    @asynccontextmanager
    async def serve(self) -> Any:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (count := await reader.readline()) != b"":
                words = []
                for _ in range(int(count[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                if words[0] in (b"EVAL", b"EVALSHA"):
                    self.scripts += 1
                    return
                writer.write(b"+OK\r\n")
                await writer.drain()
        finally:
            writer.close()


def test_step_is_sent_once() -> None:
    """A step whose connection was lost may have happened, and nothing tries it again by itself."""

    async def lose() -> int:
        server = DyingServer()
        async with server.serve() as port:
            door = RedisBackplane(f"redis://127.0.0.1:{port}")
            with pytest.raises(BackplaneError, match="outcome of Publish is unknown: ConnectionError"):
                await door.run(PUBLISH)
            await door.close()
        return server.scripts

    assert asyncio.run(lose()) == 1


def test_failing_script_is_an_unknown_outcome(store: RedisStore) -> None:
    """A script that ends in the middle says nothing about what it has done."""
    store.admin.set("resilient:{x}:log", "not a log")
    with pytest.raises(BackplaneError, match="ResponseError"):
        store.run(PUBLISH)


# -- connections ------------------------------------------------------------------------------------------------------


def test_flushed_scripts_are_sent_again(store: RedisStore) -> None:
    """A store that has forgotten the scripts gets them with the next step, which happens once."""
    store.run(PUBLISH)
    store.admin.script_flush()
    answer = store.run(PUBLISH)
    assert isinstance(answer, Published)
    assert answer.last == 2


def test_connections_are_bounded(running: Engine) -> None:
    """More steps at once than connections wait for one and all happen."""
    store = RedisStore(running.url, connections=2)
    before = len(store.admin.client_list())

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(store.door.run(PUBLISH) for _ in range(40)))

    answers = store.wait(all_at_once())
    assert len({answer.last for answer in answers}) == 40
    assert len(store.admin.client_list()) - before <= 1
    store.close()


def test_lost_subscription_wakes_every_watched_stream(store: RedisStore) -> None:
    """What was published while nobody listened is noticed: each watched stream is woken when the connection is back."""
    for stream in ("x", "y"):
        store.wait(store.door.watch(stream))
    store.until(lambda: {"x", "y"} <= set(store.woken))
    store.woken.clear()
    assert store.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
    store.until(lambda: {"x", "y"} <= set(store.woken))
    store.woken.clear()
    store.run(PUBLISH)
    store.until(lambda: store.woken == ["x"])


def test_failing_callback_does_not_end_the_wake_ups(store: RedisStore) -> None:
    """An error in a callback goes to the loop's handler, and the next wake-up is still told."""
    reported: list[dict[str, Any]] = []
    store.loop.set_exception_handler(lambda loop, context: reported.append(context))
    store.wait(store.door.watch("x"))
    store.until(lambda: "x" in store.woken)
    store.admin.publish("resilient:fence", "not a fence")
    store.woken.clear()
    store.run(PUBLISH)
    store.until(lambda: "x" in store.woken)
    assert [context["message"] for context in reported] == ["a wake-up or fence could not be handled"]


def test_closed_door_leaves_no_connection(running: Engine) -> None:
    """After close() the store has no client of this node any more."""
    store = RedisStore(running.url)
    store.wait(store.door.watch("x"))
    store.run(PUBLISH)
    with redis.Redis.from_url(running.url) as admin:
        assert len(admin.client_list()) > 1
        store.close()
        for _ in range(1000):  # the store notices on its own time
            if len(admin.client_list()) == 1:
                break
        assert len(admin.client_list()) == 1


# -- cluster ----------------------------------------------------------------------------------------------------------


def test_every_verb_runs_on_a_cluster_node() -> None:
    """A store in cluster mode, which refuses a step that touches two slots, does every verb."""
    with engine("--cluster-enabled", "yes", "--cluster-node-timeout", "500") as own:
        with redis.Redis.from_url(own.url) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            while b"cluster_state:ok" not in admin.execute_command("CLUSTER", "INFO"):
                time.sleep(0.02)  # it tells nobody; it takes two seconds
            with pytest.raises(redis.ResponseError, match="same slot"):
                admin.eval("return 1", 2, "{a}", "{b}")
        store = RedisStore(own.url)
        answers = [store.run(request) for request in EVERY]
        assert Appended(seq=2) in answers
        assert Announced() in answers
        assert answers[-1] == Done()
        store.close()


# -- direct reading ---------------------------------------------------------------------------------------------------


def test_read_all(store: RedisStore) -> None:
    """The final read gives every message with its origin, in order."""
    store.run(APPEND)
    store.run(PUBLISH)
    epoch, first, last, entries = read_all(store.url, "x")
    assert epoch is not None
    assert (first, last) == (1, 3)
    assert entries == (
        Stored(1, b"1", False, zlib.crc32(b"1"), "p", 1),
        Stored(2, b"2", True, zlib.crc32(b"2"), "p", 2),
        Stored(3, b"3", False, zlib.crc32(b"3"), None, 0),
    )


def test_read_all_of_nothing(store: RedisStore) -> None:
    """A stream that does not exist has no epoch and no messages."""
    assert read_all(store.url, "nothing") == (None, 1, 0, ())


def test_cut_tail(store: RedisStore) -> None:
    """Cutting rolls the log and its producer back; the lost seqs can be stored again, at the lost offsets."""
    store.run(APPEND)
    assert cut_tail(store.url, "x", 1) == 1
    assert cut_tail(store.url, "x", 1) == 0
    assert read_all(store.url, "x")[1:3] == (1, 1)
    assert store.run(attrs.evolve(APPEND, first=2, entries=(Entry(b"2", True),))) == Appended(seq=2)
    assert [entry.offset for entry in read_all(store.url, "x")[3]] == [1, 2]


def test_the_scripts_for_other_languages_are_the_scripts() -> None:
    """The copies in docs/scripts are what this backplane runs; write them anew where this fails."""
    folder = Path(__file__).resolve().parent.parent / "docs" / "scripts"
    copies = {path.stem: path.read_text("utf-8") for path in folder.glob("*.lua")}
    assert copies == export.ALL, "run: python -m server_fixture.backplane.export docs/scripts"
    assert len(copies) == 11
