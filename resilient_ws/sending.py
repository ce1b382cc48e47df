"""
One Client's sending: what may be sent, where to, and waiting for room.

What becomes of an accepted message is the session's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs

from resilient_ws.arguments import Arguments, check_outbound
from resilient_ws.driver import Driver
from resilient_ws.events import Receipt
from resilient_ws.exceptions import JournalError, OutboxFull, SlowConsumer, Undelivered
from resilient_ws.frames import Payload
from resilient_ws.ledger import Group


@attrs.define(eq=False, kw_only=True)
class Sender:
    """
    Puts messages into the session.

    Attributes:
        end_error: Says why nothing may be sent any more.
        is_closed: The user closed the Client.
        is_only_receiver: Says whether nobody but the calling thread receives.
    """

    driver: Driver
    arguments: Arguments
    end_error: Callable[[], Exception]
    is_only_receiver: Callable[[], bool]
    is_closed: bool = False

    def send(self, data: object, stream: str | None) -> tuple[str, str, int]:
        """Accept a message; returns (producer, stream, seq)."""
        payload = data if type(data) is bytes else as_payload(data)
        name = self.arguments.stream if stream is None else check_outbound(stream)
        if name is None:
            raise ValueError("send() does not know where to: pass stream= here, or to connect()")
        performer = self.driver.performer
        try:
            producer, seq, group, is_quiet = performer.act(self._accept, name, payload)
        except OutboxFull as full:
            if self.arguments.outbox.policy != "block":
                raise
            producer, seq, group, is_quiet = self._send_later(name, payload, full)
        persister = self.driver.persister
        if group is not None and persister is not None and seq:
            persister.secure_messages(group)
        elif not is_quiet:
            performer.perform()
        return producer, name, seq

    def _accept(self, name: str, payload: Payload, now: float) -> tuple[str, int, Group | None, bool]:
        """Give a message to the session; the lock is held."""
        self.check_open()
        session = self.driver.performer.session
        producer, seq = session.send(name, payload, now)
        return producer, seq, session.unwritten, session.is_quiet

    def check_open(self) -> None:
        """Raise where the Client or its session is over; in a step."""
        if self.is_closed or self.driver.performer.has_ended:
            raise self.end_error()

    def flush(self, timeout: float | None) -> None:
        """Wait until everything that was sent so far is committed (see ``Client.flush``)."""
        performer = self.driver.performer
        session = performer.session
        deadline = self.driver.deadline(timeout)
        with performer.look():
            session.hurry()
            accepted = session.accepted()  # what other threads send meanwhile is not waited for
        if not self.driver.pump(lambda now: session.has_settled(accepted) or performer.has_ended, deadline):
            what = f"{session.outbox_size[0]} messages have no ack yet; they are still on their way"
            raise TimeoutError(what + session.trouble)
        with performer.look():
            is_settled = session.has_settled(accepted)
        if not is_settled:
            self.raise_undelivered()

    def drain(self, timeout: float | None) -> None:
        """Accept nothing more, and wait until everything is committed (see ``Client.drain``)."""
        performer = self.driver.performer
        with performer.step() as now:
            if not performer.has_ended:
                performer.session.drain(now)
        performer.perform()
        if not self.driver.pump(lambda now: performer.has_ended, self.driver.deadline(timeout)):
            session = performer.session
            raise TimeoutError(f"{session.outbox_size[0]} messages have no ack yet{session.trouble}")
        self.raise_undelivered()

    def wait_for(self, receipt: Receipt, timeout: float | None) -> None:
        """Wait for the outcome of a message (see ``Receipt.result``)."""
        session, of = self.driver.performer.session, (receipt.producer, receipt.stream, receipt.seq)
        with self.driver.performer.look():
            session.hurry()
        if not self.driver.pump(lambda now: session.outcome(*of) is not False, self.driver.deadline(timeout)):
            raise TimeoutError(f"{receipt!r} has no ack yet; it is on its way{session.trouble}")

    def outcome(self, receipt: Receipt) -> Exception | bool:
        """Say what became of a message (see ``Session.outcome``)."""
        performer, persister = self.driver.performer, self.driver.persister
        with performer.step():
            found, failure = performer.session.outcome(receipt.producer, receipt.stream, receipt.seq), performer.failure
        if isinstance(found, Undelivered) and isinstance(failure, JournalError) and persister and persister.is_patient:
            return failure  # the disk failed before it was made safe, perhaps: nobody knows whether it is kept
        return found

    def raise_undelivered(self) -> None:
        """Raise Undelivered where something has no ack, or a failed journal's error: who knows what it has."""
        performer = self.driver.performer
        with performer.step():
            unacked, error = performer.session.unacked, performer.failure or performer.session.error
        if unacked and isinstance(error, JournalError):
            raise error
        if unacked:
            raise Undelivered(unacked, is_kept=self.driver.persister is not None) from error

    def _send_later(self, name: str, payload: Payload, full: OutboxFull) -> tuple[str, int, Group | None, bool]:
        accepted: list[tuple[str, int, Group | None, bool]] = []
        last = full

        def attempt(now: float) -> bool:
            nonlocal last
            try:
                accepted.append(self.driver.performer.change(self._accept, name, payload, now))
            except OutboxFull as still_full:
                last = still_full
                self._check_slow_consumer()
            return bool(accepted)

        if not self.driver.pump(attempt, self.driver.performer.clock() + self.arguments.outbox.send_timeout):
            raise last
        return accepted[0]

    def _check_slow_consumer(self) -> None:
        # With credit we go on reading at a full inbox, so the acks that make room arrive; without it nothing is read.
        session = self.driver.performer.session
        if session.inbox_full and not session.capabilities.credit and self.is_only_receiver():
            raise SlowConsumer(session.stats()["inbox"][0], self.arguments.inbox.max_messages)


def as_payload(data: object) -> Payload:
    """
    Return ``data`` as it can be kept: ``str``, or ``bytes`` that nobody can change.

    Raises:
        TypeError: It is neither text nor bytes.
        UnicodeEncodeError: A lone surrogate, which UTF-8 cannot say (a ValueError).
    """
    if isinstance(data, str):
        if not data.isascii():
            data.encode()  # refused here, not in some other thread later
        return str(data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    hint = "; send_json() sends it as JSON" if isinstance(data, (dict, list, tuple, int, float, type(None))) else ""
    raise TypeError(f"send() takes str or bytes, not {type(data).__name__}{hint}")


def compact_json(value: Any) -> str:
    """Return ``value`` as JSON without blanks; characters stay as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
