"""
What a server session asks its node to do, and the one outlet through which its parts ask for it.

Here live the actions and what every refusal of the backplane means for a connection (one table). When something is
asked never lives here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import attrs

from resilient_ws.frames import Batch, Error, Frame
from server_fixture.backplane import Answer, BackplaneError, Foreign, Hole, OldFence, Request, SessionUnknown, Stale

FORBIDDEN = "this token or principal may not resume here"
"""One text for every wrong token and every wrong principal."""


@attrs.frozen
class Send:
    """Encode and write these, in order."""

    items: list[Union[Batch, Frame]]


@attrs.frozen
class Call:
    """Perform ``request`` at the backplane and hand its answer (or BackplaneError) back under ``id``."""

    id: int
    request: Request


@attrs.frozen
class Close:
    """Close the connection; nothing follows."""

    code: int
    reason: str


@attrs.frozen
class Watch:
    """Wake the session when somebody appends to ``stream``; in force before the calls behind it are made."""

    stream: str


@attrs.frozen
class Unwatch:
    """Wake it no more."""

    stream: str


Action = Union[Send, Call, Close, Watch, Unwatch]
Then = Callable[[Any], None]

_ENDINGS: dict[type, Callable[[Any], tuple[int, str]]] = {
    Stale: lambda answer: (4410, "stale attempt"),
    Foreign: lambda answer: (4403, FORBIDDEN),
    OldFence: lambda answer: (4409, superseded_by(answer.fence.instance)),
    SessionUnknown: lambda answer: (1012, "the session is gone, say hello again"),
    Hole: lambda answer: (1012, f"a message is missing after {answer.last}, say hello again"),
}


def superseded_by(instance: str) -> str:
    """Return the reason of a close 4409; a client parses it (rule 4)."""
    return f"instance={instance}"


@attrs.define
class Outlet:
    """Collects actions in order, and knows what goes on when a call is answered."""

    is_closed: bool = False
    _actions: list[Action] = attrs.field(factory=list)
    _calls: dict[int, tuple[Then, Callable[[], None] | None, tuple[type, ...]]] = attrs.field(factory=dict)
    _watched: set[str] = attrs.field(factory=set)
    _last_call: int = 0
    _is_parting: bool = False

    def take(self) -> list[Action]:
        """Return what is to be done and forget it."""
        actions, self._actions = self._actions, []
        return actions

    def send(self, *items: Batch | Frame) -> None:
        """Write these behind everything that was sent before."""
        if self.is_closed or not items:
            return
        last = self._actions[-1] if self._actions else None
        if isinstance(last, Send):
            last.items.extend(items)
        else:
            self._actions.append(Send(list(items)))

    def call(
        self,
        request: Request,
        then: Then,
        *,
        failed: Callable[[], None] | None = None,
        accepts: tuple[type, ...] = (),
        is_last: bool = False,
    ) -> None:
        """
        Ask the backplane.

        Args:
            request: The step.
            then: Takes the answer, unless the table of endings says what it means.
            failed: Runs where the outcome is unknown; without it the connection closes 1013.
            accepts: Answers of the table that ``then`` takes all the same.
            is_last: Nothing is asked after this, and what was asked before is not waited for.
        """
        if self.is_closed or self._is_parting:
            return
        if is_last:
            self._calls.clear()
            self._is_parting = True
        self._last_call += 1
        self._calls[self._last_call] = (then, failed, accepts)
        self._actions.append(Call(self._last_call, request))

    def answered(self, call: int, answer: Answer | BackplaneError) -> None:
        """Go on with an answer; one to a closed connection changes nothing."""
        if self.is_closed or call not in self._calls:
            return
        then, failed, accepts = self._calls.pop(call)
        if isinstance(answer, BackplaneError):
            if failed is None:
                self.close(1013, "the backplane did not say what happened, say hello again")
            else:
                failed()
        elif type(answer) in _ENDINGS and type(answer) not in accepts:
            self.close(*_ENDINGS[type(answer)](answer))
        else:
            then(answer)

    def refuse(self, hint: str) -> None:
        """The client broke a rule: say which, and close."""
        self.send(Error(code="protocol_error", hint=hint, fatal=True))
        self.close(4400, "protocol error")

    def watch(self, stream: str) -> None:
        """Be woken after appends to ``stream``."""
        self._watched.add(stream)
        self._actions.append(Watch(stream))

    def unwatch(self, stream: str) -> None:
        """Be woken no more."""
        self._watched.discard(stream)
        self._actions.append(Unwatch(stream))

    def close(self, code: int, reason: str) -> None:
        """Close once; the first reason counts."""
        if not self.is_closed:
            self.end()
            self._actions.append(Close(code, reason))

    def end(self) -> None:
        """The connection is gone: give everything back."""
        for stream in sorted(self._watched):
            self._actions.append(Unwatch(stream))
        self._watched.clear()
        self._calls.clear()
        self.is_closed = True
