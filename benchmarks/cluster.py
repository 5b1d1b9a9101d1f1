"""Lloyd's k-means: ours beside faiss.Kmeans, faiss.SuperKmeans, the package superkmeans and mini-batches.

    python benchmarks/cluster.py [--json] [--rows 200000] [--dim 2048] [--clusters 1000] [--iterations 10]
                                 [--engines fast faiss.Kmeans ...] [--repeats 3] [--features FILE]

The data are synthetic features like a network's (see `Features`), or those of FILE (.npy). Each run is a process of
its own that reads the features, then takes the time; the engines run in turn, and medians are compared. Ours and
faiss.Kmeans start from the same rows; faiss.SuperKmeans and superkmeans choose their own. `fast:avx512` is our engine
without AMX. scikit-learn's mini-batches are set as in the code of arXiv 2008.10312, timed for 2 of its 60 epochs, and
scaled. The inertia is that of the final centroids over all rows, by the same exact assignment for all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _common
import numpy as np
from _features import Features
from numpy.typing import NDArray

ENGINES = ("fast", "faiss.Kmeans", "faiss.SuperKmeans", "superkmeans", "minibatch")
EPOCHS, TIMED_EPOCHS = 60, 2
Matrix = NDArray[np.float32]


def fast(x: Matrix, start: Matrix, iterations: int, variant: str | None = None) -> tuple[Matrix, float, dict[str, Any]]:
    """Our engine in our loop. The seconds end with the last update, as those of the peers do.

    The assignment after it, whose labels only ours gives, is stated beside.
    """
    from clusterer.data.rows import ArrayRows
    from clusterer.kmeans import State, lloyd
    from clusterer.kmeans.fast import FastEngine

    started = time.perf_counter()
    engine = FastEngine(variant)
    ended: list[float] = []
    rows = ArrayRows(x)
    fit = lloyd(
        rows,
        engine.assigner(rows),
        State(start),
        iterations=iterations,
        tolerance=-1.0,
        on_iteration=lambda state: ended.append(time.perf_counter() - started),
    )
    return (
        fit.centroids,
        ended[-1],
        {
            "engine": engine.reason,
            "with_labels_s": round(time.perf_counter() - started, 3),
            "iterations_s": [round(entry.seconds, 3) for entry in fit.history],
            "moved": [entry.moved for entry in fit.history],
        },
    )


def faiss_kmeans(x: Matrix, start: Matrix, iterations: int) -> tuple[Matrix, float, dict[str, Any]]:
    """faiss.Kmeans on all rows, from the same centroids."""
    import faiss

    kmeans: Any = faiss.Kmeans(x.shape[1], len(start), niter=iterations, max_points_per_centroid=len(x))
    seconds = timed(lambda: kmeans.train(x, init_centroids=start))
    return kmeans.centroids, seconds, {"version": faiss.__version__}


def faiss_super(x: Matrix, start: Matrix, iterations: int) -> tuple[Matrix, float, dict[str, Any]]:
    """faiss.SuperKmeans on all rows; it takes no first centroids."""
    import faiss

    engine: Any = faiss
    kmeans = engine.SuperKmeans(x.shape[1], len(start), niter=iterations, max_points_per_centroid=len(x))
    seconds = timed(lambda: kmeans.train(x))
    return kmeans.centroids, seconds, {"version": faiss.__version__}


def superkmeans(x: Matrix, start: Matrix, iterations: int) -> tuple[Matrix, float, dict[str, Any]]:
    """The package superkmeans, float32, flat, on all rows, without early stops; it takes no first centroids."""
    import superkmeans as package

    model = package.SuperKMeans(
        len(start),
        x.shape[1],
        hierarchical=False,
        iters=iterations,
        sampling_fraction=1.0,
        max_points_per_cluster=len(x),
        early_termination=False,
    )
    results: list[Matrix] = []
    seconds = timed(lambda: results.append(model.train(x)))
    return np.asarray(results[0], dtype=np.float32), seconds, {"version": package.__version__}


def minibatch(x: Matrix, start: Matrix, iterations: int) -> tuple[Matrix, float, dict[str, Any]]:
    """scikit-learn's mini-batches: batches of k, `partial_fit` over all rows in each epoch."""
    import sklearn
    from sklearn.cluster import MiniBatchKMeans

    k = len(start)
    model = MiniBatchKMeans(k, batch_size=k, n_init=3, random_state=0)

    def epochs() -> None:
        for _ in range(TIMED_EPOCHS):
            for first in range(0, len(x), max(k, 2048)):
                if len(x) - first >= k:
                    model.partial_fit(x[first : first + max(k, 2048)])

    seconds = timed(epochs) * EPOCHS / TIMED_EPOCHS
    return (
        model.cluster_centers_.astype(np.float32),
        seconds,
        {
            "version": sklearn.__version__,
            "epochs": EPOCHS,
            "timed_epochs": TIMED_EPOCHS,
        },
    )


