"""
Every client in a process of its own, asked in turn: A B C A B C.

A client is a *player*: a class in one of the ``players_*`` modules, which only its own process imports. What a process
measures is CPU time of all its threads, or the time on the clock, of one call after others that did not count.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import attrs

PATIENCE = 60.0
"""Seconds that a call may take before the run ends with an error."""


@attrs.frozen
class Player:
    """
    A client that can be asked.

    Attributes:
        name: As the tables call it.
        home: ``module:Class`` of what its process runs.
        feed: What the server is to speak with it.
        needs: The library that must be there.
        options: Given to the class.
    """

    name: str
    home: str
    feed: str = "plain"
    needs: str = "websocket"
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def is_there(self) -> bool:
        """Say whether its library is installed."""
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.util.find_spec(self.needs) is not None
        return False


@attrs.frozen
class Cost:
    """What a call took: seconds of CPU time of the whole process, and on the clock; ``found`` is what it returned."""

    cpu: float
    wall: float
    found: Any = None


def measured(call: Callable[..., Any], *args: Any) -> Cost:
    """Call, and say what that took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call(*args)
    return Cost(time.process_time() - cpu, time.perf_counter() - wall, found)


def opened(home: str, options: dict[str, Any], url: str, certificate: str | None) -> Any:
    """Make what a player is, with its connection."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)(url, certificate, **options)


def play(pipe: Any) -> None:
    """Be a player's process: carry out what the parent asks until it is gone."""
    side: Any = None
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            verb, *args = pipe.recv()
            try:
                if verb == "open":
                    if side is not None:
                        side.close()
                    side = opened(*args)
                    pipe.send(Cost(0.0, 0.0))
                else:
                    pipe.send(measured(getattr(side, verb), *args))
            except Exception:
                pipe.send(traceback.format_exc())
    os._exit(0)  # whatever threads a library has left


class Process:
    """A player's process, as the parent sees it."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=play, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, verb: str, *args: Any) -> Cost:
        """
        Have a method called, and return what that took.

        Raises:
            RuntimeError: It failed there, or gave no answer in time.
        """
        self.begin(verb, *args)
        return self.end(verb)

    def begin(self, verb: str, *args: Any) -> None:
        """Ask and do not wait."""
        try:
            self._pipe.send((verb, *args))
        except OSError:
            raise RuntimeError(f"{self.player.name}: its process died before {verb!r}") from None

    def end(self, verb: str) -> Cost:
        """Wait for the answer to what was begun; as :meth:`ask`."""
        if not self._pipe.poll(PATIENCE):
            raise RuntimeError(f"{self.player.name}: no answer to {verb!r} in {PATIENCE:.0f} s")
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"{self.player.name}: its process died in {verb!r}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self.player.name}: {verb!r} failed:\n{answer}")
        cost: Cost = answer
        return cost

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Stage:
    """The processes of a run: one for each name, started when it first takes part."""

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}

    def process(self, player: Player) -> Process:
        """Return the process of a player."""
        if player.name not in self._processes:
            self._processes[player.name] = Process(player)
        return self._processes[player.name]

    def open(
        self, players: Sequence[Player], url: Callable[[Player], str], certificate: str | None = None
    ) -> list[Process]:
        """Have each connect anew, all at the same time, as starting takes longest; earlier connections are dropped."""
        opened = [self.process(player) for player in players]
        for process, player in zip(opened, players, strict=True):
            process.player = player
            process.begin("open", player.home, player.options, url(player), certificate)
        for process in opened:
            process.end("open")
        return opened

    def close(self) -> None:
        """End them."""
        for process in self._processes.values():
            process.close()


def in_turn(players: Sequence[Process], rounds: int, work: Callable[[Process], float]) -> dict[str, list[float]]:
    """Have each do the work once in every round; returns what came out, by the players' names."""
    found: dict[str, list[float]] = {process.player.name: [] for process in players}
    for _ in range(rounds):
        for process in players:
            found[process.player.name].append(work(process))
    return found


def count_for(process: Process, verb: str, seconds: float, *args: Any, first: int = 20, most: int = 200_000) -> int:
    """
    Warm a player up, and return how many messages take about so many seconds of CPU time, or six times as many on the
    clock where it waits more than it works.

    Args:
        process: Whose.
        verb: What it is to do; its last argument is the count.
        seconds: How long.
        args: Those before the count.
        first: The least.
        most: The most.
    """
    count = first
    for share in (0.1, 0.4, 1.0):
        cost = process.ask(verb, *args, count)
        each = max(cost.cpu, cost.wall / 6) / count
        count = max(first, min(most, int(share * seconds / each)))
    return count
