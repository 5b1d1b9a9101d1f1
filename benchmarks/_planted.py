"""Planted groups of four shapes, for benchmarks of what finds groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Groups = NDArray[np.int64]
SHAPES = ("round", "unequal", "elongated", "rings")


def planted(shape: str, n: int = 3000, dim: int = 32, seed: int = 0, groups: int = 8) -> tuple[Rows, Groups]:
    """``(n, dim)`` rows and the group of each.

    ``round``: balanced normal groups. ``unequal``: the same with sizes from 1 to 30. ``elongated``: groups that are
    long along one direction, the same for all. ``rings``: 3 circles about one axis, whatever ``groups`` is.
    """
    rng = np.random.default_rng(seed)
    if shape == "rings":
        of, angle = np.arange(n) % 3, rng.uniform(0, 2 * np.pi, n)
        rows = np.zeros((n, dim))
        rows[:, :3] = np.stack([(1.0 + of) * np.cos(angle), (1.0 + of) * np.sin(angle), np.full(n, 1.5)], axis=1)
        return (rows + 0.02 * rng.normal(size=rows.shape)).astype(np.float32), of
    shares = np.geomspace(1, 30, groups) if shape == "unequal" else np.ones(groups)
    of = np.sort(rng.choice(groups, n, p=shares / shares.sum()))
    centres, noise = rng.normal(size=(groups, dim)), rng.normal(size=(n, dim))
    if shape == "elongated":
        rows = 0.35 * centres[of] + 0.12 * noise
        rows[:, 0] += 4 * rng.uniform(-1, 1, n)
        rows[:, 1] += 4.0  # away from the origin: directions keep their order
        return rows.astype(np.float32), of
    return (centres[of] + (1.1 if shape == "unequal" else 0.8) * noise).astype(np.float32), of
