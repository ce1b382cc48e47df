"""What endings ask for: close codes, HTTP statuses, the words in a reason, and tables of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws.exceptions import (
    AccessDenied,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HandshakeRejected,
    LocalProtocolError,
    NoEndpoint,
    ProxyError,
    RemoteProtocolError,
)
from resilient_ws.treatments import CLOSE_CODES, Tables, Treatment, push_back, superseder, treat_close, treat_status

RETRY, DENIED, FATAL = Treatment.RETRY, Treatment.DENIED, Treatment.FATAL
TABLE = {
    **dict.fromkeys((1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4408, 4429), RETRY),
    **dict.fromkeys((1002, 1003, 1007, 1010, 4400), FATAL),
    **dict.fromkeys((1008, 4401, 4403), DENIED),
    1009: Treatment.TOO_BIG,
    4409: Treatment.SUPERSEDED,
    4410: Treatment.STALE,
}
OTHERS = {
    **dict.fromkeys((1004, 1016, 2999, 3000, 3010, 3999, 4000, 4399, 4402, 4411, 4999), RETRY),
    **dict.fromkeys((-1, 0, 1, 999, 5000, 65_535), FATAL),
}


@pytest.mark.parametrize(("code", "treatment"), sorted((TABLE | OTHERS).items()))
def test_close_code(code: int, treatment: Treatment) -> None:
    """C1 to C10: each code has its treatment, whatever its reason says."""
    assert treat_close(code, "") is treatment
    assert treat_close(code, "instance=" + "0" * 32) is treatment


def test_table_has_no_other_rows() -> None:
    """A new row of the table needs a row here."""
    assert CLOSE_CODES == TABLE


@given(code=st.integers(3000, 4999))
def test_unknown_application_codes_are_retried(code: int) -> None:
    """What a server invents is worth another attempt, with backoff (C10)."""
    if code not in CLOSE_CODES:
        assert treat_close(code, "") is RETRY


@given(code=st.integers())
def test_no_code_ends_a_session_by_itself(code: int) -> None:
    """END is for the session to say, which knows of its own close."""
    assert treat_close(code, "") is not Treatment.END


@pytest.mark.parametrize(
    ("error", "treatment"),
    [
        (HandshakeRejected("503", status=503), RETRY),
        (HandshakeRejected("400", status=400, retryable=False), FATAL),
        (HandshakeRejected("no HTTP"), RETRY),
        (HandshakeRejected("101", status=101, retryable=False), FATAL),
        (ProxyError("407", status=407, retryable=False), FATAL),
        (AccessDenied("a bye to an impostor"), DENIED),
        (AccessDenied("401", status=401), DENIED),
        (AccessDenied("403", status=403), DENIED),
        (ConnectionLost("gone"), RETRY),
        (ConnectionLost("gone", code=1002), FATAL),
        (ConnectionLost("gone", code=1009), Treatment.TOO_BIG),
        (ConnectionLost("gone", code=4403), DENIED),
        (ConnectionLost("gone", code=4409, reason="instance=" + "a" * 32), Treatment.SUPERSEDED),
        (ConnectionLost("gone", code=4410), Treatment.STALE),
        (ConnectError("no"), RETRY),
        (ConnectTimeout("slow"), RETRY),
        (NoEndpoint("none"), RETRY),
        (RemoteProtocolError("odd"), RETRY),
        (LocalProtocolError("ours"), FATAL),
        (OSError("network is unreachable"), RETRY),
        (RuntimeError("can't start new thread"), RETRY),
    ],
    ids=repr,
)
def test_error(error: BaseException, treatment: Treatment) -> None:
    """H1 to H8: an error is treated by its close code, else by whether it says that trying again is of use."""
    assert BUILT_IN.treat(error) is treatment


@pytest.mark.parametrize(
    ("reason", "instance"),
    [
        ("instance=" + "0a" * 16, "0a" * 16),
        ("instance=" + "0A" * 16, "0a" * 16),
        (f"superseded instance={'1' * 32} attempt=3", "1" * 32),
        (f"superseded;instance={'1' * 32};x", "1" * 32),
        (f"instance=12, instance={'2' * 32}", "2" * 32),
        ("", None),
        ("superseded", None),
        ("instance=", None),
        ("instance=" + "0" * 31, None),
        ("instance=" + "0" * 33, None),
        ("instance=" + "g" * 32, None),
        ("instance=" + "0" * 31 + "\u0660", None),
        ("noinstance=" + "0" * 32, None),
        ("Instance=" + "0" * 32, None),
    ],
)
def test_superseder(reason: str, instance: str | None) -> None:
    """The instance that a 4409 names is read exactly, or not at all."""
    assert superseder(reason) == instance


@given(reason=st.text(max_size=123))
def test_superseder_takes_any_text(reason: str) -> None:
    """No reason that a server can send raises."""
    found = superseder(reason)
    assert found is None or len(found) == 32


# -- HTTP statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("treatment", "statuses"),
    [
        (RETRY, (200, 204, 408, 425, 429, 500, 502, 503, 504, 599)),
        (FATAL, (301, 302, 307, 308, 400, 404, 405, 410, 426)),
        (DENIED, (401, 403)),
    ],
)
def test_status(treatment: Treatment, statuses: tuple[int, ...]) -> None:
    """H1 to H8: time and the server's own trouble pass, a wrong request does not, and who we are is a case apart."""
    assert {treat_status(status) for status in statuses} == {treatment}


