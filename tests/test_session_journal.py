"""The client session with a journal: what may go out when, what is told to whom, and what a full disk does."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import attrs
import pytest
from session_tools import EARLIER, PRODUCER, Rig, answer, gap

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.config import Inbox, Outbox
from resilient_ws.exceptions import Gap, OutboxFull, Rejected, Undelivered
from resilient_ws.ledger import SYNC_DELAY
from resilient_ws.records import (
    Accepted,
    Forgotten,
    Handled,
    Identity,
    Mark,
    Restored,
    RestoredLane,
    SessionOver,
    Settled,
    Void,
    Welcomed,
    Withdrawn,
)

FOR_LONG = Outbox(max_age=100.0, policy="drop_oldest")


def journalled(*, slow: bool = False, subscribe: Any = (), **changes: Any) -> Rig:
    """Open a welcomed session with a journal; a slow disk writes only when it is told to."""
    rig = Rig.new(restored=changes.pop("restored", Restored()), subscribe=subscribe, **changes)
    rig.made()
    rig.welcome()
    rig.is_slow_disk = slow
    return rig


def kept(rig: Rig, kind: type) -> list[Any]:
    return [record for record in rig.journal if isinstance(record, kind)]


def one(offset: int, payload: f.Payload) -> f.Batch:
    """Make a message of stream ``s``."""
    return f.Batch("s", offset, [payload])


def writing_101() -> Rig:
    """Open a session that has handled message 101 of ``s``, which its journal is writing down at this moment."""
    rig = journalled(slow=True, subscribe=["s"])
    rig.persist()
    rig.say(one(101, "a"))
    rig.take(1)
    rig.take(1)
    rig.session.to_persist()
    return rig


# -- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_goes_out_when_the_journal_has_it() -> None:
    """Until then no connection is given it, nor does a hello say that there is one (rule 16)."""
    rig = journalled(slow=True)
    rig.send("one")
    assert rig.seqs() == []
    rig.lose()
    assert rig.redial().outbound == ()
    rig.welcome()
    rig.persist()
    rig.pump()
    assert rig.seqs() == [1]
    rig.lose()
    assert [(entry.first, entry.next) for entry in rig.redial().outbound] == [(1, 2)]


def test_what_is_written_is_enough_for_a_patient_outbox_only() -> None:
    """``sync="full"`` waits for what survives a power loss, ``"normal"`` for what survives the process."""
    for sync, seqs in (("normal", [1]), ("full", [])):
        rig = journalled(slow=True, outbox=Outbox(sync=sync))
        rig.send("one")
        rig.persist(durable=False)
        rig.pump()
        assert rig.seqs() == seqs
        rig.persist()
        rig.pump()
        assert rig.seqs() == [1]


def test_what_is_accepted_while_a_group_is_written_waits_for_the_next() -> None:
    """Only what was taken is covered."""
    rig = journalled(slow=True)
    rig.send("one")
    rig.session.to_persist()
    rig.send("two")
    rig.session.persisted(rig.now, durable=True)
    rig.pump()
    assert rig.seqs() == [1]
    rig.persist()
    rig.pump()
    assert rig.seqs() == [1, 2]


def test_acks_are_written_down() -> None:
    """What a restart need not send again."""
    rig = journalled()
    rig.send("one")
    rig.send("two")
    rig.say(f.Ack(committed=(f.SeqMark(0, "orders", 1),)))
    assert kept(rig, Accepted) == [
        Accepted(PRODUCER, "orders", 1, ["one"], 0.0, 1),
        Accepted(PRODUCER, "orders", 2, ["two"], 0.0, 1),
    ]
    assert kept(rig, Settled) == [Settled(PRODUCER, "orders", 1)]


def test_messages_say_under_which_welcome_a_server_can_have_got_them() -> None:
    """With a connection under the present one, without under the next."""
    rig = Rig.new(restored=Restored(welcomes=6))
    rig.send("early")
    rig.made()
    rig.welcome()
    rig.send("late")
    rig.lose()
    rig.send("between")
    assert [record.welcome for record in kept(rig, Accepted)] == [7, 7, 8]
    assert [record.number for record in kept(rig, Welcomed)] == [7]


def test_a_full_disk_takes_messages_back() -> None:
    """They were never accepted: their numbers are free again, the rest of the outbox is as it was."""
    rig = journalled()
    rig.send("one")
    rig.is_slow_disk = True
    rig.send("two")
    rig.send("other", "elsewhere")
    group = rig.session.unwritten
    rig.session.to_persist()
    rig.session.persist_failed(rig.now)
    rig.pump()
    assert group is not None
    assert group.is_refused
    assert rig.session.outbox_size == (1, 3)
    assert rig.told(e.JournalStalled)
    assert rig.session.stats()["sent"] == 1
    rig.is_slow_disk = False
    assert rig.send("again") == 2
    assert rig.send("x", "elsewhere") == 1
    assert rig.seqs() == [1, 2]


def test_positions_are_tried_again_after_a_full_disk() -> None:
    """Every second, with what has changed since."""
    rig = journalled(slow=True, subscribe=["s"])
    rig.persist()
    rig.say(one(101, "a"), one(102, "b"))
    rig.take(1)
    rig.take(1)
    rig.session.to_persist()
    rig.session.persist_failed(rig.now)
    rig.pump()
    assert not rig.session.persist_due
    rig.tick(1.0)
    assert rig.session.persist_due
    assert rig.persist() == [Handled("s", f.Position("e1", 101), crc32(b"a"))]


def test_tombstones_are_written_down() -> None:
    """A message that the policy withdrew does not come back with a restart."""
    rig = journalled(outbox=Outbox(max_messages=2, policy="drop_oldest"))
    rig.is_backed_up = True
    rig.lose()
    for data_ in "abc":
        rig.send(data_)
    assert kept(rig, Withdrawn) == [Withdrawn(PRODUCER, "orders", (1,), "dropped")]
    assert kept(rig, Settled) == [Settled(PRODUCER, "orders", 1)]
    assert isinstance(rig.outcome(1), Rejected)


def test_what_the_journal_does_not_have_yet_is_not_dropped() -> None:
    """Somebody is in ``send()`` with it; the newcomer finds no room."""
    rig = journalled(slow=True, outbox=Outbox(max_messages=1, policy="drop_oldest"))
    rig.send("a")
    with pytest.raises(OutboxFull):
        rig.send("b")
    rig.persist()
    assert rig.send("b") == 2


def test_what_the_journal_gets_after_the_limit_is_known_is_measured_too() -> None:
    """A message that was accepted before the server told its limit is withdrawn when it is safe; others are not."""
    rig = Rig.new(restored=Restored())
    rig.is_slow_disk = True
    rig.send("fits")
    rig.send("x" * 100)
    rig.made()
    rig.welcome(max_message=50)
    assert rig.told(e.MessageRejected) == []
    rig.persist()
    rig.pump()
    assert [(event.seq, event.code) for event in rig.told(e.MessageRejected)] == [(2, "too_large")]
    rig.send("fits too")
    rig.persist()
    rig.pump()
    assert len(rig.told(e.MessageRejected)) == 1


def test_an_abandoned_message_is_kept() -> None:
    """Its receipt says that the next Client sends it; without a journal nobody does."""
    rig = journalled()
    rig.send("one")
    rig.session.close(rig.now)
    outcome = rig.outcome(1)
    assert isinstance(outcome, Undelivered)
    assert outcome.is_kept
    assert "next Client" in str(outcome)
    bare = Rig.open()
    bare.send("one")
    bare.session.close(bare.now)
    assert not bare.outcome(1).is_kept  # type: ignore[union-attr]


# -- the token --------------------------------------------------------------------------------------------------------


def test_nothing_goes_out_before_the_token_is_durable() -> None:
    """Neither ``ready`` nor anything else (rule 16); that it survives the process is not enough."""
    rig = Rig.new(restored=Restored())
    rig.is_slow_disk = True
    hello = rig.made()
    rig.welcome()
    assert rig.session.persist_due
    rig.say(f.Ping(echo="1"))
    assert rig.written[rig.conn] == [hello]
    rig.persist(durable=False)
    rig.pump()
    assert rig.written[rig.conn] == [hello]
    rig.persist()
    rig.pump()
    assert [type(item) for item in rig.written[rig.conn][1:]] == [f.Ready, f.Pong]
    assert kept(rig, Welcomed) == [Welcomed(1, 0.0, "i1", Identity("00s1", "t.1", 1))]


def test_an_older_token_lets_nothing_out() -> None:
    """What a second welcome waits for is its own token."""
    rig = Rig.new(restored=Restored())
    rig.is_slow_disk = True
    rig.made()
    rig.welcome()
    rig.session.to_persist()
    rig.lose()
    rig.redial()
    rig.welcome()
    rig.session.persisted(rig.now, durable=True)
    rig.pump()
    assert rig.all(f.Ready) == []
    rig.persist()
    rig.pump()
    assert [ready.generation for ready in rig.all(f.Ready)] == [2]


def test_a_token_that_is_durable_late_is_no_use_to_a_lost_connection() -> None:
    """There is nobody to confirm it to."""
    rig = Rig.new(restored=Restored())
    rig.is_slow_disk = True
    rig.made()
    rig.welcome()
    rig.lose()
    rig.persist()
    rig.pump()
    assert rig.all(f.Ready) == []


@pytest.mark.parametrize("how", ["bye", "end"])
def test_a_session_that_is_over_is_forgotten(how: str) -> None:
    """By the server's ``bye`` or ours; closing alone keeps it for the next Client."""
    rig = journalled()
    if how == "bye":
        rig.say(f.Bye())
    else:
        rig.session.close(rig.now, end=True)
    assert SessionOver() in rig.session.to_persist() or SessionOver() in rig.journal
    closed = journalled()
    closed.session.close(closed.now)
    assert SessionOver() not in closed.session.to_persist()


