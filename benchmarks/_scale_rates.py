"""Rates of this machine for the cost model: what one core computes, reads and sends, each measured on its own."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _features import Features, Matrix
from _scale_inputs import GB, PassRate, Rates
from _scale_model import EARLY_PASSES, MULTIPLY_ADDS
from clusterer.data.pca import accumulate_moments, fit_pca
from clusterer.data.rows import ArrayRows, StoredRows
from clusterer.data.transform import Transform
from clusterer.evaluation.unsupervised import internal_metrics
from clusterer.kmeans import Engine, State, lloyd
from clusterer.kmeans.assigned import Target
from clusterer.kmeans.engine import add_by_label, squared_distances
from clusterer.kmeans.fast import FastEngine
from clusterer.ray.session import connect
from imagenet import embeddings_of
from shoal.schemas.execution import Execution
from shoal.settings import Settings
from shoal.store import Store

Clock = Callable[[], float]
SEARCHED = 16_384
"""Rows of the searches that are timed."""
REPEATS, LARGE = 3, 4096
"""Runs of k-means; one where there are more clusters."""


def seconds_of(
    work: Callable[[], Any],
    clock: Clock,
    times: int = 3,
    pick: Callable[[Sequence[float]], float] = statistics.median,
) -> float:
    """Of several runs: the median, or what ``pick`` says."""
    found = []
    for _ in range(times):
        started = clock()
        work()
        found.append(clock() - started)
    return pick(found)


def features(rows: int, dim: int) -> Matrix:
    """Synthetic rows in memory."""
    return np.vstack([block for _, block in Features(rows, dim).batches()])


def starts(x: Matrix, k: int) -> Matrix:
    """Rows as first centroids."""
    return np.ascontiguousarray(x[np.sort(np.random.default_rng(1).choice(len(x), k, replace=False))])


def pass_seconds(engine: Engine, x: Matrix, k: int, iterations: int, clock: Clock) -> list[float]:
    """Of each pass of one run, from rows as first centroids."""
    rows = ArrayRows(x)
    marks = [clock()]
    lloyd(
        rows,
        engine.assigner(rows),
        State(starts(x, k)),
        iterations=iterations,
        tolerance=-1.0,
        on_iteration=lambda state: marks.append(clock()),
    )
    return np.diff(marks).tolist()


def prepared_seconds(engine: Engine, dim: int, k: int, clock: Clock) -> float:
    """Of what a pass costs with hardly a row: centroids packed, sums read out and divided."""
    x = features(64, dim)
    centroids = np.random.default_rng(0).standard_normal((k, dim), dtype=np.float32)
    assigner = engine.assigner(ArrayRows(x))
    assigner.assign(centroids)

    def once() -> None:
        found = assigner.assign(centroids)
        np.divide(found.sums, np.maximum(found.counts, 1)[:, None]).astype(np.float32)

    return seconds_of(once, clock)


def pass_rate(engine: FastEngine, x: Matrix, k: int, iterations: int, clock: Clock) -> PassRate:
    """Of one core, from real runs of k-means: the quietest, whose passes follow each other."""
    dim = x.shape[1]
    products = len(x) * k * dim / GB
    prepared = prepared_seconds(engine, dim, k, clock)
    runs = [pass_seconds(engine, x, k, iterations, clock) for _ in range(REPEATS if k <= LARGE else 1)]
    seconds = [max(each - prepared, each / 2) for each in min(runs, key=sum)]
    batch, centroids = x[:SEARCHED], starts(x, k)
    searched = len(batch) * k * dim / GB
    searcher, target = engine.searcher(centroids), Target.of(centroids, engine)
    return PassRate(
        dim=dim,
        k=k,
        first=products / seconds[0],
        early=products / statistics.fmean(seconds[1:EARLY_PASSES]),
        settled=products / statistics.fmean(seconds[EARLY_PASSES:]),
        search=searched / seconds_of(lambda: searcher.nearest(batch), clock),
        two_nearest=searched / seconds_of(lambda: target.assign(batch), clock),
    )


def pass_rates(
    dims: Sequence[int], clusters: Sequence[int], rows: int, iterations: int, clock: Clock
) -> tuple[PassRate, ...]:
    """At every number of columns and clusters, with at least four rows a cluster."""
    engine = FastEngine(threads=1)
    found: list[PassRate] = []
    for dim in dims:
        x = features(max(rows, 4 * max(clusters)), dim)
        for k in clusters:
            found.append(pass_rate(engine, x[: max(rows, 4 * k)], k, iterations, clock))
            print(f"measured: {found[-1]}", file=sys.stderr)
    return tuple(found)


def efficiency(threads: int, dim: int, k: int, rows: int, clock: Clock) -> float:
    """Rate of several threads relative to as many times that of one, in turns: what cores take from each other."""
    if threads == 1:
        return 1.0
    x, turns = features(rows, dim), []
    for _ in range(REPEATS):
        one, many = (
            statistics.fmean(pass_seconds(FastEngine(threads=count), x, k, 6, clock)[EARLY_PASSES:])
            for count in (1, threads)
        )
        turns.append(one / many)
    return min(1.0, statistics.median(turns))


def other_rates(dim: int, clock: Clock) -> dict[str, float]:
    """Of all steps but passes, on one core."""
    x = features(32_768, dim)
    rows, half, k = ArrayRows(x), dim // 4, 4096
    moments = accumulate_moments(rows)
    projection = Transform.of(dim, normalize=False, pca=fit_pca(moments, half))
    parts = np.random.default_rng(0).integers(-(2**40), 2**40, (2, k, dim))
    weight = np.random.default_rng(0).random(10_000_000)
    seconds = {
        "moments": seconds_of(lambda: accumulate_moments(rows), clock),
        "project": seconds_of(lambda: [projection(batch) for _, batch in rows.batches()], clock),
        "eig": seconds_of(lambda: fit_pca(moments, half), clock),
        "prepared": prepared_seconds(FastEngine(threads=1), dim, k, clock),
        "reduce": seconds_of(lambda: np.add(parts[0], parts[1], out=parts[0]), clock),
        "draw": seconds_of(lambda: np.cumsum(weight), clock),
    }
    return {
        "moments_gmac": len(x) * dim**2 / GB / seconds["moments"],
        "project_gmac": len(x) * dim * half / GB / seconds["project"],
        "eig_gmac": dim**3 / GB / seconds["eig"],
        "centroids_gvalues": k * dim / GB / seconds["prepared"],
        "reduce_gvalues": k * dim / GB / seconds["reduce"],
        "draw_grows": len(weight) / GB / seconds["draw"],
        **metrics_rates(x, clock),
    }


def metrics_rates(x: Matrix, clock: Clock) -> dict[str, float]:
    """Of the passes that sum clusters, and of those that measure distances to sampled rows."""
    labels = np.random.default_rng(0).integers(0, 1000, len(x)).astype(np.int32)
    sampled = min(1000, int(MULTIPLY_ADDS / x.size))
    points, table = x[:sampled], np.zeros((1000, sampled))

    def distances() -> None:
        for first in range(0, len(x), 2048):
            batch = x[first : first + 2048]
            add_by_label(table, np.sqrt(squared_distances(batch, points)), labels[first : first + len(batch)])

    whole = seconds_of(lambda: internal_metrics(ArrayRows(x), {0: labels}, 1000), clock)
    products = seconds_of(distances, clock)
    return {
        "metrics_gvalues": x.size / GB / max(whole - products, whole / 10),
        "metrics_gmac": x.size * sampled / GB / products,
    }


def store_rates(dim: int, clock: Clock) -> dict[str, float]:
    """Of reading float16 shards from the page cache, and of writing assignments."""
    rows = 65_536
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        stored = StoredRows(store.embeddings(embeddings_of(store, Features(rows, dim))), "rows")
        read = seconds_of(lambda: [None for _ in stored.batches()], clock)
        table = pa.table(
            {
                "image_id": [f"{row:032x}" for row in range(rows)],
                "cluster": np.random.default_rng(0).integers(0, 1000, rows).astype(np.int32),
                **{name: np.random.default_rng(1).random(rows, dtype=np.float32) for name in ("distance", "margin")},
            }
        )
        write = seconds_of(lambda: pq.write_table(table, Path(folder) / "rows.parquet", compression="zstd"), clock)
    return {"read_gvalues": rows * dim / GB / read, "write_grows": rows / GB / write}


def ray_rates(megabytes: int = 32) -> dict[str, float]:
    """Round trip of a small call to an actor, and bytes a second to one and back.

    In wall time, which other load lengthens: the quickest of many.
    """

    class Echo:  # of a function: workers do not find this module
        def none(self) -> None:
            return

        def copy(self, values: Matrix) -> Matrix:
            return values + 1

    with connect(Execution(engine="ray"), Settings()) as session:
        ray: Any = session.ray
        actor = ray.remote(Echo).remote()
        values = np.zeros(megabytes * 250_000, dtype=np.float32)
        ray.get(actor.copy.remote(values))
        call = seconds_of(lambda: ray.get(actor.none.remote()), time.perf_counter, 100, min)
        there = seconds_of(lambda: ray.get(actor.copy.remote(ray.put(values))), time.perf_counter, 20, min)
    return {"call_s": call, "object_gb_s": 2 * values.nbytes / GB / there}


@contextmanager
def on_one_core() -> Iterator[None]:
    """Let this process have one core for a while, so that what takes all cores by default takes one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(
    dims: Sequence[int], clusters: Sequence[int], *, rows: int, iterations: int, threads: int, with_ray: bool
) -> Rates:
    """All rates of this machine; computing is timed in seconds of the processor, so that other load matters less."""
    clock = time.process_time
    passes = pass_rates(dims, clusters, rows, iterations, clock)
    together = efficiency(threads, max(dims), 1000, rows, clock)
    with on_one_core():
        others = other_rates(max(dims), clock) | store_rates(max(dims), clock)
    return Rates(passes, together, **others, **(ray_rates() if with_ray else {}))
