"""
Histories by the thousand, each from one seed: a world that keeps every promise, and what was meddled with after that.

Here live the worlds, and the command ``python -m tests.histories``, which has histories judged by both checkers. The
ways to spoil one are in ``spoiling.py`` and ``meddling.py``.
"""

from __future__ import annotations

import argparse
import collections
import collections.abc
import random
import sys
import time
import typing

import attrs

from server_fixture import checker, second_checker
from server_fixture import history as h
from tests import meddling, spoiling

Step: typing.TypeAlias = "tuple[typing.Any, ...]"
READERS = "abc"
PICKY = "c"
"""The reader that takes no large messages."""
FATES = ["ok", "ok", "ok", "ok", "fail", "info stored", "info lost", "pending stored", "pending lost"]


@attrs.define
class Record:
    """What all streams of a history share: its ops, and its clock."""

    ops: list[h.Op] = attrs.field(factory=list)
    now: float = 0.0

    def tick(self) -> float:
        """Let time pass, and tell it."""
        self.now += 0.5
        return self.now


@attrs.define
class Reader:
    """One subscriber of a stream: which life of his this is, where he is, and whether he follows."""

    name: str
    life: int = 0
    epoch: str = "e1"
    next: int = 1
    follows: bool = False

    @property
    def process(self) -> str:
        """The name that this life has in the history."""
        return f"{self.name}{self.life or ''}"


