"""What new rows go through: the train rows nearest to each say where it goes. Nothing is fitted on new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, IntArray, MappedRows, Rows, in_memory, l2_normalize, ranges
from clusterer.neighbours import Among, Equals, Nearest, Options
from clusterer.reduce.smooth import Numbers, SmoothedRows, averaged, mutual

AT_ONCE: Final = 1024
"""New rows whose neighbours' neighbours are looked up together."""
LEAST_WEIGHT: Final = np.float32(1e-6)
"""Of a neighbour whose similarity is negative; one whose is 0 does not count."""


@dataclass(frozen=True)
class Fitted:
    """What a reduction found on a train set of ``n`` rows.

    Attributes
    ----------
    method
        Its name in requests.
    k
        The nearest rows of each row that count.
    steps
        How often rows are averaged with their neighbours, or the steps of a random walk; 0 where there are none.
    least
        ``(n,) float32``: the similarity of each train row to the last of its nearest ones; where rows are averaged.
    neighbours
        ``(n, k) int32``: the rows that each train row is averaged with, -1 for none; only for more than one step.
    coordinates
        ``(n, c) float32``: the train rows' coordinates; None where rows are averaged.
    """

    method: str
    k: int
    steps: int
    least: Float32Array | None = None
    neighbours: Numbers | None = None
    coordinates: Float32Array | None = None

    def record(self) -> dict[str, int | str]:
        """For spec.json: what was left open in the request too."""
        found: dict[str, int | str] = {"method": self.method, "neighbours": self.k}
        if self.steps:
            found["steps"] = self.steps
        return found if self.coordinates is None else {**found, "components": self.coordinates.shape[1]}

    @property
    def rows(self) -> int:
        """Rows of the train set."""
        kept = self.least if self.coordinates is None else self.coordinates
        return 0 if kept is None else len(kept)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Fitted:
        """The inverse of `arrays`."""
        least, coordinates = (
            np.asarray(arrays[name], np.float32) if name in arrays else None for name in ("least", "coordinates")
        )
        neighbours = np.asarray(arrays["neighbours"], np.int32) if "neighbours" in arrays else None
        k, steps = int(arrays["k"]), int(arrays["steps"])
        return cls(str(arrays["method"]), k, steps, least, neighbours, coordinates)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays, for ``reduction.npz``."""
        numbers = {name: np.asarray(getattr(self, name)) for name in ("method", "k", "steps")}
        kept = {name: getattr(self, name) for name in ("least", "neighbours", "coordinates")}
        return {**numbers, **{name: each for name, each in kept.items() if each is not None}}


@dataclass(frozen=True)
class Reduction:
    """A fitted reduction and the rows that new ones are compared with; immutable, so that many threads may use one.

    Attributes
    ----------
    steps
        ``(n, d)`` each: the train rows before each step, where rows are averaged.
    dim
        Columns of the transformed train rows.
    among
        Finds those nearest to a row, one more than count.
    equals
        Finds the one that equals a row.
    """

    fitted: Fitted
    steps: tuple[Rows, ...]
    dim: int
    among: Among
    equals: Equals

    @classmethod
    def of(cls, fitted: Fitted, train: Rows, options: Options, steps: Sequence[Rows] = ()) -> Reduction:
        """Read the transformed train rows, so that they can be searched; ``options`` limits the memory of that.

        Without ``steps``, the rows of all but the first are held in memory.
        """
        if fitted.coordinates is None and not steps:
            steps = [MappedRows(train, l2_normalize, train.dim)]
            for _ in range(1, fitted.steps):
                steps = [*steps, in_memory(SmoothedRows(steps[-1], np.asarray(fitted.neighbours)))]
        among = Among(train, fitted.k + 1, options)
        return cls(replace(fitted, neighbours=None), tuple(steps), train.dim, among, Equals.among(train))

    @property
    def width(self) -> int:
        """Columns of reduced rows."""
        coordinates = self.fitted.coordinates
        return self.dim if coordinates is None else int(coordinates.shape[1])

    @property
    def bytes(self) -> int:
        """Bytes of memory, about, where all rows are in memory."""
        arrays = sum(each.nbytes for each in self.fitted.arrays().values())
        rows = 4 * self.fitted.rows * self.dim * max(1, len(self.steps))
        return rows + self.among.bytes + self.equals.bytes + arrays

    def __call__(self, rows: Float32Array) -> Float32Array:
        """Reduce ``(m, d)`` transformed rows to ``(m, width)``; what a row becomes does not depend on the others.

        A row that equals a train row becomes what that one did.
        """
        found = np.empty((len(rows), self.width), np.float32)
        reduce = self._smoothed if self.fitted.coordinates is None else self._placed
        for part in ranges(len(rows), AT_ONCE):
            found[part] = reduce(rows[part], self.equals.find(rows[part]))
        return found

    def _placed(self, rows: Float32Array, same: IntArray) -> Float32Array:
        """The mean of the neighbours' coordinates, weighted by similarity; its direction where these have length 1."""
        coordinates = np.asarray(self.fitted.coordinates)
        found = np.zeros((len(rows), self.width), np.float32)
        found[same >= 0] = coordinates[same[same >= 0]]
        new = np.flatnonzero(same < 0)
        near = self._nearest(rows[new], same[new])
        weights = np.where(near.similarity == 0, 0, np.maximum(near.similarity, LEAST_WEIGHT))
        mean = np.zeros((len(new), self.width), np.float32)
        for column, weight in zip(near.rows.T, weights.T, strict=True):
            mean += weight[:, None] * coordinates[column]
        unit = self.fitted.method == "spectral"
        found[new] = l2_normalize(mean) if unit else mean / np.maximum(weights.sum(axis=1, keepdims=True), LEAST_WEIGHT)
        return found

    def _smoothed(self, rows: Float32Array, same: IntArray) -> Float32Array:
        near = mutual(self._nearest(rows, same), np.asarray(self.fitted.least))
        found = l2_normalize(rows)
        columns = near.astype(np.int64).T
        for rows_before in self.steps:
            found = averaged(found, ((each >= 0, rows_before.take(each[each >= 0])) for each in columns))
        return found

    def _nearest(self, rows: Float32Array, same: IntArray) -> Nearest:
        """The train rows nearest to each row, without the one that it is."""
        found, k = self.among.nearest(rows), self.fitted.k
        itself = found.rows == same[:, None]
        itself[~itself.any(axis=1), -1] = True  # The last one is one too many.
        return Nearest(found.rows[~itself].reshape(-1, k), found.similarity[~itself].reshape(-1, k))
