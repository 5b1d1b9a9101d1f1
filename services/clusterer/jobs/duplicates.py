"""The duplicates job: groups of images that show the same, and which of each to keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.errors import JsonValue, TooManyPairs
from shoal.jobs.child import JobContext
from shoal.schemas import DuplicatesRequest
from shoal.schemas.execution import Execution, on_cluster
from shoal.settings import Settings
from shoal.store import EmbeddingSet
from shoal.store.analyses import DUPLICATES, AnalysisWriter

from clusterer.cleaning.copies import copies_of_kept, least_similarities, to_kept
from clusterer.cleaning.keeping import COPIES, Facts, best_first, reasons
from clusterer.cleaning.links import Groups, complete_link, single_link, with_copies
from clusterer.data.rows import ChosenRows, Float32Array, IntArray, JoinedRows, Rows, StoredRows
from clusterer.jobs.analysis import FOUND, WRITTEN_AT_ONCE, Tools, members_of, run_analysis
from clusterer.jobs.analysis_plan import sets_of
from clusterer.jobs.memory import MIB, PROCESS_BYTES, THREAD_BYTES, worker_error
from clusterer.neighbours import Copies, Options, Pairs, pairs_above
from clusterer.neighbours.apart import piece_bytes
from clusterer.neighbours.prepare import blocks_bytes
from clusterer.neighbours.runner import Runner, in_process
from clusterer.ray.pieces import ClusterRunner
from clusterer.ray.session import connect

PER_PAIR = 120
"""Bytes of a pair while groups are formed: its rows and similarity, sorted copies, its place among the links."""
SHOWN = ("image_id", "image_path", "label", "width", "height", "bytes")
COLUMNS = (*SHOWN, "sha256", "sharpness", "pixel_hash")


@dataclass(frozen=True)
class Plan:
    """A checked request, and its sets as `sets_of` returns them."""

    request: DuplicatesRequest
    sets: tuple[EmbeddingSet, ...]


def run(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Find the groups and publish them; the job's result. A further attempt returns what was published."""
    request = DuplicatesRequest.model_validate(ctx.request)

    def find(sets: tuple[EmbeddingSet, ...], tools: Tools) -> Found:
        plan = Plan(request, sets)
        rows = JoinedRows([StoredRows(each, each.id) for each in sets])
        copies = find_copies(plan, rows, tools)
        return describe(plan, rows, copies, find_pairs(plan, rows, copies, tools), tools)

    return run_analysis(ctx, settings, DUPLICATES, request, partial(sets_of, request=request), find)


def find_copies(plan: Plan, rows: JoinedRows, tools: Tools) -> Copies:
    """The sets of rows that are equal in every bit; rows of zeros, which are similar to nothing, by their files."""
    work = tools.work
    kept = work.arrays("copies")
    if kept is not None:
        return Copies(kept["firsts"], kept["rows"], kept["starts"], kept["own"])
    tools.free_memory(rows)
    found = Copies.of(rows)
    if found is None:
        return Copies.none(rows.n)
    for zeros in np.flatnonzero((found.own == 0) & (found.sizes > 1))[::-1].tolist():
        members = found.rows[found.starts[zeros] : found.starts[zeros + 1]]
        found = found.split(zeros, _by_file(members_of(plan.sets, members, ("sha256",))))
    work.keep_arrays("copies", {name: getattr(found, name) for name in ("firsts", "rows", "starts", "own")})
    return found


def _by_file(table: pa.Table) -> IntArray:
    """A number for each row: the same for rows of one file; a row whose file is not known has its own."""
    codes = np.asarray(table.column("sha256").combine_chunks().dictionary_encode().indices.fill_null(-1), np.int64)
    return np.where(codes < 0, -1 - np.arange(len(codes)), codes)


def find_pairs(plan: Plan, rows: JoinedRows, copies: Copies, tools: Tools) -> Pairs:
    """All pairs of similar rows, as numbers of sets in ``copies``: one row of each set is compared for all of it."""
    work, progress = tools.work, tools.progress
    kept = work.arrays("pairs")
    if kept is not None and "one" in kept:  # Of rows instead of sets in earlier versions, under other names.
        return Pairs(kept["one"], kept["other"], kept["similarity"])
    distinct = rows if len(copies) == rows.n else ChosenRows(rows, copies.firsts)
    left = tools.free_memory(rows) - blocks_bytes(rows.n, rows.dim)
    most = left // 2 // PER_PAIR
    try:
        with running(plan.request.execution, distinct, tools) as run:
            options = Options(
                memory_limit=left // 2,
                folder=work.folder("search"),
                on_rows=progress("compare", distinct.n),
                run=run,
            )
            parts = list(pairs_above(distinct, plan.request.threshold, options, most=most))
    except TooManyPairs as error:
        raise too_many(plan.request.threshold, most, tools.limit) from error
    parts.append(Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)))
    found = Pairs(
        np.concatenate([each.i for each in parts]),
        np.concatenate([each.j for each in parts]),
        np.concatenate([each.similarity for each in parts]),
    )
    work.keep_arrays("pairs", {"one": found.i, "other": found.j, "similarity": found.similarity})
    progress.ctx.advance(FOUND)
    return found


