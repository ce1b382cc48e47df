"""The server's half of a session against the memory backplane, driven step by step without a socket or a clock."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import pytest

from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import RemoteProtocolError
from resilient_ws.frames import (
    Ack,
    AckedMark,
    Auth,
    Batch,
    Bye,
    Credit,
    Drain,
    Error,
    GapFrame,
    Grant,
    Held,
    Hello,
    HelloOutbound,
    HelloStream,
    OffsetMark,
    Ping,
    Pong,
    Position,
    Ready,
    Reject,
    SeqMark,
    Standing,
    StreamAnswer,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from server_fixture.backplane import (
    Append,
    BackplaneError,
    Confirm,
    EndSession,
    EnterSession,
    EnterStream,
    Entry,
    Fence,
    Publish,
    Published,
    Read,
    Refresh,
    Request,
    SessionUnknown,
    TrimPrivate,
)
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.entering import MOST_TOLD
from server_fixture.session import (
    MAX_BACKLOG,
    Call,
    Close,
    NodeSettings,
    Phase,
    Send,
    ServerSession,
    Unwatch,
    Watch,
)
from server_fixture.token import Claim, mint, verify

A, B = "a" * 32, "b" * 32
PRODUCER, EARLIER = "1" * 32, "2" * 32
KEY = b"key of the node"
ITEM = TypeVar("ITEM")


class Rig:
    """One connection, its node's half of the work, and a store that can be made to fail or to wait."""

    def __init__(
        self, store: MemoryBackplane | None = None, *, now: float = 0.0, principal: str = "alice", **settings: Any
    ) -> None:
        self.store = store or MemoryBackplane(random.Random(1))
        self.now = now
        self.forbidden: set[tuple[str, str]] = set()
        self.settings = NodeSettings(**{"node": "n1", "key": KEY, "peers": ("ws://b",), "spread": 0.5, **settings})
        self.session = ServerSession(
            self.settings,
            principal,
            lambda who, verb, stream: (verb, stream) not in self.forbidden,
            random.Random(2),
            now,
        )
        self.items: list[Any] = []
        self.requests: list[Request] = []
        self.watched: list[str] = []
        self.close: Close | None = None
        self.waits: Callable[[Request], bool] = lambda request: False
        self.fails: Callable[[Request], bool] = lambda request: False
        self.held: list[Call] = []

    def run(self) -> None:
        """Carry out actions until there are none."""
        while actions := self.session.actions():
            for action in actions:
                assert self.close is None, "nothing follows a close"
                self._do(action)

    def _do(self, action: object) -> None:
        if isinstance(action, Send):
            self.items.extend(action.items)
            assert_speakable(action.items)
        elif isinstance(action, Watch):
            assert action.stream not in self.watched
            self.watched.append(action.stream)
        elif isinstance(action, Unwatch):
            self.watched.remove(action.stream)
        elif isinstance(action, Close):
            self.close = action
        elif isinstance(action, Call):
            self.requests.append(action.request)
            if self.waits(action.request):
                self.held.append(action)
            else:
                self.answer(action)

    def answer(self, call: Call) -> None:
        if self.fails(call.request):
            self.session.answered(call.id, BackplaneError("gone"), self.now)
        else:
            self.session.answered(call.id, self.store.step(call.request, self.now), self.now)

    def release(self) -> None:
        """Answer what had to wait."""
        self.waits = lambda request: False
        held, self.held = self.held, []
        for call in held:
            self.answer(call)
        self.run()

    def say(self, *items: Any) -> None:
        self.session.received(items, self.now)
        self.run()

    def hello(self, **changes: Any) -> Welcome:
        """Say hello and expect a welcome."""
        self.say(hello(**changes))
        return self.one(Welcome)

    def publish(self, stream: str, *texts: str) -> str:
        """Publish by the server's own API, and wake the session."""
        answer = self.store.step(
            Publish(stream=stream, entries=tuple(Entry(t.encode(), True) for t in texts)), self.now
        )
        assert isinstance(answer, Published)
        self.session.woken(stream, self.now)
        self.run()
        return answer.epoch

    def advise(self, spread: float, peers: tuple[str, ...] = ("ws://b",)) -> None:
        """Let the node advise something else."""
        self.settings = attrs.evolve(self.settings, spread=spread, peers=peers)
        self.session.advised(self.settings, self.now)
        self.run()

    def wait(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass, with every timer on time."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            deadline = self.session.next_deadline()
            if deadline is not None and deadline <= self.now:
                self.session.handle_timer(self.now)
                self.run()

    def all(self, kind: type[ITEM]) -> list[ITEM]:
        return [item for item in self.items if isinstance(item, kind)]

    def one(self, kind: type[ITEM]) -> ITEM:
        found = self.all(kind)
        assert len(found) == 1, (found, self.items, self.close)
        return found[0]

    def last(self, kind: type[ITEM]) -> ITEM:
        return self.all(kind)[-1]

    def data(self, stream: str = "s") -> list[tuple[int, str | bytes]]:
        """Everything that was sent of a stream, message by message."""
        found: list[tuple[int, str | bytes]] = []
        for batch in self.all(Batch):
            assert batch.first is not None
            if batch.stream == stream:
                found.extend(enumerate(batch.payloads, batch.first))
        return found

    def asked(self, kind: type[ITEM]) -> list[ITEM]:
        return [request for request in self.requests if isinstance(request, kind)]

    def closed(self) -> tuple[int, str]:
        assert self.close is not None
        assert self.watched == []
        assert self.session.next_deadline() is None
        return self.close.code, self.close.reason


def assert_speakable(items: list[Any]) -> None:
    """Everything that a session sends has a form on the wire, and says the same at the other end."""
    arrived = Native().client().decode(Native().server().encode(items))
    frames = [item for item in items if not isinstance(item, Batch)]
    assert [item for item in arrived if not isinstance(item, Batch)] == frames
    assert unrolled(arrived) == unrolled(items)


def unrolled(items: Any) -> list[tuple[str, int, str | bytes]]:
    return [
        (item.stream, number, payload)
        for item in items
        if isinstance(item, Batch)
        for number, payload in enumerate(item.payloads, item.first or 0)
    ]


def hello(**changes: Any) -> Hello:
    asked: dict[str, Any] = {
        "instance": A,
        "attempt": 1,
        "producers": (PRODUCER,),
        "credit": Credit(100, 100_000),
        "max_message": 1000,
    }
    return Hello(**{**asked, **changes})


def start(stream: str = "s", at: Any = "earliest", id: int = 1) -> HelloStream:
    return HelloStream(stream=stream, id=id, start=at)


def held(
    epoch: str, offset: int, text: str | None, *, stream: str = "s", id: int = 1, acked: int | None = None
) -> HelloStream:
    crc = None if text is None else zlib.crc32(text.encode())
    return HelloStream(stream=stream, id=id, held=Held(epoch, offset, crc), acked=acked)


def again(rig: Rig, welcome: Welcome, **changes: Any) -> tuple[Rig, Welcome]:
    """Resume on another connection."""
    other = Rig(rig.store, now=rig.now)
    return other, other.hello(**{"session": welcome.session, "token": welcome.token, "attempt": 2, **changes})


def newer(fence: Fence, instance: str = B) -> Fence:
    return Fence(fence.generation + 1, instance, 1)


@pytest.fixture
def rig() -> Rig:
    return Rig()


class TestToken:
    """Rule 5, the pure half."""

    def test_a_token_says_what_it_was_made_for(self) -> None:
        """Its session and generation come back, under the old key too."""
        token = mint(KEY, "01abc", 7)
        assert verify([KEY], token) == Claim("01abc", 7)
        assert verify([b"new", KEY], token) == Claim("01abc", 7)

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "v1",
            mint(b"other", "01abc", 7),
            mint(KEY, "01abc", 7).replace("abc", "abd"),
            mint(KEY, "01abc", 7).replace(".7.", ".8."),
            mint(KEY, "01abc", 7)[:-1],
            mint(KEY, "zzabc", 7),
            mint(KEY, "01abc", 9_999_999_999_999_999),
        ],
    )
    def test_every_other_token_proves_nothing(self, token: str) -> None:
        """Nothing tells apart how it is wrong."""
        assert verify([KEY], token) is None

    def test_settings_do_not_show_their_keys(self) -> None:
        """Secrets never reach a log by way of a repr."""
        settings = NodeSettings(node="n", key=b"canary-1", old_keys=(b"canary-2",))
        assert "canary" not in repr(settings)


