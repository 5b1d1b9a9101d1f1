"""JPEG files of every kind give Pillow's very pixels, whoever decodes them, and Pillow's verdict on damage."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from extractor.images import decode, jpeg
from extractor.images.decode import decode_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile
from shoal.errors import ImageInvalid

LIMIT = 1_000_000


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Colours that change, with noise: every coefficient of the transform is in use."""
    generator = np.random.default_rng(width * height)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(smooth + generator.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def saved(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data), formats=("JPEG",))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "restart_marker_rows": 1}])
@pytest.mark.parametrize("size", [(64, 48), (61, 47), (1, 1), (17, 3)])
def test_the_pixels_are_pillows(size: tuple[int, int], options: dict[str, Any], subsampling: str) -> None:
    data = saved(photograph(*size), subsampling=subsampling, **options)
    decoded = jpeg.decode_jpeg(data, opened(data))
    assert decoded is not None
    np.testing.assert_array_equal(np.asarray(decoded), by_pillow(data))
    np.testing.assert_array_equal(pixels_of(decode_image(data, max_pixels=LIMIT)), by_pillow(data))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_pillows_too(mode: str) -> None:
    data = saved(photograph(61, 47, mode))
    np.testing.assert_array_equal(pixels_of(decode_image(data, max_pixels=LIMIT)), by_pillow(data))


def test_colours_that_are_stored_as_rgb_are_not_converted() -> None:
    data = saved(photograph(61, 47), keep_rgb=True)
    np.testing.assert_array_equal(pixels_of(decode_image(data, max_pixels=LIMIT)), by_pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_turns_pixels_and_size(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photograph(61, 47), exif=exif)
    decoded = decode_image(data, max_pixels=LIMIT)
    assert decoded.size == ((47, 61) if orientation > 4 else (61, 47))
    with Image.open(BytesIO(data)) as image:
        method = decode._UPRIGHT.get(orientation)
        expected = image.convert("RGB") if method is None else image.convert("RGB").transpose(method)
    np.testing.assert_array_equal(pixels_of(decoded), np.asarray(expected))


def test_what_follows_the_image_does_not_matter() -> None:
    data = saved(photograph(61, 47)) + b"\0" * 100
    np.testing.assert_array_equal(pixels_of(decode_image(data, max_pixels=LIMIT)), by_pillow(data))


def test_a_file_with_two_sizes_is_not_decoded_at_the_one_that_was_not_checked() -> None:
    # A second frame header within the first file: Pillow reads the last, libjpeg the first.
    small, large = saved(photograph(8, 8)), saved(photograph(400, 300))
    at, end = small.index(b"\xff\xc0"), small.index(b"\xff\xda")
    header = large[large.index(b"\xff\xc0") :][:19]
    data = small[:at] + header + small[at:end] + small[end:]
    assert opened(data).size == (8, 8)
    assert jpeg.decode_jpeg(data, opened(data)) is None


def test_a_large_file_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(photograph(61, 47))
    monkeypatch.setattr(jpeg, "MOST_PIXELS", 61 * 47 - 1)
    assert jpeg.decode_jpeg(data, opened(data)) is None
    np.testing.assert_array_equal(pixels_of(decode_image(data, max_pixels=LIMIT)), by_pillow(data))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), st.floats(0, 1), st.binary(max_size=8), st.floats(0, 1.5))
def test_damage_is_judged_as_pillow_judges_it(progressive: bool, at: float, patch: bytes, kept: float) -> None:
    data = bytearray(saved(photograph(61, 47), progressive=progressive))
    start = int(at * len(data))
    data[start : start + len(patch)] = patch
    damaged = bytes(data[: int(kept * len(data))])
    try:
        ours: Any = pixels_of(decode_image(damaged, max_pixels=LIMIT))
    except ImageInvalid as error:
        ours = error.code
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decode, "decode_jpeg", lambda data, header: None)
        try:
            theirs: Any = pixels_of(decode_image(damaged, max_pixels=LIMIT))
        except ImageInvalid as error:
            theirs = error.code
    assert np.array_equal(ours, theirs)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
