"""Random schedules against the server's half of a session: a small honest client judges everything that it is sent."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest

from resilient_ws.frames import (
    Ack,
    AckedMark,
    Batch,
    Credit,
    GapFrame,
    Grant,
    Held,
    Hello,
    HelloOutbound,
    HelloStream,
    Ping,
    Ready,
    Reject,
    SeqMark,
    Welcome,
)
from server_fixture.backplane import BackplaneError, Entry, Publish
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.session import Call, Close, NodeSettings, Send, ServerSession

PRODUCER = "1" * 32
INSTANCE = "a" * 32
WINDOW = 5
STREAMS = ("s", "t")


class View:
    """What a client has of one stream; ``seen`` maps offsets to payloads, or to None where a gap covers them."""

    def __init__(self) -> None:
        self.epoch = ""
        self.offset = 0
        self.crc: int | None = None
        self.seen: dict[int, str | None] = {}
        self.duplicates_to = 0
        self.is_answered = False

    def data(self, batch: Batch) -> int:
        """Take a batch; returns how many messages were new."""
        assert batch.first is not None
        new = 0
        for number, payload in enumerate(batch.payloads, batch.first):
            assert isinstance(payload, str)
            if number <= self.offset:
                assert number <= self.duplicates_to, "a duplicate that nothing allows"
                continue
            before = batch.prev if number == batch.first and batch.prev is not None else number - 1
            assert before <= self.offset, "a hole on one connection"
            self.offset, self.crc = number, zlib.crc32(payload.encode())
            self.seen[number] = payload
            new += 1
        return new

    def gap(self, gap: GapFrame) -> None:
        if gap.epoch != self.epoch:
            self.seen.clear()
            self.epoch, self.duplicates_to, self.offset = gap.epoch, 0, gap.next - 1
            self.seen.update(dict.fromkeys(range(1, gap.next)))
        else:
            assert gap.first <= self.offset + 1, "a gap over a hole"
            assert gap.last is not None
            self.seen.update(dict.fromkeys(range(gap.first, gap.last + 1)))
            self.offset = max(self.offset, gap.next - 1)
        self.crc = None


class Client:
    """An honest client and the node that it is connected to, with answers that come late or not at all."""

    def __init__(self, seed: int, *, faults: bool) -> None:
        self.rng = random.Random(seed)
        self.faults = faults
        self.store = MemoryBackplane(random.Random(seed), retention=30 if faults else 10_000)
        self.now = 0.0
        self.views = {name: View() for name in (*STREAMS, "~")}
        self.welcome: Welcome | None = None
        self.attempt = 0
        self.first, self.next = 1, 1
        self.rejected: set[int] = set()
        self.published = 0
        self.connect()

    # -- the connection -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        settings = NodeSettings(node="n", key=b"k", max_message=8)
        self.session = ServerSession(settings, "alice", lambda *asked: True, random.Random(self.rng.random()), self.now)
        self.calls: list[Call] = []
        self.is_welcomed = False
        self.cursor = self.next
        self.attempt += 1
        self.granted, self.used = WINDOW, 0
        self.session.received([self.hello()], self.now)
        self.perform()

    def hello(self) -> Hello:
        outbound: tuple[HelloOutbound, ...] = ()
        if self.first < self.next:
            outbound = (HelloOutbound(producer=0, stream="s", first=self.first, next=self.next),)
        return Hello(
            instance=INSTANCE,
            attempt=self.attempt,
            producers=(PRODUCER,),
            credit=Credit(WINDOW, 1000),
            max_message=1000,
            session=None if self.welcome is None else self.welcome.session,
            token=None if self.welcome is None else self.welcome.token,
            streams=tuple(
                HelloStream(stream=name, id=number, held=Held(view.epoch, view.offset, view.crc), acked=view.offset)
                if view.is_answered
                else HelloStream(stream=name, id=number, start="earliest")
                for number, (name, view) in enumerate(self.views.items(), 1)
            ),
            outbound=outbound,
        )

    def perform(self) -> None:
        closed = False
        for action in self.session.actions():
            assert not closed
            if isinstance(action, Call):
                self.calls.append(action)
            elif isinstance(action, Send):
                for item in action.items:
                    self.take(item)
            elif isinstance(action, Close):
                assert action.code in (1012, 1013), action
                closed = True
        if closed:
            self.connect()

    def answer(self, *, honest: bool = False) -> None:
        """Answer one outstanding call; calls of different streams overtake each other."""
        if not self.calls:
            return
        call = self.calls.pop(self.rng.randrange(len(self.calls)))
        dice = 1.0 if honest else self.rng.random()
        answer = BackplaneError("before") if dice < 0.01 else self.store.step(call.request, self.now)
        self.session.answered(call.id, BackplaneError("after") if dice > 0.99 and not honest else answer, self.now)
        self.perform()

    # -- what arrives -------------------------------------------------------------------------------------------------

    def take(self, item: Any) -> None:
        handler: dict[type, Any] = {
            Welcome: self.take_welcome,
            Batch: self.take_data,
            Ack: self.take_ack,
            Reject: self.take_reject,
        }
        if isinstance(item, GapFrame):
            self.views[item.stream].gap(item)
        elif type(item) in handler:
            handler[type(item)](item)

    def take_welcome(self, welcome: Welcome) -> None:
        if welcome.verdict == "new" and self.welcome is not None:
            assert self.faults
        self.welcome, self.is_welcomed = welcome, True
        for answer in welcome.streams:
            assert answer.error is None
            view = self.views[answer.stream]
            if not view.is_answered:
                view.epoch, view.offset, view.crc, view.is_answered = answer.epoch, answer.first - 1, answer.crc, True
                view.seen.update(dict.fromkeys(range(1, answer.first)))
            if answer.gap is not None:
                view.gap(answer.gap)
            assert answer.epoch == view.epoch
            assert answer.first <= view.offset + 1
            view.duplicates_to = max(answer.live, view.offset)
        self.cursor = self.first
        for committed in welcome.committed:
            self.rejected.update(seq for seq, _ in committed.rejected)
            assert committed.seq < self.next
            self.settle(committed.seq)
        self.cursor = self.first

    def take_data(self, batch: Batch) -> None:
        self.used += len(batch.payloads)
        assert self.used <= self.granted, "more than the credit"
        self.views[batch.stream].data(batch)

    def take_reject(self, reject: Reject) -> None:
        self.rejected.add(reject.seq)

    def take_ack(self, ack: Ack) -> None:
        for mark in ack.committed:
            assert mark.seq < self.cursor, "an ack of what was not sent"
            self.settle(mark.seq)

    def settle(self, seq: int) -> None:
        for number in range(self.first, seq + 1):
            assert (number in self.rejected) == (number % 7 == 0), "a receipt that lies (INV-S1)"
        self.first = max(self.first, seq + 1)

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        moves: list[Any] = [self.answer] * 12 + [self.publish] * 4 + [self.send] * 3 + [self.grant] * 3
        moves += [self.ack, self.tick, self.lose, self.beat]
        if self.faults:
            moves += [self.rewrite, self.trim] + ([self.fail_over] if self.rng.random() < 0.2 else [])
        self.rng.choice(moves)()

    def publish(self) -> None:
        name = self.rng.choice(list(self.views))
        stream = name
        if name == "~":
            if self.welcome is None:
                return
            stream = f"~{self.welcome.session}"
        texts = [f"{name}{self.published + number}" for number in range(self.rng.randint(1, 3))]
        self.published += len(texts)
        self.store.step(Publish(stream=stream, entries=tuple(Entry(t.encode(), True) for t in texts)), self.now)
        if self.rng.random() < 0.8:
            self.session.woken(stream, self.now)
            self.perform()

    def send(self) -> None:
        self.next += self.rng.randint(0, 3)
        self.write()

    def write(self) -> None:
        if not self.is_welcomed or self.cursor >= self.next:
            return
        payloads: list[str | bytes] = [
            "too large for it" if seq % 7 == 0 else f"#{seq}" for seq in range(self.cursor, self.next)
        ]
        first, self.cursor = self.cursor, self.next
        self.session.received([Batch("s", first, payloads)], self.now)
        self.perform()

    def grant(self) -> None:
        if self.is_welcomed:
            self.granted = self.used + WINDOW
            self.session.received([Grant(credit=Credit(self.granted, 10_000))], self.now)
            self.perform()

    def ack(self) -> None:
        if self.is_welcomed:
            assert self.welcome is not None
            marks = tuple(AckedMark(name, view.epoch, view.offset) for name, view in self.views.items())
            self.session.received([Ready(generation=self.welcome.generation), Ack(acked=marks)], self.now)
            self.perform()

    def beat(self) -> None:
        if self.is_welcomed:
            marks = (SeqMark(0, "s", self.cursor - 1),) if self.first < self.cursor else ()
            self.session.received([Ping(echo="x", sent_seqs=marks)], self.now)
            self.perform()

    def tick(self) -> None:
        self.now += self.rng.random()
        self.session.handle_timer(self.now)
        self.perform()

    def lose(self) -> None:
        if self.rng.random() < 0.3:
            self.session.connection_lost(self.now)
            self.connect()

    def rewrite(self) -> None:
        self.store.lose_tail("t", self.rng.randint(1, 3))

    def trim(self) -> None:
        contents = self.store.contents("t")
        if contents:
            self.store.trim("t", self.rng.choice(contents).offset)

    def fail_over(self) -> None:
        self.store.new_incarnation()

    # -- the end ------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything works again: go on until nothing is left to do."""
        for _ in range(60):
            self.now += 0.9
            self.session.handle_timer(self.now)
            self.perform()
            while self.calls:
                self.answer(honest=True)
            self.write()
            self.beat()
            self.grant()
        while self.calls:
            self.answer(honest=True)
        self.ack()
        while self.calls:
            self.answer(honest=True)

    def judge(self) -> None:
        assert self.welcome is not None
        assert self.first == self.next, "a send without an outcome (INV-L1)"
        for name, view in self.views.items():
            stream = f"~{self.welcome.session}" if name == "~" else name
            for entry in self.store.contents(stream):
                assert entry.offset <= view.offset, f"{name}: {entry.offset} was never sent (INV-L3)"
                assert view.seen[entry.offset] in (entry.payload.decode(), None), "replaced in silence (INV-S5)"
        assert self.store.contents(f"~{self.welcome.session}") == (), "acked and not trimmed (INV-L4)"
        if not self.faults:
            assert all(None not in view.seen.values() for view in self.views.values()), (
                "a gap without a reason (INV-S7)"
            )

    def stored(self) -> list[int]:
        return [int(e.payload[1:]) for e in self.store.contents("s") if e.payload.startswith(b"#")]


