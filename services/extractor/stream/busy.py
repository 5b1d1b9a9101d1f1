"""How busy each stage of an extraction is: what limits the job is the stage that is never idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shoal.errors import JsonValue

WINDOW_S = 5.0
"""Fractions are of so many seconds, or of those since the start."""


class Clock:
    """Seconds during which at least one piece of work was under way. Safe in any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0
        self._total = 0.0

    def begin(self) -> None:
        """A piece of work begins."""
        with self._lock:
            if not self._running:
                self._since = self._clock()
            self._running += 1

    def end(self, *_: object) -> None:
        """A piece of work ends."""
        with self._lock:
            self._running -= 1
            if not self._running:
                self._total += self._clock() - self._since

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around a piece of work."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def seconds(self) -> float:
        """So far, what is under way included."""
        with self._lock:
            return self._total + (self._clock() - self._since if self._running else 0.0)


class Stages:
    """The busy fractions of fetching, where images lie elsewhere, decoding, the network and writing.

    Parameters
    ----------
    decode_s
        Seconds that all decode processes together have worked.
    decoders
        How many there are.

    Attributes
    ----------
    fetch, network, write
        Clocks of these stages.
    """

    def __init__(
        self, decode_s: Callable[[], float], decoders: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.fetch, self.network, self.write = Clock(clock), Clock(clock), Clock(clock)
        self._clock = clock
        self._seconds: dict[str, Callable[[], float]] = {
            "fetch": self.fetch.seconds,
            "decode": lambda: decode_s() / decoders,
            "network": self.network.seconds,
            "write": self.write.seconds,
        }
        self._from = self._marked = self._mark()

    def detail(self) -> dict[str, JsonValue]:
        """``busy``: the fraction of the last `WINDOW_S` to twice as many seconds that each stage worked, 0 to 1."""
        now = self._mark()
        elapsed = now["time"] - self._from["time"]
        busy: dict[str, JsonValue] = {
            stage: round(min(max((now[stage] - self._from[stage]) / elapsed, 0.0), 1.0), 2) if elapsed > 0 else 0.0
            for stage in self._seconds
            if stage != "fetch" or now[stage]
        }
        if now["time"] - self._marked["time"] >= WINDOW_S:
            self._from, self._marked = self._marked, now
        return {"busy": busy}

    def _mark(self) -> dict[str, float]:
        return {"time": self._clock(), **{stage: seconds() for stage, seconds in self._seconds.items()}}
