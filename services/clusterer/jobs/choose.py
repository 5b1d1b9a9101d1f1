"""Searches the number of clusters in a range and records every number tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clusterer.data.rows import ArrayRows, Rows
from clusterer.evaluation.unsupervised import internal_metrics, pairwise_stability
from clusterer.jobs.plan import SEARCHED_ROWS
from clusterer.kmeans import Engine, Fit, FitOptions, fit_kmeans

COARSE, FINE = 12, 8
SEARCH_SEEDS = (0, 1, 2)
ITERATIONS = 20
SEARCH_RESTARTS = 6
RESTARTED_CLUSTERS = 120
"""Restarts times clusters: few clusters need several restarts to reach a good optimum, many clusters do not."""
_SAMPLE_STREAM = 0xA07


@dataclass(frozen=True)
class Candidate:
    """One number of clusters that was tried.

    Attributes
    ----------
    k
        Number of clusters.
    inertia
        Mean over the seeds, on the sampled rows; of each seed the best of its restarts.
    elbow
        Distance of the inertia below the straight line between the ends of the range, both axes logarithmic: large
        where more clusters lower the inertia little.
    stability
        Mean adjusted Rand index between the assignments of two seeds.
    silhouette
        Mean over the seeds; for information only.
    score
        ``elbow * stability``. The largest is chosen; of equals the one with the fewest clusters.
    """

    k: int
    inertia: float
    elbow: float
    stability: float
    silhouette: float | None
    score: float


@dataclass(frozen=True)
class Choice:
    """The chosen number of clusters, with all candidates."""

    k: int
    candidates: tuple[Candidate, ...]
    rows: int

    def record(self) -> dict[str, Any]:
        """For spec.json."""
        best = next(each for each in self.candidates if each.k == self.k)
        return {
            "k": self.k,
            "why": f"Of {len(self.candidates)} numbers tried, {self.k} has the largest product of elbow "
            f"({best.elbow:.3f}) and stability ({best.stability:.3f}).",
            "rows": self.rows,
            "seeds": list(SEARCH_SEEDS),
            "candidates": [asdict(each) for each in self.candidates],
        }


def choose_clusters(
    rows: Rows,
    low: int,
    high: int,
    *,
    engine: Engine,
    on_fit: Callable[[int, int], None] | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Choice:
    """Try numbers of clusters from ``low`` to ``high``: a coarse grid, then between the best one's neighbours.

    Parameters
    ----------
    rows
        ``(n, d)`` transformed train rows, or reduced ones; at most 10,000 of them, drawn with a fixed seed, are used.
    on_fit
        Called after each number with the count tried so far and the expected total.

    References
    ----------
    Elbow as the largest distance from the chord: Satopaa et al.: Finding a "kneedle" in a haystack. ICDCSW 2011.
    Stability: Ben-Hur, Elisseeff, Guyon: A stability based method for discovering structure. PSB 2002.
    """
    sampled = sample_of(rows)
    high = max(low, min(high, sampled.n))
    tried: dict[int, tuple[float, float, float | None]] = {}
    grid = grid_of(low, high, COARSE)
    expected = len(grid) + (FINE if high - low >= COARSE else 0)
    for wave in range(2):
        for k in grid:
            if k not in tried:
                tried[k] = _try(sampled, k, engine, on_rows)
                if on_fit is not None:
                    on_fit(len(tried), max(expected, len(tried)))
        if wave == 0:
            ks = sorted(tried)
            at = ks.index(_best(_candidates(tried)).k)
            grid = grid_of(ks[max(at - 1, 0)], ks[min(at + 1, len(ks) - 1)], FINE)
    found = _candidates(tried)
    return Choice(_best(found).k, found, sampled.n)


def _try(
    rows: ArrayRows, k: int, engine: Engine, on_rows: Callable[[int], None] | None
) -> tuple[float, float, float | None]:
    fits = fits_of(rows, k, engine, on_rows)
    labels = {seed: fit.labels for seed, fit in fits.items()}
    stability = pairwise_stability(labels, k)
    judged = [each["silhouette"] for each in internal_metrics(rows, labels, k).values()]
    silhouette = None if None in judged else float(np.mean(judged))
    inertia = float(np.mean([fit.inertia for fit in fits.values()]))
    return inertia, (1.0 if stability is None else float(stability["ari_mean"])), silhouette


def fits_of(rows: Rows, k: int, engine: Engine, on_rows: Callable[[int], None] | None) -> dict[int, Fit]:
    """A cheap k-means with each of `SEARCH_SEEDS`, the best of its restarts."""
    restarts = max(1, min(SEARCH_RESTARTS, RESTARTED_CLUSTERS // k))
    options = FitOptions(iterations=ITERATIONS, restarts=restarts)
    return {
        seed: fit_kmeans(rows, k, engine=engine, options=options, seed=seed, on_rows=on_rows).best.fit
        for seed in SEARCH_SEEDS
    }


def _candidates(tried: dict[int, tuple[float, float, float | None]]) -> tuple[Candidate, ...]:
    ks = sorted(tried)
    x = np.log([float(k) for k in ks])
    floor = max(tried[ks[0]][0] * 1e-9, np.finfo(np.float64).tiny)
    y = np.log([max(tried[k][0], floor) for k in ks])
    width, height = float(x[-1] - x[0]) or 1.0, float(y[0] - y[-1]) or 1.0
    below = (y[0] - y) / height - (x - x[0]) / width
    found = []
    for k, elbow in zip(ks, below, strict=True):
        inertia, stability, silhouette = tried[k]
        found.append(Candidate(k, inertia, float(elbow), stability, silhouette, float(elbow) * stability))
    return tuple(found)


def _best(candidates: tuple[Candidate, ...]) -> Candidate:
    return max(candidates, key=lambda each: (each.score, -each.k))


def grid_of(low: int, high: int, count: int) -> list[int]:
    """Numbers from ``low`` to ``high``: all of a few, otherwise about ``count`` in equal ratios."""
    if high - low < count:
        return list(range(low, high + 1))
    return sorted({round(math.exp(each)) for each in np.linspace(math.log(low), math.log(high), count)})


def sample_of(rows: Rows) -> ArrayRows:
    """The rows that the search uses, in memory: all, or `SEARCHED_ROWS` drawn with a fixed seed."""
    if isinstance(rows, ArrayRows) and rows.n <= SEARCHED_ROWS:
        return rows
    if rows.n <= SEARCHED_ROWS:
        return ArrayRows(rows.take(np.arange(rows.n, dtype=np.int64)))
    chosen = np.random.default_rng(_SAMPLE_STREAM).choice(rows.n, size=SEARCHED_ROWS, replace=False)
    return ArrayRows(rows.take(np.sort(chosen).astype(np.int64)))