# -- positions --------------------------------------------------------------------------------------------------------


def test_where_a_stream_begins_is_written_down() -> None:
    """A restart before the first message goes on there, not at a later ``now``."""
    rig = journalled(subscribe=["s"])
    assert kept(rig, Handled) == [Handled("s", f.Position("e1", 100), None)]


def test_what_is_handled_is_written_with_its_crc() -> None:
    """Of the message at the position, whoever has what is behind it in hand."""
    rig = journalled(subscribe=["s"], inbox=Inbox(ack="manual"))
    rig.say(one(101, "a"), one(102, "b"), one(103, b"c"))
    rig.take(2, receiver=1)
    rig.take(1, receiver=2)
    rig.session.ack("s", "e1", 103, 2, rig.now)
    rig.pump()
    assert [record.position.offset for record in kept(rig, Handled)] == [100]
    rig.session.ack("s", "e1", 101, 1, rig.now)
    rig.pump()
    rig.session.ack("s", "e1", 102, 1, rig.now)
    rig.pump()
    rig.session.ack("s", "e1", 102, 1, rig.now)
    rig.pump()
    said = [(record.position.offset, record.crc) for record in kept(rig, Handled)[1:]]
    assert said == [(101, crc32(b"a")), (103, crc32(b"c"))]


def test_the_message_before_what_is_in_hand_may_be_of_another_run() -> None:
    """The last one of a run that is handled is remembered until the next position."""
    rig = journalled(subscribe=["s"])
    rig.say(one(101, "a"))
    rig.say(one(102, "b"))
    rig.take(1)
    rig.take(1)
    assert kept(rig, Handled)[-1] == Handled("s", f.Position("e1", 101), crc32(b"a"))


