"""Time of decoding a JPEG in one thread, decoder beside decoder, and how far the pixels are from Pillow's.

Synthetic photographs of 500 x 375 and of 6000 x 4000 pixels (4:2:0, quality 87) are decoded in turn by Pillow,
simplejpeg, torchvision, OpenCV and pyvips, to an image that Pillow can resize; those that are not installed are left
out (`pip install opencv-python-headless pyvips pyvips-binary`). Beside them stands what Shoal makes of the file in one
decode process: reading, decoding, resizing to the network's input, with and without a thumbnail, and decoded at a part
of its size (`decode: "scaled"` of a transform).

What scaling does to embeddings is measured on real photographs: parts of scikit-learn's two samples, enlarged to 1280 x
960 and 2560 x 1920, through EfficientNet-Lite0.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from _common import finish, parser
from extractor.images.child import DecoderConfig, Task, Undecodable, decode
from extractor.images.located import ListedImage
from extractor.images.transform import Decode, Transform
from numpy.typing import NDArray
from PIL import Image

SIZES = {"500x375": (500, 375), "24mp": (6000, 4000)}
DECODE_WAYS: tuple[Decode, ...] = ("full", "scaled")
Decoder = Callable[[bytes], Image.Image]


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=50, help="decodings of a small image; of a large, a tenth")
    chosen = options.parse_args()
    decoders = available_decoders()
    result: dict[str, Any] = {"benchmark": "decode"}
    for name, size in SIZES.items():
        data = photograph(*size)
        repeat = max(chosen.repeat // (1 if size[0] < 1000 else 10), 3)
        result[name] = compare(data, decoders, repeat) | through_shoal(data, repeat)
        for key, row in result[name].items():
            print(f"{name:8} {key:22} {row['ms']:8.2f} ms" + differences(row))
    result["scaled_cosine"] = scaled_cosine()
    print(f"scaled: cosine to the embeddings of all pixels {result['scaled_cosine']}")
    finish(result, as_json=chosen.json)


def photograph(width: int, height: int) -> bytes:
    """A JPEG file with as much detail as a photograph."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = generator.normal(0, 12, image.shape).astype(np.int16)
    file = BytesIO()
    Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=87)
    return file.getvalue()


def available_decoders() -> dict[str, Decoder]:
    """Each installed library's way from a file's bytes to an image that Pillow can resize, in one thread."""
    known: dict[str, tuple[tuple[str, ...], Callable[..., Image.Image]]] = {
        "pillow": (("PIL.Image",), by_pillow),
        "simplejpeg": (("simplejpeg",), by_simplejpeg),
        "torchvision": (("torch", "torchvision.io"), by_torchvision),
        "opencv": (("cv2",), by_opencv),
        "pyvips": (("pyvips",), by_pyvips),
    }
    decoders: dict[str, Decoder] = {}
    for name, (modules, decoder) in known.items():
        try:
            decoders[name] = partial(decoder, *map(import_module, modules))
        except ImportError:
            print(f"{name} is not installed")
    return decoders


def by_pillow(library: ModuleType, data: bytes) -> Image.Image:
    """Pillow alone."""
    image: Image.Image = library.open(BytesIO(data), formats=("JPEG",))
    image.load()
    return image


def by_simplejpeg(library: ModuleType, data: bytes) -> Image.Image:
    """simplejpeg, with the same transform and upsampling as Pillow."""
    return Image.fromarray(library.decode_jpeg(data))


def by_torchvision(torch: ModuleType, library: ModuleType, data: bytes) -> Image.Image:
    """torchvision's own decoder on the processor."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return Image.fromarray(library.decode_jpeg(encoded).permute(1, 2, 0).numpy())


def by_opencv(library: ModuleType, data: bytes) -> Image.Image:
    """OpenCV, whose order of channels is BGR."""
    library.setNumThreads(1)
    pixels = library.imdecode(np.frombuffer(data, np.uint8), library.IMREAD_COLOR)
    return Image.fromarray(library.cvtColor(pixels, library.COLOR_BGR2RGB))


def by_pyvips(library: ModuleType, data: bytes) -> Image.Image:
    """pyvips, which decodes when the pixels are asked for."""
    return Image.fromarray(library.Image.new_from_buffer(data, "").numpy())


def compare(data: bytes, decoders: dict[str, Decoder], repeat: int) -> dict[str, dict[str, Any]]:
    """Median milliseconds of each decoder, taken in turn, and its pixels against Pillow's."""
    expected = np.asarray(decoders["pillow"](data), np.int16)
    rows = {}
    for name, decoder in decoders.items():
        difference = np.abs(np.asarray(decoder(data)) - expected)
        rows[name] = {"largest_difference": int(difference.max()), "differing": float((difference > 0).mean())}
    times = in_turn({name: partial(decoder, data) for name, decoder in decoders.items()}, repeat)
    return {name: {"ms": times[name], **row} for name, row in rows.items()}


