"""
Publishers and subscribers that use the client as anybody would, and tell a recorder what they did and got.

Here live the sessions of a run and its end: everything sent is acked, every subscriber is at the end of the log.
Faults never live here (``chaos.py``), nor does the judgement (``checker.py``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import attrs
import tenacity

import resilient_ws
from resilient_ws import events
from server_fixture import history
from server_fixture.cluster import Cluster
from server_fixture.recorder import Place, Recorder, Tally

ECHOES = "echoes"
"""The stream on which talkative subscribers say what they got."""
QUIET = "quiet"
"""A stream on which nothing comes."""
RATE = 25.0
"""Messages a second of a publisher."""
QUIESCE = 30.0
"""Seconds that a run gets until nothing is missing any more."""
FORGETFUL_QUIESCE = 3.0
"""The same where nothing is replayed, so that what is missing stays missing."""
_LOOK = 0.2

_log = logging.getLogger("resilient_ws.workload")

# For nodes on the same machine, where a refused dial costs nobody anything.
RETRY = resilient_ws.Retry(
    wait=tenacity.wait_exponential(multiplier=0.05, max=0.25), stable_after=1.0, connect_timeout=3.0
)
FAILOVER = resilient_ws.Failover(eject_after=2, ejection=0.25, max_ejection=1.0)
# The negative control: a session ends with its connection, and the next one knows nothing of it.
FORGETFUL = attrs.evolve(RETRY, stop=tenacity.stop_after_attempt(1))


def patience(timeout: float | None) -> resilient_ws.Keepalive:
    """
    Return how long a silent node is borne.

    Args:
        timeout: Seconds of silence after a ping, however few; None: as by default.
    """
    default = resilient_ws.Keepalive()
    if timeout is None:
        return default
    return resilient_ws.Keepalive(timeout=timeout, min_timeout=min(timeout, default.min_timeout))


@attrs.define(eq=False)
class Participant:
    """
    One session and its thread.

    Args:
        urls: The nodes, dialled directly.
        recorder: Takes what happens.
        process: Its name in the history.
        publishes: The stream it publishes on at its own pace, or None.
        follows: The streams it receives.
        echoes: Whether it says on another stream what it got.
        is_forgetful: Whether each connection is a session of its own that starts from now (the negative control).
        keepalive: When it pings, and gives a silent node up.
    """

    urls: Sequence[str]
    recorder: Recorder
    process: str
    publishes: str | None = None
    follows: tuple[str, ...] = ()
    echoes: bool = False
    is_forgetful: bool = False
    keepalive: resilient_ws.Keepalive = attrs.field(factory=resilient_ws.Keepalive)
    tally: Tally = attrs.field(init=False)
    error: BaseException | None = None
    stopping: threading.Event = attrs.field(factory=threading.Event)
    _client: resilient_ws.Client | None = None
    _thread: threading.Thread | None = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _pause: threading.Event = attrs.field(factory=threading.Event)
    _is_closed: bool = False

    def __attrs_post_init__(self) -> None:
        sends = self.publishes is not None or self.echoes
        self.tally = self.recorder.joins(self.process, sends=sends, receives=bool(self.follows))

    def start(self) -> None:
        """Connect, note where the streams are followed from, and go to work."""
        self._open()
        self._thread = threading.Thread(target=self._run, name=self.process, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Ask the thread to end; it closes the session, and what has no ack then is recorded as not known."""
        self.stopping.set()
        with self._lock:
            self._is_closed = True

    def close(self) -> None:
        """End the session, and wait for the thread; one that does not end is told so by its closed session."""
        self.leave()
        if self._thread is not None:
            self._thread.join(5.0)
        if self._client is not None:
            self._client.close()

    # -- work ---------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        work = self._receive if self.follows else self._publish
        try:
            while not self._is_closed:
                self._attempt(work)
        except BaseException as error:
            _log.exception("session_failed process=%s", self.process)
            self.error = error
        finally:
            if self._client is not None:
                self._client.close()

    def _attempt(self, work: Callable[[], None]) -> None:
        """Work until the session ends: for good, or, where it is forgetful, until the next one."""
        try:
            work()
        except resilient_ws.ResilientWSError:
            if self._is_closed:
                return
            if not self.is_forgetful:
                raise
            self._open()

    def _publish(self) -> None:
        assert self.publishes is not None
        due = time.monotonic()
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1.0 / RATE, time.monotonic() - 1.0)
            number = self.tally.sent + 1
            text = f"{self.process} {number}"
            # Text and bytes, short and long, in turn: neither may become the other on its way.
            self._send(text.encode() + bytes(100) if number % 4 == 0 else text, self.publishes)
        self._linger()

    def _linger(self) -> None:
        """Nothing more is sent; what has no ack yet is the keeper's, until the session is closed."""
        while not self._is_closed:
            assert self._client is not None
            with contextlib.suppress(TimeoutError):
                self._client.recv(_LOOK)

    def _receive(self) -> None:
        client = self._client
        assert client is not None
        while not self._is_closed:
            try:
                messages = client.recv_many(100, _LOOK)
            except TimeoutError:
                continue
            except resilient_ws.Gap as gap:
                self._note_gap(gap)
                continue
            except resilient_ws.SessionLost as lost:
                self.recorder.record(history.SessionLostReported(self.process, time.monotonic(), lost.reason))
                continue
            for message in messages:
                self.recorder.delivered(self.tally, message.stream, message.epoch, message.offset, message.data)
                if self.echoes:
                    self._send(f"{self.process} {message.stream} {message.offset} {self.tally.sent}", ECHOES)

    def _note_gap(self, gap: resilient_ws.Gap) -> None:
        now = time.monotonic()
        op = history.GapReported(
            self.process, now, gap.stream, gap.epoch, gap.first, gap.last, gap.next, gap.reason
        )
        self.recorder.gap(self.tally, op)

    def _send(self, data: str | bytes, stream: str) -> None:
        assert self._client is not None
        receipt = self._client.send(data, stream)
        self.recorder.sent(self.tally, receipt.producer, stream, receipt.seq, data)
        receipt.add_done_callback(self._resolved)

    def _resolved(self, receipt: resilient_ws.Receipt) -> None:
        outcome, code = "ok", None
        try:
            receipt.result(0)
        except resilient_ws.Rejected as rejected:
            outcome, code = "fail", rejected.code
        except (resilient_ws.ResilientWSError, TimeoutError):
            outcome = "info"
        self.recorder.resolved(self.tally, receipt.producer, receipt.stream, receipt.seq, outcome, code)

    # -- the session --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open a session; a forgetful one as often as it takes, for no attempt of it is repeated by itself."""
        while not self._is_closed:
            try:
                client = self._connect()
            except resilient_ws.ConnectError:
                if not self.is_forgetful:
                    raise
                self._pause.wait(0.05)
                continue
            with self._lock:
                spent, self._client = (client, self._client) if self._is_closed else (self._client, client)
            if spent is not None:
                spent.close()
            if spent is not client:
                self._note_positions(client)
            return

    def _connect(self) -> resilient_ws.Client:
        return resilient_ws.connect(
            self.urls,
            subscribe=dict.fromkeys(self.follows, "now"),
            on_event=self._on_event,
            retry=FORGETFUL if self.is_forgetful else RETRY,
            failover=FAILOVER,
            keepalive=self.keepalive,
            open_timeout=20.0,
        )

    def _note_positions(self, client: resilient_ws.Client) -> None:
        """What a forgetful session missed is owed to it all the same: it was a subscriber of that time."""
        for stream in self.follows:
            position = client.position(stream)
            if position is not None and stream not in self.tally.seen:
                self.recorder.subscribed(self.tally, stream, position.epoch, position.offset)

    def _on_event(self, event: events.Event) -> None:
        """Runs in the client's dispatcher."""
        if isinstance(event, events.Connected):
            self.recorder.connected(self.tally, event.node, event.conn)
        elif isinstance(event, events.Resumed):
            self.recorder.resumed(self.tally, event.node)
        elif isinstance(event, events.ConnectionEnded):
            self.recorder.cut(self.tally, event.conn, event.code, event.reason)
        elif isinstance(event, events.AcknowledgedLost):
            op = history.AcknowledgedLost(
                self.process, time.monotonic(), event.producer, event.stream, event.first, event.last
            )
            self.recorder.record(op)


