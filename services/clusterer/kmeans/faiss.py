"""The faiss engine: exact search in a flat L2 index, on the processor or on all GPUs."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from clusterer.data.rows import Float32Array, LabelArray
from clusterer.kmeans.engine import Engine, Searcher, nearest

SMALLEST, LARGEST = 1e-12, 1e17
"""Range of lengths whose squares float32 represents."""


class FaissEngine(Engine):
    """``IndexFlatL2`` over the centroids: blocked matrix products in float32 on all cores, no approximation.

    If faiss finds GPUs, each holds all centroids and searches a share of the rows.
    """

    name = "faiss"
    proven = False

    def __init__(self, reason: str = "requested") -> None:
        gpus = gpu_count()
        self.reason = f"{reason}; on {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else reason

    def searcher(self, centroids: Float32Array) -> Searcher:
        return FlatSearcher(centroids)


class FlatSearcher:
    """Searches rows among centroids, both about the centroids' mean: far from the origin, products lose digits."""

    def __init__(self, centroids: Float32Array) -> None:
        self._centroids = centroids
        self._mean = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        about_mean = centroids - self._mean
        reach = float(np.abs(about_mean).max(initial=0.0))
        self._regular = reach == 0 or SMALLEST <= reach <= LARGEST
        self._index = faiss.IndexFlatL2(centroids.shape[1])
        self._index.add(np.ascontiguousarray(about_mean))
        if gpu_count():
            self._index = on_all_gpus(self._index)

    def nearest(self, batch: Float32Array, count: int = 1) -> tuple[LabelArray, Float32Array]:
        if not self._regular:
            return nearest(batch, self._centroids, count)
        # Rows that float32 squares cannot hold come back without finite distances.
        with np.errstate(over="ignore"):
            about_mean = batch - self._mean
        squared, found = self._index.search(np.ascontiguousarray(about_mean), count)
        labels, squared = found.astype(np.int32), np.maximum(squared, 0.0)
        lost = ~np.isfinite(squared).all(axis=1) | (squared >= LARGEST**2).any(axis=1)
        if lost.any():
            labels[lost], squared[lost] = nearest(batch[lost], self._centroids, count)
        return labels, squared


def gpu_count() -> int:
    """GPUs that faiss can use; 0 with its CPU builds."""
    count: int = getattr(faiss, "get_num_gpus", lambda: 0)()
    return count


def on_all_gpus(index: Any) -> Any:
    """A copy of the index on each GPU, which is faiss's default; a search splits its rows among them."""
    return faiss.index_cpu_to_all_gpus(index)
