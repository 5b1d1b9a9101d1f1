"""RGB pixels to the network's square input, and to thumbnails, with Pillow alone.

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

from extractor.images.transform import Transform

THUMBNAIL_SIDE = 128
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def network_input(image: Image.Image, transform: Transform, *, max_pixels: int) -> NDArray[np.uint8]:
    """Resize and crop ``image``.

    Parameters
    ----------
    image
        Mode ``RGB``.
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
    width, height = resized_size(image.width, image.height, transform)
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {image.width} x {image.height} pixels and would be resized to {width} x {height}, more "
            f"than the limit of {max_pixels:,} pixels: crop the image, or use a transform with crop_mode `squash`."
        )
    resized = image.resize((width, height), INTERPOLATIONS[transform.interpolation])
    return np.asarray(_centre_crop(resized, transform.size))


def resized_size(width: int, height: int, transform: Transform) -> tuple[int, int]:
    """Width and height after resizing, before the crop."""
    side = math.floor(transform.size / transform.crop_fraction)
    if transform.crop_mode == "squash":
        return side, side
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _centre_crop(image: Image.Image, size: int) -> Image.Image:
    # Python rounds half to even, as torchvision does. Pillow fills with black where the crop exceeds the image.
    left = round((image.width - size) / 2)
    top = round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def thumbnail(image: Image.Image) -> bytes:
    """``image`` as WebP with sides of at most `THUMBNAIL_SIDE` pixels, never enlarged.

    ``image`` itself becomes the thumbnail: a copy of 24 megapixels would take 96 MB.
    """
    # Hamming looks like bicubic in a picture made smaller, in half the time.
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.HAMMING, reducing_gap=2.0)
    file = BytesIO()
    image.save(file, "WEBP", quality=80, method=2)
    return file.getvalue()
