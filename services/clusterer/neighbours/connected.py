"""The graph of nearest rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clusterer.data.rows import Float32Array, IntArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def connected(rows: IntArray, weights: Float32Array) -> csr_matrix:
    """The symmetric graph ``(n, n) float32`` of the nearest rows ``(n, k)`` of every row.

    Two rows are connected by the sum of the weights ``(n, k)`` with which each is near to the other.
    """
    from scipy.sparse import csr_matrix

    n, k = rows.shape
    graph = csr_matrix((weights.ravel(), rows.ravel().astype(np.int32), np.arange(0, n * k + 1, k)), (n, n))
    graph = (graph + graph.T).tocsr()
    graph.sort_indices()
    return graph
