"""Chooses the directions of short sketches, and predicts whether they pay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clusterer.data.rows import Float32Array
from clusterer.kmeans.fast.kernel import Frame, Kernel, Projection

PROBES = 192
WIDTHS = (64, 128, 256)
WORTHWHILE = 0.6
"""Predicted cost of a pass, relative to one without short sketches, from which they are not used."""
CENTROID_WEIGHT = 4.0
SLACK = 0.03
"""Width of the intervals that the rounding to bytes leaves, relative to the lengths of row and centroid."""


@dataclass(frozen=True)
class Guess:
    """A width for short sketches.

    Attributes
    ----------
    p
        Number of directions.
    cost
        Predicted cost of a pass, relative to products of full sketches with all centroids.
    """

    p: int
    cost: float


def choose_projection(kernel: Kernel, frame: Frame, sample: Float32Array, centroids: Float32Array) -> Projection | None:
    """Directions for short sketches, or None if they would save little.

    Parameters
    ----------
    sample
        Some rows, ``(m, d) float32``.
    centroids
        ``(k, d) float32``, of an assignment so far.
    """
    rows, w = kernel.rotate(sample, frame), kernel.rotate(centroids, frame)
    widths = [p for p in WIDTHS if 4 * p <= rows.shape[1]]
    if not widths or not rows.any() or not w.any():
        return None
    probes = rows[:: max(1, len(rows) // PROBES)][:PROBES]
    basis = leading_directions(rows, w, widths[-1])
    best = min((predict(probes, w, basis[:, :p], kernel.single_cost) for p in widths), key=lambda guess: guess.cost)
    return kernel.projection(basis[:, : best.p]) if best.cost < WORTHWHILE else None


def leading_directions(rows: Float32Array, centroids: Float32Array, p: int) -> Float32Array:
    """``(dims, p)`` orthonormal directions with small residuals of rows and of centroids, most important first.

    The bounds lose the product of the residual lengths of a row and of a centroid, so both count: their second moments
    are added, each scaled to its trace. Subspace iteration from a seeded random start approximates the directions,
    which suffices because the bounds hold for any directions.

    References
    ----------
    Halko, Martinsson, Tropp: Finding structure with randomness. SIAM Review 53 (2011).
    """
    stack = np.vstack([rows / np.linalg.norm(rows), centroids * (CENTROID_WEIGHT**0.5 / np.linalg.norm(centroids))])
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((stack.shape[1], p), dtype=np.float32)
    for _ in range(2):
        directions = _orthonormal(stack.T @ (stack @ directions))
    image = stack @ directions
    _weights, turn = np.linalg.eigh(image.T @ image)
    ordered: Float32Array = directions @ turn[:, ::-1]
    return ordered


def _orthonormal(columns: Float32Array) -> Float32Array:
    """An orthonormal basis of the columns; a QR decomposition takes longer and does not use threads."""
    weights, turn = np.linalg.eigh(columns.T.astype(np.float64) @ columns)
    scale = 1 / np.sqrt(np.maximum(weights, 1e-12 * max(float(weights[-1]), 1e-300)))
    basis: Float32Array = columns @ (turn * scale).astype(np.float32)
    return basis


def predict(rows: Float32Array, centroids: Float32Array, basis: Float32Array, single_cost: float) -> Guess:
    """The predicted cost of a pass with short sketches along ``basis``, from the candidates they leave some rows."""
    x2, c2 = np.einsum("ij,ij->i", rows, rows), np.einsum("ij,ij->i", centroids, centroids)
    y, v = rows @ basis, centroids @ basis
    y_rest = np.sqrt(np.maximum(x2 - np.einsum("ij,ij->i", y, y), 0.0))
    v_rest = np.sqrt(np.maximum(c2 - np.einsum("ij,ij->i", v, v), 0.0))
    slack = SLACK * np.sqrt(x2)[:, None] * np.sqrt(c2)
    least = (c2 / 2 - rows @ centroids.T + slack).min(axis=1)
    low = c2 / 2 - y @ v.T - y_rest[:, None] * v_rest - slack
    candidates = float((low <= least[:, None]).sum(axis=1).mean())
    p, dims = basis.shape[1], rows.shape[1]
    return Guess(p, p / dims + single_cost * candidates / len(centroids))
