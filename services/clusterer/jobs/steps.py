"""The steps that a clustering job (`clusterer.pipeline`) and every point of a sweep share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from clusterer.data.partitions import OnRows
from clusterer.data.pca import Pca, accumulate_moments, fit_pca
from clusterer.data.rows import ChosenRows, LabelArray, MappedRows, Rows, l2_normalize
from clusterer.data.transform import Transform
from clusterer.evaluation.contingency import LabelledSet
from clusterer.evaluation.label_metrics import Metrics, score_set, summarize
from clusterer.evaluation.unsupervised import internal_metrics, pairwise_stability
from clusterer.heads.head import Head, HeadStep
from clusterer.jobs.plan import Plan
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import Engine, KMeansFit, State, fit_kmeans, prices_by_seed, sample_rows
from clusterer.kmeans.assigned import Assigned, AssignStep

Assignments = dict[str, dict[int, Assigned]]
"""By embeddings id, then by seed."""


def fit_projection(
    train: Rows, *, normalize: bool, components: int | None, whiten: bool = False, on_rows: OnRows
) -> Pca:
    """The PCA of the train set, in one read."""
    rows = MappedRows(train, l2_normalize, train.dim) if normalize else train
    return fit_pca(accumulate_moments(rows, on_rows=on_rows), components, whiten=whiten, overwrite=True)


def views_of(sets: Mapping[str, Rows], transform: Transform) -> dict[str, Rows]:
    """Every set through ``transform``."""
    return {name: transform.view(rows, f"embeddings {name!r}") for name, rows in sets.items()}


def fit_seed(
    plan: Plan,
    train: Rows,
    seed: int,
    engine: Engine,
    work: Workspace,
    *,
    sample: str,
    on_rows: OnRows,
    on_state: Callable[[int, State], None] | None = None,
    resume: Callable[[Rows, int], State | None] | None = None,
) -> KMeansFit:
    """k-means with one seed, on all rows of the train set unless the request limits it to a sample.

    Parameters
    ----------
    train
        Transformed rows.
    sample
        Name under which ``work`` holds the sample.
    on_state, resume
        As of `fit_kmeans`; ``resume`` is called with the rows that k-means sees and the number of the restart.
    """
    most = plan.request.kmeans.max_points_per_centroid
    rows = sample_rows(train, None if most is None else most * plan.k, seed)
    sampled = {} if rows is train else {"": rows}
    with work.holding(sampled, sample, on_rows) as held:
        seen = held.get("", train)
        return fit_kmeans(
            seen,
            plan.k,
            engine=engine,
            options=plan.fit_options,
            seed=seed,
            on_state=on_state,
            on_rows=on_rows,
            resume=None if resume is None else partial(resume, seen),
        )


def assign_sets(
    rows: Mapping[str, Rows],
    fits: Mapping[int, KMeansFit],
    engine: Engine,
    work: Workspace,
    on_rows: OnRows,
    *,
    labels_only: str | None = None,
    heads: Mapping[int, Head] | None = None,
) -> Assignments:
    """Assign every set to the centroids of every seed, or by the heads of every seed.

    Parameters
    ----------
    rows
        By embeddings id: transformed rows.
    on_rows
        Called with the number of rows done, over all sets.
    labels_only
        The id of the train set, where its distances and margins are not needed. Its labels are then those of k-means,
        unless k-means saw a sample only.
    """
    best = {seed: fit.best.fit for seed, fit in fits.items()}
    centroids, prices = {seed: fit.centroids for seed, fit in best.items()}, prices_by_seed(fits)
    step = AssignStep(engine, centroids, prices) if heads is None else HeadStep(heads, centroids)
    found: Assignments = {}
    done = 0
    for name, each in rows.items():
        if name == labels_only and all(len(fit.labels) == each.n for fit in best.values()):
            found[name] = {seed: Assigned.labels_only(fit.labels, fit.inertia) for seed, fit in best.items()}
        else:
            report = partial(_after, done, on_rows)
            found[name] = work.assign(name, each, step, report)
        done += each.n
    return found


def lowest_inertia(plan: Plan, assignments: Assignments) -> int:
    """The seed whose clusters have the lowest inertia on the train set; class labels are not used."""
    return min(plan.seeds, key=lambda seed: assignments[plan.train.id][seed].inertia)


def score(
    plan: Plan,
    sets: Mapping[str, LabelledSet],
    assignments: Assignments,
    best_seed: int,
    on_set: Callable[[int], None],
) -> Metrics:
    """metrics.json: every metric of each scored set and seed, with their mean and deviation.

    Parameters
    ----------
    sets, assignments
        Of the train set and of each scored set.
    on_set
        Called with the number of sets and seeds done.
    """
    own = assignments[plan.train.id]
    train = {seed: sets[plan.train.id].table(each.labels, plan.slots(seed)) for seed, each in own.items()}
    scored: dict[str, Metrics] = {}
    done = 0
    for embeddings in plan.scored:
        labelled = sets[embeddings.id]
        per_seed: dict[str, Metrics] = {}
        for seed, assigned in assignments[embeddings.id].items():
            on_set(done)
            per_seed[str(seed)] = score_set(
                assigned.labels,
                labelled.classes,
                k=plan.groups(seed),
                c=len(labelled.vocabulary),
                train=train[seed],
                inertia=assigned.inertia,
                label_map=plan.request.label_map,
                seed=seed,
                pairs=labelled.pairs,
                unmapped=labelled.unmapped,
                noisy=plan.noisy,
            )
            done += 1
        mean, std = summarize(list(per_seed.values()))
        scored[embeddings.id] = {"seeds": per_seed, "mean": mean, "std": std}
    on_set(done)
    return {"k": plan.k, "seeds": list(plan.seeds), "best_seed": best_seed, "scored": scored}


def add_unsupervised(
    plan: Plan,
    rows: Mapping[str, Rows],
    assignments: Assignments,
    metrics: Metrics,
    on_rows: OnRows,
    *,
    labelled_too: bool = True,
) -> None:
    """Add the metrics that need no labels: compactness and separation of clusters, and agreement between seeds.

    Parameters
    ----------
    on_rows
        Called with the number of rows done, over all scored sets.
    labelled_too
        Otherwise sets with labels get the agreement between seeds only, and values of single seeds are left out.
    """
    done = 0
    for each in plan.scored:
        labels = {seed: assigned.labels for seed, assigned in assignments[each.id].items()}
        entry = metrics["scored"][each.id]
        most = max(plan.slots(seed) for seed in labels)
        entry["stability"] = pairwise_stability(labels, most)
        if labelled_too or not entry["mean"]["n_labelled"]:
            seen, inside = _in_groups(plan, rows[each.id], labels)
            found = internal_metrics(seen, inside, most, on_rows=partial(_after, done, on_rows))
            mean, std = summarize(list(found.values()))
            entry["mean"].update(mean)
            entry["std"].update(std)
            for seed, values in found.items() if labelled_too else ():
                entry["seeds"][str(seed)].update(values)
        done += each.rows


def _in_groups(plan: Plan, rows: Rows, labels: Mapping[int, LabelArray]) -> tuple[Rows, Mapping[int, LabelArray]]:
    """The rows that are in groups: noise is none, so it is neither compact nor apart. There is one seed then."""
    if not plan.noisy:
        return rows, labels
    ((seed, every),) = labels.items()
    inside = np.flatnonzero(every < plan.groups(seed))
    return (rows, labels) if len(inside) < 2 else (ChosenRows(rows, inside), {seed: every[inside]})


def _after(before: int, on_rows: OnRows, done: int) -> None:
    on_rows(before + done)
