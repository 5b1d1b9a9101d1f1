"""Resizing to Pillow's own bits by the compiled library, several times faster; only what a crop keeps is computed.

Where the library is not there (no compiler when the package was installed, another processor or system), and for what
it does not resize, Pillow takes its place.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractor.native.build import LIBRARY

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FILTERS = {"bilinear": 0, "bicubic": 1, "lanczos": 2}
"""The library's number of each interpolation that it has."""
STRIP_BYTES = 4 * 2**20
"""Pixels of a larger image are taken out of Pillow's memory in strips: all at once, they would double its memory."""
LONGEST = 2**24
"""Sides up to here are the same in Pillow's float32."""
FUNCTIONS = tuple(f"shoal_resize_{name}" for name in ("wide", "needed", "across", "down"))
_DONE = 0


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of a resized image that is kept.

    Attributes
    ----------
    width, height
        Of the whole resized image.
    left, top, size
        The square that is kept; black where it exceeds the image.
    """

    width: int
    height: int
    left: int
    top: int
    size: int

    @property
    def inside(self) -> bool:
        """Whether the square lies in the image."""
        return (
            min(self.left, self.top) >= 0
            and max(self.left + self.size - self.width, self.top + self.size - self.height) <= 0
        )


def resize_and_crop(image: Image.Image | NDArray[np.uint8], crop: Crop, interpolation: str) -> NDArray[np.uint8]:
    """Resize the whole of ``image`` and keep a square.

    Parameters
    ----------
    image
        Mode ``RGB``, or (height, width, 3).
    interpolation
        A key of `INTERPOLATIONS`.

    Returns
    -------
    (size, size, 3) uint8
    """
    height, width = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
    library = load()
    if library is None or interpolation not in FILTERS or not _is_covered(crop, width, height):
        return by_pillow(image, crop, interpolation)
    return Resizing(library, FILTERS[interpolation], crop, width, height).of(image)


def by_pillow(image: Image.Image | NDArray[np.uint8], crop: Crop, interpolation: str) -> NDArray[np.uint8]:
    """The same by Pillow."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    resized = picture.resize((crop.width, crop.height), INTERPOLATIONS[interpolation])
    return np.asarray(resized.crop((crop.left, crop.top, crop.left + crop.size, crop.top + crop.size)))


@cache
def load() -> ctypes.CDLL | None:
    """The library; None where it is not there, or where another version of Pillow resizes differently."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        for name in FUNCTIONS:
            getattr(library, name)
    except (OSError, AttributeError):  # Not there, or of other sources.
        return None
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    for crop in (Crop(29, 21, 4, 1, 19), Crop(109, 80, 5, 3, 77)):
        for name, number in FILTERS.items():
            ours = Resizing(library, number, crop, 83, 61).of(noise)
            if not np.array_equal(ours, by_pillow(noise, crop, name)):
                return None
    return library


def _is_covered(crop: Crop, width: int, height: int) -> bool:
    """Whether the library resizes as Pillow does: across, then down. Of tall images, Pillow 13 begins with down."""
    lost_rows, lost_columns = height - crop.height, width - crop.width
    down_first = lost_rows > 0 and lost_rows > 2 * lost_columns
    return not down_first and crop.inside and max(width, height, crop.width, crop.height) <= LONGEST


@dataclass(frozen=True, slots=True)
class Resizing:
    """Resizing of images of one size to a crop.

    Attributes
    ----------
    filter
        A value of `FILTERS`.
    width, height
        Of the images.
    wide
        Whether to use AVX2, if the processor has it.
    """

    library: ctypes.CDLL
    filter: int
    crop: Crop
    width: int
    height: int
    wide: bool = True

    def of(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square of the resized ``image`` that is kept, (size, size, 3) uint8."""
        crop = self.crop
        first, count = self._needed_rows()
        # Four bytes a pixel; rows are whole vectors of 32 bytes.
        stride = -(-4 * crop.size // 32) * 32
        between = np.empty((count, stride), np.uint8)
        step = count if isinstance(image, np.ndarray) else max(1, STRIP_BYTES // (3 * self.width))
        for at in range(0, count, step):
            rows = _rows(image, first + at, first + min(at + step, count))
            self._across(rows, between[at : at + len(rows)])
        return self._down(between, first)

    def _needed_rows(self) -> tuple[int, int]:
        needed = (ctypes.c_int64 * 2)()
        crop = self.crop
        self._run("needed", self.filter, _i64(self.height), _i64(crop.height), _i64(crop.top), _i64(crop.size), needed)
        return needed[0], needed[1]

    def _across(self, rows: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        crop = self.crop
        sizes = (_i64(len(rows)), _i64(self.width), _i64(crop.width), _i64(crop.left), _i64(crop.size))
        self._run("across", self._wide, self.filter, _at(rows), *sizes, _at(out), _i64(out.shape[1]))

    def _down(self, rows: NDArray[np.uint8], first: int) -> NDArray[np.uint8]:
        crop = self.crop
        out = np.empty((crop.size, crop.size, 3), np.uint8)
        of_rows = (_at(rows), _i64(first), _i64(rows.shape[1]), _i64(crop.size))
        sizes = (_i64(self.height), _i64(crop.height), _i64(crop.top), _i64(crop.size))
        self._run("down", self._wide, self.filter, *of_rows, *sizes, _at(out))
        return out

    @property
    def _wide(self) -> int:
        return int(self.wide and self.library.shoal_resize_wide())

    def _run(self, name: str, *arguments: object) -> None:
        if getattr(self.library, f"shoal_resize_{name}")(*arguments) != _DONE:
            raise MemoryError("the resized image does not fit into memory")


def _rows(image: Image.Image | NDArray[np.uint8], first: int, last: int) -> NDArray[np.uint8]:
    """Rows of the image, C-contiguous."""
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image[first:last])
    return np.asarray(image.crop((0, first, image.width, last)))


def _at(array: NDArray[np.uint8]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _i64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)
