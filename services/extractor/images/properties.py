"""What a picture looks like, in numbers: gathered while it is decoded, in a fraction of a millisecond."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from extractor.images.picture import Picture

STRIP_BYTES = 4 * 2**20
"""Pixels are taken out of Pillow's memory in strips: all at once, they would double its memory."""


class ImageProperties(NamedTuple):
    """The properties of a picture; all but the hash are those of the network's input in grey.

    Attributes
    ----------
    brightness
        Mean, 0 to 1.
    luma_1, luma_5, luma_99
        1st, 5th and 99th percentile, 0 to 1.
    entropy
        Of the histogram of 256 levels, bits: 0 to 8.
    sharpness
        Variance of the Laplacian, squared levels of 256.
    pixel_hash
        XXH3-128 of all decoded RGB pixels and the picture's size, 32 hex digits; None for a picture that was decoded at
        a part of its size.
    """

    brightness: float
    luma_1: float
    luma_5: float
    luma_99: float
    entropy: float
    sharpness: float
    pixel_hash: str | None


def properties_of(picture: Picture, network_input: NDArray[np.uint8]) -> ImageProperties:
    """The properties of ``picture``, whose input to the network is (size, size, 3) uint8."""
    grey = np.asarray(Image.fromarray(network_input).convert("L"))
    counts = np.asarray(Image.fromarray(grey).histogram(), np.int64)
    share = counts[counts > 0] / grey.size
    first, low, high = np.searchsorted(np.cumsum(counts), np.array([0.01, 0.05, 0.99]) * grey.size) / 255
    return ImageProperties(
        brightness=float(counts @ np.arange(256)) / grey.size / 255,
        luma_1=float(first),
        luma_5=float(low),
        luma_99=float(high),
        entropy=max(float(-(share * np.log2(share)).sum()), 0.0),
        sharpness=_sharpness(grey),
        pixel_hash=_pixel_hash(picture),
    )


def _sharpness(grey: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian with four neighbours, without the outermost pixels; 0 where there are no others.

    References
    ----------
    J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000.
    """
    if min(grey.shape) < 3:
        return 0.0
    levels = grey.astype(np.int16)
    found = levels[1:-1, 1:-1] * np.int16(-4)
    for neighbours in (levels[1:-1, :-2], levels[1:-1, 2:], levels[:-2, 1:-1], levels[2:, 1:-1]):
        found += neighbours
    # Sums of whole numbers, and so the same bits on every machine.
    total = int(found.sum(dtype=np.int64))
    squares = int(np.square(found, dtype=np.int32).sum(dtype=np.int64))
    return (squares * found.size - total * total) / found.size**2


def _pixel_hash(picture: Picture) -> str | None:
    pixels = picture.pixels
    height, width = (pixels.height, pixels.width) if isinstance(pixels, Image.Image) else pixels.shape[:2]
    if (width, height) != (picture.width, picture.height):
        return None
    digest = xxhash.xxh3_128(f"{width} x {height} ".encode())
    step = max(1, STRIP_BYTES // (3 * width))
    for first in range(0, height, step):
        last = min(first + step, height)
        if isinstance(pixels, Image.Image):
            digest.update(pixels.crop((0, first, width, last)).tobytes())
        else:
            digest.update(np.ascontiguousarray(pixels[first:last]).data)
    return digest.hexdigest()
