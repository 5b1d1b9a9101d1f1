"""The clustering job: from embeddings in the store to a published clustering."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from shoal.jobs.child import JobContext
from shoal.memory import release_freed_memory
from shoal.schemas import ClusterRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import ClusteringWriter

from clusterer.data.partitions import OnRows
from clusterer.data.rows import Rows, StoredRows
from clusterer.data.transform import Transform
from clusterer.evaluation.contingency import LabelledSet
from clusterer.evaluation.label_metrics import Metrics
from clusterer.evaluation.levels import describe_levels
from clusterer.heads.training import Check
from clusterer.jobs import graph, steps
from clusterer.jobs.aligned import parts_of
from clusterer.jobs.choose import Choice, choose_clusters, sample_neighbours, sample_of
from clusterer.jobs.heads import HeadFit, Hooks, fit_heads, runs_of, schedule_of
from clusterer.jobs.heads import best_seed as best_head
from clusterer.jobs.map import most_landmarks, place_sets
from clusterer.jobs.memory import peak_bytes, place, problem_of
from clusterer.jobs.pick import Pick, Picking
from clusterer.jobs.plan import Plan, make_plan, require_levels
from clusterer.jobs.reduce import Reducing
from clusterer.jobs.site import Site, open_site
from clusterer.jobs.subset import Subset
from clusterer.jobs.workspace import Workspace, discard
from clusterer.kmeans import Engine, KMeansFit, Level, State, build_levels
from clusterer.neighbours import Nearest
from clusterer.reduce import Fitted
from clusterer.results.read import result_of
from clusterer.results.report.page import write_report
from clusterer.results.write import Outcome, run_record, write

FITTED, HELD, REDUCED = 1, 2, 20
"""Progress marks of a job that has kept its transform, its transformed rows, reduced ones; before the last each option
that was tried adds 1, after it each iteration."""


def run(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Cluster, score and publish; the job's result.

    A further attempt at a job that has published returns what was published.
    """
    store = Store.of(settings)
    clustering_id = f"c-{ctx.id}"
    if clustering_id in store.clustering_ids():
        discard(store.layout.work(clustering_id))
        return result_of(store.clustering(clustering_id))
    plan = make_plan(store, ClusterRequest.model_validate(ctx.request), settings.data, deadline=None)
    sources = {each.id: StoredRows(each, each.id) for each in plan.sets}
    stages = Stages(ctx, sources)
    work = store.layout.work(clustering_id)
    with open_site(ctx, settings, plan.request, problem_of([plan]), work) as site:
        outcome = cluster(ctx, plan, site, sources, stages)
    with ClusteringWriter(store.layout, clustering_id) as writer:
        with stages("report", 1, "reports") as on_report:
            on_report(0)
            write(writer, outcome)
            # Of a subset, the images too are found by the rows' numbers in the whole set.
            damaged = write_report(writer.preview(), store.embeddings(plan.scored[0].id), writer.layout)
            on_report(1)
        writer.run({**run_record(outcome, stages.seconds(), peak_bytes()), "damaged_thumbnails": damaged})
        ctx.raise_if_cancelled()
        writer.publish()
    discard(work)
    return result_of(store.clustering(clustering_id))


