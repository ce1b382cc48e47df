"""
The inbound half of the judge: replays what one process saw of one stream and compares it with what the store holds.

The outbound half, and the verdict, are in ``checker.py``. Nothing here imports the library under test.
"""

from __future__ import annotations

import collections
import collections.abc
import math
import typing

import attrs

from . import history as h
from .evidence import Evidence, Findings, Inbound, Log

_Jump: typing.TypeAlias = "tuple[Log, int, int, float | None]"  # first and last offset, and when


@attrs.define
class _Span:
    """
    A stretch of one epoch that is owed to the subscriber; ``last`` is None while he follows.
    """

    log: Log
    first: int
    last: int | None = None


@attrs.define
class Follower:
    """
    Replays what one process saw of one stream.
    """

    process: str
    stream: str
    evidence: Evidence
    following: bool = False
    epoch: str | None = None
    next: int = 0
    seen: dict[str, set[int]] = attrs.field(factory=lambda: collections.defaultdict(set))
    spans: list[_Span] = attrs.field(factory=list)
    jumps: list[_Jump] = attrs.field(factory=list)
    excused: dict[str, set[int]] = attrs.field(factory=lambda: collections.defaultdict(set))
    doubtful: list[h.Deliver] = attrs.field(factory=list)

    @property
    def _findings(self) -> Findings:
        return self.evidence.findings

    def replay(self, ops: list[Inbound]) -> None:
        """
        Take the ops in their order, then judge what is still open.
        """
        for op in ops:
            if isinstance(op, h.Deliver):
                self._deliver(op)
            elif isinstance(op, h.GapReported):
                self._gap(op)
            elif isinstance(op, h.Subscribed):
                self._follow(op)
            else:
                self._stop()
        if self.following:
            self._tail()
        self._judge_jumps()
        self._judge_doubtful()
        self._judge_lost()

    def _follow(self, op: h.Subscribed) -> None:
        epoch, first = op.epoch, op.first
        is_again = self.following and epoch == self.epoch
        if is_again and first > self.next:
            self.jumps.append((self._log(), self.next, first - 1, op.time))
        self._give_up()
        if not is_again or first < self.next:
            self._close_spans()
            self.spans.append(_Span(self.evidence.log(self.stream, epoch), first))
        self.following, self.epoch, self.next = True, epoch, first

    def _log(self) -> Log:
        return self.evidence.log(self.stream, typing.cast("str", self.epoch))

    def _close_spans(self) -> None:
        for span in self.spans:
            if span.last is None:
                span.last = self.next - 1

    def _stop(self) -> None:
        self._give_up()
        self._close_spans()
        self.following = False

    def _give_up(self) -> None:
        """
        Leave a position by oneself. If the log is cut and grows again nobody tells, so nothing below can be judged.
        """
        if not self.following or not self._log().rewritten:
            return
        self._excuse(self.next - 1)
        self.spans[-1].first = max(self.spans[-1].first, self.next)  # the open one

    def _excuse(self, last: int) -> None:
        """
        Judge nothing that was had or missed so far, up to this offset: it may have been replaced since.
        """
        log = self._log()
        self.doubtful = [op for op in self.doubtful if op.epoch != log.epoch or op.offset > last]
        self.jumps = [
            (where, max(first, last + 1) if where is log else first, end, time)
            for where, first, end, time in self.jumps
        ]

    def _require_following(self, op: h.Deliver | h.GapReported) -> None:
        if not self.following:
            raise h.MalformedHistory(
                f"{self.process!r} got something of stream {self.stream!r} at {op.time:.3f} s and is not subscribed: "
                "record Subscribed, with the start position, before it"
            )

    def _deliver(self, op: h.Deliver) -> None:
        self._require_following(op)
        log = self.evidence.log(self.stream, op.epoch)
        if not self.evidence.origins.get((self.stream, op.payload)):
            self._find(
                "phantom", f"offset {op.offset} was delivered as {op.payload}: nobody sent or published that", op
            )
        elif not self._is_genuine(op, log):
            self.doubtful.append(op)
        seen = self.seen[op.epoch]
        if op.epoch != self.epoch and not self._change_epoch(op):
            seen.add(op.offset)
            return
        if op.offset < self.next:
            self._late(op, op.offset in seen)
        elif op.offset > self.next:
            self.jumps.append((log, self.next, op.offset - 1, op.time))
        self.next = max(self.next, op.offset + 1)
        seen.add(op.offset)

    def _is_genuine(self, op: h.Deliver, log: Log) -> bool:
        effect = log.held.get(op.offset)
        return not log.is_readable(op.offset) or (effect is not None and effect.payload == op.payload)

    def _change_epoch(self, op: h.Deliver) -> bool:
        if any(span.log.epoch == op.epoch for span in self.spans):
            self._late(op, op.offset in self.seen[op.epoch])
            return False
        self._find(
            "unreported_gap",
            f"offset {op.offset} came although the epoch before it was {self.epoch}, and no gap told of the change",
            op,
        )
        self._follow_on(op.epoch, 1)
        self.next = op.offset
        return True

    def _follow_on(self, epoch: str, first: int) -> None:
        """
        Go over to another epoch, whose messages are owed from ``first`` on.
        """
        self._close_spans()
        self.spans.append(_Span(self.evidence.log(self.stream, epoch), first))
        self.epoch, self.next = epoch, first

    def _late(self, op: h.Deliver, is_known: bool) -> None:
        if op.redelivered and is_known:
            return
        kind = "duplicated" if is_known else "reordered"
        what = "came a second time" if is_known else f"came when {self.next} of epoch {self.epoch} was expected"
        self._find(kind, f"offset {op.offset} ({op.payload}) {what}", op)

    def _find(self, kind: str, what: str, op: h.Deliver | h.GapReported, span: tuple[int, int] | None = None) -> None:
        if span is None:
            offset = typing.cast("h.Deliver", op).offset
            span = (offset, offset)
        self._findings.add(kind, self.stream, what, process=self.process, epoch=op.epoch, span=span, time=op.time)

    def _gap(self, op: h.GapReported) -> None:
        self._require_following(op)
        log = self._log()
        if op.reason == "rewritten" and op.epoch == self.epoch:
            self._excuse(op.next - 1 if op.last is None else op.last)
        if op.first > self.next:
            self.jumps.append((log, self.next, op.first - 1, op.time))
        if op.epoch != self.epoch:
            if op.last is not None:
                what = f"a gap up to {op.last} told of epoch {op.epoch}, and of nothing after it in {self.epoch}"
                self._find("unreported_gap", what, op, (op.first, op.last))
            self._follow_on(op.epoch, op.next)
            return
        due, last = self.next, op.next - 1 if op.last is None else op.last
        if op.next > last + 1:
            self.jumps.append((log, max(due, last + 1), op.next - 1, op.time))
        self.next = max(due, op.next)
        self._judge_gap(op, log, due, last)

    def _judge_gap(self, op: h.GapReported, log: Log, due: int, last: int) -> None:
        """
        Judge whether a gap within one epoch is true: retention has taken all of it, the client's own limit forbids it,
        or, up to where he was, it was replaced. And what it says cannot come is not what comes next.
        """
        held = log.between(op.first, last)
        if op.reason == "too_large":
            self.excused[op.epoch].update(held)
            held, first = [], last + 1
        elif op.reason == "rewritten":
            self.excused[op.epoch].update(offset for offset in held if offset < due)
            held, first = [offset for offset in held if offset >= due], max(op.first, due)
        else:
            first = op.first
        if log.is_contiguous and log.floor is not None:
            held = list(range(max(first, log.floor), last + 1))
        if held:
            what = f"a gap {op.first}..{last} ({op.reason}) was reported, retention has not taken {_ranges(held)} of it"
            self._find("gap_over_existing", what, op, (op.first, last))
        elif op.next <= last:
            what = f"a gap {op.first}..{last} ({op.reason}) was reported, and then {op.next} was to come next"
            self._find("gap_over_existing", what, op, (op.first, last))

    def _tail(self) -> None:
        """
        Judge the end of one who still follows: a part that was trimmed before he got it, or an epoch that he never
        heard of.
        """
        epoch = typing.cast("str", self.epoch)
        log, final = self.evidence.log(self.stream, epoch), self.evidence.final_epoch[self.stream]
        if log.floor is not None and log.floor > self.next:
            self.jumps.append((log, self.next, log.floor - 1, None))
        if epoch != final:
            what = f"{self.process!r} still follows this epoch at the end and no gap told that the stream is in {final}"
            self._findings.add(
                "unreported_gap",
                self.stream,
                what,
                process=self.process,
                epoch=epoch,
                span=(self.next, self.next),
            )

    def _judge_jumps(self) -> None:
        for log, first, last, time in self.jumps:
            seen = self.seen[log.epoch]
            gone = log.unretained(first, last)
            trimmed = len(gone) - _common(gone, seen)
            stored = [offset for offset in log.between(first, last) if offset not in seen]
            if not trimmed and not stored:
                continue
            self._findings.add(
                "unreported_gap",
                self.stream,
                f"{first}..{last} never came and no gap was reported for it",
                process=self.process,
                epoch=log.epoch,
                span=(first, last),
                time=time,
            )

    def _judge_doubtful(self) -> None:
        for op in self.doubtful:
            self._find("phantom", f"offset {op.offset} was delivered as {op.payload}, which is not what it is", op)

    def _judge_lost(self) -> None:
        missing: dict[str, set[int]] = collections.defaultdict(set)
        for span in self.spans:
            epoch = span.log.epoch
            last = math.inf if span.last is None else span.last
            owed = span.log.between(span.first, typing.cast("int", last))
            missing[epoch].update(set(owed) - self.seen[epoch] - self.excused[epoch])
        for epoch, offsets in missing.items():
            if offsets:
                self._findings.add(
                    "lost",
                    self.stream,
                    f"{self.process!r} never got {_ranges(sorted(offsets))}, which the store still holds",
                    process=self.process,
                    epoch=epoch,
                    span=(min(offsets), max(offsets)),
                    count=len(offsets),
                )


def _ranges(offsets: list[int], limit: int = 8) -> str:
    """
    Write sorted offsets as ranges, at most ``limit`` of them.
    """
    ranges: list[list[int]] = []
    for offset in offsets:
        if ranges and ranges[-1][1] == offset - 1:
            ranges[-1][1] = offset
        else:
            ranges.append([offset, offset])
    told = [str(a) if a == b else f"{a}..{b}" for a, b in ranges[:limit]]
    return ", ".join(told) + (f" and {len(ranges) - limit} ranges more" if len(ranges) > limit else "")


def _common(offsets: collections.abc.Collection[int], seen: set[int]) -> int:
    """
    Count the offsets that are in both, in the time of the smaller one.
    """
    if len(offsets) < len(seen):
        return sum(offset in seen for offset in offsets)
    return sum(offset in offsets for offset in seen)
