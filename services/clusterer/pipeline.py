"""The clusterer's job, from embeddings in the store to a published clustering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from shoal.jobs.child import JobContext
from shoal.schemas import ClusterRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import ClusteringWriter

from clusterer.data.pca import accumulate_moments, fit_pca
from clusterer.data.rows import ArrayRows, IntArray, MappedRows, Rows, StoredRows, l2_normalize
from clusterer.data.transform import Transform
from clusterer.evaluation.label_metrics import Metrics, describe_levels, summarize
from clusterer.evaluation.scoring import Assignments, score
from clusterer.evaluation.unsupervised import internal_metrics, pairwise_stability
from clusterer.jobs.choose import Choice, choose_clusters
from clusterer.jobs.memory import Placement, Problem, default_limit, give_back, place
from clusterer.jobs.plan import Plan, make_plan
from clusterer.jobs.stopwatch import Stopwatch
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import (
    Engine,
    KMeansFit,
    Level,
    State,
    build_levels,
    fit_kmeans,
    needs_faiss,
    prices_by_seed,
    sample_rows,
    select_engine,
)
from clusterer.kmeans.assign import assign
from clusterer.results import write as artefacts
from clusterer.results.read import result_of
from clusterer.results.report.render import write_report

FITTED, HELD = 1, 2
"""How far a job is whose transform, and whose transformed rows, are kept for its next attempt; iterations count on."""


def run(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Cluster, score and publish; the job's result.

    Every further attempt at a job that has published already returns what is there.
    """
    store = Store(settings.store)
    clustering_id = f"c-{ctx.id}"
    if clustering_id in store.clustering_ids():
        return result_of(store.clustering(clustering_id))
    plan = make_plan(store, ClusterRequest.model_validate(ctx.request), settings.data, deadline=None)
    placement = place(problem_of(plan), plan.request.memory_limit or settings.memory_limit or default_limit())
    work = Workspace(store.layout.work(clustering_id))
    sources = {each.id: StoredRows(each, each.id) for each in (plan.train, *plan.scored)}
    watch = Stopwatch(lambda: sum(source.read_s for source in sources.values()), after=give_back)
    engine = select_engine(plan.request.kmeans.engine, keep_bytes=placement.keep_bytes)

    with watch("pca"):
        transform, explained = fit_transform(ctx, plan, sources[plan.train.id], work)
    with watch("transform"):
        train = hold_transformed(ctx, plan, transform, sources[plan.train.id], work, placement)
    choice = None
    if plan.search is not None:
        with watch("choose"):
            choice = choose(ctx, plan.search, train, engine)
        plan = replace(plan, k=choice.k)
    with watch("kmeans"):
        fits = fit_seeds(ctx, plan, train, engine, work, placement)
    with watch("assign"):
        assignments = assign_sets(ctx, plan, transform, train, sources, fits, engine)
        best_seed = min(plan.seeds, key=lambda seed: assignments[plan.train.id][seed].inertia)
        levels = group_clusters(ctx, plan, fits[best_seed], best_seed, engine)
    with watch("metrics"):
        classes = {each.id: plan.classes(each) for each in (plan.train, *plan.scored)}
        metrics = score(plan, assignments, classes, best_seed, partial(ctx.progress, "metrics", unit="sets"))
        score_levels(plan, levels, assignments, classes, metrics)
    with watch("unsupervised"):
        judge(ctx, plan, transform, train, sources, assignments, metrics)
        del train
    outcome = artefacts.Outcome(
        plan,
        transform,
        explained,
        engine.name,
        engine.reason,
        fits,
        assignments,
        classes,
        metrics,
        best_seed,
        _zero_rows(sources),
        placement,
        choice,
        levels,
    )
    with ClusteringWriter(store.layout, clustering_id) as writer:
        with watch("report"):
            ctx.progress("report", 0, 1, "reports")
            artefacts.write(writer, outcome)
            damaged = write_report(writer.preview(), plan.scored[0], writer.layout)
            ctx.progress("report", 1, 1, "reports")
        writer.run({**artefacts.run_record(outcome, watch.seconds()), "damaged_thumbnails": damaged})
        ctx.raise_if_cancelled()
        writer.publish()
    work.remove()
    return result_of(store.clustering(clustering_id))