def cluster(ctx: JobContext, plan: Plan, site: Site, sources: Mapping[str, StoredRows], stages: Stages) -> Outcome:
    """All stages between plan and report."""
    work, engine = site.work, site.engine
    transform, explained = fit_transform(ctx, plan, work.spread(sources[plan.train.id]), work, stages)
    rows = hold_transformed(ctx, plan, transform, sources, work, stages)
    plan, picked = pick(ctx, plan, site, rows[plan.train.id], stages)
    near = look_around(ctx, plan, site, rows[plan.train.id], stages)
    rows, reduction = reduce_rows(ctx, plan, site, rows, stages)
    plan, choice = choose(ctx, plan, near, rows[plan.train.id], engine, stages)
    heads = train_heads(ctx, plan, rows[plan.train.id], site, stages) if plan.by_head else {}
    plan, graphs = find_groups(ctx, plan, rows[plan.train.id], site, stages)
    if plan.by_head or plan.by_graph:
        fits = {seed: each.fit for seed, each in (heads or graphs).items()}
    else:
        fits = fit_seeds(ctx, plan, rows[plan.train.id], engine, work, stages)
    with stages("assign", sum(each.n for each in sources.values())) as on_rows:
        if plan.by_graph:
            memory = site.placement.searching(site.problem)
            assignments = graph.assign_sets(plan, rows, graphs, work, memory, on_rows)
            best_seed = graph.best_seed(plan, graphs)
        else:
            networks = {seed: each.head for seed, each in heads.items()} if plan.by_head else None
            assignments = steps.assign_sets(rows, fits, engine, work, on_rows, heads=networks)
            best_seed = best_head(plan, heads) if plan.by_head else steps.lowest_inertia(plan, assignments)
        levels = group_clusters(ctx, plan, fits[best_seed], best_seed, engine)
    with stages("metrics", len(plan.scored) * len(plan.seeds), "sets") as on_set:
        sets = plan.read_labels()
        metrics = steps.score(plan, sets, assignments, best_seed, on_set)
        score_levels(plan, levels, sets, assignments, metrics)
    with stages("unsupervised", sum(each.rows for each in plan.scored)) as on_rows:
        steps.add_unsupervised(plan, rows, assignments, metrics, on_rows)
    with stages("map"):
        most = most_landmarks(site.problem, site.placement)
        places = place_sets(plan, rows, assignments, best_seed, work, most, partial(_on_map, ctx))
        del rows
    return Outcome(
        request=plan.request,
        spec=spec(plan, transform, reduction, best_seed, engine, choice, picked),
        train=plan.train,
        scored=plan.scored,
        sets=sets,
        transform=transform,
        reduction=reduction,
        explained=explained,
        engine=engine,
        fits=fits,
        heads=heads,
        graphs=graphs,
        assignments=assignments,
        metrics=metrics,
        best_seed=best_seed,
        levels=levels,
        zero_rows={name: source.zero_rows for name, source in sources.items()},
        memory=site.memory(),
        execution=site.execution(),
        places=places,
    )


def _on_map(ctx: JobContext, done: int, total: int) -> None:
    ctx.progress("map", done, total, "rows")


class Stages:
    """Reports the progress of each stage and takes its time.

    Parameters
    ----------
    sources
        The sets that are read. The time spent reading is taken out of each stage and shown as a stage of its own.
    """

    def __init__(self, ctx: JobContext, sources: Mapping[str, StoredRows]) -> None:
        self._ctx = ctx
        self._sources = sources
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str, total: int = 0, unit: str = "rows") -> Iterator[OnRows]:
        """Time a stage; yields a function to call with the number of units done."""
        started, read = time.perf_counter(), self._read_s
        yield lambda done: self._ctx.progress(stage, done, total, unit)
        release_freed_memory()
        self._seconds[stage] = time.perf_counter() - started - (self._read_s - read)

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return {name: round(value, 6) for name, value in {"read": self._read_s, **self._seconds}.items()}

    @property
    def _read_s(self) -> float:
        return sum(source.read_s for source in self._sources.values())


def fit_transform(
    ctx: JobContext, plan: Plan, source: Rows, work: Workspace, stages: Stages
) -> tuple[Transform, list[float] | None]:
    """Fit normalisation and PCA on the train set alone; with PCA, also the share of variance of each component."""
    options, normalize, unit = plan.request.pca, plan.request.normalize, plan.request.kmeans.spherical
    with stages("pca", source.n) as on_rows:
        if options is None:
            return Transform.of(source.dim, normalize=normalize, pca=None, unit=unit, widths=plan.widths), None
        pca = work.pca("transform")
        if pca is None:
            pca = steps.fit_projection(
                source, normalize=normalize, components=options.components, whiten=options.whiten, on_rows=on_rows
            )
            work.keep_pca("transform", pca)
            ctx.advance(FITTED)
        transform = Transform.of(source.dim, normalize=normalize, pca=pca, unit=unit)
        return transform, pca.explained_variance_ratio.tolist()


def hold_transformed(
    ctx: JobContext,
    plan: Plan,
    transform: Transform,
    sources: Mapping[str, StoredRows],
    work: Workspace,
    stages: Stages,
) -> dict[str, Rows]:
    """Every set transformed; the train set, which k-means reads once per iteration, is computed once and held."""
    views = steps.views_of(sources, transform)
    with stages("transform", plan.train.rows) as on_rows:
        rows = {name: work.spread(view) for name, view in views.items() if name != plan.train.id}
        rows = {plan.train.id: work.hold("train", views[plan.train.id], on_rows), **rows}
        if not work.rows_in_memory:
            ctx.advance(HELD)
    return rows


