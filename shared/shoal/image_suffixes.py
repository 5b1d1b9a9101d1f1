"""The extensions of image files, in lower case: what folders of images and label files are searched for."""

from __future__ import annotations

AVIF_SUFFIXES = frozenset({".avif", ".avifs"})
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
JPEG_2000_SUFFIXES = frozenset({".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"})
IMAGE_SUFFIXES = (
    frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".tga"})
    | {".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".qoi"}
    | AVIF_SUFFIXES
    | HEIF_SUFFIXES
    | JPEG_2000_SUFFIXES
)
"""Of every format that is decoded."""
