"""The rows of a scored set in memory: the cluster of each, and how far it is from centroids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shoal.store.clustering import Clustering

from clusterer.data.rows import Float32Array, IntArray


@dataclass(frozen=True)
class SetRows:
    """The rows of a scored set and their clusters, in row order.

    Attributes
    ----------
    row
        ``(n,) int64``: their numbers in the set.
    cluster
        ``(n,) int32``: the clusters that k-means found.
    distance, margin
        ``(n,) float32``; NaN where they are not stored.
    """

    row: IntArray
    cluster: NDArray[np.int32]
    distance: Float32Array
    margin: Float32Array

    @classmethod
    def of(cls, clustering: Clustering, embeddings_id: str) -> SetRows:
        """Read the rows of a set."""
        stored = set(clustering.assignments_schema().names)
        columns = [name for name in ("row", "cluster", "distance", "margin") if name in stored]
        table = clustering.assignments(embeddings_id, columns=columns)
        nothing = np.full(table.num_rows, np.nan, np.float32)
        read = {name: table.column(name).to_numpy() for name in columns}
        return cls(
            read["row"].astype(np.int64, copy=False),
            read["cluster"].astype(np.int32, copy=False),
            read.get("distance", nothing),
            read.get("margin", nothing),
        )

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        return int(self.row.nbytes + self.cluster.nbytes + self.distance.nbytes + self.margin.nbytes)
