"""The searches: block by block, bounds first, then the exact similarities of the pairs that they leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from shoal.errors import DimensionMismatch, TooManyPairs

from clusterer.data.rows import ChosenRows, Float32Array, IntArray, Rows
from clusterer.neighbours.apart import prepared_apart
from clusterer.neighbours.copies import Copies
from clusterer.neighbours.found import PAIR, Best, Nearest, PairArray, Pairs, merged, sorted_pairs
from clusterer.neighbours.prepare import Join, prepared
from clusterer.neighbours.runner import in_process
from clusterer.neighbours.work import MOST_RANGES, Options

DEFAULT: Final = Options()
MOST_PAIRS: Final = 10**9


def nearest_rows(rows: Rows, k: int, options: Options = DEFAULT) -> Nearest:
    """The ``k`` nearest other rows of every row, exactly.

    Parameters
    ----------
    rows
        ``(n, d)``; they need not have length 1.
    k
        How many, at least 1; ``n - 1`` if there are fewer other rows.

    Returns
    -------
    Nearest
        By descending similarity, equal ones by ascending number. A row of zeros has similarity 0 to all rows.

    Raises
    ------
    NotFinite
        A row contains NaN or infinity.
    StoreFull, StoreError
        The folder cannot be written.
    """
    k = min(k, max(rows.n - 1, 0))
    copies = Copies.of(rows)
    if copies is None:
        return _nearest(rows, k, options)
    return copies.spread(_nearest(ChosenRows(rows, copies.firsts), min(k, len(copies.firsts) - 1), options), k)


def _nearest(rows: Rows, k: int, options: Options) -> Nearest:
    best = Best(rows.n, k)
    if not k:
        return Nearest(best.rows, best.similarity)
    join = prepared(rows, None, options, {"search": "nearest", "rows": rows.n, "dim": rows.dim, "k": k})
    done = join.work.best(best)
    floors = np.concatenate([join.bounds.floors(part, k) for part in join.blocks])
    for at, left in enumerate(join.blocks[done:], done):
        for right in join.blocks[at:]:
            mine, theirs = (np.maximum(floors[part], best.floors(part)) for part in (left, right))
            for i, j in join.bounds.reaching(left, right, mine, theirs):
                found = join.bounds.similarities(left, right, i, j)
                a, b = i + np.int64(left.start), j + np.int64(right.start)
                join.bounds.add(best, a, join.left.order[b], found)
                join.bounds.add(best, b, join.left.order[a], found)
        join.work.keep_best(best, at + 1)
        _report(options, rows.n, left.stop)
    place = np.argsort(join.left.order)
    return Nearest(best.rows[place], best.similarity[place])


def pairs_above(rows: Rows, threshold: float, options: Options = DEFAULT, *, most: int = MOST_PAIRS) -> Iterator[Pairs]:
    """All pairs ``i < j`` of rows with a similarity of at least ``threshold``, exactly.

    Parameters
    ----------
    rows
        ``(n, d)``; they need not have length 1.
    threshold
        Compared as float32.
    most
        The most pairs.

    Yields
    ------
    Pairs
        By ascending ``(i, j)``, all of one ``i`` in one block. The first block comes when all rows are compared.

    Raises
    ------
    NotFinite
        A row contains NaN or infinity.
    TooManyPairs
        More than ``most`` pairs reach the threshold.
    StoreFull, StoreError
        The folder cannot be written.
    """
    what = {"search": "pairs", "rows": rows.n, "dim": rows.dim, "threshold": float(np.float32(threshold))}
    return _pairs(rows, None, threshold, options, what, most)


def pairs_between(
    left: Rows, right: Rows, threshold: float, options: Options = DEFAULT, *, most: int = MOST_PAIRS
) -> Iterator[Pairs]:
    """All pairs of a row ``i`` of one set and a row ``j`` of another with a similarity of at least ``threshold``.

    As `pairs_above` otherwise.

    Raises
    ------
    DimensionMismatch
        The sets have different numbers of columns.
    """
    if left.dim != right.dim:
        raise DimensionMismatch(f"The sets have {left.dim} and {right.dim} columns; only equal numbers compare.")
    what = {"search": "between", "rows": [left.n, right.n], "dim": left.dim, "threshold": float(np.float32(threshold))}
    return _pairs(left, right, threshold, options, what, most)


def _pairs(
    left: Rows, right: Rows | None, threshold: float, options: Options, what: dict[str, object], most: int
) -> Iterator[Pairs]:
    apart = options.run.apart and right is None
    join = prepared_apart(left, options, what) if apart else prepared(left, right, options, what)
    runs = join.work.runs()
    search = Comparison(join, np.float32(threshold), most, itself=right is None)
    total = sum(len(run) for run in runs.values())
    done = sum(search.share(number) for number in runs)
    missing = [number for number in range(len(search.ranges)) if number not in runs]
    for number, run in (options.run if apart else in_process)(compared, search, missing):
        if run is None or (total := total + len(run)) > most:
            raise _too_many(threshold, most)
        join.work.add_run(number, run)
        done += search.share(number)
        if options.on_rows is not None:
            options.on_rows(round(left.n * done))
    yield from merged([runs[number] for number in sorted(runs)], left.n)


@dataclass(frozen=True)
class Comparison:
    """A search for all pairs, in pieces that need nothing of one another.

    Attributes
    ----------
    floor
        The least similarity.
    most
        The most pairs of a piece.
    itself
        Whether rows are compared with those of their own set.
    """

    join: Join
    floor: np.float32
    most: int
    itself: bool

    @property
    def ranges(self) -> list[range]:
        """Numbers of the blocks of each piece, which are compared with all blocks after them, or of the other set."""
        count = len(self.join.blocks)
        step = -(-count // MOST_RANGES) or 1
        return [range(first, min(first + step, count)) for first in range(0, count, step)]

    def share(self, number: int) -> Fraction:
        """The share of a piece in all comparisons: later ones have fewer left to be compared with."""
        blocks, n = self.join.blocks, self.join.left.n
        first, last = blocks[self.ranges[number].start].start, blocks[self.ranges[number].stop - 1].stop
        return Fraction((last - first) * (2 * n - first - last), n * n) if self.itself else Fraction(last - first, n)


def compared(number: int, search: Comparison) -> PairArray | None:
    """The sorted pairs of one range of blocks, with a similarity of at least the floor; None if there are too many."""
    join, found, total = search.join, [], 0
    mine = search.ranges[number]
    for at, other in enumerate(join.others[mine.start if search.itself else 0 :], mine.start if search.itself else 0):
        for own in mine:
            if search.itself and own > at:
                break
            for each in _reached(join, join.blocks[own], other, search.floor):
                found.append(each)
                total += len(each[0])
                if total > search.most:
                    return None
    return _run(found, ordered=search.itself)


def _reached(
    join: Join, part: slice, other: slice, floor: np.float32
) -> Iterator[tuple[IntArray, IntArray, Float32Array]]:
    """The pairs of two blocks that reach a floor: numbers of the rows, and similarities."""
    mine, theirs = (np.full(each.stop - each.start, floor, np.float32) for each in (part, other))
    for i, j in join.bounds.reaching(part, other, mine, theirs):
        similarity = join.bounds.similarities(part, other, i, j)
        kept = similarity >= floor
        yield join.left.order[part][i[kept]], join.right.order[other][j[kept]], similarity[kept]


def _run(found: list[tuple[IntArray, IntArray, Float32Array]], *, ordered: bool) -> PairArray:
    """The sorted pairs of a block; ``ordered`` ones have ``i < j``."""
    if not found:
        return np.empty(0, PAIR)
    i, j, similarity = (np.concatenate(each) for each in zip(*found, strict=True))
    return sorted_pairs(np.minimum(i, j), np.maximum(i, j), similarity) if ordered else sorted_pairs(i, j, similarity)


def _too_many(threshold: float, most: int) -> TooManyPairs:
    return TooManyPairs(
        f"More than {most} pairs of rows have a similarity of at least {threshold}. Send a higher `threshold`.",
        threshold=threshold,
        most=most,
    )


def _report(options: Options, n: int, done: int) -> None:
    """Report progress: later blocks have fewer left to be compared with."""
    if options.on_rows is not None:
        options.on_rows(round(n * (1 - (1 - done / n) ** 2)))
