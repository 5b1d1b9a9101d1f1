"""An order of rows in which similar ones lie together, so that whole groups can be skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from shoal.errors import NotFinite

from clusterer.data.rows import Float32Array, IntArray, LabelArray, Rows, first_not_finite, l2_normalize
from clusterer.kmeans.fast.kernel import Frame, Kernel
from clusterer.neighbours.kernel import JoinKernel
from clusterer.neighbours.runner import Runner, in_process

SAMPLED: Final = 16_384
ROWS_PER_CENTRE: Final = 512
MOST_CENTRES: Final = 1024
ROUNDS: Final = 3
PLACED_ROWS: Final = 65_536
"""Rows that find their clusters together."""


def sample_of(rows: Rows, most: int = SAMPLED) -> Float32Array:
    """Some rows, scaled to length 1: ``(m, d) float32``, of which there are at most ``most``.

    Raises
    ------
    NotFinite
        One of them contains NaN or infinity.
    """
    chosen = np.sort(np.random.default_rng(0).choice(rows.n, min(rows.n, SAMPLED, most), replace=False))
    found = rows.take(chosen)
    at = first_not_finite(found)
    if at is not None:
        raise NotFinite(f"Row {chosen[at]} contains NaN or infinity.", row=int(chosen[at]))
    return l2_normalize(found)


@dataclass(frozen=True)
class Coarse:
    """A coarse clustering.

    Attributes
    ----------
    rows
        Those that it orders.
    centres
        ``(k, d) float32``.
    """

    rows: Rows
    kernel: JoinKernel
    frame: Frame
    centres: Float32Array


def similar_together(
    rows: Rows, kernel: JoinKernel, frame: Frame, sample: Float32Array, run: Runner = in_process
) -> IntArray:
    """The numbers ``(n,)`` of all rows by cluster, of a coarse clustering, and within it by the distance to its centre.

    Clusters follow one another by similarity. Any order is valid: it decides only how much is skipped.
    """
    k = min(MOST_CENTRES, rows.n // ROWS_PER_CENTRE, len(sample) // 4)
    if k < 2:
        return np.arange(rows.n, dtype=np.int64)
    coarse = Coarse(rows, kernel, frame, _chained(_clustered(kernel.fast, frame, sample, k)))
    labels, distances = np.empty(rows.n, np.int32), np.empty(rows.n, np.float32)
    for number, (some, far) in run(placed, coarse, range(-(-rows.n // PLACED_ROWS))):
        part = slice(number * PLACED_ROWS, number * PLACED_ROWS + len(some))
        labels[part], distances[part] = some, far
    return np.asarray(np.lexsort((distances, labels)), np.int64)


def placed(number: int, coarse: Coarse) -> tuple[LabelArray, Float32Array]:
    """The cluster of each row of a range, and the distance to its centre."""
    kernel, rows = coarse.kernel.fast, coarse.rows
    packed = kernel.pack(coarse.centres, coarse.frame)
    start = number * PLACED_ROWS
    stop = min(start + PLACED_ROWS, rows.n)
    labels, distances = np.full(stop - start, -1, np.int32), np.empty(stop - start, np.float32)
    for first, batch in rows.batches(start=start, stop=stop):
        part = slice(first - start, first - start + len(batch))
        unit, own = l2_normalize(batch), labels[part]
        kernel.assign(unit, kernel.sketch(unit, coarse.frame), packed, own)
        distances[part] = kernel.distances(unit, coarse.centres, own)
    return labels, distances


def _clustered(kernel: Kernel, frame: Frame, sample: Float32Array, k: int) -> Float32Array:
    """``(k, d)`` centres: a few rounds of k-means of a sample, from rows of it."""
    centres = sample[np.random.default_rng(1).choice(len(sample), k, replace=False)]
    sketch = kernel.sketch(sample, frame)
    labels = np.full(len(sample), -1, np.int32)
    for _ in range(ROUNDS):
        kernel.assign(sample, sketch, kernel.pack(centres, frame), labels)
        order = np.argsort(labels, kind="stable")
        found, first, count = np.unique(labels[order], return_index=True, return_counts=True)
        centres = centres.copy()
        centres[found] = np.add.reduceat(sample[order], first, axis=0) / count[:, None].astype(np.float32)
    return np.ascontiguousarray(centres, np.float32)


def _chained(centres: Float32Array) -> Float32Array:
    """The centres in an order in which each is followed by the nearest one of those left."""
    products = centres @ centres.T
    squares = np.diag(products).copy()
    left = np.ones(len(centres), bool)
    at, order = 0, [0]
    left[0] = False
    while left.any():
        at = int(np.argmin(np.where(left, squares - 2 * products[at], np.inf)))
        left[at] = False
        order.append(at)
    return centres[order]
