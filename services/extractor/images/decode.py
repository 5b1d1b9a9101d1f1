"""Image files: which formats there are, how a file is read, and its bytes as upright RGB pixels.

The content decides what is an image. A file's extension matters in two cases only: a format without a signature (TGA),
and a camera's raw file, whose signature may be that of a TIFF. Every failure is an `ImageInvalid` with its own stable
code. Nothing is repaired silently: a half-grey picture would become a wrong embedding that nobody notices.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

# The plugins are imported so that Pillow knows the formats without loading all of its plugins.
from PIL import (
    AvifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    QoiImagePlugin,
    TgaImagePlugin,
    UnidentifiedImageError,
    features,
)
from shoal import image_suffixes
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

from extractor.images import heif
from extractor.images.jpeg import decode_jpeg
from extractor.images.picture import Picture, Pixels, to_rgb

# `_open` checks the size from the header, where the limit is the operator's and the error has a code.
Image.MAX_IMAGE_PIXELS = None

MAX_FILE_BYTES = 2**30

_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""How damaged files of common formats may still begin."""
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
_TURNED = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
"""Those that exchange width and height."""
# A decode process uses one core, and stacks of further threads would count towards its memory.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_HAS_AVIF = bool(features.check("avif"))
_HAS_JPEG_2000 = bool(features.check("jpg_2000"))
_CONVERT = "which is not supported: convert it to JPEG or PNG"

Least = Callable[[int, int], tuple[int, int]]
"""From an image's width and height to the least that it may be decoded at."""
Admit = Callable[[int], None]
"""Called with the number of an image's pixels before they take memory; may wait."""

SNIFFED_BYTES = 64
"""The length of the head that `sniff` needs."""

DECODED = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"),
    *(("AVIF",) if _HAS_AVIF else ()),
    *((Jpeg2KImagePlugin.Jpeg2KImageFile.format,) if _HAS_JPEG_2000 else ()),
    QoiImagePlugin.QoiImageFile.format,
)
"""Pillow's names of the formats that are decoded, whatever the file's extension."""

_BY_SUFFIX = {".tga": (TgaImagePlugin.TgaImageFile.format,), ".dib": ("DIB",)}
"""Formats without a signature, tried last for files with such an extension."""

IMAGE_SUFFIXES = image_suffixes.IMAGE_SUFFIXES.difference(
    () if _HAS_AVIF else image_suffixes.AVIF_SUFFIXES,
    () if _HAS_JPEG_2000 else image_suffixes.JPEG_2000_SUFFIXES,
    () if heif.AVAILABLE else image_suffixes.HEIF_SUFFIXES,
)
"""Extensions, in lower case, of files that are listed without reading their head."""

RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw", ".nef", ".nrw", ".orf"}
    | {".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
"""Extensions of camera raw files, whose signature may be that of a TIFF."""


@dataclass(frozen=True, slots=True)
class Format:
    """An image format.

    Attributes
    ----------
    name
        Its common name.
    decoded
        Whether Shoal decodes it.
    advice
        Why Shoal does not, and what to do.
    """

    name: str
    decoded: bool = True
    advice: str = _CONVERT


_HEIC = Format(
    "HEIC",
    heif.AVAILABLE,
    advice="which needs pillow-heif: install it where the workers run, or convert it to JPEG or PNG",
)
_AVIF = Format("AVIF", _HAS_AVIF)
_TIFF = Format("TIFF")
_JPEG_2000 = Format("JPEG 2000", _HAS_JPEG_2000)
_JPEG_XL = Format("JPEG XL", decoded=False)
RAW = Format("a camera raw image", decoded=False, advice="which is not supported: develop it to JPEG or TIFF")

_SIGNATURES: tuple[tuple[re.Pattern[bytes], Format], ...] = tuple(
    (re.compile(pattern, re.DOTALL), found)
    for pattern, found in (
        (rb"\xff\xd8\xff", Format("JPEG")),
        (rb"\x89PNG\r\n\x1a\n", Format("PNG")),
        (rb"GIF8[79]a", Format("GIF")),
        (rb"RIFF....WEBP", Format("WebP")),
        (rb"(?:II[*+]\0|MM\0[*+])", _TIFF),
        # Text may begin with these two letters too; the header's size, which follows, has few possible values.
        (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", Format("BMP")),
        (rb"P[1-6]\s+(?:#|\d+\s)", Format("PPM")),
        (rb"qoif.{8}[\x03\x04][\0\x01]", Format("QOI")),
        (rb"(?:\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51)", _JPEG_2000),
        (rb"(?:\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a)", _JPEG_XL),
        (rb"8BPS\0[\x01\x02]", Format("PSD", decoded=False)),
        (rb"DDS \x7c\0\0\0", Format("DDS", decoded=False)),
        (rb"v/1\x01", Format("EXR", decoded=False)),
        (rb"#\?(?:RADIANCE|RGBE)\n", Format("Radiance HDR", decoded=False)),
        (rb"\0\0[\x01\x02]\0[^\0]\0.{4}[\0\x01]\0", Format("ICO", decoded=False)),
        (rb"icns\0", Format("ICNS", decoded=False)),
        (rb"SIMPLE  =", Format("FITS", decoded=False)),
        (rb"\s{0,20}<svg[\s/>]", Format("SVG", decoded=False, advice="which has no pixels: render it to PNG")),
        (rb"FUJIFILMCCD-RAW", RAW),
        (rb"(?:IIRO|IIRS|IIU\0|FOVb)", RAW),
    )
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"})


def sniff(head: bytes) -> Format | None:
    """The image format that a file's first `SNIFFED_BYTES` show; None when they show none."""
    if head[4:8] == b"ftyp":
        return _sniff_boxes(head)
    for pattern, found in _SIGNATURES:
        if pattern.match(head):
            return found
    return None


def _sniff_boxes(head: bytes) -> Format | None:
    """The format of an ISO base media file; its brands distinguish a still image from a video."""
    end = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
    major = head[8:12]
    brands = {major, *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return _AVIF
    if brands & _HEIF_BRANDS:
        return _HEIC
    return RAW if major == b"crx " else None


def suffix_of(name: str) -> str | None:
    """The extension of a file's name in lower case, such as ``.jpg``; None without a plausible one."""
    stem, dot, end = name.rpartition(".")
    if not (stem and dot and 1 <= len(end) <= 12 and end.isascii() and end.isalnum()) or end.isdigit():
        return None
    return f".{end.lower()}"


def formats_of(name: str) -> tuple[str, ...]:
    """Pillow's names of the formats to try for a file of this name, in order."""
    return (*DECODED, *_BY_SUFFIX.get(suffix_of(name) or "", ()))


def stamp_of(status: os.stat_result) -> str:
    """Size and modification time: recorded in the listing, compared when the file is read."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def read_image_file(root: Path, path: Path, stamp: str | None = None, part: tuple[int, int] | None = None) -> bytes:
    """The bytes of ``path``, which must lie below ``root`` after symlinks are followed.

    Parameters
    ----------
    stamp
        `stamp_of` the file when it was listed; None when it was not listed. The open file's own stamp must equal it
        before and after reading.
    part
        Offset and length, where the image is a part of the file; None for the whole file.

    Raises
    ------
    ImageChanged
        The file was replaced or edited since it was listed, or while it was read.
    ImageRemoved
        A listed file no longer exists.
    ImageUnreadable
        It is not a regular file, a broken symlink, not permitted to be read, or does not exist and was not listed.
    ImageOutsideRoot
        A symlink on the way leaves ``root``.
    ImageTooLarge
        The file is larger than `MAX_FILE_BYTES`.
    """
    try:
        with open_confined(root, path) as file:
            before = os.fstat(file.fileno())
            if stamp is not None and stamp_of(before) != stamp:
                raise _changed("after it was listed")
            offset, length = part or (0, before.st_size)
            if length > MAX_FILE_BYTES:
                raise ImageTooLarge(f"The file has {length:,} bytes; the limit is {MAX_FILE_BYTES:,}.")
            if offset:
                file.seek(offset)
            data = file.read(length)
            if len(data) != length or stamp_of(os.fstat(file.fileno())) != stamp_of(before):
                raise _changed("while it was read")
            return data
    except PathOutsideRoot as error:
        raise ImageOutsideRoot(error.detail) from None
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ImageUnreadable("The symlink's target does not exist: repair or remove the symlink.") from None
        if stamp is None:
            raise ImageUnreadable("The file no longer exists.") from None
        raise ImageRemoved(
            "The file was removed after it was listed. Submit the request again: its new plan leaves the file out."
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise ImageUnreadable(f"The file cannot be read: {_reason(error)}.") from error


def _changed(when: str) -> ImageChanged:
    return ImageChanged(
        f"The file changed {when}, so it is not embedded. Submit the request again: its new plan lists the file as it "
        "is now."
    )


def decode_image(data: bytes, *, max_pixels: int, formats: tuple[str, ...] = DECODED) -> Image.Image:
    """What `decode_picture` gives, in mode ``RGB``."""
    return decode_picture(data, max_pixels=max_pixels, formats=formats).image()


def decode_picture(
    data: bytes,
    *,
    max_pixels: int,
    formats: tuple[str, ...] = DECODED,
    least: Least | None = None,
    admit: Admit = lambda pixels: None,
) -> Picture:
    """Decode one image file to upright RGB: the first frame, alpha on white, 16 bit scaled to 8.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Larger images are refused from their header, before anything is decoded.
    formats
        Pillow's names of the formats to try, such as `formats_of` a file's name.
    least
        Decodes JPEG files at half, a quarter or an eighth of their size where that is no less than this.
    admit
        Called once the header is read.

    Raises
    ------
    ImageEmpty, ImageUnrecognised, ImageUnsupported, ImageTooLarge, ImageTruncated
        Why the bytes cannot be decoded.
    """
    with warnings.catch_warnings():
        # Pillow warns about odd metadata, which does not affect the pixels.
        warnings.simplefilter("ignore")
        image = _open(data, max_pixels, formats)
        try:
            method, size = _orientation(image), image.size
            pixels = _pixels(data, image, least, admit)
            if method is None:
                return Picture(pixels, *size)
            upright = Picture(pixels, *size).image().transpose(method)
            return Picture(upright, *(size[::-1] if method in _TURNED else size))
        except ImageInvalid:
            raise
        except MemoryError as error:
            raise ImageTooLarge(f"{image.width} x {image.height} pixels do not fit into memory.") from error
        except Exception as error:  # Decoders raise errors of any type for damaged bytes.
            raise ImageTruncated(f"The file is truncated or damaged: {_reason(error)}.") from error


def _pixels(data: bytes, image: ImageFile.ImageFile, least: Least | None, admit: Admit) -> Pixels:
    """The pixels of a file that is open, and not loaded."""
    whole = image.size
    if least is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, least(*whole))
    admit(image.width * image.height)
    decoded = decode_jpeg(data, image) if image.size == whole else None
    if decoded is not None:
        return decoded
    image.load()
    return to_rgb(image)


def _open(data: bytes, max_pixels: int, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    if not data:
        raise ImageEmpty("The file has zero bytes.")
    found = sniff(data[:SNIFFED_BYTES])
    if found is not None and not found.decoded:
        raise ImageUnsupported(f"The file holds {found.name}, {found.advice}.")
    try:
        image = Image.open(BytesIO(data), formats=heif.heif_formats() if found is _HEIC else formats)
    except UnidentifiedImageError:
        if found is not None or data.startswith(_BEGINNINGS):
            raise ImageTruncated("The file ends or is damaged within its header.") from None
        raise ImageUnrecognised("The content is not an image in a known format, whatever its extension.") from None
    except Exception as error:  # As above.
        raise ImageTruncated(f"The header is damaged: {_reason(error)}.") from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageTooLarge(
            f"The image has {image.width} x {image.height} = {pixels:,} pixels, more than the limit of {max_pixels:,}: "
            f"scale it down, or start the service with SHOAL_MAX_IMAGE_PIXELS={pixels} or more."
        )
    return image


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright, by its EXIF; unreadable EXIF is ignored."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # Cameras write broken EXIF of every kind, beside good pixels.
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".") or type(error).__name__
