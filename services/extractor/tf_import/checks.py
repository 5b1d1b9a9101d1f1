"""Checks that an exported model must pass before it is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shoal.errors import ImportInvalid

TOLERANCE = 1e-3
"""Largest difference that counts as rounding, relative to the largest absolute value."""
ROWS = 3


@dataclass(frozen=True)
class Checks:
    """Results of the checks; differences are relative to the largest absolute value of the embeddings.

    Attributes
    ----------
    deterministic
        Whether two calls with the same images give the same embeddings.
    batch_difference
        Difference between an image embedded alone and in a batch; None for a random output.
    source_difference
        Difference between the export and the source; None for a random output.
    """

    deterministic: bool
    batch_difference: float | None
    source_difference: float | None


def sample_images(size: int, dtype: str) -> NDArray[Any]:
    """A few images that differ in brightness and contrast, (n, size, size, 3), values 0 to 255."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (ROWS, size, size, 3)).astype(np.float32)
    gains = np.array([1.0, 0.3, 0.6], np.float32).reshape(-1, 1, 1, 1)
    return (images * gains).astype(np.uint8).astype(dtype)


def check_export(
    served: Callable[[NDArray[Any]], NDArray[np.float32]],
    reference: NDArray[np.float32],
    images: NDArray[Any],
    *,
    random_allowed: bool,
) -> Checks:
    """Compare the export with itself and with its source.

    Parameters
    ----------
    served
        The exported signature.
    reference
        The source's own embeddings of `images`, (n, dim) float32.
    random_allowed
        Whether an output that is a random sample is accepted: true when the caller named it.

    Raises
    ------
    ImportInvalid
        An embedding is not finite, random, differs from the source, or depends on the other images of its batch.
    """
    together = _embeddings(served, images, reference)
    scale = float(np.abs(together).max()) or 1.0
    if float(np.abs(served(images) - together).max()) / scale > TOLERANCE:
        if not random_allowed:
            raise ImportInvalid(
                "This output is random: two calls with the same images differ. Choose another with --output."
            )
        return Checks(False, None, None)
    alone = np.concatenate([served(images[i : i + 1]) for i in range(len(images))])
    batch_difference = float(np.abs(alone - together).max()) / scale
    if batch_difference > TOLERANCE:
        raise ImportInvalid(
            f"An image's embedding depends on the others in its batch, by {batch_difference:.2g} of the largest value: "
            "this graph is in training mode. Export the model for inference.",
            batch_difference=batch_difference,
        )
    source_difference = float(np.abs(reference - together).max()) / scale
    if source_difference > TOLERANCE:
        raise ImportInvalid(
            f"The export differs from its source by {source_difference:.2g} of the largest value: this layout is not "
            "supported.",
            source_difference=source_difference,
        )
    return Checks(True, batch_difference, source_difference)


def _embeddings(
    served: Callable[[NDArray[Any]], NDArray[np.float32]], images: NDArray[Any], reference: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The export's embeddings of `images`: finite, float32 and of the source's shape."""
    embeddings = served(images)
    if embeddings.shape != reference.shape or embeddings.dtype != np.float32:
        raise ImportInvalid(
            f"The export gives {embeddings.dtype} {embeddings.shape} for {len(images)} images, but its source gives "
            f"float32 {reference.shape}."
        )
    if not np.isfinite(embeddings).all():
        raise ImportInvalid("The embeddings are not finite: the weights are damaged, or the input scaling is wrong.")
    return embeddings
