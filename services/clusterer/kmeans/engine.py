"""Engines: ways to find the nearest centroid of every row; `assign` runs one over a set for the centroids of all seeds.

Clusters may have prices: a row then goes to the cluster of least ``|x - c_j|^2 + p_j``. A coordinate of 0 added to
every row and ``sqrt(p_j)`` added to every centroid turn that cost into a squared distance, so an engine that finds
nearest centroids exactly also finds cheapest clusters exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray, MappedRows, Rows

BLOCK_CELLS = 2**21
FLOAT32_MAX = float(np.finfo(np.float32).max)
PART_VALUES = 2**20
OnRows = Callable[[int], None]
Labeller = Callable[[slice, Float32Array], tuple[LabelArray, Float32Array]]
"""Labels ``(b,)`` and squared distances ``(b,)`` of a block of rows, given with its place among all rows."""


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

    def assigner(self, rows: Rows) -> Assigner:
        """An assigner of ``rows``."""
        return StreamingAssigner(self, rows)


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


class StreamingAssigner(Assigner):
    """Searches block by block; keeps only the sum of the squared norms."""

    def __init__(self, engine: Engine, rows: Rows) -> None:
        self._engine = engine
        self._rows = rows
        self._squared_norms: float | None = None

    def assign(self, centroids: Float32Array, on_rows: OnRows | None = None) -> Assignment:
        searcher = self._engine.searcher(centroids)

        def label(part: slice, batch: Float32Array) -> tuple[LabelArray, Float32Array]:
            found, distances = searcher.nearest(batch)
            return found[:, 0], distances[:, 0]

        return self.collect(centroids, label, on_rows)

    def collect(self, centroids: Float32Array, label: Labeller, on_rows: OnRows | None) -> Assignment:
        """One pass: the labels that ``label`` gives each block, and the sums of the clusters."""
        rows, k = self._rows, len(centroids)
        labels = np.empty(rows.n, dtype=np.int32)
        squared = np.empty(rows.n, dtype=np.float32)
        sums = np.zeros((k, rows.dim))
        norms = 0.0
        for first, batch in rows.batches():
            part = slice(first, first + len(batch))
            labels[part], squared[part] = label(part, batch)
            add_by_label(sums, batch, labels[part])
            if self._squared_norms is None:
                norms += float(np.einsum("ij,ij->", batch, batch, dtype=np.float64))
            if on_rows is not None:
                on_rows(part.stop)
        if self._squared_norms is None:
            self._squared_norms = norms
        counts = np.bincount(labels, minlength=k).astype(np.int64)
        total = inertia(self._squared_norms, sums, counts, centroids)
        return Assignment(labels, sums, counts, total, lambda: squared)


@dataclass(frozen=True)
class Assigned:
    """The clusters of a set of rows.

    Attributes
    ----------
    labels
        ``(n,) int32``: the nearest centroid; with prices the cheapest.
    distance
        ``(n,) float32``: Euclidean distance to it.
    margin
        ``(n,) float32``: how much farther the second nearest is; 0 on the border between two clusters. With prices,
        distances of this comparison are roots of squared distance plus price.
    inertia
        Sum of the squared distances.
    """

    labels: LabelArray
    distance: Float32Array
    margin: Float32Array
    inertia: float

    @classmethod
    def labels_only(cls, labels: LabelArray, inertia: float) -> Assigned:
        """Of rows whose distances and margins are not needed: both are empty."""
        nothing = np.empty(0, np.float32)
        return cls(labels, nothing, nothing, inertia)


@dataclass(frozen=True)
class Target:
    """The clusters of one seed, ready to be searched; immutable, so that many threads may use one.

    The engine finds the two nearest centroids; the distances to them are then taken from the differences themselves,
    since the engine's own, from products, lose digits for rows close to their centroid.

    Attributes
    ----------
    centroids
        ``(k, d) float32``.
    prices
        ``(k,) float64``: what each cluster adds to the squared distance when clusters are compared; None for nothing.
    searcher
        Searches `centroids`, with prices `priced` ones.
    """

    centroids: Float32Array
    prices: Float64Array | None
    searcher: Searcher

    @classmethod
    def of(cls, centroids: Float32Array, engine: Engine, prices: Float64Array | None = None) -> Target:
        """The target for an engine."""
        return cls(centroids, prices, engine.searcher(centroids if prices is None else priced(centroids, prices)))

    def assign(self, batch: Float32Array) -> Assigned:
        """The clusters of ``(b, d) float32`` rows, already in the centroids' space."""
        labels, _ = self.searcher.nearest(batch if self.prices is None else pad(batch), 2)
        squared = np.stack([_squared(batch, self.centroids, labels[:, rank]) for rank in (0, 1)], axis=1)
        costs = squared if self.prices is None else squared + self.prices[labels]
        own = np.where(costs[:, 1] < costs[:, 0], 1, 0)[:, None]
        least = np.take_along_axis(squared, own, axis=1)[:, 0]
        margin = np.sqrt(costs.max(axis=1)) - np.sqrt(costs.min(axis=1))
        return Assigned(
            np.take_along_axis(labels, own, axis=1)[:, 0],
            np.sqrt(least).astype(np.float32),
            margin.astype(np.float32),
            float(least.sum()),
        )


def assign(
    rows: Rows,
    centroids: Mapping[int, Float32Array],
    engine: Engine,
    *,
    prices: Mapping[int, Float64Array] | None = None,
    on_rows: OnRows | None = None,
) -> dict[int, Assigned]:
    """Assign ``rows``, already in the centroids' space, to the centroids of each seed.

    Parameters
    ----------
    prices
        By seed; see `Target`.
    """
    targets = {seed: Target.of(each, engine, (prices or {}).get(seed)) for seed, each in centroids.items()}
    found = {seed: _empty(rows.n) for seed in centroids}
    inertias = dict.fromkeys(centroids, 0.0)
    for first, batch in rows.batches():
        part = slice(first, first + len(batch))
        for seed, target in targets.items():
            block, into = target.assign(batch), found[seed]
            into.labels[part], into.distance[part], into.margin[part] = block.labels, block.distance, block.margin
            inertias[seed] += block.inertia
        if on_rows is not None:
            on_rows(part.stop)
    return {seed: Assigned(each.labels, each.distance, each.margin, inertias[seed]) for seed, each in found.items()}


def pad(batch: Float32Array) -> Float32Array:
    """``(b, d)`` rows with a coordinate of 0 added."""
    return np.pad(batch, ((0, 0), (0, 1)))


def padded(rows: Rows) -> Rows:
    """A view of the rows with a coordinate of 0 added."""
    return MappedRows(rows, pad, rows.dim + 1)


def priced(centroids: Float32Array, prices: Float64Array) -> Float32Array:
    """``(k, d + 1)``: centroids with the roots of their prices added."""
    roots = np.sqrt(prices).astype(np.float32)
    return np.concatenate([centroids, roots[:, None]], axis=1)


def prices_of(centroids: Float32Array) -> Float64Array:
    """``(k,)``: the prices that `priced` centroids carry; those that `priced` gives back unchanged."""
    prices: Float64Array = centroids[:, -1].astype(np.float64) ** 2
    return prices


def _empty(n: int) -> Assigned:
    return Assigned(np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32), 0.0)


def _squared(batch: Float32Array, centroids: Float32Array, labels: LabelArray) -> Float64Array:
    difference = batch - centroids[labels]
    squared: Float64Array = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return squared


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
