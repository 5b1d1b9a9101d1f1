"""The paths of a GPU, checked and timed in at most five minutes: engines, decoding, k-means; one JSON object.

Engines: pictures with some noise go through eager float32, automatic mixed precision in bfloat16 and Inductor. `holds`
says whether each row has a cosine of 0.999 or more to that of eager float32 on the same GPU, as `auto` asks; below 0.99
something is broken, and the exit status is 1. Decoding: JPEG files of 500 x 375 by Shoal in one process, by torchvision
(nvJPEG) and by nvImageCodec on the GPU, with how far their pixels are from libjpeg-turbo's.
k-means: faiss on the GPU, as the clusterer runs it, beside flash-kmeans, with the same first centroids and number of
iterations.

What is not installed is left out with its reason, as is what no time is left for. `--dry-run` runs the same code on the
processor, with small data, where there is no GPU.

    pip install 'shoal[torch,faiss-gpu]' flash-kmeans nvidia-nvimgcodec-cu12
    python benchmarks/gpu.py --json
    python -m pytest -m gpu
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from _common import finish, parser
from decode import photograph, pixels_of
from extract import MODELS, cosine
from extractor.backends.engines.numerics import missing
from extractor.backends.engines.opening import open_engine
from extractor.backends.loading import open_backend, record_of
from extractor.images.transform import Transform
from extractor.models import catalogue
from numpy.typing import NDArray
from PIL import Image
from shoal.settings import Settings

LEAST_COSINE, BROKEN_COSINE = 0.999, 0.99
LONGEST_S = 270.0
Part = tuple[str, Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Bench:
    """What to measure on.

    Attributes
    ----------
    device
        ``cuda``; ``cpu`` in a dry run.
    models
        Names of `extract.MODELS`.
    classes
        Of numerics, float32 first.
    images, files
        Images through a network, and files through a decoder.
    rows, dim, clusters, iterations
        Of k-means.
    """

    device: str = "cuda"
    models: tuple[str, ...] = tuple(MODELS)
    classes: tuple[str | None, ...] = (None, "bf16", "compile-bf16")
    images: int = 1024
    files: int = 256
    rows: int = 500_000
    dim: int = 768
    clusters: int = 1000
    iterations: int = 10

    def parts(self) -> Iterator[Part]:
        """Every measurement by its name, the ones that matter most first."""
        for name in self.models:
            yield f"engines.{name}", partial(engines, self, name)
        yield "decode.shoal", partial(decode_shoal, self)
        yield "kmeans.faiss", partial(kmeans_faiss, self)
        yield "kmeans.flash", partial(kmeans_flash, self)
        yield "decode.torchvision", partial(decode_torchvision, self)
        yield "decode.nvimgcodec", partial(decode_nvimgcodec, self)


DRY = Bench(
    "cpu", ("tf_efficientnet_lite0",), (None, "bf16"), images=8, files=4, rows=2000, dim=32, clusters=10, iterations=3
)


class LeftOut(Exception):
    """A part cannot run here; the message gives the reason."""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--dry-run", action="store_true", help="small data on the processor")
    options.add_argument("--images", type=int, default=Bench.images, help="images of each engine (%(default)s)")
    chosen = options.parse_args()
    if not chosen.dry_run and not torch.cuda.is_available():
        raise SystemExit("This machine has no CUDA device; --dry-run runs the same code on the processor.")
    bench = DRY if chosen.dry_run else Bench(images=chosen.images)
    device = torch.cuda.get_device_name() if bench.device == "cuda" else "cpu"
    parts = run(bench)
    failed = [name for name, result in parts.items() if result.get("ok") is False]
    finish({"benchmark": "gpu", "device": device, "parts": parts, "failed": failed}, as_json=chosen.json)
    if failed:
        raise SystemExit(f"Not as expected: {', '.join(failed)}")


def run(bench: Bench) -> dict[str, dict[str, Any]]:
    """The result of every part, or why it was left out."""
    begin = time.perf_counter()
    results: dict[str, dict[str, Any]] = {}
    for name, part in bench.parts():
        try:
            if time.perf_counter() - begin > LONGEST_S:
                raise LeftOut("no time was left")
            results[name] = part()
        except LeftOut as reason:
            results[name] = {"left_out": str(reason)}
        except Exception as error:  # One broken part costs no other.
            results[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
        print(f"{name}: {results[name]}", flush=True)
    return results


def require(module: str) -> Any:
    """An optional library.

    Raises
    ------
    LeftOut
        It is not installed, or cannot be loaded.
    """
    try:
        found = find_spec(module)
    except ModuleNotFoundError:  # The package that it lies in is not there.
        found = None
    if found is None:
        raise LeftOut(f"{module} is not installed")
    try:
        return import_module(module)
    except Exception as error:
        raise LeftOut(f"{module} cannot be loaded: {error}") from error


def require_gpu(bench: Bench) -> None:
    """Raise `LeftOut` in a dry run."""
    if bench.device != "cuda":
        raise LeftOut("it needs a GPU")


def engines(bench: Bench, name: str) -> dict[str, Any]:
    """Images per second, and least cosine to eager float32, of each class on one model."""
    settings = Settings(device=bench.device, offline=True)
    spec = catalogue.resolve(MODELS[name][0], settings.models, settings=settings)
    size = spec.transform.size
    images = pictures(min(256, bench.images), size)
    turns = max(1, bench.images // len(images))
    reference: NDArray[np.float32] | None = None
    result: dict[str, Any] = {"ok": True}
    for numerics in bench.classes:
        if numerics is not None and (why := missing(numerics, settings)) is not None:
            result[numerics] = {"left_out": why}
            continue
        record = record_of(spec, settings)
        backend = (
            open_backend(spec, settings, record) if numerics is None else open_engine(spec, settings, record, numerics)
        )
        rows = backend.submit(images).result()
        reference = rows if reference is None else reference
        start = time.perf_counter()
        for future in [backend.submit(images) for _ in range(turns)]:
            future.result()
        seconds = time.perf_counter() - start
        backend.close()
        least = float(cosine(rows, reference).min())
        result["ok"] = result["ok"] and least >= BROKEN_COSINE
        result[numerics or "float32"] = {
            "images_per_s": round(turns * len(images) / seconds, 1),
            "min_cosine": round(least, 6),
            "holds": least >= LEAST_COSINE,
        }
    return result


def pictures(count: int, size: int) -> NDArray[np.uint8]:
    """Colours that change, with noise, (count, size, size, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(each).resize((size, size)), np.int16) for each in coarse])
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def files_of(bench: Bench) -> list[bytes]:
    """JPEG files."""
    return [photograph(500, 375)] * bench.files


