"""Assigns rows to the centroids of every seed in one read of the rows; clusters may have prices.

With prices a row goes to the cluster of least ``|x - c_j|^2 + p_j``. A coordinate of 0 added to every row and
``sqrt(p_j)`` added to every centroid turn that cost into a squared distance, so an engine that finds nearest centroids
exactly also finds cheapest clusters exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array, LabelArray, MappedRows, Rows
from clusterer.kmeans.engine import Engine, OnRows


@dataclass(frozen=True)
class Assigned:
    """The clusters of a set of rows.

    Attributes
    ----------
    labels
        ``(n,) int32``: the nearest centroid; with prices the cheapest.
    distance
        ``(n,) float32``: Euclidean distance to it.
    margin
        ``(n,) float32``: how much farther the second nearest is; 0 on the border between two clusters. With prices,
        distances of this comparison are roots of squared distance plus price.
    inertia
        Sum of the squared distances.
    """

    labels: LabelArray
    distance: Float32Array
    margin: Float32Array
    inertia: float

    @classmethod
    def labels_only(cls, labels: LabelArray, inertia: float) -> Assigned:
        """Of rows whose distances and margins are not needed: both are empty."""
        nothing = np.empty(0, np.float32)
        return cls(labels, nothing, nothing, inertia)


def assign(
    rows: Rows,
    centroids: Mapping[int, Float32Array],
    engine: Engine,
    *,
    prices: Mapping[int, Float64Array] | None = None,
    on_rows: OnRows | None = None,
) -> dict[int, Assigned]:
    """Assign ``rows``, already in the centroids' space, to the centroids of each seed.

    The engine finds the two nearest centroids; the distances to them are then taken from the differences themselves,
    since the engine's own, from products, lose digits for rows close to their centroid.

    Parameters
    ----------
    prices
        By seed, ``(k,) float64``: what each cluster adds to the squared distance when clusters are compared.
    """
    priced_seeds = prices or {}
    targets = {
        seed: priced(each, priced_seeds[seed]) if seed in priced_seeds else each for seed, each in centroids.items()
    }
    searchers = {seed: engine.searcher(each) for seed, each in targets.items()}
    found = {seed: _empty(rows.n) for seed in centroids}
    inertias = dict.fromkeys(centroids, 0.0)
    for first, batch in rows.batches():
        part = slice(first, first + len(batch))
        for seed, searcher in searchers.items():
            labels, _ = searcher.nearest(pad(batch) if seed in priced_seeds else batch, 2)
            squared = np.stack([_squared(batch, centroids[seed], labels[:, rank]) for rank in (0, 1)], axis=1)
            costs = squared + priced_seeds[seed][labels] if seed in priced_seeds else squared
            own = np.where(costs[:, 1] < costs[:, 0], 1, 0)[:, None]
            nearest = np.take_along_axis(squared, own, axis=1)[:, 0]
            into = found[seed]
            into.labels[part] = np.take_along_axis(labels, own, axis=1)[:, 0]
            into.distance[part] = np.sqrt(nearest)
            into.margin[part] = np.sqrt(costs.max(axis=1)) - np.sqrt(costs.min(axis=1))
            inertias[seed] += float(nearest.sum())
        if on_rows is not None:
            on_rows(part.stop)
    return {seed: Assigned(each.labels, each.distance, each.margin, inertias[seed]) for seed, each in found.items()}


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


def _empty(n: int) -> Assigned:
    return Assigned(np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32), 0.0)


def _squared(batch: Float32Array, centroids: Float32Array, labels: LabelArray) -> Float64Array:
    difference = batch - centroids[labels]
    squared: Float64Array = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return squared
