"""scikit-learn's mini-batch k-means: a baseline for comparison, with worse clusters than Lloyd's iteration."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from clusterer.data.partitions import OnRows
from clusterer.data.rows import Rows
from clusterer.kmeans.engine import Assigner
from clusterer.kmeans.lloyd import Fit, Iteration, State

BATCH = 2048


def fit_minibatch(
    rows: Rows,
    assigner: Assigner,
    start: State,
    *,
    iterations: int,
    seed: int,
    on_iteration: Callable[[State], None] | None = None,
    on_rows: OnRows | None = None,
) -> Fit:
    """``iterations`` passes over the rows, in their order, in batches of 2048 or of ``k`` if that is more [1]_.

    An exact assignment, whose time is not counted, follows each pass and gives the iteration's inertia. All passes
    run: mini-batches have no convergence criterion.

    Parameters
    ----------
    start
        First centroids. A run always begins with them: the counts behind the step sizes are not part of `State`.

    References
    ----------
    .. [1] Sculley: Web-scale k-means clustering. WWW 2010.
    """
    batch_rows = max(BATCH, len(start.centroids))
    model = MiniBatchKMeans(
        len(start.centroids), init=start.centroids, n_init=1, batch_size=batch_rows, random_state=seed
    )
    assigner.begin(None)
    state, found = start, assigner.assign(start.centroids, on_rows)
    for number in range(1, iterations + 1):
        started = time.perf_counter()
        for first, batch in rows.batches(batch_rows):
            model.partial_fit(batch)
            if on_rows is not None:
                on_rows(first + len(batch))
        seconds = time.perf_counter() - started
        before, centroids = found, model.cluster_centers_.astype(np.float32)
        found = assigner.assign(centroids, on_rows)
        moved = int(np.count_nonzero(before.labels != found.labels))
        empty = int(np.count_nonzero(found.counts == 0))
        done = Iteration(number, found.inertia, moved, empty, seconds)
        state = State(centroids, found.labels, (*state.history, done))
        if on_iteration is not None:
            on_iteration(state)
    found = assigner.settle(state.centroids, found, on_rows)
    return Fit(state.centroids, found.labels, found.inertia, state.history, converged=False)
