"""What the fast engine keeps of one partition: sketches of its rows, labels and integer sums of the last pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from clusterer.data.partitions import OnRows
from clusterer.data.rows import Array, ArrayRows, Float32Array, LabelArray, Rows, window_rows
from clusterer.kmeans.fast.guide import choose_projection
from clusterer.kmeans.fast.kernel import Counts, Frame, Kernel, Projection, Sketch

SAMPLE = 2048
"""Rows that the mean and the directions are taken from."""
PAYS_FROM = 20_000_000
"""Distances of a pass (rows times centroids) from which the search for directions pays."""


@dataclass(frozen=True)
class Basis:
    """What the sketches of all partitions share.

    Attributes
    ----------
    name
        Of this assigner's state in the partitions.
    frame
        About the mean of the sample.
    sample
        Some of the rows, ``(m, d) float32``.
    """

    name: str
    frame: Frame
    sample: Float32Array

    @classmethod
    def of(cls, rows: Rows) -> Basis:
        """From rows at even distances."""
        sample = rows.take(np.linspace(0, rows.n - 1, min(rows.n, SAMPLE)).astype(np.int64))
        frame = Frame.around(sample.mean(axis=0, dtype=np.float64).astype(np.float32))
        return cls(uuid4().hex, frame, sample)


class FastShare:
    """What an assigner keeps of one partition.

    That is the sketches of its rows, the labels and sums of the last pass and, after some passes, directions for short
    sketches.

    Parameters
    ----------
    basis
        The assigner's, the same for all partitions.
    keep_bytes
        Memory for the sketches.

    Attributes
    ----------
    name
        The basis's.
    """

    def __init__(self, kernel: Kernel, rows: Rows, basis: Basis, keep_bytes: int, on_rows: OnRows) -> None:
        self._kernel = kernel
        self._rows = rows
        self._basis = basis
        self.name = basis.name
        self.sketches = Sketches(kernel, rows, basis.frame, keep_bytes, on_rows)
        self._sums: Sums | None = None
        self._passes = 0
        self._next_search = 1

    @property
    def sums(self) -> Sums:
        """Of the last pass."""
        if self._sums is None:
            raise RuntimeError("no pass has run")
        return self._sums

    def assign(self, centroids: Float32Array, unit: float, on_rows: OnRows) -> Counts:
        """One pass; `sums` has the labels."""
        if self._sums is None or len(self._sums.whole) != len(centroids):
            self._sums = Sums(self._kernel, self._rows, len(centroids), unit)
        self._direct(centroids)
        decided = self._pass(self._sums, centroids, on_rows)
        self._review(decided)
        return decided

    def _pass(self, sums: Sums, centroids: Float32Array, on_rows: OnRows) -> Counts:
        """Label all rows and move them between the sums, block by block."""
        sketches, frame = self.sketches, self._basis.frame
        full = self._kernel.pack(centroids, frame)
        brief = None
        if sketches.projection is not None:
            brief = self._kernel.pack_brief(centroids, frame, sketches.projection)
        decided = Counts()
        for first, batch in blocks(self._rows):
            part = slice(first, first + len(batch))
            sketch = sketches.full(part, batch)
            short = sketches.short(part, sketch)
            labels = sums.labels[part].copy()
            decided += self._kernel.assign(
                batch, sketch, full, labels, None if short is None or brief is None else (short, brief)
            )
            sums.move(part, batch, labels)
            on_rows(part.stop)
        return decided

    def _direct(self, centroids: Float32Array) -> None:
        """Choose directions if they are due and may pay."""
        sketches = self.sketches
        due = sketches.kept and sketches.projection is None and self._passes >= self._next_search
        if due and self._rows.n * len(centroids) >= PAYS_FROM:
            sketches.direct(choose_projection(self._kernel, self._basis.frame, self._basis.sample, centroids))
            self._next_search = 2 * self._passes + 1

    def _review(self, decided: Counts) -> None:
        """Drop directions that decided few rows, such as those of another start, and choose again in the next pass."""
        self._passes += 1
        if self.sketches.projection is not None and 2 * decided.dense > self._rows.n:
            self.sketches.direct(None)
            self._next_search = self._passes + 1


class Sketches:
    """Sketches of one set of rows, kept if the memory suffices, otherwise computed in each pass.

    Parameters
    ----------
    frame
        Of all sketches that are compared.
    keep_bytes
        How much memory the full sketches may take.

    Attributes
    ----------
    peak
        Largest magnitude of all values.
    squares
        ``(n,) float64``: squared distance of each row to the frame's mean.
    projection
        Directions of the short sketches, or None.
    kept
        Whether sketches are kept between passes.
    """

    def __init__(self, kernel: Kernel, rows: Rows, frame: Frame, keep_bytes: int, on_rows: OnRows) -> None:
        self._kernel = kernel
        self._n = rows.n
        self._frame = frame
        dims = len(frame.signs)
        self.kept = rows.n * dims <= keep_bytes
        self._kept = Sketch.empty(rows.n, dims) if self.kept else None
        self.peak, self.squares = 0.0, np.empty(rows.n)
        self.projection: Projection | None = None
        self._short: Sketch | None = None
        self._projected = 0
        for first, batch in blocks(rows):
            sketch = Sketch.empty(len(batch), dims) if self._kept is None else self._kept[first : first + len(batch)]
            kernel.sketch_into(batch, frame, sketch)
            self.peak = max(self.peak, float(sketch.stats["peak"].max()))
            self.squares[first : first + len(batch)] = sketch.stats["squares"]
            on_rows(first + len(batch))

    def full(self, part: slice, batch: Array) -> Sketch:
        """The sketches of a block of rows."""
        return self._kernel.sketch(batch, self._frame) if self._kept is None else self._kept[part]

    def direct(self, projection: Projection | None) -> None:
        """Set the directions of the short sketches; None ends them."""
        self.projection = projection
        self._short = None if projection is None else Sketch.empty(self._n, projection.p)
        self._projected = 0

    def short(self, part: slice, full: Sketch) -> Sketch | None:
        """The short sketches of a block, computed from its full ones on first use; blocks come in order."""
        if self.projection is None or self._short is None:
            return None
        if self._projected < part.stop:
            self._kernel.project_into(full, self.projection, self._short[part])
            self._projected = part.stop
        return self._short[part]


class Sums:
    """Labels of all rows and the sums of each cluster, updated together.

    Sums are integers in a unit that leaves the largest value at least 40 bits. Addition is exact: the result does not
    depend on the order of the rows, the number of threads, or how rows move between clusters.

    Attributes
    ----------
    labels
        ``(n,) int32``, -1 for rows in no cluster yet.
    whole
        ``(k, d) int64`` sums of rows times a power of two, `unit_of` all rows.
    """

    def __init__(self, kernel: Kernel, rows: Rows, k: int, unit: float) -> None:
        self._kernel = kernel
        self.labels = np.full(rows.n, -1, dtype=np.int32)
        self.whole = np.zeros((k, rows.dim), dtype=np.int64)
        self._unit = unit

    def move(self, part: slice, batch: Array, labels: LabelArray) -> None:
        """Give a block of rows new labels."""
        self._kernel.accumulate(batch, self.labels[part], labels, self._unit, self.whole)
        self.labels[part] = labels


def unit_of(peak: float, n: int) -> float:
    """The power of two in which sums of ``n`` rows of at most that magnitude are integers of 62 bits."""
    exponent = math.frexp(peak)[1] if peak > 0 else 0
    return 2.0 ** (62 - exponent - max(1, n).bit_length())


def blocks(rows: Rows) -> Iterator[tuple[int, Array]]:
    """All rows in order; those of an array unconverted, also float16, and without a copy if possible."""
    if isinstance(rows, ArrayRows) and rows.array.dtype in (np.float32, np.float16) and rows.array.flags.c_contiguous:
        yield from rows.windows(window_rows(rows.dim))
    else:
        yield from rows.batches()
