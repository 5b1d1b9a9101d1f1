"""The job that assigns an embeddings set to an existing clustering."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from shoal import __version__
from shoal.errors import JsonValue
from shoal.host import available_cores, library_versions
from shoal.jobs.child import JobContext
from shoal.schemas import AssignRequest
from shoal.schemas.execution import Execution, on_cluster
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.assigned import AssignedWriter, assigned_schema
from shoal.store.sealed import ROW_GROUP

from clusterer.data.rows import LabelArray, block_rows
from clusterer.jobs.assign_parts import assign_on_cluster, assign_range
from clusterer.jobs.assign_plan import AssignPlan, plan_assign
from clusterer.jobs.memory import (
    PROCESS_BYTES,
    SHORT_SKETCH,
    SKETCH_STATS,
    THREAD_BYTES,
    default_limit,
    limit_error,
    peak_bytes,
)
from clusterer.jobs.workspace import Workspace, discard
from clusterer.results.assigned import Baseline, Tally, clusters_table, drift_of, result_of
from clusterer.results.loaded import LoadedClustering
from clusterer.results.write import LIBRARIES

PER_ROW = 256
"""Bytes of a row of a part: its cluster, distance, margin, image id and path."""
PER_TRAIN_ROW = 24
"""Bytes of a row of the train set, whose distances are read and sorted."""
PER_COMPARED_ROW = 96
"""Bytes of a row of the train set that new rows are compared with: digests that find equal rows, order, length."""
PER_VOTER = 24
"""Bytes of a train row that votes for the group of others: its group, number and core distance."""


def run(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Assign every row and publish; the job's result.

    A further attempt at a job that has published returns what was published; one at a job that died continues after
    the last part of `ROW_GROUP` rows.
    """
    store = Store.of(settings)
    assignments_id = f"a-{ctx.id}"
    if assignments_id in store.assigned_ids():
        discard(store.layout.work(assignments_id))
        return result_of(store.assigned(assignments_id))
    started = time.perf_counter()
    plan = plan_assign(store, AssignRequest.model_validate(ctx.request))
    require_memory(plan, plan.request.memory_limit or settings.memory_limit or default_limit())
    loaded = LoadedClustering.load(store, plan.clustering.id)
    work = Workspace(store.layout.work(assignments_id), rows_in_memory=True)
    parts = _Parts(ctx, plan.embeddings, loaded, work)
    cluster = on_cluster(plan.request.execution)
    if cluster is None:
        parts.compute()
    else:
        parts.compute_on_cluster(plan, cluster, settings)
    with AssignedWriter(store.layout, assignments_id) as writer:
        _write(writer, plan, loaded, parts)
        writer.run(
            {
                "finished_at": datetime.now(UTC).isoformat(),
                "seconds": round(time.perf_counter() - started, 3),
                "resumed_rows": parts.resumed,
                "execution": parts.execution,
                "peak_rss_bytes": peak_bytes(),
                "version": __version__,
                "libraries": library_versions(LIBRARIES),
            }
        )
        ctx.raise_if_cancelled()
        writer.publish()
    work.remove()
    return result_of(store.assigned(assignments_id))


def require_memory(plan: AssignPlan, limit: int) -> None:
    """Raise `MemoryLimitTooSmall` unless the job runs within ``limit`` bytes."""
    needed = part_bytes(plan) + PER_TRAIN_ROW * int(plan.clustering.spec["n"])
    if limit < needed:
        what = f"assigning {plan.embeddings.rows:,} rows to {plan.clustering.k} clusters"
        raise limit_error(limit, needed, what, stage="assign")


def part_bytes(plan: AssignPlan) -> int:
    """Memory of a process that assigns a part."""
    spec, embeddings = plan.clustering.spec, plan.embeddings
    dim, width, k = embeddings.dim, int(spec.get("dim_clustered", embeddings.dim)), plan.clustering.k
    block = 4 * min(block_rows(dim), embeddings.rows) * max(dim, width)
    shard = min(embeddings.plan.shard_rows, embeddings.rows)
    reduce = spec.get("reduce") or {}
    data = 12 * dim * width + 16 * k * int(reduce.get("components", width)) + 64 * k + 8 * block
    if reduce or plan.clustering.by_graph:  # The new rows' sketches too while they are compared.
        data += int(spec["n"]) * compared_row_bytes(reduce, width) + 8 * block
    if plan.clustering.by_graph:
        data += int(spec["n"]) * PER_VOTER
    if plan.clustering.by_head:
        data += sum(array.nbytes for array in plan.clustering.head_arrays().values()) + 16 * k * block_rows(dim)
    data += PER_ROW * (min(ROW_GROUP, embeddings.rows) + shard)
    return PROCESS_BYTES + THREAD_BYTES * available_cores() + data


