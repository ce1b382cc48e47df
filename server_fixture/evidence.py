"""
What a history proves, sorted for the judge: one log per stream and epoch, the sends, the receipts, the faults, and
the list of findings.

Nothing here decides what is an anomaly (``checker.py`` does), and nothing here imports the library under test.
"""

from __future__ import annotations

import bisect
import collections
import collections.abc
import typing

import attrs

from . import history as h

KINDS = (
    "lost",
    "duplicated",
    "reordered",
    "phantom",
    "unreported_gap",
    "gap_over_existing",
    "false_receipt",
)
FORGETFUL = ("epoch", "rewritten")  # gap reasons that say: the store lost something it had confirmed
Key: typing.TypeAlias = "tuple[str, str, int]"  # producer, stream, seq
Inbound: typing.TypeAlias = h.Deliver | h.Subscribed | h.Unsubscribed | h.GapReported
Identity: typing.TypeAlias = "tuple[str, int] | None"  # producer, seq; None for the server's own


@attrs.frozen(kw_only=True)
class Anomaly:
    """
    One broken promise: whose, about which offsets (inbound) or seqs (outbound), and in ``text`` what to look at.

    ``count`` is the number of messages for ``lost``, 1 for every other kind.
    """

    kind: str
    stream: str
    process: str | None
    epoch: str | None
    first: int
    last: int
    text: str
    count: int = 1


@attrs.define
class Findings:
    """
    The anomalies found so far, each told together with the last fault before it.
    """

    faults: list[tuple[float, str]] = attrs.field(factory=list)
    anomalies: list[Anomaly] = attrs.field(factory=list)

    def add(
        self,
        kind: str,
        stream: str,
        what: str,
        *,
        process: str | None = None,
        epoch: str | None = None,
        span: tuple[int, int],
        time: float | None = None,
        count: int = 1,
    ) -> None:
        """
        Note one anomaly.

        Args:
            kind: One of `KINDS`.
            stream: The stream it is about.
            what: Which message, and what is wrong with it.
            process: Who saw it, or None where the log itself is wrong.
            epoch: Where offsets are meant: of this epoch.
            span: First and last offset or seq.
            time: When it was seen, where that is known.
            count: How many messages.
        """
        under = "" if epoch is None else f" (epoch {epoch})"
        text = f"{kind}: stream {stream!r}{under}: {what}{self._where_to_look(process, time)}"
        first, last = span
        self.anomalies.append(
            Anomaly(
                kind=kind, stream=stream, process=process, epoch=epoch, first=first, last=last, text=text, count=count
            )
        )

    def _where_to_look(self, process: str | None, time: float | None) -> str:
        if time is None:
            return "" if process is None else f"; look at the last ops of {process!r}"
        at = bisect.bisect_right(self.faults, (time, "\U0010ffff"))
        before = f", after {self.faults[at - 1][1]} at {self.faults[at - 1][0]:.3f} s" if at else ""
        return f"; look at {process!r} around {time:.3f} s{before}"


@attrs.define
class Log:
    """
    One epoch of a stream: what the final read holds, and what deliveries and answers to publishes prove about the part
    that was trimmed since.

    ``observed`` has every payload that was seen at an offset. ``skips`` tells whether the stream's logs skip numbers,
    as its last final read says.
    """

    stream: str
    epoch: str
    read: h.FinalRead | None = None
    held: dict[int, h.Effect] = attrs.field(factory=dict)
    offsets: list[int] = attrs.field(factory=list)
    observed: dict[int, set[str]] = attrs.field(factory=dict)
    rewritten: bool = False
    skips: bool = False

    def take(self, read: h.FinalRead) -> None:
        """
        Use this final read; a later one of the same epoch replaces an earlier one.
        """
        self.read = read
        self.held = {effect.offset: effect for effect in read.messages}
        self.offsets = sorted(self.held)
        if len(self.offsets) < len(read.messages) or (self.offsets and self.offsets[0] < read.first_offset):
            raise h.MalformedHistory(
                f"the final read of stream {self.stream!r} (epoch {self.epoch}) holds an offset twice "
                f"or one below its first offset {read.first_offset}: the read itself is wrong"
            )

    @property
    def floor(self) -> int | None:
        """
        The first retained offset, or None where nothing is known of this epoch's end.
        """
        return None if self.read is None else self.read.first_offset

    @property
    def is_contiguous(self) -> bool:
        """
        Whether every offset below the floor once had a message.
        """
        return not self.rewritten and (not self.skips if self.read is None else self.read.contiguous)

    def is_readable(self, offset: int) -> bool:
        """
        Whether the final read tells what is at this offset.
        """
        return self.floor is not None and offset >= self.floor

    def sightings(self) -> collections.abc.Iterator[tuple[int, set[str]]]:
        """
        Yield what was seen where nothing can be read any more, by offset.
        """
        for offset in sorted(self.observed):
            if not self.is_readable(offset):
                yield offset, self.observed[offset]

    def between(self, first: int, last: int) -> list[int]:
        """
        List the retained offsets from ``first`` to ``last``.
        """
        return self.offsets[bisect.bisect_left(self.offsets, first) : bisect.bisect_right(self.offsets, last)]

    def unretained(self, first: int, last: int) -> collections.abc.Collection[int]:
        """
        Name the offsets from ``first`` to ``last`` that had a message once and cannot be read any more.
        """
        gone = range(first, last + 1 if self.floor is None else min(last + 1, self.floor))
        if self.is_contiguous:
            return gone
        return set() if self.rewritten else {offset for offset in self.observed if offset in gone}

    def has_room(self, first: int, last: float) -> bool:
        """
        Tell whether a message that nobody saw may have been between these offsets and cannot be read any more.
        """
        limit = max(self.observed, default=0) + 1 if self.floor is None else self.floor - 1
        room = range(first, int(min(last, limit)) + 1)
        return any(self.rewritten or offset not in self.observed for offset in room)


