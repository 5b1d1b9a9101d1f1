"""Images per second through gRPC, compared with the same SavedModel in this process at the same batch size.

The server is the stand-in of the tests in a process of its own, or the one that ``--url`` names, serving the same
folder. Both backends embed the same pixels from memory, in turns, so that each round is a pair under the same load of
the machine; the largest difference between their embeddings is part of the result. The default model is
EfficientNet-Lite0.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import finish, parser, spread
from _serving import prepared, server
from extractor.backends.base import Backend
from extractor.backends.loading import open_backend, record_of
from extractor.models import catalogue
from numpy.typing import NDArray
from shoal.settings import Settings

START_S = 300.0


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--models", type=Path, help="models root with an imported model; default: a fresh one")
    options.add_argument("--model", default="lite0_tf", help="name below the models root (%(default)s)")
    options.add_argument("--url", help="host:port of a server of that folder; default: one is started")
    options.add_argument("--batch-size", type=int, default=64, help="images a batch (%(default)s)")
    options.add_argument("--batches", type=int, default=4, help="batches a round (%(default)s)")
    options.add_argument("--rounds", type=int, default=7, help="pairs of rounds (%(default)s)")
    options.add_argument("--in-flight", type=int, default=3, help="requests under way at once (%(default)s)")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-tfserving-") as temporary, contextlib.ExitStack() as stack:
        models = chosen.models or prepared(Path(temporary), chosen.model)
        url = chosen.url or stack.enter_context(server(models))
        settings = Settings(
            models=models, tf_serving_url=url, tf_serving_in_flight=chosen.in_flight, tf_serving_gone_s=START_S
        )
        spec = catalogue.resolve(chosen.model, models, settings=settings)
        remote, local = (
            stack.enter_context(contextlib.closing(open_backend(spec, way, record_of(spec, way))))
            for way in (settings, settings.model_copy(update={"tf_serving_url": None}))
        )
        size = spec.transform.size
        generator = np.random.default_rng(0)
        batches = [
            generator.integers(0, 256, (chosen.batch_size, size, size, 3), dtype=np.uint8)
            for _ in range(chosen.batches)
        ]
        pairs, difference = measure(remote, local, batches, chosen.rounds)
    report(chosen, pairs, difference)


def measure(
    remote: Backend, local: Backend, batches: list[NDArray[np.uint8]], rounds: int
) -> tuple[list[tuple[float, float]], float]:
    """Seconds per round through gRPC and in this process, after one round of warm-up; the largest difference."""
    pairs = []
    difference = 0.0
    for index in range(rounds + 1):
        (remote_s, theirs), (local_s, ours) = (timed(backend, batches) for backend in (remote, local))
        difference = max(difference, *(float(np.abs(a - b).max()) for a, b in zip(theirs, ours, strict=True)))
        if index > 0:
            pairs.append((remote_s, local_s))
    return pairs, difference


def timed(backend: Backend, batches: list[NDArray[np.uint8]]) -> tuple[float, list[NDArray[np.float32]]]:
    """Seconds and embeddings of a round."""
    begun = time.perf_counter()
    embeddings = [future.result() for future in [backend.submit(batch) for batch in batches]]
    return time.perf_counter() - begun, embeddings


def report(chosen: Any, pairs: list[tuple[float, float]], difference: float) -> None:
    """Print rates and their ratio."""
    images = chosen.batch_size * chosen.batches
    ratios = [local_s / remote_s for remote_s, local_s in pairs]
    grpc, local = ([images / pair[i] for pair in pairs] for i in (0, 1))
    print(f"gRPC        {statistics.median(grpc):8.1f} images/s")
    print(f"in process  {statistics.median(local):8.1f} images/s")
    print(f"ratio       {statistics.median(ratios):8.3f} (median of {len(ratios)} pairs)")
    print(f"largest difference {difference:.2g}")
    result = {
        "benchmark": "tfserving",
        "model": chosen.model,
        "batch_size": chosen.batch_size,
        "in_flight": chosen.in_flight,
        "images_per_s": {"grpc": spread(grpc, 1), "in_process": spread(local, 1)},
        "ratio": {"median": round(statistics.median(ratios), 4), **spread(ratios)},
        "largest_difference": difference,
    }
    finish(result, as_json=chosen.json)


if __name__ == "__main__":
    main()