def through_shoal(data: bytes, repeat: int) -> dict[str, dict[str, Any]]:
    """Median milliseconds of one file on its whole way through a decode process."""
    with tempfile.TemporaryDirectory(prefix="shoal-decode-") as temporary:
        folder = Path(temporary).resolve()
        (folder / "a.jpg").write_bytes(data)
        ways = {
            name: partial(
                into_slot,
                DecoderConfig(folder, folder, transform, 10**9, thumbnails="thumbnail" in name),
                Path("a.jpg"),
            )
            for name, transform in {
                "shoal": Transform(),
                "shoal_and_thumbnail": Transform(),
                "shoal_scaled": Transform(decode="scaled"),
            }.items()
        }
        return {name: {"ms": ms} for name, ms in in_turn(ways, repeat).items()}


def into_slot(config: DecoderConfig, path: Path) -> None:
    """Decode one file as a decode process does."""
    slot = np.empty((config.transform.size, config.transform.size, 3), np.uint8)
    outcome = decode(Task(0, 0, ListedImage((str(path),), None)), config, slot)
    if isinstance(outcome, Undecodable):
        raise SystemExit(outcome.message)


def scaled_cosine() -> dict[str, Any] | None:
    """Least and mean cosine of the embeddings of scaled files to those of all pixels; None without the libraries."""
    try:
        from extractor.backends.loading import open_backend, record_of
        from extractor.models import catalogue
        from shoal.settings import Settings
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        print(f"the effect of scaling is left out: {error}")
        return None
    settings = Settings(offline=True)
    spec = catalogue.resolve("tf_efficientnet_lite0", settings.models, settings=settings)
    files = [part for sample in load_sample_images().images for part in enlarged(Image.fromarray(sample))]
    backend = open_backend(spec, settings, record_of(spec, settings))
    whole, scaled = (
        backend.submit(np.stack([pixels_of(file, replace(spec.transform, decode=way)) for file in files])).result()
        for way in DECODE_WAYS
    )
    backend.close()
    cosines = (whole * scaled).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(scaled, axis=1)
    return {"files": len(files), "min": round(float(cosines.min()), 6), "mean": round(float(cosines.mean()), 6)}


def enlarged(image: Image.Image) -> list[bytes]:
    """The four corners of a photograph, three quarters of its sides each, as JPEG files of two sizes."""
    files = []
    for size in ((1280, 960), (2560, 1920)):
        for corner in range(4):
            left, top = corner % 2 * image.width // 4, corner // 2 * image.height // 4
            part = image.crop((left, top, left + image.width * 3 // 4, top + image.height * 3 // 4))
            file = BytesIO()
            part.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
            files.append(file.getvalue())
    return files


def pixels_of(data: bytes, transform: Transform) -> NDArray[np.uint8]:
    """A network's input of a file."""
    slot = np.empty((transform.size, transform.size, 3), np.uint8)
    decode(Task(0, 0, data), DecoderConfig(Path("/"), Path("/"), transform, 10**9, thumbnails=False), slot)
    return slot


def in_turn(ways: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Median milliseconds of each way: all of them once, then again."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: round(1000 * statistics.median(taken), 3) for name, taken in seconds.items()}


def differences(row: dict[str, Any]) -> str:
    """How the pixels differ from Pillow's, for people."""
    if "differing" not in row:
        return ""
    return f"   {row['differing']:.2%} of the values differ from Pillow's, by at most {row['largest_difference']}"


if __name__ == "__main__":
    main()