class TestHello:
    """Rules 3 to 6."""

    def test_a_first_hello_gets_a_session(self, rig: Rig) -> None:
        """The welcome carries what a client has to know."""
        welcome = rig.hello()
        assert (welcome.verdict, welcome.reason, welcome.generation) == ("new", None, 1)
        assert verify([KEY], welcome.token) == Claim(welcome.session, 1)
        assert welcome.incarnation == rig.store.incarnation
        assert (welcome.node, welcome.peers, welcome.spread) == ("n1", ("ws://b",), 0.5)
        assert welcome.features == ("batch", "void")
        assert rig.session.phase is Phase.OPEN
        assert rig.session.session == welcome.session
        assert rig.session.fence == Fence(1, A, 1)

    def test_no_hello_in_time(self, rig: Rig) -> None:
        """The connection closes 4408."""
        rig.wait(9.5)
        assert rig.close is None
        rig.wait(0.5)
        assert rig.closed()[0] == 4408

    def test_a_token_resumes_and_rotates(self, rig: Rig) -> None:
        """The generation rises with every accepted hello; ready confirms it."""
        first = rig.hello()
        rig.say(Ready(generation=1))
        other, second = again(rig, first)
        assert (second.session, second.verdict, second.generation) == (first.session, "resumed", 2)
        other.say(Ready(generation=2))
        assert other.asked(Confirm) == [Confirm(session=first.session, generation=2)]
        third, welcome = again(rig, first, attempt=3)
        assert (welcome.verdict, welcome.reason) == ("new", "superseded")
        assert third.close is None

    def test_lost_welcomes_leave_every_token_since_the_confirmed_one_valid(self, rig: Rig) -> None:
        """Without a ready the first token goes on working."""
        first = rig.hello()
        rig.say(Ready(generation=1))
        for attempt in (2, 3, 4):
            assert again(rig, first, attempt=attempt)[1].verdict == "resumed"

    def test_a_ready_confirms_no_other_generation(self, rig: Rig) -> None:
        """Otherwise a client could lock its session."""
        rig.hello()
        rig.say(Ready(generation=5))
        assert rig.closed()[0] == 4400
        assert rig.asked(Confirm) == []

    def test_a_failed_confirm_changes_nothing(self, rig: Rig) -> None:
        """Older tokens only stay valid for longer."""
        rig.hello()
        rig.fails = lambda request: isinstance(request, Confirm)
        rig.say(Ready(generation=1))
        assert rig.close is None

    def test_wrong_token_and_wrong_principal_get_the_same_answer(self, rig: Rig) -> None:
        """Close 4403, and nothing is touched."""
        first = rig.hello()
        wrong = Rig(rig.store)
        wrong.say(hello(session=first.session, token=first.token + "0", attempt=2))
        assert wrong.requests == []
        swapped = Rig(rig.store)
        swapped.say(hello(session="01other", token=first.token, attempt=2))
        eve = Rig(rig.store, principal="eve")
        eve.say(hello(session=first.session, token=first.token, attempt=2))
        assert wrong.closed() == swapped.closed() == eve.closed()
        assert wrong.closed()[0] == 4403

    def test_an_old_key_is_good_while_keys_rotate(self, rig: Rig) -> None:
        """The new token is made with the new key."""
        first = rig.hello()
        other = Rig(rig.store, key=b"new", old_keys=(KEY,))
        welcome = other.hello(session=first.session, token=first.token, attempt=2)
        assert welcome.verdict == "resumed"
        assert verify([b"new"], welcome.token) is not None

    def test_a_stale_attempt_is_4410(self, rig: Rig) -> None:
        """No fence, no token, no session changes by a ghost."""
        first = rig.hello(streams=(start(),))
        ghost = Rig(rig.store)
        ghost.say(hello(session=first.session, token=first.token, attempt=1, streams=(start(),)))
        assert ghost.closed()[0] == 4410
        assert ghost.asked(EnterStream) == []
        assert rig.store.sessions() == (first.session,)

    @pytest.mark.parametrize("kind", [EnterSession, EnterStream])
    def test_an_unknown_outcome_before_the_welcome_is_1013(self, rig: Rig, kind: type) -> None:
        """The node repeats nothing by itself."""
        rig.fails = lambda request: isinstance(request, kind)
        rig.say(hello(streams=(start("s"), start("t", id=2))))
        assert rig.closed()[0] == 1013
        assert rig.all(Welcome) == []
        assert len(rig.asked(EnterSession)) == 1

    def test_a_backplane_without_an_answer_is_1013_in_time(self, rig: Rig) -> None:
        """A hello does not wait for ever, and its late answer changes nothing."""
        rig.waits = lambda request: True
        rig.say(hello())
        rig.wait(10.0)
        assert rig.closed()[0] == 1013
        rig.release()
        assert rig.all(Welcome) == []

    def test_H1_an_older_fence_in_a_stream_is_4409(self, rig: Rig) -> None:
        """Another node welcomed the session while this hello was on its way; the reason names who."""
        first = rig.hello(streams=(start(),))
        slow = Rig(rig.store)
        slow.waits = lambda request: isinstance(request, EnterStream)
        slow.say(hello(session=first.session, token=first.token, attempt=2, streams=(start(),)))
        again(rig, first, attempt=3, streams=(start(),), instance=B)
        slow.release()
        assert slow.closed() == (4409, f"instance={B}")

    def test_a_fence_raised_during_a_hello_is_4409(self, rig: Rig) -> None:
        """It need not wait for a stream to tell."""
        first = rig.hello()
        slow = Rig(rig.store)
        slow.waits = lambda request: isinstance(request, EnterStream)
        slow.say(hello(session=first.session, token=first.token, attempt=2, streams=(start(),)))
        slow.session.fence_raised(first.session, Fence(2, A, 2), 0.0)
        slow.session.fence_raised("other", Fence(9, B, 1), 0.0)
        slow.run()
        assert slow.close is None
        slow.session.fence_raised(first.session, Fence(3, B, 1), 0.0)
        slow.run()
        assert slow.closed() == (4409, f"instance={B}")

    def test_a_session_that_ended_during_its_hello_is_1012(self, rig: Rig) -> None:
        """The private stream's slot finds no record."""
        rig.waits = lambda request: isinstance(request, EnterStream)
        rig.say(hello(streams=(start("~"),)))
        rig.store.lose_all()
        rig.release()
        assert rig.closed()[0] == 1012

    def test_a_spare_stands_without_a_step_at_the_backplane(self, rig: Rig) -> None:
        """An ordinary hello on the same connection is the promotion."""
        first = rig.hello()
        spare = Rig(rig.store)
        spare.say(hello(session=first.session, token=first.token, attempt=2, standby=True))
        assert spare.one(Standing) == Standing(node="n1")
        assert spare.requests == []
        assert spare.session.phase is Phase.STANDING
        spare.say(Ping(echo="x", committed=(), acked=(AckedMark("s", "e", 1),)), Auth(access_token="t"))
        assert spare.one(Pong).echo == "x"
        welcome = spare.hello(session=first.session, token=first.token, attempt=3)
        assert welcome.verdict == "resumed"

    def test_a_spare_with_a_wrong_token_is_4403(self, rig: Rig) -> None:
        """Its token is judged by its MAC; the rest is judged at the promotion."""
        rig.say(hello(session="01x", token="wrong", standby=True))
        assert rig.closed()[0] == 4403

    def test_a_spare_is_pinged_and_given_up(self, rig: Rig) -> None:
        """It has no time limit but the keepalive."""
        rig.say(hello(standby=True))
        rig.wait(5.5)
        assert len(rig.all(Ping)) == 5
        assert rig.close is None
        rig.wait(0.5)
        assert rig.closed() == (1011, "keepalive timeout")

    @pytest.mark.parametrize(
        "broken",
        [
            hello(version=2),
            hello(producers=(PRODUCER, PRODUCER)),
            hello(outbound=(HelloOutbound(producer=0, stream="~x", first=1, next=1),)),
            Ping(echo="x"),
            Batch("s", 1, ["x"]),
        ],
    )
    def test_what_is_not_a_hello_of_this_protocol_is_4400(self, rig: Rig, broken: Any) -> None:
        """The error says which rule was broken."""
        rig.say(broken)
        assert rig.closed()[0] == 4400
        assert rig.one(Error).fatal is True
        assert rig.requests == []

    @pytest.mark.parametrize("second", [hello(attempt=2), hello(attempt=2, standby=True)])
    def test_a_second_hello_is_4400(self, rig: Rig, second: Hello) -> None:
        """Only a spare says hello again."""
        rig.hello()
        rig.say(second, Ping(echo="never read"))
        assert rig.closed()[0] == 4400
        assert rig.all(Pong) == []

    def test_garbage_is_an_error_and_4400(self, rig: Rig) -> None:
        """Whatever the decoder found, the close code is ours."""
        rig.hello()
        rig.session.broken(RemoteProtocolError("a control frame is not JSON", code=1002), 0.0)
        rig.run()
        assert "not JSON" in rig.one(Error).hint
        assert rig.closed()[0] == 4400

    def test_a_new_session_for_an_old_client_loses_its_private_stream_only(self, rig: Rig) -> None:
        """Positions and producers go on; the private stream has a gap with reason session (rule 15)."""
        first = rig.hello(streams=(start(), start("~", id=2)))
        epoch = rig.publish("s", "a", "b")
        private = rig.publish(f"~{first.session}", "p")
        rig.say(Batch("s", 1, ["c"]))
        rig.store.lose_session(first.session)
        other, welcome = again(
            rig,
            first,
            streams=(held(epoch, 2, "b"), held(private, 1, "p", stream="~", id=2)),
            outbound=(HelloOutbound(producer=0, stream="s", first=1, next=2),),
        )
        assert (welcome.verdict, welcome.reason) == ("new", "unknown")
        shared, own = welcome.streams
        assert (shared.first, shared.gap) == (3, None)
        assert own.gap is not None
        assert (own.gap.reason, own.gap.first, own.gap.last, own.gap.next) == ("session", 2, None, 1)
        assert welcome.committed[0].seq == 1
        other.publish(f"~{welcome.session}", "q")
        assert other.data("~") == [(1, "q")]


