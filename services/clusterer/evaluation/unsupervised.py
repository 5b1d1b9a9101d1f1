"""Metrics of compactness and separation of clusters, and of agreement between seeds; no labels needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from clusterer.data.partitions import OnRows, Partition, Partitions, added, partitions_of
from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray, Rows
from clusterer.evaluation.contingency import contingency
from clusterer.evaluation.label_metrics import adjusted_rand_index
from clusterer.kmeans.engine import add_by_label, squared_distances

MULTIPLY_ADDS = 20_000_000_000
"""Largest cost of the distances of the sampled rows to all rows."""
FEWEST_SAMPLED, MOST_SAMPLED = 64, 1000
COINCIDENT = 1e-7
SMALLEST_SHARE = 64
"""Fewest sampled rows of a pass."""
TABLE_CELLS = 2**22
"""Cells of the tables of clusters and sampled rows, or of pairs of clusters, that are in memory at once."""
LABELLING_VALUES = 2**23
"""Values of the means of labellings that share passes."""


@dataclass
class _Sums:
    """Sums over one seed's clusters, and the distances of the sampled rows to them."""

    sizes: IntArray
    means: Float64Array
    distances: Float64Array
    within: float
    inside: Float64Array
    nearest: Float64Array


def internal_metrics(
    rows: Rows,
    labels: Mapping[int, LabelArray],
    k: int,
    *,
    sample_seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> dict[int, dict[str, Any]]:
    """Silhouette, Davies-Bouldin and Calinski-Harabasz of each labelling.

    Two passes over the rows serve all labellings if their clusters are few enough. Otherwise each further pass takes a
    share of the sampled rows, and labellings of very many clusters are processed one after the other.

    Parameters
    ----------
    rows
        ``(n, d)`` in the space that was clustered.
    labels
        By seed: ``(n,) int32`` clusters in ``0..k-1``.
    sample_seed
        Of the rows whose silhouette is computed. Each value is exact, from the distances to all rows; their mean is
        an estimate.

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
    at_once = max(1, LABELLING_VALUES // (k * rows.dim))
    seeds = list(labels)
    found: dict[int, dict[str, Any]] = {}
    for first in range(0, len(seeds), at_once):
        some = {seed: labels[seed] for seed in seeds[first : first + at_once]}
        found |= _internal_metrics(rows, some, k, chosen, on_rows)
    return found


def _internal_metrics(
    rows: Rows, labels: Mapping[int, LabelArray], k: int, chosen: IntArray, on_rows: Callable[[int], None] | None
) -> dict[int, dict[str, Any]]:
    partitions, columns = partitions_of(rows), list(labels.values())
    sums, middle = _means(partitions, rows, labels, k, len(chosen))
    points = rows.take(chosen)
    step = max(SMALLEST_SHARE, TABLE_CELLS // (k * len(labels)))
    for start in range(0, len(chosen), step):
        some = slice(start, start + step)
        means = [] if start else [each.means for each in sums.values()]
        found = partitions.run(AwayStep(points[some], means, k), *columns, on_rows=on_rows)
        for at, (seed, each) in enumerate(sums.items()):
            table = added([part.tables[at] for part in found])
            for spread in [part.spreads[at] for part in found if part.spreads]:
                each.within += spread.within
                each.distances += spread.distances
            _near(each, table, labels[seed][chosen[some]], some)
    return {seed: _judge(each, labels[seed][chosen], middle, rows.n) for seed, each in sums.items()}


@dataclass(frozen=True)
class Spread:
    """How far the rows of a partition lie from the means of their clusters, in one labelling.

    Attributes
    ----------
    within
        Sum of the squared distances.
    distances
        ``(k,) float64``: sum of the distances of each cluster's rows.
    """

    within: float
    distances: Float64Array


@dataclass(frozen=True)
class Away:
    """Of each labelling: sums ``(k, m) float64`` of the distances of points to the rows of each cluster; spreads."""

    tables: list[Float64Array]
    spreads: list[Spread]


@dataclass(frozen=True)
class AwayStep:
    """Adds up the distances of the rows of a partition to ``(m, d)`` points, by cluster.

    Attributes
    ----------
    means
        Of each labelling ``(k, d) float64``; none where the spreads are not asked for.
    """

    points: Float32Array
    means: list[Float64Array]
    k: int

    def __call__(self, partition: Partition, on_rows: OnRows, *labels: LabelArray) -> Away:
        tables = [np.zeros((self.k, len(self.points))) for _ in labels]
        within, distances = [0.0 for _ in self.means], [np.zeros(self.k) for _ in self.means]
        for chunk in partition.chunks():
            for first, batch in partition.batches(chunk, on_rows):
                for row, away in _distances(batch, self.points):
                    at = slice(first + row, first + row + len(away))
                    for table, own in zip(tables, labels, strict=True):
                        add_by_label(table, away, own[at])
                part = slice(first, first + len(batch))
                for number, mean in enumerate(self.means):
                    own = labels[number][part]
                    difference = batch - mean[own]
                    squared = np.einsum("ij,ij->i", difference, difference)
                    within[number] += float(squared.sum())
                    distances[number] += np.bincount(own, weights=np.sqrt(squared), minlength=self.k)
        return Away(tables, [Spread(*each) for each in zip(within, distances, strict=True)])


@dataclass(frozen=True)
class TotalStep:
    """Sums ``(k, d) float64`` of the rows of a partition by cluster, in each labelling, and their sum ``(d,)``."""

    k: int

    def __call__(
        self, partition: Partition, on_rows: OnRows, *labels: LabelArray
    ) -> tuple[list[Float64Array], Float64Array]:
        dim = partition.rows.dim
        totals, middle = [np.zeros((self.k, dim)) for _ in labels], np.zeros(dim)
        for chunk in partition.chunks():
            for first, batch in partition.batches(chunk):
                middle += batch.sum(axis=0, dtype=np.float64)
                for total, own in zip(totals, labels, strict=True):
                    add_by_label(total, batch, own[first : first + len(batch)])
        return totals, middle


def pairwise_stability(labels: Mapping[int, LabelArray], k: int) -> dict[str, Any] | None:
    """Adjusted Rand index of the assignments of each pair of seeds: 1 if they agree. None with one seed."""
    seeds = list(combinations(labels, 2))
    if not seeds:
        return None
    values = [adjusted_rand_index(contingency(labels[a], labels[b], k, k)) for a, b in seeds]
    pairs = [{"seeds": [a, b], "ari": value} for (a, b), value in zip(seeds, values, strict=True)]
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"ari_mean": float(np.mean(values)), "ari_std": deviation, "pairs": pairs}


def _distances(batch: Float32Array, points: Float32Array) -> Iterator[tuple[int, Float64Array]]:
    """Distances of a block of rows to some points, ``(b, m)``, a few rows at a time, with the first one's number."""
    step = max(1, TABLE_CELLS // 4 // len(points))
    for first in range(0, len(batch), step):
        away = squared_distances(batch[first : first + step], points)
        yield first, np.sqrt(away, out=away)


def _sample(rows: Rows, seed: int) -> IntArray:
    affordable = MULTIPLY_ADDS // max(rows.n * rows.dim, 1)
    size = min(rows.n, max(FEWEST_SAMPLED, min(MOST_SAMPLED, affordable)))
    chosen = np.random.default_rng([seed, 0x51]).choice(rows.n, size=size, replace=False)
    return np.sort(chosen).astype(np.int64)


def _means(
    partitions: Partitions, rows: Rows, labels: Mapping[int, LabelArray], k: int, sampled: int
) -> tuple[dict[int, _Sums], Float64Array]:
    """The mean of each cluster of each labelling, and the mean of all rows."""
    parts = partitions.run(TotalStep(k), *labels.values())
    middle = added([each for _, each in parts])
    found = {}
    for at, (seed, own) in enumerate(labels.items()):
        sizes = np.bincount(own, minlength=k).astype(np.int64)
        total = added([totals[at] for totals, _ in parts])
        total /= np.maximum(sizes, 1)[:, None]
        found[seed] = _Sums(sizes, total, np.zeros(k), 0.0, np.zeros(sampled), np.zeros(sampled))
    return found, middle / max(rows.n, 1)


def _near(into: _Sums, table: Float64Array, own: LabelArray, some: slice) -> None:
    """Mean distances of some sampled rows to the rows of their own cluster and of the nearest other one.

    Parameters
    ----------
    table
        ``(k, m)``: sums of the distances of the sampled rows to the rows of each cluster; written over.
    own
        ``(m,)``: their own clusters.
    """
    at = np.arange(len(own))
    into.inside[some] = table[own, at] / np.maximum(into.sizes[own] - 1, 1)
    table /= np.maximum(into.sizes, 1)[:, None]
    table[into.sizes == 0] = np.inf
    table[own, at] = np.inf
    into.nearest[some] = table.min(axis=0)


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
    sizes, inside, nearest = sums.sizes[own], sums.inside, sums.nearest
    larger = np.maximum(inside, nearest)
    found: Float64Array = np.where(
        (sizes > 1) & (larger > 0), (nearest - inside) / np.where(larger > 0, larger, 1), 0.0
    )
    return found


def _davies_bouldin(means: Float64Array, scatter: Float64Array) -> float:
    worst = np.zeros(len(means))
    step = max(1, min(len(means), TABLE_CELLS // 2 // len(means)))
    for first in range(0, len(means), step):
        part = slice(first, first + step)
        apart = squared_distances(means[part], means)  # type: ignore[arg-type]
        np.sqrt(apart, out=apart)
        # Coinciding means, and a cluster with itself, say nothing about separation. Distances come from products, whose
        # rounding error leaves its square root in place of 0.
        apart[apart <= COINCIDENT * (apart.max() or 1.0)] = np.inf
        ratio = np.add.outer(scatter[part], scatter)
        worst[part] = np.divide(ratio, apart, out=ratio).max(axis=1)
    return float(worst.mean())
