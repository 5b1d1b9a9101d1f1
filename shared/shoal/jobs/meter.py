"""Rate and time left of one stage of a job."""

from __future__ import annotations

import math

SMOOTHING_S = 10.0
"""Time over which the rate forgets: long enough to be read, short enough to show a slowdown."""


class Meter:
    """Measures how fast ``done`` grows.

    The rate is an exponential moving average over time, corrected for its empty start, so that the second
    measurement already gives the true rate.

    Parameters
    ----------
    done
        Units done before the measurement starts: what an earlier attempt left counts for nothing.
    now
        Seconds on a monotonic clock.
    """

    def __init__(self, done: int, now: float) -> None:
        self._done = done
        self._now = now
        self._average = 0.0
        self._weight = 0.0

    def update(self, done: int, now: float) -> None:
        """Take in that ``done`` units are done at ``now``."""
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
        """Seconds until ``total``; None when nobody can say."""
        rate = self.rate
        if total is None or rate is None or rate <= 0:
            return None
        return max(0, total - done) / rate
