"""The fast engine: exact assignment on CPUs from 8-bit sketches, and exact sums that only moved rows touch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import (
    ArrayRows,
    Float32Array,
    Float64Array,
    IntArray,
    LabelArray,
    MappedRows,
    Rows,
    window_rows,
)
from clusterer.kmeans.engine import (
    Assigner,
    Assignment,
    Engine,
    NumpyEngine,
    OnRows,
    Searcher,
    inertia_about,
    nearest,
)
from clusterer.kmeans.fast.guide import choose_projection
from clusterer.kmeans.fast.kernel import Counts, Frame, Kernel, Projection, Sketch, open_kernel

SMALLEST, LARGEST = 1e-12, 1e17
"""Range of magnitudes whose squares float32 represents."""
FLOAT32_MAX = float(np.finfo(np.float32).max)
MOST_COLUMNS = 65_536
"""More would overflow the 32-bit sums of products. Wider rows are assigned by brute force."""
SAMPLE = 2048
"""Rows that the mean and the directions are taken from."""
KEEP_BYTES = 8 * 2**30
PAYS_FROM = 20_000_000
"""Distances of a pass (rows times centroids) from which the search for directions pays."""


class FastEngine(Engine):
    """Exact nearest centroids from 8-bit products with proven error bounds; see ``docs/fast-kmeans.md``.

    Parameters
    ----------
    variant
        Name of the compiled kernel, by default the best that this processor runs.
    threads
        How many to use, by default all that the process may.
    keep_bytes
        Memory for the sketches of the rows; if they need more, each pass computes them again.

    Raises
    ------
    KernelUnavailable
        No kernel can run on this machine.
    """

    name = "fast"

    def __init__(self, variant: str | None = None, *, threads: int | None = None, keep_bytes: int = KEEP_BYTES) -> None:
        self.kernel = open_kernel(variant, threads=threads)
        self.reason = f"8-bit products on {self.kernel.variant}, {self.kernel.threads} threads"
        self._keep_bytes = keep_bytes

    def searcher(self, centroids: Float32Array) -> Searcher:
        if centroids.shape[1] > MOST_COLUMNS:
            return NumpyEngine().searcher(centroids)
        return FastSearcher(self.kernel, np.ascontiguousarray(centroids, dtype=np.float32))

    def assigner(self, rows: Rows) -> Assigner:
        if rows.dim > MOST_COLUMNS:
            return NumpyEngine().assigner(rows)
        return FastAssigner(self.kernel, rows, self._keep_bytes)


class FastSearcher:
    """Finds the nearest of a fixed set of centroids for any rows, which it sketches on the way."""

    def __init__(self, kernel: Kernel, centroids: Float32Array) -> None:
        self._kernel = kernel
        self._centroids = centroids
        self._frame = Frame.around(centroids.mean(axis=0, dtype=np.float64).astype(np.float32))
        self._packed = kernel.pack(centroids, self._frame)
        self._regular = _regular(peak_of(centroids))

    def nearest(self, batch: Float32Array, count: int = 1) -> tuple[LabelArray, Float32Array]:
        batch = np.ascontiguousarray(batch, dtype=np.float32)
        sketch = self._kernel.sketch(batch, self._frame)
        plain = self._regular and _regular(float(sketch.stats["peak"].max(initial=0.0)))
        if not plain or count > min(2, len(self._centroids)):
            return nearest(batch, self._centroids, count)
        if count == 2:
            labels = self._kernel.two_nearest(batch, sketch, self._packed)
        else:
            labels = np.full((len(batch), 1), -1, dtype=np.int32)
            self._kernel.assign(batch, sketch, self._packed, labels)
        squared = np.empty(labels.shape, dtype=np.float32)
        for rank in range(count):
            column = np.ascontiguousarray(labels[:, rank])
            squared[:, rank] = self._kernel.distances(batch, self._centroids, column)
        return labels, squared


class FastAssigner(Assigner):
    """Assigns one set of rows repeatedly.

    It keeps the sketches of the rows, the labels and sums of the last pass and, after some passes, directions for short
    sketches. This state changes no result: each pass proves its labels again, and sums are integers, the same in any
    order.

    Attributes
    ----------
    counts
        How the rows of the last pass were decided.
    """

    def __init__(self, kernel: Kernel, rows: Rows, keep_bytes: int = KEEP_BYTES) -> None:
        self._kernel = kernel
        self._rows = rows
        self._keep_bytes = keep_bytes
        self._sketches: Sketches | None = None
        self._sums: Sums | None = None
        self._passes = 0
        self._next_search = 1
        self._scaled: tuple[int, FastAssigner] | None = None
        self.counts = Counts()

    def assign(self, centroids: Float32Array, on_rows: OnRows | None = None) -> Assignment:
        centroids = np.ascontiguousarray(centroids, dtype=np.float32)
        if self._sketches is None:
            self._sketches = Sketches(self._kernel, self._rows, self._keep_bytes, on_rows)
        sketches, k = self._sketches, len(centroids)
        if not (_regular(sketches.peak) and peak_of(centroids) <= LARGEST):
            return self._assign_scaled(sketches.peak, centroids, on_rows)
        if self._sums is None or len(self._sums.whole) != k:
            self._sums = Sums(self._kernel, self._rows, k, sketches.peak)
        self._direct(sketches, centroids)
        self._pass(sketches, self._sums, centroids, on_rows)
        self._review(sketches)
        labels, counts, sums = self._sums.labels.copy(), self._sums.counts(), self._sums.values()
        total = inertia_about(sketches.frame.mean, sketches.squares, sums, counts, centroids)
        return Assignment(labels, sums, counts, total, lambda: self._distances(centroids, labels))

    def _pass(self, sketches: Sketches, sums: Sums, centroids: Float32Array, on_rows: OnRows | None) -> None:
        """Label all rows and move them between the sums, block by block."""
        full = self._kernel.pack(centroids, sketches.frame)
        brief = None
        if sketches.projection is not None:
            brief = self._kernel.pack_brief(centroids, sketches.frame, sketches.projection)
        self.counts = Counts()
        for first, batch in blocks(self._rows):
            part = slice(first, first + len(batch))
            sketch = sketches.full(part, batch)
            short = sketches.short(part, sketch)
            labels = sums.labels[part].copy()
            self.counts += self._kernel.assign(
                batch, sketch, full, labels, None if short is None or brief is None else (short, brief)
            )
            sums.move(part, batch, labels)
            if on_rows is not None:
                on_rows(part.stop)

    def _direct(self, sketches: Sketches, centroids: Float32Array) -> None:
        """Choose directions if they are due and may pay."""
        due = sketches.kept and sketches.projection is None and self._passes >= self._next_search
        if due and self._rows.n * len(centroids) >= PAYS_FROM:
            sketches.direct(choose_projection(self._kernel, sketches.frame, sketches.sample, centroids))
            self._next_search = 2 * self._passes + 1

    def _review(self, sketches: Sketches) -> None:
        """Drop directions that decided few rows, such as those of another start, and choose again in the next pass."""
        self._passes += 1
        if sketches.projection is not None and 2 * self.counts.dense > self._rows.n:
            sketches.direct(None)
            self._next_search = self._passes + 1

    def _assign_scaled(self, peak: float, centroids: Float32Array, on_rows: OnRows | None) -> Assignment:
        """Assign data whose squares float32 cannot represent, scaled by a power of two, which changes no comparison."""
        shift = -math.frexp(max(peak, peak_of(centroids)))[1]
        if self._sketches is not None and not _regular(peak):
            self._sketches.release()  # the scaled rows have their own
        if self._scaled is None or self._scaled[0] != shift:
            view = MappedRows(self._rows, lambda batch: np.ldexp(batch, shift), self._rows.dim)
            self._scaled = shift, FastAssigner(self._kernel, view, self._keep_bytes)
        found = self._scaled[1].assign(np.ldexp(centroids, shift), on_rows)
        return Assignment(
            found.labels,
            np.ldexp(found.sums, -shift),
            found.counts,
            math.ldexp(found.inertia, -2 * shift),
            lambda: np.minimum(np.ldexp(found.squared.astype(np.float64), -2 * shift), FLOAT32_MAX).astype(np.float32),
        )

    def _distances(self, centroids: Float32Array, labels: LabelArray) -> Float32Array:
        squared = np.empty(self._rows.n, dtype=np.float32)
        for first, batch in blocks(self._rows):
            part = slice(first, first + len(batch))
            squared[part] = self._kernel.distances(batch, centroids, labels[part])
        return squared


class Sketches:
    """Sketches of one set of rows, kept if the memory suffices, otherwise computed in each pass.

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
        Directions of the short sketches, or None.
    kept
        Whether sketches are kept between passes.
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

    def release(self) -> None:
        """Drop all kept sketches; later passes compute them again."""
        self._kept, self.kept = None, False

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


def blocks(rows: Rows) -> Iterator[tuple[int, NDArray[Any]]]:
    """All rows in order; those of an array unconverted, also float16, and without a copy if possible."""
    if isinstance(rows, ArrayRows) and rows.array.dtype in (np.float32, np.float16) and rows.array.flags.c_contiguous:
        yield from rows.windows(window_rows(rows.dim))
    else:
        yield from rows.batches()


def peak_of(array: Float32Array) -> float:
    """Largest magnitude."""
    return float(np.abs(array).max(initial=0.0))


def _regular(peak: float) -> bool:
    return peak == 0 or SMALLEST <= peak <= LARGEST
