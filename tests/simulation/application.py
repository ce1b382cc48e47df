"""What the program on a device does: it sends, takes, acks, echoes, is slow; and it remembers what it got."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import attrs

from resilient_ws.exceptions import Gap, OutboxFull, Rejected, SessionClosed, SessionLost
from resilient_ws.frames import PRIVATE, Position
from resilient_ws.records import Accepted, Void
from resilient_ws.session import Role, Run, SessionState
from tests.simulation.journal import Sent
from tests.simulation.nodes import LARGEST

if TYPE_CHECKING:
    from tests.simulation.devices import Device


@attrs.frozen
class Delivery:
    """A message that the application got."""

    epoch: str
    offset: int
    payload: bytes
    at: float


@attrs.define
class Begun:
    """
    A subscription began here.

    Attributes:
        position: Where; None while nobody has answered.
        start: What was asked for.
        epoch, end: Of the log when that was asked for.
    """

    position: Position | None = None
    start: str = ""
    epoch: str = ""
    end: int = 0


@attrs.frozen(kw_only=True)
class Plan:
    """What a device does."""

    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    start: Literal["now", "earliest"] = "earliest"
    receivers: int = 1
    ack: Literal["auto", "manual"] = "auto"
    is_slow: bool = False
    is_echo: bool = False
    roles: frozenset[Role] = frozenset()
    outbox: int = 40
    policy: Literal["block", "raise", "drop_oldest", "drop_newest"] = "raise"
    journal: Literal["", "full", "normal"] = ""
    acks_after: int = 0
    """With manual acks: so many have to be in hand before they are acked, or all that there will be."""
    naps: float = 0.0
    """Seconds between two looks at the inbox, in the end too."""


class Application:
    """The user of one Session."""

    def __init__(self, device: Device, plan: Plan) -> None:
        self.device = device
        self.plan = plan
        self.dice = device.world.dice(f"{device.name} application")
        self.is_sending = True
        self.sends: list[Sent] = []
        self.begun = {stream: self._asked(stream, plan.start) for stream in plan.subscribes}
        self.log: dict[str, list[Delivery | Gap | Begun]] = {stream: [begun] for stream, begun in self.begun.items()}
        self.lost_sessions: list[SessionLost] = []
        self.refused: list[Exception] = []
        self.handled: set[tuple[str, str, int]] = set()
        self.unsure: set[tuple[str, str, int]] = set()
        self.no_room: list[bytes] = []
        self._count = 0
        self._taken: dict[int, list[Any]] = {}
        self._idle: set[int] = set()

    def begin(self) -> None:
        """Start sending and receiving."""
        world = self.device.world
        world.after(self.dice.random(), self._send)
        for receiver in range(self.plan.receivers):
            world.after(self.dice.random(), self._take, receiver)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        if not self.device.is_awake(self._send) or not self.is_sending:
            return
        if self.plan.publishes and not self.plan.is_echo:
            self.send_some(self.dice.choice((1, 1, 1, 3)))
        self.device.world.after(self.dice.uniform(0.1, 0.8), self._send)

    def send_some(self, count: int) -> None:
        """Send a few messages."""
        for _ in range(count if self.plan.publishes else 0):
            self.send_one(self.dice.choice(self.plan.publishes))
        self.device.drive()

    def send_one(self, stream: str) -> None:
        """Give one message to the Session, now and then one that is too large for the node."""
        device = self.device
        self._count += 1
        payload = f"{device.name}.{self._count}"
        if self.dice.random() < 0.03:
            payload += "x" * (LARGEST + 10)
        try:
            producer, seq = device.session.send(stream, payload, device.now)
        except (OutboxFull, Rejected, SessionClosed):
            return
        if seq:
            self.sends.append(Sent(producer, stream, seq, payload.encode()))
            if device.storage is not None:
                self.unsure.add((producer, stream, seq))
                device.storage.write()

    def confirm(self, accepted: Accepted) -> None:
        """``send()`` returns: the journal has these."""
        for seq in range(accepted.first, accepted.first + len(accepted.payloads)):
            self.unsure.discard((accepted.producer, accepted.stream, seq))

    def refuse_unsure(self) -> None:
        """``send()`` raises: there was no room for what the journal does not have yet."""
        is_refused = lambda sent: (sent.producer, sent.stream, sent.seq) in self.unsure  # noqa: E731
        self.no_room += [sent.payload for sent in self.sends if is_refused(sent)]
        self.sends = [sent for sent in self.sends if not is_refused(sent)]
        self.unsure.clear()

    def remember(self, producer: str, stream: str, kept: dict[int, Any]) -> None:
        """Know again what an earlier life sent and the journal kept."""
        for seq, item in sorted(kept.items()):
            if not isinstance(item, Void):
                self.sends.append(Sent(producer, stream, seq, item if isinstance(item, bytes) else item.encode()))

    # -- receiving ----------------------------------------------------------------------------------------------------

    def notice(self) -> None:
        """Wake the receivers that wait, where there is something."""
        if self._idle and self.device.session.has_items:
            for receiver in sorted(self._idle):
                self.device.world.after(self.dice.uniform(0.005, 0.15), self._take, receiver)
            self._idle.clear()

    def _take(self, receiver: int) -> None:
        device = self.device
        if not device.is_awake(self._take, receiver):
            return
        session = device.session
        if session.has_items or receiver in self._taken:
            if not self.plan.acks_after or self._has_collected(receiver):
                self._finish(receiver)
            for item in session.take(8 if self.plan.naps else self.dice.choice((1, 2, 5)), receiver, device.now):
                self._took(item, receiver)
            device.drive()
        if not (session.has_items or self._taken.get(receiver) or self.plan.naps or self.plan.acks_after):
            self._idle.add(receiver)
            return
        slow = 1.5 if self.plan.is_slow and self.is_sending else 0.3
        least, most = (self.plan.naps, 1.2 * self.plan.naps) if self.plan.naps else (0.01, slow)
        device.world.after(self.dice.uniform(least, most), self._take, receiver)

    def _has_collected(self, receiver: int) -> bool:
        """Has this receiver as many as it waits for, or everything that there will be?"""
        if sum(len(run.payloads) for run in self._taken.get(receiver, ())) >= self.plan.acks_after:
            return True
        positions = self.device.session._core.inbox.subscriptions
        slots = ((self.device.store.find(stream), positions[stream].passed) for stream in self.plan.subscribes)
        return not self.is_sending and all(
            slot is None or not slot.log[slot.index(passed.offset) :] for slot, passed in slots
        )

    @property
    def in_hand(self) -> Iterator[Run]:
        """What a receiver took and is not done with."""
        return itertools.chain.from_iterable(self._taken.values())

    def _finish(self, receiver: int) -> None:
        """This receiver is done with what it took: with automatic acks its next take says so."""
        for run in self._taken.pop(receiver, ()):
            last = run.first + len(run.payloads) - 1
            if self.plan.ack == "manual":
                self.device.session.ack(run.stream, run.epoch, last, receiver, self.device.now)
            self.handled.update((run.stream, run.epoch, offset) for offset in range(run.first, last + 1))

    def _took(self, item: Any, receiver: int) -> None:
        if isinstance(item, Gap):
            self.log[item.stream].append(item)
        elif isinstance(item, SessionLost):
            self.lost_sessions.append(item)
        elif isinstance(item, Exception):
            self.refused.append(item)
        else:
            self._taken.setdefault(receiver, []).append(item)
            for place, payload in enumerate(item.payloads, item.first):
                data = payload if isinstance(payload, bytes) else payload.encode()
                self.log[item.stream].append(Delivery(item.epoch, place, data, self.device.world.now))
                if self.plan.is_echo and self.is_sending and item.stream != self.plan.publishes[0]:
                    self.send_one(self.plan.publishes[0])

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def _asked(self, stream: str, start: str) -> Begun:
        slot = None if stream == PRIVATE else self.device.store.find(stream)
        return Begun(None, start) if slot is None else Begun(None, start, slot.epoch, slot.last)

    def resubscribe(self, stream: str, start: Literal["now", "earliest", "here"], *, is_hasty: bool = False) -> None:
        """Give a stream up and ask for it again: ``here`` is where it was; hasty: before the last answer came."""
        device = self.device
        subscription = device.session._core.inbox.subscriptions.get(stream)
        if subscription is None or device.session.state is SessionState.ENDED:
            return
        if not subscription.is_active and (not is_hasty or start == "here"):
            return
        passed = subscription.passed
        device.session.unsubscribe(stream, device.now)
        device.session.subscribe(stream, passed if start == "here" else start, device.now)
        self._taken = {
            receiver: [run for run in runs if run.stream != stream] for receiver, runs in self._taken.items()
        }
        begun = Begun(passed) if start == "here" else self._asked(stream, start)
        self.begun[stream] = begun
        if device.storage is not None:
            device.storage.write_at_once()
        self.log[stream].append(begun)
        device.drive()