def test_a_gap_that_was_passed_has_no_crc() -> None:
    """Nobody has the message there."""
    rig = journalled(subscribe=["s"])
    rig.say(one(101, "a"), gap(102, 110, stream="s", next=111))
    assert rig.take(1) == [("s", 101)]
    assert isinstance(rig.take(1)[0], Gap)
    assert kept(rig, Handled)[-1] == Handled("s", f.Position("e1", 110), None)


@pytest.mark.parametrize("epoch", ["e1", "e0"])
def test_a_gap_in_a_first_answer_is_passed_when_the_user_has_it(epoch: str) -> None:
    """A crash before that must not lose its report: the journal stays in front of it, whatever the epoch was."""
    rig = Rig.new(restored=Restored(), subscribe={"s": f.Position(epoch, 50)})
    asked = rig.made().streams[0]
    missing = gap(51, 100, stream="s", next=101)
    rig.welcome(streams=(answer(asked, epoch="e1", first=101, live=101, gap=missing),))
    rig.say(one(101, "a"))
    assert kept(rig, Handled) == [Handled("s", f.Position(epoch, 50), None)]
    assert rig.session.position("s") == f.Position(epoch, 50)
    assert isinstance(rig.take(1)[0], Gap)
    assert kept(rig, Handled)[-1].position == f.Position("e1", 100)
    assert rig.take(1) == [("s", 101)]


