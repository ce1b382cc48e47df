"""
The judge of a history: nothing lost, doubled, out of order, invented or passed over in silence, in either direction.

Outbound, every send is compared with what the store holds at the end; inbound, every subscriber's deliveries are
compared with it. The checker reads recorded ops only, takes no clock, and never imports the library under test. Cost:
O(n log n).

A message in the store is *identified* by (producer, seq), its place by (epoch, offset). What retention has trimmed
before the final read is judged as far as deliveries to anybody prove what was there, and not guessed at beyond that.
"""

from __future__ import annotations

import collections
import collections.abc
import math
import typing

import attrs

from . import history as h
from .evidence import KINDS, Anomaly, Evidence, Findings, Key, Log
from .follower import Follower


@attrs.frozen(kw_only=True)
class Verdict:
    """
    What the checker found.

    ``observed`` counts the ops by kind, so that a run which did nothing can be told from one that was faultless;
    ``unresolved`` counts the sends that have no receipt of any kind.
    """

    value: typing.Literal["ok", "anomaly"]
    anomalies: tuple[Anomaly, ...]
    counts: collections.abc.Mapping[str, int]
    observed: collections.abc.Mapping[str, int]
    unresolved: int

    def report(self, limit: int = 20) -> str:
        """
        Tell the verdict in lines: the counts, then at most ``limit`` anomalies.
        """
        lines = [f"{self.value}: " + ", ".join(f"{kind} {self.counts[kind]}" for kind in KINDS)]
        lines += [anomaly.text for anomaly in self.anomalies[:limit]]
        if len(self.anomalies) > limit:
            lines.append(f"... and {len(self.anomalies) - limit} more")
        return "\n".join(lines)


def check(history: collections.abc.Iterable[h.Op]) -> Verdict:
    """
    Judge a history that ends with a final read of every stream in it.

    Args:
        history: The ops; the order of the ops of one process counts, and their times only for gaps that tell of a
            forgetful store.

    Returns:
        The verdict: ``ok``, or ``anomaly`` with every anomaly.

    Raises:
        MalformedHistory: The history cannot be judged: no final read, or a delivery to somebody who never subscribed.
    """
    evidence = Evidence()
    for op in history:
        evidence.take(op)
    evidence.require_final_reads()
    for (process, stream), ops in evidence.followers.items():
        Follower(process, stream, evidence).replay(ops)
    _Outbound(evidence).judge()
    found = evidence.findings.anomalies
    counts = dict.fromkeys(KINDS, 0)
    for anomaly in found:
        counts[anomaly.kind] += anomaly.count
    return Verdict(
        value="anomaly" if found else "ok",
        anomalies=tuple(found),
        counts=counts,
        observed=dict(evidence.observed_ops),
        unresolved=sum(key not in evidence.receipts for key in evidence.sends),
    )


# Outbound: what the store holds of what was sent and published.