@attrs.define
class World:
    """A stream and its users that keep every promise, and the history of what they did."""

    record: Record = attrs.field(factory=Record)
    stream: str = "orders"
    epoch: str = "e1"
    end: int = 1
    log: list[h.Effect] = attrs.field(factory=list)
    floor: int = 1
    contiguous: bool = True
    seqs: dict[str, int] = attrs.field(factory=dict)
    readers: dict[str, Reader] = attrs.field(factory=dict)
    late: list[h.Receipt] = attrs.field(factory=list)
    published: int = 0
    passed: int = 0

    # -- what is sent and published

    def send(self, producer: str, fate: str, is_tick: bool = False, is_late: bool = False) -> None:
        """
        Send a message that ends as ok, fail, info (stored or not) or pending (stored or not).

        ``is_tick`` gives it the same bytes as others have; ``is_late`` puts its receipt off.
        """
        seq = self.seqs[producer] = self.seqs.get(producer, 0) + 1
        payload = "text:tick" if is_tick else f"text:{producer}/{seq}" + "!" * (seq % 5 == 0)
        self.record.ops.append(h.Send(producer, self.record.tick(), producer, self.stream, seq, payload))
        if fate in ("ok", "info stored", "pending stored"):
            self._store(payload, producer, seq)
        outcome = fate.split()[0]
        if outcome != "pending":
            self.late.append(h.Receipt(producer, 0.0, producer, self.stream, seq, outcome))
        if not is_late:
            self.settle()

    def settle(self) -> None:
        """Record the receipts that were put off."""
        for receipt in self.late:
            self.record.ops.append(attrs.evolve(receipt, time=self.record.tick()))
        self.late = []

    def publish(self, fate: str = "answered", is_tick: bool = False) -> None:
        """Append by the server's own API, which answers, or stores and does not answer, or does neither."""
        self.published += 1
        payload = "text:tick" if is_tick else f"text:news/{self.published}"
        place = (self.epoch, self.end) if fate == "answered" else (None, None)
        self.record.ops.append(h.Publish("node", self.record.tick(), self.stream, payload, *place))
        if fate != "lost":
            self._store(payload)

    def _store(self, payload: str, producer: str | None = None, seq: int | None = None) -> None:
        self.log.append(h.Effect(self.end, payload, producer, seq))
        self.end += 1

    # -- what the store does

    def trim(self, count: int) -> None:
        """Let retention take what is at the oldest offsets."""
        self.floor = min(self.floor + count, self.end)

    def skip(self, count: int) -> None:
        """Leave out numbers, as a log with markers does."""
        self.end += count
        self.contiguous = False

    def forget(self, is_readable: bool = False) -> None:
        """Lose everything and begin a new epoch; the old one may be readable at the end all the same."""
        self.settle()
        if is_readable:
            self._read_out()
        elif not any(reader.follows for reader in self.readers.values()):
            self._cut(1)  # no reader will be told
        self._new_epoch()
        self.log, self.end, self.floor, self.passed = [], 1, 1, 0

    def fail_over(self, count: int) -> None:
        """Lose some of the newest messages and begin a new epoch, in which offsets go on."""
        self.settle()
        self.end = max(self.floor, self.end - count)
        self._cut(self.end)
        self._new_epoch()
        self.passed = self.end - 1

    def _new_epoch(self) -> None:
        self.epoch = f"e{int(self.epoch[1:]) + 1}"

    def lose_tail(self, count: int) -> None:
        """Lose some of the newest messages, which nobody had or was promised, but for their senders, who are told."""
        self.settle()
        answered = [op.offset for op in self.record.ops if isinstance(op, h.Publish) and self._is_here(op)]
        safe = max(
            [self.floor, *(offset + 1 for offset in answered if offset), *(r.next for r in self.readers.values())]
        )
        had = [op.offset + 1 for op in self.record.ops if isinstance(op, h.Deliver) and self._is_here(op)]
        first = max([self.end - count, safe, *had])
        if first < self.end:
            self.contiguous = False
            self._cut(first)

    def _is_here(self, op: h.Publish | h.Deliver) -> bool:
        return (op.stream, op.epoch) == (self.stream, self.epoch)

    def _cut(self, first: int) -> None:
        """Lose what is at this offset and above, and tell those who sent it."""
        gone = [effect for effect in self.log if effect.offset >= first]
        self.log = [effect for effect in self.log if effect.offset < first]
        for producer in sorted({effect.producer for effect in gone if effect.producer is not None}):
            seqs = [effect.seq for effect in gone if effect.producer == producer and effect.seq is not None]
            place = (producer, self.stream, min(seqs), max(seqs))
            self.record.ops.append(h.AcknowledgedLost(producer, self.record.tick(), *place))

    def rewrite(self, count: int, grown: int) -> None:
        """Lose some of the newest messages, and give their offsets again; those who had them are told."""
        self.settle()
        first = max(self.floor, self.end - count)
        holders = [r for r in self.readers.values() if r.follows and r.epoch == self.epoch and r.next > first]
        if not holders:
            return
        self.log = [effect for effect in self.log if effect.offset < first]
        self.end, self.contiguous = first, False
        for _ in range(grown):
            self.send("r", "ok")
        for reader in holders:
            self.end = max(self.end, reader.next)
            self._gap(reader, 1, reader.next - 1, reader.next, "rewritten")

    # -- what subscribers do

    def _gap(self, reader: Reader, first: int, last: int | None, after: int, reason: str) -> None:
        place = (reader.process, self.record.tick(), self.stream, self.epoch)
        self.record.ops.append(h.GapReported(*place, first, last, after, reason))
        reader.epoch, reader.next = self.epoch, after

    def _subscribed(self, reader: Reader) -> None:
        op = h.Subscribed(reader.process, self.record.tick(), self.stream, reader.epoch, reader.next)
        self.record.ops.append(op)

    def reader(self, name: str) -> Reader:
        """Have this reader follow, from the end of the stream if he did not."""
        reader = self.readers.setdefault(name, Reader(name))
        if not reader.follows:
            reader.follows, reader.epoch, reader.next = True, self.epoch, self.end
            self._subscribed(reader)
        return reader

    def read(self, name: str, count: int) -> None:
        """Deliver up to that many messages, after the gap where there is one."""
        reader = self.reader(name)
        if reader.epoch != self.epoch:
            reason = "session" if self.stream.startswith("~") else "epoch"
            self._gap(reader, reader.next, None, self.passed + 1, reason)
        if reader.next < self.floor:
            self._gap(reader, reader.next, self.floor - 1, self.floor, "trimmed")
        for effect in [effect for effect in self.log if effect.offset >= reader.next][:count]:
            if name == PICKY and effect.payload.endswith("!"):
                self._gap(reader, effect.offset, effect.offset, effect.offset + 1, "too_large")
                continue
            place = (reader.process, self.record.tick(), self.stream, self.epoch)
            self.record.ops.append(h.Deliver(*place, effect.offset, effect.payload))
            reader.next = effect.offset + 1

    def redeliver(self, name: str) -> None:
        """Deliver this reader's last message again, and say so."""
        process = self.reader(name).process
        mine = [op for op in self.record.ops if isinstance(op, h.Deliver) and op.process == process]
        mine = [op for op in mine if self._is_here(op)][-1:]
        for op in mine:
            is_there = any((e.offset, e.payload) == (op.offset, op.payload) for e in self.log)
            if is_there and self.readers[name].epoch == self.epoch and op.offset < self.readers[name].next:
                self.record.ops.append(attrs.evolve(op, time=self.record.tick(), redelivered=True))

    def leave(self, name: str) -> None:
        """Let this reader unsubscribe."""
        reader = self.readers.setdefault(name, Reader(name))
        if reader.follows:
            reader.follows = False
            self.record.ops.append(h.Unsubscribed(reader.process, self.record.tick(), self.stream))

    def restart(self, name: str, back: int = 0) -> None:
        """Let this reader die and come back as a new process, at a position that he kept, maybe an older one."""
        reader = self.reader(name)
        self.leave(name)
        reader.life, reader.follows, reader.next = reader.life + 1, True, max(1, reader.next - back)
        self._subscribed(reader)

    def rewind(self, name: str, back: int) -> None:
        """Let this reader subscribe again, from an older position or from where it is."""
        reader = self.reader(name)
        reader.next = max(1, reader.next - back)
        self._subscribed(reader)

    # -- the end

    def finish(self) -> None:
        """Deliver what is owed, read the store a last time."""
        self.settle()
        for name, reader in self.readers.items():
            if reader.follows:
                self.read(name, len(self.log))
        self._read_out()

    def _read_out(self) -> None:
        held = tuple(effect for effect in self.log if effect.offset >= self.floor)
        place = (self.record.tick(), self.stream, self.epoch, self.floor)
        self.record.ops.append(h.FinalRead(*place, held, self.contiguous))


