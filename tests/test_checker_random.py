"""The judge against random runs: clean ones pass, and each way to spoil a clean one is found."""

from __future__ import annotations

import collections.abc
import random
import typing

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_fixture import checker
from server_fixture import history as h

STREAM = "orders"


@attrs.define
class Reader:
    """One subscriber of the world: where he is, and whether he follows."""

    epoch: str = "e1"
    next: int = 1
    follows: bool = False


@attrs.define
class World:
    """A store and its users that keep every promise, and the history of what they did."""

    ops: list[h.Op] = attrs.field(factory=list)
    epoch: str = "e1"
    base: int = 1
    log: list[h.Effect] = attrs.field(factory=list)
    floor: int = 1
    seqs: dict[str, int] = attrs.field(factory=dict)
    readers: dict[str, Reader] = attrs.field(factory=dict)
    now: float = 0.0
    published: int = 0

    @property
    def end(self) -> int:
        """The offset that the next message gets."""
        return self.base + len(self.log)

    def tick(self) -> float:
        """Let time pass, and tell it."""
        self.now += 0.5
        return self.now

    def send(self, producer: str, fate: str) -> None:
        """Send a message that ends as ok, fail, info (stored or not) or pending (stored or not)."""
        seq = self.seqs[producer] = self.seqs.get(producer, 0) + 1
        payload = f"text:{producer}/{seq}"
        self.ops.append(h.Send(producer, self.tick(), producer, STREAM, seq, payload))
        if fate in ("ok", "info stored", "pending stored"):
            self.log.append(h.Effect(self.end, payload, producer, seq))
        outcome = fate.split()[0]
        if outcome != "pending":
            self.ops.append(h.Receipt(producer, self.tick(), producer, STREAM, seq, outcome))

    def publish(self) -> None:
        """Append by the server's own API."""
        self.published += 1
        effect = h.Effect(self.end, f"text:news/{self.published}")
        self.ops.append(h.Publish("node", self.tick(), STREAM, effect.payload, self.epoch, effect.offset))
        self.log.append(effect)

    def trim(self, count: int) -> None:
        """Let retention take the oldest messages."""
        self.floor = min(self.floor + count, self.end)

    def forget(self) -> None:
        """Lose everything and begin a new epoch, if anybody is there to be told of it."""
        if not any(reader.follows for reader in self.readers.values()):
            return
        self.epoch = f"e{int(self.epoch[1:]) + 1}"
        self.base = self.floor = 1
        self.log = []
        self.seqs = {}

    def reader(self, name: str) -> Reader:
        """Have this reader follow, from the end of the stream if he did not."""
        reader = self.readers.setdefault(name, Reader())
        if not reader.follows:
            reader.follows, reader.epoch, reader.next = True, self.epoch, self.end
            self.ops.append(h.Subscribed(name, self.tick(), STREAM, self.epoch, reader.next))
        return reader

    def read(self, name: str, count: int) -> None:
        """Deliver up to that many messages, after the gap where there is one."""
        reader = self.reader(name)
        if reader.epoch != self.epoch:
            self.ops.append(h.GapReported(name, self.tick(), STREAM, self.epoch, reader.next, None, 1, "epoch"))
            reader.epoch, reader.next = self.epoch, 1
        if reader.next < self.floor:
            last = self.floor - 1
            self.ops.append(
                h.GapReported(name, self.tick(), STREAM, self.epoch, reader.next, last, self.floor, "trimmed")
            )
            reader.next = self.floor
        for effect in self.log[reader.next - self.base :][:count]:
            self.ops.append(h.Deliver(name, self.tick(), STREAM, self.epoch, effect.offset, effect.payload))
            reader.next = effect.offset + 1

    def redeliver(self, name: str) -> None:
        """Deliver this reader's last message again, and say so."""
        mine = [op for op in self.ops if isinstance(op, h.Deliver) and op.process == name]
        if mine and self.reader(name).epoch == mine[-1].epoch:
            self.ops.append(attrs.evolve(mine[-1], time=self.tick(), redelivered=True))

    def leave(self, name: str) -> None:
        """Let this reader unsubscribe."""
        if self.readers.get(name, Reader()).follows:
            self.readers[name].follows = False
            self.ops.append(h.Unsubscribed(name, self.tick(), STREAM))

    def finish(self) -> list[h.Op]:
        """Deliver what is owed, read the store a last time."""
        for name, reader in self.readers.items():
            if reader.follows:
                self.read(name, len(self.log))
        held = tuple(effect for effect in self.log if effect.offset >= self.floor)
        self.ops.append(h.FinalRead(self.tick(), STREAM, self.epoch, self.floor, held))
        return self.ops


FATES = ["ok", "ok", "ok", "ok", "fail", "info stored", "info lost", "pending stored", "pending lost"]
NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(["p", "q"]), st.sampled_from(FATES)),
    st.tuples(st.just("send"), st.sampled_from(["p", "q"]), st.just("ok")),
    st.tuples(st.just("publish")),
    st.tuples(st.just("trim"), st.integers(1, 4)),
    st.tuples(st.just("read"), NAMES, st.integers(0, 4)),
    st.tuples(st.just("read"), NAMES, st.integers(0, 4)),
    st.tuples(st.just("redeliver"), NAMES),
    st.tuples(st.just("leave"), NAMES),
    st.tuples(st.just("forget")),
)