def decode_shoal(bench: Bench) -> dict[str, Any]:
    """Shoal in one process, resized to the network's input."""
    files = files_of(bench)
    return {"images_per_s": rate(lambda: [pixels_of(file, Transform()) for file in files], len(files)), "resized": True}


def decode_torchvision(bench: Bench) -> dict[str, Any]:
    """nvJPEG by torchvision, a batch at once."""
    library = require("torchvision.io")
    files = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files_of(bench)]
    found = library.decode_jpeg(files[:1], device=bench.device)[0].permute(1, 2, 0).cpu().numpy()
    per_s = rate(lambda: library.decode_jpeg(files, device=bench.device), len(files))
    return {"images_per_s": per_s, "resized": False, **differences(found)}


def decode_nvimgcodec(bench: Bench) -> dict[str, Any]:
    """nvImageCodec, a batch at once."""
    require_gpu(bench)
    decoder = require("nvidia.nvimgcodec").Decoder()
    files = files_of(bench)
    found = np.asarray(decoder.decode(files[:1])[0].cpu())
    per_s = rate(lambda: decoder.decode(files), len(files))
    return {"images_per_s": per_s, "resized": False, **differences(found)}


def differences(found: NDArray[np.uint8]) -> dict[str, Any]:
    """How far pixels are from those of libjpeg-turbo."""
    import simplejpeg

    off = np.abs(found.astype(np.int16) - simplejpeg.decode_jpeg(photograph(500, 375)))
    return {"largest_difference": int(off.max()), "differing": round(float((off > 0).mean()), 4)}


def rate(work: Callable[[], object], count: int) -> float:
    """Images per second of the second of two runs."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        del result
    return round(count / seconds, 1)


def planted(bench: Bench) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows about planted centres, and the first centroids of all that cluster them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(bench.clusters, bench.dim)).astype(np.float32)
    x = centres[rng.integers(0, bench.clusters, bench.rows)]
    x += rng.standard_normal(x.shape, np.float32)
    return x, x[rng.choice(bench.rows, bench.clusters, replace=False)]


def kmeans_faiss(bench: Bench) -> dict[str, Any]:
    """The clusterer's faiss engine: on all GPUs with faiss-gpu, else on the processor."""
    require("faiss")
    from clusterer.data.rows import ArrayRows
    from clusterer.kmeans import select_engine
    from clusterer.kmeans.faiss import gpu_count

    if bench.device == "cuda" and not gpu_count():
        raise LeftOut("faiss sees no GPU: install faiss-gpu in place of faiss-cpu")
    x, centroids = planted(bench)
    assigner = select_engine("faiss").assigner(ArrayRows(x))
    start = time.perf_counter()
    for _ in range(bench.iterations):
        found = assigner.assign(centroids)
        filled = found.counts > 0
        centroids = centroids.copy()
        centroids[filled] = (found.sums[filled] / found.counts[filled, None]).astype(np.float32)
    return {**shape(bench), **of_centroids(x, centroids, time.perf_counter() - start), "gpus": gpu_count()}


def kmeans_flash(bench: Bench) -> dict[str, Any]:
    """flash-kmeans in float32 and in float16."""
    require_gpu(bench)
    library = require("flash_kmeans")
    x, centroids = planted(bench)
    result: dict[str, Any] = shape(bench)
    for dtype in (torch.float32, torch.float16):
        rows, first = (torch.from_numpy(each).to("cuda", dtype)[None] for each in (x, centroids))
        options = {"max_iters": bench.iterations, "tol": 0.0, "init_centroids": first}
        library.batch_kmeans_Euclid(rows, bench.clusters, **{**options, "max_iters": 1})  # Compiles its kernels.
        torch.cuda.synchronize()
        start = time.perf_counter()
        found = library.batch_kmeans_Euclid(rows, bench.clusters, **options)[1]
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        result[str(dtype).rpartition(".")[2]] = of_centroids(x, found[0].float().cpu().numpy(), seconds)
    return result


def shape(bench: Bench) -> dict[str, Any]:
    """The problem."""
    return {"rows": bench.rows, "dim": bench.dim, "clusters": bench.clusters, "iterations": bench.iterations}


def of_centroids(x: NDArray[np.float32], centroids: NDArray[np.float32], seconds: float) -> dict[str, Any]:
    """Seconds, and the mean squared distance of some rows to the nearest centroid: the lower, the better."""
    from clusterer.kmeans.engine import nearest

    return {"seconds": round(seconds, 3), "mean_squared": round(float(nearest(x[:20_000], centroids)[1].mean()), 4)}


if __name__ == "__main__":
    main()
