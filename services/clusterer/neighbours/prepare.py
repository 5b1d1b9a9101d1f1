"""What a search needs before it compares rows: their order, their lengths, and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import structlog

from clusterer.data.rows import IntArray, Rows
from clusterer.native.library import KernelUnavailable
from clusterer.neighbours.bounds import Bounds, PlainBounds
from clusterer.neighbours.coarse import sample_of, similar_together
from clusterer.neighbours.kernel import JoinKernel, open_join
from clusterer.neighbours.parts import Part, Ranges, Shared
from clusterer.neighbours.sketched import SketchedBounds, SketchedTable
from clusterer.neighbours.table import Table
from clusterer.neighbours.work import PLAIN, Options, Room, Work

MOST_COLUMNS = 32_768
"""More would overflow the 32-bit sums of products of 8 bits."""
DIRECTED = 4096
"""Rows from which the directions of short sketches are found."""

PER_SAMPLED_VALUE = 32
"""Bytes of a value of the sample while the directions are found: two copies of it, and six of some of its rows."""
BLOCKS_HELD = 5
"""Blocks of rows in float32 at once: as they are read, scaled, and as the radii of their groups are measured."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Join:
    """Rows that are ready to be compared.

    Attributes
    ----------
    left, right
        The tables; the same object for one with itself.
    work
        Where the next attempt finds what is done.
    blocks, others
        Ranges of their rows that are compared together.
    apart
        What other processes open it from.
    """

    left: Table
    right: Table
    bounds: Bounds
    work: Work
    blocks: list[slice]
    others: list[slice]
    apart: Opened | None = None

    def __reduce__(self) -> tuple[object, tuple[Opened]]:
        if self.apart is None:
            raise TypeError("a join in memory stays in its process")
        return _opened, (self.apart,)


class Opened(Protocol):
    """What a join is opened from."""

    def join(self) -> Join:
        """The join."""
        ...


def _opened(apart: Opened) -> Join:
    return apart.join()


def prepared(left: Rows, right: Rows | None, options: Options, search: Mapping[str, object]) -> Join:
    """Read all rows, and make what the bounds come from; ``search`` says what is sought."""
    kernel = kernel_for(left, options)
    sets = [left] if right is None else [left, right]
    if kernel is None or not all(rows.n for rows in sets):
        hold = sum(4 * rows.n * rows.dim for rows in sets) <= options.memory_limit
        return plainly(sets, options, search, hold=hold)
    return _sketched(sets, kernel, options, search)


def kernel_for(rows: Rows, options: Options) -> JoinKernel | None:
    """The compiled kernel that compares rows; None leaves float32 products."""
    if options.kernel == PLAIN or rows.dim > MOST_COLUMNS:
        return None
    try:
        return open_join(options.kernel, threads=options.run.threads or options.threads)
    except KernelUnavailable as error:
        _log.warning("neighbours are found with float32 products", reason=str(error))
        return None


def plainly(sets: list[Rows], options: Options, search: Mapping[str, object], *, hold: bool) -> Join:
    """Read all rows; their bounds are float32 products, and ``hold`` keeps them in memory."""
    size = options.block or PlainBounds.BLOCK
    work = Work(options, {**search, "bounds": "plain", "block": size})
    tables = [Table.of(rows, hold=hold) for rows in sets]
    blocks = [blocks_of(rows.n, size) for rows in sets]
    return Join(tables[0], tables[-1], PlainBounds(tables[0], tables[-1]), work, blocks[0], blocks[-1])


def _sketched(sets: list[Rows], kernel: JoinKernel, options: Options, search: Mapping[str, object]) -> Join:
    size = options.block or SketchedBounds.BLOCK
    work, shared, orders = begun(sets, kernel, options, search)
    plans = [Ranges(rows.n, rows.dim, shared.arrays(), size) for rows in sets]
    room = Room(options, sum(each.size for each in plans))
    hold = room.in_memory and room.left >= sum(4 * rows.n * rows.dim for rows in sets)
    sketched = [
        sketched_table(rows, order, ranges, (kernel, shared), room, hold=hold)
        for rows, order, ranges in zip(sets, orders, plans, strict=True)
    ]
    left, right = sketched[0], sketched[-1]
    blocks = [blocks_of(rows.n, size) for rows in sets]
    return Join(left.table, right.table, SketchedBounds(left, right, kernel), work, blocks[0], blocks[-1])


def sketched_table(
    rows: Rows, order: IntArray, ranges: Ranges, by: tuple[JoinKernel, Shared], room: Room, *, hold: bool
) -> SketchedTable:
    """Read all rows and sketch them, in an order of comparison; ``hold`` keeps the rows in memory too."""
    kernel, shared = by
    table = Table.of(rows, order, hold=hold, measure=kernel.lengths)
    shapes = [ranges.shape(number) for number in range(len(ranges))]
    parts = [Part(shape, room.bytes(shape.size)) for shape in shapes]
    for number, part in enumerate(parts):
        for block, inside in ranges.blocks(number):
            part.fill(kernel, shared, inside, table.block(block), table.lengths[block])
            room.release()
    return SketchedTable(table, parts, ranges.rows, room)


def begun(
    sets: list[Rows], kernel: JoinKernel, options: Options, search: Mapping[str, object]
) -> tuple[Work, Shared, list[IntArray]]:
    """The folder of a search with sketches, what they share, and the order of each set: those of an earlier attempt."""
    size = options.block or SketchedBounds.BLOCK
    kinds = {"bounds": "sketched", "block": size, "largest": kernel.fast.largest}
    work = Work(options, {**search, **kinds})
    kept, orders = work.arrays("shared"), [work.order(at, rows.n) for at, rows in enumerate(sets)]
    if kept is not None and all(order is not None for order in orders):
        return work, Shared.from_arrays(kept), [order for order in orders if order is not None]
    work.start_anew()
    # With little memory the sample is smaller: less is skipped then, and the same is found.
    budget = (options.memory_limit + max(blocks_bytes(rows.n, rows.dim) for rows in sets)) // len(sets)
    samples = [sample_of(rows, max(1, budget // (PER_SAMPLED_VALUE * rows.dim))) for rows in sets]
    shared = Shared.of(kernel, np.concatenate(samples), DIRECTED)
    made = []
    for at, (rows, sample) in enumerate(zip(sets, samples, strict=True)):
        made.append(similar_together(rows, kernel, shared.frame, sample, options.run))
        work.keep_mapped(f"order-{at}", made[-1])
    work.keep("shared", **shared.arrays())
    return work, shared, made


def blocks_bytes(n: int, dim: int) -> int:
    """Bytes of the blocks of ``n`` rows that a search holds at once, beside its limit, which is for sketches."""
    return BLOCKS_HELD * 4 * min(n, SketchedBounds.BLOCK) * dim


def blocks_of(n: int, size: int) -> list[slice]:
    """Ranges of rows that are compared together."""
    return [slice(a, b) for a, b in pairwise([*range(0, n, size), n]) if a < b]
