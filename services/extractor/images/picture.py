"""A decoded image: its pixels as RGB, whatever mode they came in, and the size of the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shoal.errors import ImageUnrecognised

Pixels = Image.Image | NDArray[np.uint8]
"""RGB as it came from the decoder: an image of mode ``RGB``, or (height, width, 3)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, upright.

    Attributes
    ----------
    pixels
        Fewer than the size says if it was decoded at a part of its size.
    width, height
        Of the whole image.
    """

    pixels: Pixels
    width: int
    height: int

    def image(self) -> Image.Image:
        """Its pixels in mode ``RGB``."""
        return self.pixels if isinstance(self.pixels, Image.Image) else Image.fromarray(self.pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image in mode ``RGB``: alpha on white, 16 bit scaled to 8.

    Raises
    ------
    ImageUnrecognised
        It has 32 bits per channel.
    """
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        image = _grey_16_to_8(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    # Pillow copies what is RGB already: 96 MB of a photograph of 24 megapixels.
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_16_to_8(image: Image.Image) -> Image.Image:
    """Scale 16 bit grey to 8 bit; ``convert("L")`` would clip nearly all values to white."""
    values = np.asarray(image)
    if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise ImageUnrecognised(
            "The image has 32 bits per channel and so no defined white: convert it to 8 or 16 bits per channel."
        )
    scaled = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    grey = Image.fromarray(scaled)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        grey = Image.merge("LA", (grey, alpha))
    return grey
