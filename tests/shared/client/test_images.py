"""Images as callers have them, as bytes and as requests."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor.images.decode import decode_image
from extractor.online import wire
from numpy.typing import NDArray
from PIL import Image
from shoal.client.images import MAX_BYTES, MAX_IMAGES, Chunks, encoded, name_of
from shoal.errors import ImageEmpty, ImageInvalid, ImageTooLarge, ImageUnreadable, InvalidRequest

SOME = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def pixels(data: bytes) -> NDArray[np.uint8]:
    """What the services see."""
    return np.asarray(decode_image(data, max_pixels=10**6))


def sizes(chunks: Chunks) -> list[tuple[int, int]]:
    """Start and number of images of each request."""
    found = []
    while (chunk := chunks.take()) is not None:
        found.append((chunk.start, len(chunk.images)))
    return found


def test_the_limits_are_the_services() -> None:
    assert (wire.MAX_IMAGES, wire.MAX_BYTES) == (MAX_IMAGES, MAX_BYTES)


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"not even an image")
    for image in (file, str(file), file.read_bytes(), bytearray(file.read_bytes()), memoryview(file.read_bytes())):
        assert encoded(image, "", 0) == b"not even an image"  # type: ignore[arg-type]


@pytest.mark.parametrize("array", [SOME, SOME[:, :, 0], SOME[::2, ::-1], SOME[:1, :1]])
def test_an_array_arrives_pixel_by_pixel(array: NDArray[np.uint8]) -> None:
    seen = pixels(encoded(array, "", 0))
    assert np.array_equal(seen, array if array.ndim == 3 else np.stack([array] * 3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "I;16"])
def test_an_image_arrives_as_its_file_would(mode: str) -> None:
    image = Image.fromarray(SOME).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image, np.uint16) * 257)
    expected = image if mode in {"RGBA", "LA", "P", "1", "I;16"} else image.convert("RGB")
    file = BytesIO()
    expected.save(file, format="PNG")
    assert np.array_equal(pixels(encoded(image, "", 0)), pixels(file.getvalue()))


def test_an_opened_photo_is_turned_like_its_file() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    Image.fromarray(SOME).save(file, format="JPEG", exif=exif)
    with Image.open(file) as image:
        assert np.array_equal(pixels(encoded(image, "", 0)), pixels(file.getvalue()))
        assert pixels(encoded(image, "", 0)).shape == (7, 5, 3)


@pytest.mark.parametrize(
    ("image", "error", "match"),
    [
        (3, InvalidRequest, r"images\[4\] is of type int: give a path, the bytes of a file, a PIL image, or a numpy"),
        (None, InvalidRequest, r"images\[4\] is of type NoneType"),
        (SOME.astype(np.float32), InvalidRequest, r"images\[4\] is an array of float32 with the shape \(5, 7, 3\)"),
        (
            SOME[None],
            InvalidRequest,
            r"shape \(1, 5, 7, 3\): give uint8 with the shape \(h, w, 3\) or \(h, w\), or a list",
        ),
        (SOME[:, :, :2], InvalidRequest, r"shape \(5, 7, 2\)"),
        (SOME[:0], InvalidRequest, r"shape \(0, 7, 3\)"),
        (Image.new("F", (2, 2)), InvalidRequest, r"images\[4\] has the mode F"),
        ("gone.png", ImageUnreadable, r"images\[4\] \(gone.png\) cannot be read: no such file or directory\."),
        (Path("/"), ImageUnreadable, r"images\[4\] \(/\) cannot be read: is a directory"),
        ("a\0b", ImageUnreadable, r"cannot be read: embedded null byte"),
        (b"", ImageEmpty, r"images\[4\] has zero bytes"),
        (bytes(MAX_BYTES + 1), ImageTooLarge, r"images\[4\] has 33,554,433 bytes; a request takes 33,554,432"),
    ],
)
def test_an_image_that_cannot_be_sent_is_named(image: object, error: type[InvalidRequest], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        encoded(image, name_of(image, 4), 4)  # type: ignore[arg-type]
    assert caught.value.members["input"] == 4


def test_a_truncated_image_of_pil_is_named() -> None:
    file = BytesIO()
    Image.fromarray(SOME).save(file, format="JPEG")
    with (
        Image.open(BytesIO(file.getvalue()[:-20])) as image,
        pytest.raises(ImageInvalid, match="cannot be encoded: "),
    ):
        encoded(image, "", 0)


def test_one_image_is_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for image in (SOME, Image.fromarray(SOME), b"a", tmp_path / "a", str(tmp_path / "a")):
        assert sizes(Chunks(image, MAX_IMAGES)) == [(0, 1)]


def test_a_request_holds_a_batch_of_images() -> None:
    assert sizes(Chunks([b"x"] * 130, MAX_IMAGES)) == [(0, 64), (64, 64), (128, 2)]
    assert sizes(Chunks((b"x" for _ in range(5)), 2)) == [(0, 2), (2, 2), (4, 1)]


def test_a_request_holds_no_more_bytes_than_a_service_takes() -> None:
    large, half = bytes(MAX_BYTES), bytes(MAX_BYTES // 2)
    assert sizes(Chunks([b"x", large, b"x", half, half, half], MAX_IMAGES)) == [(0, 1), (1, 1), (2, 2), (4, 2)]


@pytest.mark.parametrize(
    ("images", "batch", "match"),
    [
        ([], 64, "`images` is empty: give a path"),
        (None, 64, "`images` is of type NoneType: give a path"),
        (3, 64, "`images` is of type int: give a path"),
        ([b"x"], 0, "`batch` is 0"),
        ([b"x"], 65, "`batch` is 65"),
    ],
)
def test_nothing_to_send_is_refused(images: Any, batch: int, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        Chunks(images, batch)


def test_the_client_alone_loads_no_image_library() -> None:
    program = (
        "import sys\nfrom shoal import AsyncClient, Client\nClient().close()\n"
        "print(sorted(set(sys.modules) & {'numpy', 'PIL', 'pyarrow', 'torch', 'fastapi', 'redis'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
