"""Thread pools for requests, one for each class of work, so that one class never waits for another.

The event loop does nothing that takes long. Threads that compute hold Python's interpreter lock, which the event loop
needs too, so the pools that compute are small.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Final, ParamSpec, TypeVar

from shoal.deadline import deadline_exceeded

P = ParamSpec("P")
T = TypeVar("T")

REQUEST_S: Final = 120.0
"""Seconds that the work on one request may take."""
LARGE_BODY: Final = 1 << 18
"""Bytes; a larger body is parsed in `BODIES`."""


class Pool:
    """A thread pool.

    Parameters
    ----------
    name
        Prefix of the threads' names.
    threads
        Maximum number of threads.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"shoal-{name}")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``function`` returns, called in a thread with the caller's context.

        When the caller is cancelled, a call that has not begun never does; one that has begun goes on until it checks
        its request's `shoal.deadline.Deadline`.

        Raises
        ------
        Unavailable
            It took longer than `REQUEST_S`.
        """
        context = copy_context()
        work = asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: context.run(function, *args, **kwargs)
        )
        try:
            return await asyncio.wait_for(work, REQUEST_S)
        except TimeoutError:
            raise deadline_exceeded(REQUEST_S) from None

    async def iterate(self, pieces: Iterator[T]) -> AsyncIterator[T]:
        """``pieces``, each computed in a thread; no thread is held between two of them."""

        def following() -> tuple[T] | None:
            for piece in pieces:
                return (piece,)
            return None

        while (found := await self.run(following)) is not None:
            yield found[0]


QUICK: Final = Pool("quick", 16)
"""API keys, health, jobs: what must answer whatever else goes on."""
WORK: Final = Pool("work", 24)
"""All other routes: they read files and may wait for a slow disk."""
BODIES: Final = Pool("bodies", 2)
"""Parsing large bodies."""
COMPUTE: Final = Pool("compute", 1)
"""Computing on the vectors of requests, block by block, so that small requests wait little behind large ones. Compiled
functions use all cores by themselves."""
EXPORTS: Final = Pool("exports", 2)
"""Writing large answers, piece by piece."""
UNPACK: Final = Pool("unpack", 2)
"""Unpacking the parts of uploads."""
FOLLOW: Final = Pool("follow", 4)
"""Polling the jobs that a client follows."""
