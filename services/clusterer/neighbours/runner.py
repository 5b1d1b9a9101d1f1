"""Where the pieces of a search are computed: one after another in this process, or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


class Runner(Protocol):
    """Computes numbered pieces of work with one function.

    Attributes
    ----------
    apart
        Whether that is in other processes: then function, what is given and results are pickled, and what these
        processes share lies in the folder of the search, which all of them see.
    threads
        Threads of each piece; those of the search by default.
    """

    @property
    def apart(self) -> bool: ...
    @property
    def threads(self) -> int | None: ...
    def __call__(
        self, function: Callable[[int, Given], Made], given: Given, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Made]]:
        """Each number with ``function(number, given)``, in any order."""
        ...


class _InProcess:
    """One piece after another, by ascending number."""

    apart = False
    threads = None

    def __call__(
        self, function: Callable[[int, Given], Made], given: Given, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Made]]:
        for number in numbers:
            yield number, function(number, given)


in_process: Final[Runner] = _InProcess()
