"""Rows made to break engines, and the truth about them: float64 distances without cancellation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Points = NDArray[np.float32]


def squared(x: Points, centroids: Points) -> NDArray[np.float64]:
    """Distances without cancellation."""
    return cdist(x.astype(np.float64), centroids.astype(np.float64), "sqeuclidean")


def features(n: int, d: int, seed: int = 0) -> Points:
    """Rows as networks make them: a few strong directions, many weak ones, most values zero."""
    rng = np.random.default_rng(seed)
    strength = (np.arange(d) + 5.0) ** -0.9
    hidden = rng.normal(size=(n, d)) * strength + 0.5 * strength * rng.normal(size=(40, d))[rng.integers(0, 40, n)]
    mixed = hidden @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    return np.maximum(mixed * 40 - 0.5, 0).astype(np.float32)


def unit_rows(n: int, d: int) -> Points:
    x = features(n, d, 1)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def far_from_the_origin(n: int, d: int) -> Points:
    return (1000 + np.random.default_rng(2).normal(size=(n, d))).astype(np.float32)


def with_outliers(n: int, d: int) -> Points:
    x = features(n, d, 3)
    x[::17] *= 1000
    x[5, 0] = 3e6
    return x


def with_zeros_and_twins(n: int, d: int) -> Points:
    x = features(n, d, 4)
    x[: n // 4] = 0
    x[n // 2 :] = x[n // 2]
    return x


def near_ties(n: int, d: int) -> Points:
    """Rows halfway between what will be centroids, up to one rounding."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[1::2] = (x[0] + x[2]) / 2 + rng.normal(size=(len(x[1::2]), d)).astype(np.float32) * 1e-6
    return x


def whole_numbers(n: int, d: int) -> Points:
    """Many exact ties."""
    return np.random.default_rng(6).integers(0, 2, size=(n, d)).astype(np.float32)


def huge(n: int, d: int) -> Points:
    return (features(n, d, 7) * 1e15).astype(np.float32)


def beyond_float32_squares(n: int, d: int) -> Points:
    return (features(n, d, 8) * 1e24).astype(np.float32)


def tiny(n: int, d: int) -> Points:
    return (features(n, d, 9) * 1e-25).astype(np.float32)


KINDS: tuple[Callable[[int, int], Points], ...] = (
    features, unit_rows, far_from_the_origin, with_outliers, with_zeros_and_twins, near_ties, whole_numbers, huge,
    beyond_float32_squares, tiny,
)  # fmt: skip
SHAPES = (
    (1, 1, 1),
    (3, 2, 2),
    (50, 5, 7),
    (97, 63, 15),
    (200, 64, 16),
    (300, 130, 33),
    (400, 513, 17),
    (700, 192, 600),
)
