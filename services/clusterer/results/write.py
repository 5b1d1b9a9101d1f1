"""What a clustering leaves in the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal import __version__
from shoal.host import library_versions
from shoal.store import EmbeddingSet
from shoal.store.clustering import ITERATIONS_SCHEMA, ROW_GROUP, ClusteringWriter

from clusterer.data.rows import IntArray
from clusterer.data.transform import Transform
from clusterer.evaluation.contingency import Contingency, LabelRule, contingency, learn_map
from clusterer.evaluation.label_metrics import Metrics
from clusterer.jobs.choose import Choice
from clusterer.jobs.memory import Placement, peak_bytes
from clusterer.jobs.plan import Plan
from clusterer.kmeans import KMeansFit, Level, groups_of, prices_by_seed
from clusterer.kmeans.assign import Assigned
from clusterer.results.clusters import describe_clusters, names_of
from clusterer.results.tables import Scored, classes_table, confusion_table, extremes

LIBRARIES = ("numpy", "scipy", "faiss-cpu", "faiss-gpu", "scikit-learn")


@dataclass(frozen=True)
class Outcome:
    """All that a finished job knows.

    Attributes
    ----------
    explained
        Share of the variance of each component; None without PCA.
    engine
        Name of the engine that ran.
    engine_reason
        Why it was that one, or in which form it ran.
    fits
        By seed.
    assignments
        By embeddings id, then by seed; the train set is always among them.
    classes
        By embeddings id: class of each row, or -1.
    metrics
        metrics.json, which `write` completes with the best and the worst clusters.
    choice
        How the number of clusters was found; None where it was given.
    zero_rows
        By embeddings id: rows of zeros, which normalisation leaves as they are.
    placement
        What lay in memory.
    levels
        Groups of the best seed's clusters, from below.
    """

    plan: Plan
    transform: Transform
    explained: list[float] | None
    engine: str
    engine_reason: str
    fits: dict[int, KMeansFit]
    assignments: dict[str, dict[int, Assigned]]
    classes: dict[str, IntArray]
    metrics: Metrics
    best_seed: int
    zero_rows: dict[str, int]
    placement: Placement
    choice: Choice | None = None
    levels: tuple[Level, ...] = ()

    def table(self, embeddings_id: str) -> Contingency:
        """The rows of a set by the best seed's cluster and class."""
        labels = self.assignments[embeddings_id][self.best_seed].labels
        classes = len(self.plan.vocabulary_of(embeddings_id))
        return contingency(labels, self.classes[embeddings_id], self.plan.k, classes)


def write(writer: ClusteringWriter, outcome: Outcome) -> None:
    """Write everything but run.json and the report."""
    writer.spec(spec(outcome))
    writer.transform(outcome.transform.arrays())
    writer.centroids({seed: fit.best.fit.centroids for seed, fit in outcome.fits.items()}, outcome.best_seed)
    prices = prices_by_seed(outcome.fits)
    if prices:
        writer.prices(prices, outcome.best_seed)
    if outcome.levels:
        writer.hierarchy([(level.parents, level.centroids) for level in outcome.levels])
    writer.iterations(iterations_table(outcome))
    writer.assignments(assignment_tables(outcome), len(outcome.levels))
    clusters = clusters_table(outcome)
    writer.clusters(clusters)
    scored = [scored_under_map(outcome, each) for each in outcome.plan.scored]
    writer.classes(pa.concat_tables([classes_table(each) for each in scored]))
    writer.confusion(pa.concat_tables([confusion_table(each) for each in scored]))
    writer.metrics(with_extremes(outcome, clusters))


def with_extremes(outcome: Outcome, clusters: pa.Table) -> Metrics:
    """metrics.json with the best and the worst clusters of each scored set."""
    scored = {}
    for each in outcome.plan.scored:
        own = clusters.filter(pc.equal(clusters.column("embeddings"), each.id))
        image_ids = each.metadata(["image_id"]).column("image_id")
        scored[each.id] = {**outcome.metrics["scored"][each.id], **extremes(own, image_ids)}
    return {**outcome.metrics, "scored": scored}


def scored_under_map(outcome: Outcome, each: EmbeddingSet) -> Scored:
    """A scored set under the best seed's clusters and the stored label map."""
    plan = outcome.plan
    own = outcome.table(each.id)
    if plan.request.label_map == "scored":
        return Scored(each.id, own, plan.vocabulary_of(each.id), own, plan.vocabulary_of(each.id), None)
    mapped = plan.class_maps.get(each.id)
    pairs = None if mapped is None else mapped.pairs
    return Scored(each.id, own, plan.vocabulary_of(each.id), outcome.table(plan.train.id), plan.vocabulary, pairs)


