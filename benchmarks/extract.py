"""Images per second of each engine, alone and through the extractor, beside the usual loop over a DataLoader.

Synthetic photographs (JPEG, 500 x 375) go through, for each model: the network alone, by every engine of this machine
that `auto` may take; the whole pipeline into the store, by the fastest of them whose rows are those of eager float32;
and the peer: torchvision's ImageFolder and a DataLoader of 16 images a batch with timm's transform and the same network
in eager float32. They take turns; each figure is the median over the rounds. `end_to_end_over_seed_loop` divides the
pipeline's rate by the peer's, `end_to_end_over_model_only` by that of the same engine's network alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import finish, parser
from extractor import pipeline
from extractor.backends.base import Backend
from extractor.backends.engines.numerics import automatic, engine_of
from extractor.backends.engines.opening import open_engine
from extractor.backends.loading import open_backend, record_of
from extractor.backends.torch import build_network
from extractor.models import architectures, catalogue
from extractor.models.spec import ModelSpec
from numpy.typing import NDArray
from PIL import Image
from shoal.host import available_cores
from shoal.jobs.child import JobContext
from shoal.schemas import CustomModel, TransformOverride
from shoal.settings import Settings
from shoal.store import Store

PEER_BATCH = 16
LEAST_COSINE = 0.999
MODELS: dict[str, tuple[str | CustomModel, float]] = {
    "resnet50": (CustomModel(architecture="resnet50", weights="random"), 1.0),
    "vit_small_patch16_224": (CustomModel(architecture="vit_small_patch16_224", weights="random"), 1.0),
    "tf_efficientnet_lite0": ("tf_efficientnet_lite0", 4.0),
    "vit_base_patch14_dinov2": (
        CustomModel(architecture="vit_base_patch14_dinov2", weights="random", transform=TransformOverride(size=224)),
        0.375,
    ),
}
"""Model, and its share of ``--images``: a fast network needs more of them to be measured, a slow one fewer."""


@dataclass(frozen=True)
class Bench:
    """One model on one folder of photographs."""

    settings: Settings
    model: str | CustomModel
    spec: ModelSpec
    count: int
    batch_size: int

    @contextmanager
    def backend(self, numerics: str | None) -> Iterator[Backend]:
        """The network, run in ``numerics``."""
        record = record_of(self.spec, self.settings)
        opened = (
            open_backend(self.spec, self.settings, record)
            if numerics is None
            else open_engine(self.spec, self.settings, record, numerics)
        )
        try:
            yield opened
        finally:
            opened.close()


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=512, help="images, times each model's share (%(default)s)")
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="models (all)")
    options.add_argument("--batch-size", type=int, default=32, help="images a batch of the pipeline (%(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="turns of each way (%(default)s)")
    options.add_argument("--workers", type=int, default=0, help="decode processes; 0 means one a core")
    chosen = options.parse_args()
    models: dict[str, Any] = {}
    for name in chosen.models:
        with tempfile.TemporaryDirectory(prefix="shoal-extract-") as temporary:
            models[name] = measure(name, Path(temporary), chosen)
        row = models[name]
        print(
            f"{name}: model only {row['model_only']}, end to end {row['end_to_end']} ({row['best_engine']}), ", end=""
        )
        print(f"loop {row['seed_loop']} images/s: {row['end_to_end_over_seed_loop']} x", flush=True)
    finish({"benchmark": "extract", "rounds": chosen.rounds, "models": models}, as_json=chosen.json)


def measure(name: str, root: Path, chosen: Any) -> dict[str, Any]:
    """All figures of one model."""
    model, share = MODELS[name]
    count = max(chosen.batch_size, round(chosen.images * share))
    workers = chosen.workers or available_cores()
    settings = Settings(
        data=root / "data", models=root / "models", store=root / "store", decode_workers=workers, offline=True
    )
    write_photographs(root / "data" / "set", count)
    spec = catalogue.resolve(model, settings.models, settings=settings)
    bench = Bench(settings, model, spec, count, chosen.batch_size)
    alone, cosines = engines_alone(bench)
    holding = [each for each in alone if cosines[each] >= LEAST_COSINE]
    best = max(holding, key=alone.__getitem__)
    seconds: dict[str, list[float]] = {"whole": [], "loop": [], "alone": []}
    for turn in range(chosen.rounds):
        loop_s, theirs = data_loader(bench)
        whole_s, ours = whole(settings, model, chosen.batch_size, name=f"turn-{turn}", engine=engine_of(best))
        seconds["loop"].append(loop_s)
        seconds["whole"].append(whole_s)
        with bench.backend(best) as backend:
            seconds["alone"].append(count / network_rate(backend, bench))
    rates = {way: count / statistics.median(values) for way, values in seconds.items()}
    alone[best] = rates["alone"]
    return {
        "images": count,
        "best_engine": engine_of(best),
        "best_numerics": best or "float32",
        "model_only": {str(each or "float32"): round(rate, 2) for each, rate in alone.items()},
        "min_cosine": {str(each or "float32"): round(value, 6) for each, value in cosines.items()},
        "end_to_end": round(rates["whole"], 2),
        "seed_loop": round(rates["loop"], 2),
        "end_to_end_over_seed_loop": round(rates["whole"] / rates["loop"], 3),
        "end_to_end_over_model_only": round(rates["whole"] / rates["alone"], 3),
        "min_cosine_to_seed_loop": round(float(cosine(ours, theirs).min()), 6),
    }


def engines_alone(bench: Bench) -> tuple[dict[str | None, float], dict[str | None, float]]:
    """Images per second of the network alone, and least cosine to eager float32, by numerics class."""
    # Noise alone is no image: rows of the photographs are compared, as `auto` does.
    size = bench.spec.transform.size
    paths = sorted((bench.settings.data / "set").rglob("*.jpg"))[:16]
    images = np.stack([np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path in paths])
    rates: dict[str | None, float] = {}
    cosines: dict[str | None, float] = {}
    reference: NDArray[np.float32] | None = None
    for numerics in automatic(bench.settings):
        with bench.backend(numerics) as backend:
            rows = backend.submit(images).result()
            reference = rows if reference is None else reference
            cosines[numerics] = float(cosine(rows, reference).min())
            rates[numerics] = network_rate(backend, bench)
    return rates, cosines


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row of ``a`` to that of ``b``."""
    result: NDArray[np.float32] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return result


