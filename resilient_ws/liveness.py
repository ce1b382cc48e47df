"""
When to ping a silent peer and when to give it up, for one connection.

Pure: knows instants only; it never sends the ping and never closes anything. Lateness of our own timers, which says
that we and not the peer were away, is judged here too.
"""

from __future__ import annotations

_LEAST_LATENESS = 1.0


def _checked(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"Liveness({name}={value!r}): must be a number above 0")
    return value


class Liveness:
    """
    Watch one connection.

    Any inbound frame is life, the peer's own pings for a while only (:meth:`spoken`).
    After ``interval`` seconds without one a ping is due; the caller sends it and calls
    :meth:`pinged`. When nothing at all was heard for ``timeout`` seconds after that, the connection is lost; without a
    ping that was sent it never is.

    What the caller must do when :meth:`next_deadline` has come: call :meth:`late` first, then act on :meth:`lost`, then
    on :meth:`ping_due`.

    Args:
        interval: Seconds of silence before a ping.
        timeout: Seconds of silence after it.
        now: When the connection was made.

    Raises:
        ValueError: A duration is not above 0.
    """

    __slots__ = ("_decided_at", "_due_at", "_heard_at", "_interval", "_lost_at", "_proven_at", "_timeout")

    def __init__(self, *, interval: float, timeout: float, now: float) -> None:
        self._interval = _checked("interval", interval)
        self._timeout = _checked("timeout", timeout)
        self._heard_at = self._proven_at = now
        self._due_at = now + interval
        self._lost_at: float | None = None
        self._decided_at = now

    def heard(self, now: float) -> None:
        """Note an inbound frame, of whatever kind but a ping."""
        # Readers take the time before they take the lock: an older instant may come second.
        self._heard_at = self._proven_at = max(self._heard_at, now)
        self._due_at = self._heard_at + self._interval
        self._lost_at = None

    def spoken(self, now: float) -> None:
        """
        Note a ping of the peer: it lives, but it would send that even if nothing of ours arrived.

        So after ``interval + timeout`` seconds with nothing else its pings count no more: it must answer one of ours.
        """
        if now < self._proven_at + self._interval + self._timeout:
            self._heard_at = max(self._heard_at, now)
            self._due_at = self._heard_at + self._interval
            self._lost_at = None

    def pinged(self, now: float) -> None:
        """Note a ping that was sent. A further one while the first has no answer postpones nothing."""
        if self._lost_at is None:
            self._lost_at = now + self._timeout

    def ping_due(self, now: float) -> bool:
        """Say whether to send a ping now; when it says so, send it and call :meth:`pinged`."""
        return self._decided(self._lost_at is None and now >= self._due_at, now)

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
        deadline = self._due_at if self._lost_at is None else self._lost_at
        if deadline > self._decided_at:
            return deadline
        return self._decided_at + min(self._interval, self._timeout)

    def late(self, now: float, planned: float) -> float:
        """
        Judge how late our own timer is.

        A process that was stopped, or a machine that slept, could not hear: a ping is due at once and only a full
        timeout after it is the connection lost, every time that this happens.

        Args:
            now: The present.
            planned: The deadline that the timer was set for.

        Returns:
            Seconds of lateness where they are more than 1 s and more than ``interval``, else 0: nothing was changed.
        """
        lateness = now - planned
        if lateness <= max(_LEAST_LATENESS, self._interval):
            return 0.0
        self._due_at = now
        self._lost_at = None
        return lateness

    def retune(self, *, interval: float, timeout: float, now: float) -> None:
        """
        Take other durations, as a server's welcome tells them.

        A ping that is under way gets the whole new timeout from ``now``.

        Raises:
            ValueError: A duration is not above 0; the old ones stay.
        """
        self._interval, self._timeout = _checked("interval", interval), _checked("timeout", timeout)
        self._due_at = self._heard_at + interval
        if self._lost_at is not None:
            self._lost_at = now + timeout
