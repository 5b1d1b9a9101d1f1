"""A part of an assignment: the clusters of some rows, computed in the job's process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.errors import JsonValue
from shoal.schemas.execution import Execution
from shoal.settings import Settings
from shoal.store import EmbeddingSet
from shoal.store import Plan as SetPlan
from shoal.store.layout import EmbeddingsLayout

from clusterer.data.partitions import OnRows, unheard
from clusterer.data.rows import Float32Array, Float64Array, block_rows, require_finite
from clusterer.data.transform import Transform
from clusterer.heads.head import HeadTarget
from clusterer.jobs.assign_plan import AssignPlan
from clusterer.jobs.memory import worker_error
from clusterer.kmeans.assigned import Target
from clusterer.ray.session import OnWait, connect
from clusterer.ray.tasks import run_tasks
from clusterer.results.loaded import LoadedClustering, exact_engine

Found = dict[str, NDArray[np.int32] | NDArray[np.float32]]
"""``cluster``, ``distance`` and ``margin`` of each row, by a head also ``probability``."""
Range = tuple[int, int]
"""Numbers of the first row and the one after the last."""


def assign_range(embeddings: EmbeddingSet, loaded: LoadedClustering, rows: Range, on_rows: OnRows) -> Found:
    """The clusters of a range of rows; ``on_rows`` gets the number of the row that was reached."""
    first, end = rows
    cluster, distance = np.empty(end - first, np.int32), np.empty(end - first, np.float32)
    margin = np.empty_like(distance)
    probability = np.empty_like(distance) if isinstance(loaded.target, HeadTarget) else None
    for at, stored in embeddings.iter_batches(block_rows(embeddings.dim), start=first, stop=end):
        batch = np.ascontiguousarray(stored, dtype=np.float32)
        require_finite(batch, at, embeddings.id)
        found = loaded.assign(batch, at)
        part = slice(at - first, at - first + len(batch))
        cluster[part], distance[part], margin[part] = found.labels, found.distance, found.margin
        if probability is not None and found.probability is not None:
            probability[part] = found.probability
        on_rows(at + len(batch))
    columns: Found = {"cluster": cluster, "distance": distance, "margin": margin}
    return columns if probability is None else {**columns, "probability": probability}


@dataclass(frozen=True)
class Assigning:
    """What every node needs: the set to open, and the clustering as arrays."""

    layout: EmbeddingsLayout
    plan: SetPlan
    clustering: str
    transform: dict[str, NDArray[np.generic]]
    centroids: Float32Array
    prices: Float64Array | None

    def embeddings(self) -> EmbeddingSet:
        """The set, as the store on this node has it."""
        return EmbeddingSet(self.layout, self.plan, sent=True)

    def loaded(self) -> LoadedClustering:
        """The clustering, as far as rows are assigned with it."""
        return LoadedClustering(
            id=self.clustering,
            transform=Transform.from_arrays(self.transform),
            target=Target.of(self.centroids, exact_engine(), self.prices),
            labels=pa.nulls(len(self.centroids), pa.string()),
            distances=None,
            spaces=(),
        )


def assign_on_cluster(
    plan: AssignPlan,
    execution: Execution,
    settings: Settings,
    ranges: Sequence[Range],
    limit: int,
    *,
    on_start: Callable[[dict[str, JsonValue]], None],
    on_wait: OnWait,
) -> Iterator[tuple[int, Found]]:
    """The clusters of ranges of rows, each a task; yields (index, clusters) as they end.

    Parameters
    ----------
    limit
        Bytes that a task needs.
    on_start
        Gets what run.json says of the cluster.

    Raises
    ------
    MemoryLimitTooSmall
        The request gives a worker less.
    """
    clustering, embeddings = plan.clustering, plan.embeddings
    shared = Assigning(
        embeddings.layout,
        embeddings.plan,
        clustering.id,
        dict(clustering.transform_arrays()),
        clustering.centroids(),
        clustering.prices(),
    )
    with connect(execution, settings, on_wait=on_wait) as session:
        workers = session.workers(execution, limit)
        if workers.memory < limit:
            raise worker_error(workers.memory, limit, "a part of the rows", stage="assign")
        on_start(session.record(workers))
        needs = [limit] * len(ranges)
        yield from run_tasks(session, compute, ranges, workers=workers, needs=needs, shared=[shared], on_wait=on_wait)


def compute(rows: Range, given: Assigning) -> Found:
    """The clusters of a range of rows, on a node of the cluster."""
    return assign_range(given.embeddings(), given.loaded(), rows, unheard)
