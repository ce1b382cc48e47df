"""Access tokens of the reference server: whose they are, how long they are good for, and what is none."""

from __future__ import annotations

import attrs
import pytest

from server_fixture.access import Gate, admitted

GATE = Gate(keys=(b"k" * 32,), ttl=10.0, wall=lambda: 1000.5)


def at(now: float, gate: Gate = GATE) -> Gate:
    """Return the gate at another time."""
    return attrs.evolve(gate, wall=lambda: now)


def token(principal: str = "ann", gate: Gate = GATE) -> str:
    """Issue a token."""
    return str(gate.issue(principal)["access_token"])


def test_what_is_issued_is_let_in_until_it_is_over() -> None:
    """The seconds that are left go down; at the end nobody gets in."""
    assert GATE.issue("ann") == {"access_token": token(), "token_type": "Bearer", "expires_in": 10.0}
    assert GATE.authenticate(token()) == ("ann", 10.5)
    assert at(1010.0).authenticate(token()) == ("ann", 1.0)
    assert at(1011.0).authenticate(token()) is None


@pytest.mark.parametrize(
    "spoilt",
    [
        None,
        "",
        "ann",
        token().replace("ann", "bob"),
        token().replace(".1011.", ".9999."),
        token()[:-1],
        token() + "0",
        token() + "\n",
        token().replace("a1.", "v1."),
        token(gate=attrs.evolve(GATE, keys=(b"x" * 32,))),
    ],
)
def test_what_nobody_issued_is_refused(spoilt: str | None) -> None:
    """Another principal, another end, another key, another form."""
    assert GATE.authenticate(spoilt) is None


def test_keys_are_rotated() -> None:
    """What the key before issued is good while that is kept."""
    rotated = attrs.evolve(GATE, keys=(b"n" * 32, b"k" * 32))
    assert rotated.authenticate(token()) == ("ann", 10.5)
    assert GATE.authenticate(token(gate=rotated)) is None
    assert "kkk" not in repr(GATE)


def test_it_is_no_resume_token() -> None:
    """Both are made under the same key; neither passes for the other."""
    from server_fixture.token import mint, verify

    key = GATE.keys[0]
    assert verify([key], token()) is None
    assert GATE.authenticate(mint(key, "00ann", 1011)) is None


@pytest.mark.parametrize(
    ("answer", "meant"),
    [(None, None), ("ann", ("ann", None)), (("ann", 3.0), ("ann", 3.0)), (("ann", 0.0), None), (("ann", -1.0), None)],
)
def test_what_a_hook_may_answer(answer: object, meant: object) -> None:
    """A principal, with or without the seconds that are left."""
    assert admitted(answer) == meant  # type: ignore[arg-type]
