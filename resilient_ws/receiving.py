"""
The receiving threads of one Client: what was taken from the session ahead of them, and what each has in its hands.

With automatic acks a few messages are taken at once, which saves a step of the session for each; they stay common
property, so whichever thread asks gets the next one. The user's ``decoder`` and ``on_gap`` run here, in the thread that
asked, so nothing is given to the user under a lock.
"""

from __future__ import annotations

import contextlib
import operator
import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import count, islice, repeat, starmap
from typing import Protocol, cast

import attrs

from resilient_ws.arguments import Arguments
from resilient_ws.driver import Driver
from resilient_ws.events import DeadLettered, Event, Message, Owner
from resilient_ws.exceptions import Gap, JournalFull, SessionLost
from resilient_ws.inbox import Run
from resilient_ws.progress import EVERYONE, Item, Progress, Receiver

MOST_AHEAD = 256
"""Messages that are taken ahead at once."""
MOST_BYTES_AHEAD = 256 << 10
"""Bytes (characters of text) that are taken ahead at once, as far as the messages before tell."""

_STREAM = operator.attrgetter("stream")


class Giver(Owner, Protocol):
    """The Client, as seen from here."""

    def _report(self, event: Event) -> None: ...


def _leading(items: deque[Item], most: int) -> int:
    """Return how many messages stand in front of the first marker, at most so many."""
    # In one call of the interpreter's own: a thread that reads may put more behind them meanwhile.
    kinds = list(map(type, islice(items, most)))
    if kinds.count(Message) == len(kinds):
        return len(kinds)
    return next(place for place, kind in enumerate(kinds) if kind is not Message)


class _Acks:
    """What a message asks to be acked; it does not keep the Client, so that one that was dropped open is noticed."""

    def __init__(self, giver: Giver) -> None:
        self._giver = weakref.ref(giver)

    def _ack(self, message: Message) -> None:
        giver = self._giver()
        if giver is not None:
            giver._ack(message)


