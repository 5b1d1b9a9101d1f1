"""Where a clustering job computes: in its own process, or on a Ray cluster. The steps of the job are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from shoal.errors import JsonValue
from shoal.jobs.child import JobContext
from shoal.schemas import ClusterRequest
from shoal.schemas.execution import on_cluster
from shoal.settings import Settings
from shoal.store.files import storage_errors

from clusterer.data.partitions import OnRows, Partition, partitions_of
from clusterer.data.rows import Rows
from clusterer.jobs.memory import Placement, Problem, default_limit, place, place_on_worker
from clusterer.jobs.workspace import Workspace, short_name
from clusterer.kmeans import Engine, select_engine
from clusterer.kmeans.assigned import Assigned, Assigning
from clusterer.ray.partitions import release, spread
from clusterer.ray.pool import Pool
from clusterer.ray.session import connect


@dataclass(frozen=True)
class Site:
    """What a job computes with.

    Attributes
    ----------
    work
        Its working folder; it holds rows.
    engine
        Finds nearest centroids.
    problem, placement
        The size of the clustering as far as it weighs on this process, and what is kept in its memory.
    heads_device
        On which heads are trained.
    """

    work: Workspace
    engine: Engine
    problem: Problem
    placement: Placement
    heads_device: str = "auto"

    def memory(self) -> dict[str, JsonValue]:
        """For run.json."""
        return dict(self.placement.record())

    def execution(self) -> dict[str, JsonValue]:
        """For run.json: the engine of the execution and, on a cluster, its workers."""
        return {"engine": "local"}


@dataclass(frozen=True)
class ClusterSite(Site):
    """A site on a cluster.

    Attributes
    ----------
    pool
        Its workers.
    held
        What each worker keeps in memory.
    """

    pool: Pool = field(kw_only=True)
    held: Placement = field(kw_only=True)

    def memory(self) -> dict[str, JsonValue]:
        return {**self.placement.record(), "rows": "workers", "workers": dict(self.held.record())}

    def execution(self) -> dict[str, JsonValue]:
        return self.pool.record()


@contextmanager
def open_site(
    ctx: JobContext, settings: Settings, request: ClusterRequest, problem: Problem, folder: Path
) -> Iterator[Site]:
    """The site that a request asks for; a cluster is left at the end.

    Raises
    ------
    MemoryLimitTooSmall
        The job, or what a worker of the cluster must hold, does not fit.
    EngineUnavailable, RayUnavailable, InvalidRequest
        The engine or the cluster cannot be used.
    """
    limit = request.memory_limit or settings.memory_limit or default_limit()
    name = request.kmeans.engine
    cluster = on_cluster(request.execution)
    if cluster is None:
        placement = place(problem, limit)
        work = Workspace(folder, rows_in_memory=placement.rows_in_memory)
        yield Site(
            work, select_engine(name, keep_bytes=placement.keep_bytes), problem, placement, settings.heads_device
        )
        return
    own = replace(problem, held_rows=0, sampled_rows=0)
    placement = place(own, limit)
    here = select_engine(name)

    def starting() -> None:
        ctx.progress("workers", 0, cluster.workers, "workers")

    starting()
    with connect(cluster, settings, on_wait=starting) as session:
        workers = session.workers(cluster, int(limit))
        share = problem.share(workers.count)
        held = place_on_worker(share, workers.memory)
        pool = Pool(
            session,
            workers,
            keep_bytes=held.keep_bytes,
            rows_bytes=share.row_bytes if held.rows_in_memory else 0,
            on_wait=ctx.raise_if_cancelled,
        )
        engine = pool.start(name, here, starting)
        work = ClusterWorkspace(folder, pool)
        yield ClusterSite(work, engine, own, placement, pool=pool, held=held)


class ClusterWorkspace(Workspace):
    """A working folder whose rows the workers of a cluster hold.

    Parameters
    ----------
    folder
        All workers reach it under the same path, as they do the store.
    """

    def __init__(self, folder: Path, pool: Pool) -> None:
        super().__init__(folder, rows_in_memory=True)
        self._pool = pool
        self._held: dict[str, Rows] = {}

    def spread(self, rows: Rows) -> Rows:
        return spread(self._pool, rows, held=False)

    def hold(self, name: str, rows: Rows, on_rows: OnRows | None = None) -> Rows:
        self._held[name] = held = spread(self._pool, rows, held=True, on_rows=on_rows)
        return held

    def release(self, name: str) -> None:
        # There are none where an exception ended their holding: another one must not hide it.
        if (held := self._held.pop(name, None)) is not None:
            release(held)

    def assign(self, name: str, rows: Rows, step: Assigning, on_rows: OnRows) -> dict[int, Assigned]:
        folder = self.folder(f"assigned-{short_name(name)}")
        files = AssignedFiles(folder, rows.n)
        files.create(list(step.centroids))
        inertias = partitions_of(rows).run(WriteStep(step, files), on_rows=on_rows)
        return {
            seed: files.read(seed, math.fsum(value for each in inertias for value in each[seed]))
            for seed in step.centroids
        }


COLUMNS = {"labels": np.dtype(np.int32), "distance": np.dtype(np.float32), "margin": np.dtype(np.float32)}


@dataclass(frozen=True)
class AssignedFiles:
    """The clusters of all rows of a set in plain files, in which every worker writes those of its rows in their place.

    Attributes
    ----------
    folder
        Of the files.
    n
        Number of rows.
    """

    folder: Path
    n: int

    def create(self, seeds: list[int]) -> None:
        """Create the files at their full size."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for seed in seeds:
                for name, dtype in COLUMNS.items():
                    with self._file(seed, name).open("wb") as opened:
                        opened.truncate(self.n * dtype.itemsize)

    def write(self, seed: int, first: int, found: Assigned) -> None:
        """Write the clusters of consecutive rows, the first of which has that number."""
        with storage_errors(self.folder):
            for name, dtype in COLUMNS.items():
                with self._file(seed, name).open("r+b") as opened:
                    opened.seek(first * dtype.itemsize)
                    opened.write(np.ascontiguousarray(getattr(found, name), dtype).data)

    def read(self, seed: int, inertia: float) -> Assigned:
        """One seed's clusters; the arrays are views of the files."""
        with storage_errors(self.folder):
            columns = {
                name: np.asarray(np.memmap(self._file(seed, name), dtype, "r", shape=(self.n,)))
                for name, dtype in COLUMNS.items()
            }
        return Assigned(**columns, inertia=inertia)

    def _file(self, seed: int, name: str) -> Path:
        return self.folder / f"{seed}.{name}"


@dataclass(frozen=True)
class WriteStep:
    """Assigns the rows of a partition and writes their clusters to files; returns the inertia of each block."""

    step: Assigning
    files: AssignedFiles

    def __call__(self, partition: Partition, on_rows: OnRows) -> dict[int, list[float]]:
        found = self.step(partition, on_rows)
        for seed, (assigned, _) in found.items():
            self.files.write(seed, partition.first, assigned)
        return {seed: inertias for seed, (_, inertias) in found.items()}
