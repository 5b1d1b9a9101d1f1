"""How much memory a clustering job may use, how much each stage needs, and what is kept in memory.

The limit covers all memory of the job's process as the system counts it, including the interpreter, its libraries and
the pages of mapped files in use.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from shoal.errors import JsonValue, MemoryLimitTooSmall
from shoal.host import available_cores
from shoal.memory import machine_memory

from clusterer.data.partitions import chunk_rows
from clusterer.data.rows import block_rows, window_rows
from clusterer.evaluation.label_metrics import PAIRS_AT_ONCE
from clusterer.evaluation.unsupervised import LABELLING_VALUES, MOST_SAMPLED, SMALLEST_SHARE, TABLE_CELLS
from clusterer.graph.joints import BLOCK, MOST_PARTS
from clusterer.jobs import graph
from clusterer.jobs.choose import JUDGED
from clusterer.jobs.heads import neighbours_of, training_bytes
from clusterer.jobs.plan import SEARCHED_ROWS, Plan
from clusterer.kmeans import needs_faiss
from clusterer.kmeans.seeding import trials_of
from clusterer.neighbours.prepare import blocks_bytes
from clusterer.reduce.spectral import EXTRA, FEWEST

MIB = 2**20
FRACTION = 4
"""By default a job may use a quarter of the machine's memory; other jobs and the page cache need the rest."""
PROCESS_BYTES, THREAD_BYTES = 264 * MIB, 4 * MIB
"""Of the interpreter, the libraries and memory that the allocator keeps after it is freed; of BLAS for each core."""
PLOTTING_BYTES = 48 * MIB
"""Added by a sweep's plots."""
FAISS_BYTES = 40 * MIB
"""Added by faiss, where its engines run."""
BASELINE_BYTES = 48 * MIB
"""Added by scikit-learn, which only mini-batches need."""
TORCH_BYTES = 704 * MIB
"""Added by PyTorch, which only heads need."""
SKETCH_STATS = 64
"""Bytes beside the full and the short sketch of a row."""
SHORT_SKETCH = 256
PER_ROW, PER_BALANCED_ROW = 64, 48
"""Bytes of the labels of a few iterations, of rows in the order of their distances, of weights of the seeding."""
PER_CENTROID_VALUE = 48
"""Bytes of an iteration for each value of its centroids: sums, means, sketches, and those of the best restart."""
PER_SEED_CENTROID_VALUE, PER_SEED_SEARCHER_VALUE = 4, 12
"""Bytes of the centroids of each seed, and of their searcher."""
PER_ROW_AND_SEED = 16
"""Bytes of the labels of each fit, and of the labels, distances and margins of each assignment."""
PER_COUNTED_ROW = 96
"""Bytes of a row while it is counted by cluster and class: copies of both, sorted cells, the permuted classes."""
PER_CELL, PER_MATCHED_CELL = 24, 8
"""Bytes of a cell of a sparse table of counts, and of the dense one that clusters and classes are matched in."""
PER_PAIR = 112
"""Bytes of a pair of sizes whose expected mutual information is added up."""
PER_NEIGHBOUR = 40
"""Bytes of a neighbour of a row: its number and similarity, and copies of both while they are merged."""
PER_VECTOR, PER_EDGE, SPARSE_BYTES = 18, 72, 32 * MIB
"""Bytes of a value of an eigenvector while these are found, in four blocks; of a neighbour of a row in the graph; added
by scipy's sparse matrices."""
PER_LINK, PER_LINKED_ROW = 120, 700
"""Bytes of a neighbour of a row in the graph whose groups are sought, and of a row in the tree of linkages."""
SEARCH_BYTES = 64 * MIB
"""Least memory of a search for neighbours beside its result and the blocks of rows that it compares."""
PER_REPORTED_ROW = 260
"""Bytes of a row's class, its place in the order of its cluster, its image's id and path."""
PER_CLUSTER, PER_CLUSTER_AND_SET = 2500, 600
"""Bytes of the description of a cluster."""
PER_SHOWN_CLUSTER, MOST_SHOWN = 3 * MIB // 4, 200
"""Bytes of a cluster's pictures in the report."""