def _noise(bench: Bench, count: int) -> NDArray[np.uint8]:
    size = bench.spec.transform.size
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def network_rate(backend: Backend, bench: Bench) -> float:
    """Images per second of the network alone, on pixels that are there already."""
    pixels = _noise(bench, bench.batch_size)
    backend.submit(pixels).result()
    batches = max(2, bench.count // bench.batch_size // 2)
    start = time.perf_counter()
    running: deque[Any] = deque()
    for _ in range(batches):
        running.append(backend.submit(pixels))
        if len(running) > backend.max_in_flight:
            running.popleft().result()
    for future in running:
        future.result()
    return batches * bench.batch_size / (time.perf_counter() - start)


def whole(
    settings: Settings, model: str | CustomModel, batch_size: int, **fields: object
) -> tuple[float, NDArray[np.float32]]:
    """Seconds of the pipeline's embedding stage, and the embeddings; ``fields`` are more of the request."""
    marks: dict[str, float] = {}

    def mark(progress: Any) -> None:
        marks.setdefault(progress.stage, time.perf_counter())

    named = model if isinstance(model, str) else model.model_dump(mode="json")
    request = {
        "images": {"path": "set"},
        "model": named,
        "batch_size": batch_size,
        "thumbnails": False,
        "reuse": None,
        **fields,
    }
    result = pipeline.run(JobContext.local(request, kind="extract:torch", on_progress=mark), settings)
    seconds = time.perf_counter() - marks["embed"]
    embeddings = Store(settings.store).embeddings(result["embeddings"])
    return seconds, np.concatenate([rows for _, rows in embeddings.iter_batches()])


def data_loader(bench: Bench) -> tuple[float, NDArray[np.float32]]:
    """Seconds of the usual loop, and its embeddings."""
    import torch
    from timm.data import create_transform
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    network, _ = build_network(bench.spec, bench.settings, record_of(bench.spec, bench.settings))
    embed: Callable[[Any], Any] = architectures.embedder(network.eval(), bench.spec.embedding)
    spec = bench.spec.transform
    transform = create_transform(
        (3, spec.size, spec.size),
        is_training=False,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_fraction,
        crop_mode=spec.crop_mode,
        mean=spec.mean,
        std=spec.std,
    )
    images = ImageFolder(str(bench.settings.data / "set"), transform)
    loader = DataLoader(images, PEER_BATCH, num_workers=bench.settings.decode_workers)
    start = time.perf_counter()
    with torch.inference_mode():
        parts = [embed(batch).numpy() for batch, _ in loader]
    return time.perf_counter() - start, np.concatenate(parts)


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


if __name__ == "__main__":
    main()