# -- by dice ----------------------------------------------------------------------------------------------------------


def run(steps: collections.abc.Iterable[Step]) -> list[h.Op]:
    """Let the steps happen in one stream."""
    world = World()
    for name, *args in steps:
        getattr(world, name)(*args)
    world.finish()
    return world.record.ops


RARE = ("skip", "forget", "fail_over", "lose_tail", "rewrite", "restart", "rewind", "leave", "redeliver", "trim")
"""What a history has much of, or little, or nothing."""


def step(dice: random.Random, kind: str, is_private: bool = False) -> Step:
    """Choose what a step of this kind is about."""
    reader = PICKY if is_private else dice.choice(READERS)
    is_tick = dice.random() < 0.05
    args: dict[str, Step] = {
        "send": (dice.choice("pq"), dice.choice(FATES), is_tick, dice.random() < 0.2),
        "publish": (dice.choice(["answered", "answered", "stored", "lost"]), is_tick),
        "read": (reader, dice.randint(0, 4)),
        "trim": (dice.randint(1, 5),),
        "skip": (dice.randint(1, 3),),
        "forget": (dice.random() < 0.2,),
        "fail_over": (dice.randint(0, 3),),
        "lose_tail": (dice.randint(1, 4),),
        "rewrite": (dice.randint(1, 4), dice.randint(0, 5)),
        "restart": (reader, dice.choice([0, 0, 1, 3])),
        "rewind": (reader, dice.choice([0, 1, 3])),
        "leave": (reader,),
        "redeliver": (reader,),
    }
    return (kind, *args[kind])


def whole(dice: random.Random, length: int = 60, streams: int = 1) -> list[h.Op]:
    """A run of that many steps in which every promise is kept; the last of several streams is a session's own."""
    record = Record()
    names = [*["orders", "news"][: streams - 1], "~s1"] if streams > 1 else ["orders"]
    worlds = [World(record, name) for name in names]
    rare = {kind: dice.choice([0.0, 0.5, 0.5, 3.0]) for kind in RARE}
    kinds = {"send": 40.0, "publish": 6.0, "read": 30.0, **rare}
    for world in worlds:
        for name in READERS[: dice.randint(0, 2)]:
            world.read(name, 0)
    for _ in range(length):
        world = dice.choice(worlds)
        (kind,) = dice.choices(list(kinds), list(kinds.values()))
        is_private = world.stream.startswith("~")
        if is_private and kind in ("send", "fail_over", "rewrite", "lose_tail"):
            kind = "publish"
        name, *args = step(dice, kind, is_private)
        getattr(world, name)(*args)
    for world in worlds:
        world.finish()
    return record.ops


