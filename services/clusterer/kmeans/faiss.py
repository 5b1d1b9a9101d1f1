"""The faiss engine: exact search in a flat L2 index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from clusterer.kmeans.engine import Engine, Searcher
from clusterer.rows import Float32Array, LabelArray


class FaissEngine(Engine):
    """``IndexFlatL2`` over the centroids: blocked matrix products in float32 on all cores, no approximation."""

    name = "faiss"

    def __init__(self, reason: str = "asked for") -> None:
        self.reason = reason

    def searcher(self, centroids: Float32Array) -> Searcher:
        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(np.ascontiguousarray(centroids, dtype=np.float32))
        return _FlatSearcher(index)


@dataclass(frozen=True)
class _FlatSearcher:
    index: Any

    def nearest(self, batch: Float32Array, count: int = 1) -> tuple[LabelArray, Float32Array]:
        squared, labels = self.index.search(np.ascontiguousarray(batch, dtype=np.float32), count)
        return labels.astype(np.int32), np.maximum(squared, 0.0)
