"""The points of a sweep as tasks of a Ray cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from shoal.schemas import ClusterRequest, SweepRequest
from shoal.schemas.execution import on_cluster
from shoal.settings import Settings
from shoal.store import EmbeddingSet
from shoal.store import Plan as SetPlan
from shoal.store.layout import EmbeddingsLayout

from clusterer.data.partitions import unheard
from clusterer.data.pca import Pca
from clusterer.data.rows import ArrayRows, Float32Array, Rows, in_memory
from clusterer.evaluation.contingency import LabelledSet
from clusterer.jobs.grid import Point
from clusterer.jobs.memory import Problem, place, place_on_worker, problem_of
from clusterer.jobs.plan import Plan
from clusterer.jobs.points import Space, run_point, views_of_point
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import select_engine
from clusterer.ray.session import STORE_BYTES, OnWait, Session, Workers, connect
from clusterer.ray.tasks import run_tasks

if TYPE_CHECKING:
    from shoal.errors import JsonValue


class SetFacts(EmbeddingSet):
    """What a plan says of an embeddings set, without its files: a node needs no store for a point."""

    def __init__(self, layout: EmbeddingsLayout, plan: SetPlan, rows: int) -> None:
        self.layout, self.plan = layout, plan
        self._rows = rows

    def __reduce__(self) -> tuple[type[SetFacts], tuple[EmbeddingsLayout, SetPlan, int]]:
        return type(self), (self.layout, self.plan, self._rows)

    @property
    def rows(self) -> int:
        """Number of rows that are clustered."""
        return self._rows


@dataclass(frozen=True)
class PointTask:
    """What differs between the points of a space, and how much of it fits in memory."""

    index: int
    request: ClusterRequest
    k: int
    engine: str
    rows_in_memory: bool
    keep_bytes: int


@dataclass(frozen=True)
class PointTasks:
    """Runs points on a cluster.

    Attributes
    ----------
    engine
        Name of the engine that the job's worker picked: every node uses the same.
    """

    session: Session
    workers: Workers
    engine: str

    def run(
        self,
        points: Sequence[Point],
        rows: Mapping[str, Rows],
        pca: Pca | None,
        sets: Mapping[str, LabelledSet],
        on_wait: OnWait,
    ) -> Iterator[tuple[Point, dict[str, JsonValue]]]:
        """Compute points of one space; yields each with the content of its file, as they end.

        Parameters
        ----------
        rows
            Every set: projected by ``pca``, or without a projection where it is None.
        """
        plan = points[0].plan
        facts = {each.id: SetFacts(each.layout, each.plan, each.rows) for each in plan.sets}
        base = replace(
            plan, train=facts[plan.train.id], scored=tuple(facts[each.id] for each in plan.scored), class_maps={}
        )
        arrays = {name: _array(each) for name, each in rows.items()}
        tasks, needs = [], []
        for point in points:
            problem = problem_of_point(point.plan)
            placed = place(problem, self.workers.memory)
            tasks.append(
                PointTask(
                    point.index, point.plan.request, point.plan.k, self.engine, placed.rows_in_memory, placed.keep_bytes
                )
            )
            needs.append(min(placed.limit, problem.other_bytes + problem.row_bytes + problem.sketch_bytes))
        found = run_tasks(
            self.session,
            compute,
            tasks,
            workers=self.workers,
            needs=needs,
            shared=(base, arrays, pca, dict(sets)),
            on_wait=on_wait,
        )
        for index, document in found:
            yield points[index], document


@contextmanager
def point_tasks(
    request: SweepRequest, settings: Settings, points: Sequence[Point], engine: str, limit: int, on_wait: OnWait
) -> Iterator[PointTasks | None]:
    """The cluster of a sweep; None where its worker computes the points.

    Raises
    ------
    MemoryLimitTooSmall
        A point needs more memory than a worker on the cluster may use.
    """
    cluster = on_cluster(request.execution)
    if cluster is None:
        yield None
        return
    problems = [problem_of_point(point.plan) for point in points]
    shared = max(4 * each.all_rows * each.dim for each in problems)
    with connect(cluster, settings, store_bytes=STORE_BYTES + shared, on_wait=on_wait) as session:
        workers = session.workers(cluster, limit)
        for problem in problems:
            place_on_worker(problem, workers.memory)
        yield PointTasks(session, workers, engine)


def problem_of_point(plan: Plan) -> Problem:
    """The size of one point, whose task holds a copy of all rows."""
    problem = problem_of([plan], sweep=True)
    return replace(problem, held_rows=problem.all_rows)


def compute(
    task: PointTask,
    base: Plan,
    arrays: Mapping[str, Float32Array],
    pca: Pca | None,
    sets: Mapping[str, LabelledSet],
) -> dict[str, JsonValue]:
    """The content of a point's file, computed on a node of the cluster."""
    point = Point(task.index, replace(base, request=task.request, k=task.k))
    given: dict[str, Rows] = {name: ArrayRows(array) for name, array in arrays.items()}
    engine = select_engine(task.engine, keep_bytes=task.keep_bytes)
    with tempfile.TemporaryDirectory(prefix="shoal-point-", ignore_cleanup_errors=True) as folder:
        work = Workspace(Path(folder), rows_in_memory=task.rows_in_memory)
        with work.holding(_changed(point, given, pca), "point", unheard) as held:
            return run_point(point, {**given, **held}, sets, engine, work, unheard)


def _changed(point: Point, given: Mapping[str, Rows], pca: Pca | None) -> dict[str, Rows]:
    """The views of a point, none where it takes the rows as all tasks of the node share them."""
    options = point.plan.request.pca
    cut = pca is not None and options is not None and (point.plan.components != len(pca.components) or options.whiten)
    if not cut and not point.plan.request.kmeans.spherical:
        return {}
    return views_of_point(point, given, None if pca is None else Space(pca, given))


def _array(rows: Rows) -> Float32Array:
    """Rows that a job's process holds, in memory or in a file."""
    held = rows if isinstance(rows, ArrayRows) else in_memory(rows)
    return np.asarray(held.array, dtype=np.float32)
