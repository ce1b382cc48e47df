"""When messages that were accepted go out."""

from __future__ import annotations

from session_tools import Rig

from resilient_ws import frames as f
from resilient_ws.gathering import MOMENT, MOST_BYTES, MOST_MESSAGES


def in_flight() -> Rig:
    """Open a session with one message that has no ack."""
    rig = Rig.open()
    assert rig.send("first") == 1
    assert rig.seqs() == [1]
    return rig


def test_a_lonely_message_goes_out_at_once() -> None:
    """Nothing is in flight: nobody is waited for, again and again."""
    rig = Rig.open()
    for seq in (1, 2, 3):
        rig.send(gathers=True)
        assert rig.seqs()[-1] == seq
        rig.say(f.Ack(committed=(f.SeqMark(0, "orders", seq),)))


def test_messages_behind_one_that_has_no_ack_gather_for_a_moment() -> None:
    """Then they go out together, in one batch."""
    rig = in_flight()
    rig.send("second", gathers=True)
    rig.send("third", gathers=True)
    assert rig.seqs() == [1]
    assert rig.session.next_deadline() == MOMENT
    rig.tick(MOMENT)
    assert [batch.payloads for batch in rig.all(f.Batch)] == [["first"], ["second", "third"]]


def test_the_next_ack_lets_them_go() -> None:
    """The server has time for more."""
    rig = in_flight()
    rig.send("second", gathers=True)
    rig.say(f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    assert rig.seqs() == [1, 2]


def test_enough_of_them_go_at_once() -> None:
    """In messages or in bytes, whichever comes first."""
    rig = in_flight()
    for _ in range(MOST_MESSAGES):
        rig.send(gathers=True)
    assert rig.seqs()[-1] == MOST_MESSAGES + 1
    rig = in_flight()
    rig.send("x" * (MOST_BYTES - 1), gathers=True)
    assert rig.seqs() == [1]
    rig.send("x", gathers=True)
    assert rig.seqs()[-1] == 3


def test_whoever_waits_lets_them_go() -> None:
    """Taking a message, or waiting for acks."""
    for wait in ("take", "hurry"):
        rig = in_flight()
        rig.send("second", gathers=True)
        if wait == "take":
            rig.take()
        else:
            rig.session.hurry()
            rig.pump()
        assert rig.seqs() == [1, 2]


def test_a_new_connection_gets_everything() -> None:
    """What gathered when the old one was lost does not wait on the new one."""
    rig = in_flight()
    rig.send("second", gathers=True)
    rig.resume()
    assert rig.seqs() == [1, 2]


def test_who_plans_is_told_once() -> None:
    """A window that somebody knows of needs no second look; one that is over has none."""
    rig = in_flight()
    rig.send("second", gathers=True)
    assert not rig.session.is_quiet
    assert rig.session.gathers_until() == MOMENT
    assert rig.session.gathers_until() is None
    assert rig.session.is_quiet
    assert rig.session.hurry_if_due(0.0) == MOMENT
    assert rig.session.hurry_if_due(MOMENT) is None
    assert not rig.session.is_quiet
    assert rig.session.gathers_until() is None
