"""What a report shows of a clustering: clusters with their images, and tables. Needs no drawing library."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering

METRICS = (
    # key, name, chance, what it says
    ("ari", "ARI", 0.0, "agreement of pairs of images, 0 at chance"),
    ("ami", "AMI", 0.0, "shared information, 0 at chance"),
    ("nmi_arithmetic", "NMI (arithmetic mean)", "nmi", "shared information, not adjusted for chance"),
    ("accuracy.hungarian.train", "Accuracy, one to one", None, "one label per group, learnt on the train set"),
    (
        "accuracy.hungarian.scored",
        "Accuracy, one to one, own map",
        "accuracy",
        "map learnt on these images: optimistic",
    ),
    ("accuracy.majority.train", "Accuracy, majority", None, "groups may share a label, learnt on the train set"),
    ("accuracy.majority.scored", "Accuracy, majority, own map", "accuracy_majority", "the same as purity"),
    ("accuracy.mixed.train", "Accuracy, mixed", None, "one to one, remaining groups by majority, learnt on train"),
    (
        "accuracy.mixed.scored",
        "Accuracy, mixed, own map",
        None,
        "one to one, remaining groups by majority: optimistic",
    ),
    ("homogeneity", "Homogeneity", None, "groups hold one label each"),
    ("completeness", "Completeness", None, "labels lie in one group each"),
    ("fowlkes_mallows", "Fowlkes-Mallows", None, "precision and recall of pairs"),
    ("silhouette", "Silhouette", None, "nearer to the own group than to the next, −1 to 1; needs no labels"),
    ("davies_bouldin", "Davies-Bouldin", None, "spread over separation of the worst neighbours: lower is better"),
    ("calinski_harabasz", "Calinski-Harabasz", None, "variance between over variance within groups"),
    ("inertia", "Inertia", None, "sum of squared distances to the centroids"),
    ("empty_clusters", "Empty groups", None, "groups without any of these images"),
    ("size_imbalance", "Size imbalance", None, "largest group over the mean size"),
)
FIGURES = (
    # key, name, chance, one sentence; the first ones need labels
    (
        "accuracy.majority.scored",
        "Purity",
        "accuracy_majority",
        "The share of images that carry the most frequent label of their group; it rises with the number of groups.",
    ),
    ("ami", "Adjusted mutual information", 0.0, "How much the groups tell about the labels: 0 at chance, 1 at most."),
    (
        "ari",
        "Adjusted Rand index",
        0.0,
        "How often two images are together in both the groups and the labels: 0 at chance, 1 at most.",
    ),
    (
        "silhouette",
        "Silhouette",
        None,
        "How much nearer images are to their own group than to the next one, from −1 to 1; it needs no labels.",
    ),
    ("size_imbalance", "Size imbalance", None, "How many times the mean size the largest group has."),
)
"""What a report says of a clustering at first sight."""
MAX_CLASSES = 100
MAX_CONFUSIONS = 10
MAX_EXTREMES = 5
MAX_CLUSTERS = 5000
MAX_FIGURES = 4


@dataclass(frozen=True)
class Gallery:
    """The clusters to show, largest first, with the images of their members.

    Attributes
    ----------
    clusters
        Rows of clusters.parquet.
    total
        Number of all clusters, shown or not.
    thumbnails
        WebP bytes by row, of the rows that have a thumbnail.
    paths
        Path of the image by row, of the rows shown.
    damaged
        Files of thumbnails that are missing or damaged: their rows are shown without an image.
    """

    clusters: list[dict[str, Any]]
    total: int
    thumbnails: dict[int, bytes]
    paths: dict[int, str]
    damaged: tuple[str, ...] = ()


def open_gallery(
    clustering: Clustering, embeddings: EmbeddingSet, members: dict[str, int], *, most: int = MAX_CLUSTERS
) -> Gallery:
    """Read the clusters to show and their images.

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
    """Whether these bytes are a whole WebP file, according to its header."""
    size = int.from_bytes(image[4:8], "little") + 8
    return image[:4] == b"RIFF" and image[8:12] == b"WEBP" and len(image) >= size


