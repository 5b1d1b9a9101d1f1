"""k-means on a Ray cluster of this machine beside the local engine: the same bits, and how much longer it takes.

    python benchmarks/ray_engine.py [--json] [--rows 1000000] [--dim 512] [--clusters 1000] [--iterations 10]
        [--repeats 3]

Every run reads the same stored embeddings, scales them to unit length, holds them, chooses first centroids, iterates
and assigns all rows. Local runs use as many threads as the workers that they are compared with have cores; the runs of
a comparison take turns. Ray's nodes are processes of this machine with an object store each. What it takes to start
them is not part of a run, and is printed apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _common
import numpy as np
from _features import Features
from clusterer.data.rows import MappedRows, Rows, StoredRows, in_memory, l2_normalize
from clusterer.kmeans import Engine, FitOptions, fit_kmeans, select_engine
from clusterer.kmeans.assigned import AssignStep, assign_by
from clusterer.kmeans.fast import FastEngine
from clusterer.ray.partitions import spread
from clusterer.ray.pool import Pool
from clusterer.ray.session import LOOPBACK, Workers, connect
from imagenet import embeddings_of
from shoal.host import available_cores, use_cores
from shoal.schemas.execution import Execution
from shoal.settings import Settings
from shoal.store import Store

KEEP_BYTES = 4 * 2**30


def stored(folder: Path, rows: int, dim: int) -> Rows:
    """Synthetic features in a store, as a job reads them."""
    store = Store(folder)
    found = store.embeddings(embeddings_of(store, Features(rows, dim)))
    return MappedRows(StoredRows(found, found.id), l2_normalize, dim)


def run(held: Rows, engine: Engine, k: int, iterations: int) -> tuple[Any, dict[str, float]]:
    """One k-means, with the seconds of its parts."""
    seconds: dict[str, float] = {}
    begun = time.perf_counter()
    marks: list[float] = []
    options = FitOptions(iterations=iterations, tolerance=-1.0)
    fit = fit_kmeans(
        held, k, engine=engine, options=options, on_state=lambda *_: marks.append(time.perf_counter())
    ).best.fit
    seconds["seeding"] = marks[0] - begun
    seconds["iterations"] = marks[-1] - marks[0]
    started = time.perf_counter()
    assigned = assign_by(AssignStep(engine, {0: fit.centroids}, {}), held)[0]
    seconds["assign"] = time.perf_counter() - started
    return (fit, assigned), seconds


def local(view: Rows, threads: int, arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    """On this process's own threads."""
    use_cores(threads)
    started = time.perf_counter()
    held = in_memory(view)
    hold = time.perf_counter() - started
    engine = FastEngine(threads=threads, keep_bytes=KEEP_BYTES)
    found, seconds = run(held, engine, arguments.clusters, arguments.iterations)
    use_cores(os.cpu_count() or 1)
    return found, {"hold": hold, **seconds}


@contextmanager
def pool(workers: int, cpus: int) -> Iterator[Pool]:
    """Workers on a node each, with some cores each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cpus, "object_store_memory": 400_000_000, "node_ip_address": LOOPBACK}
    node |= {"include_dashboard": False, "memory": 2**33}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(workers - 1):
        cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        with connect(Execution(engine="ray", workers=workers), Settings()) as session:
            size = Workers(workers, cpus, 0, 2**32)
            made = Pool(session, size, keep_bytes=KEEP_BYTES, rows_bytes=KEEP_BYTES, on_wait=lambda: None)
            made.start("fast", select_engine("fast"))
            yield made
    finally:
        cluster.shutdown()


def on_ray(view: Rows, workers: int, cpus: int, arguments: argparse.Namespace) -> tuple[Any, dict[str, float]]:
    """On workers of a cluster."""
    begun = time.perf_counter()
    with pool(workers, cpus) as made:
        started = time.perf_counter()
        held = spread(made, view, held=True)
        hold = time.perf_counter() - started
        found, seconds = run(held, select_engine("fast"), arguments.clusters, arguments.iterations)
    return found, {"hold": hold, **seconds, "start": started - begun}


def same(one: Any, other: Any) -> bool:
    """Whether two runs agree in every bit."""
    (fit, assigned), (fit2, assigned2) = one, other
    pairs = [(fit.centroids, fit2.centroids), (fit.labels, fit2.labels)]
    pairs += [(getattr(assigned, name), getattr(assigned2, name)) for name in ("labels", "distance", "margin")]
    inertias = [[each.inertia for each in found.history] for found in (fit, fit2)]
    return all(np.array_equal(a, b) for a, b in pairs) and inertias[0] == inertias[1]


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All comparisons in turn, several times."""
    view = stored(folder / "store", arguments.rows, arguments.dim)
    cores = available_cores()
    comparisons = {f"1 worker of {cores} cores": (1, cores)}
    if cores > 1:
        comparisons[f"{cores} workers of 1 core"] = (cores, 1)
    table: dict[str, Any] = {}
    for name, (workers, cpus) in comparisons.items():
        pairs = []
        for _ in range(arguments.repeats):
            here, there = local(view, cores, arguments), on_ray(view, workers, cpus, arguments)
            pairs.append((here[1], there[1], same(here[0], there[0])))
        table[name] = summary(pairs)
    sizes = {name: getattr(arguments, name) for name in ("rows", "dim", "clusters", "iterations")}
    return {"benchmark": "ray_engine", **sizes, "table": table}


def summary(pairs: list[tuple[dict[str, float], dict[str, float], bool]]) -> dict[str, Any]:
    """Medians of the seconds, and of the ratios of the pairs."""
    parts = ["hold", "seeding", "iterations", "assign"]
    totals = [(sum(here[part] for part in parts), sum(there[part] for part in parts)) for here, there, _ in pairs]
    return {
        "local_s": {part: round(statistics.median(here[part] for here, _, _ in pairs), 2) for part in parts},
        "ray_s": {part: round(statistics.median(there[part] for _, there, _ in pairs), 2) for part in parts},
        "start_s": round(statistics.median(there["start"] for _, there, _ in pairs), 1),
        "ratios": [round(there / here, 3) for here, there in totals],
        "ratio": round(statistics.median(there / here for here, there in totals), 3),
        "equal_bits": all(equal for _, _, equal in pairs),
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['rows']:,} x {result['dim']}, {result['clusters']} clusters, {result['iterations']} iterations")
    print(f"{'':<22}{'ray / local':>12}{'equal bits':>12}   seconds, local and Ray")
    for name, row in result["table"].items():
        seconds = ", ".join(f"{part} {row['local_s'][part]} {row['ray_s'][part]}" for part in row["local_s"])
        print(f"{name:<22}{row['ratio']:>12}{row['equal_bits']!s:>12}   {seconds}; start {row['start_s']}")


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    show(result)
    _common.finish(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
