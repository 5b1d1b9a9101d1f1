"""Searches the number of clusters in a range and records every number tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

import numpy as np

from clusterer.data.rows import ArrayRows, LabelArray, Rows
from clusterer.evaluation.neighbourhood import neighbours_kept
from clusterer.evaluation.unsupervised import internal_metrics, pairwise_stability
from clusterer.jobs.plan import SEARCHED_ROWS
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import Engine, Fit, FitOptions, fit_kmeans
from clusterer.neighbours import Nearest, Options, nearest_rows

COARSE, FINE = 12, 8
JUDGED: Final = 20
"""Nearest rows of each row that clusters should keep: more than an option looks at, lest it judges itself."""
SEARCH_SEEDS = (0, 1, 2)
ITERATIONS = 20
SEARCH_RESTARTS = 6
RESTARTED_CLUSTERS = 120
"""Restarts times clusters: few clusters need several restarts to reach a good optimum, many clusters do not."""
_SAMPLE_STREAM = 0xA07


@dataclass(frozen=True)
class Figures:
    """What was found with one number of clusters.

    Attributes
    ----------
    k
        Number of clusters.
    neighbours_kept
        Mean over the seeds. The largest is chosen; of equals the one with the fewest clusters.
    stability
        Mean adjusted Rand index between the assignments of two seeds; for information only.
    """

    k: int
    neighbours_kept: float
    stability: float

    @property
    def worth(self) -> tuple[float, int]:
        """Whose largest is best."""
        return self.neighbours_kept, -self.k


@dataclass(frozen=True)
class Candidate(Figures):
    """One number of clusters that was tried for the rows as a request has them.

    Attributes
    ----------
    silhouette
        Mean over the seeds; for information only, as the last.
    inertia
        Mean over the seeds, on the sampled rows; of each seed the best of its restarts.
    """

    silhouette: float | None
    inertia: float


Found = TypeVar("Found", bound=Figures)


@dataclass(frozen=True)
class Choice:
    """The chosen number of clusters, with all candidates.

    Attributes
    ----------
    rows, neighbours
        How many rows were clustered, and how many nearest rows of each were looked at.
    """

    k: int
    candidates: tuple[Candidate, ...]
    rows: int
    neighbours: int

    def record(self) -> dict[str, Any]:
        """For spec.json."""
        best = next(each for each in self.candidates if each.k == self.k)
        return {
            "k": self.k,
            "why": f"Of {len(self.candidates)} numbers tried, {self.k} groups keep the most of the {self.neighbours} "
            f"images nearest to each in its group: a share of {best.neighbours_kept:.3f} above chance.",
            "rows": self.rows,
            "neighbours": self.neighbours,
            "seeds": list(SEARCH_SEEDS),
            "candidates": [asdict(each) for each in self.candidates],
        }


def choose_clusters(
    rows: Rows,
    near: Nearest,
    low: int,
    high: int,
    *,
    engine: Engine,
    on_fit: Callable[[int, int], None] | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Choice:
    """Try numbers of clusters from ``low`` to ``high``; the one whose clusters keep the most nearest rows together.

    Parameters
    ----------
    rows
        ``(n, d)`` transformed train rows, or reduced ones; at most 10,000 of them, drawn with a fixed seed, are used.
    near
        The rows nearest to each of those, before any reduction (`sample_neighbours`).
    on_fit
        Called after each number with the count tried so far and the expected total.

    References
    ----------
    Stability: Ben-Hur, Elisseeff, Guyon: A stability based method for discovering structure. PSB 2002.
    """
    sampled = sample_of(rows)
    high = max(low, min(high, sampled.n))
    expected = expected_numbers(low, high)

    def on_number(count: int) -> None:
        if on_fit is not None:
            on_fit(count, max(expected, count))

    found = search_numbers(low, high, lambda k: _candidate(sampled, near, k, engine, on_rows), on_number)
    candidates = tuple(found[k] for k in sorted(found))
    return Choice(max(candidates, key=lambda each: each.worth).k, candidates, sampled.n, near.rows.shape[1])


def search_numbers(
    low: int, high: int, measure: Callable[[int], Found], on_number: Callable[[int], None]
) -> dict[int, Found]:
    """What was found with each number of clusters tried: a coarse grid, then numbers between the best one's neighbours.

    Parameters
    ----------
    on_number
        Called after each number with how many were tried.
    """
    found: dict[int, Found] = {}
    grid = grid_of(low, high, COARSE)
    for wave in range(2):
        for k in grid:
            if k not in found:
                found[k] = measure(k)
                on_number(len(found))
        if wave == 0:
            ks = sorted(found)
            at = max(range(len(ks)), key=lambda each: found[ks[each]].worth)
            grid = grid_of(ks[max(at - 1, 0)], ks[min(at + 1, len(ks) - 1)], FINE)
    return found


def expected_numbers(low: int, high: int) -> int:
    """About how many numbers of clusters `search_numbers` tries."""
    return len(grid_of(low, high, COARSE)) + (FINE if high - low >= COARSE else 0)


def _candidate(
    rows: ArrayRows, near: Nearest, k: int, engine: Engine, on_rows: Callable[[int], None] | None
) -> Candidate:
    fits = fits_of(rows, k, engine, on_rows)
    labels = {seed: fit.labels for seed, fit in fits.items()}
    kept, stability = judge(near, labels, k)
    judged = [each["silhouette"] for each in internal_metrics(rows, labels, k).values()]
    silhouette = None if None in judged else float(np.mean(judged))
    return Candidate(k, kept, stability, silhouette, float(np.mean([fit.inertia for fit in fits.values()])))


def judge(near: Nearest, labels: Mapping[int, LabelArray], k: int) -> tuple[float, float]:
    """Nearest rows kept, and stability, of the clusters of several seeds: means."""
    stability = pairwise_stability(dict(labels), k)
    kept = float(np.mean([neighbours_kept(near.rows, each, k) for each in labels.values()]))
    return kept, 1.0 if stability is None else float(stability["ari_mean"])


def sample_neighbours(rows: ArrayRows, work: Workspace, memory: int, on_rows: Callable[[int], None]) -> Nearest:
    """The `JUDGED` rows nearest to each of a sample; kept for the next attempt.

    Parameters
    ----------
    rows
        ``(n, d)``, as `sample_of` gives them, before any reduction.
    memory
        Bytes that the search may use.
    """
    kept = work.arrays("sample-nearest")
    if kept is not None:
        return Nearest(kept["rows"], kept["similarity"])
    options = Options(memory_limit=memory, folder=work.folder("sample-search"), on_rows=on_rows)
    found = nearest_rows(rows, JUDGED, options)
    work.keep_arrays("sample-nearest", {"rows": found.rows, "similarity": found.similarity})
    return found


def fits_of(rows: Rows, k: int, engine: Engine, on_rows: Callable[[int], None] | None) -> dict[int, Fit]:
    """A cheap k-means with each of `SEARCH_SEEDS`, the best of its restarts."""
    restarts = max(1, min(SEARCH_RESTARTS, RESTARTED_CLUSTERS // k))
    options = FitOptions(iterations=ITERATIONS, restarts=restarts)
    return {
        seed: fit_kmeans(rows, k, engine=engine, options=options, seed=seed, on_rows=on_rows).best.fit
        for seed in SEARCH_SEEDS
    }


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
