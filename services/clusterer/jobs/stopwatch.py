"""Where a job's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by stage, with the time spent reading taken out of each stage and shown as a stage of its own.

    Parameters
    ----------
    read_s
        Seconds spent reading since the start.
    after
        Called after each stage.
    """

    def __init__(self, read_s: Callable[[], float], *, after: Callable[[], None] = lambda: None) -> None:
        self._read_s = read_s
        self._after = after
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        started, read = time.perf_counter(), self._read_s()
        yield
        self._after()
        self._stages[stage] = time.perf_counter() - started - (self._read_s() - read)

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return {name: round(value, 6) for name, value in {"read": self._read_s(), **self._stages}.items()}