def compared_row_bytes(reduce: Mapping[str, int | str], width: int) -> int:
    """Memory of a train row that new rows are compared with, and of what a reduction keeps of it, if there is one."""
    steps = int(reduce["steps"]) if reduce.get("method") == "smooth" else 1
    kept = int(reduce.get("components", 0)) + int(reduce.get("neighbours", 0))
    sketches = -(-width // 64) * 64 + SHORT_SKETCH + SKETCH_STATS
    return 4 * width * steps + sketches + 4 * kept + PER_COMPARED_ROW


@dataclass
class _Parts:
    """The clusters of the rows, `ROW_GROUP` rows a part, each kept in the working folder once it is computed."""

    ctx: JobContext
    embeddings: EmbeddingSet
    loaded: LoadedClustering
    work: Workspace
    resumed: int = 0
    done: int = 0
    execution: dict[str, JsonValue] = field(default_factory=lambda: {"engine": "local"})

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First row and end of each part."""
        rows = self.embeddings.rows
        return [(first, min(first + ROW_GROUP, rows)) for first in range(0, rows, ROW_GROUP)]

    def compute(self) -> None:
        """Compute the parts that no earlier attempt has kept."""
        for number, (first, end) in enumerate(self.ranges):
            if self._kept(number) is not None:
                self.resumed += end - first
            else:
                self._compute(number, first, end)
            self.ctx.advance(number + 1)
            self._report(end)

    def compute_on_cluster(self, plan: AssignPlan, execution: Execution, settings: Settings) -> None:
        """Compute the parts that no earlier attempt has kept, each as a task of a Ray cluster."""
        missing = [number for number in range(len(self.ranges)) if self._kept(number) is None]
        ranges = [self.ranges[number] for number in missing]
        self.done = self.resumed = self.embeddings.rows - sum(end - first for first, end in ranges)
        kept = len(self.ranges) - len(missing)
        self.ctx.advance(kept)
        if not missing:
            return
        for index, found in assign_on_cluster(
            plan,
            execution,
            settings,
            ranges,
            part_bytes(plan),
            on_start=self.execution.update,
            on_wait=lambda: self._report(self.done),
        ):
            self.work.keep_arrays(f"part-{missing[index]:05}", dict(found))
            kept, self.done = kept + 1, self.done + len(found["cluster"])
            self.ctx.advance(kept)
            self._report(self.done)

    def read(self, number: int) -> dict[str, JsonValue]:
        """The arrays of a part: ``cluster``, ``distance``, ``margin``."""
        found = self._kept(number)
        if found is None:  # It was damaged or removed meanwhile.
            self._compute(number, *self.ranges[number])
            found = self._kept(number) or {}
        return found

    def _kept(self, number: int) -> dict[str, JsonValue] | None:
        first, end = self.ranges[number]
        found = self.work.arrays(f"part-{number:05}")
        return found if found is not None and len(found.get("margin", ())) == end - first else None

    def _compute(self, number: int, first: int, end: int) -> None:
        found = assign_range(self.embeddings, self.loaded, (first, end), self._report)
        self.work.keep_arrays(f"part-{number:05}", dict(found))

    def _report(self, done: int) -> None:
        self.ctx.progress("assign", done, self.embeddings.rows, "rows")


def _write(writer: AssignedWriter, plan: AssignPlan, loaded: LoadedClustering, parts: _Parts) -> None:
    """Write all files but run.json."""
    quantile = plan.request.outlier_quantile
    limit = loaded.outlier_distance(quantile)
    baseline = Baseline.of(plan.clustering, loaded.distances)
    clustering = plan.clustering
    tally = Tally(clustering.slots, limit, None if baseline is None else baseline.borders, noisy=clustering.noisy)
    parents = [members for members, _ in plan.clustering.hierarchy()]
    schema = assigned_schema(len(parents), probability=plan.clustering.by_head)
    writer.rows(_tables(plan.embeddings, parts, tally, parents, schema), schema)
    drift, shift = drift_of(tally, quantile, baseline, loaded.labels)
    writer.drift(drift)
    writer.clusters(clusters_table(tally, baseline, shift, loaded.labels))
    writer.spec(
        {
            "request": plan.request.model_dump(mode="json"),
            "clustering": plan.clustering.id,
            "embeddings": plan.embeddings.id,
            "rows": plan.embeddings.rows,
            "k": plan.clustering.k,
            "levels": len(parents),
            **({"by_head": True} if plan.clustering.by_head else {}),
            **({"noise": True} if plan.clustering.noisy else {}),
            "train": plan.clustering.spec.get("train"),
            "model": plan.embeddings.plan.model.model_dump(mode="json"),
            "outlier_quantile": quantile,
            "outlier_distance": limit if limit is not None and math.isfinite(limit) else None,
        }
    )


def _tables(
    embeddings: EmbeddingSet, parts: _Parts, tally: Tally, parents: list[LabelArray], schema: pa.Schema
) -> Iterator[pa.Table]:
    """assignments.parquet, a part at a time; ``tally`` counts the rows."""
    name = pa.array([embeddings.id])
    for number, (first, end) in enumerate(parts.ranges):
        parts.ctx.progress("write", first, embeddings.rows, "rows")
        arrays = parts.read(number)
        groups = arrays["cluster"]
        columns: dict[str, object] = {
            "embeddings": pa.DictionaryArray.from_arrays(np.zeros(end - first, np.int32), name),
            "row": np.arange(first, end, dtype=np.int64),
            "image_id": pa.chunked_array(
                [
                    chunk
                    for shard in embeddings.iter_metadata(("image_id",), start=first, stop=end)
                    for chunk in shard.column("image_id").chunks
                ],
                pa.string(),
            ),
            **arrays,
            "is_outlier": tally.add(arrays["cluster"], arrays["distance"]),
        }
        for level, members in enumerate(parents, start=1):
            groups = members[groups]
            columns[f"level_{level}"] = groups
        yield pa.table([columns[name] for name in schema.names], schema=schema)
    parts.ctx.progress("write", embeddings.rows, embeddings.rows, "rows")
