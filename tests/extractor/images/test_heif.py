"""HEIC files give upright RGB pixels, by their content alone, within the limits of every image."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor.images import decode, heif
from extractor.images.child import Decoded, DecoderConfig
from extractor.images.decode import decode_image, sniff
from extractor.images.located import ListedImage
from extractor.images.pool import DecodePool
from extractor.images.transform import Transform
from PIL import Image
from shoal.errors import ImageInvalid, ImageTooLarge, ImageTruncated, ImageUnsupported

pillow_heif = pytest.importorskip("pillow_heif")
LIMIT = 1_000_000


def picture(mode: str = "RGB") -> Image.Image:
    """Four colours, one a quarter."""
    image = Image.new("RGB", (2, 2))
    image.putdata([(250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 240)])
    return image.resize((96, 64), Image.Resampling.NEAREST).convert(mode)


def saved(image: Image.Image, **options: Any) -> bytes:
    pillow_heif.register_heif_opener()
    file = BytesIO()
    image.save(file, "HEIF", quality=95, **options)
    return file.getvalue()


def difference(image: Image.Image, expected: Image.Image) -> float:
    assert image.mode == "RGB"
    assert image.size == expected.size
    return float(np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16)).mean())


def test_the_colours_are_those_that_were_saved() -> None:
    assert difference(decode_image(saved(picture()), max_pixels=LIMIT), picture()) < 4


def test_grey_and_alpha() -> None:
    grey = picture("L")
    assert difference(decode_image(saved(grey), max_pixels=LIMIT), grey.convert("RGB")) < 4
    clear = picture("RGBA")
    clear.putalpha(0)
    white = Image.new("RGB", clear.size, (255, 255, 255))
    assert difference(decode_image(saved(clear), max_pixels=LIMIT), white) < 4


def test_it_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture().transpose(Image.Transpose.ROTATE_270)
    assert difference(decode_image(saved(picture(), exif=exif.tobytes()), max_pixels=LIMIT), upright) < 4


def test_a_large_one_is_refused_by_its_header() -> None:
    with pytest.raises(ImageTooLarge, match="96 x 64 = 6,144 pixels"):
        decode_image(saved(picture()), max_pixels=6143)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_one_is_an_error(kept: float) -> None:
    data = saved(picture())
    with pytest.raises(ImageTruncated):
        decode_image(data[: int(kept * len(data))], max_pixels=LIMIT)


def test_any_damage_gives_an_image_or_a_coded_error() -> None:
    data = saved(picture())
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            image = decode_image(damaged, max_pixels=LIMIT)
        except ImageInvalid:
            continue
        assert image.mode == "RGB"


def test_a_decode_process_reads_it_under_any_name_within_its_memory(tmp_path: Path) -> None:
    (tmp_path / "phone.jpg").write_bytes(saved(picture()))
    config = DecoderConfig(tmp_path, tmp_path, Transform(size=32), LIMIT, thumbnails=True)
    with DecodePool(config, workers=1, slots=2) as pool:
        outcome = pool.submit(ListedImage(("phone.jpg",), None)).result(60).outcome
    assert isinstance(outcome, Decoded), outcome
    assert (outcome.width, outcome.height) == (96, 64)
    assert outcome.thumbnail


def test_the_library_is_loaded_with_the_first_such_file_only() -> None:
    code = "import sys, extractor.images.child\nassert 'pillow_heif' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture())
    missing = decode.Format("HEIC", decoded=False, advice=decode._HEIC.advice)
    assert sniff(data[:64]) is decode._HEIC
    assert decode._HEIC.decoded is heif.AVAILABLE is True
    monkeypatch.setattr(decode, "_HEIC", missing)
    with pytest.raises(ImageUnsupported, match="HEIC, which needs pillow-heif: install it where the workers run"):
        decode_image(data, max_pixels=LIMIT)
