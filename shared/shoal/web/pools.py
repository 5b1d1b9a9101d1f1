"""The threads that requests are worked on in, a pool for each class of work, so that one class never waits for another.

The event loop itself does nothing that takes long. Threads that compute hold Python's interpreter lock, which the event
loop needs too: so the pools that compute are small.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Final, ParamSpec, TypeVar

from shoal.wanted import Patience, too_slow, waiting

P = ParamSpec("P")
T = TypeVar("T")

REQUEST_S: Final = 120.0
"""How long the work on one request may take."""


LARGE_BODY: Final = 1 << 18
"""Bytes from which on a body is read in a pool of its own."""


class Pool:
    """A few threads.

    Parameters
    ----------
    name
        Of the threads.
    threads
        At most.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"shoal-{name}")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``function`` returns, called in a thread with the caller's context.

        When the caller is cancelled, a call that has not begun never does, and `shoal.wanted.check_wanted` stops one
        that has.

        Raises
        ------
        Unavailable
            It took longer than `REQUEST_S`.
        """
        patience = Patience(REQUEST_S)
        context = copy_context()
        context.run(waiting.set, patience)
        work = asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: context.run(function, *args, **kwargs)
        )
        try:
            return await asyncio.wait_for(work, REQUEST_S)
        except TimeoutError:
            raise too_slow(REQUEST_S) from None
        finally:
            patience.gone = True

    async def iterate(self, pieces: Iterator[T]) -> AsyncIterator[T]:
        """``pieces``, each of them made in a thread; between two of them none is held."""
        end = object()
        while (piece := await self.run(next, pieces, end)) is not end:
            yield piece  # type: ignore[misc]


QUICK: Final = Pool("quick", 16)
"""Keys, health, jobs: what must be answered whatever else goes on."""
WORK: Final = Pool("work", 24)
"""All other routes: they read files and may wait for a slow disk."""
BODIES: Final = Pool("bodies", 2)
"""Reading large bodies."""
EXPORTS: Final = Pool("exports", 2)
"""Making large answers, piece by piece."""
FOLLOW: Final = Pool("follow", 4)
"""Looking after jobs that somebody waits for."""
