"""Engines: ways to find the nearest centroid of every row, and assigners that label one set of rows repeatedly."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clusterer.data.partitions import OnRows, Partition, added, joined, partitions_of
from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray, Rows

BLOCK_CELLS = 2**21
FLOAT32_MAX = float(np.finfo(np.float32).max)
PART_VALUES = 2**20
Labeller = Callable[[slice, Float32Array], tuple[LabelArray, Float32Array]]
"""Labels and squared distances, both ``(b, count)``, of a block of rows, given with its place in the partition."""


@dataclass(frozen=True)
class Assignment:
    """One assignment of all rows to ``k`` centroids.

    Attributes
    ----------
    labels
        ``(n,) int32``: the nearest centroid of each row.
    sums
        ``(k, d) float64``: sum of the rows of each cluster.
    counts
        ``(k,) int64``: rows of each cluster.
    inertia
        Sum of the squared distances of all rows, in float64 from the sums: free of the rounding of ``squared``.
    measure
        Computes `squared` on first use: few callers need it, and some engines assign without distances.
    """

    labels: LabelArray
    sums: Float64Array
    counts: IntArray
    inertia: float
    measure: Callable[[], Float32Array]

    @cached_property
    def squared(self) -> Float32Array:
        """``(n,) float32``: squared distance of each row to its centroid, never below 0."""
        return self.measure()


class Searcher(Protocol):
    """Finds the nearest of a fixed set of centroids."""

    def nearest(self, batch: Float32Array, count: int = 1) -> tuple[LabelArray, Float32Array]:
        """Labels ``(b, count) int32`` and squared distances ``(b, count) float32``, nearest first."""
        ...


class Assigner(ABC):
    """Assigns one set of rows repeatedly; may keep state between passes to save work."""

    def begin(self, labels: LabelArray | None) -> None:
        """Start a run, after a pass with these labels if there was one. For assigners whose passes build on labels."""
        return

    @abstractmethod
    def assign(self, centroids: Float32Array, on_rows: OnRows | None = None) -> Assignment:
        """Assign all rows to ``(k, d) float32`` centroids; ``on_rows`` gets the rows done after each block."""

    def settle(self, centroids: Float32Array, found: Assignment, on_rows: OnRows | None = None) -> Assignment:
        """The assignment that ends a run, exact with every engine; ``found`` is the result of `assign`."""
        return found


class Engine(ABC):
    """A way to find nearest centroids.

    Searchers, and the assignment that ends a run, are exact: every engine gives the same labels, up to ties within
    rounding.

    Attributes
    ----------
    reason
        Why this engine was chosen, or its variant; stored in the result.
    exact_passes
        Whether the assignments within a run are exact as well.
    proven
        Ties are centroids whose squared distances differ by less than 1e-6 of themselves; where this is False, of the
        squared lengths, about the mean of the centroids, from which float32 products get them.
    """

    name: ClassVar[str]
    exact_passes: ClassVar[bool] = True
    proven: ClassVar[bool] = True
    reason: str = "requested"

    @abstractmethod
    def searcher(self, centroids: Float32Array) -> Searcher:
        """A searcher among ``(k, d) float32`` centroids."""

    def __reduce__(self) -> tuple[Callable[[str], Engine], tuple[str]]:
        """A step that is sent to another process uses the engine of the same name there."""
        return engine_of_process, (self.name,)

    def assigner(self, rows: Rows) -> Assigner:
        """An assigner of ``rows``."""
        return StreamingAssigner(self, rows)


_ENGINES: dict[str, Engine] = {}


def use_in_process(engine: Engine) -> None:
    """Let steps that are sent to this process use an engine."""
    _ENGINES[engine.name] = engine


def engine_of_process(name: str) -> Engine:
    """The engine of that name that this process uses."""
    return _ENGINES[name]


class NumpyEngine(Engine):
    """Brute force in float64: slow, the reference for the other engines."""

    name = "numpy"

    def searcher(self, centroids: Float32Array) -> Searcher:
        return _NumpySearcher(centroids)


@dataclass(frozen=True)
class _NumpySearcher:
    centroids: Float32Array

    def nearest(self, batch: Float32Array, count: int = 1) -> tuple[LabelArray, Float32Array]:
        return nearest(batch, self.centroids, count)


@dataclass(frozen=True)
class Labelled:
    """What a `LabelStep` finds in a partition of ``m`` rows.

    Attributes
    ----------
    labels, squared
        ``(m, count) int32`` and ``float32``: the nearest centroids of each row, nearest first.
    sums
        ``(k, d) float64``: of the rows of each nearest centroid.
    squared_norms
        Sum of the squared norms of the rows; 0 where it is not asked for.
    """

    labels: LabelArray
    squared: Float32Array
    sums: Float64Array
    squared_norms: float


@dataclass(frozen=True)
class LabelStep:
    """Labels the rows of a partition block by block, and adds them up by label.

    Attributes
    ----------
    open
        Makes the labeller, in the process that holds the partition.
    k, count
        Numbers of centroids, and of labels for each row.
    norms
        Whether to add up the squared norms too, which costs a good part of a pass with few centroids.
    """

    open: Callable[[], Labeller]
    k: int
    count: int
    norms: bool

    def __call__(self, partition: Partition, on_rows: OnRows) -> Labelled:
        rows, label = partition.rows, self.open()
        labels = np.empty((rows.n, self.count), dtype=np.int32)
        squared = np.empty((rows.n, self.count), dtype=np.float32)
        sums, norms = np.zeros((self.k, rows.dim)), []
        for chunk in partition.chunks():
            for first, batch in partition.batches(chunk, on_rows):
                part = slice(first, first + len(batch))
                labels[part], squared[part] = label(part, batch)
                add_by_label(sums, batch, labels[part, 0])
                if self.norms:
                    norms.append(float(np.einsum("ij,ij->", batch, batch, dtype=np.float64)))
        return Labelled(labels, squared, sums, math.fsum(norms))


class StreamingAssigner(Assigner):
    """Searches block by block; keeps only the sum of the squared norms."""

    def __init__(self, engine: Engine, rows: Rows) -> None:
        self._engine = engine
        self._partitions = partitions_of(rows)
        self._squared_norms: float | None = None

    def assign(self, centroids: Float32Array, on_rows: OnRows | None = None) -> Assignment:
        return self.search(centroids, 1, on_rows)[0]

    def search(
        self, centroids: Float32Array, count: int, on_rows: OnRows | None = None
    ) -> tuple[Assignment, LabelArray, Float32Array]:
        """An assignment, with the ``count`` nearest centroids of each row: their numbers and squared distances."""
        return self.collect(centroids, partial(_labeller, self._engine, centroids, count), count, on_rows)

    def collect(
        self, centroids: Float32Array, open_labeller: Callable[[], Labeller], count: int, on_rows: OnRows | None
    ) -> tuple[Assignment, LabelArray, Float32Array]:
        """One pass with any labeller; the same results as `search`."""
        k = len(centroids)
        step = LabelStep(open_labeller, k, count, norms=self._squared_norms is None)
        found = self._partitions.run(step, on_rows=on_rows)
        if self._squared_norms is None:
            self._squared_norms = math.fsum(each.squared_norms for each in found)
        labels, squared = joined([each.labels for each in found]), joined([each.squared for each in found])
        sums = added([each.sums for each in found])
        first = np.ascontiguousarray(labels[:, 0])
        counts = np.bincount(first, minlength=k).astype(np.int64)
        total = inertia(self._squared_norms, sums, counts, centroids)
        return Assignment(first, sums, counts, total, lambda: np.ascontiguousarray(squared[:, 0])), labels, squared


def _labeller(engine: Engine, centroids: Float32Array, count: int) -> Labeller:
    searcher = engine.searcher(centroids)
    return lambda _, batch: searcher.nearest(batch, count)


def squared_distances(batch: Float32Array, centroids: Float32Array) -> Float64Array:
    """Squared Euclidean distances ``(b, k) float64`` of ``(b, d)`` rows to ``(k, d)`` centroids, never below 0.

    Products are taken in float64 about the mean of the centroids: the expansion ``|x|^2 + |c|^2 - 2 x.c`` loses digits
    when rows and centroids lie far from the origin and close to each other.
    """
    middle = centroids.mean(axis=0, dtype=np.float64)
    x, c = batch - middle, centroids - middle
    squared: Float64Array = np.add.outer(np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", c, c))
    products = x @ c.T
    products *= 2.0
    squared -= products
    return np.maximum(squared, 0.0, out=squared)


def nearest(batch: Float32Array, centroids: Float32Array, count: int = 1) -> tuple[LabelArray, Float32Array]:
    """The ``count`` nearest centroids of each row, nearest first; the first of equals.

    Returns
    -------
    labels
        ``(b, count) int32``.
    squared
        ``(b, count) float32`` squared distances; larger values are clipped to the largest float32.
    """
    b, k = len(batch), len(centroids)
    labels = np.empty((b, count), dtype=np.int32)
    squared = np.empty((b, count), dtype=np.float32)
    step = max(1, BLOCK_CELLS // max(k, 1))
    for first in range(0, b, step):
        part = slice(first, first + step)
        table = squared_distances(batch[part], centroids)
        for rank in range(count):
            closest = table.argmin(axis=1)
            labels[part, rank] = closest
            squared[part, rank] = np.minimum(table[np.arange(len(table)), closest], FLOAT32_MAX)
            table[np.arange(len(table)), closest] = np.inf
    return labels, squared


def sum_by_label(batch: NDArray[Any], labels: NDArray[Any], k: int) -> Float64Array:
    """Sum of the rows of each label, ``(k, d)``, added up in float64 in the order of the rows."""
    b = len(batch)
    member = csr_array((np.ones(b), labels, np.arange(b + 1)), shape=(b, k))
    total: Float64Array = member.T @ batch
    return total


def add_by_label(sums: Float64Array, batch: NDArray[Any], labels: LabelArray) -> None:
    """Add the rows of each label to ``(k, d) float64`` sums, in the order of the rows.

    With more labels than rows only the labels that occur are updated: a full table per block would cost more than the
    rows.
    """
    if len(sums) <= len(batch):
        sums += sum_by_label(batch, labels, len(sums))
        return
    present, place = np.unique(labels, return_inverse=True)
    sums[present] += sum_by_label(batch, place, len(present))


def inertia(
    squared_norms: float, sums: Float64Array, counts: IntArray, centroids: Float32Array | Float64Array
) -> float:
    """Sum of squared distances to the own centroid, from sums over the clusters alone.

    ``sum |x - c|^2 = sum |x|^2 - 2 sum_j c_j . s_j + sum_j m_j |c_j|^2`` with ``s_j`` the sum and ``m_j`` the number of
    the rows of cluster ``j``.
    """
    cross, own = 0.0, 0.0
    for part in parts(centroids):
        c = centroids[part].astype(np.float64, copy=False)
        cross += float(np.einsum("ij,ij->", c, sums[part]))
        own += float(counts[part] @ np.einsum("ij,ij->i", c, c))
    return max(0.0, squared_norms - 2.0 * cross + own)


def inertia_about(
    mean: Float32Array, squared_norms: float, sums: Float64Array, counts: IntArray, centroids: Float32Array
) -> float:
    """`inertia` from squared norms about ``mean``: its terms are small, so their sum does not cancel."""
    middle = mean.astype(np.float64)
    cross, own = 0.0, 0.0
    for part in parts(centroids):
        about = counts[part, None] * middle
        np.subtract(sums[part], about, out=about)
        c = centroids[part] - middle
        cross += float(np.einsum("ij,ij->", c, about))
        own += float(counts[part] @ np.einsum("ij,ij->i", c, c))
    return max(0.0, squared_norms - 2.0 * cross + own)


def parts(centroids: NDArray[Any]) -> Iterator[slice]:
    """Blocks of centroids, small enough for float64 copies."""
    step = max(1, PART_VALUES // centroids.shape[1])
    for first in range(0, len(centroids), step):
        yield slice(first, first + step)
