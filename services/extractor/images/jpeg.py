"""JPEG by libjpeg-turbo through simplejpeg: Pillow's very pixels, in three quarters of its time.

Pillow opens the file, so that what is a JPEG, its size, its orientation and every error stay as for all formats. A file
that libjpeg-turbo warns about goes back to Pillow, which decides whether it is damaged.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

MOST_PIXELS = 2_000_000
"""Pillow decodes larger files: its own memory takes the pixels as they come, simplejpeg's would be copied there."""

_MODES = frozenset({"RGB", "L"})
"""Pillow's modes of files whose colours need no conversion of its own; CMYK does."""


def decode_jpeg(data: bytes, header: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG file.

    Parameters
    ----------
    data
        The whole file.
    header
        The same file, opened by Pillow and not loaded.

    Returns
    -------
    (height, width, 3) uint8 or None
        None when Pillow should decode the file.
    """
    if not isinstance(header, JpegImagePlugin.JpegImageFile) or header.mode not in _MODES:
        return None
    if header.width * header.height > MOST_PIXELS:
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != header.size:  # A file with two headers, of which Pillow has read the other.
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    return pixels
