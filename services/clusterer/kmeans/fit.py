"""A whole k-means: first centroids, Lloyd's iteration, restarts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from clusterer.data.rows import ChosenRows, Float64Array, Rows
from clusterer.kmeans.balanced import fit_balanced
from clusterer.kmeans.engine import Engine, OnRows
from clusterer.kmeans.lloyd import TOLERANCE, UNCONSTRAINED, Fit, State, lloyd
from clusterer.kmeans.seeding import method, seed_centroids
from clusterer.kmeans.spherical import UnitLength

_SAMPLE_STREAM = 0x5A3


@dataclass(frozen=True)
class Run:
    """One restart.

    Attributes
    ----------
    restart
        Its number.
    init
        How its first centroids were chosen.
    fit
        What came of it; of restarts that are not the best one without its arrays, which nobody asks for again.
    resumed_at
        How many of its iterations an earlier, interrupted run had done.
    """

    restart: int
    init: str
    fit: Fit
    resumed_at: int = 0


@dataclass(frozen=True)
class KMeansFit:
    """All restarts of one seed.

    Attributes
    ----------
    best
        The run of lowest inertia (the first of equals); labels of classes have no say in it.
    runs
        Every run, in order.
    """

    best: Run
    runs: tuple[Run, ...]


def fit_kmeans(
    rows: Rows,
    k: int,
    *,
    engine: Engine,
    init: str = "k-means++",
    iterations: int = 50,
    restarts: int = 1,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    algorithm: str = "lloyd",
    spherical: bool = False,
    balanced: float | None = None,
    on_state: Callable[[int, State], None] | None = None,
    on_rows: OnRows | None = None,
    resume: Callable[[int], State | None] | None = None,
) -> KMeansFit:
    """k-means on all ``rows``.

    Parameters
    ----------
    rows
        ``(n, d)`` with ``n >= k``. Every row takes part: none is left out silently.
    k
        Number of clusters.
    engine
        Finds nearest centroids.
    init
        ``k-means++`` or ``random``.
    iterations
        At most, in each restart.
    restarts
        Runs from different first centroids.
    seed
        With the restart's number, all that chance depends on.
    algorithm
        ``lloyd`` or ``mini-batch``, a baseline: see `clusterer.kmeans.minibatch`.
    spherical
        Scale centroids to unit length in each iteration; the rows have unit length already.
    balanced
        The most rows of a cluster as a multiple of ``n / k``: see `fit_balanced`.
    on_state
        Called with the restart's number and its state: the first centroids, then after each iteration.
    on_rows
        Called often, between blocks of rows.
    resume
        Gives the last state of a restart of an interrupted run, if there is one. The result is that of an undisturbed
        run. Mini-batches, whose step sizes are in no `State`, start over.

    Raises
    ------
    ValueError
        ``k`` is below 1 or above ``n``.
    """
    if not 1 <= k <= rows.n:
        raise ValueError(f"k is {k}, but it must be between 1 and the number of rows, {rows.n}")
    if algorithm == "mini-batch" and (spherical or balanced is not None):
        raise ValueError("mini-batches are neither spherical nor balanced")
    constraint = UnitLength() if spherical else UNCONSTRAINED
    assigner = engine.assigner(rows)
    runs: list[Run] = []
    for restart in range(restarts):
        start = None if resume is None or algorithm == "mini-batch" else resume(restart)
        resumed_at = 0 if start is None else len(start.history)
        hook = None if on_state is None else partial(on_state, restart)
        rng = np.random.default_rng([seed, restart])
        if start is None:
            start = State(seed_centroids(rows, k, init=init, rng=rng, engine=engine, on_rows=on_rows).centroids)
            if hook is not None:
                hook(start)
        common: dict[str, Any] = {"iterations": iterations, "on_iteration": hook, "on_rows": on_rows}
        if algorithm == "mini-batch":
            # Only here, since scikit-learn takes long to import.
            from clusterer.kmeans.minibatch import fit_minibatch

            fit = fit_minibatch(rows, start, engine=engine, seed=int(rng.integers(2**31)), **common)
        elif balanced is not None and k > 1:
            common |= {"constraint": constraint, "tolerance": tolerance}
            fit = fit_balanced(rows, start, engine=engine, ratio=balanced, **common)
        else:
            fit = lloyd(rows, assigner, start, constraint=constraint, tolerance=tolerance, **common)
        runs.append(Run(restart, method(rows, k, init), fit, resumed_at))
        best = min(range(len(runs)), key=lambda number: runs[number].fit.inertia)
        runs = [
            run if number == best else replace(run, fit=run.fit.without_arrays()) for number, run in enumerate(runs)
        ]
    return KMeansFit(runs[best], tuple(runs))


def prices_by_seed(fits: Mapping[int, KMeansFit]) -> dict[int, Float64Array]:
    """The prices of the clusters of each seed's best run; empty where sizes were not bounded."""
    best = {seed: fit.best.fit.balance for seed, fit in fits.items()}
    return {seed: balance.prices for seed, balance in best.items() if balance is not None}


def sample_rows(rows: Rows, most: int | None, seed: int) -> Rows:
    """``rows`` themselves, or a seeded sample of ``most`` of them (in their order) when there are more.

    The sample is taken from them whenever it is read: who reads it often holds it.
    """
    if most is None or rows.n <= most:
        return rows
    rng = np.random.default_rng([seed, _SAMPLE_STREAM])
    return ChosenRows(rows, np.sort(rng.choice(rows.n, size=most, replace=False)).astype(np.int64))
