"""What every format offers: its arrays by name, none of them read yet."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoal.userfiles import UserFile

Values: TypeAlias = NDArray[Any]
"""An array of any dtype."""
MAX_SHOWN = 20
"""How many arrays a message lists."""
BFLOAT16 = "bfloat16"
"""NumPy has no such type: read as float32, which holds every value of it."""


@dataclass(frozen=True)
class Array:
    """One array of a file: its shape, and how its rows are read.

    Attributes
    ----------
    name
        Its key, tensor name, dataset path or column; empty for the only array of an ``.npy`` file.
    shape
        ``(n, dim)`` of embeddings, ``(n,)`` of labels.
    dtype
        The type that `read` returns; object for text of any length.
    read
        The rows ``[start, stop)``.
    stored
        The file's name of the type, where it differs from ``dtype``.
    problem
        Why the array cannot be read, as the end of a sentence; empty if it can.
    close
        Releases what reading keeps open.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    read: Callable[[int, int], Values]
    stored: str = ""
    problem: str = ""
    close: Callable[[], None] = lambda: None

    @property
    def rows(self) -> int:
        """Length of the first dimension."""
        return self.shape[0] if self.shape else 0

    @property
    def type_name(self) -> str:
        """The type as the file names it."""
        return self.stored or ("text" if self.dtype.kind in "US" else self.dtype.name)

    def __str__(self) -> str:
        return f"`{self.name}` {self.shape} {self.type_name}"


@dataclass(frozen=True)
class Content:
    """A file and its arrays by name, in the file's order.

    Attributes
    ----------
    noun
        What the format calls an array: array, tensor, dataset or column.
    """

    file: UserFile
    noun: str
    arrays: Mapping[str, Array]

    def listed(self) -> str:
        """The arrays with shapes and types, for a message."""
        shown = ", ".join(str(each) for each in list(self.arrays.values())[:MAX_SHOWN])
        more = len(self.arrays) - MAX_SHOWN
        return f"{shown or 'nothing'}{f' and {more} more' if more > 0 else ''}"


def mapped(values: Values) -> Callable[[int, int], Values]:
    """Reads rows of an array that is in memory or mapped."""
    return lambda start, stop: values[start:stop]


def unreadable(start: int, stop: int) -> Values:
    """Stands for the rows of an array with a `problem`."""
    raise NotImplementedError


def widened(values: Values) -> Values:
    """Values of bfloat16, given as their 16 bits, as float32."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def as_objects(values: Sequence[object]) -> Values:
    """An array of Python objects, whatever their lengths."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def expected_bytes(shape: Sequence[int], dtype: np.dtype[np.generic]) -> int:
    """Size of an array, in bytes."""
    return prod(shape) * dtype.itemsize


class Stream:
    """Rows of an array that is read from its start to its end, such as a compressed one.

    Reading goes on where the last read ended. Reading an earlier row starts again from the first.

    Parameters
    ----------
    start
        Begins to read: yields blocks of rows in order, and releases what it opened when it is closed.
    empty
        An array of no rows, of the shape and type of a block.
    """

    def __init__(self, start: Callable[[], Generator[Values, None, None]], empty: Values) -> None:
        self._start = start
        self._empty = empty
        self._blocks: Generator[Values, None, None] | None = None
        self._at = 0
        self._rest = empty

    def __call__(self, start: int, stop: int) -> Values:
        """The rows ``[start, stop)``."""
        if self._blocks is None or start < self._at:
            self.close()
            self._blocks = self._start()
        taken = list(self._take(self._blocks, start, stop))
        return np.concatenate(taken) if len(taken) > 1 else taken[0] if taken else self._empty

    def _take(self, blocks: Iterator[Values], start: int, stop: int) -> Iterator[Values]:
        while self._at < stop:
            if not len(self._rest):
                block = next(blocks, None)
                if block is None:
                    return
                self._rest = block
            skipped = min(max(start - self._at, 0), len(self._rest))
            end = min(stop - self._at, len(self._rest))
            if end > skipped:
                yield self._rest[skipped:end]
            self._rest = self._rest[end:]
            self._at += end

    def close(self) -> None:
        """Release what is open."""
        if self._blocks is not None:
            with closing(self._blocks):
                pass
        self._blocks, self._at, self._rest = None, 0, self._empty