def run(steps: collections.abc.Iterable[tuple[typing.Any, ...]]) -> list[h.Op]:
    """Let the steps happen; a new life of the store gives every producer a new name."""
    world, life = World(), 0
    for name, *args in steps:
        if name == "forget":
            life += 1
        if name == "send":
            args[0] = f"{args[0]}{life}"
        getattr(world, name)(*args)
    return world.finish()


def random_run(dice: random.Random, length: int = 60) -> list[h.Op]:
    """A longer run, by dice, in which every promise is kept."""
    steps: list[tuple[typing.Any, ...]] = [("read", "a", 0), ("read", "b", 0)]
    for _ in range(length):
        kind = dice.choices(
            ["send", "publish", "trim", "read", "leave", "redeliver", "forget"], [40, 6, 3, 30, 2, 3, 0.6]
        )[0]
        args: dict[str, tuple[typing.Any, ...]] = {
            "send": (dice.choice("pq"), dice.choice(FATES)),
            "trim": (dice.randint(1, 5),),
            "read": (dice.choice("abc"), dice.randint(1, 4)),
            "leave": (dice.choice("abc"),),
            "redeliver": (dice.choice("abc"),),
        }
        steps.append((kind, *args.get(kind, ())))
    return run(steps)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_clean_run_passes(steps: list[tuple[typing.Any, ...]]) -> None:
    """Whatever happens in a store that keeps its promises, the checker finds nothing."""
    assert checker.check(run(steps)).anomalies == ()


Spoiled: typing.TypeAlias = "tuple[list[h.Op], str] | None"


def pick(dice: random.Random, ops: list[h.Op], wanted: collections.abc.Callable[[int], bool]) -> int | None:
    """Choose the place of an op that is wanted, if there is one."""
    places = [at for at in range(len(ops)) if wanted(at)]
    return dice.choice(places) if places else None


INBOUND = (h.Deliver, h.GapReported, h.Unsubscribed)


def goes_on(ops: list[h.Op], at: int) -> bool:
    """Tell whether what this reader does next is no leave, so that he is owed what is at this place."""
    process = ops[at].process  # type: ignore[union-attr]
    later = [op for op in ops[at + 1 :] if isinstance(op, INBOUND) and op.process == process]
    return all(not isinstance(op, h.Unsubscribed) for op in later[:1])


def final(ops: list[h.Op]) -> h.FinalRead:
    """The store's last word."""
    (read,) = (op for op in ops if isinstance(op, h.FinalRead))
    return read


def delivery(ops: list[h.Op], at: int, held: bool) -> bool:
    """Tell whether here is the only delivery of a message, owed, in the store at the end or not."""
    op = ops[at]
    if not isinstance(op, h.Deliver) or op.redelivered or not goes_on(ops, at):
        return False
    same = [
        o
        for o in ops
        if isinstance(o, h.Deliver) and (o.process, o.epoch, o.offset) == (op.process, op.epoch, op.offset)
    ]
    read = final(ops)
    is_held = op.epoch == read.epoch and op.offset >= read.first_offset
    return len(same) == 1 and op.epoch == read.epoch and is_held == held


