"""Groups by density: rows in dense regions that persist, and noise between them (HDBSCAN).

Campello, Moulavi, Sander 2013. A row's core distance is that to its `samples`-th nearest row, itself counted; two rows
are as far apart as the largest of both core distances and their own. The tree of single linkage under that distance is
condensed to splits into groups of `smallest` rows or more, and the groups that persist longest over all densities are
selected (excess of mass).

Core distances are exact. The spanning tree is that of the pairs of nearest rows, and where these do not connect all
rows, of the exact shortest connections between the parts (`joints`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray, Rows
from clusterer.graph.joints import OnPart, joined_parts
from clusterer.graph.near import RESOLVED, Near

UNGROUPED: Final = -1


@dataclass(frozen=True)
class Density:
    """Dense groups, and how far they reach.

    Attributes
    ----------
    labels
        ``(n,) int32``: the group of each row, -1 for noise.
    core
        ``(n,) float32``: core distances.
    reach
        ``(k,) float32``: the distance at which the last row joined each group.
    parts
        How many parts the pairs of nearest rows leave unconnected.
    """

    labels: LabelArray
    core: Float32Array
    reach: Float32Array
    parts: int


@dataclass(frozen=True)
class _Tree:
    """Single linkage: merges by rising distance; node ``n + i`` is made by merge ``i``, a node below ``n`` is a row."""

    left: IntArray
    right: IntArray
    distance: Float64Array
    size: IntArray


def dense_groups(
    rows: Rows,
    near: Near,
    smallest: int,
    samples: int,
    *,
    places: bool,
    threads: int = 1,
    on_part: OnPart = lambda _: None,
) -> Density:
    """Groups of ``(n, d)`` rows of which no two are equal; the same for any number of threads.

    Parameters
    ----------
    near
        The nearest rows of every row, at least ``samples - 1`` of them, or all.
    smallest
        The fewest rows of a group.
    places
        Whether rows are places, and not directions.
    on_part
        Called with the share of the connections between parts that are measured.
    """
    n = len(near.rows)
    core = np.maximum(near.distance[:, min(samples - 1, near.rows.shape[1]) - 1], np.float32(RESOLVED))
    a, b, weights, parts = joined_parts(rows, near, core, places=places, threads=threads, on_part=on_part)
    tree = _linked(n, a, b, weights)
    labels, reach = _selected(tree, n, smallest)
    return Density(labels, core, reach, parts)


def _linked(n: int, a: IntArray, b: IntArray, weights: Float64Array) -> _Tree:
    """The tree of single linkage, given the ``n - 1`` edges of a spanning tree."""
    order = np.lexsort((b, a, weights))
    parent, sizes = list(range(2 * n - 1)), [1] * n + [0] * (n - 1)
    left, right, size = [0] * (n - 1), [0] * (n - 1), [0] * (n - 1)
    for place, (i, j) in enumerate(zip(a[order].tolist(), b[order].tolist(), strict=True)):
        i, j = _root(parent, i), _root(parent, j)
        node = n + place
        parent[i] = parent[j] = node
        left[place], right[place] = i, j
        size[place] = sizes[node] = sizes[i] + sizes[j]
    return _Tree(np.array(left), np.array(right), weights[order], np.array(size))


def _root(parent: list[int], node: int) -> int:
    root = node
    while parent[root] != root:
        root = parent[root]
    while parent[node] != root:
        parent[node], node = root, parent[node]
    return root


def _selected(tree: _Tree, n: int, smallest: int) -> tuple[LabelArray, Float32Array]:
    """The group of each row, and the reach of each group: the condensed tree, and its groups of most excess of mass."""
    left, right, size = tree.left.tolist(), tree.right.tolist(), tree.size.tolist()
    density = (1.0 / np.maximum(tree.distance, RESOLVED)).tolist()
    leaves = _leaf_order(left, right, size, n)
    of_row, left_at = np.zeros(n, np.int64), np.zeros(n)
    above, born, mass = [-1], [0.0], [0.0]

    def count(node: int) -> int:
        return 1 if node < n else size[node - n]

    stack = [(2 * n - 2, 0)]
    while stack:
        node, group = stack.pop()
        if node < n:
            continue
        children, at = (left[node - n], right[node - n]), density[node - n]
        large = [child for child in children if count(child) >= smallest]
        for child in children:
            if child in large:
                continue
            fallen = leaves.under(child)
            of_row[fallen], left_at[fallen] = group, at
            mass[group] += len(fallen) * (at - born[group])
        if len(large) == 1:
            stack.append((large[0], group))
        for child in large if len(large) == 2 else ():
            mass[group] += count(child) * (at - born[group])
            above.append(group)
            born.append(at)
            mass.append(0.0)
            if child < n:  # a group may be a single row where `smallest` is 1; kept for completeness
                of_row[child], left_at[child] = len(above) - 1, at
            stack.append((child, len(above) - 1))
    return _labelled(of_row, left_at, above, mass)


@dataclass(frozen=True)
class _Leaves:
    """The rows below each node, which lie beside each other in ``order``."""

    order: IntArray
    start: list[int]
    size: list[int]
    n: int

    def under(self, node: int) -> IntArray:
        count = 1 if node < self.n else self.size[node - self.n]
        return self.order[self.start[node] : self.start[node] + count]


def _leaf_order(left: list[int], right: list[int], size: list[int], n: int) -> _Leaves:
    start = [0] * (2 * n - 1)
    for node in range(2 * n - 2, n - 1, -1):
        i, j = left[node - n], right[node - n]
        start[i] = start[node]
        start[j] = start[node] + (1 if i < n else size[i - n])
    order = np.empty(n, np.int64)
    order[np.array(start[:n])] = np.arange(n)
    return _Leaves(order, start, size, n)


def _labelled(
    of_row: IntArray, left_at: Float64Array, above: list[int], mass: list[float]
) -> tuple[LabelArray, Float32Array]:
    """Select groups by their mass, from the smallest up; the root, which all rows are in, is none."""
    best, chosen = list(mass), [True] * len(above)
    inside = [0.0] * len(above)
    for group in range(len(above) - 1, 0, -1):
        if inside[group] > mass[group]:
            best[group], chosen[group] = inside[group], False
        inside[above[group]] += best[group]
    owner = [UNGROUPED] * len(above)
    for group in range(1, len(above)):
        if owner[above[group]] != UNGROUPED:
            owner[group] = owner[above[group]]
        elif chosen[group]:
            owner[group] = group
    found = np.array(owner)[of_row]
    groups, labels = np.unique(found, return_inverse=True)
    if len(groups) and groups[0] == UNGROUPED:
        groups, labels = groups[1:], labels - 1
    reach = np.zeros(len(groups))
    inside_any = labels >= 0
    np.maximum.at(reach, labels[inside_any], 1.0 / left_at[inside_any])
    return labels.astype(np.int32), reach.astype(np.float32)
