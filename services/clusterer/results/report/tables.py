"""The tables of a report: metrics, classes, what is taken for what, and why there are so many clusters."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from shoal.store.clustering import Clustering

METRICS = (
    # key, name, chance, what it says
    ("ari", "ARI", 0.0, "agreement of pairs of images, 0 at chance"),
    ("ami", "AMI", 0.0, "shared information, 0 at chance"),
    ("nmi_arithmetic", "NMI (arithmetic mean)", "nmi", "shared information, not adjusted for chance"),
    ("accuracy.hungarian.train", "Accuracy, one to one", None, "one class a cluster, learnt on the train set"),
    ("accuracy.hungarian.scored", "Accuracy, one to one, own map", "accuracy", "map learnt on these images: flatters"),
    ("accuracy.majority.train", "Accuracy, majority", None, "clusters may share a class, learnt on the train set"),
    ("accuracy.majority.scored", "Accuracy, majority, own map", "accuracy_majority", "the same as purity"),
    ("accuracy.mixed.train", "Accuracy, mixed", None, "one to one, left-over clusters by majority, learnt on train"),
    ("accuracy.mixed.scored", "Accuracy, mixed, own map", None, "one to one, left-over clusters by majority: flatters"),
    ("homogeneity", "Homogeneity", None, "clusters hold one class each"),
    ("completeness", "Completeness", None, "classes lie in one cluster each"),
    ("fowlkes_mallows", "Fowlkes-Mallows", None, "precision and recall of pairs"),
    ("silhouette", "Silhouette", None, "nearer to the own cluster than to the next, −1 to 1; needs no labels"),
    ("davies_bouldin", "Davies-Bouldin", None, "spread over separation of the worst neighbours: less is better"),
    ("calinski_harabasz", "Calinski-Harabasz", None, "variance between over variance within clusters"),
    ("inertia", "Inertia", None, "sum of squared distances to the centroids"),
    ("empty_clusters", "Empty clusters", None, "clusters that none of these images fell into"),
    ("size_imbalance", "Size imbalance", None, "largest cluster over the mean size"),
)
MAX_CLASSES = 100
MAX_CONFUSIONS = 10
MAX_EXTREMES = 5


def metric_table(name: str, scored: dict[str, Any], *, itself: bool) -> dict[str, Any]:
    """The figures of one scored set; ``itself`` says that it is the train set, so that both label maps are one.

    The mixed rule is the one-to-one rule where no cluster is left over.
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
        rows.append(("Stability", *figures, "0.000", "ARI between the clusters of each two seeds; needs no labels"))
    return {"name": name, "rows": rows, "n": int(mean["n"]), "seeds": len(scored["seeds"])}


def class_table(clustering: Clustering, embeddings_id: str) -> dict[str, Any] | None:
    """The classes, those that fare worst first; None without labels."""
    table = clustering.classes(embeddings_id)
    if not table.num_rows:
        return None
    shares = {name: pc.fill_null(table.column(name), 0.0) for name in ("accuracy_majority", "accuracy_hungarian")}
    keys = pa.table({**shares, "label": table.column("label")})
    worst = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    return {"rows": table.take(worst.slice(0, MAX_CLASSES)).to_pylist(), "total": table.num_rows}


def confusions(clustering: Clustering, embeddings_id: str) -> list[dict[str, Any]]:
    """The classes that are most often taken for another, when each cluster means its most frequent class.

    Nothing where the set's classes are not those that clusters are named by.
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
    """The numbers of clusters that were tried and how far each came up to the best; None where k was given."""
    if chosen is None:
        return None
    best = max(each["score"] for each in chosen["candidates"]) or 1.0
    rows = [{**each, "share": max(0.0, each["score"] / best)} for each in chosen["candidates"]]
    return {**chosen, "candidates": rows}


def _lookup(values: dict[str, Any], key: str) -> float | None:
    found: Any = values
    for part in key.split("."):
        found = None if found is None else found[part]
    return None if found is None else float(found)


def _digits(key: str, value: float, spread: float | None) -> int:
    """Digits after the point: three for shares, fewer for large figures, none for a count."""
    if key == "empty_clusters":
        return 1 if spread else 0
    return 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