RUNNERS: dict[str, Callable[..., tuple[Matrix, float, dict[str, Any]]]] = {
    "fast": fast,
    "faiss.Kmeans": faiss_kmeans,
    "faiss.SuperKmeans": faiss_super,
    "superkmeans": superkmeans,
    "minibatch": minibatch,
}


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds of ``work``."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def child(name: str, features: Path, start: Path, iterations: int, output: Path) -> None:
    """One run in this process; prints JSON."""
    runner, _, variant = name.partition(":")
    x, first = np.load(features), np.load(start)
    before = resource.getrusage(resource.RUSAGE_SELF)
    options = {"variant": variant} if variant else {}
    centroids, seconds, details = RUNNERS[runner](x, first, iterations, **options)
    after = resource.getrusage(resource.RUSAGE_SELF)
    np.save(output, centroids)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rss = {"peak_rss_gib": round(after.ru_maxrss / 2**20, 2), "rss_before_gib": round(before.ru_maxrss / 2**20, 2)}
    print(json.dumps({"seconds": seconds, "cpu_s": round(spent, 2), **rss, **details}))


def run_once(name: str, folder: Path, features: Path, start: Path, iterations: int) -> dict[str, Any]:
    """One run in its own process; an error instead of figures if the peer is not installed."""
    output = folder / "centroids.npy"
    arguments = [name, str(features), str(start), str(iterations), str(output)]
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found["inertia"] = inertia_of(features, np.load(output))
    return found


def inertia_of(features: Path, centroids: Matrix) -> float:
    """Inertia of all rows about centroids, exact."""
    from clusterer.data.rows import ArrayRows
    from clusterer.kmeans import select_engine

    rows = ArrayRows(np.load(features, mmap_mode="r"))
    return select_engine("auto").assigner(rows).assign(np.ascontiguousarray(centroids)).inertia


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs of one engine, with the seconds of each."""
    errors = [run["error"] for run in runs if "error" in run]
    if errors:
        return {"error": errors[0]}
    middle = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
    return {
        **middle,
        "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
        "cpu_s": round(statistics.median(run["cpu_s"] for run in runs), 2),
        "all_seconds": [round(run["seconds"], 3) for run in runs],
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All runs, in turn."""
    features, start = arguments.features, folder / "start.npy"
    made = None
    if features is None:
        made = Features(arguments.rows, arguments.dim)
        features = folder / "features.npy"
        made.write(features)
    x = np.load(features, mmap_mode="r")
    chosen = np.random.default_rng(1).choice(len(x), arguments.clusters, replace=False)
    np.save(start, np.ascontiguousarray(x[np.sort(chosen)], dtype=np.float32))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.engines}
    for repeat in range(arguments.repeats):
        for name in arguments.engines:
            if repeat and name == "minibatch":
                continue
            found = run_once(name, folder, features, start, arguments.iterations)
            runs[name].append(found)
            print(f"{name} {repeat + 1}/{arguments.repeats}: {found.get('seconds', found)}", file=sys.stderr)
    return {
        "benchmark": "cluster",
        "rows": len(x),
        "dim": int(x.shape[1]),
        "clusters": arguments.clusters,
        "iterations": arguments.iterations,
        "features": asdict(made) if made else str(features),
        "engines": {name: summarise(found) for name, found in runs.items()},
    }


def add_ratios(result: dict[str, Any], ours: str) -> None:
    """How many times faster ours is, and its inertia over theirs."""
    engines = result["engines"]
    if "error" in engines.get(ours, {"error": ""}):
        return
    for name, found in engines.items():
        if name != ours and "error" not in found:
            found["times_ours"] = round(found["seconds"] / engines[ours]["seconds"], 2)
            found["inertia_over_ours"] = found["inertia"] / engines[ours]["inertia"]


def show(result: dict[str, Any]) -> None:
    print(f"{result['rows']} x {result['dim']}, k = {result['clusters']}, {result['iterations']} iterations")
    print(f"{'engine':<20}{'seconds':>9}{'CPU s':>9}{'x ours':>8}{'inertia / ours':>16}{'peak RSS':>10}")
    for name, found in result["engines"].items():
        if "error" in found:
            print(f"{name:<20} {found['error']}")
            continue
        print(
            f"{name:<20}{found['seconds']:>9.2f}{found['cpu_s']:>9.1f}{found.get('times_ours', 1.0):>8.2f}"
            f"{found.get('inertia_over_ours', 1.0):>16.7f}{found['peak_rss_gib']:>6.2f} GiB"
        )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        name, features, start, iterations, output = sys.argv[2:]
        child(name, Path(features), Path(start), int(iterations), Path(output))
        return
    parser = _common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--features", type=Path, help="a .npy file instead of synthetic features")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        result = measure(arguments, Path(folder))
    add_ratios(result, arguments.engines[0])
    show(result)
    _common.finish(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