def test_the_server_is_told_what_is_durable() -> None:
    """An ack may make it forget what a restart would ask for again."""
    rig = journalled(slow=True, subscribe=["s"])
    rig.persist()
    rig.say(one(101, "a"))
    rig.take(1)
    rig.take(1)
    rig.tick(0.2)
    assert rig.all(f.Ack) == []
    rig.persist(durable=False)
    rig.tick(0.2)
    assert rig.all(f.Ack) == []
    rig.tick(SYNC_DELAY)
    assert rig.session.persist_due
    rig.persist()
    rig.tick(0.2)
    assert rig.all(f.Ack)[-1].acked == (f.AckedMark("s", "e1", 101),)
    rig.lose()
    assert rig.redial().streams[0].acked == 101


def test_a_position_from_before_a_stream_was_asked_for_anew_is_not_told() -> None:
    """It may be behind or ahead of where the user is now; another epoch's says nothing either."""
    rig = journalled(slow=True, subscribe=["s"])
    rig.say(one(101, "a"), one(102, "b"))
    rig.take(2)
    rig.take(1)
    rig.session.to_persist()
    rig.session.subscribe("s", "earliest", rig.now)
    subscribe = rig.all(f.Subscribe)[-1] if rig.all(f.Subscribe) else None
    assert subscribe is None, "the token is not durable yet"
    rig.session.persisted(rig.now, durable=True)
    rig.pump()
    asked = rig.all(f.Subscribe)[-1]
    rig.say(f.Subscribed(answer=answer(f.HelloStream(stream="s", id=asked.id, start="earliest"))))
    rig.persist()
    rig.tick(0.2)
    assert [mark.offset for ack in rig.all(f.Ack) for mark in ack.acked] == []


def test_a_position_ahead_of_where_the_user_begins_anew_is_not_told() -> None:
    """What was written says 101, the user went back to 50: the server is told no more than 50."""
    rig = writing_101()
    rig.session.subscribe("s", f.Position("e1", 50), rig.now)
    rig.pump()
    asked = rig.all(f.Subscribe)[-1]
    rig.say(f.Subscribed(answer=answer(f.HelloStream(stream="s", id=asked.id, held=f.Held("e1", 50, None)))))
    rig.session.persisted(rig.now, durable=True)  # the write ends when the answer is there
    rig.tick(0.2)
    rig.lose()
    assert rig.redial().streams[0].acked == 50


def test_a_position_of_a_stream_that_was_refused_meanwhile_is_told_to_nobody() -> None:
    """Nor is it when the stream is asked for once more, further back: that forgets what was written."""
    rig = writing_101()
    rig.lose()
    asked = rig.redial().streams[0]
    refusal = f.Error(code="forbidden")
    rig.welcome(streams=(f.StreamAnswer(stream="s", id=asked.id, error=refusal),))
    rig.session.persisted(rig.now, durable=True)
    assert rig.all(f.Ack) == []
    assert kept(rig, Forgotten) == []
    rig.session.subscribe("s", f.Position("e1", 50), rig.now)
    rig.persist()
    assert kept(rig, Forgotten) == [Forgotten("s")]


