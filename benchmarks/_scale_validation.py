"""Runs of k-means on this machine beside the model's predictions of them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from _features import Features
from _scale_inputs import Nodes, Problem, Rates
from _scale_model import Prediction, predict
from clusterer.data.rows import Rows, StoredRows, in_memory
from clusterer.kmeans import Engine, FitOptions, fit_kmeans
from clusterer.kmeans.assigned import assign
from clusterer.kmeans.fast import FastEngine
from clusterer.ray.partitions import release, spread
from clusterer.ray.pool import Pool
from clusterer.ray.session import Session, Workers, connect
from imagenet import embeddings_of
from shoal.schemas.execution import Execution
from shoal.settings import Settings
from shoal.store import Store

ROWS, DIM, CLUSTERS, ITERATIONS = 131_072, 768, 1500, 10
"""Of the run: none of them a number at which rates are measured."""
MEMORY = 2**30
STEPS = ("seeding", "first", "early", "settled", "assign")


@dataclass(frozen=True)
class Run:
    """Seconds of one run, of the wall and of the processor."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Sharing(Workers):
    """Workers of which more may run than there are cores."""

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "num_cpus": 0}


def timed(rows: Rows, engine: Engine, others: Sequence[psutil.Process] = ()) -> Run:
    """k-means and the final assignment; ``others`` are processes that compute beside this one."""
    wall, cpu = time.perf_counter(), processor_s(others)
    fit = fit_kmeans(rows, CLUSTERS, engine=engine, options=FitOptions(iterations=ITERATIONS, tolerance=-1.0)).best.fit
    assign(rows, {0: fit.centroids}, engine)
    return Run(time.perf_counter() - wall, processor_s(others) - cpu)


def processor_s(others: Sequence[psutil.Process]) -> float:
    """Seconds of the processor that this process and others have had."""
    times = [each.cpu_times() for each in others]
    return time.process_time() + sum(each.user + each.system for each in times)


@contextmanager
def spread_rows(session: Session, stored: StoredRows, workers: int, cores: int) -> Iterator[tuple[Rows, Engine]]:
    """The rows on workers that share the cores of this machine."""
    size = Sharing(workers, max(1, cores // workers), 0, MEMORY)
    pool = Pool(session, size, keep_bytes=MEMORY, rows_bytes=MEMORY, on_wait=lambda: None)
    try:
        engine = pool.start("fast", FastEngine())
        rows = spread(pool, stored, held=True)
        yield rows, engine
        release(rows)
    finally:
        for actor in pool._actors.values():
            session.ray.kill(actor)


def ray_run(session: Session, stored: StoredRows, workers: int, cores: int) -> Run:
    """The same on a cluster of this machine."""
    with spread_rows(session, stored, workers, cores) as (rows, engine):
        below = psutil.Process().children(recursive=True)
        return timed(rows, engine, [each for each in below if "Holder" in each.name()])


def compared(name: str, nodes: Nodes, rates: Rates, runs: Sequence[Run]) -> dict[str, Any]:
    """Medians of runs beside the prediction."""
    prediction = predict(Problem(ROWS, DIM, CLUSTERS, ITERATIONS), nodes, rates)
    wall, cpu = predicted(prediction)
    measured = Run(*(statistics.median(getattr(run, name) for run in runs) for name in ("wall", "cpu")))
    return {
        "run": name,
        "predicted_s": round(wall, 2),
        "measured_s": round(measured.wall, 2),
        "measured_all_s": [round(run.wall, 2) for run in runs],
        "predicted_cpu_s": round(cpu, 2),
        "measured_cpu_s": round(measured.cpu, 2),
        "measured_all_cpu_s": [round(run.cpu, 2) for run in runs],
        "wall_ratio": round(wall / measured.wall, 3),
        "cpu_ratio": round(cpu / measured.cpu, 3),
    }


def predicted(prediction: Prediction) -> tuple[float, float]:
    """Seconds of the wall, and of all cores together, of the steps that a run has."""
    steps = [each for each in prediction.steps if each.name in STEPS]
    cores = prediction.nodes.count * prediction.nodes.cores
    cpu = sum(each.compute * cores + each.driver + each.network for each in steps)
    return sum(each.seconds for each in steps), cpu


def measured(workers: Sequence[int], cores: int, turns: int) -> dict[str, tuple[Nodes, list[Run]]]:
    """Every run in turn, several times."""
    threads = sorted({1, cores})
    runs: dict[str, tuple[Nodes, list[Run]]] = {
        f"local, {each} threads": (Nodes(cores=each, distributed=False), []) for each in threads
    }
    runs |= {f"Ray, {each} workers": (Nodes(cores=cores, workers=each), []) for each in workers}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(store=Path(folder))
        store = Store(settings.store)
        stored = StoredRows(store.embeddings(embeddings_of(store, Features(ROWS, DIM))), "rows")
        rows = in_memory(stored)
        with connect(Execution(engine="ray"), settings) as session:
            for _ in range(turns):
                for each in threads:
                    runs[f"local, {each} threads"][1].append(timed(rows, FastEngine(threads=each)))
                for each in workers:
                    runs[f"Ray, {each} workers"][1].append(ray_run(session, stored, each, cores))
    return runs


def validate(rates: Rates, workers: Sequence[int], cores: int, turns: int) -> dict[str, Any]:
    """The runs beside their predictions."""
    found = [compared(name, nodes, rates, runs) for name, (nodes, runs) in measured(workers, cores, turns).items()]
    for each in found:
        print(
            f"{each['run']:<20}wall: predicted {each['predicted_s']:.1f} s, measured {each['measured_s']:.1f} s "
            f"({each['wall_ratio']:.2f}); processor: {each['predicted_cpu_s']:.1f}, {each['measured_cpu_s']:.1f} "
            f"({each['cpu_ratio']:.2f})"
        )
    return {"rows": ROWS, "dim": DIM, "clusters": CLUSTERS, "iterations": ITERATIONS, "runs": found}
