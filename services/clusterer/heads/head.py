"""A trained head: it turns rows into probabilities of clusters.

NumPy computes them, in a job as in the API: a new row gets the bits that it has in a job, and no process needs PyTorch
but the one that trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from clusterer.data.partitions import OnRows, Partition
from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray, Rows
from clusterer.data.transform import project
from clusterer.kmeans.assigned import Assigned
from clusterer.kmeans.engine import sum_by_label


@dataclass(frozen=True)
class Layer:
    """A linear layer.

    Attributes
    ----------
    weights
        ``(d_in, d_out) float32``.
    bias
        ``(d_out,) float32``.
    """

    weights: Float32Array
    bias: Float32Array

    def __call__(self, batch: Float32Array) -> Float32Array:
        """``batch @ weights + bias``, the same bits for a row whatever rows are beside it."""
        found = project(batch, np.zeros(batch.shape[1], np.float32), self.weights)
        found += self.bias
        return found


@dataclass(frozen=True)
class Network:
    """The logits of clusters: one linear layer, or several with GELU between them and unit length before the last.

    Attributes
    ----------
    layers
        At least one; the last one's outputs are the logits, temperature included.
    """

    layers: tuple[Layer, ...]

    def __call__(self, batch: Float32Array) -> Float32Array:
        """``(b, k) float32`` logits of ``(b, d) float32`` rows."""
        *hidden, last = self.layers
        for number, layer in enumerate(hidden):
            batch = layer(batch if number == 0 else _gelu(batch))
        return last(_unit(batch) if hidden else batch)


@dataclass(frozen=True)
class Head:
    """Probabilities of clusters: the mean over networks, each of which sees some of the columns.

    Attributes
    ----------
    widths
        Columns of each network, which follow each other: those of a feature space, or all.
    networks
        As many.
    """

    widths: tuple[int, ...]
    networks: tuple[Network, ...]

    @property
    def k(self) -> int:
        """Number of clusters."""
        return len(self.networks[0].layers[-1].bias)

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        return sum(array.nbytes for array in self.arrays().values())

    def probabilities(self, batch: Float32Array) -> Float32Array:
        """``(b, k) float32``, each row with the sum 1, of ``(b, d) float32`` rows in the head's space."""
        found = np.zeros((len(batch), self.k), np.float32)
        first = 0
        for width, network in zip(self.widths, self.networks, strict=True):
            found += _softmax(network(np.ascontiguousarray(batch[:, first : first + width])))
            first += width
        found /= np.float32(len(self.networks))
        return found

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays, for ``head.npz``."""
        named: dict[str, NDArray[np.generic]] = {"widths": np.asarray(self.widths, np.int64)}
        for place, network in enumerate(self.networks):
            for number, layer in enumerate(network.layers):
                named[f"weights_{place}_{number}"] = layer.weights
                named[f"bias_{place}_{number}"] = layer.bias
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Head:
        """The inverse of `arrays`.

        Raises
        ------
        KeyError
            An array is missing.
        """
        widths = tuple(int(each) for each in arrays["widths"])
        return cls(widths, tuple(Network(tuple(_layers(arrays, place))) for place in range(len(widths))))


def _layers(arrays: Mapping[str, NDArray[np.generic]], place: int) -> Iterator[Layer]:
    number = 0
    while number == 0 or f"weights_{place}_{number}" in arrays:
        weights, bias = (np.asarray(arrays[f"{name}_{place}_{number}"], np.float32) for name in ("weights", "bias"))
        yield Layer(weights, bias)
        number += 1


@dataclass(frozen=True)
class HeadTarget:
    """The clusters of one head, ready for rows; immutable, so that many threads may use one.

    Attributes
    ----------
    centroids
        ``(k, d) float32``: the mean rows of the clusters, from which distances are taken.
    """

    head: Head
    centroids: Float32Array

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        return self.head.bytes + self.centroids.nbytes

    def assign(self, batch: Float32Array) -> Assigned:
        """The most probable cluster of ``(b, d) float32`` rows, already in the head's space; of equals the first.

        The margin is how much its probability exceeds the second largest.
        """
        probabilities = self.head.probabilities(batch)
        labels = probabilities.argmax(axis=1).astype(np.int32)
        second, largest = np.partition(probabilities, -2, axis=1)[:, -2:].T
        difference = batch - self.centroids[labels]
        squared = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
        return Assigned(
            labels,
            np.sqrt(squared).astype(np.float32),
            largest - second,
            float(squared.sum()),
            np.ascontiguousarray(largest),
        )


@dataclass(frozen=True)
class HeadStep:
    """Assigns the rows of a partition by the head of each seed; with the inertia of each block.

    Attributes
    ----------
    heads, centroids
        By seed; see `HeadTarget`.
    """

    heads: Mapping[int, Head]
    centroids: Mapping[int, Float32Array]
    COLUMNS: ClassVar = ("labels", "distance", "margin", "probability")

    def __call__(self, partition: Partition, on_rows: OnRows) -> dict[int, tuple[Assigned, list[float]]]:
        parts: dict[int, list[Assigned]] = {seed: [] for seed in self.heads}
        targets = {seed: HeadTarget(head, self.centroids[seed]) for seed, head in self.heads.items()}
        for chunk in partition.chunks():
            for _, batch in partition.batches(chunk, on_rows):
                for seed, target in targets.items():
                    parts[seed].append(target.assign(batch))
        return {seed: (_joined(found), [each.inertia for each in found]) for seed, found in parts.items()}


def _joined(parts: list[Assigned]) -> Assigned:
    columns = {name: np.concatenate([getattr(each, name) for each in parts]) for name in HeadStep.COLUMNS}
    return Assigned(**columns, inertia=math.fsum(each.inertia for each in parts))


@dataclass(frozen=True)
class Means:
    """What one pass over the train set finds with a head.

    Attributes
    ----------
    centroids
        ``(k, d) float32``: the mean row of each cluster; of one without rows the mean of all rows, weighted by its
        probability.
    labels
        ``(n,) int32``.
    inertia
        Sum of the squared distances of all rows to the centroids of their clusters.
    """

    centroids: Float32Array
    labels: LabelArray
    inertia: float

    @classmethod
    def of(cls, rows: Rows, head: Head, on_rows: OnRows) -> Means:
        """Read all ``(n, d)`` rows once."""
        labels = np.empty(rows.n, np.int32)
        sums, weighted = np.zeros((head.k, rows.dim)), np.zeros((head.k, rows.dim))
        weights, squares = np.zeros(head.k), 0.0
        for first, batch in rows.batches():
            probabilities = head.probabilities(batch)
            own = probabilities.argmax(axis=1).astype(np.int32)
            labels[first : first + len(batch)] = own
            sums += sum_by_label(batch, own, head.k)
            weighted += probabilities.T @ batch
            weights += probabilities.sum(axis=0, dtype=np.float64)
            squares += float(np.einsum("ij,ij->", batch, batch, dtype=np.float64))
            on_rows(first + len(batch))
        counts: IntArray = np.bincount(labels, minlength=head.k)
        means: Float64Array = weighted / np.maximum(weights, np.finfo(np.float64).tiny)[:, None]
        filled = counts > 0
        means[filled] = sums[filled] / counts[filled, None]
        within = squares - float((counts * np.einsum("ij,ij->i", means, means)).sum())
        return cls(means.astype(np.float32), labels, max(within, 0.0))


def _softmax(logits: Float32Array) -> Float32Array:
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _gelu(batch: Float32Array) -> Float32Array:
    """Hendrycks, Gimpel: Gaussian error linear units. arXiv 1606.08415."""
    half, root = np.float32(0.5), np.float32(1 / math.sqrt(2))
    found: Float32Array = half * batch * (1 + erf(batch * root))
    return found


def _unit(batch: Float32Array) -> Float32Array:
    """Rows at unit length, as PyTorch's `normalize` scales them."""
    lengths = np.sqrt(np.einsum("ij,ij->i", batch, batch, dtype=np.float64))
    scaled: Float32Array = batch / np.maximum(lengths, 1e-12)[:, None].astype(np.float32)
    return scaled