@attrs.define
class Evidence:
    """
    The ops of a history, sorted by what they are evidence of.
    """

    findings: Findings = attrs.field(factory=Findings)
    sends: dict[Key, set[str]] = attrs.field(factory=lambda: collections.defaultdict(set))
    receipts: dict[Key, dict[str, h.Receipt]] = attrs.field(factory=lambda: collections.defaultdict(dict))
    publishes: dict[str, list[h.Publish]] = attrs.field(factory=lambda: collections.defaultdict(list))
    origins: dict[tuple[str, str], set[Identity]] = attrs.field(factory=lambda: collections.defaultdict(set))
    logs: dict[str, dict[str, Log]] = attrs.field(factory=lambda: collections.defaultdict(dict))
    final_epoch: dict[str, str] = attrs.field(factory=dict)
    confessed: dict[tuple[str, str], list[h.AcknowledgedLost]] = attrs.field(
        factory=lambda: collections.defaultdict(list)
    )
    forgiven_until: dict[str, float] = attrs.field(factory=dict)
    followers: dict[tuple[str, str], list[Inbound]] = attrs.field(factory=lambda: collections.defaultdict(list))
    observed_ops: collections.Counter[str] = attrs.field(factory=collections.Counter)

    def log(self, stream: str, epoch: str) -> Log:
        """
        The log of this stream and epoch, new and empty where nothing was known of it.
        """
        logs = self.logs[stream]
        if epoch not in logs:
            logs[epoch] = Log(stream, epoch)
        return logs[epoch]

    def take(self, op: h.Op) -> None:
        """
        Sort in one op.
        """
        self.observed_ops[type(op).__name__] += 1
        if isinstance(op, (h.Deliver, h.Subscribed, h.Unsubscribed, h.GapReported)):
            self._take_inbound(op)
        elif isinstance(op, h.FinalRead):
            self.log(op.stream, op.epoch).take(op)
            self.final_epoch[op.stream] = op.epoch
        elif isinstance(op, (h.Fault, h.Heal)):
            self.findings.faults.append((op.time, f"{type(op).__name__.lower()} {op.kind} of {op.node}"))
        else:
            self._take_outbound(op)

    def _take_inbound(self, op: Inbound) -> None:
        self.followers[op.process, op.stream].append(op)
        if isinstance(op, h.Unsubscribed):
            return
        log = self.log(op.stream, op.epoch)
        if isinstance(op, h.Deliver):
            log.observed.setdefault(op.offset, set()).add(op.payload)
        if isinstance(op, h.GapReported) and op.reason in FORGETFUL:
            self.forgiven_until[op.stream] = max(op.time, self.forgiven_until.get(op.stream, op.time))
            log.rewritten |= op.reason == "rewritten"

    def _take_outbound(self, op: h.Op) -> None:
        if isinstance(op, h.Send):
            self.sends[op.producer, op.stream, op.seq].add(op.payload)
            self.origins[op.stream, op.payload].add((op.producer, op.seq))
        elif isinstance(op, h.Receipt):
            self.receipts[op.producer, op.stream, op.seq][op.outcome] = op
        elif isinstance(op, h.Publish):
            self.publishes[op.stream].append(op)
            self.origins[op.stream, op.payload].add(None)
            if op.epoch is not None and op.offset is not None:
                self.log(op.stream, op.epoch).observed.setdefault(op.offset, set()).add(op.payload)
        elif isinstance(op, h.AcknowledgedLost):
            self.confessed[op.producer, op.stream].append(op)

    def require_final_reads(self) -> None:
        """
        Refuse to judge a stream that nobody read at the end: it would pass whatever happened.

        Raises:
            MalformedHistory: A stream was sent to, published to or followed and has no final read.
        """
        streams = {stream for _, stream, _ in (*self.sends, *self.receipts)} | set(self.publishes)
        streams |= {stream for _, stream in self.followers}
        missing = sorted(streams - set(self.final_epoch))
        if missing:
            raise h.MalformedHistory(
                f"no final read of {', '.join(map(repr, missing))}: without what the store holds nothing is judged; "
                "record a FinalRead of every stream when the run is quiet"
            )
        self.findings.faults.sort()
        for stream, epoch in self.final_epoch.items():
            last = self.log(stream, epoch).read
            for log in self.logs[stream].values():
                log.skips = last is not None and not last.contiguous
