"""HEIC, the format of phones, by pillow-heif, which is loaded with the first such file."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

AVAILABLE = find_spec("pillow_heif") is not None


@cache
def heif_formats() -> tuple[str, ...]:
    """Pillow's names of the formats to try for such a file."""
    import pillow_heif

    # A decode process uses one core. The file's own small pictures are of no use here.
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener(thumbnails=False)
    return ("HEIF",)
