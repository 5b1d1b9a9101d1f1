"""Other libraries' recipes for the table of `reduce.py`: labels of rows of length 1, by the seed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
MOST_SPECTRAL: Final = 20_000
"""Rows: its time grows with more than their square."""


def umap_k_means(x: Rows, k: int, seed: int) -> Any:
    """umap-learn's 50 coordinates, then k-means, both with the seed: imcluster's recipe."""
    import umap
    from sklearn.cluster import KMeans

    reducer = umap.UMAP(n_neighbors=15, n_components=50, min_dist=0.0, metric="cosine", random_state=seed)
    return KMeans(k, n_init=10, random_state=seed).fit_predict(reducer.fit_transform(x))


def spectral(x: Rows, k: int, seed: int) -> Any:
    """scikit-learn's spectral clustering of the graph of 10 nearest rows."""
    from sklearn.cluster import SpectralClustering

    model = SpectralClustering(k, affinity="nearest_neighbors", n_neighbors=10, random_state=seed)
    return model.fit_predict(x)


PEERS: Final[dict[str, Callable[[Rows, int, int], Any]]] = {"umap-learn": umap_k_means, "scikit-learn": spectral}


def usable(rows: int) -> list[str]:
    """Those that are installed and can take so many rows."""
    can = {"umap-learn": find_spec("umap") is not None, "scikit-learn": rows <= MOST_SPECTRAL}
    return [name for name in PEERS if can[name]]
