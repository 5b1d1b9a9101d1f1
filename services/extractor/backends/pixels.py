"""The baseline without a network: the pixels themselves, scaled to [0, 1] and flattened."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray
from shoal.store import ModelRecord

from extractor.models.spec import ModelSpec


class PixelsBackend:
    """Row i is image i's pixels, normalised by the transform, in the order height, width, channel."""

    max_in_flight = 1

    def __init__(self, spec: ModelSpec, record: ModelRecord) -> None:
        self.transform = spec.transform
        self.record = record
        self.dim = 3 * spec.transform.size**2

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Embed (n, size, size, 3) uint8 as (n, 3 size²) float32."""
        mean, std = (np.asarray(v, np.float32) for v in (self.transform.mean, self.transform.std))
        future: Future[NDArray[np.float32]] = Future()
        scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        future.set_result(scaled.astype(np.float32, copy=False).reshape(len(pixels), self.dim))
        return future

    def close(self) -> None:
        """Nothing is held."""
