"""The client session with messages that a journal kept from an earlier life (rules 5 and 11)."""

from __future__ import annotations

from session_tools import EARLIER, PRODUCER, Rig, session

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.exceptions import Rejected
from resilient_ws.records import RestoredLane


def restored() -> Rig:
    """Open a session whose journal knew seqs 7 and 8 of the earlier producer."""
    opened = session()
    opened._core.outbox.restore(RestoredLane(EARLIER, "orders", 7, ["seven", "eight"]))
    rig = Rig(opened)
    opened.connect(0.0)
    rig.pump()
    return rig


def test_kept_messages_go_out_under_their_old_numbers() -> None:
    """Their producer stands second in the hello, and their lane goes first."""
    rig = restored()
    hello = rig.made()
    assert hello.producers == (PRODUCER, EARLIER)
    assert [(entry.producer, entry.first, entry.next) for entry in hello.outbound] == [(1, 7, 9)]
    rig.welcome()
    assert [(batch.producer, batch.first) for batch in rig.all(f.Batch)] == [(1, 7)]


def test_a_journal_that_is_an_old_copy_is_reported() -> None:
    """The slot knows seqs above the journal's: all that is kept is committed, nothing is refused (rule 11)."""
    rig = restored()
    rig.made()
    known = f.CommittedAnswer(producer=1, stream="orders", seq=12, rejected=((8, "forbidden"), (11, "forbidden")))
    rig.welcome(committed=(known,))
    told = rig.told(e.JournalRolledBack)
    assert told == [e.JournalRolledBack(producer=EARLIER, stream="orders", known=8, committed=12)]
    assert rig.session.outcome(EARLIER, "orders", 7) is True
    assert isinstance(rig.session.outcome(EARLIER, "orders", 8), Rejected)
    assert rig.session.is_flushed
    assert rig.session.connected


def test_acks_above_what_an_old_copy_knows_settle_what_it_knows() -> None:
    """A node repeats its committed seqs in acks and pongs; those of an earlier life are no broken rule."""
    rig = restored()
    rig.made()
    rig.welcome()
    rig.say(f.Ack(committed=(f.SeqMark(1, "orders", 12),)))
    assert rig.session.is_flushed
    assert rig.shuts == []