def spec(outcome: Outcome) -> dict[str, Any]:
    """spec.json: the request and what it came to."""
    plan = outcome.plan
    return {
        "request": plan.request.model_dump(mode="json"),
        "train": plan.train.id,
        "scored": [each.id for each in plan.scored],
        "n": plan.train.rows,
        "dim": plan.train.dim,
        "dim_clustered": outcome.transform.dim_out,
        "k": plan.k,
        "train_classes": plan.train_classes,
        "classes": list(plan.vocabulary),
        "class_maps": {name: mapped.record() for name, mapped in plan.class_maps.items()},
        "seeds": list(plan.seeds),
        "best_seed": outcome.best_seed,
        "restarts": plan.restarts,
        "engine": outcome.engine,
        "chosen": outcome.choice.record() if outcome.choice else None,
        "model": plan.train.plan.model.model_dump(mode="json"),
    }


def run_record(outcome: Outcome, timings: dict[str, float]) -> dict[str, Any]:
    """run.json: how the job ran."""
    best = outcome.fits[outcome.best_seed].best
    return {
        "finished_at": datetime.now(UTC).isoformat(),
        "engine": outcome.engine,
        "engine_reason": outcome.engine_reason,
        **kind_record(outcome),
        "init": best.init,
        "iterations": len(best.fit.history),
        "resumed_iterations": sum(run.resumed_at for fit in outcome.fits.values() for run in fit.runs),
        "converged": best.fit.converged,
        "best_restart": best.restart,
        "rows_trained_on": min(len(best.fit.labels), outcome.plan.train.rows),
        "zero_rows": outcome.zero_rows,
        "explained_variance_ratio": outcome.explained,
        "timings_s": timings,
        "memory": {
            "limit_bytes": outcome.placement.limit,
            "rows": "memory" if outcome.placement.rows_in_memory else "file",
            "sketches_kept": outcome.placement.keep_bytes > 0,
        },
        "peak_rss_bytes": peak_bytes(),
        "version": __version__,
        "libraries": library_versions(LIBRARIES),
    }


def kind_record(outcome: Outcome) -> dict[str, Any]:
    """Which kind of k-means ran, and whether sizes could be kept within their bound."""
    options, balance = outcome.plan.request.kmeans, outcome.fits[outcome.best_seed].best.fit.balance
    bound = None
    if balance is not None:
        bound = {
            "allowed": balance.allowed,
            "largest": balance.largest,
            "rounds": balance.rounds,
            "held": balance.held,
        }
    return {"algorithm": options.algorithm, "spherical": options.spherical, "balance": bound}


def iterations_table(outcome: Outcome) -> pa.Table:
    """iterations.parquet: every iteration of every restart of every seed."""
    rows = [
        {
            "seed": seed,
            "restart": run.restart,
            "iteration": each.iteration,
            "inertia": each.inertia,
            "moved": each.moved,
            "empty": each.empty,
            "seconds": each.seconds,
        }
        for seed, fit in outcome.fits.items()
        for run in fit.runs
        for each in run.fit.history
    ]
    return pa.Table.from_pylist(rows, schema=ITERATIONS_SCHEMA)


def assignment_tables(outcome: Outcome) -> Iterator[pa.Table]:
    """assignments.parquet: the best seed's assignment of each scored set, a row group at a time."""
    for each in outcome.plan.scored:
        assigned = outcome.assignments[each.id][outcome.best_seed]
        image_ids = each.metadata(["image_id"]).column("image_id")
        for first in range(0, each.rows, ROW_GROUP):
            part = slice(first, first + ROW_GROUP)
            rows = np.arange(first, min(part.stop, each.rows), dtype=np.int64)
            columns: dict[str, Any] = {
                "embeddings": pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int32), pa.array([each.id])),
                "row": rows,
                "image_id": image_ids[part],
                "cluster": assigned.labels[part],
                "distance": assigned.distance[part],
                "margin": assigned.margin[part],
            }
            for level, groups in enumerate(groups_of(assigned.labels[part], outcome.levels), start=1):
                columns[f"level_{level}"] = groups
            yield pa.table(columns)


def clusters_table(outcome: Outcome) -> pa.Table:
    """clusters.parquet: the best seed's clusters, once for each scored set."""
    plan = outcome.plan
    tables = []
    for each in plan.scored:
        source = plan.train if plan.request.label_map == "train" else each
        names = plan.vocabulary_of(source.id)
        tables.append(
            describe_clusters(
                each.id,
                outcome.assignments[each.id][outcome.best_seed],
                outcome.classes[each.id],
                plan.vocabulary_of(each.id),
                names_of(names, _majority_map(outcome, source)),
            )
        )
    return pa.concat_tables(tables)


def _majority_map(outcome: Outcome, source: EmbeddingSet) -> IntArray:
    """The class that most rows of each cluster have in ``source``: what a cluster is called."""
    return learn_map(outcome.table(source.id), LabelRule.MAJORITY)
