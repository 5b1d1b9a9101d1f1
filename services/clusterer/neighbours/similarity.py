"""The similarity of two rows: their cosine, in float64 with a fixed order of sums, rounded to float32.

For rows ``x`` and ``y`` of float32 (float16 is converted), ``s(x, y)`` adds the products ``x[j] * y[j]`` in 32 lanes:
lane ``l`` adds those with ``j % 32 == l`` by ascending ``j``; then lanes ``l`` and ``l + 16`` are added, ``l`` and
``l + 8``, and so on to ``l`` and ``l + 1``. The product of two float32 values is exact in float64, so a fused
multiply-add gives the same bits, and so does every processor. The similarity is ``s(x, y) / (|x| |y|)`` with
``|x| = sqrt(s(x, x))``, limited to [-1, 1], and 0 for a row of zeros. It is symmetric, and 1 for equal rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array

LANES: Final = 32
AT_ONCE: Final = 2**17
"""Values of each side that are multiplied at once: they stay in the cache."""


def products(x: Float32Array, y: Float32Array) -> Float64Array:
    """``s(x[i], y[i])`` of rows ``(m, d)``: ``(m,) float64``."""
    found = np.empty(len(x), np.float64)
    step = max(1, AT_ONCE // max(x.shape[1], 1))
    for first in range(0, len(x), step):
        part = slice(first, first + step)
        found[part] = _summed(x[part], y[part])
    return found


def lengths(x: Float32Array) -> Float64Array:
    """``|x[i]|`` of rows ``(m, d)``: ``(m,) float64``."""
    return np.asarray(np.sqrt(products(x, x)), np.float64)


def similarities(x: Float32Array, y: Float32Array, x_lengths: Float64Array, y_lengths: Float64Array) -> Float32Array:
    """Similarities ``(m,) float32`` of rows ``x[i]`` and ``y[i]``, ``(m, d)``, with their lengths ``(m,)``."""
    both = x_lengths * y_lengths
    found = np.divide(products(x, y), both, out=np.zeros(len(x)), where=both > 0)
    return np.asarray(np.clip(found, -1.0, 1.0), np.float32)


def _summed(x: Float32Array, y: Float32Array) -> Float64Array:
    m, d = x.shape
    lanes = np.zeros((m, LANES), np.float64)
    for first in range(0, d, LANES):
        width = min(LANES, d - first)
        a, b = x[:, first : first + width].astype(np.float64), y[:, first : first + width]
        lanes[:, :width] += a * b
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]
