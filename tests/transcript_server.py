"""Plays a golden transcript against the reference server's session: client lines are fed in, server lines expected."""

from __future__ import annotations

import random
from typing import Any

import attrs
from transcript_client import items_of
from transcripts import Line, Transcript

from resilient_ws import frames as f
from resilient_ws.dialects.native import Native
from server_fixture.backplane import Append, Entry, Fence, Publish, SessionEntered, bucket_of
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.backplane.slots import Producer, Record, Stream
from server_fixture.session import Call, Close, NodeSettings, Send, ServerSession, Unwatch, Watch

PRINCIPAL = "user"


def normal(item: Any) -> Any:
    """Take out what is random: the id and token of a new session."""
    if isinstance(item, f.Welcome) and item.verdict == "new":
        return attrs.evolve(item, session="new", token="new")
    return item


def entry_of(payload: f.Payload) -> Entry:
    """Say a payload as the store keeps it."""
    return Entry(payload.encode() if isinstance(payload, str) else payload, isinstance(payload, str))


class ServerPlayer:
    """The nodes of one transcript, over one store that is put where each welcome says that it was."""

    def __init__(self, transcript: Transcript) -> None:
        self.lines = transcript.lines
        self.store = MemoryBackplane(random.Random(1))
        self.servers: dict[int, ServerSession] = {}
        self.watched: dict[int, set[str]] = {}
        self.said: dict[int, list[Any]] = {}
        self.closed: dict[int, tuple[int, str]] = {}
        self.now = 0.0
        self.compared = 0

    def play(self) -> None:
        """Go through all lines."""
        for line in self.lines:
            self.now = line.at
            if line.sender == "client" and line.wire is not None:
                self._feed(line)
            elif line.sender != "server" and line.conn in self.servers:
                self.servers[line.conn].connection_lost(self.now)
                self.said[line.conn].clear()
            elif line.sender == "server" and line.conn in self.servers:
                self._expect(line)
        left = [item for said in self.said.values() for item in said if not isinstance(item, f.Ping)]
        assert left == [], "the server says more than the transcript"

    # -- what the client says -----------------------------------------------------------------------------------------

    def _feed(self, line: Line) -> None:
        items = items_of(line)
        hello = items[0] if isinstance(items[0], f.Hello) else None
        if hello is not None:
            said = self._welcome_of(line)
            if said is not None:
                self._seed(hello, said, line)
            if line.conn not in self.servers:
                self._accept(line.conn, said.node if said is not None else self._node_of(line))
        self.servers[line.conn].received(items, self.now)
        self._pump()
        if hello is not None and said is not None and said.verdict == "new":
            self._record(said.session, Fence(said.generation, hello.instance, hello.attempt))

    def _accept(self, conn: int, node: str) -> None:
        settings = NodeSettings(
            node=node, key=b"transcripts", keepalive_interval=1.0, keepalive_timeout=1.0, poll_interval=1.0
        )
        rng = random.Random(conn)
        self.servers[conn] = ServerSession(settings, PRINCIPAL, lambda who, verb, stream: True, rng, self.now)
        self.watched[conn], self.said[conn] = set(), []

    def _welcome_of(self, line: Line) -> f.Welcome | None:
        """Return the welcome that answers a hello; where that is lost, the one after it."""
        later = [
            other for other in self.lines if other.number > line.number and other.sender == "server" and other.wire
        ]
        here = [item for other in later if other.conn == line.conn for item in items_of(other)]
        if here:
            return here[0] if isinstance(here[0], f.Welcome) else None
        return next((item for other in later for item in items_of(other) if isinstance(item, f.Welcome)), None)

    def _node_of(self, line: Line) -> str:
        """Return the name of a node that never says welcome there."""
        standing = [i for later in self.lines if later.conn == line.conn and later.sender == "server" and later.wire
                    for i in items_of(later) if isinstance(i, f.Standing)]  # fmt: skip
        return standing[0].node if standing else "n1"

    # -- the store ----------------------------------------------------------------------------------------------------

    def _record(self, session: str, fence: Fence, expires: float = 1e9) -> None:
        record = Record(session, PRINCIPAL, fence, expires)
        record.note(fence.instance, fence.attempt)
        self.store._buckets[bucket_of(session)].records.setdefault(session, record)

    def _seed(self, hello: f.Hello, said: f.Welcome, line: Line) -> None:
        """Put session, streams and producers where this welcome found them."""
        self.store.incarnation = said.incarnation
        if hello.session is not None and said.reason != "superseded":
            before = Fence(int((hello.token or "").split(".")[2]), hello.instance, hello.attempt - 1)
            self._record(hello.session, before, -1.0 if said.reason == "expired" else 1e9)
        for answer in said.streams:
            if answer.stream == f.PRIVATE:
                self.store._random = lambda epoch=answer.epoch: epoch  # type: ignore[method-assign]
            elif answer.stream not in self.store._streams:
                self._seed_stream(answer, line)
            end = answer.live + 1 if answer.gap is None else 0
            for offset in range(self._end(answer.stream) + 1 if end else 0, end):
                self._step(Publish(stream=answer.stream, entries=(self._entry(answer, offset, line),)))
        for committed in said.committed:
            slot = self.store._streams.setdefault(committed.stream, Stream("orders"))
            if committed.known:
                slot.producers.setdefault(hello.producers[committed.producer], Producer(last=committed.seq))

    def _seed_stream(self, answer: f.StreamAnswer, line: Line) -> None:
        slot = self.store._streams[answer.stream] = Stream(answer.epoch)
        gap = answer.gap
        first, last = answer.first - 1, answer.live
        if gap is not None:
            first = answer.first
            slot.base = answer.first - 1 if gap.reason == "epoch" else 0
            last = 97 if gap.reason == "rewritten" else last
            first = min(first, last)
        if gap is not None and gap.reason == "epoch":
            first = answer.first - 1
        for offset in range(max(first, 1), last + 1):
            slot.log.append(attrs.evolve(self._entry(answer, offset, line), offset=offset))
        slot.last = last

    def _entry(self, answer: f.StreamAnswer, offset: int, line: Line) -> Entry:
        """Return a message as a later line shows it; else what has the answer's CRC."""
        shown = self._shown(answer.stream, offset, line)
        if shown is not None:
            return entry_of(shown)
        usual, other = entry_of(f'{{"n":{offset}}}'), entry_of(b"\x01\x02")
        return other if other.crc == answer.crc else usual

    def _shown(self, stream: str, offset: int, line: Line) -> f.Payload | None:
        for later in self.lines:
            if later.sender == "server" and later.wire is not None and later.number > line.number:
                for item in items_of(later):
                    if isinstance(item, f.Batch) and item.stream == stream and item.first is not None:
                        place = offset - item.first
                        if 0 <= place < len(item.payloads):
                            return item.payloads[place]
        return None

    # -- what the server says -----------------------------------------------------------------------------------------

    def _expect(self, line: Line) -> None:
        self.compared += 1
        if line.close is not None:
            code, reason = self.closed[line.conn]
            assert (code, "" if code == 1000 else reason) == line.close
            return
        (item,) = items_of(line)
        self._cause(line, item)
        if isinstance(item, f.Batch):
            for i, payload in enumerate(item.payloads):
                self._take(line, f.Batch(item.stream, (item.first or 0) + i, [payload]))
        else:
            self._take(line, item)

    def _cause(self, line: Line, item: Any) -> None:
        """Let happen in the store what this line tells of."""
        server = self.servers[line.conn]
        if isinstance(item, f.GapFrame):
            slot = self.store._streams[item.stream]
            slot.epoch, slot.base = item.epoch, slot.last
        elif isinstance(item, f.Batch) and item.first is not None:
            name = f"~{server.session}" if item.stream == f.PRIVATE else item.stream
            missing = item.first + len(item.payloads) - 1 - self._end(name)
            if missing > 0:
                entries = tuple(map(entry_of, item.payloads[-missing:]))
                self._step(Publish(stream=name, entries=entries))
        deadline = server.next_deadline()
        if isinstance(item, f.GapFrame) and deadline is not None:
            for stream in self.watched[line.conn]:
                server.woken(stream, self.now)
        self._pump()

    def _end(self, name: str) -> int:
        slot = self.store._find(name)
        return 0 if slot is None else slot.last

    def _take(self, line: Line, item: Any) -> None:
        """Find the item as the next of its kind: data, or control frames, each in order."""
        said = self.said[line.conn]
        same = [got for got in said if isinstance(got, f.Batch) == isinstance(item, f.Batch)]
        while isinstance(item, f.Ack) and len(same) > 1 and isinstance(same[0], f.Ack) and same[0] != item:
            said.remove(same.pop(0))  # acks are cumulative, the transcript shows the last one
        if isinstance(item, f.Batch):
            same = [got for got in same if got.stream == item.stream]
        assert same, f"the server does not say line {line.number}: {item}"
        assert normal(same[0]) == normal(item), f"line {line.number}: {same[0]} instead of {item}"
        del said[next(i for i, got in enumerate(said) if got is same[0])]

    # -- the node -----------------------------------------------------------------------------------------------------

    def _step(self, request: Any) -> Any:
        answer = self.store.step(request, self.now)
        for conn, server in self.servers.items():
            if isinstance(request, (Append, Publish)) and request.stream in self.watched[conn]:
                server.woken(request.stream, self.now)
            if isinstance(answer, SessionEntered):
                server.fence_raised(answer.session, answer.fence, self.now)
        return answer

    def _pump(self) -> None:
        while any([self._perform(conn, server) for conn, server in self.servers.items()]):  # noqa: C419
            pass

    def _perform(self, conn: int, server: ServerSession) -> bool:
        actions = server.actions()
        for action in actions:
            if isinstance(action, Send):
                wires = Native().server().encode(action.items)
                for item in [Native().client().decode([wire])[0] for wire in wires]:
                    if isinstance(item, f.Batch) and item.first is not None:
                        self.said[conn] += [
                            f.Batch(item.stream, item.first + i, [p]) for i, p in enumerate(item.payloads)
                        ]
                    else:
                        self.said[conn].append(item)
            elif isinstance(action, Call):
                server.answered(action.id, self._step(action.request), self.now)
            elif isinstance(action, Watch):
                self.watched[conn].add(action.stream)
            elif isinstance(action, Unwatch):
                self.watched[conn].discard(action.stream)
            elif isinstance(action, Close):
                self.closed[conn] = (action.code, action.reason)
        return bool(actions)
