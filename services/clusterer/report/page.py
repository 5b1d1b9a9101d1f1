"""The HTML page of a clustering: one file that needs nothing else, on a phone as on a desk."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering

from clusterer.report.gallery import data_uri, open_gallery

MEMBERS = {"nearest": 8, "borderline": 4, "farthest": 4}
METRICS = (
    # key, name, chance, what it says
    ("ari", "ARI", 0.0, "agreement of pairs of images, 0 at chance"),
    ("ami", "AMI", 0.0, "shared information, 0 at chance"),
    ("nmi_arithmetic", "NMI (arithmetic mean)", "nmi", "shared information, not adjusted for chance"),
    ("accuracy.hungarian.train", "Accuracy, one to one", None, "map from clusters to classes learnt on the train set"),
    ("accuracy.hungarian.scored", "… map learnt on these images", "accuracy", "flatters: an upper bound"),
    ("accuracy.majority.train", "Accuracy, majority", None, "several clusters may share a class"),
    ("accuracy.majority.scored", "… map learnt on these images", "accuracy_majority", "the same as purity"),
    ("homogeneity", "Homogeneity", None, "clusters hold one class each"),
    ("completeness", "Completeness", None, "classes lie in one cluster each"),
    ("fowlkes_mallows", "Fowlkes-Mallows", None, "precision and recall of pairs"),
    ("inertia", "Inertia", None, "sum of squared distances to the centroids"),
    ("empty_clusters", "Empty clusters", None, "clusters that none of these images fell into"),
    ("size_imbalance", "Size imbalance", None, "largest cluster over the mean size"),
)


def render_page(clustering: Clustering, embeddings: EmbeddingSet) -> str:
    """The report as HTML.

    Parameters
    ----------
    embeddings
        The scored set whose images are shown.
    """
    environment = Environment(
        loader=PackageLoader("clusterer", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    gallery = open_gallery(clustering, embeddings, MEMBERS)
    return environment.get_template("page.html.j2").render(
        clustering=clustering,
        embeddings=embeddings.id,
        model=clustering.spec["model"]["name"],
        options=_options(clustering.spec),
        tables=[_metric_table(name, scored) for name, scored in clustering.metrics()["scored"].items()],
        gallery=gallery,
        strips=list(MEMBERS),
        images={row: data_uri(image) for row, image in gallery.thumbnails.items()},
    )


def _options(spec: dict[str, Any]) -> list[tuple[str, str]]:
    request, pca = spec["request"], spec["request"]["pca"]
    projection = "none"
    if pca is not None:
        projection = f"{spec['dim']} → {spec['dim_clustered']}" + (", whitened" if pca["whiten"] else "")
    return [
        ("normalisation", "unit L2 norm" if request["normalize"] else "none"),
        ("PCA", projection),
        ("k-means", f"{spec['engine']}, {request['kmeans']['init']}, {request['kmeans']['restarts']} restart(s)"),
        ("seeds", ", ".join(str(seed) for seed in spec["seeds"]) + f" (shown: {spec['best_seed']})"),
    ]


def _metric_table(name: str, scored: dict[str, Any]) -> dict[str, Any]:
    rows = []
    chance = scored["mean"]["chance"] or {}
    for key, label, by_chance, meaning in METRICS:
        value = _lookup(scored["mean"], key)
        if value is not None:
            level = chance.get(by_chance) if isinstance(by_chance, str) else by_chance
            rows.append((label, _figure(value), _figure(_lookup(scored["std"], key)), _figure(level), meaning))
    return {"name": name, "rows": rows, "n": int(scored["mean"]["n"]), "seeds": len(scored["seeds"])}


def _lookup(values: dict[str, Any], key: str) -> float | None:
    found: Any = values
    for part in key.split("."):
        found = None if found is None else found[part]
    return None if found is None else float(found)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
