"""The sweep's job: every point that is not there yet, then the plots."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
from shoal import __version__
from shoal.jobs.child import JobContext
from shoal.schemas import SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.sweeps import Sweep, create_sweep, tidy

from clusterer.data.rows import ArrayRows, IntArray, MappedRows, Rows, StoredRows, l2_normalize
from clusterer.data.transform import Transform
from clusterer.evaluation.label_metrics import summarize
from clusterer.evaluation.probe import LinearProbe
from clusterer.evaluation.scoring import Assignments, score
from clusterer.evaluation.unsupervised import internal_metrics, pairwise_stability
from clusterer.jobs.grid import Point, by_space, plan_points
from clusterer.jobs.memory import Problem, default_limit, give_back, place
from clusterer.jobs.space import Shelf, Space, views_of
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import Engine, KMeansFit, fit_kmeans, needs_faiss, prices_by_seed, sample_rows, select_engine
from clusterer.kmeans.assign import Assigned, assign
from clusterer.results.plots import draw

OnRows = Callable[[int], None]


def run(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Run every point and draw the plots; the job's result.

    A point counts when its file is in the store, so a further attempt does only those that are missing.
    """
    store = Store(settings.store)
    request = SweepRequest.model_validate(ctx.request)
    points = plan_points(store, request, settings.data, deadline=None)
    spec = {"request": request.model_dump(mode="json"), "points": len(points)}
    sweep = create_sweep(store.layout, f"s-{ctx.id}", spec)
    started = time.perf_counter()
    if not sweep.complete:
        sweep.drop_damaged_points(store.layout.trash)
        done = set(sweep.finished_points())
        progress = _Points(ctx, len(points), len(done))
        placement = place(
            problem_of(points, probe=request.linear_probe),
            request.memory_limit or settings.memory_limit or default_limit(),
        )
        engine = select_engine(request.kmeans.engine, keep_bytes=placement.keep_bytes)
        shelf = Shelf(Workspace(store.layout.work(sweep.id)), placement.rows_in_memory)
        for group in by_space(points):
            if not done.issuperset(point.index for point in group):
                _run_space(sweep, group, done, engine, request.linear_probe, shelf, progress)
        ctx.progress("plots", 0, 1, "plots")
        draw(sweep, tidy(sweep.points()), request.reference)
        ctx.progress("plots", 1, 1, "plots")
        facts = {"finished_at": datetime.now(UTC).isoformat(), "engine": engine.name, "version": __version__}
        sweep.finish({**facts, "seconds": round(time.perf_counter() - started, 3)})
        shelf.work.remove()
    return {"sweep": sweep.id, "points": len(points), "plots": sweep.plots()}


@dataclass
class _Points:
    """Progress in points, and the place where the job may stop."""

    ctx: JobContext
    total: int
    done: int

    def alive(self, *_: Any) -> None:
        self.ctx.progress("points", self.done, self.total, "points")

    def one_more(self) -> None:
        self.done += 1
        self.ctx.advance(self.done)
        self.alive()


def problem_of(points: Sequence[Point], *, probe: bool = False) -> Problem:
    """One that is as large as any of the clusterings that the points mean; two projections of its sets are held."""
    rows = [sum(each.rows for each in {e.id: e for e in (p.plan.train, *p.plan.scored)}.values()) for p in points]
    dims = [point.components or point.plan.train.dim for point in points]
    return Problem(
        train_rows=max(point.plan.train.rows for point in points),
        held_rows=2 * max(rows),
        all_rows=max(rows),
        dim_in=max(point.plan.train.dim for point in points),
        dim=max(dims),
        k=max(point.plan.k for point in points),
        seeds=max(len(point.plan.seeds) for point in points),
        sampled_rows=max(point.plan.sampled_rows for point in points),
        fitted_rows=max(point.plan.sampled_rows or point.plan.train.rows for point in points),
        classes=max(len(p.plan.vocabulary_of(each.id)) for p in points for each in (p.plan.train, *p.plan.scored)),
        sets=max(len(point.plan.scored) for point in points),
        pca=any(point.components is not None for point in points),
        balanced=points[0].plan.request.kmeans.balanced is not None,
        faiss=needs_faiss(points[0].plan.request.kmeans.engine),
        mini_batch=points[0].plan.request.kmeans.algorithm == "mini-batch",
        probe=probe,
        sweep=True,
    )


