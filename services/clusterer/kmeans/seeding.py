"""First centroids: k-means++ and random rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clusterer.data.partitions import OnRows, Partition, Partitions, joined, partitions_of
from clusterer.data.rows import Float32Array, Float64Array, IntArray, Rows
from clusterer.kmeans.engine import Engine, squared_distances

GREEDY_BUDGET = 4_000_000_000
"""Multiply-adds up to which each step of k-means++ tries several candidates."""
DRAWN_AT_ONCE = 512
COMPARED_AT_ONCE = 1024
GROWTH = 4
ROUNDING = 8 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Seeding:
    """First centroids and how they were chosen.

    Attributes
    ----------
    centroids
        ``(k, d) float32``.
    rows
        ``(k,) int64``: the rows that they are.
    """

    centroids: Float32Array
    rows: IntArray


def seed_centroids(
    rows: Rows, k: int, *, init: str, rng: np.random.Generator, engine: Engine, on_rows: OnRows | None = None
) -> Seeding:
    """Choose ``k`` of the ``n >= k`` rows as first centroids.

    ``random`` takes distinct rows at random. ``k-means++`` draws each further row with a probability proportional to
    its squared distance to those chosen so far [1]_; on data small enough it tries ``2 + ln k`` draws at each step and
    keeps the best (`greedy_plus_plus`), otherwise it takes the first (`rejection_plus_plus`).

    References
    ----------
    .. [1] Arthur, Vassilvitskii: k-means++: the advantages of careful seeding. SODA 2007.
    """
    trials = trials_of(rows.n, rows.dim, k)
    if init == "random":
        chosen = np.sort(rng.choice(rows.n, size=k, replace=False))
    elif trials > 1:
        chosen = greedy_plus_plus(rows, k, trials, rng, on_rows)
    else:
        chosen = rejection_plus_plus(rows, k, rng, engine, on_rows)
    return Seeding(rows.take(chosen), chosen)


def method(rows: Rows, k: int, init: str) -> str:
    """How `seed_centroids` chooses, as text for the result."""
    if init == "random":
        return "random rows"
    trials = trials_of(rows.n, rows.dim, k)
    return f"k-means++, best of {trials} draws at each step" if trials > 1 else "k-means++"


def trials_of(n: int, dim: int, k: int) -> int:
    """How many candidates each step of k-means++ tries on ``(n, dim)`` rows."""
    trials = 2 + int(math.log(k))
    return trials if n * dim * k * trials <= GREEDY_BUDGET else 1


def greedy_plus_plus(
    rows: Rows, k: int, trials: int, rng: np.random.Generator, on_rows: OnRows | None = None
) -> IntArray:
    """k-means++ that keeps, of several draws at each step, the one that lowers the inertia most.

    Costs ``k`` passes over the rows, each a matrix product with ``trials`` columns.
    """
    n, partitions = rows.n, partitions_of(rows)
    chosen = np.empty(k, dtype=np.int64)
    chosen[0] = rng.integers(n)
    weight = _distances(partitions, rows.take(chosen[:1]))[0]
    weight[chosen[0]] = 0.0
    for step in range(1, k):
        candidates = _draw(weight, trials, chosen[:step], rng)
        lowered = _distances(partitions, rows.take(candidates))
        np.minimum(lowered, weight, out=lowered)
        best = int(lowered.sum(axis=1).argmin())
        chosen[step] = candidates[best]
        weight = lowered[best].copy()  # a view would keep the whole table
        weight[chosen[step]] = 0.0
        if on_rows is not None:
            on_rows(n)
    return chosen


def rejection_plus_plus(
    rows: Rows, k: int, rng: np.random.Generator, engine: Engine, on_rows: OnRows | None = None
) -> IntArray:
    """k-means++ at the cost of about one assignment of all rows to ``k`` centroids.

    Updating all ``n`` distances after every draw reads the data ``k`` times. Here they are brought up to date, with one
    search among all rows chosen since, only when these have become four times as many or every second draw is refused.
    In between, draws come from the old distances, which are too large for rows near a row chosen since, and are
    accepted with probability (true distance / old distance): the accepted draws follow exactly the distribution of
    k-means++.
    """
    n, partitions = rows.n, partitions_of(rows)
    chosen = [int(rng.integers(n))]
    points = np.empty((k, rows.dim), dtype=np.float32)
    points[0] = rows.take(np.asarray(chosen))[0]
    weight = np.full(n, np.inf)
    fresh = 0
    while len(chosen) < k:
        search = NearestStep(engine, points[fresh : len(chosen)])
        np.minimum(weight, joined(partitions.run(search, on_rows=on_rows)), out=weight)
        weight[chosen[fresh:]] = 0.0
        fresh = len(chosen)
        goal = min(k, GROWTH * fresh)
        accepted_well = True
        while accepted_well and len(chosen) < goal:
            wanted = goal - len(chosen)
            size = min(DRAWN_AT_ONCE, max(16, 2 * wanted))
            candidates = _draw(weight, size, np.asarray(chosen), rng)
            drawn = rows.take(candidates)
            since = np.asarray(chosen[fresh:], dtype=np.int64)
            near = points[fresh : len(chosen)]
            accepted = _accept(candidates, drawn, weight[candidates], since, near, wanted, rng)
            accepted_well = 2 * len(accepted) >= min(size, wanted)
            points[len(chosen) : len(chosen) + len(accepted)] = drawn[accepted]
            chosen.extend(candidates[accepted].tolist())
    return np.asarray(chosen, dtype=np.int64)


def _accept(
    candidates: IntArray,
    drawn: Float32Array,
    old: Float64Array,
    since: IntArray,
    near: Float32Array,
    wanted: int,
    rng: np.random.Generator,
) -> list[int]:
    """Places of up to ``wanted`` of the candidates, accepted one after the other.

    Parameters
    ----------
    candidates, drawn, old
        Numbers of the rows, the rows, and the squared distances that they were drawn by.
    since, near
        Numbers of the rows chosen since, and the rows.
    """
    true = old.copy()
    for first in range(0, len(since), COMPARED_AT_ONCE):
        true = np.minimum(true, squared_distances(drawn, near[first : first + COMPARED_AT_ONCE]).min(axis=1))
    true[np.isin(candidates, since)] = 0.0
    between = squared_distances(drawn, drawn)
    between[candidates[:, None] == candidates] = 0.0
    threshold = rng.random(len(candidates)) * old
    accepted: list[int] = []
    for position in range(len(candidates)):
        if len(accepted) == wanted:
            break
        # With fewer distinct rows than centroids all distances reach 0: draws are uniform, and all are accepted.
        if threshold[position] < true[position] or not old[position]:
            accepted.append(position)
            true = np.minimum(true, between[position])
    rows = candidates[accepted].tolist()
    return [place for at, place in enumerate(accepted) if rows[at] not in rows[:at]]


@dataclass(frozen=True)
class NearestStep:
    """Squared distances ``(m,) float32`` of the rows of a partition to the nearest of some points."""

    engine: Engine
    points: Float32Array

    def __call__(self, partition: Partition, on_rows: OnRows) -> Float32Array:
        searcher = self.engine.searcher(self.points)
        found = np.empty(partition.rows.n, dtype=np.float32)
        for chunk in partition.chunks():
            for first, batch in partition.batches(chunk, on_rows):
                squared = searcher.nearest(batch)[1][:, 0]
                # A distance within float32 rounding of zero is a copy of a chosen row, which must not be drawn.
                squared[squared < ROUNDING * np.einsum("ij,ij->i", batch, batch)] = 0.0
                found[first : first + len(batch)] = squared
        return found


@dataclass(frozen=True)
class DistancesStep:
    """Squared distances ``(p, m) float64`` of the rows of a partition to ``(p, d)`` points."""

    points: Float32Array

    def __call__(self, partition: Partition, on_rows: OnRows) -> Float64Array:
        table = np.empty((len(self.points), partition.rows.n))
        for chunk in partition.chunks():
            for first, batch in partition.batches(chunk):
                table[:, first : first + len(batch)] = squared_distances(batch, self.points).T
        return table


def _distances(partitions: Partitions, points: Float32Array, on_rows: OnRows | None = None) -> Float64Array:
    """Squared distances ``(p, n) float64`` of all rows to ``(p, d)`` points."""
    return joined(partitions.run(DistancesStep(points), on_rows=on_rows), axis=1)


def _draw(weight: Float64Array, size: int, taken: IntArray, rng: np.random.Generator) -> IntArray:
    """Rows drawn with probability proportional to ``weight``; uniformly among rows not taken when all weights are 0."""
    edges = np.cumsum(weight)
    if edges[-1] > 0:
        # The clip guards against the last edge's rounding.
        found = np.searchsorted(edges, rng.random(size) * edges[-1], side="right")
        drawn: IntArray = np.minimum(found, len(weight) - 1)
        return drawn
    free: IntArray = np.setdiff1d(np.arange(len(weight)), taken)
    picked: IntArray = free[rng.integers(len(free), size=size)]
    return picked
