"""Groups of similar rows, from the pairs of rows that are similar enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clusterer.data.rows import Float32Array, IntArray
from clusterer.neighbours.copies import Copies
from clusterer.neighbours.found import Pairs


@dataclass(frozen=True)
class Groups:
    """Rows in groups of two or more; rows without a group are left out.

    Attributes
    ----------
    rows
        ``(m,) int64``: the rows, group by group, ascending within each.
    starts
        ``(g + 1,) int64``: where each group begins in ``rows``, and the end of the last.
    least
        ``(g,) float32``: the least similarity of two rows of the group among the pairs; NaN where a pair is missing, so
        that the least one is not known.
    """

    rows: IntArray
    starts: IntArray
    least: Float32Array

    def __len__(self) -> int:
        return len(self.least)

    @property
    def sizes(self) -> IntArray:
        """``(g,)`` numbers of rows."""
        return np.diff(self.starts)

    @property
    def numbers(self) -> IntArray:
        """``(m,)``: the group of each of ``rows``."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def of_pairs(self, pairs: Pairs) -> IntArray:
        """``(p,)``: the group that both rows of a pair are in; -1 where there is none."""
        if not len(self):
            return np.full(len(pairs), -1)
        order = np.argsort(self.rows, kind="stable")
        rows, numbers = self.rows[order], self.numbers[order]

        def group(of: IntArray) -> IntArray:
            at = np.minimum(np.searchsorted(rows, of), len(rows) - 1)
            return np.where(rows[at] == of, numbers[at], -1)

        first = group(pairs.i)
        return np.where(first == group(pairs.j), first, -1)


def single_link(pairs: Pairs) -> Groups:
    """Rows that a chain of pairs connects: the connected components."""
    rows, of = _components(pairs)
    return _grouped(rows, of, pairs)


def complete_link(pairs: Pairs) -> Groups:
    """Rows of which every two are a pair, by agglomeration with complete linkage.

    The two groups whose least similar rows are the most similar are merged, again and again, as long as these are a
    pair. Pairs are taken by descending similarity, equal ones by their rows, and two groups merge with the last pair
    between them: so the result depends on the pairs alone.

    References
    ----------
    D. Defays, "An efficient algorithm for a complete link method", The Computer Journal 20 (1977).
    """
    rows, of = _components(pairs)
    if not len(rows):
        return _grouped(rows, of, pairs)
    positions = Pairs(np.searchsorted(rows, pairs.i), np.searchsorted(rows, pairs.j), pairs.similarity)
    sizes, found = np.bincount(of), np.bincount(of[positions.i])
    whole = found == sizes * (sizes - 1) // 2
    # Only where a pair is missing is there anything to decide.
    open_pairs = positions.chosen(~whole[of[positions.i]])
    order = np.lexsort((open_pairs.j, open_pairs.i, -open_pairs.similarity))
    merged = _agglomerate(open_pairs.chosen(order))
    split = np.arange(len(rows))
    for row, root in merged.items():
        split[row] = root
    return _grouped(rows, np.where(whole[of], of, len(sizes) + split), pairs)


def with_copies(groups: Groups, copies: Copies) -> Groups:
    """Groups of all rows, from those of the first row of each set of equal ones: sets without a group are one.

    Parameters
    ----------
    groups
        Of the numbers of sets in ``copies``.
    """
    of = np.full(len(copies), -1, np.int64)
    of[groups.rows] = groups.numbers
    alone = np.flatnonzero((of < 0) & (copies.sizes > 1))
    of[alone] = np.arange(len(groups), len(groups) + len(alone))
    least = np.concatenate([groups.least, np.ones(len(alone), np.float32)])
    inside = np.flatnonzero(of >= 0)
    rows = copies.rows[np.repeat(of >= 0, copies.sizes)]
    ranked = _ranked(rows, np.repeat(of[inside], copies.sizes[inside]))
    return Groups(ranked.rows, ranked.starts, least[ranked.numbers_before])


def _components(pairs: Pairs) -> tuple[IntArray, IntArray]:
    """The rows of pairs, ascending, and the connected component of each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.unique(np.concatenate([pairs.i, pairs.j]))
    if not len(rows):
        return rows, rows
    ends = np.searchsorted(rows, pairs.i), np.searchsorted(rows, pairs.j)
    graph = coo_array((np.ones(len(pairs), np.int8), ends), (len(rows), len(rows)))
    return rows, np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _agglomerate(pairs: Pairs) -> dict[int, int]:
    """The representative of each row of ``pairs``, which come in the order in which they merge groups."""
    parent: dict[int, int] = {}
    size: dict[int, int] = {}
    between: dict[int, dict[int, int]] = {}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for pair in zip(pairs.i.tolist(), pairs.j.tolist(), strict=True):
        for row in pair:
            if row not in parent:
                parent[row], size[row], between[row] = row, 1, {}
        one, other = root(pair[0]), root(pair[1])
        seen = between[one].get(other, 0) + 1
        between[one][other] = between[other][one] = seen
        if seen < size[one] * size[other]:
            continue
        if len(between[one]) < len(between[other]):
            one, other = other, one
        parent[other] = one
        size[one] += size[other]
        del between[one][other], between[other][one]
        for third, count in between.pop(other).items():
            del between[third][other]
            between[one][third] = between[third][one] = between[one].get(third, 0) + count
    return {row: root(row) for row in parent}


def _grouped(rows: IntArray, of: IntArray, pairs: Pairs) -> Groups:
    """The groups that ``of``, a number for each of ``rows``, makes, as `_ranked`."""
    ranked = _ranked(rows, of)
    groups = Groups(ranked.rows, ranked.starts, np.full(len(ranked.starts) - 1, np.inf, np.float32))
    within = groups.of_pairs(pairs)
    inside = within >= 0
    np.minimum.at(groups.least, within[inside], pairs.similarity[inside])
    there = np.bincount(within[inside], minlength=len(groups))
    groups.least[there < groups.sizes * (groups.sizes - 1) // 2] = np.nan
    return groups


@dataclass(frozen=True)
class _Ranked:
    """Rows in groups as of `Groups`, and the number that each group had before."""

    rows: IntArray
    starts: IntArray
    numbers_before: IntArray


def _ranked(rows: IntArray, of: IntArray) -> _Ranked:
    """The groups that ``of``, a number for each of ``rows``, makes: the largest first, then by their first row."""
    found, of = np.unique(of, return_inverse=True)
    sizes = np.bincount(of, minlength=len(found))
    firsts = np.full(len(found), np.iinfo(np.int64).max)
    np.minimum.at(firsts, of, rows)
    kept = sizes >= 2
    ranked = np.lexsort((firsts, -sizes, ~kept))
    place = np.empty(len(found), np.int64)
    place[ranked] = np.arange(len(found))
    members = kept[of]
    numbers, rows = place[of[members]], rows[members]
    order = np.lexsort((rows, numbers))
    count = int(np.count_nonzero(kept))
    starts = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=count))]).astype(np.int64)
    return _Ranked(rows[order], starts, found[ranked[:count]])
