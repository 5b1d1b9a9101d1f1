"""Writes the result of a clustering job to the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from shoal import __version__
from shoal.errors import JsonValue
from shoal.host import library_versions
from shoal.schemas import ClusterRequest
from shoal.schemas.graph import NOISE
from shoal.store import EmbeddingSet
from shoal.store.clustering import ClusteringWriter
from shoal.store.sealed import ROW_GROUP
from shoal.store.table_schemas import ITERATIONS_SCHEMA, LOSS

from clusterer.data.rows import Float32Array
from clusterer.data.transform import Transform
from clusterer.evaluation.contingency import UNMAPPED, Contingency, LabelledSet, LabelRule, learn_map
from clusterer.evaluation.label_metrics import Metrics
from clusterer.graph import Voters
from clusterer.heads.head import Head
from clusterer.heads.training import Trained
from clusterer.kmeans import Engine, KMeansFit, Level, groups_of, prices_by_seed
from clusterer.kmeans.assigned import Assigned
from clusterer.reduce import Fitted
from clusterer.results.tables import Scored, classes_table, confusion_table, describe_clusters, extremes, names_of

MEMBERS = ("nearest", "farthest", "borderline")
LIBRARIES = ("numpy", "scipy", "faiss-cpu", "faiss-gpu", "scikit-learn")


class SeedHead(Protocol):
    """The head of one seed, as a job has trained it."""

    @property
    def head(self) -> Head: ...
    @property
    def trained(self) -> Trained: ...
    def record(self) -> dict[str, JsonValue]:
        """For run.json."""
        ...


class SeedGraph(Protocol):
    """The groups of one seed on the graph of nearest rows, as a job has found them."""

    @property
    def voters(self) -> Voters: ...
    def record(self) -> dict[str, JsonValue]:
        """For run.json."""
        ...


@dataclass(frozen=True)
class Outcome:
    """Everything that a finished job has computed.

    Attributes
    ----------
    request
        As it was sent.
    spec
        spec.json: the request with what was decided, such as the number of clusters.
    train, scored
        The set that k-means is fitted on; the sets that are scored.
    sets
        By embeddings id: the classes of the rows of all these sets.
    reduction
        What rows went through after the transform; None for nothing.
    explained
        Share of the variance of each component; None without PCA.
    fits
        By seed; of heads their mean rows as centroids.
    heads, graphs
        By seed: the networks, or what finds groups on the graph; empty with other methods.
    assignments
        By embeddings id, then by seed; of all sets.
    metrics
        metrics.json, which `write` completes with the best and the worst clusters.
    levels
        Groups of the best seed's clusters, from below.
    zero_rows
        By embeddings id: rows of zeros, which normalisation leaves as they are.
    memory
        The limit, and what was kept in memory.
    execution
        Where it was computed, and on how many workers.
    places
        By embeddings id: the place ``(n, 2)`` of each row of the scored sets on the map.
    """

    request: ClusterRequest
    spec: dict[str, object]
    train: EmbeddingSet
    scored: tuple[EmbeddingSet, ...]
    sets: Mapping[str, LabelledSet]
    transform: Transform
    reduction: Fitted | None
    explained: list[float] | None
    engine: Engine
    fits: Mapping[int, KMeansFit]
    heads: Mapping[int, SeedHead]
    graphs: Mapping[int, SeedGraph]
    assignments: Mapping[str, Mapping[int, Assigned]]
    metrics: Metrics
    best_seed: int
    levels: tuple[Level, ...]
    zero_rows: dict[str, int]
    memory: Mapping[str, object]
    execution: Mapping[str, object]
    places: Mapping[str, Float32Array]

    def best(self, embeddings_id: str) -> Assigned:
        """The best seed's assignment of a set."""
        return self.assignments[embeddings_id][self.best_seed]

    def table(self, embeddings_id: str) -> Contingency:
        """The rows of a set by the best seed's cluster and class."""
        return self.sets[embeddings_id].table(self.best(embeddings_id).labels, self.groups + self.noisy)

    @property
    def groups(self) -> int:
        """The best seed's number of groups."""
        return len(self.fits[self.best_seed].best.fit.centroids)

    @property
    def noisy(self) -> bool:
        """Whether rows may be noise: its number lies behind those of the groups here, and is -1 in the store."""
        return any(each.voters.noisy for each in self.graphs.values())

    def stored(self, clusters: NDArray[np.int32]) -> NDArray[np.int32]:
        """The numbers of clusters as they are stored."""
        return np.where(clusters == self.groups, NOISE, clusters) if self.noisy else clusters

    def named_by(self, embeddings_id: str) -> str:
        """The id of the set whose labels name the clusters where this one is shown."""
        return self.train.id if self.request.label_map == "train" else embeddings_id