@attrs.define(eq=False)
class Workload:
    """
    The sessions of a run.

    Args:
        cluster: Whose nodes they dial, and whose store is read at the end.
        recorder: Takes what happens.
        sessions: How many; two of them publish, the others receive, every other one of those talks as well.
        is_forgetful: The negative control.
        quiet: How many more there are that follow a stream on which nothing comes, so that they live by pings alone.
        keepalive: As that of each :class:`Participant`.
    """

    cluster: Cluster
    recorder: Recorder
    sessions: int = 6
    is_forgetful: bool = False
    quiet: int = 0
    keepalive: resilient_ws.Keepalive = attrs.field(factory=resilient_ws.Keepalive)
    participants: list[Participant] = attrs.field(factory=list)
    feeds: tuple[str, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.sessions < 3:
            raise ValueError(f"sessions={self.sessions}: at least 3, a publisher and one subscriber of each kind")
        publishers = 2 if self.sessions > 3 else 1
        self.feeds = tuple(f"feed-{number}" for number in range(1, publishers + 1))
        for number in range(1, self.sessions - publishers + 1):
            kind = "talkative" if number % 2 else "silent"
            self._add(f"{kind}-{number}", follows=self.feeds, echoes=number % 2 == 1)
        for number in range(1, self.quiet + 1):
            self._add(f"quiet-{number}", follows=(QUIET,))
        for number, feed in enumerate(self.feeds, 1):
            self._add(f"publisher-{number}", publishes=feed)

    def _add(
        self, process: str, *, publishes: str | None = None, follows: tuple[str, ...] = (), echoes: bool = False
    ) -> None:
        one = Participant(
            self.cluster.urls,
            self.recorder,
            process,
            publishes,
            follows,
            echoes,
            is_forgetful=self.is_forgetful,
            keepalive=self.keepalive,
        )
        self.participants.append(one)

    def start(self) -> None:
        """Open every session; the subscribers first, so that all follow from the beginning."""
        for one in self.participants:
            one.start()

    def failures(self) -> list[str]:
        """Say which sessions ended by themselves, and how."""
        found = [one for one in self.participants if one.error is not None]
        return [f"{one.process} ended with {type(one.error).__name__}: {one.error}" for one in found]

    def quiesce(self) -> list[str]:
        """
        Send no more, and wait until everything is acked and received.

        Returns:
            What is still missing when the time is over.
        """
        timeout = FORGETFUL_QUIESCE if self.is_forgetful else QUIESCE
        deadline = time.monotonic() + timeout
        for one in self.participants:
            if one.publishes is not None:
                one.stopping.set()
        self.recorder.wait(self._are_published, timeout)
        try:
            ends = self._ends()
        except ConnectionError:
            return []  # without the store nothing can be said; there will be no final read either

        def is_quiet() -> bool:
            return not self._missing(ends)

        self.recorder.wait(is_quiet, max(0.0, deadline - time.monotonic()))
        return [f"after {timeout:g} s of peace {what}" for what in self._missing(ends)]

    def _are_published(self) -> bool:
        return not any(one.tally.unresolved for one in self.participants if one.publishes is not None)

    def _ends(self) -> dict[str, Place]:
        reads = [self.cluster.final_read(feed) for feed in self.feeds]
        return {
            read.stream: (read.epoch, read.messages[-1].offset) for read in reads if read is not None and read.messages
        }

    def _missing(self, ends: Mapping[str, Place]) -> list[str]:
        missing = [
            f"{one.process} has {one.tally.unresolved} messages without an ack"
            for one in self.participants
            if one.tally.unresolved
        ]
        for one in self.participants:
            behind = {stream: end for stream, end in ends.items() if stream in one.follows}
            missing += [
                f"{one.process} is at {one.tally.seen.get(stream)} of {stream!r}, which ends at {end}"
                for stream, end in behind.items()
                if one.tally.seen.get(stream) != end
            ]
        return missing

    def close(self) -> None:
        """End every session."""
        for one in self.participants:
            one.leave()
        for one in self.participants:
            one.close()

    def final_reads(self) -> list[history.FinalRead]:
        """Read what the store holds of every stream."""
        reads = [self.cluster.final_read(stream) for stream in (*self.feeds, ECHOES)]
        return [read for read in reads if read is not None]
