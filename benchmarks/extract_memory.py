"""Peak memory of an extraction of large photographs, beside what the model alone takes.

A few synthetic photographs of 24 megapixels are written and hard-linked to as many names as asked for. The memory is
the sum of the resident sizes of this process, which runs the job, and of its decode processes, taken ten times a
second; what they share counts in each of them.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
from _common import finish, parser
from decode import photograph
from extractor import pipeline
from extractor.backends.loading import open_backend, record_of
from extractor.models import catalogue
from shoal.jobs.child import JobContext
from shoal.settings import Settings

GIB = 2**30


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=300, help="how many images (%(default)s)")
    options.add_argument("--model", default="tf_efficientnet_lite0", help="catalogue name (%(default)s)")
    options.add_argument("--workers", type=int, default=0, help="decode processes; 0 means one a core")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-memory-") as temporary:
        root = Path(temporary)
        settings = Settings(
            data=root / "data", models=root / "models", store=root / "store", decode_workers=chosen.workers
        )
        write_images(root / "data" / "set", chosen.images)
        model = model_alone(settings, chosen.model)
        peak, result = peak_of_job(settings, chosen.model)
    above = (peak - model) / GIB
    print(f"the model {model / GIB:.2f} GiB, the job at most {peak / GIB:.2f} GiB: {above:.2f} GiB above the model")
    figures = {"model_gib": round(model / GIB, 3), "peak_gib": round(peak / GIB, 3), "above_model_gib": round(above, 3)}
    finish({"benchmark": "extract_memory", "rows": result["rows"], **figures}, as_json=chosen.json)


def write_images(folder: Path, count: int) -> None:
    """``count`` names for four photographs of 6000 x 4000 pixels."""
    folder.mkdir(parents=True)
    data = photograph(6000, 4000)
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        if index < 4:
            path.write_bytes(data)
        else:
            os.link(folder / f"{index % 4:06d}.jpg", path)


def model_alone(settings: Settings, model: str) -> int:
    """Resident bytes of this process once the network has computed a batch."""
    spec = catalogue.resolve(model, settings.models, settings=settings)
    backend = open_backend(spec, settings, record_of(spec, settings))
    size = backend.transform.size
    backend.submit(np.zeros((64, size, size, 3), np.uint8)).result()
    resident: int = psutil.Process().memory_info().rss
    backend.close()
    return resident


def peak_of_job(settings: Settings, model: str) -> tuple[int, dict[str, object]]:
    """The largest sum of resident bytes while the job ran, and its result."""
    ended, peaks = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.1):
            peaks[0] = max(peaks[0], resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        request = {"images": {"path": "set"}, "model": model, "engine": "eager"}
        result = pipeline.run(JobContext.local({**request}, kind="extract:torch"), settings)
    finally:
        ended.set()
        watcher.join()
    return peaks[0], {**result}


def resident_bytes() -> int:
    """Of this process and all below it."""
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # It ended meanwhile.
            continue
    return total


if __name__ == "__main__":
    main()
