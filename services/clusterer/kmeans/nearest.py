"""Squared distances and nearest centroids in plain numpy: for few rows, and as the reference of the engines."""

from __future__ import annotations

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array, LabelArray

BLOCK_CELLS = 2**21
FLOAT32_MAX = float(np.finfo(np.float32).max)


def squared_distances(batch: Float32Array, centroids: Float32Array) -> Float64Array:
    """Squared Euclidean distances ``(b, k) float64`` of ``(b, d)`` rows to ``(k, d)`` centroids, never below 0.

    Products are taken in float64 about the mean of the centroids: the expansion ``|x|^2 + |c|^2 - 2 x.c`` loses digits
    when rows and centroids lie far from the origin and close to each other.
    """
    middle = centroids.mean(axis=0, dtype=np.float64)
    x, c = batch - middle, centroids - middle
    squared: Float64Array = np.add.outer(np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", c, c))
    products = x @ c.T
    products *= 2.0
    squared -= products
    return np.maximum(squared, 0.0, out=squared)


def nearest(batch: Float32Array, centroids: Float32Array, count: int = 1) -> tuple[LabelArray, Float32Array]:
    """The ``count`` nearest centroids of each row, nearest first; of equals the first.

    Returns
    -------
    labels
        ``(b, count) int32``.
    squared
        ``(b, count) float32`` squared distances; the largest float32 stands for what is larger still.
    """
    b, k = len(batch), len(centroids)
    labels = np.empty((b, count), dtype=np.int32)
    squared = np.empty((b, count), dtype=np.float32)
    step = max(1, BLOCK_CELLS // max(k, 1))
    for first in range(0, b, step):
        part = slice(first, first + step)
        table = squared_distances(batch[part], centroids)
        for rank in range(count):
            closest = table.argmin(axis=1)
            labels[part, rank] = closest
            squared[part, rank] = np.minimum(table[np.arange(len(table)), closest], FLOAT32_MAX)
            table[np.arange(len(table)), closest] = np.inf
    return labels, squared


def distance_and_margin(squared: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Distance to the own centroid, and how much farther the next one is, from ``(b, 2)`` squared distances."""
    distances = np.sqrt(np.maximum(squared, 0.0))
    return distances[:, 0], distances[:, 1] - distances[:, 0]