def problem_of(plan: Plan) -> Problem:
    """How large a clustering the plan means."""
    options, train = plan.request.pca, plan.train
    kmeans = plan.request.kmeans
    dim = train.dim if options is None else options.components or min(train.rows, train.dim)
    others = sum(each.rows for each in plan.scored if each.id != train.id)
    return Problem(
        train_rows=train.rows,
        held_rows=train.rows,
        all_rows=train.rows + others,
        dim_in=train.dim,
        dim=dim,
        k=plan.k,
        seeds=len(plan.seeds),
        sampled_rows=plan.sampled_rows,
        fitted_rows=plan.sampled_rows or train.rows,
        classes=max(len(plan.vocabulary_of(each.id)) for each in (plan.train, *plan.scored)),
        sets=len(plan.scored),
        pca=options is not None,
        search=plan.search is not None,
        levels=(kmeans.levels or [0])[0],
        balanced=kmeans.balanced is not None,
        faiss=needs_faiss(kmeans.engine),
        mini_batch=kmeans.algorithm == "mini-batch",
    )


def fit_transform(ctx: JobContext, plan: Plan, source: Rows, work: Workspace) -> tuple[Transform, list[float] | None]:
    """Fit normalisation and PCA on the train set alone; with PCA, also the share of variance of each component."""
    options, normalize, unit = plan.request.pca, plan.request.normalize, plan.request.kmeans.spherical
    if options is None:
        return Transform.of(source.dim, normalize=normalize, pca=None, unit=unit), None
    kept = work.fitted()
    if kept is not None:
        return kept
    rows = MappedRows(source, l2_normalize, source.dim) if normalize else source
    moments = accumulate_moments(rows, on_rows=_reporter(ctx, "pca", source.n))
    ctx.raise_if_cancelled()
    pca = fit_pca(moments, options.components, whiten=options.whiten, overwrite=True)
    del moments
    transform = Transform.of(source.dim, normalize=normalize, pca=pca, unit=unit)
    explained = pca.explained_variance_ratio.tolist()
    work.keep_fitted(transform, explained)
    ctx.advance(FITTED)
    return transform, explained


def hold_transformed(
    ctx: JobContext, plan: Plan, transform: Transform, source: Rows, work: Workspace, placement: Placement
) -> ArrayRows:
    """The transformed train set, which k-means reads once an iteration."""
    view = transform.view(source, f"embeddings {plan.train.id!r}")
    reporter = _reporter(ctx, "transform", source.n)
    rows = work.hold("train", view, memory=placement.rows_in_memory, on_rows=reporter)
    if not placement.rows_in_memory:
        ctx.advance(HELD)
    return rows


def fit_seeds(
    ctx: JobContext, plan: Plan, train: Rows, engine: Engine, work: Workspace, placement: Placement
) -> dict[int, KMeansFit]:
    """One k-means a seed, on all rows of the train set unless the request asks for a sample.

    After each iteration its state is kept; an attempt that dies is followed by one that goes on there.
    """
    options = plan.request.kmeans
    most = options.max_points_per_centroid
    total = len(plan.seeds) * plan.restarts * options.iterations
    progress = _Iterations(ctx, work, options.iterations, total)
    fits = {}
    for position, seed in enumerate(plan.seeds):
        rows = sample_rows(train, None if most is None else most * plan.k, seed)
        if rows is not train:
            rows = work.hold(f"sample-{seed}", rows, memory=placement.rows_in_memory, on_rows=progress.between_blocks)
        progress.seed, progress.first_run = seed, position * plan.restarts
        fits[seed] = fit_kmeans(
            rows,
            plan.k,
            engine=engine,
            options=plan.fit_options,
            seed=seed,
            on_state=progress.keep,
            on_rows=progress.between_blocks,
            resume=partial(work.state, seed, n=rows.n, k=plan.k, dim=rows.dim, priced=options.balanced is not None),
        )
        del rows
        work.release(f"sample-{seed}")
    ctx.progress("kmeans", total, total, "iterations", progress.detail)
    return fits


