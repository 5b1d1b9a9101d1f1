"""Lloyd's iteration: assign every row to its nearest centroid, move each centroid to the mean of its rows, repeat."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from clusterer.data.partitions import OnRows
from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray, Rows, l2_normalize
from clusterer.kmeans.engine import Assigner, Assignment, squared_distances

TOLERANCE = 1e-5
RESEED_CANDIDATES = 1024


@dataclass(frozen=True)
class FitOptions:
    """How k-means runs.

    Attributes
    ----------
    init
        ``k-means++`` or ``random``.
    iterations
        At most, in each restart.
    restarts
        Runs from different first centroids.
    tolerance
        Relative decrease of the inertia below which a run has converged.
    algorithm
        ``lloyd`` or ``mini-batch``, a baseline: see `clusterer.kmeans.minibatch`.
    spherical
        Scale centroids to unit length in each iteration; the rows must have unit length already.
    balanced
        The most rows of a cluster as a multiple of ``n / k``: see `fit_balanced`. None does not bound them.

    Raises
    ------
    ValueError
        Mini-batches with ``spherical`` or ``balanced``.
    """

    init: str = "k-means++"
    iterations: int = 50
    restarts: int = 1
    tolerance: float = TOLERANCE
    algorithm: str = "lloyd"
    spherical: bool = False
    balanced: float | None = None

    def __post_init__(self) -> None:
        if self.mini_batch and (self.spherical or self.balanced is not None):
            raise ValueError("mini-batches are neither spherical nor balanced")

    @property
    def mini_batch(self) -> bool:
        """Whether the algorithm is mini-batch k-means."""
        return self.algorithm == "mini-batch"


@dataclass(frozen=True)
class Iteration:
    """What one iteration did.

    Attributes
    ----------
    iteration
        From 1.
    inertia
        Sum of squared distances of all rows to the centroids that this iteration started with.
    moved
        Rows whose cluster changed.
    empty
        Clusters without rows; they were moved to rows far from their centroids.
    seconds
        Wall time.
    """

    iteration: int
    inertia: float
    moved: int
    empty: int
    seconds: float


@dataclass(frozen=True)
class State:
    """All that the next iteration depends on. A run resumed from a saved state gives the same bits.

    Attributes
    ----------
    centroids
        ``(k, d) float32``.
    labels
        ``(n,) int32`` of the last assignment; None before the first.
    history
        The iterations so far.
    """

    centroids: Float32Array
    labels: LabelArray | None = None
    history: tuple[Iteration, ...] = ()


@dataclass(frozen=True)
class Balance:
    """How a balanced run ended.

    Attributes
    ----------
    prices
        ``(k,) float64``: what each cluster adds to the squared distance of a row, never below 0.
    allowed, largest
        The largest size that is allowed, and the largest that occurs.
    rounds
        How often prices were raised at the last centroids.
    """

    prices: Float64Array
    allowed: int
    largest: int
    rounds: int

    @property
    def held(self) -> bool:
        """Whether every cluster has an allowed size. Copies of one row, which no price separates, may prevent it."""
        return self.largest <= self.allowed

    def record(self) -> dict[str, int | bool]:
        """For run.json."""
        return {"allowed": self.allowed, "largest": self.largest, "rounds": self.rounds, "held": self.held}


@dataclass(frozen=True)
class Fit:
    """Converged (or stopped) centroids with the assignment that belongs to them.

    Attributes
    ----------
    centroids
        ``(k, d) float32``.
    labels
        ``(n,) int32``: nearest centroid of every row.
    inertia
        Sum of squared distances of all rows to ``centroids``.
    history
        One entry per iteration.
    converged
        Whether it stopped before the limit.
    balance
        How sizes were bounded; None if they were not.
    """

    centroids: Float32Array
    labels: LabelArray
    inertia: float
    history: tuple[Iteration, ...]
    converged: bool
    balance: Balance | None = None

    def without_arrays(self) -> Fit:
        """A copy with empty centroids and labels."""
        return replace(self, centroids=self.centroids[:0].copy(), labels=self.labels[:0].copy(), balance=None)


class Constraint:
    """A condition on centroids beside being means, and its convergence test. This one has no condition."""

    def apply(self, means: Float32Array, last: Float32Array, found: Assignment) -> Float32Array:
        """The centroids to which an iteration moves.

        Parameters
        ----------
        means
            ``(k, d) float32``: of the rows of each cluster.
        last
            ``(k, d) float32``: the centroids that ``found`` was made with.
        """
        return means

    def converged(self, state: State, found: Assignment, tolerance: float) -> bool:
        """Whether ``found``, the assignment after ``state``, ends the run."""
        if not state.history:
            return False
        last = state.history[-1]
        empty = int(np.count_nonzero(found.counts == 0))
        if empty > last.empty:
            return False
        return _moved(state, found) == 0 or last.inertia - found.inertia <= tolerance * last.inertia


class UnitLength(Constraint):
    """Scales every centroid to unit length: among rows of unit length, nearest then means largest cosine [1]_.

    A centroid of zeros, the mean of rows that cancel each other, stays where it is.

    References
    ----------
    .. [1] Dhillon, Modha: Concept decompositions for large sparse text data using clustering. Machine Learning, 2001.
    """

    def apply(self, means: Float32Array, last: Float32Array, found: Assignment) -> Float32Array:
        return l2_normalize(means)


UNCONSTRAINED = Constraint()


def lloyd(
    rows: Rows,
    assigner: Assigner,
    start: State,
    *,
    iterations: int,
    tolerance: float = TOLERANCE,
    constraint: Constraint = UNCONSTRAINED,
    on_iteration: Callable[[State], None] | None = None,
    on_rows: OnRows | None = None,
) -> Fit:
    """Iterate until no row moves, the inertia falls by less than ``tolerance`` of itself, or ``iterations`` are done.

    Parameters
    ----------
    rows
        ``(n, d)``; read only to fetch new centroids for empty clusters.
    assigner
        Assigns ``rows``.
    start
        First centroids, or the state of an interrupted run.
    constraint
        On the centroids of every iteration.
    on_iteration
        Called after each iteration; an exception raised there ends the run.
    on_rows
        Called after each block of an assignment.
    """
    state = start
    assigner.begin(start.labels)
    while True:
        started = time.perf_counter()
        found = assigner.assign(state.centroids, on_rows)
        converged = constraint.converged(state, found, tolerance)
        if converged or len(state.history) >= iterations:
            found = assigner.settle(state.centroids, found, on_rows)
            return Fit(state.centroids, found.labels, found.inertia, state.history, converged)
        means, empty = update(rows, state.centroids, found)
        centroids = constraint.apply(means, state.centroids, found)
        done = Iteration(
            len(state.history) + 1, found.inertia, _moved(state, found), empty, time.perf_counter() - started
        )
        state = State(centroids, found.labels, (*state.history, done))
        del found, means, centroids  # frees the sums before the next assignment makes its own
        if on_iteration is not None:
            on_iteration(state)


def update(rows: Rows, centroids: Float32Array, found: Assignment) -> tuple[Float32Array, int]:
    """The mean of the rows of each cluster; an empty cluster gets a row far from its centroid.

    Returns
    -------
    centroids
        ``(k, d) float32``.
    empty
        How many clusters were empty.
    """
    sums, counts = found.sums, found.counts
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return _means(sums, counts), 0
    sums, counts = sums.copy(), counts.copy()
    _reseed(rows, found, empty, sums, counts)
    means = _means(sums, np.maximum(counts, 1))
    unfilled = counts == 0
    means[unfilled] = centroids[unfilled]
    return means, len(empty)


def _means(sums: Float64Array, counts: IntArray) -> Float32Array:
    means = np.empty(sums.shape, dtype=np.float32)
    return np.divide(sums, counts[:, None], out=means, casting="same_kind")


def _reseed(rows: Rows, found: Assignment, empty: IntArray, sums: Float64Array, counts: IntArray) -> None:
    """Give each empty cluster a row that is far from its centroid and from the rows given before, in place.

    The candidates are the rows farthest from their centroids, the first of equals. A row leaves its cluster unless it
    is alone in it.
    """
    order = np.lexsort((np.arange(len(found.squared)), -found.squared))
    candidates = order[: RESEED_CANDIDATES + 4 * len(empty)]
    points = rows.take(candidates)
    distance = found.squared[candidates].astype(np.float64)
    donors = found.labels[candidates]
    waiting = list(empty)
    while waiting:
        distance[counts[donors] <= 1] = 0.0
        farthest = int(distance.argmax())
        if distance[farthest] <= 0.0:
            return
        cluster, point = waiting.pop(0), points[farthest].astype(np.float64)
        sums[donors[farthest]] -= point
        counts[donors[farthest]] -= 1
        sums[cluster], counts[cluster] = point, 1
        distance = np.minimum(distance, squared_distances(points, points[farthest : farthest + 1])[:, 0])
        distance[farthest] = 0.0


def _moved(state: State, found: Assignment) -> int:
    if state.labels is None:
        return len(found.labels)
    return int(np.count_nonzero(state.labels != found.labels))
