"""Seconds from the POST of a small job to its success, on workers that wait for one.

Starts what `shoal up` starts, on free ports and an empty store, with the code of this checkout. Each extraction has a
folder of its own, so that none finds what an earlier one committed; each clustering has the same planted rows. Before
each job the workers are idle for a while, as between two requests of a person.

    python benchmarks/job_latency.py [--images 200] [--rows 200] [--repeat 5] [--idle-s 10] [--json]

To compare two checkouts, run each checkout's own benchmark in turn, several times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from _common import finish, parser, spread
from PIL import Image
from shoal.embedded import Stack
from shoal.store import Store
from sweep import make_embeddings

MODEL = "tf_efficientnet_lite0"
SIDES = (320, 240)
POLL_S = 0.05


def paint(folder: Path, count: int, seed: int) -> None:
    """JPEG files of noise around a colour each, in two class folders."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        file = folder / f"class-{number % 2}" / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.normal(rng.integers(40, 215, 3), 25, (*SIDES[::-1], 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)


def seconds_of(http: httpx.Client, url: str, body: dict[str, Any]) -> float:
    """Seconds from just before the POST to the moment at which the queue records the success."""
    sent = time.time()
    answer = http.post(url, json=body).raise_for_status()
    job = answer.json()
    while job["finished_at"] is None:
        time.sleep(POLL_S)
        job = http.get(str(answer.url.join(answer.headers["Location"]))).json()
    if job["state"] != "succeeded":
        raise SystemExit(f"the job ended as {job['state']}: {job['error']}")
    return datetime.fromisoformat(job["finished_at"]).timestamp() - sent


def idle_children(stack: Stack) -> dict[str, float]:
    """Resident memory in MiB of each worker's idle child, by the worker's name."""
    found: dict[str, float] = {}
    for process in stack.processes:
        if process.name.endswith("worker") and process.popen is not None:
            children = psutil.Process(process.popen.pid).children()
            waiting = [child.memory_info().rss for child in children if "run-job" in child.cmdline()]
            found |= {process.name: round(waiting[0] / 2**20, 1)} if waiting else {}
    return found


def measure(stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    """The seconds of both kinds of jobs, in turn, after one of each that does not count."""
    embeddings = make_embeddings(Store(stack.store), options.rows, options.dim, 2)
    cluster = {"embeddings": embeddings, "clusters": options.clusters}
    seconds: dict[str, list[float]] = {"extract": [], "cluster": []}
    memory: dict[str, float] = {}
    with httpx.Client(timeout=60, trust_env=False) as http:
        for turn in range(options.repeat + 1):
            name = f"images-{turn}"
            paint(stack.data / name, options.images, turn)
            extract = {"images": {"path": name}, "model": MODEL}
            for kind, url, body in (
                ("extract", f"{stack.extractor_url}/extract", extract),
                ("cluster", f"{stack.clusterer_url}/cluster", cluster),
            ):
                time.sleep(options.idle_s)
                memory = idle_children(stack)
                took = seconds_of(http, url, body)
                print(f"{kind} {took:.2f} s" + ("" if turn else " (not counted)"), flush=True)
                if turn:
                    seconds[kind].append(took)
    return {"seconds": seconds, "idle_children_mib": memory}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--rows", type=int, default=200)
    options.add_argument("--dim", type=int, default=64)
    options.add_argument("--clusters", type=int, default=5)
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--idle-s", type=float, default=10.0, help="seconds without a job before each job")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stack = Stack(root / "data", root / "models", root / "store", 0, 0, single_user=True)
        stack.start()
        try:
            found = measure(stack, chosen)
        finally:
            stack.stop()
    for kind, values in found["seconds"].items():
        print(f"{kind}: median {statistics.median(values):.2f} s, {min(values):.2f} to {max(values):.2f} s")
    print("resident memory of idle children, MiB:", found["idle_children_mib"] or "there are none")
    result = {
        "benchmark": "job_latency",
        "images": chosen.images,
        "rows": chosen.rows,
        "dim": chosen.dim,
        "clusters": chosen.clusters,
        "repeat": chosen.repeat,
        "idle_s": chosen.idle_s,
        "idle_children_mib": found["idle_children_mib"],
        **{
            f"{kind}_seconds": {**spread(values), "median": round(statistics.median(values), 4)}
            for kind, values in found["seconds"].items()
        },
    }
    finish(result, as_json=chosen.json)


if __name__ == "__main__":
    main()
