"""The client session: outranked by its own newer hello, or by somebody else (rule 4)."""

from __future__ import annotations

from session_tools import FOREIGN, OURS, Rig

from resilient_ws import events as e
from resilient_ws import frames as f
from resilient_ws.exceptions import SessionTakenOver
from resilient_ws.records import Restored
from resilient_ws.session import Role, SessionState

BY_FOREIGN, BY_US = f"instance={FOREIGN}", f"instance={OURS}"


def test_H13_superseded_by_ourselves_resumes() -> None:
    """Our own newer hello (or an earlier life of ours) outranked the primary: say hello at once."""
    for reason, own in ((BY_US, frozenset[str]()), (BY_FOREIGN, frozenset({FOREIGN}))):
        rig = Rig.open(restored=Restored(instances=own))
        for _ in range(3):
            rig.lose(4409, reason)
            rig.redial()
            rig.welcome()
        assert rig.session.connected


def test_superseded_by_another_resumes_once_more() -> None:
    """After a jittered delay, with the newest token; a second time within 60 s is the end."""
    rig = Rig.open()
    rig.lose(4409, BY_FOREIGN)
    assert rig.told(e.RetryScheduled)[-1].delay == 1.0
    assert rig.redial().token == "t.1"
    rig.welcome()
    rig.tick(58.0)
    rig.lose(4409, BY_FOREIGN)
    assert isinstance(rig.session.error, SessionTakenOver)


def test_superseded_while_another_one_waits_lets_it_say_hello() -> None:
    """The one more resume goes over the connection that is ready (rule 6), not over a further dial."""
    rig = Rig.new(urls=["ws://a", "ws://b"], roles=frozenset({Role.CANDIDATE}))
    rig.made(1)
    rig.tick(0.25)
    rig.session.connection_made(2, rig.now)
    rig.lose(4409, BY_FOREIGN, conn=1)
    assert rig.hello(2).attempt == 2
    assert len(rig.dials) == 2


def test_a_foreign_4409_is_forgotten_after_a_minute() -> None:
    """A fight that is over does not count."""
    rig = Rig.open()
    for _ in range(3):
        rig.lose(4409, "")
        rig.redial()
        rig.welcome()
        rig.now += 61.0
    assert rig.session.state is SessionState.LIVE


def test_H12_superseded_after_a_foreign_4409_is_taken_over() -> None:
    """The verdict of the one more resume: nothing is replaced, nothing goes on."""
    rig = Rig.open()
    rig.lose(4409, BY_FOREIGN)
    rig.redial()
    rig.welcome(verdict="new", reason="superseded", session="01s2")
    assert isinstance(rig.session.error, SessionTakenOver)
    assert rig.all(f.Ready) == []
    assert rig.shuts[-1].conn == 2


def test_H12_superseded_without_one_is_a_lost_session() -> None:
    """A journal was restored: a new session, as for every other reason."""
    rig = Rig.open()
    rig.resume(verdict="new", reason="superseded", session="01s2")
    assert rig.session.connected
    assert rig.told(e.SessionReplaced) == [e.SessionReplaced(reason="superseded", unacked=0)]