def test_a_stream_that_is_given_up_is_forgotten() -> None:
    """The next Client asks for it as for any other."""
    rig = journalled(subscribe=["s"])
    rig.session.unsubscribe("s", rig.now)
    rig.pump()
    assert kept(rig, Forgotten) == [Forgotten("s")]


# -- restarting -------------------------------------------------------------------------------------------------------


def test_a_restart_goes_on_where_the_journal_was() -> None:
    """Session, positions with their CRC, and unacked messages under their old numbers."""
    restored = Restored(
        identity=Identity("00s1", "t.3", 3),
        positions={"s": Handled("s", f.Position("e1", 7), 99), "gone": Handled("gone", f.Position("e1", 1), None)},
        lanes=(RestoredLane(EARLIER, "orders", 4, ["four", Void("dropped"), b"six"]),),
    )
    rig = Rig.new(restored=restored, subscribe=["s", "new"])
    hello = rig.made()
    assert (hello.session, hello.token) == ("00s1", "t.3")
    assert hello.streams[0].held == f.Held("e1", 7, 99)
    assert hello.streams[0].acked == 7
    assert hello.streams[1].start == "now"
    assert [(entry.producer, entry.first, entry.next) for entry in hello.outbound] == [(1, 4, 7)]
    assert rig.session.outbox_size == (2, 7)
    assert isinstance(rig.session.outcome(EARLIER, "orders", 5), Rejected)
    rig.welcome()
    assert [(b.first, b.payloads, b.void) for b in rig.all(f.Batch)] == [
        (4, ["four"], None), (5, [b""], "dropped"), (6, [b"six"], None),
    ]  # fmt: skip


def test_a_position_that_the_user_names_goes_before_the_journal() -> None:
    """A name, ``now`` and ``earliest`` do not: they say where an unknown stream begins."""
    positions = {"s": Handled("s", f.Position("e1", 7), 99)}
    for start, held in (("earliest", True), ("now", True), (f.Position("e1", 2), False)):
        hello = Rig.new(restored=Restored(positions=positions), subscribe={"s": start}).made()
        assert (hello.streams[0].held is not None) is held
        assert (hello.streams[0].start == start) is not held


@pytest.mark.parametrize(
    ("marks", "policy", "told"),
    [
        ((), "resend", []),
        ((Mark(1, -10.0, "i1"),), "resend", []),
        ((Mark(1, -10.0, "i0"),), "resend", [(1, 1)]),
        ((Mark(1, -8e5, "i1"),), "resend", [(1, 1)]),
        ((Mark(1, -8e5, "i1"), Mark(2, -1.0, "i1")), "raise", []),
    ],
)
def test_rule_11_holds_over_a_restart(marks: tuple[Mark, ...], policy: Any, told: list[tuple[int, int]]) -> None:
    """What was perhaps written too long ago, or to another store, is indefinite; what never was is not."""
    lane = attrs.evolve(RestoredLane(EARLIER, "orders", 1, ["one", "two", "three"]), marks=marks)
    rig = Rig.new(restored=Restored(lanes=(lane,)), outbox=Outbox(indefinite=policy))
    rig.made()
    rig.welcome(committed=(f.CommittedAnswer(producer=1, stream="orders", seq=0, known=False),))
    assert [(event.first, event.last) for event in rig.told(e.IndefiniteResent)] == told
    failed = [seq for seq in (1, 2, 3) if isinstance(rig.session.outcome(EARLIER, "orders", seq), Undelivered)]
    assert failed == ([1, 2] if policy == "raise" else [])


# -- age --------------------------------------------------------------------------------------------------------------


def test_an_outbox_whose_oldest_message_waits_too_long_is_full() -> None:
    """With ``raise`` nothing more is accepted, and the error says for how long it has waited."""
    rig = Rig.new(outbox=Outbox(max_age=100.0, policy="raise"))
    rig.send("a")
    rig.now = 100.0
    rig.send("b")
    rig.now = 130.0
    with pytest.raises(OutboxFull, match="has waited for 130 s") as full:
        rig.send("c")
    assert full.value.age == 130.0


