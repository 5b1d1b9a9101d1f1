"""The spanning tree of rows under the mutual reachability distance: pairs of nearest rows, and joints between parts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import ChosenRows, Float32Array, Float64Array, IntArray, Rows, l2_normalize
from clusterer.graph.near import Near

BLOCK: Final = 1024
"""Rows that are compared with as many others at once."""
MOST_PARTS: Final = 4096
"""Parts between which all joints are measured: beyond, the smallest parts are joined last, as if they were far away."""

OnPart = Callable[[float], None]


def joined_parts(
    rows: Rows, near: Near, core: Float32Array, *, places: bool, threads: int, on_part: OnPart
) -> tuple[IntArray, IntArray, Float64Array, int]:
    """The ``n - 1`` edges of a spanning tree: both ends, the distances ``(n - 1,)``; and the number of parts."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    n, k = near.rows.shape
    a = np.repeat(np.arange(n, dtype=np.int64), k)
    b = near.rows.ravel()
    weights = np.maximum(np.maximum(core[a], core[b]), near.distance.ravel()).astype(np.float64)
    low, high = np.minimum(a, b), np.maximum(a, b)
    # A pair may be near from both sides: an edge is kept once.
    _, once = np.unique(low * n + high, return_index=True)
    graph = csr_matrix((weights[once], (low[once], high[once])), (n, n))
    tree = minimum_spanning_tree(graph).tocoo()
    a, b, weights = tree.row.astype(np.int64), tree.col.astype(np.int64), tree.data.astype(np.float64)
    parts, part = connected_components(graph, directed=False)
    if parts == 1:
        return a, b, weights, 1
    of = part.astype(np.int64)
    ends, far = _joints(rows, of, parts, core, places=places, threads=threads, on_part=on_part)
    far = np.where(np.isinf(far), 2.0 * max(weights.max(), far[np.isfinite(far)].max(initial=0.0)), far)
    return np.concatenate([a, ends[0]]), np.concatenate([b, ends[1]]), np.concatenate([weights, far]), int(parts)


def _joints(
    rows: Rows, part: IntArray, parts: int, core: Float32Array, *, places: bool, threads: int, on_part: OnPart
) -> tuple[tuple[IntArray, IntArray], Float64Array]:
    """The edges that join parts: a row of each of both, and the shortest distance between them, where measured."""
    sizes = np.bincount(part, minlength=parts)
    by_size = np.argsort(-sizes, kind="stable")
    place = np.empty(parts, np.int64)
    place[by_size] = np.arange(parts)
    measured = min(parts, MOST_PARTS)
    of = place[part]
    order = np.argsort(of, kind="stable")
    firsts = order[np.searchsorted(of[order], np.arange(parts))]
    order = order[of[order] < measured]
    shortest = _between(ChosenRows(rows, order), of[order], measured, core[order], places, threads, on_part)
    known, into, weights = _prim(shortest)
    rest = np.arange(measured, parts)
    ends = (
        np.concatenate([firsts[known], firsts[rest]]),
        np.concatenate([firsts[into], np.repeat(firsts[0], len(rest))]),
    )
    return ends, np.concatenate([weights, np.full(len(rest), np.inf)])


def _between(
    rows: Rows, of: IntArray, parts: int, core: Float32Array, places: bool, threads: int, on_part: OnPart
) -> Float32Array:
    """``(parts, parts)``: the shortest distance between a row of one part and one of another, parts in order."""
    from threadpoolctl import threadpool_limits

    shortest = np.full((parts, parts), np.inf, np.float32)
    starts = range(0, rows.n, BLOCK)
    # BLAS adds in another order for another number of threads.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for done, first in enumerate(starts):
            mine = slice(first, first + BLOCK)
            left = _points(rows, mine, places)

            def compared(
                start: int, mine: slice = mine, left: Float32Array = left
            ) -> tuple[slice, slice, Float32Array] | None:
                theirs = slice(start, start + BLOCK)
                if of[mine][0] == of[theirs][-1]:  # rows are in the order of their parts
                    return None
                return mine, theirs, _reachability(left, _points(rows, theirs, places), core[mine], core[theirs])

            for found in pool.map(compared, starts[done:]):
                if found is not None:
                    _lower(shortest, of, *found)
            on_part(1 - ((rows.n - mine.stop) / rows.n) ** 2 if mine.stop < rows.n else 1.0)
    shortest = np.minimum(shortest, shortest.T)
    np.fill_diagonal(shortest, np.inf)
    return shortest


def _points(rows: Rows, part: slice, places: bool) -> Float32Array:
    found = rows.take(np.arange(part.start, min(part.stop, rows.n), dtype=np.int64))
    return found if places else l2_normalize(found)


def _reachability(left: Float32Array, right: Float32Array, mine: Float32Array, theirs: Float32Array) -> Float32Array:
    lengths = [np.einsum("ij,ij->i", each, each) for each in (left, right)]
    squared = np.add.outer(*lengths)
    squared -= 2.0 * (left @ right.T)
    found: Float32Array = np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared)
    np.maximum(found, mine[:, None], out=found)
    np.maximum(found, theirs, out=found)
    return found


def _lower(shortest: Float32Array, of: IntArray, mine: slice, theirs: slice, away: Float32Array) -> None:
    """Take the distances of two blocks into account."""
    mine_of, mine_at = np.unique(of[mine], return_index=True)
    theirs_of, theirs_at = np.unique(of[theirs], return_index=True)
    least = np.minimum.reduceat(np.minimum.reduceat(away, mine_at, axis=0), theirs_at, axis=1)
    cells = np.ix_(mine_of, theirs_of)
    shortest[cells] = np.minimum(shortest[cells], least)


def _prim(shortest: Float32Array) -> tuple[IntArray, IntArray, Float64Array]:
    """The spanning tree of a full graph: of each edge both ends and the length."""
    count = len(shortest)
    best, into = shortest[0].astype(np.float64), np.zeros(count, np.int64)
    outside: NDArray[np.bool_] = np.ones(count, bool)
    outside[0] = False
    known, others = np.empty(count - 1, np.int64), np.empty(count - 1, np.int64)
    weights = np.empty(count - 1, np.float64)
    for step in range(count - 1):
        nearest = int(np.argmin(np.where(outside, best, np.inf)))
        known[step], others[step], weights[step] = nearest, into[nearest], best[nearest]
        outside[nearest] = False
        closer = outside & (shortest[nearest] < best)
        best[closer], into[closer] = shortest[nearest][closer], nearest
    return known, others, weights
