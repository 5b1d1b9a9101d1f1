"""Mini-batch k-means, scikit-learn's: a baseline to hold the others against, not a way to good clusters."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from clusterer.data.rows import Rows
from clusterer.kmeans.engine import Engine, OnRows
from clusterer.kmeans.lloyd import Fit, Iteration, State

BATCH = 2048


def fit_minibatch(
    rows: Rows,
    start: State,
    *,
    engine: Engine,
    iterations: int,
    seed: int,
    on_iteration: Callable[[State], None] | None = None,
    on_rows: OnRows | None = None,
) -> Fit:
    """``iterations`` passes over the rows, in their order, in batches of 2048 or of ``k`` if that is more [1]_.

    Each pass is followed by an exact assignment by ``engine``, whose time does not count: its inertia is the
    iteration's. All passes are run, since no criterion of mini-batches says when they have converged.

    Parameters
    ----------
    start
        First centroids. Always run from there: the counts behind the step sizes are in no `State`.

    References
    ----------
    .. [1] Sculley: Web-scale k-means clustering. WWW 2010.
    """
    k = len(start.centroids)
    model = MiniBatchKMeans(k, init=start.centroids, n_init=1, batch_size=max(BATCH, k), random_state=seed)
    assigner = engine.assigner(rows)
    state, found = start, assigner.assign(start.centroids, on_rows)
    for number in range(1, iterations + 1):
        started = time.perf_counter()
        for first, batch in rows.batches(max(BATCH, k)):
            model.partial_fit(batch)
            if on_rows is not None:
                on_rows(first + len(batch))
        seconds = time.perf_counter() - started
        before = found
        found = assigner.assign(model.cluster_centers_.astype(np.float32), on_rows)
        moved = int(np.count_nonzero(before.labels != found.labels))
        empty = int(np.count_nonzero(found.counts == 0))
        done = Iteration(number, found.inertia, moved, empty, seconds)
        state = State(model.cluster_centers_.astype(np.float32), found.labels, (*state.history, done))
        if on_iteration is not None:
            on_iteration(state)
    found = assigner.settle(state.centroids, found, on_rows)
    return Fit(state.centroids, found.labels, found.inertia, state.history, converged=False)
