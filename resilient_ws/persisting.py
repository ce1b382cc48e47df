"""
Who writes the journal of one Client, and when: in groups, in the thread that cannot go on without it.

A thread that sends, or that has handled a message, writes everything that waits, its own and that of others, who find
it done. What nobody waits for (a token, what is to be made safe after a second) is written by a short thread, so that
the keeper never blocks. What is written the session says; how it lies on the disk is the journal's business.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Protocol

import attrs

from resilient_ws import attempts
from resilient_ws.exceptions import JournalFull, SessionClosed
from resilient_ws.ledger import Group
from resilient_ws.performing import Performer
from resilient_ws.records import Record


class Disk(Protocol):
    """What is needed of a journal."""

    def write(self, records: Sequence[Record], *, durable: bool) -> None: ...

    def close(self) -> None: ...

    def leave_behind(self) -> None: ...


@attrs.define(eq=False, kw_only=True)
class Persister:
    """
    The journal of one performer's session.

    Attributes:
        is_patient: Messages need not survive a power loss before ``send()`` returns (``Outbox.sync``).
    """

    performer: Performer
    disk: Disk
    is_patient: bool
    _ticket: threading.Lock = attrs.field(factory=threading.Lock)
    _is_running: bool = False
    _is_closed: bool = False
    _full: str = ""

    def __attrs_post_init__(self) -> None:
        self.performer.persist = self.start

    # -- in the thread that needs it ----------------------------------------------------------------------------------

    def secure_messages(self, group: Group) -> None:
        """
        Return when the messages of a group are as safe as ``Outbox.sync`` asks, and on their way.

        Raises:
            JournalFull: There is no room; they were not accepted.
            JournalFailed: The disk failed; the Client has ended.
        """
        self.secure(group, durable=not self.is_patient)
        self.performer.perform()

    def secure(self, group: Group, *, durable: bool) -> None:
        """Return when a group survives the end of the process (``durable``: a power loss); raises as above."""
        while not (group.is_durable if durable else group.is_written):
            with self._ticket:
                if group.is_refused:
                    raise JournalFull(self._full)
                if not (group.is_durable if durable else group.is_written):
                    self._write(durable=durable)

    def secure_all(self, *, durable: bool) -> None:
        """Return when everything that there is so far is written; raises as above."""
        with self.performer.look():
            group = self.performer.session.unwritten
        if group is not None and group.records:
            self.secure(group, durable=durable)

    def _write(self, *, durable: bool) -> None:
        """Write what there is; the ticket is ours."""
        performer = self.performer
        if self._is_closed:
            raise performer.failure or SessionClosed("this Client is closed, and its journal with it")
        with performer.look():
            durable = durable or performer.session.persist_due
            records = performer.change(performer.session.to_persist)
        try:
            self.disk.write(records, durable=durable)
        except JournalFull as full:
            self._full = str(full)
            with performer.step() as now:
                performer.session.persist_failed(now)
            return
        except Exception as failed:
            self._is_closed = True
            performer.fail(failed)
            self.disk.close()
            raise
        with performer.step() as now:
            performer.session.persisted(now, durable=durable)

    # -- in a thread of its own ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have written what is due; the performer's lock is held."""
        if self._is_running or self._is_closed:
            return
        self._is_running = True
        try:
            attempts.start(self._run, "journal")
        except RuntimeError:  # no thread to be had: the next step of the session asks again
            self._is_running = False

    def _run(self) -> None:
        try:
            with self._ticket, contextlib.suppress(Exception):  # what failed has ended the Client, which says so
                while not self._is_closed and self._is_due():
                    self._write(durable=True)
        finally:
            self._is_running = False
            self.performer.perform()

    def _is_due(self) -> bool:
        with self.performer.look():
            return self.performer.session.persist_due

    # -- ending -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what is left, and close the journal; where this thread may be writing itself, somebody else does it."""
        if self._ticket.acquire(timeout=1.0):
            try:
                self._close()
            finally:
                self._ticket.release()
        else:
            with contextlib.suppress(RuntimeError):
                attempts.start(self._close_later, "journal")

    def close_later(self) -> None:
        """Have :meth:`close` done by a thread that may wait for a disk."""
        try:
            attempts.start(self._close_later, "journal")
        except RuntimeError:
            self.close()

    def _close_later(self) -> None:
        with self._ticket:
            self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        with contextlib.suppress(Exception):  # no room for the last positions, or a failure that was reported
            self._write(durable=True)
        self._is_closed = True
        self.disk.close()