class TestSubscriptions:
    """Rules 7, 8, 10, 12 and 14."""

    def test_replay_then_live(self, rig: Rig) -> None:
        """Everything comes in order, in batches, from where the client wants it."""
        rig.publish("s", "a", "b", "c")
        welcome = rig.hello(streams=(start(),))
        answer = welcome.streams[0]
        assert (answer.first, answer.live, answer.crc, answer.gap) == (1, 3, None, None)
        assert rig.items[-1] == Batch("s", 1, ["a", "b", "c"])
        rig.publish("s", "d")
        assert rig.items[-1] == Batch("s", 4, ["d"])

    def test_binary_stays_binary(self, rig: Rig) -> None:
        """What was bytes arrives as bytes."""
        rig.hello(streams=(start(),))
        rig.store.step(Publish(stream="s", entries=(Entry(b"\xff", False), Entry(b"t", True))), 0.0)
        rig.session.woken("s", 0.0)
        rig.run()
        assert rig.data() == [(1, b"\xff"), (2, "t")]

    def test_now_is_resolved_to_a_position(self, rig: Rig) -> None:
        """Nothing before it comes, and its CRC makes the position checkable later."""
        rig.publish("s", "a", "b")
        answer = rig.hello(streams=(start(at="now"),)).streams[0]
        assert (answer.first, answer.crc) == (3, zlib.crc32(b"b"))
        rig.publish("s", "c")
        assert rig.data() == [(3, "c")]

    def test_a_start_at_a_position_is_held_without_a_crc(self, rig: Rig) -> None:
        """Offset zero is before the first message, not absent (rule 10)."""
        epoch = rig.publish("s", "a", "b")
        welcome = rig.hello(streams=(start(at=Position(epoch, 0)),))
        assert welcome.streams[0].first == 1
        assert rig.data() == [(1, "a"), (2, "b")]
        later = Rig(rig.store)
        assert later.hello(streams=(start(at=Position("other", 0)),)).streams[0].gap is not None

    def test_held_continues_after_it(self, rig: Rig) -> None:
        """Zero too."""
        epoch = rig.publish("s", "a", "b")
        assert rig.hello(streams=(held(epoch, 1, "a"),)).streams[0].first == 2
        assert rig.data() == [(2, "b")]
        other = Rig(rig.store)
        other.hello(streams=(held(epoch, 0, None),))
        assert other.data() == [(1, "a"), (2, "b")]

    def test_trimmed_history_is_a_gap(self, rig: Rig) -> None:
        """It goes from the message after held to the one before the first that is retained."""
        epoch = rig.publish("s", *"abcde")
        rig.store.trim("s", 3)
        answer = rig.hello(streams=(held(epoch, 1, "a"),)).streams[0]
        assert answer.gap == GapFrame(stream="s", id=1, epoch=epoch, first=2, last=3, next=4, reason="trimmed")
        assert (answer.first, answer.live) == (4, 5)
        assert rig.data() == [(4, "d"), (5, "e")]

    def test_another_epoch_is_a_gap_without_an_end(self, rig: Rig) -> None:
        """What survived of the old epoch is not given again (rule 8)."""
        old = rig.publish("s", *"abc")
        rig.store.new_incarnation()
        epoch = rig.publish("s", "d")
        answer = rig.hello(streams=(held(old, 1, "a"),)).streams[0]
        assert answer.gap == GapFrame(stream="s", id=1, epoch=epoch, first=2, last=None, next=4, reason="epoch")
        assert rig.data() == [(4, "d")]

    @pytest.mark.parametrize("lost", [1, 3])
    def test_H5_H6_a_rewritten_log_is_a_gap_that_does_not_move(self, rig: Rig, lost: int) -> None:
        """Held does not match, or is above the end: from 1 to held, and reading goes on after held."""
        epoch = rig.publish("s", *"abcde")
        rig.store.lose_tail("s", 3)
        rig.publish("s", *"CDEF"[: 3 - lost + 1])
        answer = rig.hello(streams=(held(epoch, 5, "e"),)).streams[0]
        assert answer.gap == GapFrame(stream="s", id=1, epoch=epoch, first=1, last=5, next=6, reason="rewritten")
        assert (answer.first, answer.crc) == (6, None)
        rig.publish("s", "new")
        assert rig.data()[-1][0] >= 6

    def test_H7_rewritten_and_trimmed_are_two_gaps(self, rig: Rig) -> None:
        """Retention has passed the position too: the second one follows on the connection."""
        epoch = rig.publish("s", *"abcde")
        rig.store.lose_tail("s", 2)
        other = Rig(rig.store)
        other.hello(streams=(held(epoch, 5, "e"),))
        other.publish("s", *"fghi")
        rig.store.trim("s", 8)
        answer = rig.hello(streams=(held(epoch, 5, "e"),)).streams[0]
        assert answer.gap is not None
        assert (answer.gap.reason, answer.gap.first, answer.gap.last, answer.gap.next) == ("rewritten", 1, 5, 6)
        gap = rig.one(GapFrame)
        assert (gap.reason, gap.first, gap.last, gap.next) == ("trimmed", 6, 8, 9)
        assert rig.data() == [(9, "i")]

    def test_H5_a_tail_rewritten_under_a_live_connection_is_noticed(self, rig: Rig) -> None:
        """Every read names the message before it."""
        epoch = rig.publish("s", *"abcde")
        rig.hello(streams=(start(),))
        rig.store.lose_tail("s", 2)
        rig.publish("s", *"DEF")
        gap = rig.one(GapFrame)
        assert gap == GapFrame(stream="s", id=1, epoch=epoch, first=1, last=5, next=6, reason="rewritten")
        assert rig.items.index(gap) < len(rig.items) - 1
        assert rig.data()[-1] == (6, "F")

    def test_H6_a_tail_lost_under_a_live_connection_is_noticed_by_a_poll(self, rig: Rig) -> None:
        """No offset is given twice afterwards."""
        rig.publish("s", *"abcde")
        rig.hello(streams=(start(),))
        rig.store.lose_tail("s", 2)
        rig.wait(4.0)
        rig.say(Ping(echo="alive"))
        rig.wait(2.0)
        assert rig.one(GapFrame).reason == "rewritten"
        rig.publish("s", "f")
        assert rig.data()[-1] == (6, "f")

    def test_H8_prev_is_the_position_of_the_connection(self, rig: Rig) -> None:
        """Where a lift skipped offsets, each reader gets its own position before the message."""
        epoch = rig.publish("s", *"abcde")
        rig.store.lose_tail("s", 2)
        Rig(rig.store).hello(streams=(held(epoch, 5, "e"),))
        rig.hello(streams=(held(epoch, 1, "a"),))
        rig.publish("s", "f", "g")
        assert rig.all(Batch) == [
            Batch("s", 2, ["b", "c"]),
            Batch("s", 6, ["f"], prev=3),
            Batch("s", 7, ["g"]),
        ]

    def test_history_trimmed_or_replaced_under_a_live_connection_is_a_gap(self, rig: Rig) -> None:
        """Retention overtakes a client without credit; then the store begins a new epoch, and loses everything."""
        rig.publish("s", *"abcde")
        rig.hello(streams=(start(),), credit=Credit(2, 100))
        assert rig.data() == [(1, "a"), (2, "b")]
        rig.store.trim("s", 4)
        rig.say(Grant(credit=Credit(100, 1000)))
        assert rig.data() == [(1, "a"), (2, "b"), (5, "e")]
        rig.store.new_incarnation()
        rig.publish("s", "f")
        rig.store.lose_all()
        rig.publish("s", "g")
        assert [(gap.reason, gap.first, gap.last, gap.next) for gap in rig.all(GapFrame)] == [
            ("trimmed", 3, 4, 5),
            ("epoch", 6, None, 6),
            ("epoch", 7, None, 1),
        ]
        assert rig.data()[-2:] == [(6, "f"), (1, "g")]

    def test_a_log_that_is_whole_again_is_no_gap(self, rig: Rig) -> None:
        """Between the read and the second look the same messages were appended again."""
        rig.publish("s", *"abc")
        rig.hello(streams=(start(),))
        rig.store.lose_tail("s", 1)
        rig.waits = lambda request: isinstance(request, EnterStream)
        rig.publish("s")
        assert len(rig.held) == 1
        rig.publish("s", "c")
        rig.release()
        assert rig.all(GapFrame) == []
        rig.publish("s", "d")
        assert rig.data()[-1] == (4, "d")

    def test_a_message_above_what_the_client_takes_is_a_gap(self, rig: Rig) -> None:
        """The ones around it come."""
        rig.hello(streams=(start(),), max_message=3)
        rig.publish("s", "a", "too long", "b")
        assert [type(item).__name__ for item in rig.items[1:]] == ["Batch", "GapFrame", "Batch"]
        gap = rig.one(GapFrame)
        assert (gap.reason, gap.first, gap.last, gap.next) == ("too_large", 2, 2, 3)
        assert rig.data() == [(1, "a"), (3, "b")]

    def test_a_refused_stream_does_not_fail_the_welcome(self, rig: Rig) -> None:
        """The refusal is its own answer; other private streams are nobody's business (rule 14)."""
        rig.forbidden.add(("subscribe", "secret"))
        names = ("secret", "~other", "s")
        welcome = rig.hello(streams=tuple(start(name, id=number) for number, name in enumerate(names, 1)))
        assert [None if a.error is None else a.error.code for a in welcome.streams] == ["forbidden", "forbidden", None]
        assert [request.stream for request in rig.asked(EnterStream)] == ["s"]
        rig.say(Subscribe(stream="secret", id=4, start="now"))
        assert rig.one(Subscribed).answer == StreamAnswer(stream="secret", id=4, error=welcome.streams[0].error)

    def test_too_many_streams_are_refused_one_by_one(self) -> None:
        """The limit is the node's."""
        rig = Rig(max_streams=1)
        welcome = rig.hello(streams=(start("s"), start("t", id=2)))
        assert [a.error and a.error.code for a in welcome.streams] == [None, "too_many_streams"]
        rig.say(Subscribe(stream="s", id=3, start="now"), Subscribe(stream="u", id=4, start="now"))
        answers = {s.answer.stream: s.answer.error for s in rig.all(Subscribed)}
        assert answers["s"] is None
        assert answers["u"] == welcome.streams[1].error

    def test_subscribe_is_answered_before_its_data(self, rig: Rig) -> None:
        """Its position is resolved once."""
        rig.publish("s", "a")
        rig.hello()
        rig.say(Subscribe(stream="s", id=7, start="earliest"))
        assert rig.one(Subscribed).answer.id == 7
        assert isinstance(rig.items[-1], Batch)
        assert rig.watched == ["s"]

    def test_nothing_of_an_old_id_is_sent_after_its_end(self, rig: Rig) -> None:
        """Reads that were on their way are dropped, and give their credit back."""
        rig.publish("s", "a", "b")
        rig.hello(credit=Credit(2, 100))
        rig.waits = lambda request: isinstance(request, (Read, EnterStream))
        rig.say(Subscribe(stream="s", id=1, start="earliest"))
        rig.say(Subscribe(stream="s", id=2, start="earliest"))
        rig.release()
        assert [s.answer.id for s in rig.all(Subscribed)] == [2]
        assert rig.data() == [(1, "a"), (2, "b")]
        rig.waits = lambda request: isinstance(request, Read)
        rig.say(Grant(credit=Credit(4, 200)))
        rig.publish("s", "c")
        rig.say(Unsubscribe(stream="s", id=1))
        assert rig.watched == ["s"]
        rig.say(Unsubscribe(stream="s", id=3), Unsubscribe(stream="s", id=2))
        rig.release()
        assert rig.data() == [(1, "a"), (2, "b")]
        assert rig.watched == []
        rig.publish("t", *"xyz")
        rig.say(Subscribe(stream="t", id=4, start="earliest"))
        assert rig.data("t") == [(1, "x"), (2, "y")]

    def test_a_subscribe_whose_id_is_not_above_the_present_one_is_void(self, rig: Rig) -> None:
        """Ids only rise: the present subscription goes on as if nothing had been said (rule 12)."""
        rig.publish("s", "a")
        rig.hello(streams=(start(id=2),))
        rig.say(Subscribe(stream="s", id=1, start="earliest"), Subscribe(stream="s", id=2, start="earliest"))
        rig.publish("s", "b")
        assert rig.all(Subscribed) == []
        assert rig.data() == [(1, "a"), (2, "b")]
        rig.say(Subscribe(stream="s", id=3, start="earliest"))
        assert rig.one(Subscribed).answer.id == 3

    def test_an_end_while_the_row_or_a_check_waits(self, rig: Rig) -> None:
        """A subscription leaves the row, and a late check of it says nothing."""
        rig.publish("s", "a")
        rig.hello(credit=Credit(0, 0), streams=(start(),))
        rig.say(Unsubscribe(stream="s", id=1), Grant(credit=Credit(10, 100)))
        assert rig.data() == []
        rig.say(Subscribe(stream="s", id=2, start="earliest"))
        rig.store.lose_tail("s", 1)
        rig.waits = lambda request: isinstance(request, EnterStream)
        rig.publish("s", "A")
        rig.say(Unsubscribe(stream="s", id=2))
        rig.release()
        assert rig.all(GapFrame) == []

    def test_a_wake_during_a_read_is_not_lost(self, rig: Rig) -> None:
        """The stream is read once more; a wake of an unknown stream does nothing."""
        rig.hello(streams=(start(),))
        rig.waits = lambda request: isinstance(request, Read)
        rig.publish("s", "a")
        call = rig.held.pop()
        answer = rig.store.step(call.request, 0.0)
        rig.publish("s", "b")
        rig.waits = lambda request: False
        rig.session.answered(call.id, answer, 0.0)
        rig.run()
        assert rig.data() == [(1, "a"), (2, "b")]
        rig.publish("unknown", "x")
        rig.session.woken("~01unknown", 0.0)
        assert rig.data("unknown") == []

    def test_a_lost_wake_is_made_good_by_a_poll(self, rig: Rig) -> None:
        """A read is the truth, a wake is a hint; a failed read is done again."""
        rig.hello(streams=(start(),))
        rig.store.step(Publish(stream="s", entries=(Entry(b"a", True),)), 0.0)
        rig.fails = lambda request: isinstance(request, Read)
        for _ in range(2):
            rig.wait(4.0)
            rig.say(Ping(echo="alive"))
            rig.wait(1.0)
            assert rig.data() == ([] if rig.now < 6 else [(1, "a")])
            rig.fails = lambda request: False
        assert rig.close is None

    def test_a_private_stream_is_called_by_its_short_name(self, rig: Rig) -> None:
        """It is readable by its owner and trimmed by its acks; other streams never are (rule 15)."""
        session = rig.hello(streams=(start("~"), start(id=2))).session
        epoch = rig.publish(f"~{session}", *"abc")
        shared = rig.publish("s", "x")
        assert rig.data("~") == [(1, "a"), (2, "b"), (3, "c")]
        rig.say(Ack(acked=(AckedMark("~", epoch, 2), AckedMark("s", shared, 1), AckedMark("no", "e", 1))))
        rig.say(Ack(acked=(AckedMark("~", epoch, 1), AckedMark("~", "other", 3))))
        assert [e.offset for e in rig.store.contents(f"~{session}")] == [3]
        assert len(rig.store.contents("s")) == 1
        assert len(rig.asked(TrimPrivate)) == 1

    def test_an_unknown_outcome_of_a_trim_is_made_good_by_the_next_ack(self, rig: Rig) -> None:
        """Acks are cumulative."""
        session = rig.hello(streams=(start("~"),)).session
        epoch = rig.publish(f"~{session}", *"abc")
        rig.fails = lambda request: isinstance(request, TrimPrivate)
        rig.say(Ack(acked=(AckedMark("~", epoch, 2),)))
        rig.fails = lambda request: False
        rig.say(Ping(echo="x", acked=(AckedMark("~", epoch, 2),)))
        assert [e.offset for e in rig.store.contents(f"~{session}")] == [3]

    def test_H16_hello_is_an_ack(self, rig: Rig) -> None:
        """It counts under the new fence, after the welcome."""
        first = rig.hello(streams=(start("~"),))
        epoch = rig.publish(f"~{first.session}", *"abc")
        other, _ = again(rig, first, streams=(held(epoch, 3, "c", stream="~", acked=2), start("t", id=2)))
        assert [e.offset for e in rig.store.contents(f"~{first.session}")] == [3]
        assert other.asked(TrimPrivate)[0].fence == Fence(2, A, 2)

    def test_an_ack_of_what_was_never_sent_is_4400(self, rig: Rig) -> None:
        """Where the subscription began on this connection nobody else can have sent it."""
        epoch = rig.publish("s", "a", "b", "c")
        for beginning in ({"start": "earliest"}, {"held": Held(epoch, 1)}):
            rig = Rig(rig.store)
            rig.hello(credit=Credit(1, 100))
            rig.say(Subscribe(stream="s", id=1, **beginning))
            rig.say(Ack(acked=(AckedMark("s", epoch, 1 if "start" in beginning else 2),)))
            assert rig.close is None
            rig.say(Ack(acked=(AckedMark("s", epoch, 3),)))
            assert rig.closed()[0] == 4400

    def test_an_ack_of_a_start_that_the_older_connection_answered_is_legal(self, rig: Rig) -> None:
        """A subscribe may be answered there while the hello that repeats its start is out."""
        epoch = rig.publish("s", "a", "b")
        rig.hello(streams=(start(),), credit=Credit(1, 100))
        rig.say(Ack(acked=(AckedMark("s", epoch, 2),)))
        rig.say(Grant(credit=Credit(3, 300)))
        assert rig.data() == [(1, "a"), (2, "b")]
        rig.say(Ack(acked=(AckedMark("s", epoch, 3),)))
        assert rig.closed()[0] == 1012

    def test_an_ack_of_a_hello_that_is_above_what_it_holds_is_void(self, rig: Rig) -> None:
        """Who has not got a message has not handled it; neither the log's end nor the private stream is touched."""
        first = rig.hello(streams=(start("~"),))
        stream = f"~{first.session}"
        epoch = rig.publish(stream, *"abc")
        for acked, kept in ((9, 3), (3, 3), (2, 1)):
            wanted = held(epoch, 2, "b", stream="~", acked=acked)
            other, first = again(rig, first, streams=(wanted,), attempt=first.generation + 1)
            assert other.close is None
            assert len(rig.store.contents(stream)) == kept

    def test_H17_an_ack_of_what_the_older_connection_delivered_is_legal(self, rig: Rig) -> None:
        """Make before break: the position runs ahead of the successor, as far as the log reaches."""
        first = rig.hello(streams=(start("~"),))
        stream = f"~{first.session}"
        epoch = rig.publish(stream, "a")
        successor, _ = again(rig, first, streams=(held(epoch, 1, "a", stream="~"),), credit=Credit(1, 100))
        rig.store.step(Publish(stream=stream, entries=(Entry(b"b", True), Entry(b"c", True))), 0.0)
        successor.say(Ack(acked=(AckedMark("~", epoch, 3),)))
        assert successor.close is None
        assert [e.offset for e in rig.store.contents(stream)] == [3]
        assert successor.data("~") == [(2, "b")]
        successor.say(Grant(credit=Credit(5, 500)))
        assert rig.store.contents(stream) == ()

    def test_an_ack_beyond_the_log_is_1012(self, rig: Rig) -> None:
        """The store may have lost its tail: the next hello says what is held, and the log is lifted."""
        epoch = rig.publish("s", *"abc")
        rig.hello(streams=(held(epoch, 2, "b"),))
        rig.say(Ack(acked=(AckedMark("s", epoch, 9),)))
        assert rig.closed()[0] == 1012

    def test_H22_an_ack_of_what_the_log_has_no_more_is_1012(self, rig: Rig) -> None:
        """The older connection delivered 3, the log lost it, and somebody else who holds it keeps its number free."""
        epoch = rig.publish("s", *"abc")
        rig.store.lose_tail("s", 1)
        Rig(rig.store).hello(streams=(held(epoch, 3, "c"),))
        rig.hello(streams=(held(epoch, 1, "a"),), credit=Credit(1, 100))
        rig.say(Ack(acked=(AckedMark("s", epoch, 3),)))
        assert rig.data() == [(2, "b")]
        assert rig.close is None
        rig.say(Grant(credit=Credit(5, 500)))
        assert rig.closed()[0] == 1012