def pick(ctx: JobContext, plan: Plan, site: Site, train: Rows, stages: Stages) -> tuple[Plan, Pick | None]:
    """Try the options of `reduce: "auto"`; the plan with the one that is picked, and the number of clusters."""
    if not plan.tried:
        return plan, None

    def on_tried(options: int, done: int, total: int) -> None:
        ctx.advance(HELD + options)
        ctx.progress("pick", done, total, "clusterings")

    with stages("pick"):
        memory = site.placement.searching(site.problem)
        return Picking(plan, site.engine, site.work, memory, on_tried, lambda _: ctx.raise_if_cancelled())(train)


def reduce_rows(
    ctx: JobContext, plan: Plan, site: Site, rows: dict[str, Rows], stages: Stages
) -> tuple[dict[str, Rows], Fitted | None]:
    """Every set reduced as the plan says; without a reduction the rows as they are."""
    if plan.reduce is None:
        return rows, None
    with stages("reduce", plan.train.rows + sum(each.rows for each in plan.sets)) as on_rows:
        memory = site.placement.searching(site.problem)
        reduced, fitted = Reducing.of(plan, site.work, "", memory, on_rows).sets(rows)
        ctx.advance(REDUCED)
    return reduced, fitted


def look_around(ctx: JobContext, plan: Plan, site: Site, train: Rows, stages: Stages) -> Nearest | None:
    """The nearest rows that judge numbers of clusters, where one is searched: those before any reduction."""
    if plan.search is None:
        return None
    sample = sample_of(train)
    with stages("neighbours", sample.n) as on_rows:
        return sample_neighbours(sample, site.work, site.placement.searching(site.problem), on_rows)


def choose(
    ctx: JobContext, plan: Plan, near: Nearest | None, train: Rows, engine: Engine, stages: Stages
) -> tuple[Plan, Choice | None]:
    """Search the number of clusters for `clusters: "auto"`; the plan with that number."""
    if plan.search is None or near is None:
        return plan, None
    with stages("choose"):
        choice = choose_clusters(
            train,
            near,
            *plan.search,
            engine=engine,
            on_fit=lambda done, total: ctx.progress("choose", done, total, "numbers of clusters"),
            on_rows=lambda _: ctx.raise_if_cancelled(),
        )
    return replace(plan, k=choice.k), choice


def fit_seeds(
    ctx: JobContext, plan: Plan, train: Rows, engine: Engine, work: Workspace, stages: Stages
) -> dict[int, KMeansFit]:
    """One k-means per seed. Its state is kept after each iteration, so that the next attempt resumes there.

    A run of k-means that converges early skips the rest of its share of the progress.
    """
    per_run = plan.request.kmeans.iterations
    total = len(plan.seeds) * plan.restarts * per_run
    fits = {}
    with stages("kmeans"):
        before = HELD if plan.request.reduce is None else REDUCED
        progress = _Iterations(ctx, work, per_run, total, before)
        for position, seed in enumerate(plan.seeds):
            progress.seed, progress.first_run = seed, position * plan.restarts
            fits[seed] = steps.fit_seed(
                plan,
                train,
                seed,
                engine,
                work,
                sample=f"sample {seed}",
                on_rows=progress.between_blocks,
                on_state=progress.keep,
                resume=partial(_kept_state, work, plan, seed),
            )
        ctx.progress("kmeans", total, total, "iterations", progress.detail)
    return fits


