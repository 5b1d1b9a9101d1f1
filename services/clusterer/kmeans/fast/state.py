"""What the fast engine remembers between passes over the same rows: their sketches, labels and sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import ArrayRows, Float32Array, Float64Array, IntArray, LabelArray, Rows, window_rows
from clusterer.kmeans.engine import OnRows
from clusterer.kmeans.fast.kernel import Frame, Kernel, Projection, Sketch

SAMPLE = 2048
"""Rows that the mean and the directions are taken from."""


def blocks(rows: Rows) -> Iterator[tuple[int, NDArray[Any]]]:
    """All rows in order; those of an array as it is, float16 too, without a copy where there need be none."""
    if isinstance(rows, ArrayRows) and rows.array.dtype in (np.float32, np.float16) and rows.array.flags.c_contiguous:
        yield from rows.windows(window_rows(rows.dim))
    else:
        yield from rows.batches()


class Sketches:
    """Sketches of one set of rows, kept where the memory suffices and made anew in each pass where not.

    Parameters
    ----------
    keep_bytes
        How much memory the full sketches may take.

    Attributes
    ----------
    frame
        About the mean of the sample.
    sample
        Some of the rows, ``(m, d) float32``.
    peak
        Largest magnitude of all values.
    squares
        Sum of the squared distances of all rows to the frame's mean.
    projection
        Directions of the short sketches, if there are any.
    kept
        Whether sketches stay from pass to pass.
    """

    def __init__(self, kernel: Kernel, rows: Rows, keep_bytes: int, on_rows: OnRows | None) -> None:
        self._kernel = kernel
        self._n = rows.n
        self.sample = rows.take(np.linspace(0, rows.n - 1, min(rows.n, SAMPLE)).astype(np.int64))
        self.frame = Frame.around(self.sample.mean(axis=0, dtype=np.float64).astype(np.float32))
        dims = len(self.frame.signs)
        self.kept = rows.n * dims <= keep_bytes
        self._kept = Sketch.empty(rows.n, dims) if self.kept else None
        self.peak, self.squares = 0.0, 0.0
        self.projection: Projection | None = None
        self._short: Sketch | None = None
        self._projected = 0
        for first, batch in blocks(rows):
            sketch = Sketch.empty(len(batch), dims) if self._kept is None else self._kept[first : first + len(batch)]
            kernel.sketch_into(batch, self.frame, sketch)
            self.peak = max(self.peak, float(sketch.stats["peak"].max()))
            self.squares += float(sketch.stats["squares"].sum())
            if on_rows is not None:
                on_rows(first + len(batch))

    def full(self, part: slice, batch: NDArray[Any]) -> Sketch:
        """The sketches of a block of rows."""
        return self._kernel.sketch(batch, self.frame) if self._kept is None else self._kept[part]

    def let_go(self) -> None:
        """Forget all sketches; those that are asked for are made anew."""
        self._kept, self.kept = None, False

    def direct(self, projection: Projection | None) -> None:
        """Make short sketches along these directions from now on, or none."""
        self.projection = projection
        self._short = None if projection is None else Sketch.empty(self._n, projection.p)
        self._projected = 0

    def short(self, part: slice, full: Sketch) -> Sketch | None:
        """The short sketches of a block, from its full ones when they are asked for first; blocks come in order."""
        if self.projection is None or self._short is None:
            return None
        if self._projected < part.stop:
            self._kernel.project_into(full, self.projection, self._short[part])
            self._projected = part.stop
        return self._short[part]


class Sums:
    """Labels of all rows and the sums of each cluster, always in step with each other.

    Sums are kept as whole numbers in a unit that leaves the largest value at least 40 bits: adding is exact, so neither
    the order of the rows, nor the number of threads, nor adding and taking away rows as they move changes a bit.

    Attributes
    ----------
    labels
        ``(n,) int32``, -1 for rows in no cluster yet.
    whole
        ``(k, d) int64`` sums of rows times `unit`.
    unit
        A power of two.
    """

    def __init__(self, kernel: Kernel, rows: Rows, k: int, peak: float) -> None:
        self._kernel = kernel
        self.labels = np.full(rows.n, -1, dtype=np.int32)
        self.whole = np.zeros((k, rows.dim), dtype=np.int64)
        exponent = math.frexp(peak)[1] if peak > 0 else 0
        self.unit = 2.0 ** (62 - exponent - max(1, rows.n).bit_length())

    def move(self, part: slice, batch: NDArray[Any], labels: LabelArray) -> None:
        """Give a block of rows new labels."""
        self._kernel.accumulate(batch, self.labels[part], labels, self.unit, self.whole)
        self.labels[part] = labels

    def values(self) -> Float64Array:
        """The sums, ``(k, d) float64``."""
        return self.whole / self.unit

    def counts(self) -> IntArray:
        """Rows of each cluster, ``(k,) int64``."""
        return np.bincount(self.labels, minlength=len(self.whole)).astype(np.int64)


def peak_of(array: Float32Array) -> float:
    """Largest magnitude."""
    return float(np.abs(array).max(initial=0.0))
