"""Synthetic features that resemble a network's, for benchmarks of the clusterer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
BLOCK = 8192


@dataclass(frozen=True)
class Features:
    """Synthetic features: Gaussian classes in a decaying spectrum, mixed by a rotation, through a ReLU.

    Attributes
    ----------
    classes
        Their sizes are drawn from a Dirichlet distribution.
    decay, knee
        The variance of direction ``i`` before mixing is ``(i + knee) ** -decay``.
    within
        Share of the variance that lies within the classes.
    bias
        Subtracted before the ReLU, in standard deviations: sets how many values are zero.
    """

    rows: int
    dim: int
    classes: int = 1000
    decay: float = 1.8
    knee: float = 10.0
    within: float = 0.65
    bias: float = 0.3
    seed: int = 0

    def batches(self) -> Iterator[tuple[NDArray[np.int64], Matrix]]:
        """Classes ``(b,)`` and rows ``(b, dim) float32``, block by block."""
        rng = np.random.default_rng(self.seed)
        variance = (np.arange(self.dim) + self.knee) ** -self.decay
        scale = np.sqrt(variance * self.dim / variance.sum())
        rotation = np.linalg.qr(rng.standard_normal((self.dim, self.dim), dtype=np.float32))[0]
        mix = (scale[:, None] * rotation).astype(np.float32)
        centres = rng.standard_normal((self.classes, self.dim), dtype=np.float32) * np.float32((1 - self.within) ** 0.5)
        shares = rng.dirichlet(np.full(self.classes, 5.0))
        for first in range(0, self.rows, BLOCK):
            count = min(BLOCK, self.rows - first)
            hidden = rng.standard_normal((count, self.dim), dtype=np.float32) * np.float32(self.within**0.5)
            classes = rng.choice(self.classes, count, p=shares)
            hidden += centres[classes]
            yield classes, np.maximum(hidden @ mix - np.float32(self.bias), 0)

    def write(self, path: Path) -> None:
        """Write ``(rows, dim) float32`` as .npy."""
        out = np.lib.format.open_memmap(path, "w+", np.float32, (self.rows, self.dim))
        first = 0
        for _, block in self.batches():
            out[first : first + len(block)] = block
            first += len(block)
        out.flush()