@dataclass(frozen=True)
class Problem:
    """The size of a clustering.

    Attributes
    ----------
    train_rows, held_rows, all_rows
        Rows of the train set; rows held transformed (the train set, or what a sweep's points share); rows of all sets.
    dim_in, dim
        Columns before and after the transform.
    k
        Number of clusters; for a search the most that are tried.
    seeds
        How many times k-means runs.
    sampled_rows
        Rows of the k-means sample, held beside the train set.
    fitted_rows
        The most rows that one k-means uses; the train set by default.
    classes, sets
        The most classes of a set; scored sets.
    pca
        Whether rows are projected.
    search
        Whether the number of clusters is searched.
    pick
        Whether several reductions are tried.
    levels
        Groups of the first level above the clusters, 0 without one.
    neighbours, coordinates
        Nearest rows of each row of the train set that a reduction finds, and coordinates that it gives; 0 for none.
    balanced, faiss, mini_batch, probe
        Whether sizes of clusters are bounded, whether one of faiss's engines runs, whether the baseline does, and
        whether linear classifiers are fitted.
    training, paired, linked
        Bytes of the training of a head; nearest rows of each row that it or the graph needs, and that are edges of the
        graph; 0 for none.
    sweep
        Whether it is a sweep, which draws plots and writes no report.
    """

    train_rows: int
    held_rows: int
    all_rows: int
    dim_in: int
    dim: int
    k: int
    seeds: int
    sampled_rows: int = 0
    fitted_rows: int | None = None
    classes: int = 0
    sets: int = 1
    pca: bool = True
    search: bool = False
    pick: bool = False
    levels: int = 0
    neighbours: int = 0
    coordinates: int = 0
    balanced: bool = False
    faiss: bool = False
    mini_batch: bool = False
    probe: bool = False
    training: int = 0
    paired: int = 0
    linked: int = 0
    sweep: bool = False

    def share(self, workers: int) -> Problem:
        """What one of several workers holds, which divide the rows."""

        def part(rows: int) -> int:
            return min(rows, -(-rows // workers) + chunk_rows(rows))

        return replace(
            self,
            train_rows=part(self.train_rows),
            held_rows=part(self.held_rows),
            all_rows=part(self.all_rows),
            sampled_rows=part(self.sampled_rows),
            fitted_rows=None if self.fitted_rows is None else part(self.fitted_rows),
        )

    @property
    def row_bytes(self) -> int:
        """The held rows in float32, and the sample of one seed."""
        return (self.held_rows + self.sampled_rows) * self.dim * 4

    @property
    def sketch_bytes(self) -> int:
        """The full and short sketches that the fast engine keeps of its rows."""
        return self._fitted_rows * (-(-self.dim // 64) * 64 + SHORT_SKETCH + SKETCH_STATS)

    @property
    def other_bytes(self) -> int:
        """Everything else at its peak, rounded up to whole mebibytes."""
        return -(-(self.process_bytes + max(self.stages().values())) // MIB) * MIB

    @property
    def process_bytes(self) -> int:
        """Memory of the process without data."""
        added = FAISS_BYTES * self.faiss + PLOTTING_BYTES * self.sweep + BASELINE_BYTES * self.mini_batch
        return PROCESS_BYTES + THREAD_BYTES * available_cores() + added + TORCH_BYTES * (self.training > 0)

    def stages(self) -> dict[str, int]:
        """Peak bytes of each stage, without the process, the held rows and their sketches."""
        fits = self.seeds * (PER_SEED_CENTROID_VALUE * self.k * self.dim + 4 * self._fitted_rows)
        kept = self._transform + self._reduction_bytes + fits
        results = kept + self.all_rows * self.seeds * (PER_ROW_AND_SEED - 4) + 8 * self.all_rows
        found = {
            "pca": self._pca_bytes(),
            "transform": 2 * self._transform + self._reading,
            "kmeans": kept + self._fit_bytes(self._fitted_rows, self.k) + self._levels_bytes(),
            "assign": results
            + self.seeds * PER_SEED_SEARCHER_VALUE * self.k * self.dim
            + self._reading
            + 2 * self._block,
            "metrics": results + self._counting_bytes(),
            "unsupervised": results + self._unsupervised_bytes(self.k, self.seeds) + 8 * self.all_rows,
            "report": 0 if self.sweep else results + self._report_bytes(),
        }
        if self.search:
            judging = self._sample_bytes() + SEARCH_BYTES + self._compared_bytes(SEARCHED_ROWS)
            found["choose"] = self._judged_bytes() + max(judging, self._reduction_bytes + self._search_bytes())
        if self.pick:
            found["pick"] = self._search_bytes() + self._pick_bytes()
        if self.neighbours:
            searching, fitting = SEARCH_BYTES + self._compared_bytes(), self._eigen_bytes + 4 * self._block
            found["reduce"] = self._transform + self.neighbour_bytes + max(searching, fitting)
        if self.training:
            found["heads"] = kept + self.neighbour_bytes // 4 + self.training
        if self.paired:
            found["neighbours"] = kept + self.neighbour_bytes + SEARCH_BYTES + self._compared_bytes()
        if self.linked:
            graph_bytes = SPARSE_BYTES + (PER_LINKED_ROW + PER_LINK * self.linked) * self.train_rows
            found["groups"] = kept + graph_bytes + self._joint_bytes()
        if self.probe or self.training:
            found["probe"] = self._probe_bytes()
        return found

    @property
    def neighbour_bytes(self) -> int:
        """The nearest rows of each row of the train set."""
        return PER_NEIGHBOUR * max(self.neighbours, self.paired) * self.train_rows

    @property
    def beside_search_bytes(self) -> int:
        """What is held while neighbours are sought, beside the rows and what the search may use."""
        sampled = self._judged_bytes() + self._sample_bytes() if self.search or self.pick else self._transform
        return max(sampled, self._transform + self.neighbour_bytes) + self._compared_bytes()

    def _compared_bytes(self, most: int | None = None) -> int:
        """Blocks of rows that a search compares; the train set's, or those of a sample."""
        return blocks_bytes(self.train_rows if most is None else min(self.train_rows, most), self.dim)

    @property
    def _reduction_bytes(self) -> int:
        """What a reduction keeps: the coordinates, or the neighbours and what the last of them reaches."""
        return 4 * (self.coordinates + self.neighbours + 1) * self.train_rows if self.neighbours else 0

    @property
    def _eigen_bytes(self) -> int:
        """The graph of nearest rows and blocks of vectors, where rows get coordinates."""
        each = PER_VECTOR * max(self.coordinates + EXTRA, FEWEST) + PER_EDGE * self.neighbours
        return SPARSE_BYTES + each * self.train_rows if self.coordinates else 0

    @property
    def _fitted_rows(self) -> int:
        return self.train_rows if self.fitted_rows is None else self.fitted_rows

    @property
    def _block(self) -> int:
        """A block of transformed rows, which has as many rows as one of the embeddings."""
        return 4 * min(block_rows(self.dim_in), self.all_rows) * max(self.dim, self.dim_in)

    @property
    def _reading(self) -> int:
        """A block from the store in all its forms: stored, float32, normalised, centred, projected."""
        return 5 * self._block

    @property
    def _transform(self) -> int:
        """Components in float64 and float32."""
        return 12 * self.dim * self.dim_in if self.pca else 0

    def _pca_bytes(self) -> int:
        """Second moments with LAPACK's workspace, which is twice their size, and the blocks they are summed from."""
        if not self.pca:
            return 0
        width = self.dim_in + 64
        return 3 * 8 * width**2 + 8 * 256 * width + max(self._reading, self._transform)

    def _fit_bytes(self, rows: int, k: int) -> int:
        """One k-means of ``rows`` rows: seeding and iterations."""
        trials = trials_of(rows, self.dim, k)
        seeding = 8 * rows * (trials + 4) if trials > 1 else 0
        each = PER_ROW + PER_BALANCED_ROW * self.balanced
        window = 6 * min(window_rows(self.dim), rows) * self.dim
        streamed = (8 * max(2048, k) if self.mini_batch else 0) * self.dim + 8 * min(
            block_rows(self.dim), rows
        ) * self.dim
        return max(seeding, each * rows) + PER_CENTROID_VALUE * k * self.dim + window + streamed + 24 * MIB

    def _levels_bytes(self) -> int:
        """k-means on the centroids, with their sketches."""
        if not self.levels:
            return 0
        return 4 * self.k * self.dim + 2 * self.k * (self.dim + SHORT_SKETCH + SKETCH_STATS)

    def _search_bytes(self) -> int:
        """Clusterings of a sample with three seeds, and their metrics."""
        rows = min(self.train_rows, SEARCHED_ROWS)
        sketches = rows * (self.dim + 64 + SHORT_SKETCH + SKETCH_STATS)
        k = min(self.k, rows)
        fits = self._fit_bytes(rows, k) + 3 * 4 * k * self.dim
        return self._sample_bytes() + max(fits + sketches, self._unsupervised_bytes(k, 3))

    def _sample_bytes(self) -> int:
        """The transform, and the rows of a sample."""
        return self._transform + 4 * min(self.train_rows, SEARCHED_ROWS) * self.dim

    def _pick_bytes(self) -> int:
        """The neighbours of a sample, and its rows after a reduction and while that is found."""
        rows = min(self.train_rows, SEARCHED_ROWS)
        reduced = max(4 * self.dim, PER_VECTOR * max(self.coordinates + EXTRA, FEWEST) + PER_EDGE * self.neighbours)
        searching = SEARCH_BYTES + self._compared_bytes(SEARCHED_ROWS)
        return self._judged_bytes() + rows * reduced + SPARSE_BYTES + searching

    def _judged_bytes(self) -> int:
        """The nearest rows that judge clusters of a sample."""
        return PER_NEIGHBOUR * JUDGED * min(self.train_rows, SEARCHED_ROWS)

    def _counting_bytes(self) -> int:
        """Tables of counts by cluster and class, of each seed, and the matching of clusters with classes."""
        cells = min(self.train_rows, self.k * self.classes)
        pairs = PER_PAIR * min(PAIRS_AT_ONCE, self.k * self.classes)
        matching = PER_MATCHED_CELL * self.k * self.classes
        return PER_COUNTED_ROW * self.all_rows + PER_CELL * cells * (self.seeds + 1) + matching + pairs

    def _unsupervised_bytes(self, k: int, seeds: int) -> int:
        """Means and distances of the labellings that are scored together, and of pairs of clusters."""
        values = k * self.dim
        together = min(seeds, max(1, LABELLING_VALUES // values))
        table = min(k * together * MOST_SAMPLED, max(TABLE_CELLS, SMALLEST_SHARE * k * together))
        pairs = 3 * 8 * min(k * k, max(TABLE_CELLS // 2, k))
        away = 2 * 8 * min(TABLE_CELLS // 4, self.all_rows * MOST_SAMPLED)
        judged = max(8 * 2 * table, 2 * 8 * values + pairs)
        return 8 * (together + 1) * values + judged + self._reading + 4 * self._block + away

    def _joint_bytes(self) -> int:
        """Distances between blocks of rows, in each thread, and between the parts of a graph."""
        parts = min(MOST_PARTS, self.train_rows // (self.linked + 1))
        return 8 * parts**2 + available_cores() * 4 * BLOCK * (4 * BLOCK + 3 * self.dim)

    def _report_bytes(self) -> int:
        """The tables of rows and clusters, and the pictures of some."""
        tables = PER_CLUSTER * self.k + PER_CLUSTER_AND_SET * self.k * self.sets
        return PER_REPORTED_ROW * self.all_rows + tables + PER_SHOWN_CLUSTER * min(self.k, MOST_SHOWN)

    def _probe_bytes(self) -> int:
        """Products of the columns, their eigenvectors, and the classes' weights and scores."""
        classes = max(self.classes, self.k if self.training else 0)
        scores = 16 * min(block_rows(self.dim), self.all_rows) * classes
        return self._transform + 5 * 8 * self.dim**2 + 4 * 8 * self.dim * classes + scores + 4 * self._block


def problem_of(plans: Sequence[Plan], *, sweep: bool = False, probe: bool = False) -> Problem:
    """The size of ``plans``, each number that of the largest; a sweep holds two projections of its sets."""
    train_rows = max(plan.train.rows for plan in plans)
    all_rows = max(sum(each.rows for each in plan.sets) for plan in plans)
    options = [plan.request.kmeans for plan in plans]
    reduced = [each for plan in plans for each in plan.reductions]
    # Averaged rows are held before and after each step but the first, which takes the transformed ones.
    averaged = max((each.step_count - 1 for each in reduced if each.method == "smooth"), default=0) * train_rows
    coordinates = min(train_rows, max((each.component_count or 0 for each in reduced), default=0))
    return Problem(
        train_rows=train_rows,
        held_rows=averaged + ((3 if reduced else 2) * all_rows if sweep else train_rows + all_rows * bool(reduced)),
        all_rows=all_rows,
        dim_in=max(plan.train.dim for plan in plans),
        dim=max(max(plan.components or plan.train.dim for plan in plans), coordinates),
        k=max(plan.k for plan in plans),
        seeds=max(len(plan.seeds) for plan in plans),
        sampled_rows=max(plan.sampled_rows for plan in plans),
        fitted_rows=max(plan.sampled_rows or plan.train.rows for plan in plans),
        classes=max(len(plan.vocabulary_of(each.id)) for plan in plans for each in plan.sets),
        sets=max(len(plan.scored) for plan in plans),
        pca=any(plan.components is not None for plan in plans),
        search=any(plan.search is not None for plan in plans),
        pick=any(plan.tried for plan in plans),
        coordinates=coordinates,
        levels=max((each.levels or [0])[0] for each in options),
        neighbours=max((each.neighbour_count for each in reduced), default=0),
        balanced=any(each.balanced is not None for each in options),
        faiss=any(needs_faiss(name) for name in {each.engine for each in options}),
        mini_batch=any(each.algorithm == "mini-batch" for each in options),
        probe=probe,
        training=max(training_bytes(plan) if plan.by_head else 0 for plan in plans),
        paired=max(max(neighbours_of(plan), graph.neighbours_of(plan)) for plan in plans),
        linked=max(graph.neighbours_of(plan) for plan in plans),
        sweep=sweep,
    )


@dataclass(frozen=True)
class Placement:
    """What is kept in memory.

    Attributes
    ----------
    limit
        Bytes that the job may use.
    rows_in_memory
        Whether the transformed train set and its sample are; otherwise they are files, read once per iteration.
    keep_bytes
        Bytes that the engine may keep between iterations.
    """

    limit: int
    rows_in_memory: bool
    keep_bytes: int

    def searching(self, problem: Problem) -> int:
        """Bytes that are left for a search for neighbours, beside held rows, its result and what it compares."""
        held = problem.row_bytes if self.rows_in_memory else 0
        return max(SEARCH_BYTES, self.limit - problem.process_bytes - held - problem.beside_search_bytes)

    def record(self) -> dict[str, int | str | bool]:
        """For run.json."""
        rows = "memory" if self.rows_in_memory else "file"
        return {"limit_bytes": self.limit, "rows": rows, "sketches_kept": self.keep_bytes > 0}


def place(problem: Problem, limit: int) -> Placement:
    """Decide what is kept in memory, so that the total stays below ``limit`` bytes.

    Rows go to a file first, since reading a file from the page cache costs little; then the engine's sketches are given
    up, which it must then compute again in each iteration.

    Raises
    ------
    MemoryLimitTooSmall
        The parts that must be in memory do not fit.
    """
    left = limit - problem.other_bytes
    if left < 0:
        raise too_small(problem, limit)
    sketches = problem.sketch_bytes
    if problem.row_bytes + sketches <= left:
        return Placement(limit, True, left - problem.row_bytes)
    return Placement(limit, False, left if sketches <= left else 0)


def too_small(problem: Problem, limit: int) -> MemoryLimitTooSmall:
    """The error that names the largest stage and a limit that works."""
    stages = problem.stages()
    largest = max(stages, key=lambda name: stages[name])
    what = f"the stage `{largest}`, even with all rows on disk,"
    # Heads are probed too, where no `linear_probe` can be left out.
    remedy = "leave out `method`" if problem.training and largest == "probe" else REMEDIES[largest]
    return limit_error(limit, problem.other_bytes, what, stage=largest, remedy=f", or {remedy}")


def limit_error(
    limit: int, needed: int, what: str, *, stage: str | None = None, remedy: str = ""
) -> MemoryLimitTooSmall:
    """The error for a limit of bytes that is less than what something needs.

    Parameters
    ----------
    what
        What needs them, as the subject of a sentence.
    remedy
        What else would help, behind "Send `…` or more".
    """
    smallest = -(-needed // MIB)
    return MemoryLimitTooSmall(
        f"`memory_limit` is {limit // MIB} MiB, but {what} needs about {smallest} MiB. Send `{smallest}MiB` or "
        f"more{remedy}.",
        field="memory_limit",
        limit=limit,
        needed=smallest * MIB,
        **({} if stage is None else {"stage": stage}),
    )


def worker_error(memory: int, needed: int, what: str, **members: JsonValue) -> MemoryLimitTooSmall:
    """The error for workers of a cluster that may use less than ``what``, the subject of a sentence, needs."""
    return MemoryLimitTooSmall(
        f"Each worker may use {memory // MIB} MiB, but {what} needs about {-(-needed // MIB)} MiB. Send as much as "
        "`execution.resources.memory`.",
        **{**members, "field": "execution.resources.memory", "limit": memory, "needed": needed},
    )


def place_on_worker(problem: Problem, memory: int) -> Placement:
    """As `place`, for what one worker of a cluster holds."""
    try:
        return place(problem, memory)
    except MemoryLimitTooSmall as error:
        stage = error.members["stage"]
        what = f"its part of the stage `{stage}`, even with all rows on disk,"
        raise worker_error(memory, problem.other_bytes, what, stage=stage) from error


REMEDIES = {
    "pca": "leave out `pca`, whose matrices grow with the square of the dimensions",
    "transform": "send fewer `pca.components`",
    "kmeans": "send fewer clusters or fewer `pca.components`",
    "assign": "send fewer clusters or seeds",
    "metrics": "send fewer clusters or seeds",
    "unsupervised": "send fewer clusters or seeds",
    "report": "send fewer clusters, or embeddings with fewer rows",
    "reduce": "leave out `reduce`, or send fewer `reduce.neighbours` or `reduce.components`",
    "choose": "end `clusters_range` at a lower number",
    "pick": "send `reduce` as one of its methods, or leave it out",
    "heads": "send fewer `heads.heads` or `heads.batch_rows`",
    "neighbours": "send fewer `neighbours`",
    "groups": "send fewer `graph.neighbours`",
    "probe": "leave out `linear_probe`",
}
"""What makes each stage smaller."""


def peak_bytes() -> int:
    """The most memory that this process has had.

    Not `ru_maxrss` where possible: a process inherits that from the process that started it.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    # It counts kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def default_limit() -> int:
    """A quarter of the memory that this machine, or this container, has: bytes."""
    return machine_memory() // FRACTION
