"""A time limit for everything that a thread sends and receives on connections that threads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Patience:
    """The deadline of each thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    @contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        """Allow so many seconds for what this thread does within."""
        self._of_thread.deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._of_thread.deadline = None

    def deadline(self) -> float | None:
        """This thread's, as `time.monotonic` has it."""
        found: float | None = getattr(self._of_thread, "deadline", None)
        return found
