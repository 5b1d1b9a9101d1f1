"""The network's input equals timm's evaluation transform pixel for pixel."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from extractor.images.decode import decode_image, decode_picture
from extractor.images.preprocess import least_size, network_input, thumbnail
from extractor.images.transform import Transform
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shoal.errors import ImageTooLarge
from timm.data import create_transform

LIMIT = 128_000_000


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_timm(image: Image.Image, transform: Transform) -> np.ndarray:
    evaluate = create_transform(
        (3, transform.size, transform.size),
        is_training=False,
        interpolation=transform.interpolation,
        crop_pct=transform.crop_fraction,
        crop_mode=transform.crop_mode,
        normalize=False,
    )
    return evaluate(image).permute(1, 2, 0).numpy()


@settings(max_examples=60)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    transform=st.builds(
        Transform,
        size=st.sampled_from([8, 32, 64, 95]),
        crop_fraction=st.sampled_from([0.8, 0.875, 0.936, 0.95, 1.0]),
        interpolation=st.sampled_from(["bilinear", "bicubic", "lanczos", "nearest"]),
        crop_mode=st.sampled_from(["center", "squash"]),
    ),
)
def test_it_is_timms_evaluation_transform(width: int, height: int, transform: Transform) -> None:
    image = noise(width, height)
    np.testing.assert_array_equal(network_input(image, transform, max_pixels=LIMIT), by_timm(image, transform))


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (500, 375), (375, 500), (224, 900), (30, 20)])
def test_it_is_timms_transform_of_efficientnet_lite0(size: tuple[int, int]) -> None:
    import timm
    from timm.data import resolve_model_data_config

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    evaluate = create_transform(**resolve_model_data_config(model), is_training=False, normalize=False)
    image = noise(*size)
    ours = network_input(image, Transform(224, 0.875, "bicubic"), max_pixels=LIMIT)
    np.testing.assert_array_equal(ours, evaluate(image).permute(1, 2, 0).numpy())


def test_a_thread_of_an_image_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(ImageTooLarge, match="squash"):
        network_input(noise(1, 60_000).resize((1, 600_000)), Transform(), max_pixels=LIMIT)


def jpeg_of(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((300, 200), (300, 200)),  # Less than four times the resized image.
        ((400, 256), (200, 128)),
        ((1600, 1000), (400, 250)),
        ((150, 2000), (150, 2000)),
    ],
)
def test_a_scaled_file_keeps_twice_the_resized_image(size: tuple[int, int], decoded: tuple[int, int]) -> None:
    scaled = Transform(56, 0.875, decode="scaled")
    least = least_size(scaled, thumbnails=False)
    picture = decode_picture(jpeg_of(noise(*size)), max_pixels=LIMIT, least=least)
    assert (picture.width, picture.height) == size
    assert picture.image().size == decoded
    pixels = network_input(picture, scaled, max_pixels=LIMIT)
    whole = network_input(decode_image(jpeg_of(noise(*size)), max_pixels=LIMIT), Transform(56, 0.875), max_pixels=LIMIT)
    assert np.array_equal(pixels, whole) == (decoded == size)


def test_scaling_respects_orientation_thumbnails_and_other_formats() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scaled = Transform(16, 1.0, decode="scaled")
    data = jpeg_of(noise(1600, 1000), exif=exif)
    picture = decode_picture(data, max_pixels=LIMIT, least=least_size(scaled, thumbnails=False))
    assert (picture.width, picture.height, picture.image().size) == (1000, 1600, (125, 200))
    with_thumbnail = decode_picture(data, max_pixels=LIMIT, least=least_size(scaled, thumbnails=True))
    assert with_thumbnail.image().size == (250, 400)
    file = BytesIO()
    noise(1600, 1000).save(file, "PNG")
    least = least_size(scaled, thumbnails=False)
    assert decode_picture(file.getvalue(), max_pixels=LIMIT, least=least).image().size == (1600, 1000)


def test_only_scaling_is_part_of_a_transforms_identity() -> None:
    assert "decode" not in Transform().record()
    assert Transform(decode="scaled").record() == {**Transform().record(), "decode": "scaled"}


def test_thumbnails_keep_the_aspect_and_are_never_enlarged() -> None:
    assert Image.open(BytesIO(thumbnail(noise(640, 480)))).size == (128, 96)
    small = Image.open(BytesIO(thumbnail(noise(20, 10))))
    assert (small.format, small.size) == ("WEBP", (20, 10))
