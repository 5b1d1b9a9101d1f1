"""How similar the rows of a group are, and which of them show the same picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterer.cleaning.keeping import FILE, NEAR, PIXELS, Facts
from clusterer.cleaning.links import Groups
from clusterer.data.partitions import OnRows
from clusterer.data.rows import Float32Array, IntArray, Rows
from clusterer.neighbours.similarity import lengths, similarities

COMPARED_VALUES = 2**20
"""Values of each side that are compared at once: callers have little memory left for them."""

Thumbnails = Callable[[IntArray], dict[int, bytes]]
"""The thumbnails of some rows, as far as there are any."""


def to_kept(rows: Rows, groups: Groups, order: IntArray, on_rows: OnRows) -> tuple[Float32Array, NDArray[np.bool_]]:
    """The similarity of each row to the kept one of its group, and whether their embeddings are equal in every bit.

    Parameters
    ----------
    order
        ``(m,)`` positions in ``groups.rows``, group by group, the kept row first.

    Returns
    -------
    similarity : ndarray
        ``(m,) float32`` in ``order``; 1 for the kept row.
    equal : ndarray
        ``(m,) bool`` in ``order``.
    """
    of = groups.rows[order]
    kept = np.repeat(of[groups.starts[:-1]], groups.sizes)
    similarity, equal = np.ones(len(of), np.float32), np.ones(len(of), bool)
    step = max(1, COMPARED_VALUES // rows.dim)
    for first in range(0, len(of), step):
        part = slice(first, first + step)
        mine, theirs = rows.take(of[part]), rows.take(kept[part])
        similarity[part] = similarities(mine, theirs, lengths(mine), lengths(theirs))
        equal[part] = (mine == theirs).all(axis=1)
        on_rows(min(first + step, len(of)))
    similarity[of == kept] = 1.0
    return similarity, equal


def least_similarities(rows: Rows, groups: Groups, on_rows: OnRows) -> Float32Array:
    """``(g,) float32``: the least similarity of two rows of each group, computed where the pairs do not tell it."""
    least = groups.least.copy()
    for group in np.flatnonzero(np.isnan(least)).tolist():
        members = groups.rows[groups.starts[group] : groups.starts[group + 1]]
        least[group] = _least(rows, members, on_rows)
        on_rows(int(groups.starts[group + 1]))
    return least


def _least(rows: Rows, members: IntArray, on_rows: OnRows) -> np.float32:
    """The least similarity of two of ``members``; products are formed in float64 and rounded once."""
    step, least = 1024, 1.0
    for first in range(0, len(members), step):
        mine = _directions(rows.take(members[first : first + step]))
        for other in range(first, len(members), step):
            theirs = _directions(rows.take(members[other : other + step]))
            least = min(least, float((mine @ theirs.T).min()))
        on_rows(0)
    return np.float32(np.clip(least, -1.0, 1.0))


def _directions(batch: Float32Array) -> NDArray[np.float64]:
    wide, norms = batch.astype(np.float64), lengths(batch)
    return np.divide(wide, norms[:, None], out=np.zeros_like(wide), where=norms[:, None] > 0)


def copies_of_kept(
    groups: Groups, facts: Facts, order: IntArray, equal: NDArray[np.bool_], thumbnails: Thumbnails
) -> list[str | None]:
    """How each row is a copy of the kept one, in ``order``; None for the kept one.

    ``file``: their files have the same sha256. ``pixels``: their images have the same width and height, and where both
    have a hash of their pixels it is the same; otherwise their embeddings are equal in every bit, and so are their
    thumbnails where both have one. ``near``: neither.
    """
    of = groups.rows[order]
    starts = np.repeat(groups.starts[:-1], groups.sizes)
    hashes: list[str | None] = facts.table.column("sha256").take(pa.array(order)).to_pylist()
    widths, heights = facts.number("width")[order], facts.number("height")[order]
    same_size = (widths >= 0) & (widths == widths[starts]) & (heights == heights[starts])
    first = np.arange(len(of)) == starts
    pixels: list[str | None] = facts.table.column("pixel_hash").take(pa.array(order)).to_pylist()
    hashed = np.array([each is not None for each in pixels], bool)
    decided = same_size & hashed & hashed[starts] & ~first
    maybe = np.flatnonzero(equal & same_size & ~first & ~decided)
    shown = thumbnails(np.unique(np.concatenate([of[maybe], of[starts[maybe]]])))
    found: list[str | None] = [None if each else NEAR for each in first.tolist()]
    for at in np.flatnonzero(decided).tolist():
        if pixels[at] == pixels[starts[at]]:
            found[at] = PIXELS
    for at in maybe.tolist():
        mine, theirs = shown.get(int(of[at])), shown.get(int(of[starts[at]]))
        if mine is None or theirs is None or mine == theirs:
            found[at] = PIXELS
    for at, start in enumerate(starts.tolist()):
        if at != start and hashes[at] is not None and hashes[at] == hashes[start]:
            found[at] = FILE
    return found