def data_uri(image: bytes) -> str:
    """A thumbnail as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(image).decode("ascii")


def metric_table(name: str, scored: dict[str, Any], *, itself: bool) -> dict[str, Any]:
    """The metrics of one scored set; ``itself``: it is the train set, so both label maps are the same.

    The mixed rule is the one-to-one rule if no cluster remains.
    """
    rows = []
    mean, std = scored["mean"], scored["std"]
    for key, label, by_chance, meaning in METRICS:
        value = _lookup(mean, key)
        same = (itself and key.endswith(".train")) or (".mixed." in key and mean["k"] <= mean["classes"])
        if value is None or same:
            continue
        level = _lookup(mean, f"chance.{by_chance}") if isinstance(by_chance, str) else by_chance
        spread = _lookup(std, key)
        digits = _digits(key, value, spread)
        rows.append((label, *(_figure(each, digits) for each in (value, spread, level)), meaning))
    stability = scored.get("stability")
    if stability:
        figures = (_figure(stability[each], 3) for each in ("ari_mean", "ari_std"))
        rows.append(("Stability", *figures, "0.000", "ARI between the groups of each pair of seeds; needs no labels"))
    return {"name": name, "rows": rows, "n": int(mean["n"]), "seeds": len(scored["seeds"])}


def main_figures(mean: dict[str, object], std: dict[str, object]) -> list[dict[str, str]]:
    """The figures of a scored set that a reader sees first: value, deviation over seeds, chance, and what it means."""
    found = []
    for key, name, by_chance, meaning in FIGURES:
        value = _lookup(mean, key)
        if value is None:
            continue
        spread = _lookup(std, key)
        level = _lookup(mean, f"chance.{by_chance}") if isinstance(by_chance, str) else by_chance
        digits = _digits(key, value, spread)
        texts = {
            each: _figure(figure, digits) for each, figure in (("value", value), ("std", spread), ("chance", level))
        }
        found.append({**texts, "name": name, "meaning": meaning})
    return found[:MAX_FIGURES]


def class_table(clustering: Clustering, embeddings_id: str) -> dict[str, Any] | None:
    """The classes by accuracy, worst first; None without labels."""
    table = clustering.classes(embeddings_id)
    if not table.num_rows:
        return None
    shares = {name: pc.fill_null(table.column(name), 0.0) for name in ("accuracy_majority", "accuracy_hungarian")}
    keys = pa.table({**shares, "label": table.column("label")})
    worst = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    return {"rows": table.take(worst.slice(0, MAX_CLASSES)).to_pylist(), "total": table.num_rows}


def confusions(clustering: Clustering, embeddings_id: str) -> list[dict[str, Any]]:
    """The most frequent confusions of classes under the majority rule.

    Empty for a set with a class map: its classes are not those of the train set.
    """
    if embeddings_id in clustering.spec["class_maps"]:
        return []
    classes = clustering.classes(embeddings_id)
    sizes = dict(zip(classes.column("label").to_pylist(), classes.column("rows").to_pylist(), strict=True))
    cells = clustering.confusion(embeddings_id, "majority")
    wrong = cells.filter(pc.field("predicted") != pc.field("actual"))  # null is neither equal nor different
    order = [("count", "descending"), ("actual", "ascending"), ("predicted", "ascending")]
    largest = wrong.take(pc.sort_indices(wrong, sort_keys=order).slice(0, MAX_CONFUSIONS)).to_pylist()
    return [{**cell, "share": cell["count"] / sizes[cell["actual"]]} for cell in largest]


def extreme_clusters(clustering: Clustering, embeddings_id: str, shown: set[int]) -> list[tuple[str, list[int]]]:
    """The numbers of the best and the worst clusters among those that the page shows."""
    scored = clustering.metrics()["scored"][embeddings_id]
    kinds = ("purest", "most mixed") if scored["mean"]["n_labelled"] else ("tightest", "loosest")
    found = []
    for kind, name in zip(kinds, ("best_clusters", "worst_clusters"), strict=True):
        numbers = [row["cluster"] for row in scored.get(name, ()) if row["cluster"] in shown]
        if numbers:
            found.append((kind, numbers[: min(MAX_EXTREMES, len(shown) // 2)]))
    return found


def choice_table(chosen: dict[str, Any] | None) -> dict[str, Any] | None:
    """The numbers of clusters that were tried, with their share of the best figure; None if k was given."""
    if chosen is None:
        return None
    best = max(each["neighbours_kept"] for each in chosen["candidates"]) or 1.0
    rows = [{**each, "share": max(0.0, each["neighbours_kept"] / best)} for each in chosen["candidates"]]
    return {**chosen, "candidates": rows}


def _lookup(values: dict[str, Any], key: str) -> float | None:
    found: Any = values
    for part in key.split("."):
        found = None if found is None else found[part]
    return None if found is None else float(found)


def _digits(key: str, value: float, spread: float | None) -> int:
    """Digits after the point: three for shares, fewer for large values, 0 for a count."""
    if key == "empty_clusters":
        return 1 if spread else 0
    return 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