def _run_space(
    sweep: Sweep, group: list[Point], done: set[int], engine: Engine, probe: bool, shelf: Shelf, progress: _Points
) -> None:
    """The points of one set of embeddings under one normalisation, but for those that are there already.

    These count in what all share: a projection on fewer components would differ in its last bits from the one that an
    earlier attempt began with.
    """
    plan, normalize, alive = group[0].plan, group[0].plan.request.normalize, progress.alive
    sets: dict[str, Rows] = {each.id: StoredRows(each, each.id) for each in (plan.train, *plan.scored)}
    classes = {each.id: plan.classes(each) for each in (plan.train, *plan.scored)}
    plain = views_of(sets, Transform(plan.train.dim, normalize))
    most = max((point.components for point in group if point.components is not None), default=None)
    tag = f"{plan.train.id} {'unit' if normalize else 'raw'}"
    with ExitStack() as held:
        space = None
        if most is not None:
            pca = shelf.fit(sets[plan.train.id], f"{tag} {most}", normalize=normalize, components=most, on_rows=alive)
            views = views_of(sets, Transform.of(plan.train.dim, normalize=normalize, pca=pca))
            space = Space(pca, held.enter_context(shelf.hold(views, f"{tag} {most}", alive)))
        probed: dict[str, float | None] = {}
        # One row to fit on and one to judge by: fewer make no classifier.
        if probe and np.count_nonzero(classes[plan.train.id] >= 0) > 1:
            probed = probe_sets(group[0], space.projected if space else plain, classes)
        left = [point for point in group if point.index not in done]
        for (_, _, whiten), same in groupby(left, key=lambda point: point.projection):
            points = list(same)
            components = points[0].components
            views = plain if space is None or components is None else space.truncated(components, whiten=whiten)
            if plan.request.kmeans.spherical:
                views = {name: MappedRows(view, l2_normalize, view.dim) for name, view in views.items()}
            with shelf.hold(views, f"{tag} {components} {whiten}", alive) as rows:
                for point in points:
                    document = run_point(point, rows, classes, engine, shelf, alive)
                    sweep.commit_point(point.index, {**document, "linear_probe": probed})
                    give_back()
                    progress.one_more()


def probe_sets(point: Point, rows: Mapping[str, Rows], classes: Mapping[str, IntArray]) -> dict[str, float | None]:
    """The accuracy of a linear classifier on each scored set; on the train set that of rows that it has not seen."""
    plan = point.plan
    probe = LinearProbe(rows[plan.train.id], classes[plan.train.id], len(plan.vocabulary))
    found: dict[str, float | None] = {}
    for each in plan.scored:
        mapped = plan.class_maps.get(each.id)
        pairs = None if mapped is None else mapped.pairs
        own = each.id == plan.train.id
        found[each.id] = probe.held_out_accuracy if own else probe.accuracy(rows[each.id], classes[each.id], pairs)
    return found


def run_point(
    point: Point,
    rows: Mapping[str, ArrayRows],
    classes: dict[str, IntArray],
    engine: Engine,
    shelf: Shelf,
    alive: OnRows,
) -> dict[str, Any]:
    """Cluster and score one combination; what its file holds."""
    started = time.perf_counter()
    plan = point.plan
    fits = {seed: _fit(point, rows[plan.train.id], seed, engine, shelf, alive) for seed in plan.seeds}
    assignments = _assign(point, rows, fits, engine, alive)
    best_seed = min(plan.seeds, key=lambda seed: assignments[plan.train.id][seed].inertia)
    metrics = score(plan, assignments, classes, best_seed, lambda *_: alive(0))
    for each in plan.scored:
        labels = {seed: assigned.labels for seed, assigned in assignments[each.id].items()}
        entry = metrics["scored"][each.id]
        entry["stability"] = pairwise_stability(labels, plan.k)
        if not entry["mean"]["n_labelled"]:
            found = internal_metrics(rows[each.id], labels, plan.k, on_rows=alive)
            mean, std = summarize(list(found.values()))
            entry["mean"].update(mean)
            entry["std"].update(std)
    request = plan.request
    return {
        "index": point.index,
        "request": request.model_dump(mode="json"),
        "params": {
            "embeddings": plan.train.id,
            "model": plan.train.plan.model.name,
            "n": plan.train.rows,
            "dim": plan.train.dim,
            "normalize": request.normalize,
            "components": point.components,
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


def _fit(point: Point, train: ArrayRows, seed: int, engine: Engine, shelf: Shelf, alive: OnRows) -> KMeansFit:
    k, most = point.plan.k, point.plan.request.kmeans.max_points_per_centroid
    rows = sample_rows(train, None if most is None else most * k, seed)
    with ExitStack() as held:
        if rows is not train:
            rows = held.enter_context(shelf.hold({"": rows}, f"sample {point.index} {seed}", alive))[""]
        return fit_kmeans(
            rows,
            k,
            engine=engine,
            options=point.plan.fit_options,
            seed=seed,
            on_rows=alive,
        )


def _assign(
    point: Point, rows: Mapping[str, ArrayRows], fits: Mapping[int, KMeansFit], engine: Engine, alive: OnRows
) -> Assignments:
    """Every set's clusters; k-means has assigned the train set itself already, unless it saw only a sample of it."""
    train = point.plan.train.id
    centroids = {seed: fit.best.fit.centroids for seed, fit in fits.items()}
    found: Assignments = {}
    for name, each in rows.items():
        best = {seed: fit.best.fit for seed, fit in fits.items()}
        if name == train and all(len(fit.labels) == each.n for fit in best.values()):
            nothing = each.array[:0, 0]
            found[name] = {seed: Assigned(fit.labels, nothing, nothing, fit.inertia) for seed, fit in best.items()}
        else:
            found[name] = assign(each, centroids, engine, prices=prices_by_seed(fits), on_rows=alive)
    return found
