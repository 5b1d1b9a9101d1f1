"""How well clusters keep the rows nearest to each row together; no labels needed, and no space but that of the rows."""

from __future__ import annotations

import numpy as np

from clusterer.data.rows import IntArray, LabelArray


def neighbours_kept(neighbours: IntArray, labels: LabelArray, k: int) -> float:
    """The share of nearest rows that are in the cluster of their row, less the share that chance gives.

    Large clusters keep many rows by chance, small ones cannot keep all: the figure is largest in between, where
    clusters end between groups. It is the modularity of the graph of nearest rows, but that all rows count alike.

    Parameters
    ----------
    neighbours
        ``(n, m)``: the numbers of the rows nearest to each row.
    labels
        ``(n,) int32``: clusters in ``0..k-1``.

    Returns
    -------
    float
        0 as by chance or for one cluster; at most ``1 - 1 / k``, about, where all nearest rows are kept.

    References
    ----------
    Newman, Girvan: Finding and evaluating community structure in networks. Phys. Rev. E 69 (2004).
    """
    n = len(labels)
    sizes = np.bincount(labels, minlength=k).astype(np.float64)
    chance = float((sizes * (sizes - 1)).sum()) / (n * (n - 1))
    kept = sum(int(np.count_nonzero(labels[column] == labels)) for column in neighbours.T)
    return kept / neighbours.size - chance
