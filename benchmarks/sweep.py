"""A sweep of 9 numbers of clusters and 8 PCA sizes, compared with the same points as separate jobs.

    python benchmarks/sweep.py [--json] [--rows 8000] [--dim 768] [--classes 10] [--seeds 1] [--restarts 1] [--every 1]

The rows are planted classes in a decaying spectrum, as embeddings have it. The sweep is one `run-job` process, each
separate job is one too: what a worker starts for a job, with its start, its reads, its PCA, its report. With ``--every
N`` only every N-th point runs as a job of its own and the sum is scaled; the result says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common
import numpy as np
import pyarrow as pa
from shoal.jobs.protocol import EVENTS_FD, PARENT_PID, ChildJob
from shoal.schemas import SweepRequest
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id

OVER = [1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0]


def make_embeddings(store: Store, rows: int, dim: int, classes: int) -> str:
    """Planted classes in the store."""
    rng = np.random.default_rng(0)
    spectrum = 0.995 ** np.arange(dim)
    truth = rng.integers(0, classes, rows)
    vectors = ((rng.normal(size=(classes, dim))[truth] + 2.5 * rng.normal(size=(rows, dim))) * spectrum).astype(
        np.float32
    )
    paths = [f"{row:07d}.png" for row in range(rows)]
    labels = [f"class {each:04d}" for each in truth]
    listing = pa.table({"image_id": [image_id(path) for path in paths], "image_path": paths, "label": labels})
    record = ModelRecord(name="planted", backend="import", architecture="none", embedding="none")
    plan = Plan(
        name="planted",
        source=Source.of(listing, kind="import", path="planted"),
        model=record,
        dim=dim,
        dtype="float32",
        shard_rows=rows,
        thumbnails=False,
    )
    made = store.create_embeddings(plan, listing)
    with store.shard_writer(made.id, 0, attempt=1, owner="benchmark") as writer:
        writer.append(
            vectors, [RowMetadata(image_id(path), path, label) for path, label in zip(paths, labels, strict=True)]
        )
        writer.commit()
    store.finish_embeddings(made.id)
    return made.id


def run_job(store: Store, job_id: str, kind: str, request: dict[str, Any]) -> float:
    """Seconds of one job in the process that a worker would start for it."""
    job = ChildJob(job_id, kind, 1, "benchmark", request, None)
    reading, writing = os.pipe()
    environment = {**os.environ, "SHOAL_STORE": str(store.root), EVENTS_FD: str(writing), PARENT_PID: str(os.getpid())}
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "clusterer", "run-job"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        pass_fds=[writing],
    )
    os.close(writing)
    if child.stdin is not None:
        child.stdin.write(job.encode())
        child.stdin.close()
    with os.fdopen(reading, "rb") as events:
        last = events.read().splitlines()[-1]
    if child.wait() != 0:
        raise SystemExit(f"the job failed: {last.decode()}")
    return time.perf_counter() - started


def measure(options: Any, folder: Path) -> dict[str, Any]:
    """Both ways on the same embeddings."""
    store = Store(folder)
    embeddings = make_embeddings(store, options.rows, options.dim, options.classes)
    sizes = [size for size in (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048) if size < options.dim][-7:]
    request = {
        "embeddings": embeddings,
        "over": OVER,
        "pca": {"components": [*sizes, options.dim]},
        "seeds": list(range(options.seeds)),
        "kmeans": {"restarts": options.restarts},
    }
    points = SweepRequest.model_validate(request).points()
    swept = run_job(store, "sweep", "sweep", request)
    print(f"sweep of {len(points)} points: {swept:.1f} s")
    chosen = points[:: options.every]
    alone = [
        run_job(store, f"point-{index}", "cluster", point.model_dump(mode="json", exclude_none=True))
        for index, point in enumerate(chosen)
    ]
    total = sum(alone) / len(chosen) * len(points)
    within = [point["seconds"] for point in store.sweep("s-sweep").points()]
    print(f"as separate jobs: {total:.1f} s; the sweep costs {swept / total:.2f} of that")
    return {
        "points": len(points),
        "rows": options.rows,
        "dim": options.dim,
        "classes": options.classes,
        "seeds": options.seeds,
        "restarts": options.restarts,
        "sweep_seconds": round(swept, 2),
        "sweep_seconds_in_points": round(sum(within), 2),
        "separate_seconds": round(total, 2),
        "separate_jobs_run": len(chosen),
        "ratio": round(swept / total, 3),
    }


def main() -> None:
    arguments = _common.parser(__doc__)
    arguments.add_argument("--rows", type=int, default=8000)
    arguments.add_argument("--dim", type=int, default=768)
    arguments.add_argument("--classes", type=int, default=10)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--every", type=int, default=1, help="run every N-th point as a job of its own")
    arguments.add_argument("--restarts", type=int, default=1, help="of k-means, which sweep and jobs alike pay for")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    _common.finish({"benchmark": "sweep", **result}, as_json=options.json)


if __name__ == "__main__":
    main()
