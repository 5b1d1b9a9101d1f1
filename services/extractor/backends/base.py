"""What every backend is: something that turns batches of pixels into embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from shoal.store import ModelRecord

from extractor.images.transform import Transform


class Backend(Protocol):
    """A loaded model.

    Attributes
    ----------
    dim
        Width of an embedding.
    max_in_flight
        How many batches may be submitted before the first is taken: what keeps the device busy.
    record
        What the store notes about the model.
    transform
        What the pixels must look like; the backend applies mean and std itself.
    """

    @property
    def dim(self) -> int: ...

    @property
    def max_in_flight(self) -> int: ...

    @property
    def record(self) -> ModelRecord: ...

    @property
    def transform(self) -> Transform: ...

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Embed a batch.

        Parameters
        ----------
        pixels
            (n, size, size, 3) uint8, RGB. The caller leaves the array alone until the future is done.

        Returns
        -------
        Future of (n, dim) float32
            Row i depends on image i alone: not on the batch's size, its other images or the place in it. PyTorch on a
            CPU and the raw pixels give the same bits, in every process with the same number of threads; a GPU,
            TensorFlow and handlers the same up to 1e-5, engines what docs/engines.md says. The future raises
            `ShoalError` when the model fails.
        """
        ...

    def close(self) -> None:
        """Let go of the device and of every thread."""
        ...


@runtime_checkable
class TextBackend(Protocol):
    """What a backend is besides, whose model may embed texts into the space of its images."""

    def submit_texts(self, texts: Sequence[str]) -> Future[NDArray[np.float32]]:
        """Embed texts as (n, dim) float32, in order with the batches of images.

        Raises
        ------
        InvalidRequest
            The model has no text tower.
        """
        ...