@attrs.define
class _Outbound:
    """
    What the logs prove of every send: where it certainly is (and so where those before and after it must be), and where
    something like it was seen.
    """

    evidence: Evidence
    present: set[Key] = attrs.field(factory=set)
    glimpsed: set[tuple[str, str]] = attrs.field(factory=set)
    places: dict[tuple[str, str, str], list[tuple[int, int]]] = attrs.field(
        factory=lambda: collections.defaultdict(list)
    )

    @property
    def _findings(self) -> Findings:
        return self.evidence.findings

    def judge(self) -> None:
        """
        Judge every log, then every receipt and publish against the logs.
        """
        for logs in self.evidence.logs.values():
            for log in logs.values():
                self._judge_log(log)
                self._judge_published(log)
                self._judge_sightings(log)
        for key, payloads in self.evidence.sends.items():
            if len(payloads) > 1:
                self._find("duplicated", key, f"seq {key[2]} was given to {len(payloads)} different messages")
        for key, outcomes in self.evidence.receipts.items():
            self._judge_receipts(key, outcomes)
        for publishes in self.evidence.publishes.values():
            for publish in publishes:
                self._judge_publish(publish)

    def _find(self, kind: str, key: Key, what: str, receipt: h.Receipt | None = None) -> None:
        producer, stream, seq = key
        process, time = (None, None) if receipt is None else (receipt.process, receipt.time)
        what = f"producer {producer!r}: {what}"
        self._findings.add(kind, stream, what, process=process, span=(seq, seq), time=time)

    def _judge_log(self, log: Log) -> None:
        highest: dict[str, int] = {}
        seen: dict[Key, int] = {}
        for effect in (*self._recovered(log), *map(log.held.__getitem__, log.offsets)):
            if effect.producer is None or effect.seq is None:
                continue
            key = (effect.producer, log.stream, effect.seq)
            if self._is_invented(log, effect):
                self._find(
                    "phantom", key, f"offset {effect.offset} holds seq {effect.seq} as {effect.payload}: never sent"
                )
            elif key in seen:
                self._find("duplicated", key, f"seq {effect.seq} is at offset {effect.offset} and at {seen[key]}")
            elif effect.seq < highest.get(effect.producer, 0):
                behind = highest[effect.producer]
                self._find("reordered", key, f"seq {effect.seq} is at offset {effect.offset}, behind seq {behind}")
            seen.setdefault(key, effect.offset)
            highest[effect.producer] = max(effect.seq, highest.get(effect.producer, 0))
            self.places[effect.producer, log.stream, log.epoch].append((effect.seq, effect.offset))
        self.present.update(seen)

    def _is_invented(self, log: Log, effect: h.Effect) -> bool:
        identity = None if effect.producer is None or effect.seq is None else (effect.producer, effect.seq)
        return identity not in self.evidence.origins.get((log.stream, effect.payload), ())

    def _recovered(self, log: Log) -> collections.abc.Iterator[h.Effect]:
        """
        Yield the messages that only sightings prove, with the one send that they can be; note those that could be
        several. What was seen of a log that was cut and grew again proves nothing.
        """
        for offset, payloads in log.sightings():
            origins = {
                origin for payload in payloads for origin in self.evidence.origins.get((log.stream, payload), ())
            }
            identity = next(iter(origins)) if len(origins) == len(payloads) == 1 and not log.rewritten else None
            if identity is None:
                self.glimpsed.update((log.stream, payload) for payload in payloads)
            else:
                yield h.Effect(offset, next(iter(payloads)), *identity)

    def _judge_sightings(self, log: Log) -> None:
        """
        Judge what cannot be read any more: one offset has one message, and a payload is at no more offsets than it was
        sent and published.
        """
        sightings = [] if log.rewritten else list(log.sightings())
        places = collections.Counter(
            effect.payload for effect in log.held.values() if not self._is_invented(log, effect)
        )
        for offset, payloads in sightings:
            if len(payloads) > 1:
                what = f"offset {offset} was seen as {' and '.join(sorted(payloads))}"
                self._findings.add("phantom", log.stream, what, epoch=log.epoch, span=(offset, offset))
            else:
                places.update(payloads)
        for payload in sorted({payload for _, payloads in sightings if len(payloads) == 1 for payload in payloads}):
            origins = self.evidence.origins.get((log.stream, payload), set())
            published = [op for op in self.evidence.publishes.get(log.stream, ()) if op.payload == payload]
            asked = len(origins - {None}) + len(published)
            if asked < places[payload] and (len(origins) > 1 or None in origins):
                what = f"{places[payload]} offsets hold {payload}, which was sent and published {asked} times"
                self._findings.add("duplicated", log.stream, what, epoch=log.epoch, span=(offset, offset))

    def _judge_receipts(self, key: Key, outcomes: dict[str, h.Receipt]) -> None:
        any_receipt = next(iter(outcomes.values()))
        if key not in self.evidence.sends:
            self._find("phantom", key, f"seq {key[2]} has a receipt and was never sent", any_receipt)
        elif "ok" in outcomes and "fail" in outcomes:
            self._find("false_receipt", key, f"seq {key[2]} was both committed and refused", outcomes["fail"])
        elif "fail" in outcomes and key in self.present:
            self._find("false_receipt", key, f"seq {key[2]} was refused, and the store holds it", outcomes["fail"])
        elif "ok" in outcomes and not self._may_be_gone(key, outcomes["ok"]):
            self._find(
                "false_receipt", key, f"seq {key[2]} was committed, and the store has no such message", any_receipt
            )

    def _may_be_gone(self, key: Key, receipt: h.Receipt) -> bool:
        """
        Tell whether a committed message is there, or is missing for a reason that is not the library's: the
        loss was told, or retention may have taken it.
        """
        producer, stream, seq = key
        if key in self.present or any((stream, payload) in self.glimpsed for payload in self.evidence.sends[key]):
            return True
        if any(lost.first <= seq <= lost.last for lost in self.evidence.confessed.get((producer, stream), ())):
            return True
        if receipt.time <= self.evidence.forgiven_until.get(stream, -math.inf):
            return True
        logs = self.evidence.logs[stream]
        final = self.evidence.final_epoch[stream]
        if any(other < seq for other, _ in self.places[producer, stream, final]):
            return self._has_room(logs[final], key)  # what comes after an earlier one is in no earlier epoch
        return any(self._has_room(log, key) for log in logs.values())

    def _has_room(self, log: Log, key: Key) -> bool:
        producer, stream, seq = key
        places = self.places[producer, stream, log.epoch]
        first = max((offset for other, offset in places if other < seq), default=0) + 1
        return log.has_room(first, min((offset for other, offset in places if other > seq), default=math.inf) - 1)

    def _judge_published(self, log: Log) -> None:
        asked = collections.Counter(publish.payload for publish in self.evidence.publishes.get(log.stream, ()))
        for effect in map(log.held.__getitem__, log.offsets):
            if effect.producer is not None:
                continue
            asked[effect.payload] -= 1
            if asked[effect.payload] >= 0:
                continue
            is_known = None in self.evidence.origins.get((log.stream, effect.payload), ())
            what = "more often than it was published" if is_known else "and nobody published that"
            self._findings.add(
                "duplicated" if is_known else "phantom",
                log.stream,
                f"offset {effect.offset} holds {effect.payload}, {what}",
                epoch=log.epoch,
                span=(effect.offset, effect.offset),
            )

    def _judge_publish(self, publish: h.Publish) -> None:
        if publish.offset is None or publish.epoch is None:
            return
        log = self.evidence.log(publish.stream, publish.epoch)
        is_retained = log.floor is not None and publish.offset >= log.floor
        if not is_retained or publish.time <= self.evidence.forgiven_until.get(publish.stream, -math.inf):
            return
        effect = log.held.get(publish.offset)
        if effect is None or effect.payload != publish.payload:
            self._findings.add(
                "false_receipt",
                publish.stream,
                f"{publish.payload} was published at offset {publish.offset}, and the store does not hold it there",
                process=publish.process,
                epoch=publish.epoch,
                span=(publish.offset, publish.offset),
                time=publish.time,
            )
