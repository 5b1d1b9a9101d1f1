"""Clusters of rows, given the centroids: `assign` runs an engine over a set for the centroids of all seeds.

Clusters may have prices: a row then goes to the cluster of least ``|x - c_j|^2 + p_j``. A coordinate of 0 added to
every row and ``sqrt(p_j)`` added to every centroid turn that cost into a squared distance, so an engine that finds
nearest centroids exactly also finds cheapest clusters exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clusterer.data.partitions import OnRows, Partition, joined, partitions_of
from clusterer.data.rows import Float32Array, Float64Array, LabelArray, MappedRows, Rows
from clusterer.kmeans.engine import Engine, Searcher


@dataclass(frozen=True)
class Assigned:
    """The clusters of a set of rows.

    Attributes
    ----------
    labels
        ``(n,) int32``: the nearest centroid; with prices the cheapest; by a head the most probable cluster.
    distance
        ``(n,) float32``: Euclidean distance to it.
    margin
        ``(n,) float32``: how much farther the second nearest is; 0 on the border between two clusters. With prices,
        distances of this comparison are roots of squared distance plus price. By a head: how much more probable the
        cluster is than the second.
    inertia
        Sum of the squared distances.
    probability
        ``(n,) float32``: of the cluster, by a head; None without one.
    """

    labels: LabelArray
    distance: Float32Array
    margin: Float32Array
    inertia: float
    probability: Float32Array | None = None

    @classmethod
    def labels_only(cls, labels: LabelArray, inertia: float) -> Assigned:
        """Of rows whose distances and margins are not needed: both are empty."""
        nothing = np.empty(0, np.float32)
        return cls(labels, nothing, nothing, inertia)


@dataclass(frozen=True)
class Target:
    """The clusters of one seed, ready to be searched; immutable, so that many threads may use one.

    The engine finds the two nearest centroids; the distances to them are then taken from the differences themselves,
    since the engine's own, from products, lose digits for rows close to their centroid.

    Attributes
    ----------
    centroids
        ``(k, d) float32``.
    prices
        ``(k,) float64``: what each cluster adds to the squared distance when clusters are compared; None for nothing.
    searcher
        Searches `centroids`, with prices `priced` ones.
    """

    centroids: Float32Array
    prices: Float64Array | None
    searcher: Searcher

    @classmethod
    def of(cls, centroids: Float32Array, engine: Engine, prices: Float64Array | None = None) -> Target:
        """The target for an engine."""
        return cls(centroids, prices, engine.searcher(centroids if prices is None else priced(centroids, prices)))

    def assign(self, batch: Float32Array) -> Assigned:
        """The clusters of ``(b, d) float32`` rows, already in the centroids' space."""
        labels, _ = self.searcher.nearest(batch if self.prices is None else pad(batch), 2)
        squared = np.stack([_squared(batch, self.centroids, labels[:, rank]) for rank in (0, 1)], axis=1)
        costs = squared if self.prices is None else squared + self.prices[labels]
        own = np.where(costs[:, 1] < costs[:, 0], 1, 0)[:, None]
        least = np.take_along_axis(squared, own, axis=1)[:, 0]
        margin = np.sqrt(costs.max(axis=1)) - np.sqrt(costs.min(axis=1))
        return Assigned(
            np.take_along_axis(labels, own, axis=1)[:, 0],
            np.sqrt(least).astype(np.float32),
            margin.astype(np.float32),
            float(least.sum()),
        )


@dataclass(frozen=True)
class AssignStep:
    """Assigns the rows of a partition to the centroids of each seed; with the inertia of each block.

    Attributes
    ----------
    centroids, prices
        By seed; see `Target`.
    """

    engine: Engine
    centroids: Mapping[int, Float32Array]
    prices: Mapping[int, Float64Array]

    def __call__(self, partition: Partition, on_rows: OnRows) -> dict[int, tuple[Assigned, list[float]]]:
        targets = {seed: Target.of(each, self.engine, self.prices.get(seed)) for seed, each in self.centroids.items()}
        found = {seed: (_empty(partition.rows.n), list[float]()) for seed in targets}
        for chunk in partition.chunks():
            for first, batch in partition.batches(chunk, on_rows):
                part = slice(first, first + len(batch))
                for seed, target in targets.items():
                    block, (into, inertias) = target.assign(batch), found[seed]
                    into.labels[part], into.distance[part], into.margin[part] = (
                        block.labels,
                        block.distance,
                        block.margin,
                    )
                    inertias.append(block.inertia)
        return found


def assign(
    rows: Rows,
    centroids: Mapping[int, Float32Array],
    engine: Engine,
    *,
    prices: Mapping[int, Float64Array] | None = None,
    on_rows: OnRows | None = None,
) -> dict[int, Assigned]:
    """Assign ``rows``, already in the centroids' space, to the centroids of each seed.

    Parameters
    ----------
    prices
        By seed; see `Target`.
    """
    return assign_by(AssignStep(engine, centroids, prices or {}), rows, on_rows)


class Assigning(Protocol):
    """A step that assigns the rows of a partition with each seed; with the inertia of each block."""

    @property
    def centroids(self) -> Mapping[int, Float32Array]:
        """By seed."""
        ...

    def __call__(self, partition: Partition, on_rows: OnRows) -> dict[int, tuple[Assigned, list[float]]]: ...


def assign_by(step: Assigning, rows: Rows, on_rows: OnRows | None = None) -> dict[int, Assigned]:
    """What a step finds for all ``rows``, by seed."""
    found = partitions_of(rows).run(step, on_rows=on_rows)
    return {seed: _joined([each[seed] for each in found]) for seed in step.centroids}


def _joined(parts: list[tuple[Assigned, list[float]]]) -> Assigned:
    """One seed's clusters of all partitions."""
    columns = {name: joined([getattr(each, name) for each, _ in parts]) for name in ("labels", "distance", "margin")}
    inertia = math.fsum(value for _, inertias in parts for value in inertias)
    probabilities = [each.probability for each, _ in parts if each.probability is not None]
    return Assigned(**columns, inertia=inertia, probability=joined(probabilities) if probabilities else None)


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
