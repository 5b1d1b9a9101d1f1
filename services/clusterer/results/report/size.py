"""How much a report shows, so that it stays small enough to mail: fewer images of each group, then fewer groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow.compute as pc
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering

from clusterer.results.report.contents import MAX_CLUSTERS, is_webp

MOST_BYTES: Final = 15_000_000
"""Bytes of a page."""
LEVELS: Final = (
    {"nearest": 8, "borderline": 4, "farthest": 4},
    {"nearest": 8, "borderline": 4},
    {"nearest": 8},
    {"nearest": 4},
    {"nearest": 2},
    {"nearest": 1},
)
"""Images of a cluster, from the most that are shown to the fewest."""
PAGE, PER_CLUSTER, PER_IMAGE = 700_000, 450, 90
"""Bytes of what is not a cluster's (the map most of all), of a cluster without its images, of an image's element."""
SAMPLED: Final = 64


@dataclass(frozen=True)
class Shown:
    """What a report shows.

    Attributes
    ----------
    members
        How many images of each kind a cluster shows at most.
    clusters
        How many clusters.
    fewer
        Whether clusters show fewer images than they would on a page of any size.
    """

    members: dict[str, int]
    clusters: int
    fewer: bool

    def smaller(self, size: int) -> Shown:
        """What to show where a page took ``size`` bytes, which is too much: fewer clusters."""
        share = 0.97 * MOST_BYTES / size
        return Shown(self.members, max(1, min(self.clusters - 1, int(self.clusters * share))), self.fewer)


def choose(clustering: Clustering, embeddings: EmbeddingSet) -> Shown:
    """The most that fits, by the mean size of some thumbnails."""
    table = clustering.clusters(embeddings.id)
    clusters = min(table.num_rows, MAX_CLUSTERS)
    image = _mean_bytes(clustering, embeddings)
    sizes = table.column("size").to_numpy()
    largest = np.sort(sizes)[::-1][:clusters]
    for level in LEVELS:
        shown = sum(np.minimum(largest, count).sum() for count in level.values())
        if PAGE + PER_CLUSTER * clusters + image * shown <= MOST_BYTES:
            return Shown(level, clusters, level is not LEVELS[0])
    return Shown(LEVELS[-1], max(1, int((MOST_BYTES - PAGE) / (PER_CLUSTER + image))), fewer=True)


def _mean_bytes(clustering: Clustering, embeddings: EmbeddingSet) -> float:
    """Bytes of an image on the page, with its element."""
    nearest = pc.list_flatten(pc.list_slice(clustering.clusters(embeddings.id).column("nearest"), 0, 1)).to_numpy()
    rows = np.unique(nearest[:: max(1, len(nearest) // SAMPLED)])
    images = [image for image in embeddings.thumbnails(rows, damaged=[]).values() if is_webp(image)]
    return PER_IMAGE + (4 / 3 * sum(map(len, images)) / len(images) if images else 0)
