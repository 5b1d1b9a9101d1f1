"""A clustering's facts as `GET /clusterings/{id}` shows them."""

from __future__ import annotations

from typing import Any

from shoal.store.clustering import Clustering

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
    """What was clustered, how it ran, the first scored set's mean metrics and groups by level: JSON values only.

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
    return {
        "id": clustering.id,
        **{name: clustering.spec[name] for name in _SPEC},
        "restarts": clustering.spec.get("restarts"),
        **clustering.run(),
        "metrics": {name: mean[name] for name in SUMMARY},
        "levels": first.get("levels", []),
        "chosen": clustering.spec.get("chosen"),
        "spec": clustering.spec["request"],
        "links": {"self": base, **{name.replace("-", "_"): f"{base}/{name}" for name in _LINKS}},
    }


def summary(clustering: Clustering) -> dict[str, Any]:
    """What a list of clusterings shows of each."""
    shown = facts(clustering)
    kept = ("id", "finished_at", "train", "scored", "n", "dim", "k", "seeds", "engine", "metrics", "links")
    return {name: shown[name] for name in kept}


def result_of(clustering: Clustering) -> dict[str, Any]:
    """A job's result: where the clustering is, and its most asked-for figures."""
    shown = facts(clustering)
    kept = ("k", "dim", "seeds", "best_seed", "engine", "engine_reason", "iterations", "balance", "metrics")
    optional = ("damaged_thumbnails",)
    result = {"clustering": clustering.id, "rows": shown["n"], **{name: shown.get(name) for name in kept}}
    return result | {name: shown[name] for name in optional if shown.get(name)}