@contextmanager
def running(execution: Execution | None, rows: Rows, tools: Tools) -> Iterator[Runner]:
    """Where the pieces of a search run: in this process, or as tasks of a Ray cluster.

    Raises
    ------
    MemoryLimitTooSmall
        A worker may use less than a piece needs.
    """
    cluster = on_cluster(execution)
    if cluster is None:
        yield in_process
        return
    on_wait = tools.progress.ctx.raise_if_cancelled
    with connect(cluster, tools.settings, on_wait=on_wait) as session:
        workers = session.workers(cluster, tools.limit)
        needed = PROCESS_BYTES + THREAD_BYTES * workers.cpus + piece_bytes(rows.dim)
        if workers.memory < needed:
            raise worker_error(workers.memory, needed, f"comparing rows of {rows.dim:,} columns")
        tools.execution.update(session.record(workers))
        yield ClusterRunner(session, workers, on_wait)


def too_many(threshold: float, most: int, limit: int) -> TooManyPairs:
    """More pairs than the memory holds; where it is the copies of one image, no threshold lowers their number."""
    remedy = (
        "Send a greater `memory_limit`" if threshold >= 1 else "Send a higher `threshold` or a greater `memory_limit`"
    )
    return TooManyPairs(
        f"More than {most:,} pairs of rows have a similarity of at least {threshold:g}, and the memory limit of "
        f"{limit // MIB} MiB holds no more. {remedy}. If one image has thousands of copies that differ a little, no "
        "threshold helps: leave their files out of the embeddings.",
        threshold=threshold,
        most=most,
        limit=limit,
    )


