"""The sweep's job: every point that is not in the store yet, then the plots."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from shoal import __version__
from shoal.errors import ClustersInvalid
from shoal.jobs.child import JobContext
from shoal.memory import release_freed_memory
from shoal.schemas import SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.sweeps import Sweep, create_sweep, tidy

from clusterer.data.pca import Pca
from clusterer.data.rows import Rows, StoredRows
from clusterer.data.transform import Transform
from clusterer.evaluation.contingency import LabelledSet
from clusterer.jobs import steps
from clusterer.jobs.graph import Grouping
from clusterer.jobs.grid import Point, by_space, plan_points
from clusterer.jobs.heads import HeadFits, Hooks, fit_heads
from clusterer.jobs.memory import default_limit, place, problem_of
from clusterer.jobs.plan import Plan
from clusterer.jobs.points import Space, probe_sets, run_point, views_of_point
from clusterer.jobs.reduce import Reducing
from clusterer.jobs.sweep_ray import PointTasks, point_tasks
from clusterer.jobs.workspace import Workspace, discard, short_name
from clusterer.kmeans import Engine, select_engine
from clusterer.results.plots import draw


def run(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Run every point and draw the plots; the job's result.

    A point counts when its file is in the store, so a further attempt runs only those that are missing.

    Raises
    ------
    ClustersInvalid
        No point has two groups; the error is that of the first.
    """
    store = Store.of(settings)
    request = SweepRequest.model_validate(ctx.request)
    points = plan_points(store, request, settings.data, deadline=None)
    spec = {"request": request.model_dump(mode="json"), "points": len(points)}
    sweep = create_sweep(store.layout, f"s-{ctx.id}", spec)
    started = time.perf_counter()
    if not sweep.complete:
        sweep.drop_damaged_points(store.layout.trash)
        problem = problem_of([point.plan for point in points], sweep=True, probe=request.linear_probe)
        limit = request.memory_limit or settings.memory_limit or default_limit()
        placement = place(problem, limit)
        work = Workspace(store.layout.work(sweep.id), rows_in_memory=placement.rows_in_memory)
        memory = placement.searching(problem)
        engine = select_engine(request.kmeans.engine, keep_bytes=placement.keep_bytes)
        finished = set(sweep.finished_points())
        with point_tasks(request, settings, points, engine.name, limit, ctx.raise_if_cancelled) as tasks:
            trains = _Trains(settings.heads_device, work, memory, ctx)
            runner = _Runner(
                ctx, sweep, len(points), finished, engine, work, memory, request.linear_probe, tasks, trains
            )
            for group in by_space(points):
                runner.run_space(group)
        rows = [row for row in tidy(sweep.points()) if row["error_code"] is None]
        if not rows:
            raise ClustersInvalid(sweep.points()[0]["error"]["message"], field="method")
        ctx.progress("plots", 0, 1, "plots")
        draw(sweep, rows, request.reference)
        ctx.progress("plots", 1, 1, "plots")
        facts = {"finished_at": datetime.now(UTC).isoformat(), "engine": engine.name, "version": __version__}
        sweep.finish({**facts, "seconds": round(time.perf_counter() - started, 3)})
    discard(store.layout.work(sweep.id))
    return {"sweep": sweep.id, "points": len(points), "plots": sweep.plots()}


@dataclass(frozen=True)
class _Trains:
    """Trains the heads of points; runs are kept, so that a further attempt at a point resumes them."""

    device: str
    work: Workspace
    search_bytes: int
    ctx: JobContext

    def __call__(self, point: Point, train: Rows) -> HeadFits:
        def heard(*_: object) -> None:
            self.ctx.raise_if_cancelled()

        hooks = Hooks(neighbours=heard, rows=heard, step=heard, kept=heard)
        return fit_heads(point.plan, train, self.device, self.work, self.search_bytes, hooks, f"-{point.index}")


