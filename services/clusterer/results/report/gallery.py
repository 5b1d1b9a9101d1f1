"""Which clusters and images a report shows."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering

MAX_CLUSTERS = 200


@dataclass(frozen=True)
class Gallery:
    """The clusters to show, largest first, with the images of their members.

    Attributes
    ----------
    clusters
        Rows of clusters.parquet.
    total
        How many clusters there are; more than are shown when there are many.
    thumbnails
        WebP bytes by row, of the rows that have a thumbnail.
    paths
        Path of the image by row, of the rows shown.
    damaged
        Files of thumbnails that are missing or damaged: their rows are shown without a picture.
    """

    clusters: list[dict[str, Any]]
    total: int
    thumbnails: dict[int, bytes]
    paths: dict[int, str]
    damaged: tuple[str, ...] = ()


def open_gallery(
    clustering: Clustering, embeddings: EmbeddingSet, members: dict[str, int], *, most: int = MAX_CLUSTERS
) -> Gallery:
    """Read what a report needs.

    Parameters
    ----------
    members
        How many rows to show of each of ``nearest``, ``farthest`` and ``borderline``.
    most
        How many clusters to show at most.
    """
    table = clustering.clusters(embeddings.id)
    largest = pc.sort_indices(table, sort_keys=[("size", "descending"), ("cluster", "ascending")])
    shown = table.take(largest.slice(0, most)).to_pylist()
    for cluster in shown:
        for kind in ("nearest", "farthest", "borderline"):
            cluster[kind] = cluster[kind][: members.get(kind, 0)]
    wanted = {row for cluster in shown for kind in members for row in cluster[kind]}
    ordered = np.array(sorted(wanted), dtype=np.int64)
    damaged: list[str] = []
    thumbnails = embeddings.thumbnails(ordered, damaged=damaged)
    pictures = {row: image for row, image in thumbnails.items() if is_webp(image)}
    paths = image_paths(embeddings, ordered.tolist())
    return Gallery(shown, table.num_rows, pictures, paths, tuple(damaged))


def image_paths(embeddings: EmbeddingSet, rows: Iterable[int]) -> dict[int, str]:
    """Path of the image of each row."""
    wanted = list(rows)
    paths = embeddings.metadata(["image_path"]).column("image_path").take(wanted)
    return {row: str(path) for row, path in zip(wanted, paths.to_pylist(), strict=True)}


def is_webp(image: bytes) -> bool:
    """Whether these bytes are a whole WebP file, as far as its header tells."""
    size = int.from_bytes(image[4:8], "little") + 8
    return image[:4] == b"RIFF" and image[8:12] == b"WEBP" and len(image) >= size


def data_uri(image: bytes) -> str:
    """A thumbnail as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(image).decode("ascii")