def listed_pairs(pairs: Pairs, copies: Copies, most: int) -> Pairs:
    """The pairs of rows that the result lists, from those of sets of equal rows.

    All of them, if there are at most ``most``. Otherwise the first row of each set stands for it, and the others are
    paired with it alone.
    """
    if len(copies) == len(copies.rows):
        return pairs
    sizes = copies.sizes
    several = np.flatnonzero(sizes > 1)
    within = sizes[several] * (sizes[several] - 1) // 2
    between = sizes[pairs.i] * sizes[pairs.j]
    if int(within.sum() + between.sum()) > most:
        others = np.setdiff1d(copies.rows, copies.firsts, assume_unique=True)
        i = np.concatenate([copies.firsts[pairs.i], copies.firsts[copies.sets[others]]])
        j = np.concatenate([copies.firsts[pairs.j], others])
        return Pairs(i, j, np.concatenate([pairs.similarity, np.ones(len(others), np.float32)]))
    groups = [copies.rows[copies.starts[each] : copies.starts[each + 1]] for each in several.tolist()]
    ends = [each[np.stack(np.triu_indices(len(each), 1))] for each in groups]
    of = np.repeat(np.arange(len(pairs)), between)
    nth = np.arange(len(of)) - np.repeat(np.cumsum(between) - between, between)
    one = copies.rows[copies.starts[pairs.i[of]] + nth // sizes[pairs.j[of]]]
    other = copies.rows[copies.starts[pairs.j[of]] + nth % sizes[pairs.j[of]]]
    i, j = (np.concatenate([each, *(pair[at] for pair in ends)]) for at, each in enumerate((one, other)))
    similarity = np.concatenate([pairs.similarity[of], np.ones(int(within.sum()), np.float32)])
    return Pairs(np.minimum(i, j), np.maximum(i, j), similarity)


def describe(plan: Plan, rows: JoinedRows, copies: Copies, pairs: Pairs, tools: Tools) -> Found:
    """The groups that ``pairs`` make, with the facts of their images."""
    progress = tools.progress
    linked = (single_link if plan.request.link == "single" else complete_link)(pairs)
    sets = replace(linked, rows=copies.firsts[linked.rows])
    linked = replace(linked, least=least_similarities(rows, sets, progress("groups", len(linked.rows))))
    groups = with_copies(linked, copies)
    if len(plan.sets) > 1:
        groups = _of_both(groups, plan.sets[0].rows)
    count = len(groups.rows)
    reference = groups.rows >= (plan.sets[0].rows if len(plan.sets) > 1 else rows.n)
    facts = Facts(members_of(plan.sets, groups.rows, COLUMNS), reference, plan.request.against)
    order = best_first(groups, facts)
    similarity, equal = to_kept(rows, groups, order, progress("groups", count))
    if len(groups):
        groups = replace(groups, least=np.minimum(groups.least, np.minimum.reduceat(similarity, groups.starts[:-1])))
    kinds = copies_of_kept(groups, facts, order, equal, _Thumbnails(plan.sets))
    listed = listed_pairs(pairs, copies, tools.free_memory(rows) // 2 // PER_PAIR)
    return Found(plan, rows, listed, groups, facts, order, similarity, kinds)


def _of_both(groups: Groups, border: int) -> Groups:
    """The groups with rows on both sides of ``border``."""
    if not len(groups):
        return groups
    inside = np.add.reduceat(groups.rows < border, groups.starts[:-1], dtype=np.int64)
    kept = (inside > 0) & (inside < groups.sizes)
    starts = np.concatenate([[0], np.cumsum(groups.sizes[kept])])
    return Groups(groups.rows[np.repeat(kept, groups.sizes)], starts.astype(np.int64), groups.least[kept])


class _Thumbnails:
    """The thumbnails of rows of several sets; a damaged file is as none."""

    def __init__(self, sets: tuple[EmbeddingSet, ...]) -> None:
        self._sets = sets

    def __call__(self, rows: IntArray) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        start = 0
        for each in self._sets:
            own = rows[(rows >= start) & (rows < start + each.rows)] - start
            found |= {row + start: image for row, image in each.thumbnails(own, damaged=[]).items()}
            start += each.rows
        return found


@dataclass(frozen=True)
class Found:
    """The groups of a job, ready to be written; ``order``, ``similarity`` and ``copies`` as in `cleaning.copies`."""

    plan: Plan
    rows: JoinedRows
    pairs: Pairs
    groups: Groups
    facts: Facts
    order: IntArray
    similarity: Float32Array
    copies: list[str | None]

    @property
    def keep(self) -> NDArray[np.bool_]:
        """``(m,) bool`` in ``order``: whether the image stays."""
        first = np.arange(len(self.order)) == np.repeat(self.groups.starts[:-1], self.groups.sizes)
        kept: NDArray[np.bool_] = first | self.facts.reference[self.order]
        return kept

    @property
    def totals(self) -> dict[str, int]:
        """Numbers of groups, of rows in groups, of rows to drop, and of those that are the same file."""
        same = sum(1 for each, kept in zip(self.copies, self.keep.tolist(), strict=True) if each == "file" and not kept)
        dropped = int(np.count_nonzero(~self.keep))
        return {"groups": len(self.groups), "members": len(self.order), "drops": dropped, "same_files": same}

    def write(self, writer: AnalysisWriter) -> None:
        """Write the tables."""
        writer.table("groups", iter([self._groups()]))
        writer.table("members", self._members())
        writer.table("pairs", self._pairs())

    def _groups(self) -> pa.Table:
        ranks = np.array([-1 if each is None else COPIES.index(each) for each in self.copies], np.int64)
        starts = self.groups.starts[:-1]
        count = len(starts)
        return pa.table(
            {
                "group": np.arange(count),
                "first": starts,
                "size": self.groups.sizes,
                "dropped": np.add.reduceat(~self.keep, starts, dtype=np.int64) if count else np.empty(0, np.int64),
                "least_similarity": self.groups.least,
                "copy": [COPIES[each] for each in (np.maximum.reduceat(ranks, starts) if count else [])],
            },
            schema=DUPLICATES.tables["groups"],
        )

    def _members(self) -> Iterator[pa.Table]:
        why = reasons(self.groups, self.facts, self.order, self.copies)
        of, rows, keep = self.groups.numbers, self.groups.rows[self.order], self.keep
        names, numbers = self._placed(rows)
        for first in range(0, len(rows), WRITTEN_AT_ONCE):
            part = slice(first, first + WRITTEN_AT_ONCE)
            facts = self.facts.table.take(pa.array(self.order[part]))
            yield pa.table(
                {
                    "group": of[part],
                    "embeddings": names[part],
                    "row": numbers[part],
                    **{name: facts.column(name) for name in SHOWN},
                    "similarity": self.similarity[part],
                    "copy": pa.array(self.copies[part], pa.string()),
                    "keep": keep[part],
                    "reason": why[part],
                }
            ).cast(DUPLICATES.tables["members"])

    def _pairs(self) -> Iterator[pa.Table]:
        of = self.groups.of_pairs(self.pairs)
        inside = np.flatnonzero(of >= 0)
        ranked = inside[np.lexsort((self.pairs.j[inside], self.pairs.i[inside], of[inside]))]
        for first in range(0, len(ranked), WRITTEN_AT_ONCE):
            part = ranked[first : first + WRITTEN_AT_ONCE]
            (sets_a, rows_a), (sets_b, rows_b) = map(self._placed, (self.pairs.i[part], self.pairs.j[part]))
            columns = {"embeddings_a": sets_a, "row_a": rows_a, "embeddings_b": sets_b, "row_b": rows_b}
            table = {"group": of[part], **columns, "similarity": self.pairs.similarity[part]}
            yield pa.table(table).cast(DUPLICATES.tables["pairs"])

    def _placed(self, rows: IntArray) -> tuple[pa.Array, IntArray]:
        """The embeddings id of each row, and its number there."""
        of = np.searchsorted(self.rows.starts, rows, "right") - 1
        names = pa.DictionaryArray.from_arrays(pa.array(of, pa.int32()), [each.id for each in self.plan.sets])
        return names, rows - self.rows.starts[of]
