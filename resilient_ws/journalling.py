"""
What it means for a session that its journal has something, or has no room for it (rule 16).

When the journal is written, and how, is the shell's business.
"""

from __future__ import annotations

from resilient_ws import events
from resilient_ws.conversation import Conversation
from resilient_ws.hearing import withdraw_larger
from resilient_ws.ledger import Group
from resilient_ws.records import Accepted, Handled, Welcomed
from resilient_ws.sizes import size_of


def written_down(core: Conversation, now: float, *, durable: bool) -> None:
    """What was taken from the ledger is written."""
    assert core.ledger is not None  # nobody else comes here
    is_patient = core.settings.outbox.sync == "normal"
    for group in core.ledger.written(durable=durable):
        if is_patient or group.is_durable:
            keep_messages(core, group)
        if group.is_durable:
            keep_place(core, group)
    core.gathering.hurry()
    core.after_taking(now)


def keep_messages(core: Conversation, group: Group) -> None:
    """Messages that the journal has may go out; they need not be kept in the group any more."""
    for record in list(group.records.values()):
        if isinstance(record, Accepted):
            core.outbox.keep(record)
            if any(size_of(payload) > core.max_message for payload in record.payloads):
                withdraw_larger(core)  # the server's limit came while they were being written
            del group.records[record.producer, record.stream]


def keep_place(core: Conversation, group: Group) -> None:
    """Positions that are safe may be told; what waited for a token to be safe goes out."""
    for record in group.records.values():
        if isinstance(record, Handled):
            core.inbox.kept(record)
        elif isinstance(record, Welcomed) and core.ledger is not None and record.number == core.ledger.welcomes:
            release(core)


def release(core: Conversation) -> None:
    """Write what was held back for the token's sake."""
    connection = core.primary
    if connection is not None and connection.held_back is not None:
        held, connection.held_back = connection.held_back, None
        core.write(connection, held)


def not_written_down(core: Conversation, now: float) -> None:
    """The journal has no room: messages are taken back, nobody was told that they were accepted."""
    assert core.ledger is not None  # nobody else comes here
    core.now = now
    for accepted in core.ledger.failed(now):
        core.counts["sent"] -= len(accepted.payloads)
        core.outbox.refuse(accepted)
    core.events.append(events.JournalStalled())
