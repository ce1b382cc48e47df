"""
When to ping a silent peer and when to give it up, for one connection.

Pure: knows instants only; it never sends the ping and never closes anything. Lateness of our own timers, which says
that we and not the peer were away, is judged here too.
"""

from __future__ import annotations

_LEAST_LATENESS = 1.0
LEAST_PROBE = 0.25
"""Seconds that something sent may be unanswered at least before it is asked about: a server may gather its acks."""
_NEVER = float("inf")


def _checked(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"Liveness({name}={value!r}): must be a number above 0")
    return value


class RoundTrip:
    """
    An estimate of how long an answer takes, as RFC 6298 section 2 has it: smoothed, with its mean deviation.

    Every sample is of a ping that is told apart by its echo, so there is no doubt which one was answered (Karn).
    """

    __slots__ = ("_deviation", "_smoothed")

    def __init__(self) -> None:
        self._smoothed: float | None = None
        self._deviation = 0.0

    def measured(self, seconds: float) -> None:
        """Take a sample; of a clock that went back nothing is taken."""
        if seconds < 0:
            return
        if self._smoothed is None:
            self._smoothed, self._deviation = seconds, seconds / 2
            return
        self._deviation += (abs(self._smoothed - seconds) - self._deviation) / 4
        self._smoothed += (seconds - self._smoothed) / 8

    @property
    def longest(self) -> float:
        """Seconds within which an answer is to be expected: SRTT + 4 RTTVAR; infinity before the first sample."""
        return _NEVER if self._smoothed is None else self._smoothed + 4 * self._deviation


class Liveness:
    """
    Watch one connection.

    Any inbound frame is life, the peer's own pings for a while only (:meth:`spoken`).
    After ``interval`` seconds without one a ping is due; the caller sends it and calls
    :meth:`pinged`. When nothing at all was heard for :attr:`deadline` seconds after that, the connection is lost;
    without a ping that was sent it never is. What we sent and heard nothing after is asked about sooner
    (:meth:`sent`).

    What the caller must do when :meth:`next_deadline` has come: call :meth:`late` first, then act on :meth:`lost`, then
    on :meth:`ping_due`.

    Args:
        interval: Seconds of silence before a ping.
        timeout: Seconds of silence after it.
        floor: Where it is given, the seconds after a ping follow the round trip as far as it is known: at least these,
            at most ``timeout``.
        now: When the connection was made.

    Raises:
        ValueError: A duration is not above 0.
    """

    __slots__ = (
        "_decided_at",
        "_due_at",
        "_floor",
        "_heard_at",
        "_interval",
        "_lost_at",
        "_probe_at",
        "_proven_at",
        "_round_trip",
        "_timeout",
        "_unanswered_at",
    )

    def __init__(self, *, interval: float, timeout: float, now: float, floor: float | None = None) -> None:
        self._interval = _checked("interval", interval)
        self._timeout = _checked("timeout", timeout)
        self._floor = None if floor is None else _checked("floor", floor)
        self._round_trip = RoundTrip()
        self._heard_at = self._proven_at = now
        self._due_at = now + interval
        self._lost_at: float | None = None
        self._unanswered_at: float | None = None
        self._probe_at = _NEVER
        self._decided_at = now

    @property
    def deadline(self) -> float:
        """Seconds of silence after a ping that say that the peer is lost."""
        if self._floor is None:
            return self._timeout
        return min(max(self._round_trip.longest, self._floor), self._timeout)

    def measured(self, seconds: float) -> None:
        """Take the time that an answer took, to a ping or to a hello."""
        self._round_trip.measured(seconds)

    def heard(self, now: float) -> None:
        """Note an inbound frame, of whatever kind but a ping."""
        # Readers take the time before they take the lock: an older instant may come second.
        self._heard_at = self._proven_at = max(self._heard_at, now)
        self._due_at = self._heard_at + self._interval
        self._lost_at = self._unanswered_at = None

    def spoken(self, now: float) -> None:
        """
        Note a ping of the peer: it lives, but it would send that even if nothing of ours arrived.

        So after ``interval + timeout`` seconds with nothing else its pings count no more: it must answer one of ours.
        """
        if now < self._proven_at + self._interval + self._timeout:
            self._heard_at = max(self._heard_at, now)
            self._due_at = self._heard_at + self._interval
            self._lost_at = self._unanswered_at = None

    def sent(self, now: float) -> None:
        """
        Note that something was sent that the peer answers (an ack, say): a ping is due when it is late with that.

        Late is later than the round trip lets expect, and than :data:`LEAST_PROBE`. The look at it is planned once and
        not with each call, so that a busy connection costs no more than some timers a second.
        """
        if self._unanswered_at is None:
            self._unanswered_at = now
            if self._probe_at == _NEVER and self._lost_at is None:
                self._probe_at = now + self._probe_after()

    def _probe_after(self) -> float:
        return min(max(self._round_trip.longest, LEAST_PROBE), self._interval)

    def pinged(self, now: float, *, is_behind: bool = False) -> None:
        """
        Note a ping that was sent. A further one while the first has no answer postpones nothing.

        Args:
            now: The present.
            is_behind: Much that was sent before it may still be on its way, so that a round trip says nothing: the
                peer gets the whole ``timeout``.
        """
        self._probe_at = _NEVER
        if self._lost_at is None:
            self._lost_at = now + (self._timeout if is_behind else self.deadline)

    def ping_due(self, now: float) -> bool:
        """Say whether to send a ping now; when it says so, send it and call :meth:`pinged`."""
        if now >= self._probe_at:
            self._look(now)
        return self._decided(self._lost_at is None and now >= self._due_at, now)

    def _look(self, now: float) -> None:
        """Have a ping due where what was sent is late with its answer; else look again when that would be so."""
        self._probe_at = _NEVER
        if self._unanswered_at is not None:
            late_at = self._unanswered_at + self._probe_after()
            if now >= late_at:
                self._due_at = min(self._due_at, now)
            else:
                self._probe_at = late_at

    def lost(self, now: float) -> bool:
        """Say whether the peer has had its time; when it says so, the connection is to be shut."""
        return self._decided(self._lost_at is not None and now >= self._lost_at, now)

    def _decided(self, answer: bool, now: float) -> bool:
        if answer:
            self._decided_at = max(self._decided_at, now)
        return answer

    def next_deadline(self) -> float:
        """
        Return when to ask again.

        Always after the last time that the caller was told to ping or to shut: where it has not done so, it is asked
        again a while later, so that a timer cannot spin.
        """
        deadline = min(self._due_at, self._probe_at) if self._lost_at is None else self._lost_at
        if deadline > self._decided_at:
            return deadline
        return self._decided_at + min(self._interval, self.deadline)

    def late(self, now: float, planned: float) -> float:
        """
        Judge how late our own timer is.

        A process that was stopped, or a machine that slept, could not hear: a ping is due at once and only a full
        deadline after it is the connection lost, every time that this happens.

        Args:
            now: The present.
            planned: The deadline that the timer was set for.

        Returns:
            Seconds of lateness where they are more than 1 s, and more than ``interval`` or :attr:`deadline`, whichever
            is shorter; else 0: nothing was changed.
        """
        lateness = now - planned
        if lateness <= max(_LEAST_LATENESS, min(self._interval, self.deadline)):
            return 0.0
        self._due_at = now
        self._lost_at = None
        return lateness