# -- both checkers ----------------------------------------------------------------------------------------------------

ALL_WAYS = (*spoiling.KNOWN, *meddling.WAYS)
REFUSED = frozenset({"refused"})
"""What stands for the kinds of anomaly of a history that a checker will not judge."""


@attrs.frozen
class Case:
    """A history and the names of the ways that it was meddled with."""

    seed: int
    ops: list[h.Op]
    ways: tuple[str, ...]

    @property
    def rerun(self) -> str:
        """The command that makes and judges just this one."""
        return f"python -m tests.histories --seed {self.seed} --show"


def case(seed: int) -> Case:
    """Make the history of a seed: one in five is whole, three have one thing meddled with, one has two."""
    dice = random.Random(seed)
    ops = whole(dice, dice.randint(5, 60), dice.choice([1, 1, 2, 3]))
    ways = []
    chosen = dice.sample(ALL_WAYS, dice.choice([0, 1, 1, 1, 2]))
    for way in sorted(chosen, key=lambda way: way is meddling.no_final_read):  # nothing else can be done after that
        meddled = way(dice, ops)
        if meddled is not None:
            ops = meddled[0] if isinstance(meddled, tuple) else meddled
            ways.append(way.__name__)
    return Case(seed, ops, tuple(ways))


def first_kinds(ops: list[h.Op]) -> frozenset[str]:
    """The kinds of anomaly that the first checker finds."""
    try:
        return frozenset(kind for kind, count in checker.check(ops).counts.items() if count)
    except h.MalformedHistory:
        return REFUSED


def second_kinds(ops: list[h.Op]) -> frozenset[str]:
    """The kinds of anomaly that the second checker finds; the two give each kind the same name."""
    try:
        return frozenset(second_checker.check(ops).kinds)
    except h.MalformedHistory:
        return REFUSED


def disagreement(made: Case) -> str | None:
    """
    Say how the checkers disagree, if they do.

    They have to give one verdict (whole, broken or refused) on everything. Where at most one thing was meddled with
    they have to find the same kinds; of two things one may hide what the other one would be.
    """
    first, second = first_kinds(made.ops), second_kinds(made.ops)
    is_one_verdict = bool(first) == bool(second) and (first == REFUSED) == (second == REFUSED)
    if is_one_verdict and (first == second or len(made.ways) > 1):
        return None
    how = f"{sorted(first) or 'whole'} says the first checker, {sorted(second) or 'whole'} the second"
    return f"seed {made.seed} ({', '.join(made.ways) or 'whole'}): {how}; rerun: {made.rerun}"


def main() -> int:
    """Judge what the arguments say; 1 where the checkers disagree."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories")
    parser.add_argument("--seed", type=int, default=0, help="of the first history")
    parser.add_argument("--count", type=int, default=1, help="how many, each with the next seed")
    parser.add_argument("--show", action="store_true", help="print the ops and both reports")
    args = parser.parse_args()
    began, found, ends = time.perf_counter(), 0, collections.Counter[str]()
    for seed in range(args.seed, args.seed + args.count):
        made = case(seed)
        kinds = second_kinds(made.ops)
        ends["refused" if kinds == REFUSED else "broken" if kinds else "whole"] += 1
        said = disagreement(made)
        if said:
            found += 1
            print(said)
        if args.show:
            print(*made.ops, f"meddled with: {made.ways}", sep="\n")
        if args.show and kinds != REFUSED:
            print(checker.check(made.ops).report(), second_checker.check(made.ops).report(), sep="\n")
    counts = ", ".join(f"{ends[end]} {end}" for end in ("whole", "broken", "refused"))
    print(f"{args.count} histories ({counts}), {found} disagreements, {time.perf_counter() - began:.1f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
