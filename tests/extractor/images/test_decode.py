"""Every kind of file that turns up in a folder of images gives the right pixels, or says why not."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from extractor.images import decode
from extractor.images.decode import decode_image, formats_of, read_image_file, stamp_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
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
)
from shoal.userfiles import open_confined

LIMIT = 128_000_000


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data, max_pixels=LIMIT)
    assert image.mode == "RGB"
    return np.asarray(image)


def ramp(mode: str = "RGB", size: tuple[int, int] = (32, 24)) -> Image.Image:
    grey = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(np.roll(grey, shift, axis=0)) for shift in (0, 5, 9)]).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "QOI"])
def test_lossless_formats_give_the_pixels_that_were_saved(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(saved(ramp(), kind, **options)), np.asarray(ramp()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    upright = ramp()
    # How a camera that is held so stores the upright picture: the inverse of what the viewer must do.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(upright if stored is None else upright.transpose(stored), "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(pixels(data), np.asarray(upright))


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = saved(ramp(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(pixels(data), np.asarray(ramp()))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(mode: str) -> None:
    colour = (200, 0, 0) if mode == "RGBA" else (0,)
    image = Image.new(mode, (3, 1), (*colour, 0))
    image.putpixel((1, 0), (*colour, 255))
    image.putpixel((2, 0), (*colour, 128))
    clear, solid, half = pixels(saved(image, "PNG"))[0]
    assert clear.tolist() == [255, 255, 255]
    assert solid[1:].tolist() == [0, 0]
    assert half[1] == pytest.approx(127, abs=1)


def test_a_palette_with_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    by_index = saved(image, "PNG", transparency=0)
    by_entry = saved(image, "PNG", transparency=bytes([0, 255]))
    for data in (by_index, by_entry, saved(image, "GIF", transparency=0)):
        assert pixels(data)[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_a_transparent_colour_is_laid_on_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 8, 7))
    assert pixels(saved(image, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [9, 8, 7]]


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        assert np.abs(pixels(saved(red, kind)).astype(int) - [250, 10, 10]).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert pixels(saved(Image.fromarray(values), kind))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_transparent_16_bit_grey_is_laid_on_white() -> None:
    image = Image.fromarray(np.array([[100, 0]], np.uint16))
    assert pixels(saved(image, "PNG", transparency=100))[0, :, 0].tolist() == [255, 0]


def test_float_pixels_are_refused_not_guessed() -> None:
    with pytest.raises(ImageUnrecognised, match="32 bits per channel"):
        pixels(saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))


def test_one_bit_images_are_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(saved(image, "PNG"))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_avif_is_decoded() -> None:
    data = saved(ramp(), "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(pixels(data).astype(int) - np.asarray(ramp())).mean() < 3


def test_tga_has_no_signature_so_its_name_counts() -> None:
    data = saved(ramp(), "TGA")
    image = decode_image(data, max_pixels=LIMIT, formats=formats_of("x.TGA"))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(ramp()))
    with pytest.raises(ImageUnrecognised):
        decode_image(data, max_pixels=LIMIT, formats=formats_of("x.jpg"))
    with pytest.raises(ImageTruncated):
        decode_image(data[:1000], max_pixels=LIMIT, formats=formats_of("x.tga"))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
        (b"8BPS\0\x01" + bytes(100), "PSD"),
        (b"<svg xmlns='x'/>", "SVG"),
    ],
)
def test_a_known_format_that_is_not_decoded_is_named(data: bytes, name: str) -> None:
    with pytest.raises(ImageUnsupported, match=f"{name}, which .*: (convert|render) it to"):
        pixels(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "QOI"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_a_truncated_file_is_an_error_never_a_half_grey_picture(kind: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, kind)
    with pytest.raises(ImageTruncated):
        pixels(data[: int(len(data) * kept)])


def test_an_empty_file_says_so() -> None:
    with pytest.raises(ImageEmpty, match="zero bytes"):
        pixels(b"")


@pytest.mark.parametrize("data", [b"hello, world\n" * 50, b"<svg/>", b"%PDF-1.4", b"PK\3\4", bytes(500)])
def test_what_is_no_image_is_not_recognised(data: bytes) -> None:
    with pytest.raises(ImageUnrecognised):
        pixels(data)


def png_header(width: int, height: int, bits: int = 1) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes((width * bits // 8 + 1) * min(height, 200)), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)), chunk(b"IDAT", rows)]
    )


def test_a_600_megapixel_png_is_refused_from_its_header() -> None:
    data = png_header(30_000, 20_000)
    assert len(data) < 100_000
    with pytest.raises(
        ImageTooLarge,
        match="30000 x 20000 = 600,000,000 pixels, more than the limit of 128,000,000: scale it down, or start the "
        "service with SHOAL_MAX_IMAGE_PIXELS=600000000",
    ):
        pixels(data)


def test_the_limit_is_the_operators_not_pillows() -> None:
    data = png_header(30_000, 20_000)
    with pytest.raises(ImageTruncated):  # It is tried, and breaks off after 200 rows.
        decode_image(data[:-20], max_pixels=601_000_000)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.integers(0, 10**6), st.binary(max_size=8))
def test_damaged_bytes_give_an_image_or_a_coded_error(kind: str, at: int, patch: bytes) -> None:
    data = bytearray(saved(ramp(), kind))
    at %= len(data)
    data[at : at + len(patch)] = patch
    try:
        image = decode_image(bytes(data), max_pixels=100_000)
    except ImageInvalid:
        return
    assert image.mode == "RGB"


class TestReading:
    def test_a_vanished_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageUnreadable, match="no longer exists"):
            read_image_file(tmp_path, tmp_path / "gone.png")

    def test_a_listed_file_that_vanished(self, tmp_path: Path) -> None:
        with pytest.raises(ImageRemoved, match="removed after it was listed"):
            read_image_file(tmp_path, tmp_path / "gone.png", "1:1")

    @pytest.mark.parametrize("stamp", [None, "0:0"])
    def test_a_link_that_leads_nowhere_is_not_said_to_be_gone(self, tmp_path: Path, stamp: str | None) -> None:
        (tmp_path / "x.png").symlink_to("nowhere.png")
        with pytest.raises(ImageUnreadable, match="target does not exist") as raised:
            read_image_file(tmp_path, tmp_path / "x.png", stamp)
        assert raised.value.code == "image_unreadable"

    def test_a_file_written_to_while_it_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "x.png"
        path.write_bytes(b"before")
        stamp = stamp_of(path.stat())
        opened = open_confined

        @contextmanager
        def edited(root: Path, path: Path) -> Iterator[Any]:
            with opened(root, path) as file:
                yield SimpleNamespace(
                    fileno=file.fileno, read=lambda size: (file.read(size), path.write_bytes(b"after!"))[0]
                )

        monkeypatch.setattr(decode, "open_confined", edited)
        os.utime(path, ns=(5, 5))
        with pytest.raises(ImageChanged, match="changed after it was listed"):
            read_image_file(tmp_path, path, stamp)
        with pytest.raises(ImageChanged, match="while it was read"):
            read_image_file(tmp_path, path, "6:5")

    def test_a_folder_called_like_an_image(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").mkdir()
        with pytest.raises(ImageUnreadable, match="regular"):
            read_image_file(tmp_path, tmp_path / "x.png")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_bytes(b"x")
        (tmp_path / "x.png").chmod(0)
        with pytest.raises(ImageUnreadable, match="permission"):
            read_image_file(tmp_path, tmp_path / "x.png")

    def test_a_symlink_out_of_the_root(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        (tmp_path / "secret.png").write_bytes(b"x")
        (root / "x.png").symlink_to(tmp_path / "secret.png")
        with pytest.raises(ImageOutsideRoot):
            read_image_file(root, root / "x.png")

    def test_a_symlink_loop(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").symlink_to(tmp_path / "x.png")
        with pytest.raises(ImageUnreadable):
            read_image_file(tmp_path, tmp_path / "x.png")
