"""Bytes of an image file to RGB pixels, whatever the file holds; a file that cannot be decoded says why.

Every failure is an `ImageInvalid` with its own stable code; nothing is repaired silently, since a half-grey picture
would become a wrong embedding that nobody notices.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from shoal.errors import (
    ImageEmpty,
    ImageInvalid,
    ImageOutsideRoot,
    ImageTooLarge,
    ImageTruncated,
    ImageUnreadable,
    ImageUnrecognised,
)

# The size is checked from the header in `open_image`, where the limit is the operator's and the error has a code.
Image.MAX_IMAGE_PIXELS = None

MAX_FILE_BYTES = 2**30
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image_file(root: Path, path: Path) -> bytes:
    """The bytes of ``path``, which must lie below ``root`` after following symlinks.

    Raises
    ------
    ImageUnreadable
        The file is gone, no regular file, or may not be read.
    ImageOutsideRoot
        A symlink on the way leaves ``root``.
    ImageTooLarge
        The file would fill the decode process's memory before its header is seen.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise ImageOutsideRoot("A symlink on the way leaves the configured root: put the file itself there.")
        if not real.is_file():
            raise ImageUnreadable("It is not a regular file.")
        if (size := real.stat().st_size) > MAX_FILE_BYTES:
            raise ImageTooLarge(f"The file has {size} bytes, more than the limit of {MAX_FILE_BYTES}.")
        return real.read_bytes()
    except FileNotFoundError:
        raise ImageUnreadable("The file is gone since it was listed, or its name is not valid UTF-8.") from None
    except (OSError, RuntimeError) as error:
        raise ImageUnreadable(f"The file cannot be read: {_reason(error)}.") from error


def decode_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode one image file to upright RGB: the first frame, alpha on white, 16 bit scaled to 8.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Larger images are refused from their header, before anything is decoded.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``, loaded.

    Raises
    ------
    ImageEmpty, ImageUnrecognised, ImageTooLarge, ImageTruncated
        What is wrong with the bytes.
    """
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which the pixels do not depend on.
        warnings.simplefilter("ignore")
        image = _open(data, max_pixels)
        try:
            image.load()
            return _to_rgb(_upright(image))
        except ImageInvalid:
            raise
        except MemoryError as error:
            raise ImageTooLarge(f"{image.width} x {image.height} pixels do not fit into memory.") from error
        except Exception as error:  # Given damaged bytes, decoders raise whatever they stumble over.
            raise ImageTruncated(f"The file is truncated or damaged: {_reason(error)}.") from error


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    if not data:
        raise ImageEmpty("The file has zero bytes.")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(_SIGNATURES):
            raise ImageTruncated("The file breaks off or is damaged within its header.") from None
        raise ImageUnrecognised("The content is no image in a known format, whatever the name ends with.") from None
    except Exception as error:  # As above: a damaged header can raise anything.
        raise ImageTruncated(f"The header is damaged: {_reason(error)}.") from error
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"{image.width} x {image.height} pixels are more than the limit of {max_pixels} "
            "(SHOAL_MAX_IMAGE_PIXELS): scale the image down, or raise the limit."
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable EXIF counts as none."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # EXIF is written by every camera there ever was; the pixels are good all the same.
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        image = _grey_16_to_8(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_16_to_8(image: Image.Image) -> Image.Image:
    """Scale 16 bit grey to 8 bit. ``convert("L")`` would clip instead: nearly everything would be white."""
    values = np.asarray(image)
    if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise ImageUnrecognised("Pixels of 32 bits have no defined white: convert the image to 8 or 16 bits a channel.")
    scaled = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    grey = Image.fromarray(scaled)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        grey = Image.merge("LA", (grey, alpha))
    return grey


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".") or type(error).__name__
