"""RGB pixels to the network's square input, and to thumbnails.

The result equals timm's evaluation transform before normalisation, pixel for pixel (torchvision's ``Resize`` and
``CenterCrop`` on PIL images). The backend normalises, on its device.
"""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shoal.errors import ImageTooLarge

from extractor.images.decode import Least
from extractor.images.picture import Picture
from extractor.images.resize import Crop, resize_and_crop
from extractor.images.transform import Transform

THUMBNAIL_SIDE = 128
MARGIN = 2
"""A scaled JPEG file keeps so many times the sides of the resized image, so that its row stays as good as the same."""


def network_input(picture: Picture | Image.Image, transform: Transform, *, max_pixels: int) -> NDArray[np.uint8]:
    """Resize and crop ``picture``.

    Parameters
    ----------
    picture
        The decoded image.
    transform
        The model's; mean and std are not applied here.
    max_pixels
        Limit of the resized image. Only images with one side a thousand times the other come near it.

    Returns
    -------
    (size, size, 3) uint8

    Raises
    ------
    ImageTooLarge
        The resized image would exceed ``max_pixels``.
    """
    whole = Picture(picture, *picture.size) if isinstance(picture, Image.Image) else picture
    width, height = resized_size(whole.width, whole.height, transform)
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {whole.width} x {whole.height} pixels and would be resized to {width} x {height}, more "
            f"than the limit of {max_pixels:,} pixels: crop the image, or use a transform with crop_mode `squash`."
        )
    # Python rounds half to even, as torchvision does.
    left, top = round((width - transform.size) / 2), round((height - transform.size) / 2)
    return resize_and_crop(whole.pixels, Crop(width, height, left, top, transform.size), transform.interpolation)


def resized_size(width: int, height: int, transform: Transform) -> tuple[int, int]:
    """Width and height after resizing, before the crop."""
    side = math.floor(transform.size / transform.crop_fraction)
    if transform.crop_mode == "squash":
        return side, side
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def least_size(transform: Transform, *, thumbnails: bool) -> Least | None:
    """The least size to decode a JPEG file at; None to decode it whole."""
    if transform.decode == "full":
        return None
    smallest = THUMBNAIL_SIDE if thumbnails else 1

    def least(width: int, height: int) -> tuple[int, int]:
        resized = resized_size(width, height, transform)
        return max(MARGIN * resized[0], smallest), max(MARGIN * resized[1], smallest)

    return least


def thumbnail(image: Image.Image) -> bytes:
    """``image`` as WebP with sides of at most `THUMBNAIL_SIDE` pixels, never enlarged.

    ``image`` itself becomes the thumbnail: a copy of 24 megapixels would take 96 MB.
    """
    # Hamming looks like bicubic in a picture made smaller, in half the time.
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.HAMMING, reducing_gap=2.0)
    file = BytesIO()
    image.save(file, "WEBP", quality=80, method=2)
    return file.getvalue()