def swallow(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """One message that the store holds is not delivered."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=True))
    return None if at is None else (ops[:at] + ops[at + 1 :], "lost")


def swallow_trimmed(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """One message that the store holds no longer was not delivered and not reported."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=False))
    return None if at is None else (ops[:at] + ops[at + 1 :], "unreported_gap")


def repeat(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """One message is delivered twice."""
    at = pick(dice, ops, lambda at: isinstance(ops[at], h.Deliver))
    return (
        None
        if at is None
        else ([*ops[: at + 1], attrs.evolve(ops[at], redelivered=False), *ops[at + 1 :]], "duplicated")
    )  # type: ignore[arg-type, call-arg]


def swap(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """Two messages are delivered in the wrong order."""

    def is_pair(at: int) -> bool:
        pair = ops[at : at + 2]
        if not all(isinstance(op, h.Deliver) and not op.redelivered for op in pair) or len(pair) < 2:
            return False
        one, two = typing.cast("list[h.Deliver]", pair)
        return (one.process, one.epoch, one.offset + 1) == (two.process, two.epoch, two.offset)

    at = pick(dice, ops, is_pair)
    return None if at is None else ([*ops[:at], ops[at + 1], ops[at], *ops[at + 2 :]], "reordered")


def forge(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """One message is delivered with other bytes."""
    at = pick(dice, ops, lambda at: isinstance(ops[at], h.Deliver))
    return (
        None if at is None else ([*ops[:at], attrs.evolve(ops[at], payload="text:forged"), *ops[at + 1 :]], "phantom")
    )  # type: ignore[arg-type, call-arg]


def conceal(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """One gap is not reported, and the reader goes on with a message, or is told of nothing more."""

    def is_missed(at: int) -> bool:
        later = [op for op in ops[at + 1 :] if isinstance(op, INBOUND) and op.process == ops[at].process]  # type: ignore[union-attr]
        return isinstance(ops[at], h.GapReported) and all(isinstance(op, h.Deliver) for op in later[:1])

    at = pick(dice, ops, is_missed)
    return None if at is None else (ops[:at] + ops[at + 1 :], "unreported_gap")


def pretend(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """A gap is reported instead of a message that the store holds."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=True))
    if at is None:
        return None
    op = typing.cast("h.Deliver", ops[at])
    gap = h.GapReported(op.process, op.time, op.stream, op.epoch, op.offset, op.offset, op.offset + 1, "trimmed")
    return [*ops[:at], gap, *ops[at + 1 :]], "gap_over_existing"


def deny(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """A message that is in the store is said to have been refused."""
    held = {(e.producer, e.seq) for e in final(ops).messages}
    at = pick(dice, ops, lambda at: isinstance(op := ops[at], h.Receipt) and (op.producer, op.seq) in held)
    return None if at is None else ([*ops[:at], attrs.evolve(ops[at], outcome="fail"), *ops[at + 1 :]], "false_receipt")  # type: ignore[arg-type, call-arg]


def with_messages(ops: list[h.Op], messages: collections.abc.Iterable[h.Effect]) -> list[h.Op]:
    """The same run, but the store holds this at the end."""
    return [attrs.evolve(op, messages=tuple(messages)) if isinstance(op, h.FinalRead) else op for op in ops]


def erase(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """A committed message is not in the store although an earlier one of its producer is; nobody was given it."""
    messages = final(ops).messages
    committed = {(op.producer, op.seq) for op in ops if isinstance(op, h.Receipt) and op.outcome == "ok"}
    told = [op.time for op in ops if isinstance(op, h.GapReported) and op.reason == "epoch"]
    late = {(op.producer, op.seq) for op in ops if isinstance(op, h.Receipt) and op.time > max(told, default=0.0)}

    def is_later(at: int) -> bool:
        mine = messages[at]
        earlier = any(e.producer == mine.producer for e in messages[:at])
        return mine.producer is not None and earlier and (mine.producer, mine.seq) in committed & late

    at = dice.choice(places) if (places := [at for at in range(len(messages)) if is_later(at)]) else None
    if at is None:
        return None
    gone = messages[at].payload
    rest = [op for op in ops if not (isinstance(op, h.Deliver) and op.payload == gone)]
    return with_messages(rest, messages[:at] + messages[at + 1 :]), "false_receipt"


def store_twice(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """A message is in the store a second time."""
    messages = final(ops).messages
    if not messages:
        return None
    again = attrs.evolve(dice.choice(messages), offset=messages[-1].offset + 1)
    return with_messages(ops, [*messages, again]), "duplicated"


def store_swapped(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """Two messages of one producer are in the store in the wrong order."""
    messages = list(final(ops).messages)
    pairs = [
        (i, j)
        for i, one in enumerate(messages)
        for j, two in enumerate(messages[i + 1 :], i + 1)
        if one.producer is not None and one.producer == two.producer
    ]
    if not pairs:
        return None
    i, j = dice.choice(pairs)
    one, two = messages[i], messages[j]
    messages[i] = attrs.evolve(two, offset=one.offset)
    messages[j] = attrs.evolve(one, offset=two.offset)
    return with_messages(ops, messages), "reordered"


def store_invented(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """The store holds something that nobody sent."""
    read = final(ops)
    last = read.messages[-1].offset if read.messages else read.first_offset - 1
    origin = dice.choice([(None, None), ("p0", 10_000), ("nobody", 1)])
    return with_messages(ops, [*read.messages, h.Effect(last + 1, "text:invented", *origin)]), "phantom"


def skip_to_now(dice: random.Random, ops: list[h.Op]) -> Spoiled:
    """A reader subscribes again behind a message that the store holds instead of resuming."""
    at = pick(dice, ops, lambda at: delivery(ops, at, held=True))
    if at is None:
        return None
    op = typing.cast("h.Deliver", ops[at])
    return [*ops[:at], h.Subscribed(op.process, op.time, STREAM, op.epoch, op.offset + 1), *ops[at + 1 :]], "lost"


SPOILERS = [
    swallow,
    swallow_trimmed,
    repeat,
    swap,
    forge,
    conceal,
    pretend,
    deny,
    erase,
    store_twice,
    store_swapped,
    store_invented,
    skip_to_now,
]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_spoiled_run_is_found(spoil: collections.abc.Callable[[random.Random, list[h.Op]], Spoiled]) -> None:
    """Every way to spoil a clean run is found as what it is, whatever the run was."""
    spoiled = 0
    for seed in range(70):
        dice = random.Random(seed)
        ops = random_run(dice)
        assert checker.check(ops).value == "ok", f"seed {seed}"
        changed = spoil(dice, ops)
        if changed is None:
            continue
        spoiled += 1
        verdict = checker.check(changed[0])
        assert verdict.counts[changed[1]] > 0, f"seed {seed}: {spoil.__name__}\n{verdict.report()}"
    assert spoiled >= 20, "too few runs could be spoiled in this way"
