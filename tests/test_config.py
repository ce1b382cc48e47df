"""The groups of settings: good as they are, and refusing bad values by name."""

from __future__ import annotations

import attrs
import pytest

from resilient_ws import config

GROUPS = (config.Retry, config.Failover, config.Keepalive, config.Outbox, config.Inbox, config.Wire)


@pytest.mark.parametrize("group", GROUPS)
def test_defaults_are_valid_and_frozen(group: type) -> None:
    """Every group can be made without an argument, takes none by place, and cannot be changed."""
    made = group()
    name = attrs.fields(group)[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(made, name, None)
    with pytest.raises(TypeError):
        group(1)


def test_defaults_of_different_objects_are_equal_in_effect() -> None:
    """Two default Retry groups have wait objects of their own, since tenacity's objects are not ours to share."""
    assert config.Retry().wait is not config.Retry().wait


@pytest.mark.parametrize("bad", [0, -1, -0.5, float("nan"), True, "10", None])
def test_value_that_must_be_positive(bad: object) -> None:
    """Zero, negative numbers, NaN, bools and other types are refused with group, name and value."""
    with pytest.raises(ValueError, match=r"Retry\(connect_timeout=.*above 0"):
        config.Retry(connect_timeout=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1, float("nan"), False, "0", None])
def test_value_that_must_not_be_negative(bad: object) -> None:
    """Negative numbers, NaN, bools and other types are refused; zero is not absent but a value."""
    with pytest.raises(ValueError, match=r"Outbox\(send_timeout=.*0 or above"):
        config.Outbox(send_timeout=bad)  # type: ignore[arg-type]
    assert config.Outbox(send_timeout=0).send_timeout == 0


def test_value_of_a_list() -> None:
    """A word that is not of the list is refused, and the list is said."""
    with pytest.raises(ValueError, match=r"Outbox\(policy='forget'\): must be one of 'block', 'raise', 'drop_oldest'"):
        config.Outbox(policy="forget")  # type: ignore[arg-type]
    assert config.Outbox(policy="drop_oldest").policy == "drop_oldest"


def test_optional_times() -> None:
    """None means that the server's welcome decides; zero is refused, not taken for None."""
    assert config.Keepalive().interval is None
    assert config.Keepalive(interval=0.5).interval == 0.5
    with pytest.raises(ValueError, match=r"Keepalive\(interval=0\)"):
        config.Keepalive(interval=0)


def test_capabilities_have_no_default() -> None:
    """A dialect says every capability itself."""
    with pytest.raises(TypeError):
        config.Capabilities(positions=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("bad", ["", "a\0b", 7, b"device.db"])
def test_path_of_a_journal(bad: object) -> None:
    """What is no path is refused when the group is made, not when the file is opened."""
    with pytest.raises(ValueError, match=r"Outbox\(journal=.*must be the path of a file, or None"):
        config.Outbox(journal=bad)  # type: ignore[arg-type]
    assert config.Outbox(journal="device.db").journal == "device.db"
