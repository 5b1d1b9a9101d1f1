"""A published clustering as the API shows it: its facts, clusters, classes and confusion, and members of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.errors import ClusterNotFound, EmbeddingsNotFound, JsonValue, NotFound
from shoal.schemas.graph import NOISE
from shoal.store import EmbeddingSet, Store
from shoal.store.clustering import Clustering

from clusterer.data.rows import IntArray
from clusterer.results.report.contents import data_uri, is_webp

KINDS = ("nearest", "farthest", "borderline")
SUMMARY_COLUMNS = ("cluster", "size", "labelled", "majority", "purity", "label", "tightness", "top_classes")
SUMMARY = (
    "ari",
    "ami",
    "nmi_arithmetic",
    "accuracy",
    "accuracy_one_to_one",
    "purity",
    "inertia",
    "empty_clusters",
    "size_imbalance",
    "silhouette",
    "chance",
)
_SPEC = ("train", "scored", "n", "dim", "dim_clustered", "k", "train_classes", "seeds", "best_seed", "model")
_LINKS = ("metrics", "clusters", "classes", "confusion", "assignments", "report", "contact-sheet")


def facts(clustering: Clustering) -> dict[str, Any]:
    """What was clustered, how it ran, the first scored set's mean metrics and groups by level. JSON values only.

    Raises
    ------
    StoreCorrupt
        A document of the clustering is damaged.
    """
    with clustering.reading(clustering.layout.spec):
        return _facts(clustering)


def _facts(clustering: Clustering) -> dict[str, Any]:
    base = f"/clusterings/{clustering.id}"
    first = clustering.metrics()["scored"][clustering.scored[0]]
    mean = first["mean"]
    links = (*_LINKS, "map") if clustering.has_map else _LINKS
    return {
        "id": clustering.id,
        **{name: clustering.spec[name] for name in _SPEC},
        "restarts": clustering.spec.get("restarts"),
        **clustering.run(),
        "metrics": {name: mean[name] for name in SUMMARY},
        "levels": first.get("levels", []),
        "noise": _noise(mean),
        "chosen": clustering.spec.get("chosen"),
        **{name: clustering.spec[name] for name in ("reduce", "picked") if name in clustering.spec},
        "spec": clustering.spec["request"],
        "links": {"self": base, **{name.replace("-", "_"): f"{base}/{name}" for name in links}},
    }


def _noise(mean: Mapping[str, JsonValue]) -> dict[str, float] | None:
    """How many rows of a scored set are in no group; None where all must be in one."""
    noise = mean.get("noise")
    return None if noise is None else {"rows": round(noise["rows"]), "share": noise["share"]}


def summary(clustering: Clustering) -> dict[str, Any]:
    """The entry of a clustering in a list."""
    shown = facts(clustering)
    kept = ("id", "finished_at", "train", "scored", "n", "dim", "k", "seeds", "engine", "metrics", "links")
    return {name: shown[name] for name in kept}


def result_of(clustering: Clustering) -> dict[str, Any]:
    """A job's result: the clustering's id and main metrics."""
    shown = facts(clustering)
    kept = ("k", "dim", "seeds", "best_seed", "engine", "engine_reason", "iterations", "balance", "metrics")
    optional = ("damaged_thumbnails", "noise")
    result = {"clustering": clustering.id, "rows": shown["n"], **{name: shown.get(name) for name in kept}}
    return result | {name: shown[name] for name in optional if shown.get(name)}


def scored_set(clustering: Clustering, embeddings_id: str | None) -> str:
    """The given scored set; the first by default.

    Raises
    ------
    NotFound
        The clustering did not score it.
    """
    if embeddings_id is None:
        return clustering.scored[0]
    if embeddings_id not in clustering.scored:
        raise NotFound(
            f"Clustering {clustering.id!r} did not score embeddings {embeddings_id!r}. It scored "
            f"{', '.join(clustering.scored)}.",
            scored=clustering.scored,
        )
    return embeddings_id


def list_classes(clustering: Clustering, embeddings_id: str, *, sort: str) -> list[dict[str, Any]]:
    """Classes by name, or by the share that is right under the one-to-one map: ``worst`` or ``best`` first."""
    rows: list[dict[str, Any]] = clustering.classes(embeddings_id).drop_columns("embeddings").to_pylist()
    if sort == "label":
        return rows
    sign = -1 if sort == "best" else 1
    return sorted(rows, key=lambda row: (sign * (row["accuracy_hungarian"] or 0.0), row["label"]))


def list_confusion(clustering: Clustering, embeddings_id: str, *, rule: str) -> list[dict[str, Any]]:
    """The cells of the confusion matrix that are not zero, largest first."""
    cells = clustering.confusion(embeddings_id, rule).select(["predicted", "actual", "count"])
    order = [("count", "descending"), ("actual", "ascending"), ("predicted", "ascending")]
    ordered: list[dict[str, Any]] = cells.take(pc.sort_indices(cells, sort_keys=order)).to_pylist()
    return ordered


def list_iterations(clustering: Clustering, limit: int) -> list[dict[str, float]]:
    """The iterations of each seed's best restart, the one that ends with the lowest inertia; by seed and iteration."""
    table = clustering.iterations().sort_by(
        [("seed", "ascending"), ("restart", "ascending"), ("iteration", "ascending")]
    )
    ends: dict[int, dict[int, float]] = {}
    columns = (table.column(name).to_pylist() for name in ("seed", "restart", "inertia"))
    for seed, restart, inertia in zip(*columns, strict=True):
        ends.setdefault(seed, {})[restart] = inertia or 0.0  # A head has no inertia, and no restarts.
    best = {seed: min(restarts, key=restarts.__getitem__) for seed, restarts in ends.items()}
    kept = [
        pc.and_(pc.equal(table.column("seed"), seed), pc.equal(table.column("restart"), restart))
        for seed, restart in best.items()
    ]
    rows = [table.filter(mask) for mask in kept]
    shown: list[dict[str, float]] = pa.concat_tables(rows).slice(0, limit).to_pylist() if rows else []
    return shown