def write(writer: ClusteringWriter, outcome: Outcome) -> None:
    """Write everything but run.json and the report."""
    writer.spec(outcome.spec)
    writer.transform(outcome.transform.arrays())
    if outcome.reduction is not None:
        chosen = getattr(outcome.train, "chosen", None)
        writer.reduction({**outcome.reduction.arrays(), **({} if chosen is None else {"rows": chosen})})
    writer.centroids({seed: fit.best.fit.centroids for seed, fit in outcome.fits.items()}, outcome.best_seed)
    prices = prices_by_seed(outcome.fits)
    if prices:
        writer.prices(prices, outcome.best_seed)
    if outcome.heads:
        writer.heads({seed: each.head.arrays() for seed, each in outcome.heads.items()}, outcome.best_seed)
    if outcome.graphs:
        chosen = getattr(outcome.train, "chosen", None)
        voters = outcome.graphs[outcome.best_seed].voters.arrays()
        writer.graph({**voters, **({} if chosen is None else {"rows": chosen})})
    if outcome.levels:
        writer.hierarchy([(level.parents, level.centroids) for level in outcome.levels])
    writer.iterations(iterations_table(outcome))
    writer.assignments(assignment_tables(outcome), len(outcome.levels), probability=bool(outcome.heads))
    writer.map(map_tables(outcome))
    clusters = clusters_table(outcome)
    writer.clusters(with_row_numbers(outcome, clusters))
    scored = [scored_under_map(outcome, each.id) for each in outcome.scored]
    writer.classes(pa.concat_tables([classes_table(each) for each in scored]))
    writer.confusion(pa.concat_tables([confusion_table(each) for each in scored]))
    writer.metrics(with_extremes(outcome, clusters))


def with_extremes(outcome: Outcome, clusters: pa.Table) -> Metrics:
    """metrics.json with the best and the worst clusters of each scored set."""
    scored = {}
    for each in outcome.scored:
        own = clusters.filter(pc.equal(clusters.column("embeddings"), each.id))
        image_ids = each.metadata(["image_id"]).column("image_id")
        scored[each.id] = {**outcome.metrics["scored"][each.id], **extremes(own, image_ids)}
    return {**outcome.metrics, "scored": scored}


def with_row_numbers(outcome: Outcome, clusters: pa.Table) -> pa.Table:
    """clusters.parquet with the rows' numbers in their sets in place of their places among those that are clustered."""
    parts, changed = [], False
    for each in outcome.scored:
        own = clusters.filter(pc.equal(clusters.column("embeddings"), each.id))
        numbers = each.metadata([]).column("row").to_numpy()
        if len(numbers) and int(numbers[-1]) != len(numbers) - 1:
            changed = True
            for name in MEMBERS:
                lists = own.column(name).combine_chunks()
                named = pa.ListArray.from_arrays(lists.offsets, pa.array(numbers[lists.values.to_numpy()]))
                own = own.set_column(own.column_names.index(name), own.schema.field(name), named)
        parts.append(own)
    return pa.concat_tables(parts) if changed else clusters


def scored_under_map(outcome: Outcome, embeddings_id: str) -> Scored:
    """A scored set under the best seed's clusters and the stored label map."""
    own, table = outcome.sets[embeddings_id], outcome.table(embeddings_id)
    if outcome.request.label_map == "scored":
        return Scored(own.id, table, own.vocabulary, table, own.vocabulary, None, outcome.noisy)
    train = outcome.sets[outcome.train.id]
    return Scored(own.id, table, own.vocabulary, outcome.table(train.id), train.vocabulary, own.pairs, outcome.noisy)


def run_record(outcome: Outcome, timings: dict[str, float], peak_rss_bytes: int) -> dict[str, object]:
    """run.json: how the job ran."""
    best, options = outcome.fits[outcome.best_seed].best, outcome.request.kmeans
    return {
        "finished_at": datetime.now(UTC).isoformat(),
        "engine": outcome.engine.name,
        "engine_reason": outcome.engine.reason,
        "algorithm": options.algorithm,
        "spherical": options.spherical,
        "balance": None if best.fit.balance is None else best.fit.balance.record(),
        "init": best.init,
        "iterations": len(best.fit.history),
        "resumed_iterations": sum(run.resumed_at for fit in outcome.fits.values() for run in fit.runs),
        "converged": best.fit.converged,
        "best_restart": best.restart,
        "rows_trained_on": min(len(best.fit.labels), outcome.train.rows),
        "zero_rows": outcome.zero_rows,
        "explained_variance_ratio": outcome.explained,
        "timings_s": timings,
        "memory": outcome.memory,
        "execution": outcome.execution,
        "peak_rss_bytes": peak_rss_bytes,
        "version": __version__,
        "libraries": library_versions(LIBRARIES),
        **_heads_record(outcome),
        **_graphs_record(outcome),
    }