def run(seed: int, *, faults: bool) -> Client:
    client = Client(seed, faults=faults)
    for _ in range(250):
        client.step()
    client.heal()
    client.judge()
    return client


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_lost_or_repeated_over_lost_connections(seed: int) -> None:
    """Late, reordered and unknown answers, lost connections and wakes: every message has one outcome (INV-S1 to S5)."""
    client = run(seed, faults=False)
    stored = client.stored()
    assert stored == sorted(set(stored)), "stored twice or out of order (INV-S2, INV-S3)"
    assert not any(seq % 7 == 0 for seq in stored)


@pytest.mark.parametrize("seed", range(1000, 1060))
def test_a_store_that_loses_its_tail_is_told(seed: int) -> None:
    """Rolled back, trimmed and failed over streams: what cannot be had is in a gap, and the streams go on (rule 7)."""
    run(seed, faults=True)


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("no CRC in reads", ("server_fixture.backplane.slots.Stream.matches", lambda self, offset, crc: None)),
        ("no lift", ("server_fixture.backplane.slots.Stream.lift", lambda self, offset: False)),
        ("credit is not looked at", ("server_fixture.reading.Reading._spend", lambda self, size: True)),
        ("gaps are swallowed", ("server_fixture.reading.Reader.settle", None)),
    ],
)
def test_the_judge_notices_a_broken_rule(kind: str, patch: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: each of these rules left out is seen in some schedule."""
    from server_fixture.reading import Reader

    name, broken = patch
    settle = Reader.settle

    def silent(self: Reader, held: Held | None, facts: Any) -> None:
        settle(self, held, facts)

    monkeypatch.setattr(name, broken or silent)

    def schedules() -> None:
        for seed in range(1000, 1060):
            run(seed, faults=True)

    with pytest.raises((AssertionError, KeyError)):
        schedules()
