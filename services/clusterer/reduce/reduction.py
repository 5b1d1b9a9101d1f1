"""What new rows go through: the train rows nearest to each say where it goes. Nothing is fitted on new rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, IntArray, Rows, l2_normalize, ranges
from clusterer.neighbours import Among, Options
from clusterer.reduce.smooth import Numbers, averaged, mutual

AT_ONCE: Final = 1024
"""New rows whose neighbours' neighbours are looked up together."""


@dataclass(frozen=True)
class Fitted:
    """What a reduction found on a train set of ``n`` rows.

    Attributes
    ----------
    k
        The nearest rows of each row that count.
    steps
        How often rows are averaged with their neighbours.
    least
        ``(n,) float32``: the similarity of each train row to the last of its nearest ones.
    neighbours
        ``(n, k) int32``: the rows that each train row is averaged with, -1 for none; only for more than one step.
    """

    k: int
    steps: int
    least: Float32Array
    neighbours: Numbers | None = None

    def record(self) -> dict[str, int | str]:
        """For spec.json: what was left open in the request too."""
        return {"method": "smooth", "neighbours": self.k, "steps": self.steps}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Fitted:
        """The inverse of `arrays`."""
        neighbours = np.asarray(arrays["neighbours"], np.int32) if "neighbours" in arrays else None
        return cls(int(arrays["k"]), int(arrays["steps"]), np.asarray(arrays["least"], np.float32), neighbours)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays, for ``reduction.npz``."""
        named: dict[str, NDArray[np.generic]] = {
            "k": np.asarray(self.k),
            "steps": np.asarray(self.steps),
            "least": self.least,
        }
        return named if self.neighbours is None else {**named, "neighbours": self.neighbours}


@dataclass(frozen=True)
class Reduction:
    """A fitted reduction and the rows that new ones are compared with; immutable, so that many threads may use one.

    Attributes
    ----------
    train
        ``(n, d)``: the transformed train rows.
    among
        Finds those nearest to a row.
    """

    fitted: Fitted
    train: Rows
    among: Among

    @classmethod
    def of(cls, fitted: Fitted, train: Rows, options: Options) -> Reduction:
        """Read the train rows, so that they can be searched; ``options`` limits the memory of that."""
        return cls(fitted, train, Among(train, fitted.k, options))

    @property
    def width(self) -> int:
        """Columns of reduced rows."""
        return self.train.dim

    @property
    def bytes(self) -> int:
        """Bytes of memory, about: the rows, and as much again as a quarter of them for their sketches."""
        arrays = sum(each.nbytes for each in self.fitted.arrays().values())
        return 5 * self.train.n * self.train.dim + arrays

    def __call__(self, rows: Float32Array) -> Float32Array:
        """Reduce ``(m, d)`` transformed rows to ``(m, width)``; what a row becomes does not depend on the others."""
        found = np.empty((len(rows), self.width), np.float32)
        for part in ranges(len(rows), AT_ONCE):
            found[part] = self._smoothed(rows[part])
        return found

    def _smoothed(self, rows: Float32Array) -> Float32Array:
        near = mutual(self.among.nearest(rows), self.fitted.least)
        found = l2_normalize(rows)
        chosen, places = _distinct(near)
        for step in range(self.fitted.steps):
            found = averaged(found, _at(places, self._train_rows(chosen, step)))
        return found

    def _train_rows(self, numbers: IntArray, step: int) -> Float32Array:
        """Train rows after a number of steps, with the bits that they had in the job."""
        if not step:
            return l2_normalize(self.train.take(numbers))
        chosen, places = _distinct(np.asarray(self.fitted.neighbours)[numbers], numbers)
        values = self._train_rows(chosen, step - 1)
        return averaged(values[np.searchsorted(chosen, numbers)], _at(places, values))


def _distinct(numbers: Numbers, also: IntArray | None = None) -> tuple[IntArray, IntArray]:
    """The different rows among ``numbers`` and ``also``, ascending, and the place of each entry; -1 for no row."""
    own = np.empty(0, np.int64) if also is None else also
    chosen = np.unique(np.concatenate([numbers[numbers >= 0].astype(np.int64), own]))
    return chosen, np.where(numbers >= 0, np.searchsorted(chosen, numbers), -1)


def _at(places: IntArray, values: Float32Array) -> list[tuple[NDArray[np.bool_], Float32Array]]:
    """What `averaged` takes: of each column of places those that are rows, and the rows."""
    return [(column >= 0, values[column[column >= 0]]) for column in places.T]
