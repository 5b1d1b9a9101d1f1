"""Rows in the order in which they are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shoal.errors import NotFinite

from clusterer.data.rows import Float32Array, Float64Array, IntArray, Rows
from clusterer.neighbours.similarity import lengths as measured_plainly

Measure = Callable[[Float32Array], Float64Array]


@dataclass(frozen=True)
class Table:
    """Rows that are compared block by block.

    Attributes
    ----------
    rows
        Where they are read.
    order
        ``(n,) int64``: the number of each row, in the order of comparison.
    lengths
        ``(n,) float64`` in that order; see `similarity`.
    held
        The rows in that order, ``(n, d) float32``; None where they are read again for each block.
    """

    rows: Rows
    order: IntArray
    lengths: Float64Array
    held: Float32Array | None

    @classmethod
    def of(cls, rows: Rows, order: IntArray | None = None, *, hold: bool, measure: Measure = measured_plainly) -> Table:
        """Read all rows once.

        Parameters
        ----------
        order
            That of comparison; the rows' own by default.
        hold
            Whether the rows stay in memory.
        measure
            `similarity.lengths`, or another function that gives the same bits.

        Raises
        ------
        NotFinite
            A row contains NaN or infinity.
        """
        order = np.arange(rows.n, dtype=np.int64) if order is None else order
        held = np.empty((rows.n, rows.dim), np.float32) if hold else None
        place = np.empty(rows.n, np.int64)
        place[order] = np.arange(rows.n)
        found = np.empty(rows.n, np.float64)
        for first, batch in rows.batches():
            to = place[first : first + len(batch)]
            found[to] = measure(batch)
            if not np.isfinite(found[to]).all():
                row = first + int(np.flatnonzero(~np.isfinite(found[to]))[0])
                raise NotFinite(f"Row {row} contains NaN or infinity.", row=row)
            if held is not None:
                held[to] = batch
        return cls(rows, order, found, held)

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.rows.n

    def block(self, part: slice) -> Float32Array:
        """``(b, d) float32`` rows of a range of the order."""
        return self.rows.take(self.order[part]) if self.held is None else self.held[part]

    def some(self, part: slice, chosen: NDArray[np.int32]) -> Float32Array:
        """``(m, d) float32`` rows of a range, by their places in it."""
        return self.rows.take(self.order[part][chosen]) if self.held is None else self.held[part][chosen]