class TestCredit:
    """Rule 9."""

    def test_nothing_beyond_the_credit_is_sent(self, rig: Rig) -> None:
        """Messages and bytes both bound it; totals are absolute and never go down."""
        rig.publish("s", *"abcdef")
        rig.hello(streams=(start(),), credit=Credit(2, 100))
        assert len(rig.data()) == 2
        rig.say(Grant(credit=Credit(1, 50)))
        assert len(rig.data()) == 2
        rig.say(Grant(credit=Credit(3, 100)))
        assert len(rig.data()) == 3
        rig.say(Ping(echo="x", credit=Credit(100, 4)))
        assert len(rig.data()) == 6

    def test_bytes_bound_it_too(self, rig: Rig) -> None:
        """A message that does not fit waits for its bytes and nothing overtakes it in its stream."""
        rig.publish("s", "aaaa", "bbbb", "c")
        rig.hello(streams=(start(),), credit=Credit(100, 6))
        assert rig.data() == [(1, "aaaa")]
        rig.say(Grant(credit=Credit(100, 7)))
        assert rig.data() == [(1, "aaaa")]
        reads = len(rig.asked(Read))
        rig.say(Pong(echo="x", credit=Credit(100, 9)))
        assert rig.data() == [(1, "aaaa"), (2, "bbbb"), (3, "c")]
        assert len(rig.asked(Read)) <= reads + 2

    def test_H19_a_stream_with_nothing_to_send_holds_no_credit(self, rig: Rig) -> None:
        """Idle streams before it in the row do not starve the one that has something."""
        rig.publish("z", *"abc")
        rig.hello(streams=(start("s"), start("t", id=2), start("z", id=3)), credit=Credit(3, 100))
        assert len(rig.data("z")) == 3

    def test_streams_take_turns(self, rig: Rig) -> None:
        """A long one does not keep a short one waiting for its end."""
        rig.publish("s", *(str(number) for number in range(500)))
        rig.publish("t", "x")
        rig.hello(streams=(start("s"), start("t", id=2)), credit=Credit(1000, 100_000))
        streams = [batch.stream for batch in rig.all(Batch)]
        assert streams.index("t") == 1
        assert len(rig.data("s")) == 500

    def test_messages_in_a_read_that_wait_for_others_credit_stay_in_order(self, rig: Rig) -> None:
        """A read that finds more than is free by then sends what fits."""
        rig.publish("s", *"abcd")
        rig.publish("t", "x" * 90)
        rig.waits = lambda request: isinstance(request, Read)
        rig.say(hello(streams=(start("s"), start("t", id=2)), credit=Credit(200, 65_536 + 50)))
        assert len(rig.held) == 2
        rig.held.reverse()
        rig.release()
        assert rig.data("s") == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
        assert rig.data("t") == [(1, "x" * 90)]