# -- tables of the user's own -----------------------------------------------------------------------------------------


def nobody_fails(setting: str, what: str) -> None:
    """Take a report that must not come."""
    raise AssertionError((setting, what))


BUILT_IN = Tables(treat_close, treat_status, nobody_fails)


def test_a_replaced_table_has_the_say() -> None:
    """A table of the user's is asked for each close code and each status, with what the server said."""
    asked: list[Any] = []

    def on_close(code: int, reason: str) -> Treatment:
        asked.append((code, reason))
        return FATAL if code == 4999 else treat_close(code, reason)

    def on_status(status: int) -> Treatment:
        asked.append(status)
        return RETRY if status == 404 else treat_status(status)

    tables = Tables(on_close, on_status, nobody_fails)
    assert tables.treat(ConnectionLost("gone", code=4999, reason="sold")) is FATAL
    assert tables.treat(ConnectionLost("gone", code=1002)) is FATAL
    assert tables.treat(HandshakeRejected("404", status=404, retryable=False)) is RETRY
    assert tables.treat(AccessDenied("401", status=401)) is DENIED
    assert asked == [(4999, "sold"), (1002, ""), 404, 401]


def test_a_table_that_fails_is_reported_and_the_built_in_one_asked() -> None:
    """One that raises, or answers something else, costs nothing but the report."""
    told: list[tuple[str, str]] = []

    def on_close(code: int, reason: str) -> Treatment:
        raise KeyError(code)

    tables = Tables(on_close, lambda status: "retry", lambda setting, what: told.append((setting, what)))  # type: ignore[arg-type, return-value]
    assert tables.treat(ConnectionLost("gone", code=1002)) is FATAL
    assert tables.treat(HandshakeRejected("503", status=503)) is RETRY
    assert told == [("on_close", "it raised KeyError"), ("on_status", "it answered a str, not a Treatment")]


# -- push-back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        ("retry_after=7", 7.0),
        ("slow down, retry_after=2.5", 2.5),
        ("retry_after=0", 0.0),
        ("(retry_after=3)", 3.0),
        ("retry_after=999999999", 999_999_999.0),
        ("", None),
        ("retry_after=", None),
        ("retry_after=-3", None),
        ("retry_after=soon", None),
        ("retry_after=1e9", None),
        ("retry_after=1.2.3", None),
        ("retry_after=9999999999", None),
        ("no_retry_after=3", None),
        ("retry_after=\u0663", None),
    ],
)
def test_push_back_of_a_close_reason(reason: str, seconds: float | None) -> None:
    """H5: what a server asks for in the reason of its close frame is read exactly, or not at all."""
    assert push_back(ConnectionLost("gone", code=1013, reason=reason, rcvd=(1013, reason))) == seconds


def test_push_back_is_the_servers_word_only() -> None:
    """A reason of our own asks nobody for anything; an answer's header does; other errors have none."""
    assert push_back(ConnectionLost("gone", code=1012, reason="retry_after=3", sent=(1012, "retry_after=3"))) is None
    assert push_back(HandshakeRejected("503", status=503, retry_after=4.0)) == 4.0
    assert push_back(HandshakeRejected("503", status=503)) is None
    assert push_back(OSError("gone")) is None


@given(reason=st.text(max_size=123))
def test_push_back_takes_any_text(reason: str) -> None:
    """No reason that a server can send raises or gives a time that is none."""
    found = push_back(ConnectionLost("gone", rcvd=(1013, reason)))
    assert found is None or found >= 0
