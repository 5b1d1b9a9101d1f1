"""How well clusters agree with nearest neighbours: a figure that needs no labels, and no centroids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, IntArray, Rows

SAMPLE_ROWS, BLOCK_ROWS, NEAREST = 5000, 500, 10
"""Rows that are looked at, how many at a time, and the nearest others of each among them."""
_STREAM: Final = 0x4ED


@dataclass(frozen=True)
class Neighbourhood:
    """Some rows of a set and, for each of them, the nearest others among them.

    Attributes
    ----------
    rows
        ``(s,)``: their numbers, ascending.
    nearest
        ``(s, m)``: places in ``rows``, by Euclidean distance.
    """

    rows: IntArray
    nearest: NDArray[np.int32]

    @classmethod
    def of(cls, rows: Rows) -> Neighbourhood:
        """All rows of a small set, a sample of a large one; always the same of the same number of rows."""
        count = min(rows.n, SAMPLE_ROWS)
        chosen = np.sort(np.random.default_rng(_STREAM).choice(rows.n, count, replace=False)).astype(np.int64)
        return cls(chosen, _nearest(rows.take(chosen), min(NEAREST, count - 1)))

    def agreement(self, labels: IntArray, k: int) -> float:
        """How much more often than by chance neighbours are in one cluster (Cohen's kappa): 1 always, 0 by chance.

        Parameters
        ----------
        labels
            ``(n,)``: the clusters of all rows of the set.
        k
            Number of clusters. One in which all rows lie gives 0.
        """
        own = labels[self.rows]
        shares = np.bincount(own, minlength=k) / len(own)
        chance = float((shares**2).sum())
        if chance >= 1:
            return 0.0
        together = float((own[self.nearest] == own[:, None]).mean())
        return (together - chance) / (1 - chance)


def _nearest(sample: Float32Array, count: int) -> NDArray[np.int32]:
    with np.errstate(over="ignore"):
        half = np.einsum("ij,ij->i", sample, sample) / 2
    found = np.empty((len(sample), count), np.int32)
    for first in range(0, len(sample), BLOCK_ROWS):
        block = sample[first : first + BLOCK_ROWS]
        with np.errstate(over="ignore", invalid="ignore"):  # The probe of the head refuses such rows.
            distances = half - block @ sample.T
        distances[np.arange(len(block)), np.arange(first, first + len(block))] = np.inf
        found[first : first + len(block)] = np.argpartition(distances, count - 1, axis=1)[:, :count]
    return found
