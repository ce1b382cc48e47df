"""What a planted defect is, and how one is put in the place of what it breaks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import attrs

Planted = Callable[[], AbstractContextManager[Any]]


@attrs.frozen
class Mutant:
    """
    One defect.

    Attributes:
        rule: The rules of the protocol (or other mechanisms) that it breaks.
        mix: The fault mix that shows it.
        planted: Makes the context in which it is there.
    """

    rule: str
    mix: str
    planted: Planted


def replaced(target: Any, name: str, make: Callable[[Any], Any]) -> Planted:
    """Replace ``target.name`` by what ``make`` returns for the original."""
    return lambda: patch.object(target, name, make(getattr(target, name)))


def together(*planted: Planted) -> Planted:
    """Plant several at once: each alone is covered by another rule."""

    @contextmanager
    def all_of_them() -> Any:
        with ExitStack() as stack:
            for one in planted:
                stack.enter_context(one())
            yield

    return all_of_them
