"""The fast engine: exact assignment on CPUs from 8-bit sketches, and exact sums that only moved rows touch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from clusterer.data.partitions import OnRows, Partition, added, joined, partitions_of
from clusterer.data.rows import (
    Float32Array,
    Float64Array,
    IntArray,
    LabelArray,
    MappedRows,
    Rows,
)
from clusterer.kmeans.engine import Assigner, Assignment, Engine, NumpyEngine, Searcher, inertia_about, nearest
from clusterer.kmeans.fast.kernel import Counts, Frame, Kernel, open_kernel
from clusterer.kmeans.fast.share import Basis, FastShare, blocks, unit_of

SMALLEST, LARGEST = 1e-12, 1e17
"""Range of magnitudes whose squares float32 represents."""
FLOAT32_MAX = float(np.finfo(np.float32).max)
MOST_COLUMNS = 65_536
"""More would overflow the 32-bit sums of products. Wider rows are assigned by brute force."""
KEEP_BYTES = 8 * 2**30
SLOT = "fast"
"""Of an assigner's state in a partition."""


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
        self.keep_bytes = keep_bytes

    def searcher(self, centroids: Float32Array) -> Searcher:
        if centroids.shape[1] > MOST_COLUMNS:
            return NumpyEngine().searcher(centroids)
        return FastSearcher(self.kernel, np.ascontiguousarray(centroids, dtype=np.float32))

    def assigner(self, rows: Rows) -> Assigner:
        if rows.dim > MOST_COLUMNS:
            return NumpyEngine().assigner(rows)
        return FastAssigner(self, rows)


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

    Every partition keeps a `FastShare` of its rows. This state changes no result: each pass proves its labels again,
    and sums are integers, the same in any order.

    Attributes
    ----------
    counts
        How the rows of the last pass were decided.
    """

    def __init__(self, engine: FastEngine, rows: Rows) -> None:
        self._engine = engine
        self._rows = rows
        self._partitions = partitions_of(rows)
        self._basis: Basis | None = None
        self._extent: Extent | None = None
        self._scaled: tuple[int, FastAssigner] | None = None
        self.counts = Counts()

    def assign(self, centroids: Float32Array, on_rows: OnRows | None = None) -> Assignment:
        centroids = np.ascontiguousarray(centroids, dtype=np.float32)
        if self._basis is None:
            self._basis = Basis.of(self._rows)
        basis = self._basis
        if self._extent is None:
            self._extent = Extent.of(self._partitions.run(SketchStep(self._engine, basis), on_rows=on_rows))
        extent, k = self._extent, len(centroids)
        if not (_regular(extent.peak) and peak_of(centroids) <= LARGEST):
            return self._assign_scaled(extent.peak, centroids, on_rows)
        unit = unit_of(extent.peak, self._rows.n)
        found = self._partitions.run(AssignPass(self._engine, basis, unit, centroids), on_rows=on_rows)
        self.counts = sum((each.decided for each in found), Counts())
        labels = joined([each.labels for each in found])
        counts = np.bincount(labels, minlength=k).astype(np.int64)
        sums: Float64Array = added([each.whole for each in found]) / unit
        total = inertia_about(basis.frame.mean, extent.squares, sums, counts, centroids)
        return Assignment(labels, sums, counts, total, partial(self._distances, centroids, labels))

    def _assign_scaled(self, peak: float, centroids: Float32Array, on_rows: OnRows | None) -> Assignment:
        """Assign data whose squares float32 cannot represent, scaled by a power of two, which changes no comparison."""
        shift = -math.frexp(max(peak, peak_of(centroids)))[1]
        if not _regular(peak):
            self._partitions.run(forget)  # the scaled rows have sketches of their own
        if self._scaled is None or self._scaled[0] != shift:
            view = MappedRows(self._rows, partial(_scale, shift), self._rows.dim)
            self._scaled = shift, FastAssigner(self._engine, view)
        found = self._scaled[1].assign(np.ldexp(centroids, shift), on_rows)
        return Assignment(
            found.labels,
            np.ldexp(found.sums, -shift),
            found.counts,
            math.ldexp(found.inertia, -2 * shift),
            lambda: np.minimum(np.ldexp(found.squared.astype(np.float64), -2 * shift), FLOAT32_MAX).astype(np.float32),
        )

    def _distances(self, centroids: Float32Array, labels: LabelArray) -> Float32Array:
        squared: Float32Array = joined(self._partitions.run(DistanceStep(self._engine, centroids), labels))
        return squared


@dataclass(frozen=True)
class Extent:
    """Of all rows: the largest magnitude of a value, and the sum of the squared distances to the frame's mean."""

    peak: float
    squares: float

    @classmethod
    def of(cls, parts: list[tuple[float, list[float]]]) -> Extent:
        """From the peak and the sums of each chunk's squares in every partition."""
        return cls(max(peak for peak, _ in parts), math.fsum(value for _, squares in parts for value in squares))


@dataclass(frozen=True)
class Passed:
    """What a pass finds in a partition: labels, integer sums of each cluster, how its rows were decided."""

    labels: LabelArray
    whole: IntArray
    decided: Counts


@dataclass(frozen=True)
class SketchStep:
    """Sketches the rows of a partition, and measures them."""

    engine: FastEngine
    basis: Basis

    def __call__(self, partition: Partition, on_rows: OnRows) -> tuple[float, list[float]]:
        sketches = _share(partition, self.engine, self.basis, on_rows).sketches
        return sketches.peak, [float(sketches.squares[chunk].sum()) for chunk in partition.chunks()]


@dataclass(frozen=True)
class AssignPass:
    """One pass over a partition."""

    engine: FastEngine
    basis: Basis
    unit: float
    centroids: Float32Array

    def __call__(self, partition: Partition, on_rows: OnRows) -> Passed:
        share = _share(partition, self.engine, self.basis, on_rows)
        decided = share.assign(self.centroids, self.unit, on_rows)
        return Passed(share.sums.labels.copy(), share.sums.whole, decided)


@dataclass(frozen=True)
class DistanceStep:
    """Squared distances ``(m,) float32`` of the rows to the centroids that they are labelled with."""

    engine: FastEngine
    centroids: Float32Array

    def __call__(self, partition: Partition, on_rows: OnRows, labels: LabelArray) -> Float32Array:
        squared = np.empty(partition.rows.n, dtype=np.float32)
        for first, batch in blocks(partition.rows):
            part = slice(first, first + len(batch))
            squared[part] = self.engine.kernel.distances(batch, self.centroids, np.ascontiguousarray(labels[part]))
        return squared


def forget(partition: Partition, on_rows: OnRows) -> None:
    """Drop what an assigner keeps of a partition."""
    partition.state.pop(SLOT, None)


def _share(partition: Partition, engine: FastEngine, basis: Basis, on_rows: OnRows) -> FastShare:
    """The state of the basis's assigner in a partition; that of another one makes place for it."""
    kept = partition.state.get(SLOT)
    if isinstance(kept, FastShare) and kept.name == basis.name:
        return kept
    forget(partition, on_rows)
    share = FastShare(engine.kernel, partition.rows, basis, engine.keep_bytes, on_rows)
    partition.state[SLOT] = share
    return share


def _scale(shift: int, batch: Float32Array) -> Float32Array:
    return np.ldexp(batch, shift)


def peak_of(array: Float32Array) -> float:
    """Largest magnitude."""
    return float(np.abs(array).max(initial=0.0))


def _regular(peak: float) -> bool:
    return peak == 0 or SMALLEST <= peak <= LARGEST
