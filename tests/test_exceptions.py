"""The tree of errors: what each answers, says and keeps."""

from __future__ import annotations

import inspect

import pytest

from resilient_ws import exceptions as e

# class -> (retryable, definite); a proxy and a refused handshake answer per object, by their status: see below
ANSWERS = {
    e.ConnectTimeout: (True, True),
    e.NoEndpoint: (True, True),
    e.ProxyError: (True, True),
    e.HandshakeRejected: (True, True),
    e.ConnectionLost: (True, False),
    e.SessionLost: (True, False),
    e.SessionTakenOver: (False, False),
    e.SessionClosed: (False, True),
    e.Forked: (False, True),
    e.LocalProtocolError: (False, True),
    e.RemoteProtocolError: (True, False),
    e.Gap: (False, True),
    e.OutboxFull: (True, True),
    e.Rejected: (False, True),
    e.Undelivered: (False, False),
    e.SlowConsumer: (False, True),
    e.JournalLocked: (True, True),
    e.JournalRefused: (False, True),
    e.JournalCorrupt: (False, True),
    e.JournalFull: (True, True),
    e.JournalFailed: (False, False),
}


def leaves(root: type[Exception]) -> set[type[Exception]]:
    """Give the classes of a tree that nothing derives from."""
    below = {leaf for child in root.__subclasses__() for leaf in leaves(child)}
    return below or {root}


@pytest.mark.parametrize(("error", "answers"), ANSWERS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_error_answers_both_questions(error: type[e.ResilientWSError], answers: tuple[bool, bool]) -> None:
    """Each error says whether trying again is worth it and whether the effect is certain."""
    assert (error.retryable, error.definite) == answers


def test_no_error_is_without_an_answer_here() -> None:
    """A new leaf of the tree is added to the table above."""
    ours = {leaf for leaf in leaves(e.ResilientWSError) if leaf.__module__ == e.__name__}
    assert ours - {e.AccessDenied} <= set(ANSWERS)


def test_every_error_says_what_it_is_for() -> None:
    """Every class of the tree has a docstring of its own."""
    classes = [value for _, value in inspect.getmembers(e, inspect.isclass) if issubclass(value, e.ResilientWSError)]
    assert len(classes) > len(ANSWERS)
    assert [value.__name__ for value in classes if not value.__doc__] == []


def test_rejected_handshake_keeps_what_the_server_asked() -> None:
    """Status and the time to wait are kept; whether to retry is for the caller to say."""
    error = e.HandshakeRejected("busy", status=503, retry_after=0.0)
    assert (error.status, error.retry_after, error.retryable) == (503, 0.0, True)
    assert not e.HandshakeRejected("gone", status=410, retryable=False).retryable
    denied = e.AccessDenied("no", status=401)
    assert (denied.status, denied.retry_after, denied.retryable) == (401, None, False)


def test_proxy_error_keeps_its_status() -> None:
    """What the proxy answered is kept; whether to retry is for the caller to say."""
    error = e.ProxyError("busy", status=503)
    assert (error.status, error.retryable) == (503, True)
    assert not e.ProxyError("who are you", status=407, retryable=False).retryable
    assert e.ProxyError("gone").status is None


def test_lost_connection_keeps_both_close_frames() -> None:
    """The code that decides and the close frames of both sides are there; without any it is 1006."""
    error = e.ConnectionLost("left", code=1012, reason="restart", rcvd=(1012, "restart"), sent=(1012, ""))
    assert (error.code, error.reason, error.rcvd, error.sent) == (1012, "restart", (1012, "restart"), (1012, ""))
    bare = e.ConnectionLost("reset")
    assert (bare.code, bare.reason, bare.rcvd, bare.sent) == (1006, "", None, None)


def test_lost_session_counts_what_is_sent_again() -> None:
    """The reason and the number of unacked messages are kept and said, zero too."""
    error = e.SessionLost("expired", 0)
    assert (error.reason, error.unacked) == ("expired", 0)
    assert "(expired)" in str(error)
    assert "0 unacked" in str(error)


@pytest.mark.parametrize(
    ("hint", "text"), [("", "bad frame"), ("look at the header", "bad frame (look at the header)")]
)
def test_remote_error_says_its_hint(hint: str, text: str) -> None:
    """The hint for the server's maintainer is part of the text where there is one."""
    error = e.RemoteProtocolError("bad frame", hint=hint, code=1003)
    assert (str(error), error.hint, error.code) == (text, hint, 1003)


@pytest.mark.parametrize(("last", "upto"), [(9, "4 to 9"), (None, "4 to an unknown end")])
def test_gap_says_its_numbers(last: int | None, upto: str) -> None:
    """What is missing is said with numbers, also where the end is unknown."""
    error = e.Gap("ticker", 4, last, "trimmed", epoch="e1", next=10)
    assert f"'ticker': messages {upto}" in str(error)
    assert (error.stream, error.first, error.last, error.reason, error.epoch, error.next) == (
        *("ticker", 4, last, "trimmed"),
        *("e1", 10),
    )


def test_full_outbox_says_both_bounds() -> None:
    """Messages and bytes, held and allowed, are kept and said."""
    error = e.OutboxFull((3, 70), (3, 100))
    assert (error.size, error.limit) == ((3, 70), (3, 100))
    assert "3 messages, 70 bytes of at most 3 messages, 100 bytes" in str(error)


@pytest.mark.parametrize(("hint", "end"), [("", "(forbidden)"), ("not yours", "(forbidden): not yours")])
def test_rejected_message_says_code_and_hint(hint: str, end: str) -> None:
    """The refused message's stream, seq and code are kept and said."""
    error = e.Rejected("orders", 7, "forbidden", hint)
    assert (error.stream, error.seq, error.code) == ("orders", 7, "forbidden")
    assert str(error).endswith(end)


def test_undelivered_says_every_stream() -> None:
    """What has no ack is said for each stream; the error's own copy does not change with the caller's."""
    pending = {"b": (2, 3), "a": (1, 1)}
    error = e.Undelivered(pending)
    pending.clear()
    assert "'a': 1 to 1, 'b': 2 to 3" in str(error)
    assert error.pending == {"a": (1, 1), "b": (2, 3)}


def test_slow_consumer_says_how_full_the_inbox_is() -> None:
    """Held and allowed messages are kept and said."""
    error = e.SlowConsumer(1024, 1024)
    assert (error.pending, error.limit) == (1024, 1024)
    assert "1024 of 1024" in str(error)
