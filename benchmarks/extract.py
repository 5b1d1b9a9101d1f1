"""Images per second through the extractor, compared with a plain loop over PyTorch's DataLoader.

Synthetic photographs (JPEG, 500 x 375) go through: the whole pipeline into the store; the decode pool alone; the
network alone; and the peer, torchvision's ImageFolder and DataLoader with timm's transform, the same network and the
same number of decode processes, whose embeddings end in one array in memory. The peer's embeddings are compared with
ours: the largest difference is part of the result.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import finish, parser
from extractor import pipeline
from extractor.backends.loading import open_backend, record_of
from extractor.backends.torch import TorchBackend
from extractor.images.child import DecoderConfig
from extractor.images.located import ListedImage
from extractor.images.pool import DecodePool, prefetch_slots
from extractor.models import catalogue
from extractor.models.spec import ModelSpec
from numpy.typing import NDArray
from PIL import Image
from shoal.host import available_cores
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=512, help="how many images (%(default)s)")
    options.add_argument("--model", default="tf_efficientnet_lite0", help="catalogue name (%(default)s)")
    options.add_argument("--batch-size", type=int, default=64, help="images a batch (%(default)s)")
    options.add_argument("--workers", type=int, default=0, help="decode processes; 0 means one a core")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-extract-") as temporary:
        root = Path(temporary)
        settings = Settings(
            data=root / "data",
            models=root / "models",
            store=root / "store",
            decode_workers=chosen.workers or available_cores(),
        )
        paths = write_photographs(root / "data" / "set", chosen.images)
        spec = catalogue.resolve(chosen.model, settings.models, settings=settings)
        backend = open_backend(spec, settings, record_of(spec, settings))
        if not isinstance(backend, TorchBackend):
            raise SystemExit("The peer runs PyTorch: choose a model of the torch backend.")
        decode_s = decode_only(settings, spec, paths, chosen.batch_size)
        network_s = network_only(backend, chosen.images, chosen.batch_size)
        whole_s, ours = whole(settings, chosen.model, chosen.batch_size)
        peer_s, theirs = data_loader(settings, backend, chosen.batch_size)
    seconds = {"shoal": whole_s, "decode_pool": decode_s, "network": network_s, "data_loader": peer_s}
    rates = {name: round(chosen.images / value, 1) for name, value in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:12} {rate:8.1f} images/s")
    result = {
        "benchmark": "extract",
        "model": chosen.model,
        "device": str(backend.device),
        "images": chosen.images,
        "batch_size": chosen.batch_size,
        "decode_workers": settings.decode_workers,
        "images_per_s": rates,
        "ratio_to_data_loader": round(peer_s / whole_s, 3),
        "ratio_to_bound": round(max(decode_s, network_s) / whole_s, 3),
        "largest_difference": float(np.abs(ours - theirs).max()),
    }
    finish(result, as_json=chosen.json)


def write_photographs(folder: Path, count: int) -> list[str]:
    """``count`` JPEG files with as much detail as a photograph, in two folders; returns their paths, sorted."""
    generator = np.random.default_rng(0)
    paths = []
    for index in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(image + generator.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        path = f"{'ab'[2 * index // count]}/{index:06d}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(folder / path, quality=87)
        paths.append(path)
    return paths


def whole(settings: Settings, model: str, batch_size: int) -> tuple[float, NDArray[np.float32]]:
    """Seconds of the pipeline's embedding stage, and the embeddings."""
    marks: dict[str, float] = {}

    def mark(progress: Any) -> None:
        marks.setdefault(progress.stage, time.perf_counter())

    request = {"images": {"path": "set"}, "model": model, "batch_size": batch_size, "thumbnails": False}
    result = pipeline.run(JobContext.local(request, kind="extract:torch", on_progress=mark), settings)
    seconds = time.perf_counter() - marks["embed"]
    embeddings = Store(settings.store).embeddings(result["embeddings"])
    return seconds, np.concatenate([rows for _, rows in embeddings.iter_batches()])


def decode_only(settings: Settings, spec: ModelSpec, paths: list[str], batch_size: int) -> float:
    """Seconds of decoding alone, starting the processes included."""
    folder = (settings.data / "set").resolve()
    config = DecoderConfig(folder, folder, spec.transform, settings.max_image_pixels, thumbnails=False)
    slots = prefetch_slots(config.slot_bytes, settings.decode_workers, batch_size)
    start = time.perf_counter()
    with DecodePool(config, workers=settings.decode_workers, slots=slots) as pool:
        for item in pool.stream(ListedImage((path,), None) for path in paths):
            pool.release(item)
    return time.perf_counter() - start


def network_only(backend: TorchBackend, count: int, batch_size: int) -> float:
    """Seconds of the network alone, on pixels that are there already."""
    size = backend.transform.size
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    backend.submit(pixels).result()
    start = time.perf_counter()
    left = count
    while left > 0:
        backend.submit(pixels[:left]).result()
        left -= batch_size
    return time.perf_counter() - start


def data_loader(settings: Settings, backend: TorchBackend, batch_size: int) -> tuple[float, NDArray[np.float32]]:
    """Seconds of the usual loop, and its embeddings."""
    import torch
    from timm.data import create_transform
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    spec = backend.transform
    transform = create_transform(
        (3, spec.size, spec.size),
        is_training=False,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_fraction,
        crop_mode=spec.crop_mode,
        mean=spec.mean,
        std=spec.std,
    )
    start = time.perf_counter()
    images = ImageFolder(str(settings.data / "set"), transform)
    loader = DataLoader(images, batch_size, num_workers=settings.decode_workers)
    parts = []
    with torch.inference_mode():
        for batch, _ in loader:
            parts.append(backend.network(batch.to(backend.device)).cpu().numpy())
    return time.perf_counter() - start, np.concatenate(parts)


if __name__ == "__main__":
    main()
