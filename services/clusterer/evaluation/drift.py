"""How rows that were assigned later differ from the rows that the clusters were fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri
from shoal.errors import JsonValue

from clusterer.data.rows import Float32Array, Float64Array, IntArray

MODERATE, LARGE = 0.1, 0.25
"""Values of the population stability index from which a shift is usually called moderate, and large."""
CHANCE = 0.05
"""How often rows of the train set's own kind exceed the value that is called chance."""
TENTHS = 10
"""Groups that the train rows' distances are cut into."""


@dataclass(frozen=True)
class Shift:
    """The difference between two counts of the same cells.

    Attributes
    ----------
    psi
        The population stability index, the sum of ``parts``.
    parts
        ``(cells,) float64``: the term of each cell, never below 0.
    expected, chance
        What rows of the same distribution have on average, and what 1 in 20 such samples exceed.
    """

    psi: float
    parts: Float64Array
    expected: float
    chance: float

    def record(self) -> dict[str, JsonValue]:
        """As JSON values; ``shift`` names the usual grades."""
        shift = "large" if self.psi >= LARGE else "moderate" if self.psi >= MODERATE else "small"
        return {
            "psi": self.psi,
            "shift": shift,
            "psi_expected": self.expected,
            "psi_chance": self.chance,
            "beyond_chance": self.psi > self.chance,
        }


def stability(before: IntArray, after: IntArray) -> Shift:
    """The population stability index between two counts of the same cells.

    ``sum((q - p) * ln(q / p))`` over the cells, where ``p`` and ``q`` are the shares of the rows before and after: the
    symmetrised Kullback-Leibler divergence. Half a row is added to each cell that has any, so that one without rows on
    one side has a share. Cells that are empty on both sides count for nothing.

    Between two samples of one distribution it is about ``(1 / n + 1 / m)`` times a chi-squared variable with one degree
    of freedom less than there are cells. With many cells or few rows that alone exceeds the usual grades: compare with
    ``chance``.

    Parameters
    ----------
    before, after
        ``(cells,)`` rows of each cell.

    References
    ----------
    N. Siddiqi: Credit Risk Scorecards. Wiley, 2006: the index, and its grades 0.1 and 0.25.
    B. Yurdakul, J. Naranjo: Statistical properties of the population stability index. Journal of Risk Model Validation
    14 (4), 2020: its distribution.
    """
    parts = np.zeros(len(before))
    used = (before > 0) | (after > 0)
    cells, n, m = int(np.count_nonzero(used)), int(before.sum()), int(after.sum())
    if cells < 2 or not n or not m:
        return Shift(0.0, parts, 0.0, 0.0)
    p = (before[used] + 0.5) / (n + 0.5 * cells)
    q = (after[used] + 0.5) / (m + 0.5 * cells)
    parts[used] = (q - p) * np.log(q / p)
    scale = 1 / n + 1 / m
    return Shift(float(parts.sum()), parts, scale * (cells - 1), scale * float(chdtri(cells - 1, CHANCE)))


def tenths(distances: Float32Array) -> Float32Array:
    """``(at most 9,)``: distances that cut sorted ones into ten parts of equal size, as far as ties allow."""
    at = np.ceil(np.arange(1, TENTHS) / TENTHS * len(distances)).astype(np.int64) - 1
    return np.unique(distances[np.maximum(at, 0)])


def counted(distances: Float32Array, borders: Float32Array) -> IntArray:
    """How many distances lie up to each border, and beyond the last."""
    return np.bincount(np.searchsorted(borders, distances, side="left"), minlength=len(borders) + 1).astype(np.int64)
