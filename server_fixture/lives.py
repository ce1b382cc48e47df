"""
What a device that is killed again and again wrote down of each of its lives, and what a whole run of it must show.

Here live the words of a life's log and the judge, which shares nothing with the journal that it judges. Processes and
files never live here (``device.py``, ``killing.py``).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import attrs

Mode = Literal["manual", "auto"]
End = Literal["killed", "closed", "drained", "failed"]

_FILL = "0123456789abcdef"


def payload_of(number: int) -> str:
    """Return the message with this number; every fiftieth is longer than some pages of a database."""
    size = 20_000 if number % 50 == 0 else number % 7 * 30
    return f"{number} {(_FILL * (size // len(_FILL) + 1))[:size]}"


def number_of(payload: str | bytes) -> int | None:
    """Return the number of a message, None where it is none of ours, or not whole."""
    text = payload if isinstance(payload, str) else payload.decode(errors="replace")
    word = text.partition(" ")[0]
    if not (word.isascii() and word.isdecimal()):
        return None
    return int(word) if text == payload_of(int(word)) else None


@attrs.define
class Life:
    """
    One process of a device.

    Attributes:
        number: Counts the lives of the device, from 1.
        mode: When a message counts as acked.
        ended: How it went.
        begun: Numbers for which ``send()`` was called, by lane.
        sent: Those of them for which it returned.
        got: Numbers that ``recv()`` gave, in order.
        acked: Those for which ``ack()`` returned (``manual``).
        told: Events and errors that a device with a whole journal and a server that forgets nothing never hears of.
        waiting: Messages without an ack that its journal had when it was opened.
        welcomes: How many connections were welcomed.
        resumes: How many of them went on with the session of before.
    """

    number: int
    mode: Mode
    ended: End
    begun: dict[str, list[int]] = attrs.field(factory=dict)
    sent: dict[str, list[int]] = attrs.field(factory=dict)
    got: list[int] = attrs.field(factory=list)
    acked: list[int] = attrs.field(factory=list)
    told: list[str] = attrs.field(factory=list)
    waiting: int = 0
    welcomes: int = 0
    resumes: int = 0

    @property
    def handled(self) -> int:
        """The highest number that its user was done with, as far as that is certain; 0 where there is none."""
        done = self.acked if self.mode == "manual" else self.got[:-1]
        return max(done, default=0)


def read_life(text: str, *, number: int, mode: Mode, ended: End) -> Life:
    """
    Read a life's log.

    A last line without its end was being written when the process died, and counts for nothing.
    """
    life = Life(number, mode, ended)
    for line in text.split("\n")[:-1]:
        word, _, rest = line.partition(" ")
        if word in ("begin", "sent"):
            lane, _, count = rest.partition(" ")
            (life.begun if word == "begin" else life.sent).setdefault(lane, []).append(int(count))
        elif word in ("got", "acked"):
            (life.got if word == "got" else life.acked).append(int(rest))
        elif word == "waiting":
            life.waiting = int(rest)
        elif word == "welcome":
            life.welcomes += 1
        elif word == "resume":
            life.resumes += 1
        elif word == "told":
            life.told.append(rest)
        else:
            raise ValueError(f"life {number}: {line[:80]!r} is no line of a life's log")
    return life


# -- the judge --------------------------------------------------------------------------------------------------------


def judge(device: str, lives: Sequence[Life], stored: Mapping[str, Sequence[int | None]], end: int) -> list[str]:
    """
    Say what went wrong in the lives of a device; an empty list is what the promises amount to.

    Args:
        device: Its name.
        lives: All of them, in order.
        stored: What an independent reader found in the stream of each lane, None for what is no message of ours.
        end: The last number of the feed that the device consumed.
    """
    found = [f"life {life.number} was told {what}" for life in lives for what in life.told]
    found += [f"life {life.number} ended by itself" for life in lives if life.ended == "failed"]
    for lane in stored:
        found += [f"{lane}: {what}" for what in _sending(lives, lane, stored[lane])]
    found += _receiving(lives, end)
    return [f"{device}: {what}" for what in found]


def _sending(lives: Sequence[Life], lane: str, stored: Sequence[int | None]) -> list[str]:
    """What ``send()`` returned for is stored once and in order, and nothing that was not begun."""
    begun = {number for life in lives for number in life.begun.get(lane, ())}
    sent = {number for life in lives for number in life.sent.get(lane, ())}
    counts = Counter(stored)
    ours = [number for number in stored if number is not None]
    return [
        *_named("lost", sent - counts.keys()),
        *_named("stored more than once", {number for number in ours if counts[number] > 1}),
        *_named("stored and never begun", set(ours) - begun),
        *_named("stored behind a later one", {late for early, late in itertools.pairwise(ours) if late < early}),
        *([f"{counts[None]} stored messages are none of ours, or not whole"] if counts[None] else []),
    ]


def _named(what: str, numbers: Iterable[int]) -> list[str]:
    some = sorted(numbers)
    if not some:
        return []
    more = f" and {len(some) - 5} more" if len(some) > 5 else ""
    return [f"{len(some)} {what}: {', '.join(map(str, some[:5]))}{more}"]


def _receiving(lives: Sequence[Life], end: int) -> list[str]:
    """What was consumed is the feed in order; only a message that was in hand at the end of a life comes again."""
    found = []
    given = handled = 0
    for life in lives:
        again: list[int] = []
        behind: list[int] = []
        over: list[int] = []
        last = given
        for place, number in enumerate(life.got):
            if number <= handled:
                again.append(number)
            elif number > last + 1:
                over += range(last + 1, number)
            elif number <= last and place > 0:
                behind.append(number)
            last = number
        for what, numbers in (
            ("acked in an earlier life and given again", again),
            ("given after a later one", behind),
            ("passed over", over),
        ):
            found += [f"life {life.number}: {text}" for text in _named(what, numbers)]
        given, handled = max(given, last), max(handled, life.handled)
    if given != end:
        found.append(f"the last message that was given is {given}, of a feed that ends with {end}")
    return found


def repeats_of(lives: Sequence[Life]) -> int:
    """Count the messages that were given again."""
    return sum(count - 1 for count in Counter(number for life in lives for number in life.got).values())


def unconfirmed(lives: Sequence[Life], lane: str, stored: Sequence[int | None]) -> int:
    """Count the stored messages of a lane for which no ``send()`` has returned: the kill came in the middle of it."""
    return len(set(stored) - {None} - {number for life in lives for number in life.sent.get(lane, ())})
