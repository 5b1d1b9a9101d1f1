"""The faiss-super engine: passes by faiss's SuperKMeans, which prunes centroids by a statistical test."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from scipy.special import gammaincinv

from clusterer.data.partitions import OnRows
from clusterer.data.rows import Float32Array, LabelArray, Rows
from clusterer.kmeans.engine import Assigner, Assignment, Engine, Searcher, StreamingAssigner
from clusterer.kmeans.faiss import LARGEST, SMALLEST, FaissEngine

faiss_: Any = faiss
"""Untyped: the stubs of faiss lack SuperKMeans."""
FEWEST_COLUMNS = 32
"""The test starts with at least 16 dimensions and at most half of all."""
SAMPLE = 1024
"""Rows on which each pass chooses the number of dimensions to test first."""
PRUNED = 0.95
"""Share of the pairs of row and centroid that the first test must prune."""
GROWTH = 1.25
SEED = 0x5E
KEEP_BYTES = 8 * 2**30


class SuperUnavailable(Exception):
    """This faiss has no SuperKMeans."""


class SuperEngine(Engine):
    """SuperKMeans [1]_ as a pass of Lloyd's iteration, by ``faiss.super_kmeans_assign_iteration``.

    Rows and centroids are rotated at random. A matrix product over the first few dimensions gives part of each
    distance; a centroid whose part is larger than all but one in ``d`` would be, were its whole distance that of the
    row's last centroid, is pruned, and so on, 64 dimensions at a time. A pass may miss a nearer centroid occasionally,
    but never moves a row to a farther one: the inertia falls in each iteration, and may converge to a slightly higher
    value. The first pass of a run and the assignment that ends it are exact, as are searchers.

    Rows of fewer than 32 dimensions, or of magnitudes that float32 squares cannot hold, are always assigned exactly.

    Parameters
    ----------
    keep_bytes
        Memory for the rotated rows; if they need more, each pass rotates them again.

    Raises
    ------
    SuperUnavailable
        faiss is older than 1.15.

    References
    ----------
    .. [1] Kuffo, Hepkema, Boncz: A Super Fast K-means for Indexing Vector Embeddings. arXiv 2603.20009.
    """

    name = "faiss-super"
    exact_passes = False
    proven = False

    def __init__(self, *, keep_bytes: int = KEEP_BYTES) -> None:
        if not hasattr(faiss, "super_kmeans_assign_iteration"):
            raise SuperUnavailable(f"faiss {faiss.__version__} has no SuperKMeans, which came with 1.15")
        self._flat = FaissEngine()
        self._keep_bytes = keep_bytes

    def searcher(self, centroids: Float32Array) -> Searcher:
        return self._flat.searcher(centroids)

    def assigner(self, rows: Rows) -> Assigner:
        exact = StreamingAssigner(self._flat, rows)
        return exact if rows.dim < FEWEST_COLUMNS else SuperAssigner(exact, rows, self._keep_bytes)


class SuperAssigner(Assigner):
    """Builds each pass on the labels of the previous one, its only state.

    Each pass chooses the number of dimensions of its first test. faiss's own loop adapts it from pass to pass, but then
    a run resumed from a `State` would differ.

    Parameters
    ----------
    exact
        Assigns the same rows exactly.
    """

    def __init__(self, exact: StreamingAssigner, rows: Rows, keep_bytes: int = KEEP_BYTES) -> None:
        self._exact = exact
        self._rows = rows
        self._keep_bytes = keep_bytes
        self._rotated: RotatedRows | None = None
        self._labels: LabelArray | None = None
        self._parameters = faiss_.SuperKMeansParameters()
        self._thresholds = thresholds(rows.dim)

    def begin(self, labels: LabelArray | None) -> None:
        self._labels = labels

    def assign(self, centroids: Float32Array, on_rows: OnRows | None = None) -> Assignment:
        if self._rotated is None:
            self._rotated = RotatedRows(self._rows, self._keep_bytes)
        reach = max(self._rotated.reach, float(np.abs(centroids - self._rotated.mean).max()))
        if self._labels is None or not SMALLEST <= reach <= LARGEST:
            found = self._exact.assign(centroids, on_rows)
        else:
            found = self._pruned(centroids, self._labels, self._rotated, on_rows)
        self._labels = found.labels
        return found

    def settle(self, centroids: Float32Array, found: Assignment, on_rows: OnRows | None = None) -> Assignment:
        return self._exact.assign(centroids, on_rows)

    def _pruned(
        self, centroids: Float32Array, last: LabelArray, rotated: RotatedRows, on_rows: OnRows | None
    ) -> Assignment:
        turned = rotated.turn(centroids)
        look = self._first_look(turned, last, rotated)

        def label(part: slice, batch: Float32Array) -> tuple[LabelArray, Float32Array]:
            labels, squared, _ = self._prune(rotated.block(part, batch), turned, last[part], look)
            return labels[:, None], squared[:, None]

        return self._exact.collect(centroids, lambda: label, 1, on_rows)[0]

    def _first_look(self, turned: Float32Array, last: LabelArray, rotated: RotatedRows) -> int:
        """Dimensions of the first test: the fewest tried that prune nearly all pairs on a sample of the rows."""
        d = self._rows.dim
        look = max(FEWEST_COLUMNS // 2, d // 16)
        while look < d // 2:
            pruned = self._prune(rotated.sample, turned, last[rotated.sampled], look)[2]
            if pruned >= PRUNED:
                break
            look = min(int(look * GROWTH) + 1, d // 2)
        return look

    def _prune(
        self, rows: Float32Array, centroids: Float32Array, last: LabelArray, look: int
    ) -> tuple[LabelArray, Float32Array, float]:
        """Labels and squared distances of rotated rows, and the share of pairs that the first test pruned."""
        labels, squared = last.astype(np.int32), np.empty(len(rows), dtype=np.float32)
        arrays = squared, rows, centroids, last.astype(np.int64)
        faiss_.fvec_L2sqr_by_idx(*map(faiss_.swig_ptr, arrays), rows.shape[1], len(rows), 1)
        pairs, pruned = faiss_.super_kmeans_assign_iteration(
            rows, centroids, squared, labels, look, self._thresholds, self._parameters
        )
        return labels, squared, pruned / max(pairs, 1)


class RotatedRows:
    """Rows about their mean, rotated at random; kept if the memory suffices.

    Attributes
    ----------
    mean
        ``(d,) float32``: of a sample of the rows.
    reach
        Largest magnitude of all rows about the mean.
    sampled, sample
        Numbers ``(m,)`` of some rows, and these rows rotated.
    """

    def __init__(self, rows: Rows, keep_bytes: int) -> None:
        self.sampled = np.linspace(0, rows.n - 1, min(rows.n, SAMPLE)).astype(np.int64)
        sample = rows.take(self.sampled)
        self.mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._rotation = faiss.RandomRotationMatrix(rows.dim, rows.dim)
        self._rotation.init(SEED)
        self._kept = np.empty((rows.n, rows.dim), np.float32) if 4 * rows.n * rows.dim <= keep_bytes else None
        self.reach = 0.0
        with np.errstate(over="ignore"):
            for first, batch in rows.batches():
                self.reach = max(self.reach, float(np.abs(batch - self.mean).max(initial=0.0)))
                if self._kept is not None:
                    self._kept[first : first + len(batch)] = self.turn(batch)
            self.sample = self.turn(sample)

    def turn(self, rows: Float32Array) -> Float32Array:
        """``(b, d) float32`` rows about the mean, rotated."""
        turned: Float32Array = self._rotation.apply(np.ascontiguousarray(rows - self.mean))
        return turned

    def block(self, part: slice, batch: Float32Array) -> Float32Array:
        """The rotated rows of a block."""
        return self.turn(batch) if self._kept is None else self._kept[part]


def thresholds(d: int) -> Float32Array:
    """Which share of the squared distance the first ``p`` of ``d`` rotated dimensions exceed once in ``d`` times.

    A rotation at random spreads a vector over the dimensions like independent normal deviates: their squares add up as
    chi-squared with ``p`` degrees of freedom, out of ``d``. (`scipy.stats` has these quantiles, but takes 40 MB.)
    """
    p = np.arange(1, d + 1)
    return np.concatenate([[0.0], 2 * gammaincinv(p / 2, 1 - 1 / d) / d]).astype(np.float32)