def train_heads(ctx: JobContext, plan: Plan, train: Rows, site: Site, stages: Stages) -> dict[int, HeadFit]:
    """One head per seed. Its run is kept now and then, so that the next attempt resumes there."""
    steps_each, runs = schedule_of(plan).steps, runs_of(plan)
    total = len(plan.seeds) * runs * steps_each

    def on_step(run: int, done: int, check: Check | None) -> None:
        detail = None if check is None else {"seed": plan.seeds[run // runs], **asdict(check)}
        ctx.progress("heads", run * steps_each + done, total, "steps", detail)

    hooks = Hooks(
        neighbours=lambda done: ctx.progress("neighbours", done, train.n, "rows"),
        rows=lambda _: ctx.raise_if_cancelled(),
        step=on_step,
        kept=lambda run, done: ctx.advance(HELD + run * steps_each + done),
    )
    with stages("heads"):
        memory = site.placement.searching(site.problem)
        return fit_heads(plan, train, site.heads_device, site.work, memory, hooks)


def find_groups(ctx: JobContext, plan: Plan, train: Rows, site: Site, stages: Stages) -> tuple[Plan, graph.GraphFits]:
    """Groups on the graph of nearest rows, where the request says so; the plan with their numbers."""
    if not plan.by_graph:
        return plan, {}
    with stages("groups", train.n) as on_rows:
        grouping = graph.Grouping(plan, site.work, site.placement.searching(site.problem), on_rows)
        fits = grouping.fit(train)
        ctx.advance(REDUCED + 1)
    plan = graph.found_plan(plan, fits)
    require_levels(plan.request, plan.k)
    place(problem_of([plan]), site.placement.limit)
    return plan, fits


def _kept_state(work: Workspace, plan: Plan, seed: int, rows: Rows, restart: int) -> State | None:
    priced = plan.request.kmeans.balanced is not None
    return work.state(seed, restart, n=rows.n, k=plan.k, dim=rows.dim, priced=priced)


@dataclass
class _Iterations:
    """Progress over the iterations of all seeds and restarts."""

    ctx: JobContext
    work: Workspace
    per_run: int
    total: int
    kept_before: int
    seed: int = 0
    first_run: int = 0
    done: int = 0
    detail: dict[str, Any] | None = None

    def keep(self, restart: int, state: State) -> None:
        self.work.keep_state(self.seed, restart, state)
        self.done = (self.first_run + restart) * self.per_run + len(state.history)
        if state.history:
            self.detail = {"seed": self.seed, "restart": restart, **asdict(state.history[-1])}
            self.ctx.advance(self.kept_before + self.done)
        self.between_blocks()

    def between_blocks(self, _: int = 0) -> None:
        self.ctx.progress("kmeans", self.done, self.total, "iterations", self.detail)


def group_clusters(ctx: JobContext, plan: Plan, fit: KMeansFit, seed: int, engine: Engine) -> tuple[Level, ...]:
    """The levels above the best seed's clusters; none unless the request has ``kmeans.levels``."""
    return build_levels(
        fit.best.fit.centroids,
        plan.request.kmeans.levels or (),
        engine=engine,
        options=plan.fit_options,
        seed=seed,
        on_rows=lambda _: ctx.raise_if_cancelled(),
    )


def score_levels(
    plan: Plan,
    levels: tuple[Level, ...],
    sets: Mapping[str, LabelledSet],
    assignments: steps.Assignments,
    metrics: Metrics,
) -> None:
    """Add to ``metrics`` how the best seed's groups on each level agree with the labels."""
    seed, train = metrics["best_seed"], sets[plan.train.id]
    for each in plan.scored if levels else ():
        scored = sets[each.id]
        metrics["scored"][each.id]["levels"] = describe_levels(
            levels,
            assignments[each.id][seed].labels,
            scored.classes,
            len(scored.vocabulary),
            train=(assignments[train.id][seed].labels, train.classes, len(train.vocabulary)),
            pairs=scored.pairs,
        )


def spec(
    plan: Plan,
    transform: Transform,
    reduction: Fitted | None,
    best_seed: int,
    engine: Engine,
    choice: Choice | None,
    picked: Pick | None,
) -> dict[str, object]:
    """spec.json: the request, with every number that it left open."""
    return {
        "request": plan.request.model_dump(mode="json"),
        "train": plan.train.id,
        "scored": [each.id for each in plan.scored],
        "n": plan.train.rows,
        "dim": plan.train.dim,
        "dim_clustered": transform.dim_out,
        **({} if reduction is None else {"reduce": reduction.record()}),
        "k": plan.k,
        "train_classes": plan.train_classes,
        "classes": list(plan.vocabulary),
        "class_maps": {name: mapped.record() for name, mapped in plan.class_maps.items()},
        "seeds": list(plan.seeds),
        "best_seed": best_seed,
        "restarts": plan.restarts,
        "engine": engine.name,
        "chosen": None if choice is None else choice.record(),
        **({} if picked is None else {"picked": picked.record()}),
        "model": plan.train.plan.model.model_dump(mode="json"),
        **({} if plan.request.method == "kmeans" else {"method": plan.request.method}),
        **({"noise": True} if plan.noisy else {}),
        **({"spaces": _spaces(plan)} if plan.request.spaces else {}),
        **({"where": plan.train.record} if isinstance(plan.train, Subset) else {}),
    }


def _spaces(plan: Plan) -> list[dict[str, object]]:
    """For spec.json: the sets of the train images by each model, in the order of their columns."""
    return [
        {"train": each.id, "dim": each.dim, "model": each.plan.model.model_dump(mode="json")}
        for each in parts_of(plan.train)
    ]
