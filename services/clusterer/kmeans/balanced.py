"""Balanced k-means: clusters of bounded size, by a price for each cluster."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clusterer.data.partitions import OnRows
from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray, Rows
from clusterer.kmeans.assigned import padded, priced, prices_of
from clusterer.kmeans.engine import Assigner, Assignment, Engine, StreamingAssigner
from clusterer.kmeans.lloyd import Balance, Constraint, Fit, State, lloyd

ROUNDS = 100
"""Rounds of prices at fixed centroids, at most."""
STEP = 1e-6
"""Least relative change of a price: less would be lost in float32."""


def fit_balanced(
    rows: Rows,
    start: State,
    *,
    engine: Engine,
    ratio: float,
    constraint: Constraint,
    iterations: int,
    tolerance: float,
    on_iteration: Callable[[State], None] | None = None,
    on_rows: OnRows | None = None,
) -> Fit:
    """k-means whose clusters have at most ``ratio`` times ``n / k`` rows, rounded down, or ``n / k`` rounded up.

    A row goes to the cluster of least squared distance plus price. Prices are the dual variables of the transport
    problem that moves the rows to clusters of bounded capacity [1]_, and are found as in an auction [2]_: a cluster
    that is too large raises its price until just its surplus prefers the next best cluster; a small one lowers its
    price until its deficit is filled. One pass does this for all clusters at once, and one update of the centroids
    follows. At the end prices rise, at fixed centroids, until no cluster is too large or `ROUNDS` are spent.

    Parameters
    ----------
    start
        First centroids, ``(k, d)``, or the state of an interrupted run, whose centroids carry their prices.
    constraint
        On the centroids without their prices.

    References
    ----------
    .. [1] Aurenhammer, Hoffmann, Aronov: Minkowski-type theorems and least-squares clustering. Algorithmica 1998.
    .. [2] Bertsekas: The auction algorithm: a distributed relaxation method for the assignment problem. 1988.
    """
    k = len(start.centroids)
    if start.centroids.shape[1] == rows.dim:
        start = replace(start, centroids=priced(start.centroids, np.zeros(k)))
    view = padded(rows)
    market = Market(engine, view, k, ratio, constraint)
    fit = lloyd(
        view,
        market,
        start,
        iterations=iterations,
        tolerance=tolerance,
        constraint=market.constraint,
        on_iteration=on_iteration,
        on_rows=on_rows,
    )
    centroids, found, rounds = market.clear(fit.centroids, on_rows)
    balance = Balance(prices_of(centroids), market.allowed, int(found.counts.max()), rounds)
    return replace(fit, centroids=centroids[:, :-1].copy(), labels=found.labels, inertia=found.inertia, balance=balance)


class Market(Assigner):
    """Assigns rows by distance and price; the same pass gives the change of the prices.

    Attributes
    ----------
    allowed
        Rows that a cluster may have at most.
    aim
        Size that a price change aims at: between the mean and the largest allowed, so that the cluster can gain rows
        before its price changes again.
    """

    def __init__(self, engine: Engine, rows: Rows, k: int, ratio: float, constraint: Constraint) -> None:
        mean = rows.n / k
        self.allowed = max(math.floor(ratio * mean + 1e-9), math.ceil(mean))
        self.aim = max(math.floor((mean + self.allowed) / 2), math.ceil(mean))
        self.constraint = _Priced(self, constraint)
        self._stream = StreamingAssigner(engine, rows)
        self._second: LabelArray = np.empty(rows.n, dtype=np.int32)
        self._gap: Float32Array = np.empty(rows.n, dtype=np.float32)

    def assign(self, centroids: Float32Array, on_rows: OnRows | None = None) -> Assignment:
        """The cheapest of `priced` centroids; inertia and distances are without the prices."""
        found, labels, costs = self._stream.search(centroids, min(2, len(centroids)), on_rows)
        self._second = labels[:, -1]
        self._gap = np.maximum(costs[:, -1] - costs[:, 0], 0.0)
        prices = prices_of(centroids)
        inertia = max(0.0, found.inertia - float(found.counts @ prices))
        return replace(found, inertia=inertia, measure=lambda: _without(found.squared, prices[found.labels]))

    def raised(self, prices: Float64Array, found: Assignment) -> Float64Array:
        """Prices at which the surplus of each cluster that is too large, and no other row of it, leaves."""
        surplus = np.where(found.counts > self.allowed, found.counts - self.aim, 0)
        change = _edges(found.labels, self._gap, surplus)
        return np.where(surplus > 0, np.maximum(prices + change, prices * (1 + STEP)), prices)

    def lowered(self, prices: Float64Array, found: Assignment) -> Float64Array:
        """Prices at which about half of the deficit of each small cluster with a price is filled.

        Half, because neighbours that raise their prices send rows as well.
        """
        deficit = np.where((prices > 0) & (found.counts < self.aim), -(-(self.aim - found.counts) // 2), 0)
        change = _edges(self._second, self._gap, deficit)
        return np.where(deficit > 0, np.maximum(prices - change, 0.0), prices)

    def clear(self, centroids: Float32Array, on_rows: OnRows | None) -> tuple[Float32Array, Assignment, int]:
        """Raise prices at fixed centroids until no cluster is too large; with the last assignment and the rounds."""
        for done in range(ROUNDS + 1):
            found = self.assign(centroids, on_rows)
            if found.counts.max() <= self.allowed or done == ROUNDS:
                break
            centroids = priced(centroids[:, :-1], self.raised(prices_of(centroids), found))
        return centroids, found, done


class _Priced(Constraint):
    """Centroids obey a constraint of their own, and their prices change with them."""

    def __init__(self, market: Market, inner: Constraint) -> None:
        self._market = market
        self._inner = inner

    def apply(self, means: Float32Array, last: Float32Array, found: Assignment) -> Float32Array:
        prices = self._market.lowered(self._market.raised(prices_of(last), found), found)
        return priced(self._inner.apply(means[:, :-1], last[:, :-1], found), prices)

    def converged(self, state: State, found: Assignment, tolerance: float) -> bool:
        """The inertia rises while prices find their level, so what counts is that it stands still, within bounds."""
        if not state.history or found.counts.max() > self._market.allowed:
            return False
        last = state.history[-1].inertia
        return abs(last - found.inertia) <= tolerance * last


def _edges(groups: LabelArray, gaps: Float32Array, wanted: IntArray) -> Float64Array:
    """By how much each group must change for ``wanted`` of its rows, those of the smallest gaps, to change sides.

    Halfway between the last row that does and the first that does not, so that neither lies on the border.
    """
    order = np.lexsort((gaps, groups))
    starts = np.searchsorted(groups[order], np.arange(len(wanted)))
    sizes = np.bincount(groups, minlength=len(wanted))
    last = starts + np.minimum(wanted, sizes) - 1
    after = np.minimum(last + 1, starts + sizes - 1)
    sorted_gaps = gaps[order].astype(np.float64)
    some = (wanted > 0) & (sizes > 0)
    edges = np.zeros(len(wanted))
    edges[some] = (sorted_gaps[last[some]] + sorted_gaps[after[some]]) / 2
    return edges * (1 + STEP)


def _without(costs: Float32Array, prices: Float64Array) -> Float32Array:
    return np.maximum(costs - prices, 0.0).astype(np.float32)
