"""Which rows are laid out by themselves; the others are placed by them."""

from __future__ import annotations

from typing import Final

import numpy as np

from clusterer.data.rows import Float32Array, IntArray, LabelArray

MOST_LANDMARKS: Final = 10_000
"""The time of the layout grows with the square of their number."""
NEAREST_SHARE: Final = 4
"""The nearest row of each cluster is a landmark unless that makes more than one in so many of them."""


def choose_landmarks(labels: LabelArray, distances: Float32Array, most: int, seed: int) -> IntArray:
    """Numbers of the landmarks, ascending: all rows if there are at most ``most``, else about that many of them.

    Each cluster has its share of them, drawn at random, and its nearest row.

    Parameters
    ----------
    labels, distances
        ``(n,)``: the cluster of each row, and its distance from that one's centroid.
    """
    n = len(labels)
    if n <= most:
        return np.arange(n)
    by_cluster = np.lexsort((np.random.default_rng(seed).random(n), labels))
    chosen = np.zeros(n, bool)
    nearest = np.lexsort((distances, labels))
    firsts = nearest[np.flatnonzero(np.diff(labels[nearest], prepend=-1))]
    if len(firsts) * NEAREST_SHARE <= most:
        chosen[firsts] = True
        most -= len(firsts)
    chosen[by_cluster[np.arange(most) * n // most]] = True
    return np.flatnonzero(chosen)