def test_what_waits_too_long_is_dropped_in_time() -> None:
    """With ``drop_oldest``, whether anything is sent or not; every drop has its number."""
    rig = journalled(outbox=FOR_LONG)
    rig.lose()
    rig.send("a")
    rig.send("b")
    rig.tick(50.0)
    rig.send("c")
    rig.tick(51.1)
    dropped = [(event.first, event.policy) for event in rig.told(e.MessagesDropped)]
    assert dropped == [(1, "max_age"), (2, "max_age")]
    assert [rig.outcome(seq) for seq in (3,)] == [False]
    assert isinstance(rig.outcome(1), Rejected)
    assert kept(rig, Withdrawn)[0] == Withdrawn(PRODUCER, "orders", (1,), "expired")
    rig.tick(60.0)
    assert rig.session.is_flushed
    rig.tick(60.0)


def test_what_was_written_and_waits_too_long_is_undelivered() -> None:
    """It may have arrived: its receipt says so; a server that expects the number gets a tombstone."""
    rig = Rig.open(outbox=FOR_LONG)
    rig.send("a")
    rig.tick(102.0)
    rig.send("b")
    assert isinstance(rig.outcome(1), Undelivered)
    assert rig.outcome(2) is False


def test_ages_of_an_earlier_life_count() -> None:
    """A message from a journal is as old as it is, not as the process."""
    lane = RestoredLane(EARLIER, "orders", 1, ["old", "new"], births=((1, -500.0), (2, -1.0)))
    rig = Rig.new(restored=Restored(lanes=(lane,)), outbox=FOR_LONG)
    rig.tick(0.0)
    assert [(event.first, event.last) for event in rig.told(e.MessagesDropped)] == [(1, 1)]
    assert rig.session.outcome(EARLIER, "orders", 2) is False


def test_a_newcomer_makes_what_is_too_old_go_first() -> None:
    """Then there is room, and nothing else is dropped for it."""
    rig = Rig.new(outbox=attrs.evolve(FOR_LONG, max_messages=2))
    rig.send("a")
    rig.now = 60.0
    rig.send("b")
    rig.now = 120.0
    rig.send("c")
    assert [(event.first, event.policy) for event in rig.told(e.MessagesDropped)] == [(1, "max_age")]
    assert rig.session.outbox_size[0] == 2


def test_a_position_may_be_in_the_middle_of_a_run() -> None:
    """Of several messages that were taken at once the first is handled."""
    rig = journalled(subscribe=["s"], inbox=Inbox(ack="manual"))
    rig.say(f.Batch("s", 101, ["a", "b", "c"]))
    rig.take(3)
    rig.session.ack("s", "e1", 102, 0, rig.now)
    rig.pump()
    assert kept(rig, Handled)[-1] == Handled("s", f.Position("e1", 102), crc32(b"b"))


def test_a_position_ahead_of_a_stream_that_was_asked_for_anew_is_not_told() -> None:
    """What was handled before says nothing of what is handled now."""
    rig = journalled(slow=True, subscribe=["s"])
    rig.persist()
    rig.say(one(101, "a"), one(102, "b"))
    rig.take(2)
    rig.take(1)
    rig.session.to_persist()
    rig.session.subscribe("s", f.Position("e1", 100), rig.now)
    rig.pump()
    asked = rig.all(f.Subscribe)[-1]
    again = f.HelloStream(stream="s", id=asked.id, start=f.Position("e1", 100))
    rig.say(f.Subscribed(answer=answer(again, live=102)))
    rig.session.persisted(rig.now, durable=True)
    rig.persist()
    rig.tick(0.2)
    assert [mark.offset for ack in rig.all(f.Ack) for mark in ack.acked if mark.offset > 100] == []


def test_tombstones_grow_no_older() -> None:
    """What was withdrawn already does not expire again; while a server expects the number it keeps its place."""
    rig = Rig.open(outbox=Outbox(max_age=1.0, policy="drop_oldest", max_messages=1))
    rig.is_backed_up = True
    rig.send("a")
    rig.send("b")
    assert isinstance(rig.outcome(1), Undelivered)
    rig.tick(2.0)
    assert [event.first for event in rig.told(e.MessagesDropped)] == [1, 2]