def assign_sets(
    ctx: JobContext,
    plan: Plan,
    transform: Transform,
    train: Rows,
    sources: dict[str, StoredRows],
    fits: dict[int, KMeansFit],
    engine: Engine,
) -> Assignments:
    """Assign every set to the centroids of every seed, each set through the one stored transform."""
    centroids = {seed: fit.best.fit.centroids for seed, fit in fits.items()}
    prices = prices_by_seed(fits)
    total, done = sum(source.n for source in sources.values()), 0
    assignments: Assignments = {}
    for embeddings_id, source in sources.items():
        is_train = embeddings_id == plan.train.id
        rows = train if is_train else transform.view(source, f"embeddings {embeddings_id!r}")
        reporter = _reporter(ctx, "assign", total, done)
        assignments[embeddings_id] = assign(rows, centroids, engine, prices=prices, on_rows=reporter)
        done += source.n
    return assignments


def group_clusters(ctx: JobContext, plan: Plan, fit: KMeansFit, seed: int, engine: Engine) -> tuple[Level, ...]:
    """The levels above the best seed's clusters, where the request asks for any."""
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
    assignments: Assignments,
    classes: dict[str, IntArray],
    metrics: Metrics,
) -> None:
    """Add to ``metrics`` how the best seed's groups on each level agree with the labels."""
    seed, train = metrics["best_seed"], plan.train.id
    for each in plan.scored if levels else ():
        mapped = plan.class_maps.get(each.id)
        metrics["scored"][each.id]["levels"] = describe_levels(
            levels,
            assignments[each.id][seed].labels,
            classes[each.id],
            len(plan.vocabulary_of(each.id)),
            train=(assignments[train][seed].labels, classes[train], len(plan.vocabulary)),
            pairs=None if mapped is None else mapped.pairs,
        )


def choose(ctx: JobContext, search: tuple[int, int], train: Rows, engine: Engine) -> Choice:
    """Find the number of clusters where the request leaves it open."""

    def after_fit(done: int, total: int) -> None:
        ctx.progress("choose", done, total, "numbers of clusters")

    def alive(_: int) -> None:
        ctx.raise_if_cancelled()

    return choose_clusters(train, *search, engine=engine, on_fit=after_fit, on_rows=alive)


def judge(
    ctx: JobContext,
    plan: Plan,
    transform: Transform,
    train: Rows,
    sources: dict[str, StoredRows],
    assignments: Assignments,
    metrics: Metrics,
) -> None:
    """Add to ``metrics`` what needs no labels: how compact and how far apart clusters are, and how seeds agree."""
    total, done = sum(each.rows for each in plan.scored), 0
    for each in plan.scored:
        labels = {seed: assigned.labels for seed, assigned in assignments[each.id].items()}
        rows = train if each.id == plan.train.id else transform.view(sources[each.id], f"embeddings {each.id!r}")
        reporter = _reporter(ctx, "unsupervised", total, done)
        found = internal_metrics(rows, labels, plan.k, on_rows=reporter)
        entry = metrics["scored"][each.id]
        for seed, values in found.items():
            entry["seeds"][str(seed)].update(values)
        mean, std = summarize(list(found.values()))
        entry["mean"].update(mean)
        entry["std"].update(std)
        entry["stability"] = pairwise_stability(labels, plan.k)
        done += each.rows


@dataclass
class _Iterations:
    """Progress over the iterations of all seeds and restarts; a run that stops early skips the rest of its share."""

    ctx: JobContext
    work: Workspace
    per_run: int
    total: int
    seed: int = 0
    first_run: int = 0
    done: int = 0
    detail: dict[str, Any] | None = None

    def keep(self, restart: int, state: State) -> None:
        self.work.keep_state(self.seed, restart, state)
        self.done = (self.first_run + restart) * self.per_run + len(state.history)
        if state.history:
            self.detail = {"seed": self.seed, "restart": restart, **asdict(state.history[-1])}
            self.ctx.advance(HELD + self.done)
        self.between_blocks()

    def between_blocks(self, _: int = 0) -> None:
        self.ctx.progress("kmeans", self.done, self.total, "iterations", self.detail)


def _reporter(ctx: JobContext, stage: str, total: int, before: int = 0) -> Callable[[int], None]:
    return lambda done: ctx.progress(stage, before + done, total, "rows")


def _zero_rows(sources: dict[str, StoredRows]) -> dict[str, int]:
    return {embeddings_id: source.zero_rows for embeddings_id, source in sources.items()}
