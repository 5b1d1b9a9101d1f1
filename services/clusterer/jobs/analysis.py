"""What the analyses of embeddings share: how they run, progress, memory, metadata of chosen rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import pyarrow as pa
from shoal import __version__
from shoal.errors import JsonValue
from shoal.host import available_cores
from shoal.jobs.child import JobContext
from shoal.schemas import DuplicatesRequest, QualityRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.analyses import Analysis, AnalysisKind, AnalysisWriter

from clusterer.data.rows import IntArray, Rows
from clusterer.jobs.memory import MIB, PROCESS_BYTES, THREAD_BYTES, default_limit, limit_error, peak_bytes
from clusterer.jobs.workspace import Workspace, discard
from clusterer.neighbours.prepare import blocks_bytes

AnalysisRequest = DuplicatesRequest | QualityRequest

LEAST_FREE = 32 * MIB
"""Bytes that an analysis needs beside the process, what it knows of each row and the blocks that it compares."""
PER_ROW = 120
"""Bytes of a row: its number, its length, its place in a group."""
WRITTEN_AT_ONCE = 65_536
"""Rows of a table that are written together."""
FOUND = 1
"""Progress mark of a job that has kept what took long: pairs, neighbours."""


class Found(Protocol):
    """What an analysis found, ready to be written."""

    @property
    def totals(self) -> dict[str, int]:
        """How much of what there is."""
        ...

    def write(self, writer: AnalysisWriter) -> None:
        """Write the tables."""
        ...


@dataclass(frozen=True)
class Need:
    """Bytes that a stage needs, what it is, and how a request can do with less beside a larger limit."""

    bytes: int
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Tools:
    """What an analysis works with.

    Attributes
    ----------
    work
        Where it keeps what its next attempt can use.
    limit
        Bytes that the job may use.
    settings
        Where its cluster is.
    execution
        For run.json: where it computes; this process, unless a kind of analysis says otherwise.
    """

    progress: Progress
    work: Workspace
    limit: int
    settings: Settings
    execution: dict[str, JsonValue] = field(default_factory=lambda: {"engine": "local"})

    def free_memory(self, rows: Rows, *stages: Need) -> int:
        """Bytes that are left for the data of a job on ``rows``, of which each of its stages needs some.

        Raises
        ------
        MemoryLimitTooSmall
            They are fewer than a stage needs.
        """
        fixed = PROCESS_BYTES + THREAD_BYTES * available_cores() + PER_ROW * rows.n
        free = self.limit - fixed
        least = Need(LEAST_FREE + blocks_bytes(rows.n, rows.dim), f"a job on {rows.n:,} rows")
        # The largest: who has met one demand would only hear of the next.
        most = max([least, *stages], key=lambda need: need.bytes)
        if free < most.bytes:
            raise limit_error(self.limit, fixed + most.bytes, most.what, remedy=most.remedy)
        return free


def run_analysis(
    ctx: JobContext,
    settings: Settings,
    kind: AnalysisKind,
    request: AnalysisRequest,
    sets: Callable[[Store], tuple[EmbeddingSet, ...]],
    find: Callable[[tuple[EmbeddingSet, ...], Tools], Found],
) -> dict[str, JsonValue]:
    """Analyse some sets and publish what is found; the job's result. A further attempt returns what was published."""
    store = Store.of(settings)
    which = f"{kind.prefix}-{ctx.id}"
    if which in store.analysis_ids(kind):
        discard(store.layout.work(which))
        return _result_of(store.analysis(kind, which))
    progress = Progress(ctx)
    work = Workspace(store.layout.work(which), rows_in_memory=False)
    limit = request.memory_limit or settings.memory_limit or default_limit()
    opened = sets(store)
    tools = Tools(progress, work, limit, settings)
    found = find(opened, tools)
    with AnalysisWriter(store.layout, kind, which) as writer:
        found.write(writer)
        writer.spec(
            {
                "request": request.model_dump(mode="json"),
                "sets": [each.id for each in opened],
                "of": {each.id: {"rows": each.rows, "model": each.plan.model.name} for each in opened},
                "totals": found.totals,
            }
        )
        writer.run({**progress.record(), "execution": tools.execution})
        ctx.raise_if_cancelled()
        writer.publish()
    work.remove()
    return _result_of(store.analysis(kind, which))


def _result_of(found: Analysis) -> dict[str, JsonValue]:
    """A job's result: the id, and the totals."""
    return {found.kind.name: found.id, **found.spec["totals"]}


@dataclass
class Progress:
    """Reports the progress of an analysis, and takes its time."""

    ctx: JobContext
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, stage: str, total: int) -> Callable[[int], None]:
        """A function to call with the number of rows of a stage that are done."""
        return lambda done: self.ctx.progress(stage, done, total, "rows")

    def record(self) -> dict[str, JsonValue]:
        """run.json."""
        return {
            "finished_at": datetime.now(UTC).isoformat(),
            "seconds": round(time.perf_counter() - self.started, 3),
            "peak_bytes": peak_bytes(),
            "version": __version__,
        }


def members_of(sets: Sequence[EmbeddingSet], rows: IntArray, columns: Sequence[str]) -> pa.Table:
    """The metadata of some rows, numbered through the sets, in the order of ``rows``."""
    order = np.argsort(rows, kind="stable")
    wanted, parts, start = rows[order], [], 0
    for each in sets:
        for table in each.iter_metadata(columns):
            numbers = table.column("row").to_numpy() + start
            lo, hi = np.searchsorted(wanted, [numbers[0], numbers[-1] + 1])
            if lo < hi:
                parts.append(table.take(pa.array(wanted[lo:hi] - numbers[0])).drop_columns("row"))
        start += each.rows
    if not parts:
        return sets[0].metadata(columns).drop_columns("row").slice(0, 0)
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    return pa.concat_tables(parts).combine_chunks().take(pa.array(place))
