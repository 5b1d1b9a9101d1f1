"""Rows that are far from their neighbours, and how unlikely that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, Float64Array

FALSE_DISCOVERIES: Final = 0.05
"""Share of the outliers that are none, at most, where the logarithms of distances are normally distributed."""
CONSISTENT: Final = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation."""


@dataclass(frozen=True)
class Outliers:
    """How far each row is from its neighbours.

    Attributes
    ----------
    distance
        ``(n,) float32``: Euclidean, of directions, to the k-th nearest row.
    p
        ``(n,) float64``: the share of rows that would be as far if the logarithms of distances were normal.
    outlier
        ``(n,) bool``.
    """

    distance: Float32Array
    p: Float64Array
    outlier: NDArray[np.bool_]


def find_outliers(similarity: Float32Array) -> Outliers:
    """Outliers by the distance to the k-th neighbour.

    The distances' logarithms are compared with their median, in units of their median absolute deviation, which
    outliers hardly move; ``p`` is the upper tail of the normal distribution there. A row is an outlier if the
    Benjamini-Hochberg procedure at `FALSE_DISCOVERIES` selects its ``p``: so a set without outliers has few or none,
    whatever its size.

    Parameters
    ----------
    similarity
        ``(n,)`` cosines of each row and its k-th nearest row.

    References
    ----------
    S. Ramaswamy, R. Rastogi, K. Shim, "Efficient algorithms for mining outliers from large data sets", SIGMOD 2000.
    B. Iglewicz, D. Hoaglin, "How to detect and handle outliers", 1993 (the modified z-score).
    Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", J. R. Statist. Soc. B 57 (1995).
    """
    from scipy.special import ndtr

    distance = np.sqrt(np.maximum(2.0 - 2.0 * similarity.astype(np.float64), 0.0))
    p = np.ones(len(distance))
    apart = distance > 0  # Copies have no distance; they say nothing of how far others are.
    if apart.any():
        logs = np.log(distance[apart])
        middle = np.median(logs)
        scale = CONSISTENT * np.median(np.abs(logs - middle))
        if scale > 0:
            p[apart] = ndtr(-(logs - middle) / scale)
    return Outliers(distance.astype(np.float32), p, _discoveries(p))


def _discoveries(p: Float64Array) -> NDArray[np.bool_]:
    """The hypotheses that the Benjamini-Hochberg procedure rejects."""
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= FALSE_DISCOVERIES * np.arange(1, len(p) + 1) / max(len(p), 1))
    return p <= (ordered[below[-1]] if len(below) else -1.0)