def describe_cluster(
    store: Store, clustering: Clustering, embeddings_id: str, cluster: int, *, thumbnails: bool
) -> dict[str, Any]:
    """One cluster with the rows nearest to and farthest from its centroid, and those on its border.

    Raises
    ------
    ClusterNotFound
        The clustering has no such cluster.
    """
    if not clustering.has(cluster):
        raise ClusterNotFound(
            f"Clustering {clustering.id!r} has clusters {clustering.numbers_text}, not {cluster}.",
            clusters=clustering.k,
        )
    at = clustering.k if cluster == NOISE else cluster
    facts = clustering.clusters(embeddings_id).slice(at, 1).to_pylist()[0]
    rows = sorted({row for kind in KINDS for row in facts[kind]})
    known = _rows(store, clustering, embeddings_id, np.array(rows, dtype=np.int64), thumbnails)
    return {**facts, **{kind: [known[row] for row in facts[kind]] for kind in KINDS}}


def _rows(
    store: Store, clustering: Clustering, embeddings_id: str, rows: IntArray, images: bool
) -> dict[int, dict[str, Any]]:
    columns = ["row", "image_id", "distance", "margin"]
    every = clustering.assignments(embeddings_id, columns=columns)
    assigned = every.filter(pc.is_in(every.column("row"), value_set=pa.array(rows))).to_pylist()
    try:
        shown: EmbeddingSet | None = store.embeddings(embeddings_id)
    except EmbeddingsNotFound:
        # The embeddings were deleted; paths and labels are null.
        shown = None
    if shown is None:
        paths: list[dict[str, str | None]] = [{"image_path": None, "label": None}] * len(rows)
    else:
        paths = shown.metadata(["image_path", "label"]).take(pa.array(rows)).drop_columns("row").to_pylist()
    found = {int(each["row"]): {**each, **path} for each, path in zip(assigned, paths, strict=True)}
    if images and shown is not None:
        # A missing or damaged thumbnail is left out.
        for row, image in shown.thumbnails(rows, damaged=[]).items():
            if is_webp(image):
                found[row]["thumbnail"] = data_uri(image)
    return found