class TestAppends:
    """Rule 2."""

    def test_messages_are_appended_then_acked(self, rig: Rig) -> None:
        """One ack covers a batch."""
        rig.hello()
        rig.say(Batch("s", 1, ["a", b"b"]))
        assert [(e.payload, e.text) for e in rig.store.contents("s")] == [(b"a", True), (b"b", False)]
        assert rig.one(Ack).committed == (SeqMark(0, "s", 2),)

    def test_one_append_at_a_time_and_later_ones_gather(self, rig: Rig) -> None:
        """Nothing is acked before its append was answered."""
        rig.hello()
        rig.waits = lambda request: isinstance(request, Append)
        rig.say(Batch("s", 1, ["a"]))
        rig.say(Batch("s", 2, ["b"]), Batch("s", 3, ["c"]))
        rig.say(Batch("t", 1, ["x"]))
        assert [len(request.entries) for request in rig.asked(Append)] == [1, 1]
        assert rig.all(Ack) == []
        rig.release()
        assert [len(request.entries) for request in rig.asked(Append)] == [1, 1, 2]
        assert rig.last(Ack).committed == (SeqMark(0, "s", 3),)

    def test_appends_are_cut_where_seqs_skip_or_much_waits(self, rig: Rig) -> None:
        """Each append has consecutive seqs and a bounded size."""
        rig.hello()
        rig.waits = lambda request: isinstance(request, Append)
        rig.say(Batch("s", 1, ["x"]), Batch("s", 2, ["x"] * 300), Batch("s", 302, ["y" * 200_000] * 3))
        rig.say(Batch("s", 305, ["z"]), Batch("s", 304, ["y" * 200_000]))
        rig.release()
        assert [len(request.entries) for request in rig.asked(Append)] == [1, 256, 46, 2, 1]
        assert len(rig.store.contents("s")) == 305

    def test_H3_H4_a_reject_goes_before_the_ack_that_covers_it(self, rig: Rig) -> None:
        """Too large and forbidden messages are consumed by a tombstone, later ones go on."""
        rig = Rig(max_message=4)
        rig.forbidden.add(("publish", "secret"))
        rig.hello()
        rig.say(Batch("s", 1, ["a", "too large", "c"]), Batch("secret", 1, ["x"]), Batch("~", 1, ["x"]))
        found = [item for item in rig.items if isinstance(item, (Reject, Ack))]
        assert [
            (item.stream, item.seq, item.code) if isinstance(item, Reject) else item.committed[0] for item in found
        ] == [
            ("s", 2, "too_large"),
            SeqMark(0, "s", 3),
            ("secret", 1, "forbidden"),
            SeqMark(0, "secret", 1),
            ("~", 1, "forbidden"),
            SeqMark(0, "~", 1),
        ]
        assert [e.payload for e in rig.store.contents("s")] == [b"a", b"c"]
        rig.say(Batch("s", 2, ["too large"]))
        assert len(rig.all(Reject)) == 3

    def test_a_withdrawn_message_is_consumed_by_a_tombstone_with_its_code(self, rig: Rig) -> None:
        """Later ones go on, and the stream shows nothing of it."""
        rig.hello()
        rig.say(Batch("s", 1, ["a"]), Batch("s", 2, [b"", b""], void="expired"), Batch("s", 4, ["d"]))
        assert [(r.seq, r.code, r.hint) for r in rig.all(Reject)] == [(2, "expired", ""), (3, "expired", "")]
        assert rig.last(Ack).committed == (SeqMark(0, "s", 4),)
        assert [e.payload for e in rig.store.contents("s")] == [b"a", b"d"]

    def test_a_welcome_says_what_is_committed_and_rejected(self, rig: Rig) -> None:
        """Producers are named by their place in the hello, and are remembered by the stream (H2, H3)."""
        rig.hello(producers=(EARLIER, PRODUCER))
        rig.say(Batch("s", 1, ["a", "b"]), Batch("s", 1, ["c", "x" * (2 << 20)], producer=1))
        other = Rig(rig.store)
        welcome = other.hello(
            instance=B,
            producers=(PRODUCER, EARLIER),
            streams=(start("s"),),
            outbound=(
                HelloOutbound(producer=1, stream="s", first=2, next=3),
                HelloOutbound(producer=0, stream="s", first=2, next=4),
                HelloOutbound(producer=0, stream="t", first=5, next=6),
            ),
        )
        assert [(c.producer, c.stream, c.seq, c.known, c.rejected) for c in welcome.committed] == [
            (1, "s", 2, True, ()),
            (0, "s", 2, True, ((2, "too_large"),)),
            (0, "t", 0, False, ()),
        ]
        assert len(other.asked(EnterStream)) == 2
        other.say(Ping(echo="x"))
        assert other.one(Pong).committed == (SeqMark(1, "s", 2), SeqMark(0, "s", 2), SeqMark(0, "t", 4))
        other.say(Batch("t", 5, ["e"]))
        assert other.all(Reject) == []
        assert other.last(Ack).committed == (SeqMark(0, "t", 5),)

    def test_a_hole_is_1012(self, rig: Rig) -> None:
        """The stream's slot is the judge; nothing is stored or acked."""
        rig.hello()
        rig.say(Batch("s", 2, ["b"]))
        assert rig.closed()[0] == 1012
        assert rig.store.contents("s") == ()
        assert rig.all(Ack) == []

    def test_an_unknown_outcome_is_1013_and_nothing_is_acked(self, rig: Rig) -> None:
        """The next hello asks the stream what happened."""
        rig.hello()
        rig.fails = lambda request: isinstance(request, Append)
        rig.say(Batch("s", 1, ["a"]))
        assert rig.closed()[0] == 1013
        assert rig.all(Ack) == []

    def test_H1_an_append_under_an_old_fence_is_4409(self, rig: Rig) -> None:
        """A node that was stopped meanwhile stores nothing."""
        first = rig.hello(outbound=(HelloOutbound(producer=0, stream="s", first=1, next=2),))
        again(rig, first, instance=B, outbound=(HelloOutbound(producer=0, stream="s", first=1, next=2),))
        rig.say(Batch("s", 1, ["a"]))
        assert rig.closed() == (4409, f"instance={B}")
        assert rig.store.contents("s") == ()

    @pytest.mark.parametrize(
        "broken", [Batch("s", None, ["a"]), Batch("s", 1, ["a"], producer=1), Batch("~x", 1, ["a"])]
    )
    def test_a_message_that_belongs_nowhere_is_4400(self, rig: Rig, broken: Batch) -> None:
        """No seq, no such producer, or somebody's private stream."""
        rig.hello()
        rig.say(broken)
        assert rig.closed()[0] == 4400
        assert rig.asked(Append) == []

    def test_a_welcome_names_no_more_tombstones_than_a_client_reads(self, rig: Rig) -> None:
        """It says that less is consumed; the client resends the rest, and hears of their tombstones then."""
        most = MOST_TOLD
        withdrawn = [b""] * 256
        rig.hello()
        for stream in "st":
            for first in range(1, most + 1, len(withdrawn)):
                rig.say(Batch(stream, first, withdrawn, void="expired"))
        rig.say(Batch("t", most + 1, [b""], void="late"), Batch("t", most + 2, ["kept"]))
        other = Rig(rig.store)
        entries = [HelloOutbound(producer=0, stream=stream, first=1, next=most + 3) for stream in "st"]
        welcome = other.hello(instance=B, outbound=(entries[0],))
        assert [(c.seq, len(c.rejected)) for c in welcome.committed] == [(most, most)]
        other = Rig(rig.store)
        welcome = other.hello(instance=B, attempt=2, outbound=(entries[1],))
        assert [(c.seq, len(c.rejected)) for c in welcome.committed] == [(most, most)]
        other = Rig(rig.store)
        welcome = other.hello(instance=B, attempt=3, outbound=tuple(entries))
        assert [(c.seq, len(c.rejected)) for c in welcome.committed] == [(most, most), (0, 0)]
        other.say(Batch("t", 1, withdrawn, void="expired"), Batch("t", most + 1, ["late", "kept"]))
        other.say(Ping(echo="x", sent_seqs=(SeqMark(0, "t", most + 2),)))
        assert len(other.all(Reject)) == len(withdrawn) + 1
        assert other.last(Ack).committed == (SeqMark(0, "t", most + 2),)
        assert [e.payload for e in rig.store.contents("t")] == [b"kept"]

    def test_too_many_lanes_are_4429(self) -> None:
        """A connection cannot make the node remember without bound."""
        rig = Rig(max_streams=1)
        rig.hello()
        rig.say(Batch("s", 1, ["a"]), Batch("s", 2, ["b"]), Batch("t", 1, ["a"]))
        assert rig.closed()[0] == 4429

    def test_a_backlog_stops_reading_without_a_timeout(self, rig: Rig) -> None:
        """What waits for the store is bounded by not reading more of it."""
        assert rig.session.is_congested is False
        rig.hello()
        rig.waits = lambda request: isinstance(request, Append)
        rig.say(Batch("s", 1, ["x" * (1 << 20)] * (MAX_BACKLOG // (1 << 20) + 1)))
        assert rig.session.is_congested is True
        rig.wait(8.0)
        assert rig.close is None
        rig.release()
        assert rig.session.is_congested is False
        rig.wait(8.0)
        assert rig.closed()[0] == 1011


class TestLife:
    """Rules 1 and 4, keepalive, drain, the end."""

    def test_a_session_is_refreshed_every_third_of_its_ttl(self) -> None:
        """A consumer that only listens does not expire."""
        rig = Rig(ttl=6.0)
        rig.hello()
        for _ in range(24):
            rig.wait(0.5)
            rig.say(Ping(echo="x"))
        assert len(rig.asked(Refresh)) == 6
        assert len(rig.store.sessions()) == 1

    def test_a_refresh_of_unknown_outcome_is_tried_again_soon(self) -> None:
        """It closes nothing; that the store is away is the node's to say."""
        rig = Rig(ttl=6.0, keepalive_interval=50.0)
        rig.hello()
        rig.fails = lambda request: isinstance(request, Refresh)
        rig.wait(2.0, 0.1)
        assert len(rig.asked(Refresh)) == 1
        rig.wait(1.0, 0.1)
        assert len(rig.asked(Refresh)) >= 2
        rig.session.store_silent(rig.now)
        rig.run()
        assert rig.closed()[0] == 1013

    def test_a_session_that_is_not_refreshed_for_long_is_1013(self) -> None:
        """The node hears other answers meanwhile, and another node may serve the session before it expires."""
        rig = Rig(ttl=6.0, keepalive_interval=50.0, poll_interval=50.0)
        rig.hello()
        rig.wait(2.1)
        rig.fails = lambda request: isinstance(request, Refresh)
        rig.wait(4.3, 0.1)
        assert rig.close is None
        rig.wait(1.0, 0.1)
        assert rig.closed()[0] == 1013

    def test_a_refresh_that_finds_no_session_is_1012(self) -> None:
        """The next hello gets a new one."""
        rig = Rig(ttl=3.0)
        welcome = rig.hello()
        rig.store.lose_session(welcome.session)
        rig.wait(1.0)
        assert rig.closed()[0] == 1012

    def test_a_refresh_under_an_old_fence_is_4409(self) -> None:
        """The warning may have been lost."""
        rig = Rig(ttl=3.0)
        first = rig.hello()
        again(rig, first, instance=B)
        rig.wait(1.0)
        assert rig.closed() == (4409, f"instance={B}")

    def test_H11_a_refresh_writes_a_higher_fence_back(self) -> None:
        """A record that lost its tail does not mint the same generation again."""
        rig = Rig(ttl=3.0)
        first = rig.hello()
        other, second = again(rig, first)
        rig.store.lose_session(first.session, 1)
        other.session.handle_timer(21.0)
        other.run()
        assert len(other.asked(Refresh)) == 1
        _, welcome = again(rig, first, attempt=3)
        assert (second.generation, welcome.generation) == (2, 3)

    def test_a_fence_raised_elsewhere_closes_the_old_connection(self, rig: Rig) -> None:
        """Only a newer one of our session does."""
        welcome = rig.hello()
        fence = rig.session.fence
        assert fence is not None
        rig.session.fence_raised(welcome.session, fence, 0.0)
        rig.session.fence_raised("other", newer(fence), 0.0)
        rig.run()
        assert rig.close is None
        rig.session.fence_raised(welcome.session, newer(fence), 0.0)
        rig.run()
        assert rig.closed() == (4409, f"instance={B}")

    def test_before_a_hello_no_fence_and_no_wake_means_anything(self, rig: Rig) -> None:
        """There is no session yet."""
        rig.session.fence_raised("01x", Fence(1, B, 1), 0.0)
        rig.session.woken("s", 0.0)
        assert rig.session.actions() == []
        assert (rig.session.session, rig.session.fence) == (None, None)

    def test_a_silent_client_is_pinged_then_given_up(self, rig: Rig) -> None:
        """The ping carries the marks; anything that is heard counts as life."""
        epoch = rig.publish("s", "a")
        rig.hello(streams=(start(),))
        rig.say(Batch("s", 1, ["b"]))
        rig.session.woken("s", 0.0)
        rig.run()
        rig.wait(1.0)
        ping = rig.one(Ping)
        assert ping.sent_offsets == (OffsetMark("s", 1, epoch, 2),)
        assert ping.committed == (SeqMark(0, "s", 1),)
        assert ping.spread is None
        rig.say(Pong(echo=ping.echo))
        rig.wait(5.5)
        assert rig.close is None
        rig.wait(0.5)
        assert rig.closed() == (1011, "keepalive timeout")

    def test_a_busy_client_is_not_pinged(self, rig: Rig) -> None:
        """Its frames are life enough."""
        rig.hello()
        for _ in range(10):
            rig.wait(0.5)
            rig.say(Ack())
        assert rig.all(Ping) == []

    def test_K4_a_node_that_stood_still_asks_before_it_gives_up(self, rig: Rig) -> None:
        """Its own late timer says that the silence was its own."""
        rig.hello()
        rig.now = 60.0
        rig.session.handle_timer(60.0)
        rig.run()
        assert rig.close is None
        assert len(rig.all(Ping)) == 1
        rig.wait(5.0)
        assert rig.closed()[0] == 1011

    def test_a_ping_is_answered_with_marks(self, rig: Rig) -> None:
        """The echo comes back."""
        epoch = rig.publish("s", "a")
        rig.hello(streams=(start(),))
        rig.say(Ping(echo="e1"))
        assert rig.one(Pong) == Pong(echo="e1", sent_offsets=(OffsetMark("s", 1, epoch, 1),))

    @pytest.mark.parametrize(
        ("spread", "told"),
        [(0.5, None), (0.625, None), (0.626, 0.626), (0.375, None), (0.374, 0.374), (0.0, 0.0), (300.0, 300.0)],
    )
    def test_a_window_that_changed_by_more_than_a_quarter_is_told(
        self, rig: Rig, spread: float, told: float | None
    ) -> None:
        """It rides on the next pong, once; so does a change to nothing known."""
        rig.hello()
        rig.advise(spread)
        rig.say(Ping(echo="e1"))
        assert rig.one(Pong).spread == told
        rig.say(Ping(echo="e2"))
        assert [pong.spread for pong in rig.all(Pong)] == [told, None]
        rig.wait(1.0)
        assert [ping.spread for ping in rig.all(Ping)] == [None]

    def test_a_window_is_told_from_nothing_known(self) -> None:
        """Where the welcome said 0, any window is news, and a small step from what was told is none."""
        rig = Rig(spread=0.0)
        rig.hello()
        rig.advise(0.001)
        rig.say(Ping(echo="e1"))
        rig.advise(0.00125)
        rig.say(Ping(echo="e2"))
        assert [pong.spread for pong in rig.all(Pong)] == [0.001, None]

    def test_a_busy_client_is_told_a_new_window_all_the_same(self, rig: Rig) -> None:
        """One that neither pings nor is silent gets a ping for it, within a keepalive interval, and then no other."""
        rig.hello()
        rig.advise(2.0)
        for _ in range(20):
            rig.wait(0.1)
            rig.say(Ack())
        assert [ping.spread for ping in rig.all(Ping)] == [2.0]

    def test_steps_too_small_to_tell_add_up(self, rig: Rig) -> None:
        """What counts is what the client was told, not what the node thought last."""
        rig.hello()
        for spread in (0.55, 0.6, 0.65):
            rig.advise(spread)
        rig.say(Ping(echo="e1"))
        assert rig.one(Pong).spread == 0.65

    def test_nobody_is_told_a_window_before_the_welcome(self, rig: Rig) -> None:
        """A spare is no session: it hears of windows when it says hello."""
        rig.say(hello(standby=True))
        rig.advise(2.0)
        rig.say(Ping(echo="e1"))
        assert rig.one(Pong).spread is None
        rig.hello()
        assert rig.one(Welcome).spread == 2.0

    def test_a_drain_names_the_present_window_and_peers(self, rig: Rig) -> None:
        """Not those of the welcome."""
        rig.hello()
        rig.advise(2.0, ("ws://c",))
        rig.session.drain(1.0, 0.0)
        rig.run()
        assert (rig.one(Drain).spread, rig.one(Drain).peers) == (2.0, ("ws://c",))

    @pytest.mark.parametrize("mark", [SeqMark(0, "s", 3), SeqMark(0, "t", 1), SeqMark(5, "s", 1)])
    def test_S17_a_lost_tail_of_the_client_is_1012(self, rig: Rig, mark: SeqMark) -> None:
        """A client's mark above what arrived on this connection."""
        rig.hello()
        rig.say(Batch("s", 1, ["a", "b"]))
        rig.say(Ping(echo="x", sent_seqs=(SeqMark(0, "s", 2),)))
        assert rig.close is None
        rig.say(Pong(echo="x", sent_seqs=(mark,)))
        assert rig.closed()[0] == 1012

    def test_nothing_is_done_after_a_close(self, rig: Rig) -> None:
        """What else the frame carried that ended the connection changes nothing."""
        session = rig.hello(streams=(start("~"),)).session
        epoch = rig.publish(f"~{session}", "a")
        rig.say(Ping(echo="x", sent_seqs=(SeqMark(0, "s", 1),), acked=(AckedMark("~", epoch, 1),)))
        assert rig.closed()[0] == 1012
        assert rig.asked(TrimPrivate) == []
        assert rig.all(Pong) == []

    def test_auth_is_kept_for_the_node(self, rig: Rig) -> None:
        """The node decides what to do with it; an error of the client's changes nothing."""
        rig.hello()
        rig.say(Auth(access_token="fresh"), Error(code="x"))
        assert rig.session.auth == Auth(access_token="fresh")
        assert rig.close is None

    def test_bye_ends_the_session(self, rig: Rig) -> None:
        """Then the connection closes 1000, also where the session was gone already."""
        for lost in (False, True):
            rig = Rig(rig.store)
            welcome = rig.hello()
            if lost:
                rig.store.lose_session(welcome.session)
            rig.say(Bye())
            assert rig.closed()[0] == 1000
            assert len(rig.asked(EndSession)) == 1
            assert rig.store.sessions() == ()

    def test_bye_ends_what_was_written_before_it_first(self, rig: Rig) -> None:
        """It is committed and acked, appends that had to wait too; nothing behind the bye is read."""
        rig.hello()
        rig.waits = lambda request: isinstance(request, Append)
        rig.say(Batch("s", 1, ["a"]), Batch("s", 2, ["b"]), Bye(), Batch("s", 3, ["behind the bye"]))
        rig.say(Batch("s", 3, ["behind the bye"]))
        assert (rig.asked(EndSession), rig.close) == ([], None)
        rig.release()
        assert rig.last(Ack).committed == (SeqMark(0, "s", 2),)
        assert rig.closed()[0] == 1000
        assert len(rig.asked(EndSession)) == 1
        assert [e.payload for e in rig.store.contents("s")] == [b"a", b"b"]
        assert rig.store.sessions() == ()

    def test_bye_is_not_answered_twice(self, rig: Rig) -> None:
        """Other answers that come before that of its step ask for nothing more; an unknown outcome is 1013."""
        rig.hello(streams=(start(),))
        rig.waits = lambda request: isinstance(request, (EndSession, Read))
        rig.publish("s", "a")
        rig.say(Bye())
        rig.answer(next(call for call in rig.held if isinstance(call.request, Read)))
        rig.run()
        assert len(rig.asked(EndSession)) == 1
        rig.fails = lambda request: isinstance(request, EndSession)
        rig.release()
        assert rig.closed()[0] == 1013

    def test_bye_is_1000_whatever_finds_the_session_gone_first(self, rig: Rig) -> None:
        """A step that was under way is answered with that it is gone; what follows is the answer to the bye's own."""
        rig.hello(streams=(start(),))
        rig.waits = lambda request: isinstance(request, (EndSession, Read))
        rig.publish("s", "a")
        rig.say(Bye())
        (read,) = (call for call in rig.held if isinstance(call.request, Read))
        rig.session.answered(read.id, SessionUnknown(), rig.now)
        assert rig.session.actions() == []
        rig.release()
        assert rig.closed()[0] == 1000

    def test_a_drain_finishes_what_was_read(self, rig: Rig) -> None:
        """The client is asked to leave; at the end outstanding appends are acked before 1012, nothing new is read."""
        rig.hello()
        rig.session.drain(2.0, 0.0, jitter=0.1)
        rig.run()
        assert rig.one(Drain) == Drain(within=2.0, jitter=0.1, spread=0.5, peers=("ws://b",))
        rig.say(Batch("s", 1, ["a"]))
        rig.waits = lambda request: isinstance(request, Append)
        rig.say(Batch("s", 2, ["b"]))
        rig.wait(2.0)
        assert rig.session.phase is Phase.LEAVING
        rig.say(Batch("s", 3, ["never read"]))
        assert rig.close is None
        rig.release()
        assert rig.last(Ack).committed == (SeqMark(0, "s", 2),)
        assert rig.closed()[0] == 1012
        assert len(rig.store.contents("s")) == 2

    def test_an_idle_drain_ends_at_its_time(self, rig: Rig) -> None:
        """Other peers can be advised than the settings say."""
        rig.hello()
        rig.session.drain(1.0, 0.0, peers=())
        rig.wait(1.0)
        assert rig.one(Drain).peers == ()
        assert rig.closed()[0] == 1012

    def test_a_drain_does_not_wait_for_a_dead_store(self, rig: Rig) -> None:
        """It has its own end."""
        rig.hello()
        rig.waits = lambda request: True
        rig.say(Batch("s", 1, ["a"]))
        rig.session.drain(1.0, 0.0)
        rig.wait(1.0)
        for _ in range(5):
            rig.say(Ping(echo="x"))
            rig.wait(1.0)
        assert rig.closed()[0] == 1012

    def test_who_has_no_session_leaves_at_once(self, rig: Rig) -> None:
        """A drain has nothing to finish there."""
        rig.session.drain(5.0, 0.0)
        rig.run()
        assert rig.closed()[0] == 1012

    def test_a_lost_connection_writes_nothing(self, rig: Rig) -> None:
        """The session lives on; what is answered or comes later changes nothing (rule 1)."""
        rig.waits = lambda request: isinstance(request, Append)
        rig.hello(streams=(start(),))
        rig.say(Batch("s", 1, ["a"]))
        before = len(rig.requests)
        rig.session.connection_lost(0.0)
        rig.release()
        rig.say(Batch("s", 2, ["b"]))
        rig.session.handle_timer(100.0)
        rig.session.store_silent(100.0)
        rig.session.woken("s", 100.0)
        rig.run()
        assert (len(rig.requests), rig.close, rig.watched) == (before, None, [])
        assert rig.session.next_deadline() is None
        assert rig.session.is_closed
        assert len(rig.store.sessions()) == 1
