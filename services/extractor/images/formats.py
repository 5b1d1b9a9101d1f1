"""Which formats there are: what is decoded, what is known and not decoded, and how a file's first bytes tell.

The content decides what is an image. A file's extension says two things only: where a format has no signature (TGA),
and where the content says less than the name does (a camera's raw file is a TIFF whose first picture is a thumbnail).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Imported so that Pillow knows the formats without loading all of its plugins.
from PIL import AvifImagePlugin, Jpeg2KImagePlugin, QoiImagePlugin, TgaImagePlugin, features

# A decode process is one core's work, and its threads' stacks would count towards its memory.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_HAS_AVIF = bool(features.check("avif"))
_HAS_JPEG_2000 = bool(features.check("jpg_2000"))
_CONVERT = "which is not supported: convert it to JPEG or PNG"

SNIFFED_BYTES = 64
"""So many bytes tell a format."""

DECODED = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"),
    *(("AVIF",) if _HAS_AVIF else ()),
    *((Jpeg2KImagePlugin.Jpeg2KImageFile.format,) if _HAS_JPEG_2000 else ()),
    QoiImagePlugin.QoiImageFile.format,
)
"""Pillow's names of the formats that are decoded whatever the file is called."""

_BY_SUFFIX = {".tga": (TgaImagePlugin.TgaImageFile.format,), ".dib": ("DIB",)}
"""Formats without a signature, tried last for files of such a name."""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff", *_BY_SUFFIX}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".qoi"}
    | ({".avif", ".avifs"} if _HAS_AVIF else set())
    | ({".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"} if _HAS_JPEG_2000 else set())
)
"""Extensions, in lower case, of files that are taken without a look into them."""

RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw", ".nef", ".nrw", ".orf"}
    | {".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
"""Extensions of cameras' raw files, whose signature may be that of a TIFF."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format of pictures.

    Attributes
    ----------
    name
        As people call it.
    decoded
        Whether such a file is decoded.
    advice
        What is wrong with one that is not, and what to do.
    """

    name: str
    decoded: bool = True
    advice: str = _CONVERT


_HEIC = Format("HEIC", decoded=False, advice=_CONVERT + " (phones can be told to take JPEG)")
_AVIF = Format("AVIF", _HAS_AVIF)
_TIFF = Format("TIFF")
_JPEG_2000 = Format("JPEG 2000", _HAS_JPEG_2000)
_JPEG_XL = Format("JPEG XL", decoded=False)
RAW = Format("a camera's raw picture", decoded=False, advice="which is not supported: develop it to JPEG or TIFF")

_SIGNATURES: tuple[tuple[re.Pattern[bytes], Format], ...] = tuple(
    (re.compile(pattern, re.DOTALL), found)
    for pattern, found in (
        (rb"\xff\xd8\xff", Format("JPEG")),
        (rb"\x89PNG\r\n\x1a\n", Format("PNG")),
        (rb"GIF8[79]a", Format("GIF")),
        (rb"RIFF....WEBP", Format("WebP")),
        (rb"(?:II[*+]\0|MM\0[*+])", _TIFF),
        # Two letters begin many a text too: the size of the header that follows is one of few.
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
    """The format of a file by its first `SNIFFED_BYTES`; None when it is no picture's."""
    if head[4:8] == b"ftyp":
        return _sniff_boxes(head)
    for pattern, found in _SIGNATURES:
        if pattern.match(head):
            return found
    return None


def _sniff_boxes(head: bytes) -> Format | None:
    """The format of an ISO base media file: its brands tell a still picture from a film."""
    end = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
    major = head[8:12]
    brands = {major, *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return _AVIF
    if brands & _HEIF_BRANDS:
        return _HEIC
    return RAW if major == b"crx " else None


def suffix_of(name: str) -> str | None:
    """The extension of a file's name in lower case, such as ``.jpg``; None when it has none that tells anything."""
    stem, dot, end = name.rpartition(".")
    if not (stem and dot and 1 <= len(end) <= 12 and end.isascii() and end.isalnum()) or end.isdigit():
        return None
    return f".{end.lower()}"


def formats_of(name: str) -> tuple[str, ...]:
    """Pillow's names of the formats to try for a file of this name, in order."""
    return (*DECODED, *_BY_SUFFIX.get(suffix_of(name) or "", ()))
