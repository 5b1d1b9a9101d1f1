"""The engines of a GPU, timed and proved against eager float32 on the same GPU; at most five minutes.

Each model's images, noise of 224 pixels, go through eager float32, automatic mixed precision in bfloat16 and Inductor.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _common import finish, parser
from extract import MODELS, cosine
from extractor.backends.engines.numerics import missing
from extractor.backends.engines.opening import open_engine
from extractor.backends.loading import open_backend, record_of
from extractor.models import catalogue
from shoal.settings import Settings

CLASSES = (None, "bf16", "compile-bf16")
LONGEST_S = 270.0


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=1024, help="images of each measurement (%(default)s)")
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("This machine has no CUDA device.")
    begin = time.perf_counter()
    models: dict[str, Any] = {}
    left_out: list[str] = []
    for name in MODELS:
        if time.perf_counter() - begin > LONGEST_S:
            left_out.append(name)
            continue
        models[name] = measure(name, chosen.images)
        print(f"{name}: {models[name]}", flush=True)
    finish(
        {"benchmark": "gpu", "device": torch.cuda.get_device_name(), "models": models, "left_out": left_out},
        as_json=chosen.json,
    )


def measure(name: str, count: int) -> dict[str, Any]:
    """Images per second, and least cosine to eager float32, of each class on one model."""
    settings = Settings(device="cuda")
    spec = catalogue.resolve(MODELS[name][0], settings.models, settings=settings)
    size = spec.transform.size
    images = np.random.default_rng(0).integers(0, 256, (256, size, size, 3), dtype=np.uint8)
    reference = None
    result: dict[str, Any] = {}
    for numerics in CLASSES:
        if numerics is not None and (why := missing(numerics, settings)) is not None:
            result[numerics] = {"missing": why}
            continue
        record = record_of(spec, settings)
        backend = (
            open_backend(spec, settings, record) if numerics is None else open_engine(spec, settings, record, numerics)
        )
        rows = backend.submit(images).result()
        reference = rows if reference is None else reference
        start = time.perf_counter()
        for future in [backend.submit(images) for _ in range(max(1, count // len(images)))]:
            future.result()
        seconds = time.perf_counter() - start
        backend.close()
        result[numerics or "float32"] = {
            "images_per_s": round(max(1, count // len(images)) * len(images) / seconds, 1),
            "min_cosine": round(float(cosine(rows, reference).min()), 6),
        }
    return result


if __name__ == "__main__":
    main()
