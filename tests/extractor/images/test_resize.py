"""The compiled resizing gives Pillow's very bits, for every size, and Pillow takes its place where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from extractor.images import resize
from extractor.images.resize import FILTERS, Crop, Resizing, by_pillow, resize_and_crop
from extractor.native.build import KERNEL, LIBRARY
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

SIDES = st.one_of(st.integers(1, 12), st.integers(1, 400))


@pytest.fixture(autouse=True)
def _compiled() -> Iterator[None]:
    if not LIBRARY.exists():
        pytest.skip("the resizing was not compiled on this machine")
    yield
    resize.load.cache_clear()


def pixels(width: int, height: int, *, extreme: bool = False) -> NDArray[np.uint8]:
    """Noise; with ``extreme``, of black and white alone, whose sums exceed what 8 bits hold."""
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(noise > 127, np.uint8(255), np.uint8(0)) if extreme else noise


@st.composite
def crops(draw: st.DrawFn) -> Crop:
    width, height = draw(SIDES), draw(SIDES)
    size = draw(st.integers(1, min(width, height)))
    return Crop(width, height, draw(st.integers(0, width - size)), draw(st.integers(0, height - size)), size)


@pytest.mark.parametrize("wide", [True, False])
@settings(max_examples=150)
@given(SIDES, SIDES, crops(), st.sampled_from(sorted(FILTERS)), st.booleans())
def test_the_bits_are_pillows(
    wide: bool, width: int, height: int, crop: Crop, interpolation: str, extreme: bool
) -> None:
    image = pixels(width, height, extreme=extreme)
    expected = by_pillow(image, crop, interpolation)
    np.testing.assert_array_equal(resize_and_crop(image, crop, interpolation), expected)
    np.testing.assert_array_equal(resize_and_crop(Image.fromarray(image), crop, interpolation), expected)
    library = resize.load()
    assert library is not None
    if resize._is_covered(crop, width, height):
        ours = Resizing(library, FILTERS[interpolation], crop, width, height, wide).of(image)
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((1, 1), Crop(1, 1, 0, 0, 1)),
        ((1, 1), Crop(224, 224, 0, 0, 224)),
        ((256, 256), Crop(256, 256, 16, 16, 224)),
        ((500, 375), Crop(341, 256, 58, 16, 224)),
        ((375, 500), Crop(256, 341, 16, 58, 224)),
        ((4001, 2999), Crop(341, 256, 58, 16, 224)),
        ((3000, 2), Crop(9, 1, 3, 0, 1)),
        ((40, 900), Crop(64, 100, 0, 18, 64)),
    ],
)
def test_sizes_that_matter(size: tuple[int, int], crop: Crop, interpolation: str) -> None:
    image = pixels(*size)
    expected = by_pillow(image, crop, interpolation)
    np.testing.assert_array_equal(resize_and_crop(image, crop, interpolation), expected)


def test_a_large_image_is_resized_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    image = pixels(301, 203)
    crop = Crop(100, 67, 10, 3, 60)
    expected = by_pillow(image, crop, "bicubic")
    for rows in (1, 2, 7, 202):
        monkeypatch.setattr(resize, "STRIP_BYTES", 3 * 301 * rows)
        np.testing.assert_array_equal(resize_and_crop(Image.fromarray(image), crop, "bicubic"), expected)


@pytest.mark.parametrize(
    ("crop", "interpolation"),
    [
        (Crop(20, 20, 2, 2, 16), "nearest"),
        (Crop(20, 20, -2, 5, 24), "bicubic"),  # Black where it exceeds the image.
        (Crop(60, 8, 5, 0, 8), "bicubic"),  # So much lower that Pillow begins with the other pass.
    ],
)
def test_pillow_does_the_rest(crop: Crop, interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pixels(61, 47)
    expected = by_pillow(image, crop, interpolation)
    assert resize.load() is not None
    monkeypatch.setattr(resize, "Resizing", None)
    np.testing.assert_array_equal(resize_and_crop(image, crop, interpolation), expected)


def test_pillow_takes_its_place_where_the_library_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image, crop = pixels(61, 47), Crop(30, 23, 4, 1, 20)
    expected = resize_and_crop(image, crop, "bicubic")
    resize.load.cache_clear()
    monkeypatch.setattr(resize, "LIBRARY", tmp_path / "missing.so")
    assert resize.load() is None
    np.testing.assert_array_equal(resize_and_crop(image, crop, "bicubic"), expected)


def test_a_library_that_disagrees_with_pillow_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "src" / "resize.cpp"
    other.parent.mkdir()
    other.write_text(KERNEL.source.read_text().replace("slope = -0.5", "slope = -0.75"))
    type(KERNEL)(other, KERNEL.variants).compile(KERNEL.variants["resize"], tmp_path / "other.so")
    resize.load.cache_clear()
    monkeypatch.setattr(resize, "LIBRARY", tmp_path / "other.so")
    assert resize.load() is None


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "src" / "resize.cpp"
    other.parent.mkdir()
    other.write_text(KERNEL.source.read_text().replace("shoal_resize_needed", "shoal_resize_rows"))
    type(KERNEL)(other, KERNEL.variants).compile(KERNEL.variants["resize"], tmp_path / "older.so")
    resize.load.cache_clear()
    monkeypatch.setattr(resize, "LIBRARY", tmp_path / "older.so")
    assert resize.load() is None
