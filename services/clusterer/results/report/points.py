"""The map inside a report: as many points as a page holds well, as base64."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from shoal.store.clustering import Clustering

from clusterer.results.map_arrays import places

MOST_POINTS: Final = 50_000


@dataclass(frozen=True)
class PagePoints:
    """Some rows of a map, evenly spread.

    Attributes
    ----------
    count, total
        Points on the page and on the map.
    x, y
        Extents of the axes; the longer one is 1.
    places, clusters
        Base64 of ``(count, 2) uint16`` and of ``(count,)`` cluster numbers, little-endian.
    wide
        Whether the numbers are uint32 instead of uint16.
    """

    count: int
    total: int
    x: float
    y: float
    places: str
    clusters: str
    wide: bool


def page_points(clustering: Clustering, embeddings_id: str) -> PagePoints | None:
    """The map of a set; None where the clustering has none."""
    if not clustering.has_map:
        return None
    found = places(clustering, embeddings_id)
    total = len(found.rows)
    if not total:
        return None
    count = min(total, MOST_POINTS)
    kept = np.arange(count) * total // count
    table = clustering.assignments(embeddings_id, columns=["row", "cluster"])
    at = np.searchsorted(table.column("row").to_numpy(), found.rows[kept])
    clusters = clustering.slot_of(table.column("cluster").to_numpy()[at])
    spans = [high - low for low, high in (found.x, found.y)]
    x, y = (max(span / (max(spans) or 1.0), 1e-6) for span in spans)
    wide = clustering.slots > 2**16
    numbers = clusters.astype("<u4" if wide else "<u2")
    return PagePoints(count, total, x, y, _base64(found.points[kept].astype("<u2")), _base64(numbers), wide)


def _base64(array: NDArray[np.generic]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
