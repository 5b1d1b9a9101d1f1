"""The child of a shared job asks its worker for units, and hears how far other workers are."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping, Sequence

from shoal.jobs.claims import Taken
from shoal.jobs.protocol import Counted, Event, Wanted, decode_news

TICK_S = 0.2
ALIVE_S = 5.0
"""While the worker has no answer, such as in an outage of the queue, the child shows so often that it lives."""


class Asking:
    """The child's end of what its worker tells it.

    Parameters
    ----------
    emit
        Receives each event.
    descriptor
        Where the worker's lines come from. None for a job without a worker, which has every unit for itself.

    Attributes
    ----------
    others : dict
        How much is done of each unit that other workers are at, by unit.
    """

    def __init__(self, emit: Callable[[Event], None], descriptor: int | None = None) -> None:
        self._emit = emit
        self._descriptor = descriptor
        self._buffer = b""
        self._answer: Taken | None = None
        self.others: Mapping[int, int] = {}
        if descriptor is not None:
            os.set_blocking(descriptor, False)

    def take(self, missing: Sequence[int], most: int | None, waiting: Callable[[], None]) -> Taken:
        """The unit of ``missing``, ascending, that this worker begins.

        Parameters
        ----------
        most
            How many workers may share the job; None for any number.
        waiting
            Called now and then until the answer comes; may raise.
        """
        if not missing:
            return Taken()
        if self._descriptor is None:
            return Taken(missing[0])
        self._answer = None
        self._emit(Wanted(tuple(missing), most))
        shown_at = time.monotonic()
        while self._answer is None:
            waiting()
            self.listen(TICK_S)
            if time.monotonic() - shown_at > ALIVE_S:
                shown_at = time.monotonic()
                self._emit(Counted({}))
        return Taken(missing[0]) if self._answer.alone else self._answer

    def listen(self, timeout_s: float = 0.0) -> None:
        """Take in what the worker has said; wait for it for at most ``timeout_s``."""
        if self._descriptor is None or not select.select([self._descriptor], [], [], timeout_s)[0]:
            return
        data = os.read(self._descriptor, 1 << 16)
        if not data:  # The worker is gone, and this process will be.
            time.sleep(timeout_s)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            news = decode_news(line)
            if isinstance(news, Taken):
                self._answer = news
            else:
                self.others = news