def _heads_record(outcome: Outcome) -> dict[str, object]:
    """The part of run.json that heads make otherwise."""
    best = outcome.heads.get(outcome.best_seed)
    if best is None:
        return {}
    return {
        "engine": "torch",
        "engine_reason": f"`{outcome.request.method}` on {best.trained.device}",
        "algorithm": outcome.request.method,
        "iterations": best.trained.history[-1].step,
        "heads": {str(seed): each.record() for seed, each in outcome.heads.items()},
        "libraries": library_versions((*LIBRARIES, "torch")),
    }


def _graphs_record(outcome: Outcome) -> dict[str, object]:
    """The part of run.json that groups on the graph make otherwise."""
    if not outcome.graphs:
        return {}
    method = outcome.request.method
    return {
        "engine": "graph",
        "engine_reason": f"`{method}` on the nearest rows of every row",
        "algorithm": method,
        "graph": {str(seed): each.record() for seed, each in outcome.graphs.items()},
        "libraries": library_versions((*LIBRARIES, *(("graspologic-native",) if method == "leiden" else ()))),
    }


def iterations_table(outcome: Outcome) -> pa.Table:
    """iterations.parquet: every iteration of every restart of every seed; of heads every check of a run."""
    if outcome.heads:
        checks = [
            {"seed": seed, "restart": 0, "iteration": each.step, "loss": each.loss, "moved": each.moved}
            | {"empty": each.empty, "seconds": each.seconds}
            for seed, head in outcome.heads.items()
            for each in head.trained.history
        ]
        return pa.Table.from_pylist(checks, schema=ITERATIONS_SCHEMA.append(LOSS))
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
    for each in outcome.scored:
        assigned = outcome.best(each.id)
        metadata = each.metadata(["image_id"])
        image_ids, numbers = metadata.column("image_id"), metadata.column("row").to_numpy()
        for first in range(0, each.rows, ROW_GROUP):
            part = slice(first, first + ROW_GROUP)
            rows = numbers[part]
            columns: dict[str, object] = {
                "embeddings": pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int32), pa.array([each.id])),
                "row": rows,
                "image_id": image_ids[part],
                "cluster": outcome.stored(assigned.labels[part]),
                "distance": assigned.distance[part],
                "margin": assigned.margin[part],
            }
            if assigned.probability is not None:
                columns["probability"] = assigned.probability[part]
            for level, groups in enumerate(groups_of(assigned.labels[part], outcome.levels), start=1):
                columns[f"level_{level}"] = groups
            yield pa.table(columns)


def map_tables(outcome: Outcome) -> Iterator[pa.Table]:
    """map.parquet: the places of each scored set's rows, a row group at a time."""
    for each in outcome.scored:
        places, numbers = outcome.places[each.id], each.metadata([]).column("row").to_numpy()
        for first in range(0, each.rows, ROW_GROUP):
            part = slice(first, first + ROW_GROUP)
            yield pa.table(
                {
                    "embeddings": pa.DictionaryArray.from_arrays(
                        np.zeros(len(numbers[part]), np.int32), pa.array([each.id])
                    ),
                    "row": numbers[part],
                    "x": places[part, 0],
                    "y": places[part, 1],
                }
            )


def clusters_table(outcome: Outcome) -> pa.Table:
    """clusters.parquet: the best seed's clusters, once for each scored set."""
    tables = []
    for each in outcome.scored:
        source = outcome.sets[outcome.named_by(each.id)]
        # A cluster is named after the class that most of its rows have.
        learnt = learn_map(outcome.table(source.id), LabelRule.MAJORITY)
        learnt[outcome.groups :] = UNMAPPED  # Noise is of no class.
        names = names_of(source.vocabulary, learnt)
        tables.append(describe_clusters(outcome.sets[each.id], outcome.best(each.id), names, noisy=outcome.noisy))
    return pa.concat_tables(tables)
