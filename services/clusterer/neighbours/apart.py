"""The search for all pairs by other processes: they share the rows, and in the search's folder the sketches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from shoal.errors import NotFinite, StoreError

from clusterer.data.rows import Float64Array, IntArray, Rows
from clusterer.neighbours.bounds import PlainBounds
from clusterer.neighbours.kernel import CAPACITY, JoinKernel
from clusterer.neighbours.parts import PART_BLOCKS, Part, Ranges, Shape
from clusterer.neighbours.prepare import Join, begun, blocks_of, kernel_for, plainly
from clusterer.neighbours.sketched import SketchedBounds, SketchedTable
from clusterer.neighbours.table import Table
from clusterer.neighbours.work import Options, Room, Work

MAPPED = 3
"""Ranges whose sketches a process maps at once."""
PER_CANDIDATE = 16
"""Bytes of a pair that the bounds leave."""


def prepared_apart(rows: Rows, options: Options, search: Mapping[str, object]) -> Join:
    """As `prepare.prepared` of one set, but the pieces are computed by ``options.run``, and the join can be pickled.

    Raises
    ------
    NotFinite
        A row contains NaN or infinity.
    StoreFull, StoreError
        The folder cannot be written.
    """
    kernel = kernel_for(rows, options)
    if kernel is None or not rows.n:
        join = plainly([rows], options, search, hold=False)
        table = join.left
        return Apart(rows, table.order, table.lengths, join.work, join.blocks[0].stop if rows.n else 1).join()
    work, shared, (order,) = begun([rows], kernel, options, search)
    block = options.block or SketchedBounds.BLOCK
    ranges = Ranges(rows.n, rows.dim, shared.arrays(), block)
    lengths = np.empty(rows.n, np.float64)
    missing = []
    for number in range(len(ranges)):
        buffer = work.part(number, ranges.shape(number).size)
        if buffer is None:
            missing.append(number)
        else:
            lengths[ranges.of(number)] = Part(ranges.shape(number), buffer).lengths
    sketching = Sketching(rows, order, kernel, ranges, work)
    for number, found in options.run(sketched, sketching, missing):
        lengths[ranges.of(number)] = found
    return Apart(rows, order, lengths, work, block, kernel, ranges).join()


@dataclass(frozen=True)
class Sketching:
    """What sketches of ranges of rows are made of; attributes as those of `Apart`."""

    rows: Rows
    order: IntArray
    kernel: JoinKernel
    ranges: Ranges
    work: Work


def sketched(number: int, given: Sketching) -> Float64Array:
    """Keep the sketches of a range of rows in the folder; the rows' lengths."""
    shared = given.ranges.shared
    shape = given.ranges.shape(number)
    part = Part(shape, np.zeros(shape.size, np.uint8))
    for block, inside in given.ranges.blocks(number):
        rows = given.rows.take(given.order[block])
        lengths = given.kernel.lengths(rows)
        if not np.isfinite(lengths).all():
            row = int(given.order[block][np.flatnonzero(~np.isfinite(lengths))[0]])
            raise NotFinite(f"Row {row} contains NaN or infinity.", row=row)
        part.fill(given.kernel, shared, inside, rows, lengths)
    given.work.keep_mapped(f"sketches-{number:06d}", part.buffer)
    return part.lengths


@dataclass(frozen=True)
class Apart:
    """What another process opens a join from.

    Attributes
    ----------
    rows
        All rows.
    order, lengths
        ``(n,)``: see `Table`.
    work
        The folder of the search.
    block
        Rows that are compared together.
    kernel, ranges
        Of the sketches; None where the bounds are float32 products.
    """

    rows: Rows
    order: IntArray
    lengths: Float64Array
    work: Work
    block: int
    kernel: JoinKernel | None = None
    ranges: Ranges | None = None

    def join(self) -> Join:
        """The join, whose sketches are mapped when they are needed."""
        table = Table(self.rows, self.order, self.lengths, None)
        blocks = blocks_of(table.n, self.block)
        if self.kernel is None or self.ranges is None:
            return Join(table, table, PlainBounds(table, table), self.work, blocks, blocks, self)
        room = Room(Options(memory_limit=0), 1)
        sketches = SketchedTable(table, KeptParts(self.work, self.ranges), self.ranges.rows, room)
        return Join(table, table, SketchedBounds(sketches, sketches, self.kernel), self.work, blocks, blocks, self)


class KeptParts(Sequence[Part]):
    """The sketches of a folder; the ranges that were used last are mapped."""

    def __init__(self, work: Work, ranges: Ranges) -> None:
        self._work, self._ranges = work, ranges
        self._open: dict[int, Part] = {}

    def __len__(self) -> int:
        return len(self._ranges)

    @overload
    def __getitem__(self, number: int) -> Part: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Part]: ...
    def __getitem__(self, number: int | slice) -> Part | Sequence[Part]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        part = self._open.pop(number, None) or self._mapped(number)
        self._open[number] = part
        if len(self._open) > MAPPED:
            del self._open[next(iter(self._open))]
        return part

    def _mapped(self, number: int) -> Part:
        shape = self._ranges.shape(number)
        buffer = self._work.part(number, shape.size)
        if buffer is None:
            raise StoreError(
                f"File sketches-{number:06d}.npy of the search is not there. All nodes must see the store at one path, "
                "on a file system that they share."
            )
        return Part(shape, buffer)


def piece_bytes(dim: int) -> int:
    """Bytes that a piece needs beside the process: sketches of some ranges, two blocks of rows, pairs that are left."""
    block = SketchedBounds.BLOCK
    shape = Shape(PART_BLOCKS * block, dim, -(-dim // 64) * 64, 64, block)
    return MAPPED * shape.size + 6 * 4 * block * dim + CAPACITY * PER_CANDIDATE
