"""How well rows fall into clusters, judged by the rows alone: no labels needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from clusterer.contingency import contingency
from clusterer.kmeans.engine import sum_by_label
from clusterer.metrics import adjusted_rand_index
from clusterer.nearest import squared_distances
from clusterer.rows import BATCH_ROWS, Float32Array, Float64Array, IntArray, LabelArray, Rows

MULTIPLY_ADDS = 20_000_000_000
"""What the distances of the sampled rows to all rows may cost."""
FEWEST_SAMPLED, MOST_SAMPLED = 64, 1000
COINCIDENT = 1e-7
_PAIRS_AT_ONCE = 1000


@dataclass
class _Sums:
    """What one seed's clusters add up to."""

    sizes: IntArray
    means: Float64Array
    distances: Float64Array
    within: float
    to_sample: Float64Array


def internal_metrics(
    rows: Rows,
    labels: Mapping[int, LabelArray],
    k: int,
    *,
    sample_seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> dict[int, dict[str, Any]]:
    """Silhouette, Davies-Bouldin and Calinski-Harabasz of each labelling, in two passes over the rows for all of them.

    Parameters
    ----------
    rows
        ``(n, d)`` in the space that was clustered.
    labels
        By seed: ``(n,) int32`` clusters in ``0..k-1``.
    sample_seed
        Of the rows whose silhouette is taken. Their distances go to all rows, so each value is exact and only their
        mean is an estimate.

    Returns
    -------
    By seed: ``silhouette``, ``silhouette_error`` (standard error of the mean over the sample; 0 when every row is in
    it), ``silhouette_rows``, ``davies_bouldin``, ``calinski_harabasz``; None where there are fewer than two
    clusters, or as many as rows.

    References
    ----------
    Rousseeuw: Silhouettes. J. Comput. Appl. Math. 20 (1987). Davies, Bouldin: A cluster separation measure. IEEE
    TPAMI 1 (1979). Calinski, Harabasz: A dendrite method for cluster analysis. Comm. Stat. 3 (1974).
    """
    chosen = _sample(rows, sample_seed)
    sums, middle = _means(rows, labels, k, len(chosen))
    points = rows.take(chosen)
    for first, batch in rows.batches(BATCH_ROWS):
        part = slice(first, first + len(batch))
        away = np.sqrt(squared_distances(batch, points))
        for seed, each in sums.items():
            _add(each, batch, labels[seed][part], away)
        if on_rows is not None:
            on_rows(part.stop)
    return {seed: _judge(each, labels[seed][chosen], middle, rows.n) for seed, each in sums.items()}


def pairwise_stability(labels: Mapping[int, LabelArray], k: int) -> dict[str, Any] | None:
    """Adjusted Rand index of the assignments of each two seeds: 1 when chance had no say. None with one seed."""
    seeds = list(combinations(labels, 2))
    if not seeds:
        return None
    values = [adjusted_rand_index(contingency(labels[a], labels[b], k, k)) for a, b in seeds]
    pairs = [{"seeds": [a, b], "ari": value} for (a, b), value in zip(seeds, values, strict=True)]
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"ari_mean": float(np.mean(values)), "ari_std": deviation, "pairs": pairs}


def _sample(rows: Rows, seed: int) -> IntArray:
    affordable = MULTIPLY_ADDS // max(rows.n * rows.dim, 1)
    size = min(rows.n, max(FEWEST_SAMPLED, min(MOST_SAMPLED, affordable)))
    chosen = np.random.default_rng([seed, 0x51]).choice(rows.n, size=size, replace=False)
    return np.sort(chosen).astype(np.int64)


def _means(rows: Rows, labels: Mapping[int, LabelArray], k: int, sampled: int) -> tuple[dict[int, _Sums], Float64Array]:
    """The mean of each cluster of each labelling, and the mean of all rows."""
    totals = {seed: np.zeros((k, rows.dim)) for seed in labels}
    middle = np.zeros(rows.dim)
    for first, batch in rows.batches(BATCH_ROWS):
        middle += batch.sum(axis=0, dtype=np.float64)
        for seed, total in totals.items():
            total += sum_by_label(batch, labels[seed][first : first + len(batch)], k)
    found = {}
    for seed, total in totals.items():
        sizes = np.bincount(labels[seed], minlength=k).astype(np.int64)
        means = total / np.maximum(sizes, 1)[:, None]
        found[seed] = _Sums(sizes, means, np.zeros(k), 0.0, np.zeros((k, sampled)))
    return found, middle / max(rows.n, 1)


def _add(into: _Sums, batch: Float32Array, labels: LabelArray, away: Float64Array) -> None:
    b, k = len(batch), len(into.sizes)
    difference = batch - into.means[labels]
    squared = np.einsum("ij,ij->i", difference, difference)
    into.within += float(squared.sum())
    into.distances += np.bincount(labels, weights=np.sqrt(squared), minlength=k)
    summed: Any = csr_array((np.ones(b), labels, np.arange(b + 1)), shape=(b, k)).T @ away
    into.to_sample += summed


def _judge(sums: _Sums, own: LabelArray, middle: Float64Array, n: int) -> dict[str, Any]:
    filled = np.flatnonzero(sums.sizes)
    groups = len(filled)
    if not 2 <= groups < n:
        names = ("silhouette", "silhouette_error", "davies_bouldin", "calinski_harabasz")
        return {**dict.fromkeys(names), "silhouette_rows": 0}
    values = _silhouettes(sums, own)
    m = len(values)
    spread = float(values.std(ddof=1)) if m > 1 else 0.0
    offset = sums.means[filled] - middle
    between = float(sums.sizes[filled] @ np.einsum("ij,ij->i", offset, offset))
    return {
        "silhouette": float(values.mean()),
        "silhouette_error": spread / np.sqrt(m) * np.sqrt(1 - m / n),
        "silhouette_rows": m,
        "davies_bouldin": _davies_bouldin(sums.means[filled], sums.distances[filled] / sums.sizes[filled]),
        "calinski_harabasz": between * (n - groups) / (sums.within * (groups - 1)) if sums.within else 1.0,
    }


def _silhouettes(sums: _Sums, own: LabelArray) -> Float64Array:
    """The silhouette of each sampled row; 0 for a row that is alone in its cluster."""
    at = np.arange(len(own))
    sizes = sums.sizes[own]
    inside = sums.to_sample[own, at] / np.maximum(sizes - 1, 1)
    others = np.where(sums.sizes[:, None] > 0, sums.to_sample / np.maximum(sums.sizes, 1)[:, None], np.inf)
    others[own, at] = np.inf
    nearest = others.min(axis=0)
    larger = np.maximum(inside, nearest)
    found: Float64Array = np.where(
        (sizes > 1) & (larger > 0), (nearest - inside) / np.where(larger > 0, larger, 1), 0.0
    )
    return found


def _davies_bouldin(means: Float64Array, scatter: Float64Array) -> float:
    worst = np.zeros(len(means))
    for first in range(0, len(means), _PAIRS_AT_ONCE):
        part = slice(first, first + _PAIRS_AT_ONCE)
        apart = np.sqrt(squared_distances(means[part], means))  # type: ignore[arg-type]
        # Means that coincide tell nothing about separation, and neither does a cluster beside itself. Distances come
        # from products, which leave the square root of the rounding error where there is none.
        apart[apart <= COINCIDENT * (apart.max() or 1.0)] = np.inf
        worst[part] = ((scatter[part, None] + scatter[None, :]) / apart).max(axis=1)
    return float(worst.mean())
