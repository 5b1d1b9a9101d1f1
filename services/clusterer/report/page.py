"""The HTML page of a clustering: one file that needs nothing else, on a phone as on a desk."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering

from clusterer.report.gallery import data_uri, open_gallery

MEMBERS = {"nearest": 7, "borderline": 4, "farthest": 3}
METRICS = (
    # key, name, chance, what it says
    ("ari", "ARI", 0.0, "agreement of pairs of images, 0 at chance"),
    ("ami", "AMI", 0.0, "shared information, 0 at chance"),
    ("nmi_arithmetic", "NMI (arithmetic mean)", "nmi", "shared information, not adjusted for chance"),
    ("accuracy.hungarian.train", "Accuracy, one to one", None, "one class a cluster, learnt on the train set"),
    ("accuracy.hungarian.scored", "Accuracy, one to one, own map", "accuracy", "map learnt on these images: flatters"),
    ("accuracy.majority.train", "Accuracy, majority", None, "clusters may share a class, learnt on the train set"),
    ("accuracy.majority.scored", "Accuracy, majority, own map", "accuracy_majority", "the same as purity"),
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
        tables=[
            _metric_table(name, scored, itself=name == clustering.spec["train"])
            for name, scored in clustering.metrics()["scored"].items()
        ],
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
        ("k-means", f"{spec['engine']}, {request['kmeans']['init']}, {spec['restarts']} restart(s)"),
        ("seeds", ", ".join(str(seed) for seed in spec["seeds"]) + f" (shown: {spec['best_seed']})"),
    ]


def _metric_table(name: str, scored: dict[str, Any], *, itself: bool) -> dict[str, Any]:
    """The figures of one scored set; ``itself`` says that it is the train set, so that both label maps are one."""
    rows = []
    mean, std = scored["mean"], scored["std"]
    for key, label, by_chance, meaning in METRICS:
        value = _lookup(mean, key)
        if value is None or (itself and key.endswith(".train")):
            continue
        level = _lookup(mean, f"chance.{by_chance}") if isinstance(by_chance, str) else by_chance
        digits = 3 if abs(value) < 1000 else 0
        rows.append((label, *(_figure(each, digits) for each in (value, _lookup(std, key), level)), meaning))
    return {"name": name, "rows": rows, "n": int(mean["n"]), "seeds": len(scored["seeds"])}


def _lookup(values: dict[str, Any], key: str) -> float | None:
    found: Any = values
    for part in key.split("."):
        found = None if found is None else found[part]
    return None if found is None else float(found)


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
