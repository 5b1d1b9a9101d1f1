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
from shoal.jobs.child import JobContext
from shoal.memory import release_freed_memory
from shoal.schemas import SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.sweeps import Sweep, create_sweep, tidy

from clusterer.data.pca import Pca
from clusterer.data.rows import ArrayRows, Float32Array, MappedRows, Rows, StoredRows, l2_normalize
from clusterer.data.transform import Transform
from clusterer.evaluation.contingency import LabelledSet
from clusterer.evaluation.probe import LinearProbe
from clusterer.jobs import steps
from clusterer.jobs.grid import Point, by_space, plan_points
from clusterer.jobs.memory import default_limit, place, problem_of
from clusterer.jobs.workspace import Workspace, short_name
from clusterer.kmeans import Engine, select_engine
from clusterer.kmeans.engine import OnRows
from clusterer.results.plots import draw


def run(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Run every point and draw the plots; the job's result.

    A point counts when its file is in the store, so a further attempt runs only those that are missing.
    """
    store = Store(settings.store)
    request = SweepRequest.model_validate(ctx.request)
    points = plan_points(store, request, settings.data, deadline=None)
    spec = {"request": request.model_dump(mode="json"), "points": len(points)}
    sweep = create_sweep(store.layout, f"s-{ctx.id}", spec)
    started = time.perf_counter()
    if not sweep.complete:
        sweep.drop_damaged_points(store.layout.trash)
        problem = problem_of([point.plan for point in points], sweep=True, probe=request.linear_probe)
        placement = place(problem, request.memory_limit or settings.memory_limit or default_limit())
        work = Workspace(store.layout.work(sweep.id), rows_in_memory=placement.rows_in_memory)
        engine = select_engine(request.kmeans.engine, keep_bytes=placement.keep_bytes)
        runner = _Runner(ctx, sweep, len(points), set(sweep.finished_points()), engine, work, request.linear_probe)
        for group in by_space(points):
            runner.run_space(group)
        ctx.progress("plots", 0, 1, "plots")
        draw(sweep, tidy(sweep.points()), request.reference)
        ctx.progress("plots", 1, 1, "plots")
        facts = {"finished_at": datetime.now(UTC).isoformat(), "engine": engine.name, "version": __version__}
        sweep.finish({**facts, "seconds": round(time.perf_counter() - started, 3)})
        work.remove()
    return {"sweep": sweep.id, "points": len(points), "plots": sweep.plots()}


@dataclass(frozen=True)
class _Runner:
    """Runs the unfinished points of a sweep."""

    ctx: JobContext
    sweep: Sweep
    total: int
    finished: set[int]
    engine: Engine
    work: Workspace
    probe: bool

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
            for (_, _, whiten), same in groupby(left, key=lambda point: point.projection):
                points = list(same)
                components = points[0].plan.components
                views = plain if space is None or components is None else space.truncated(components, whiten=whiten)
                if plan.request.kmeans.spherical:
                    views = {name: MappedRows(view, l2_normalize, view.dim) for name, view in views.items()}
                with self.work.holding(views, f"{tag} {components} {whiten}", self._report) as rows:
                    for point in points:
                        self._run_and_commit(point, rows, sets, probed)

    def _fit_once(self, train: Rows, tag: str, *, normalize: bool, components: int) -> Pca:
        """The PCA of the train set, which the next attempt finds again under the same ``tag``."""
        name = f"pca-{short_name(tag)}"
        pca = self.work.pca(name)
        if pca is None:
            pca = steps.fit_projection(train, normalize=normalize, components=components, on_rows=self._report)
            self.work.keep_pca(name, pca)
        return pca

    def _run_and_commit(
        self,
        point: Point,
        rows: Mapping[str, ArrayRows],
        sets: Mapping[str, LabelledSet],
        probed: dict[str, float | None],
    ) -> None:
        document = run_point(point, rows, sets, self.engine, self.work, self._report)
        self.sweep.commit_point(point.index, {**document, "linear_probe": probed})
        release_freed_memory()
        self.finished.add(point.index)
        self.ctx.advance(len(self.finished))
        self._report()

    def _report(self, _: int = 0) -> None:
        self.ctx.progress("points", len(self.finished), self.total, "points")


@dataclass(frozen=True)
class Space:
    """The embeddings of some sets under one normalisation, projected on the most components of any point.

    Attributes
    ----------
    pca
        Fitted on the train set alone, not whitened.
    projected
        By embeddings id: ``(n, c)`` rows.
    """

    pca: Pca
    projected: Mapping[str, ArrayRows]

    def truncated(self, components: int, *, whiten: bool) -> dict[str, Rows]:
        """Every set on its first ``components`` components, as a PCA with that many gives it."""
        kept = self.pca.truncate(components)
        scale = Pca(kept.mean, kept.components, kept.explained_variance, kept.total_variance, whiten).scale
        cut = partial(_cut, scale=scale.astype(np.float32) if whiten else None, components=components)
        return {name: MappedRows(whole, cut, components) for name, whole in self.projected.items()}


def _cut(batch: Float32Array, *, components: int, scale: Float32Array | None) -> Float32Array:
    part = np.ascontiguousarray(batch[:, :components])
    return part if scale is None else part * scale


def probe_sets(point: Point, rows: Mapping[str, Rows], sets: Mapping[str, LabelledSet]) -> dict[str, float | None]:
    """The accuracy of a linear classifier on each scored set; on the train set that of held-out rows."""
    train = sets[point.plan.train.id]
    probe = LinearProbe(rows[train.id], train.classes, len(train.vocabulary))
    found: dict[str, float | None] = {}
    for each in point.plan.scored:
        scored = sets[each.id]
        own = each.id == train.id
        found[each.id] = probe.held_out_accuracy if own else probe.accuracy(rows[each.id], scored.classes, scored.pairs)
    return found


def run_point(
    point: Point,
    rows: Mapping[str, ArrayRows],
    sets: Mapping[str, LabelledSet],
    engine: Engine,
    work: Workspace,
    on_rows: OnRows,
) -> dict[str, Any]:
    """Cluster and score one combination; the content of its file."""
    started = time.perf_counter()
    plan, request = point.plan, point.plan.request
    fits = {
        seed: steps.fit_seed(
            plan, rows[plan.train.id], seed, engine, work, sample=f"sample {point.index} {seed}", on_rows=on_rows
        )
        for seed in plan.seeds
    }
    assignments = steps.assign_sets(rows, fits, engine, on_rows, labels_only=plan.train.id)
    best_seed = steps.lowest_inertia(plan, assignments)
    metrics = steps.score(plan, sets, assignments, best_seed, on_rows)
    steps.add_unsupervised(plan, rows, assignments, metrics, on_rows, labelled_too=False)
    return {
        "index": point.index,
        "request": request.model_dump(mode="json"),
        "params": {
            "embeddings": plan.train.id,
            "model": plan.train.plan.model.name,
            "n": plan.train.rows,
            "dim": plan.train.dim,
            "normalize": request.normalize,
            "components": plan.components,
            "whiten": bool(request.pca and request.pca.whiten),
            "over": request.over,
            "k": plan.k,
            "train_classes": plan.train_classes,
            "seeds": list(plan.seeds),
            "restarts": plan.restarts,
        },
        "best_seed": best_seed,
        "iterations": {str(seed): len(fit.best.fit.history) for seed, fit in fits.items()},
        "scored": metrics["scored"],
        "seconds": round(time.perf_counter() - started, 3),
    }
