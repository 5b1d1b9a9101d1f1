"""What a clustering leaves in the store."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa
from shoal.store import EmbeddingSet
from shoal.store.clustering import ITERATIONS_SCHEMA, ClusteringWriter

from clusterer.assign import Assigned
from clusterer.clusters import describe_clusters
from clusterer.contingency import contingency
from clusterer.kmeans import KMeansFit
from clusterer.labels import LabelRule, learn_map
from clusterer.metrics import Metrics
from clusterer.planning import Plan
from clusterer.rows import IntArray
from clusterer.transform import Transform

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
        metrics.json.
    zero_rows
        By embeddings id: rows of zeros, which normalisation leaves as they are.
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


def write(writer: ClusteringWriter, outcome: Outcome) -> None:
    """Write everything but run.json and the report."""
    writer.spec(spec(outcome))
    writer.transform(outcome.transform.arrays())
    writer.centroids({seed: fit.best.fit.centroids for seed, fit in outcome.fits.items()}, outcome.best_seed)
    writer.iterations(iterations_table(outcome))
    writer.metrics(outcome.metrics)
    writer.assignments(assignment_tables(outcome))
    writer.clusters(clusters_table(outcome))


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
        "seeds": list(plan.seeds),
        "best_seed": outcome.best_seed,
        "engine": outcome.engine,
        "model": plan.train.plan.model.model_dump(mode="json"),
    }


def run_record(outcome: Outcome, timings: dict[str, float]) -> dict[str, Any]:
    """run.json: how the job ran."""
    best = outcome.fits[outcome.best_seed].best
    # ru_maxrss counts kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "finished_at": datetime.now(UTC).isoformat(),
        "engine": outcome.engine,
        "engine_reason": outcome.engine_reason,
        "init": best.init,
        "iterations": len(best.fit.history),
        "converged": best.fit.converged,
        "best_restart": best.restart,
        "rows_trained_on": min(len(best.fit.labels), outcome.plan.train.rows),
        "zero_rows": outcome.zero_rows,
        "explained_variance_ratio": outcome.explained,
        "timings_s": timings,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "libraries": _libraries(),
    }


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
    """assignments.parquet: the best seed's assignment of each scored set."""
    for each in outcome.plan.scored:
        assigned = outcome.assignments[each.id][outcome.best_seed]
        columns: dict[str, Any] = {
            "embeddings": pa.DictionaryArray.from_arrays(np.zeros(each.rows, np.int32), pa.array([each.id])),
            "row": np.arange(each.rows, dtype=np.int64),
            "image_id": each.metadata(["image_id"]).column("image_id"),
            "cluster": assigned.labels,
            "distance": assigned.distance,
            "margin": assigned.margin,
        }
        yield pa.table(columns)


def clusters_table(outcome: Outcome) -> pa.Table:
    """clusters.parquet: the best seed's clusters, once for each scored set."""
    plan = outcome.plan
    tables = []
    for each in plan.scored:
        source = plan.train if plan.request.label_map == "train" else each
        tables.append(
            describe_clusters(
                each.id,
                outcome.assignments[each.id][outcome.best_seed],
                outcome.classes[each.id],
                plan.vocabulary,
                _majority_map(outcome, source),
            )
        )
    return pa.concat_tables(tables)


def _majority_map(outcome: Outcome, source: EmbeddingSet) -> IntArray:
    """The class that most rows of each cluster have in ``source``: what a cluster is called."""
    labels = outcome.assignments[source.id][outcome.best_seed].labels
    table = contingency(labels, outcome.classes[source.id], outcome.plan.k, len(outcome.plan.vocabulary))
    return learn_map(table, LabelRule.MAJORITY)


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
