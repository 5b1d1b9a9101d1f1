"""Spherical k-means: centroids are directions."""

from __future__ import annotations

from clusterer.data.rows import Float32Array, l2_normalize
from clusterer.kmeans.engine import Assignment
from clusterer.kmeans.lloyd import Constraint


class UnitLength(Constraint):
    """Scales every centroid to unit length: among rows of unit length, nearest then means largest cosine [1]_.

    A centroid of zeros, the mean of rows that cancel each other, stays where it is.

    References
    ----------
    .. [1] Dhillon, Modha: Concept decompositions for large sparse text data using clustering. Machine Learning, 2001.
    """

    def apply(self, means: Float32Array, last: Float32Array, found: Assignment) -> Float32Array:
        return l2_normalize(means)