@attrs.define(eq=False, kw_only=True)
class Receivers:
    """
    All receiving threads of a Client.

    Attributes:
        driver: Reads while a thread waits.
        end_error: Says why nothing comes any more.
        is_closed: The user closed the Client: nothing is given any more.
    """

    driver: Driver
    arguments: Arguments
    end_error: Callable[[], Exception]
    is_closed: bool = False
    _progress: Progress = attrs.field(init=False)
    _is_auto: bool = attrs.field(init=False)
    _is_plain: bool = attrs.field(init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _threads: threading.local = attrs.field(factory=threading.local)
    _common: deque[Item] = attrs.field(factory=deque)
    _failures: dict[tuple[str, str, int], int] = attrs.field(factory=dict)
    _last_number: int = EVERYONE
    _last_tag: int = 0
    _limit: int = 1

    def __attrs_post_init__(self) -> None:
        self._progress = Progress(self.driver.performer.session, self._lock, self._common)
        self._is_auto = self.arguments.inbox.ack == "auto"
        self._is_plain = self._is_auto and self.arguments.decoder is None and self.driver.persister is None
        if self._is_auto:
            self.driver.before_timers = self._progress.tell

    def __len__(self) -> int:
        return len(self._progress.receivers)

    @property
    def waiting(self) -> int:
        """How many messages were taken ahead and are given to nobody yet; the driver's lock is held."""
        places = [self._common] if self._is_auto else [receiver.ahead for receiver in list(self._progress.receivers)]
        with self._lock:
            return sum(isinstance(item, Message) for ahead in places for item in ahead)

    def mine(self) -> Receiver:
        """Return the calling thread's receiver."""
        try:
            return self._threads.receiver  # type: ignore[no-any-return]
        except AttributeError:
            with self.driver.performer.look():
                self._last_number += 1
                receiver = Receiver(self._last_number, self._common if self._is_auto else deque())
                self._progress.receivers.add(receiver)
                self._threads.receiver = receiver
            return receiver

    def is_only_mine(self) -> bool:
        """Say whether no other thread receives."""
        count = len(self)
        return count == 0 or (count == 1 and hasattr(self._threads, "receiver"))

    def forget(self, stream: str) -> None:
        """Drop what was taken ahead of a stream."""
        with self._lock:
            kept = [item for item in self._common if getattr(item, "stream", None) != stream]
            self._common.clear()
            self._common.extend(kept)

    def ack(self, message: Message, now: float) -> None:
        """Take the user's word that a message and those of its stream before it are handled; in a step."""
        session = self.driver.performer.session
        if not self._is_auto:
            session.ack(message.stream, message.epoch, message.offset, message._tag, now)
            return
        for receiver in list(self._progress.receivers):
            if message in receiver.in_hand:
                receiver.in_hand = [m for m in receiver.in_hand if m.stream != message.stream or m._tag > message._tag]
        self._progress.tell(now)

    def tell_progress(self, now: float) -> None:
        """Ack what the users have handled so far; the driver's lock is held."""
        if self._is_auto:
            self._progress.tell(now)

    def _keep_place(self) -> None:
        """With a journal: have written how far the users are, before anybody gets more."""
        persister = self.driver.persister
        if persister is None:
            return
        with self.driver.performer.step() as now:
            self.tell_progress(now)
        with contextlib.suppress(JournalFull):  # an event says so, and it is tried again
            persister.secure_all(durable=False)

    # -- giving -------------------------------------------------------------------------------------------------------

    def receive(self, owner: Giver, timeout: float | None) -> Message:
        """Return the next message (see ``Client.recv``)."""
        if not self._is_plain:
            return self._receive_carefully(owner, timeout)
        try:
            receiver: Receiver = self._threads.receiver
        except AttributeError:
            receiver = self.mine()
        # The way of nearly all messages: one that was taken ahead is given, and nothing is done twice.
        ahead = receiver.ahead
        with self._lock:
            item = ahead[0] if ahead and receiver.giving is None and not self.is_closed else None
            if type(item) is Message:
                receiver.giving = item
                ahead.popleft()
                last = self._progress.given.get(item.stream)
                if last is None or item._tag > last._tag:
                    self._progress.given[item.stream] = item
                receiver.in_hand = [item]
                receiver.giving = None
                return item
        return self._receive_carefully(owner, timeout)

    def _receive_carefully(self, owner: Giver, timeout: float | None) -> Message:
        receiver = self.mine()
        receiver.in_hand = []
        self._keep_place()
        deadline = self.driver.deadline(timeout)
        while True:
            message = self._next(receiver, owner, 1, deadline)
            if message is not None:
                receiver.giving = None
                return message

    def receive_many(self, owner: Giver, limit: int, timeout: float | None) -> list[Message]:
        """Return the messages that are there (see ``Client.recv_many``)."""
        receiver = self.mine()
        receiver.in_hand = []
        self._keep_place()
        raw = receiver.in_hand if self.arguments.decoder is None else []
        try:
            self._collect(receiver, raw, owner, limit, self.driver.deadline(timeout))
            return receiver.in_hand.copy()
        except Exception:
            if not receiver.in_hand:
                raise
            return receiver.in_hand.copy()  # it was put back, and is raised by the next call
        except BaseException:  # an interrupt: the user never gets these
            self._put_all_back(receiver, raw)
            raise

    def _collect(
        self, receiver: Receiver, raw: list[Message], owner: Giver, limit: int, deadline: float | None
    ) -> None:
        """Put messages into the receiver's hands: what is there, and at least one; ``raw``: before their decoding."""
        found, ahead = receiver.in_hand, receiver.ahead
        while not found or (len(found) < limit and ahead and isinstance(ahead[0], Message)):
            count = len(found)
            if self._is_plain:
                self._give_plainly(receiver, limit)
            if len(found) == count and self._next(receiver, owner, limit, deadline) is not None:
                if raw is not found:
                    raw.append(cast(Message, receiver.giving))
                receiver.giving = None

    def _put_all_back(self, receiver: Receiver, raw: list[Message]) -> None:
        """Have everything given again that an interrupted call had gathered, and what it was about to give."""
        back: list[Item] = list(raw)
        with self._lock:
            giving, ahead = receiver.giving, receiver.ahead
            if giving is not None and giving not in back and not (ahead and ahead[0] is giving):
                back.append(giving)
            ahead.extendleft(reversed(back))
            receiver.in_hand, receiver.giving = [], None

    def _give_plainly(self, receiver: Receiver, limit: int) -> None:
        """Give what was taken ahead, up to the first marker; nothing is done twice."""
        found, ahead = receiver.in_hand, receiver.ahead
        with self._lock:
            if receiver.giving is not None or self.is_closed:
                return
            count = _leading(ahead, min(limit - len(found), len(ahead)))
            # One call of the interpreter's own: no interrupt comes between the one place and the other.
            found.extend(starmap(cast("Callable[[], Message]", ahead.popleft), repeat((), count)))
            if len(set(map(_STREAM, found))) == 1:
                self._progress.note(found[-1])
                return
            # The last of each stream. No comprehension: an interrupt after one leaves the lock taken on Python 3.12.
            for item in dict(zip(map(_STREAM, found), found, strict=True)).values():
                self._progress.note(item)

    def _next(self, receiver: Receiver, owner: Giver, limit: int, deadline: float | None) -> Message | None:
        item = self._pick(receiver)
        while item is None:
            self._fetch(receiver, owner, limit, deadline)
            item = self._pick(receiver)
        try:
            if isinstance(item, Message):
                message = self._decoded(item)
                receiver.in_hand.append(message)
                return message
            self._settle(item)
        except Exception as error:
            self._put_back(receiver, item, error, owner)
            raise
        receiver.giving = None
        return None

    def _pick(self, receiver: Receiver) -> Item | None:
        if self.is_closed:
            raise self.end_error()
        ahead = receiver.ahead
        with self._lock:
            if receiver.giving is None and ahead:
                receiver.giving = ahead[0]
            item = receiver.giving
            if ahead and item is ahead[0]:
                ahead.popleft()
                if self._is_auto and isinstance(item, Message):
                    self._progress.note(item)
            return item

    def _decoded(self, item: Message) -> Message:
        decoder = self.arguments.decoder
        if decoder is None:
            return item
        # A new object: the payload itself stays, should an interrupt come before the user has the message.
        message = Message(item.stream, item.epoch, item.offset, decoder(item.data), item._owner, item._tag)
        if self._failures:
            self._failures.pop((item.stream, item.epoch, item.offset), None)
        return message

    def _settle(self, marker: Exception) -> None:
        on_gap = self.arguments.on_gap
        if not isinstance(marker, (Gap, SessionLost)) or not callable(on_gap):
            raise marker
        on_gap(marker)

    def _put_back(self, receiver: Receiver, item: Item, error: Exception, owner: Giver) -> None:
        """Have an item given again that failed, if the user is to see it again."""
        is_seen = not receiver.in_hand
        if is_seen and (item is error or (isinstance(item, Message) and self._is_dead(item, error, owner))):
            receiver.giving = None
            return
        with self._lock:
            receiver.ahead.appendleft(item)
            receiver.giving = None

    def _is_dead(self, item: Message, error: Exception, owner: Giver) -> bool:
        """Count a failure; after too many the message is passed, and that is reported."""
        key = (item.stream, item.epoch, item.offset)
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        if failures < self.arguments.inbox.max_deliveries:
            return False
        del self._failures[key]
        what = type(error).__name__
        owner._report(DeadLettered(stream=item.stream, offset=item.offset, deliveries=failures, error=what))
        return True

    # -- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self, receiver: Receiver, owner: Giver, limit: int, deadline: float | None) -> None:
        performer = self.driver.performer
        session = performer.session
        is_first = True

        def take(now: float) -> bool:
            nonlocal is_first
            if self.is_closed:
                raise self.end_error()
            if receiver.ahead:
                return True  # another thread took it
            if performer.failure is not None:
                raise self.end_error()  # nobody knows what the session's own items come after
            if is_first:
                performer.change(self.tell_progress, now)
                session.hurry()
            is_first = False
            if session.has_items:
                performer.change(self._take, receiver, owner, limit, now)
                return bool(receiver.ahead)
            if performer.has_ended:
                raise self.end_error()
            return False

        if not self.driver.pump(take, deadline):
            raise TimeoutError("no message came in time; the session goes on" + performer.session.trouble)

    def _take(self, receiver: Receiver, owner: Giver, limit: int, now: float) -> None:
        number = EVERYONE if self._is_auto else receiver.number
        count = max(limit, self._limit) if self._is_auto else limit
        messages = size = 0
        acks = cast(Owner, _Acks(owner))
        for item in self.driver.performer.session.take(count, number, now):
            if isinstance(item, Run):
                messages += len(item.payloads)
                size += sum(map(len, item.payloads))
                receiver.ahead.extend(self._messages(item, acks, number))
            else:
                receiver.ahead.append(item)
        if messages:
            most = max(1, MOST_BYTES_AHEAD * messages // max(size, 1))
            self._limit = min(2 * self._limit, MOST_AHEAD, most)

    def _messages(self, run: Run, owner: Owner, number: int) -> list[Message]:
        # With automatic acks the tag is the order in which messages were taken, else the receiver that they belong to.
        stream, epoch, payloads = run.stream, run.epoch, run.payloads
        if not self._is_auto:
            numbered = enumerate(payloads, run.first)
            return [Message(stream, epoch, offset, data, owner, number) for offset, data in numbered]
        last, self._last_tag = self._last_tag, self._last_tag + len(payloads)
        offsets, tags = count(run.first), count(last + 1)
        return list(map(Message, repeat(stream), repeat(epoch), offsets, payloads, repeat(owner), tags))
