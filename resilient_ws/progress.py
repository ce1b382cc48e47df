"""
What each receiving thread has in its hands, and how far the users of all of them are with each stream.

Who takes what is in ``receiving.py``; nothing here waits or reads.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

import attrs

from resilient_ws.events import Message
from resilient_ws.session import Session

EVERYONE = 0
"""With automatic acks the session has one receiver, whatever the number of threads."""

Item = Message | Exception


@attrs.define(eq=False)
class Receiver:
    """
    One receiving thread.

    Attributes:
        number: Its number in the session.
        ahead: Where it finds the next item: with automatic acks the common one.
        in_hand: What it gave to its user last.
        giving: What it is giving to its user at this moment; an interrupt leaves it here, and it is given again.
    """

    number: int
    ahead: deque[Item]
    in_hand: list[Message] = attrs.field(factory=list)
    giving: Item | None = None


@attrs.define(eq=False)
class Progress:
    """
    How far the users of all threads are, with automatic acks; refers to no function of the user's.

    A message is handled when the thread that has it asks for the next one, or ends. What is acked of a stream stays
    below the oldest message that is in somebody's hands, on its way there, or put back because it failed.

    Attributes:
        lock: Guards ``ahead`` and ``given``; taken below the driver's.
        ahead: What was taken and nobody has asked for yet.
        given: The last message of each stream that somebody asked for.
    """

    session: Session
    lock: threading.Lock
    ahead: deque[Item]
    receivers: weakref.WeakSet[Receiver] = attrs.field(factory=weakref.WeakSet)
    given: dict[str, Message] = attrs.field(factory=dict)
    _told: dict[str, tuple[str, int]] = attrs.field(factory=dict)

    def tell(self, now: float) -> None:
        """Ack what is handled; the driver's lock is held."""
        oldest: dict[str, Message] = {}
        with self.lock:
            last = list(self.given.items())
            out = [item for item in self.ahead if isinstance(item, Message) and self._was_given(item)]
            for receiver in list(self.receivers):
                out += [receiver.giving] if isinstance(receiver.giving, Message) else []
                out += receiver.in_hand
        for message in out:
            known = oldest.setdefault(message.stream, message)
            if message._tag < known._tag:
                oldest[message.stream] = message
        for stream, given in last:
            held = oldest.get(stream)
            upto = (given.epoch, given.offset) if held is None else (held.epoch, held.offset - 1)
            if self._told.get(stream) != upto:
                self._told[stream] = upto
                self.session.ack(stream, *upto, EVERYONE, now)

    def note(self, message: Message) -> None:
        """Note that somebody gets this message; ``lock`` is held."""
        if not self._was_given(message):
            self.given[message.stream] = message

    def _was_given(self, message: Message) -> bool:
        last = self.given.get(message.stream)
        return last is not None and message._tag <= last._tag
