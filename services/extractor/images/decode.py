"""Bytes of an image file to RGB pixels, whatever the file holds; a file that cannot be decoded says why.

Every failure is an `ImageInvalid` with its own stable code; nothing is repaired silently, since a half-grey picture
would become a wrong embedding that nobody notices.
"""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from shoal.errors import (
    ImageChanged,
    ImageEmpty,
    ImageInvalid,
    ImageOutsideRoot,
    ImageRemoved,
    ImageTooLarge,
    ImageTruncated,
    ImageUnreadable,
    ImageUnrecognised,
    ImageUnsupported,
    PathOutsideRoot,
)
from shoal.userfiles import open_confined

from extractor.images.formats import DECODED, SNIFFED_BYTES, sniff

# The size is checked from the header in `open_image`, where the limit is the operator's and the error has a code.
Image.MAX_IMAGE_PIXELS = None

MAX_FILE_BYTES = 2**30

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


def stamp_of(status: os.stat_result) -> str:
    """Changes when the file does: what the listing notes, and what is compared when the file is read."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def read_image_file(root: Path, path: Path, stamp: str | None = None) -> bytes:
    """The bytes of ``path``, which must lie below ``root`` after following symlinks.

    Parameters
    ----------
    stamp
        What the listing says of the file; None when it was never listed. Compared before and after reading with what
        is true of the very file that is read.

    Raises
    ------
    ImageChanged
        The file is not the one that was listed, or was written to while it was read.
    ImageRemoved
        It is not there any more.
    ImageUnreadable
        It is no regular file, a link that leads nowhere, or may not be read.
    ImageOutsideRoot
        A symlink on the way leaves ``root``.
    ImageTooLarge
        The file would fill the decode process's memory before its header is seen.
    """
    try:
        with open_confined(root, path) as file:
            before = os.fstat(file.fileno())
            if stamp is not None and stamp_of(before) != stamp:
                raise _changed("since it was listed")
            if before.st_size > MAX_FILE_BYTES:
                raise ImageTooLarge(f"The file has {before.st_size} bytes, more than the limit of {MAX_FILE_BYTES}.")
            data = file.read(before.st_size)
            if len(data) != before.st_size or stamp_of(os.fstat(file.fileno())) != stamp_of(before):
                raise _changed("while it was read")
            return data
    except PathOutsideRoot as error:
        raise ImageOutsideRoot(error.detail) from None
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ImageUnreadable("The link leads nowhere: mend it or remove it.") from None
        if stamp is None:
            raise ImageUnreadable("The file is gone.") from None
        raise ImageRemoved(
            "The file is gone since it was listed. Submit the request again, which makes a new plan without it."
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise ImageUnreadable(f"The file cannot be read: {_reason(error)}.") from error


def _changed(when: str) -> ImageChanged:
    return ImageChanged(
        f"The file has changed {when}, so it has no embedding here: submit the request again, which makes a new plan "
        "with the file as it is then."
    )


def decode_image(data: bytes, *, max_pixels: int, formats: tuple[str, ...] = DECODED) -> Image.Image:
    """Decode one image file to upright RGB: the first frame, alpha on white, 16 bit scaled to 8.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Larger images are refused from their header, before anything is decoded.
    formats
        Pillow's names of the formats to try: `extractor.images.formats.formats_of` knows those of a file's name.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``, loaded.

    Raises
    ------
    ImageEmpty, ImageUnrecognised, ImageUnsupported, ImageTooLarge, ImageTruncated
        What is wrong with the bytes.
    """
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which the pixels do not depend on.
        warnings.simplefilter("ignore")
        image = _open(data, max_pixels, formats)
        try:
            image.load()
            return _to_rgb(_upright(image))
        except ImageInvalid:
            raise
        except MemoryError as error:
            raise ImageTooLarge(f"{image.width} x {image.height} pixels do not fit into memory.") from error
        except Exception as error:  # Given damaged bytes, decoders raise whatever they stumble over.
            raise ImageTruncated(f"The file is truncated or damaged: {_reason(error)}.") from error


def _open(data: bytes, max_pixels: int, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    if not data:
        raise ImageEmpty("The file has zero bytes.")
    found = sniff(data[:SNIFFED_BYTES])
    if found is not None and not found.decoded:
        raise ImageUnsupported(f"The file holds {found.name}, {found.advice}.")
    try:
        image = Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        if found is not None or data.startswith(_SIGNATURES):
            raise ImageTruncated("The file breaks off or is damaged within its header.") from None
        raise ImageUnrecognised("The content is no image in a known format, whatever the name ends with.") from None
    except Exception as error:  # As above: a damaged header can raise anything.
        raise ImageTruncated(f"The header is damaged: {_reason(error)}.") from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageTooLarge(
            f"The image has {image.width} x {image.height} = {pixels:,} pixels, more than the limit of {max_pixels:,}: "
            f"scale it down, or start the service with SHOAL_MAX_IMAGE_PIXELS={pixels} or more."
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
