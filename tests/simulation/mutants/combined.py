"""
Defects that are planted together, because each alone is covered by another rule.

A node without ids of subscriptions is covered by the client's; a journal without its instances by the one more resume
after a foreign 4409, and an end at the first one by the journal; a hello without acks by the pings that say them again.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from resilient_ws import losing
from resilient_ws.conversation import Conversation
from resilient_ws.exceptions import SessionTakenOver
from resilient_ws.treatments import Treatment, superseder
from tests.simulation.journal import Contents
from tests.simulation.mutants.arrivals import client_without_ids, hello_without_acks, no_ack_again
from tests.simulation.mutants.mutant import Mutant, replaced, together
from tests.simulation.mutants.node import node_without_ids


def _forgets_instances(original: Any) -> Any:
    """A restart does not know the ids under which the program lived before."""
    return lambda self, instances, ahead: original(self, frozenset(), ahead)


def _foreign_is_fatal() -> Any:
    """The first 4409 that names somebody else is the end."""
    original = losing.AFTER_LOSS[Treatment.SUPERSEDED]

    def superseded(core: Conversation, connection: Any, error: Exception, now: float) -> None:
        if superseder(getattr(error, "reason", "")) in core.settings.instances:
            original(core, connection, error, now)
        else:
            core.end(SessionTakenOver("somebody else has the session"), now)

    return patch.dict(losing.AFTER_LOSS, {Treatment.SUPERSEDED: superseded})


MUTANTS = {
    "no_subscription_ids": Mutant("12", "toggles", together(client_without_ids, node_without_ids)),
    "journal_forgets_instances": Mutant("4, 16", "revenant", together(
        replaced(Contents, "restored", _forgets_instances), _foreign_is_fatal)),
    # No message is swallowed in this mix, so that pings without acks alone do no harm either.
    "hello_is_no_ack": Mutant("9", "parting", together(hello_without_acks, no_ack_again)),
}  # fmt: skip
