"""How much memory a clustering job may take, and what of it lies in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import MemoryLimitTooSmall

from clusterer.rows import BATCH_ROWS, WINDOW_ROWS

FRACTION = 4
"""Of the machine's memory, a job takes this part by default: others run beside it, and files want to be cached."""
PROCESS_BYTES = 512 * 2**20
"""What the interpreter and the libraries occupy before they hold any data."""
MOMENTS, CENTROIDS = 6, 6
"""Matrices of (dim, dim) and of (clusters, dim) in float64 that are alive at once."""
SKETCH_STATS = 64
"""Bytes beside the full and the short sketch of a row."""
SHORT_SKETCH = 256
PER_ROW, PER_ROW_AND_SEED = 64, 16
"""Bytes of labels, distances, margins and the weights of seeding."""
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Problem:
    """The size of a clustering.

    Attributes
    ----------
    train_rows, held_rows, all_rows
        Rows of the train set; those that are held transformed (the train set, or what a sweep's points share); those
        of all sets together.
    dim_in, dim
        Columns before and after the transform.
    k
        Number of clusters.
    seeds
        How many k-means.
    """

    train_rows: int
    held_rows: int
    all_rows: int
    dim_in: int
    dim: int
    k: int
    seeds: int

    @property
    def row_bytes(self) -> int:
        """The held rows in float32."""
        return self.held_rows * self.dim * 4

    @property
    def sketch_bytes(self) -> int:
        """What the fast engine remembers of the train set: full and short sketches."""
        return self.train_rows * (-(-self.dim // 64) * 64 + SHORT_SKETCH + SKETCH_STATS)

    @property
    def other_bytes(self) -> int:
        """Everything else at its largest: the moments, or what the iterations need."""
        moments = MOMENTS * 8 * self.dim_in**2 + 3 * 8 * BATCH_ROWS * self.dim_in
        iterations = (CENTROIDS + self.seeds) * 8 * self.k * self.dim + 4 * WINDOW_ROWS * self.dim
        results = self.all_rows * (PER_ROW + PER_ROW_AND_SEED * self.seeds)
        return PROCESS_BYTES + max(moments, iterations + results)


@dataclass(frozen=True)
class Placement:
    """What lies in memory.

    Attributes
    ----------
    limit
        Bytes that the job may take.
    rows_in_memory
        Whether the transformed train set does; otherwise it is a file that is read once an iteration.
    keep_bytes
        What the engine may remember of the rows between the iterations.
    """

    limit: int
    rows_in_memory: bool
    keep_bytes: int


def place(problem: Problem, limit: int) -> Placement:
    """Decide what lies in memory, so that all of it together stays below ``limit`` bytes.

    Rows go first, since reading them from a file costs little as long as it stays in the page cache; then what the
    engine remembers of them, which it must otherwise make anew in each iteration.

    Raises
    ------
    MemoryLimitTooSmall
        Not even what must be in memory fits.
    """
    left = limit - problem.other_bytes
    if left < 0:
        raise MemoryLimitTooSmall(
            f"`memory_limit` is {limit} bytes, but {problem.k} clusters of embeddings of {problem.dim_in} dimensions "
            f"need about {problem.other_bytes} even with every row on disk: allow that much, or ask for fewer PCA "
            "components or clusters.",
            field="memory_limit",
            limit=limit,
            needed=problem.other_bytes,
        )
    sketches = problem.sketch_bytes
    if problem.row_bytes + sketches <= left:
        return Placement(limit, True, left - problem.row_bytes)
    return Placement(limit, False, left if sketches <= left else 0)


def default_limit() -> int:
    """A quarter of the memory that this machine, or this container, has: bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_container_limits()]) // FRACTION


def _container_limits() -> Iterator[int]:
    for file in CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            yield int(file.read_text())