@dataclass(frozen=True)
class _Runner:
    """Runs the unfinished points of a sweep.

    Attributes
    ----------
    memory
        Bytes that a search for neighbours may use.
    """

    ctx: JobContext
    sweep: Sweep
    total: int
    finished: set[int]
    engine: Engine
    work: Workspace
    memory: int
    probe: bool
    tasks: PointTasks | None
    trains: _Trains

    def run_space(self, group: list[Point]) -> None:
        """The points of one set of embeddings under one normalisation.

        Finished points count for the shared projection: with fewer components it would differ in its last bits from
        that of an earlier attempt.
        """
        left = [point for point in group if point.index not in self.finished]
        if not left:
            return
        plan, normalize = group[0].plan, group[0].plan.request.normalize
        sources: dict[str, Rows] = {each.id: StoredRows(each, each.id) for each in plan.sets}
        sets = plan.read_labels()
        plain = steps.views_of(sources, Transform(plan.train.dim, normalize))
        most = max((point.plan.components for point in group if point.plan.components is not None), default=None)
        tag = f"{plan.train.id} {'unit' if normalize else 'raw'}"
        with ExitStack() as held:
            space = None
            if most is not None:
                pca = self._fit_once(sources[plan.train.id], f"{tag} {most}", normalize=normalize, components=most)
                views = steps.views_of(sources, Transform.of(plan.train.dim, normalize=normalize, pca=pca))
                space = Space(pca, held.enter_context(self.work.holding(views, f"{tag} {most}", self._report)))
            probed: dict[str, float | None] = {}
            # One row to fit on and one to score on.
            if self.probe and np.count_nonzero(sets[plan.train.id].classes >= 0) > 1:
                probed = probe_sets(group[0], space.projected if space else plain, sets)
            if self.tasks is not None:
                self._run_on_cluster(self.tasks, left, plain, space, sets, probed, tag)
                return
            for (_, _, whiten), same in groupby(left, key=lambda point: point.projection):
                points = list(same)
                components, views = points[0].plan.components, views_of_point(points[0], plain, space)
                name = f"{tag} {components} {whiten}"
                with self.work.holding(views, name, self._report) as rows:
                    for _, alike in groupby(points, key=lambda point: point.reduction):
                        self._run_reduced(list(alike), rows, sets, probed, name)

    def _run_reduced(
        self,
        points: list[Point],
        rows: Mapping[str, Rows],
        sets: Mapping[str, LabelledSet],
        probed: dict[str, float | None],
        tag: str,
    ) -> None:
        """Points with the same rows, reduced where they say so."""
        plan = points[0].plan
        rows_tag = f"{tag} {points[0].reduction}"
        with ExitStack() as held:
            if plan.reduce is not None:
                # The rows depend on the first seed alone, so one reduction serves all points.
                reducing = Reducing.of(plan, self.work, tag, self.memory, self._report)
                held.callback(reducing.release, rows)
                rows, _ = reducing.sets(rows)
            for point in points:
                document = run_point(
                    point,
                    rows,
                    sets,
                    self.engine,
                    self.work,
                    self._report,
                    self.trains,
                    partial(self._grouping, rows_tag),
                )
                self._commit(point, document, probed)

    def _grouping(self, tag: str, plan: Plan) -> Grouping:
        """Points of the same rows share the nearest rows."""
        return Grouping(plan, self.work, self.memory, self._report, tag)

    def _run_on_cluster(
        self,
        tasks: PointTasks,
        left: list[Point],
        plain: Mapping[str, Rows],
        space: Space | None,
        sets: Mapping[str, LabelledSet],
        probed: dict[str, float | None],
        tag: str,
    ) -> None:
        """Points with a projection share the projected rows, the others those without one."""
        projected = [point for point in left if point.plan.components is not None]
        others = [point for point in left if point.plan.components is None]
        if projected and space is not None:
            for point, document in tasks.run(projected, space.projected, space.pca, sets, self._report):
                self._commit(point, document, probed)
        if others:
            with self.work.holding(plain, f"{tag} None False", self._report) as rows:
                for point, document in tasks.run(others, rows, None, sets, self._report):
                    self._commit(point, document, probed)

    def _fit_once(self, train: Rows, tag: str, *, normalize: bool, components: int) -> Pca:
        """The PCA of the train set, which the next attempt finds again under the same ``tag``."""
        name = f"pca-{short_name(tag)}"
        pca = self.work.pca(name)
        if pca is None:
            pca = steps.fit_projection(train, normalize=normalize, components=components, on_rows=self._report)
            self.work.keep_pca(name, pca)
        return pca

    def _commit(self, point: Point, document: dict[str, Any], probed: dict[str, float | None]) -> None:
        self.sweep.commit_point(point.index, {**document, "linear_probe": probed})
        release_freed_memory()
        self.finished.add(point.index)
        self.ctx.advance(len(self.finished))
        self._report()

    def _report(self, _: int = 0) -> None:
        self.ctx.progress("points", len(self.finished), self.total, "points")
