"""
What can be done to a node and undone again: kill, drain, pause, and what its link can do to its connections.

Here lives one small class for each kind, and the table of what can be asked for by name. When a fault comes and whom it
takes is decided in ``chaos.py``; how a node or a link does it lives in ``member.py`` and ``link.py``. A new kind is a
new class and its name in the table. No fault ever touches the store or the balancer: a run is judged by them.
"""

from __future__ import annotations

import abc
import typing
from collections.abc import Mapping

import attrs

if typing.TYPE_CHECKING:
    import random

SILENCE = 2.0
"""Seconds after which a client gives a silent node up, about: the interval and the least deadline of the cluster."""


class Door(typing.Protocol):
    """What a fault needs of the link before a node."""

    def cut_all(self) -> None: ...

    def reset_all(self) -> None: ...

    def stall_all(self) -> None: ...

    def heal_all(self) -> None: ...


class Victim(typing.Protocol):
    """What faults need of a node."""

    @property
    def name(self) -> str: ...

    @property
    def is_alive(self) -> bool: ...

    @property
    def is_serving(self) -> bool: ...

    @property
    def door(self) -> Door: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def wait_ready(self, timeout: float = ...) -> None: ...

    def expect_alive(self) -> None: ...

    def expect_drained(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def drain(self, *, wait: bool = ...) -> None: ...


@attrs.frozen
class Fault(abc.ABC):
    """
    One kind of fault; the fault itself is a pair of calls on a node.

    Attributes:
        kind: Its name, in the history too.
        needs_link: Whether it is done to the link before the node.
        spares: Whether the node serves newcomers all the while.
        passes: Whether a session may sit it out on its connection, so that its end is the end of the matter.
    """

    kind: typing.ClassVar[str]
    needs_link: typing.ClassVar[bool] = False
    spares: typing.ClassVar[bool] = False
    passes: typing.ClassVar[bool] = False

    def takes(self, node: Victim) -> bool:
        """Say whether it can be done to this node when it is done to all."""
        return node.is_serving

    def lasts(self, rng: random.Random, every: float) -> float:
        """
        Draw the seconds until it is undone.

        Args:
            rng: Where they come from.
            every: Seconds between two faults, on average.
        """
        return rng.uniform(0.05, 0.5) * every

    @abc.abstractmethod
    def apply(self, node: Victim) -> None:
        """Do it."""

    @abc.abstractmethod
    def heal(self, node: Victim) -> bool:
        """Begin to undo it, which is done when the node serves; False: not yet, ask again."""


@typing.final
class Kill(Fault):
    """The process ends as in a crash, and another one takes its place."""

    kind = "kill"

    def takes(self, node: Victim) -> bool:
        return node.is_alive

    def apply(self, node: Victim) -> None:
        node.kill()

    def heal(self, node: Victim) -> bool:
        node.start()
        return True


@typing.final
class Drain(Fault):
    """The node asks its clients to leave and ends in order, and another process takes its place."""

    kind = "drain"

    def apply(self, node: Victim) -> None:
        node.drain(wait=False)

    def heal(self, node: Victim) -> bool:
        if node.is_alive:
            return False
        node.expect_drained()
        node.start()
        return True


@attrs.frozen
class Silence(Fault):
    """
    Nothing is heard of a node for a while; then it goes on as if nothing had been.

    Attributes:
        silence: Seconds after which a client gives a silent node up; it lasts 0.5 to 4 times as long.
    """

    passes = True
    silence: float = SILENCE

    def lasts(self, rng: random.Random, every: float) -> float:
        return rng.uniform(0.5, 4.0) * self.silence


@typing.final
class Pause(Silence):
    """The process stands still, then wakes with the fences and connections that it had."""

    kind = "pause"

    def apply(self, node: Victim) -> None:
        node.pause()

    def heal(self, node: Victim) -> bool:
        node.resume()
        return True


@typing.final
class Stall(Silence):
    """The link carries nothing in either direction, then all that it held; connections that are made meanwhile too."""

    kind = "stall"
    needs_link = True

    def apply(self, node: Victim) -> None:
        node.door.stall_all()

    def heal(self, node: Victim) -> bool:
        node.door.heal_all()
        return True


@attrs.frozen
class Ended(Fault):
    """Every connection that the node has now ends; the next one is carried."""

    needs_link = True
    spares = True

    def lasts(self, rng: random.Random, every: float) -> float:
        return 0.0

    def heal(self, node: Victim) -> bool:
        return True


@typing.final
class Cut(Ended):
    """With FIN."""

    kind = "cut"

    def apply(self, node: Victim) -> None:
        node.door.cut_all()


@typing.final
class Reset(Ended):
    """With RST."""

    kind = "reset"

    def apply(self, node: Victim) -> None:
        node.door.reset_all()


@attrs.frozen
class Choice:
    """
    What can be asked for by a name.

    Attributes:
        faults: The kinds that come, in a new order each round.
        every: Seconds between two faults where nothing else is asked for: there has to be a node left all the while.
    """

    faults: tuple[Fault, ...]
    every: float

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(fault.kind for fault in self.faults)

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return self.kinds[0] if len(self.kinds) == 1 else "fault"

    @property
    def needs_links(self) -> bool:
        return any(fault.needs_link for fault in self.faults)


_BROKEN = (Cut(), Reset(), Stall())
CHOICES: Mapping[str, Choice] = {
    "kill": Choice((Kill(),), 1.0),
    "pause": Choice((Pause(),), 2.5),
    "cut": Choice(_BROKEN, 1.5),
    "drain": Choice((Drain(),), 2.0),
    "mixed": Choice((Kill(), Drain(), Pause(), *_BROKEN), 1.5),
}
