"""How fast a stage of a job goes."""

from __future__ import annotations

import math

SMOOTHING_S = 10.0
"""Seconds over which a rate forgets: long enough to be read, short enough to show a slowdown."""


class RateMeter:
    """Rate and time left of one stage of a job: measures how fast ``done`` grows.

    The rate is an exponential moving average over time, corrected for its empty start, so that the second
    measurement already gives the true rate.

    Parameters
    ----------
    done
        Units done before the measurement starts: those of an earlier attempt do not count.
    now
        Seconds on a monotonic clock.
    """

    def __init__(self, done: int, now: float) -> None:
        self._done = done
        self._now = now
        self._average = 0.0
        self._weight = 0.0

    def update(self, done: int, now: float) -> None:
        """Record that ``done`` units are done at ``now``."""
        elapsed = now - self._now
        if elapsed <= 0:
            return
        fresh = 1.0 - math.exp(-elapsed / SMOOTHING_S)
        self._average += fresh * ((done - self._done) / elapsed - self._average)
        self._weight += fresh * (1.0 - self._weight)
        self._done, self._now = done, now

    @property
    def rate(self) -> float | None:
        """Units a second; None before the second measurement."""
        return self._average / self._weight if self._weight > 0 else None

    def eta_s(self, done: int, total: int | None) -> float | None:
        """Seconds until ``total``; None without a total or a rate."""
        rate = self.rate
        if total is None or rate is None or rate <= 0:
            return None
        return max(0, total - done) / rate
