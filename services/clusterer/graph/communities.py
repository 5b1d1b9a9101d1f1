"""Communities of the graph of nearest rows: groups whose rows are connected more than chance would have it.

The Leiden algorithm (Traag, Waltman, van Eck 2019) maximises modularity (Newman, Girvan 2004; with a resolution,
Reichardt, Bornholdt 2006). Every group that it finds is connected.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import numpy as np
from shoal.errors import BackendNotInstalled

from clusterer.data.rows import LabelArray
from clusterer.graph.near import Near
from clusterer.neighbours import connected

ROUNDS: Final = 8
"""Times that the algorithm starts again from the groups that it has found."""
RANDOMNESS: Final = 0.001
MOST_SEED: Final = 2**63


@dataclass(frozen=True)
class Communities:
    """A partition of the rows.

    Attributes
    ----------
    labels
        ``(n,) int32``.
    modularity
        What was maximised; higher is better.
    """

    labels: LabelArray
    modularity: float


def communities(near: Near, resolution: float, seed: int) -> Communities:
    """Groups of all rows, the same for the same seed.

    Parameters
    ----------
    near
        The nearest rows of every row; two are connected, with a weight of 1/2 for each that is near to the other.
    resolution
        Higher values give more and smaller groups.

    Raises
    ------
    BackendNotInstalled
        The library that searches them is not installed.
    """
    native = import_leiden()
    n = len(near.rows)
    graph = connected(near.rows, np.full(near.rows.shape, 0.5, np.float32))
    modularity, group = native.leiden_csr(
        graph.indptr.astype(np.int64),
        graph.indices.astype(np.int32),
        graph.data.astype(np.float64),
        n,
        resolution=resolution,
        randomness=RANDOMNESS,
        iterations=ROUNDS,
        use_modularity=True,
        seed=seed % MOST_SEED,
    )
    labels = np.fromiter((group[row] for row in range(n)), np.int32, n)
    return Communities(np.unique(labels, return_inverse=True)[1].astype(np.int32), float(modularity))


def import_leiden() -> ModuleType:
    """graspologic-native, which only the process that searches communities needs.

    Raises
    ------
    BackendNotInstalled
        It is not installed, or has no `leiden_csr`.
    """
    try:
        native = importlib.import_module("graspologic_native")
        if hasattr(native, "leiden_csr"):
            return native
        raise ImportError("graspologic-native is too old")
    except ImportError as error:
        raise BackendNotInstalled(
            "`method`: `leiden` needs graspologic-native 1.3 or later, which is not installed where this worker runs. "
            "Install it with `pip install 'shoal[graph]'`, or send `hdbscan`, or `kmeans` with `clusters`.",
            field="method",
        ) from error
