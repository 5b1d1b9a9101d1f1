"""Prices of clusters as one more dimension, in which the cheapest cluster of a row is simply the nearest.

A row goes to the cluster of least ``|x - c_j|^2 + p_j``. With a coordinate of 0 added to every row and ``sqrt(p_j)`` to
every centroid that is a squared distance, so whatever finds nearest centroids exactly finds cheapest ones exactly.
"""

from __future__ import annotations

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array, MappedRows, Rows


def pad(batch: Float32Array) -> Float32Array:
    """``(b, d)`` rows with a coordinate of 0 added."""
    return np.pad(batch, ((0, 0), (0, 1)))


def padded(rows: Rows) -> Rows:
    """A view of the rows with a coordinate of 0 added."""
    return MappedRows(rows, pad, rows.dim + 1)


def priced(centroids: Float32Array, prices: Float64Array) -> Float32Array:
    """``(k, d + 1)``: centroids with the roots of their prices added."""
    roots = np.sqrt(prices).astype(np.float32)
    return np.concatenate([centroids, roots[:, None]], axis=1)


def prices_of(centroids: Float32Array) -> Float64Array:
    """``(k,)``: the prices that `priced` centroids carry; those that `priced` gives back unchanged."""
    prices: Float64Array = centroids[:, -1].astype(np.float64) ** 2
    return prices
