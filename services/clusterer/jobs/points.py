"""The points of a sweep: the rows that they share, and how one is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from shoal.errors import ClustersInvalid

from clusterer.data.partitions import OnRows
from clusterer.data.pca import Pca
from clusterer.data.rows import Float32Array, MappedRows, Rows, l2_normalize
from clusterer.evaluation.contingency import LabelledSet
from clusterer.evaluation.probe import LinearProbe
from clusterer.jobs import graph, steps
from clusterer.jobs.graph import Grouping
from clusterer.jobs.grid import Point
from clusterer.jobs.heads import HeadFits
from clusterer.jobs.heads import best_seed as best_head
from clusterer.jobs.plan import Plan
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import Engine


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
    projected: Mapping[str, Rows]

    def truncated(self, components: int, *, whiten: bool) -> dict[str, Rows]:
        """Every set on its first ``components`` components, as a PCA with that many gives it."""
        kept = self.pca.truncate(components)
        scale = Pca(kept.mean, kept.components, kept.explained_variance, kept.total_variance, whiten).scale
        cut = partial(_cut, scale=scale.astype(np.float32) if whiten else None, components=components)
        return {name: MappedRows(whole, cut, components) for name, whole in self.projected.items()}


def views_of_point(point: Point, plain: Mapping[str, Rows], space: Space | None) -> dict[str, Rows]:
    """The rows of every set as k-means sees them.

    Parameters
    ----------
    plain, space
        Every set without a projection, and the shared one.
    """
    plan, views = point.plan, dict(plain)
    pca = plan.request.pca
    if space is not None and pca is not None and plan.components is not None:
        views = space.truncated(plan.components, whiten=pca.whiten)
    if plan.request.kmeans.spherical:
        views = {name: MappedRows(view, l2_normalize, view.dim) for name, view in views.items()}
    return views


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
    rows: Mapping[str, Rows],
    sets: Mapping[str, LabelledSet],
    engine: Engine,
    work: Workspace,
    on_rows: OnRows,
    trains: Callable[[Point, Rows], HeadFits] | None = None,
    grouping: Callable[[Plan], Grouping] | None = None,
) -> dict[str, Any]:
    """Cluster and score one combination; the content of its file, with an `error` where it has no two groups.

    Parameters
    ----------
    trains
        Trains the heads of a point on its train rows; needed for `turtle` and `temi`.
    grouping
        Finds groups of a plan's train rows on the graph; needed for `leiden` and `hdbscan`.
    """
    started = time.perf_counter()
    plan, request = point.plan, point.plan.request
    heads = {} if trains is None or not plan.by_head else trains(point, rows[plan.train.id])
    graphs: graph.GraphFits = {}
    if grouping is not None and plan.by_graph:
        search = grouping(plan)
        try:
            graphs = search.fit(rows[plan.train.id])
        except ClustersInvalid as error:
            return {
                "index": point.index,
                "request": request.model_dump(mode="json"),
                "params": {**_params(plan), "k": None},
                "error": {"code": error.code, "message": error.detail},
                "scored": {},
                "seconds": round(time.perf_counter() - started, 3),
            }
        plan = graph.found_plan(plan, graphs)
    fits = {seed: each.fit for seed, each in (heads or graphs).items()} or {
        seed: steps.fit_seed(
            plan, rows[plan.train.id], seed, engine, work, sample=f"sample {point.index} {seed}", on_rows=on_rows
        )
        for seed in plan.seeds
    }
    if graphs:
        assignments = graph.assign_sets(plan, rows, graphs, work, search.memory, on_rows)
        best_seed = graph.best_seed(plan, graphs)
    else:
        networks = {seed: each.head for seed, each in heads.items()} or None
        assignments = steps.assign_sets(rows, fits, engine, work, on_rows, labels_only=plan.train.id, heads=networks)
        best_seed = best_head(plan, heads) if heads else steps.lowest_inertia(plan, assignments)
    metrics = steps.score(plan, sets, assignments, best_seed, on_rows)
    steps.add_unsupervised(plan, rows, assignments, metrics, on_rows, labelled_too=False)
    return {
        "index": point.index,
        "request": request.model_dump(mode="json"),
        "params": _params(plan),
        "best_seed": best_seed,
        "iterations": {
            str(seed): heads[seed].trained.history[-1].step if seed in heads else len(fit.best.fit.history)
            for seed, fit in fits.items()
        },
        **({"heads": {str(seed): each.record() for seed, each in heads.items()}} if heads else {}),
        **({"graph": {str(seed): each.record() for seed, each in graphs.items()}} if graphs else {}),
        "scored": metrics["scored"],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _params(plan: Plan) -> dict[str, object]:
    request = plan.request
    return {
        "embeddings": plan.train.id,
        "model": plan.train.plan.model.name,
        "n": plan.train.rows,
        "dim": plan.train.dim,
        "normalize": request.normalize,
        "components": plan.components,
        "whiten": bool(request.pca and request.pca.whiten),
        "reduce": None if plan.reduce is None else plan.reduce.text,
        "over": request.over,
        "k": plan.k,
        "train_classes": plan.train_classes,
        "seeds": list(plan.seeds),
        **({} if request.method == "kmeans" else {"method": request.method}),
        "restarts": plan.restarts,
    }
