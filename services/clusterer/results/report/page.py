"""The HTML page of a clustering: one file that needs nothing else, on a phone as on a desk."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering

from clusterer.results.report.gallery import data_uri, open_gallery
from clusterer.results.report.tables import choice_table, class_table, confusions, extreme_clusters, metric_table

_NO_FILES = ("empty_folder", "folder_", "link_")
"""How the reasons begin that are about folders."""
MEMBERS = {"nearest": 7, "borderline": 4, "farthest": 3}


def render_page(clustering: Clustering, embeddings: EmbeddingSet) -> tuple[str, list[str]]:
    """The report as HTML, and the files of thumbnails that it has to do without.

    Parameters
    ----------
    embeddings
        The scored set whose images are shown.
    """
    environment = Environment(
        loader=PackageLoader("clusterer", "results/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    gallery = open_gallery(clustering, embeddings, MEMBERS)
    shown = {row["cluster"] for row in gallery.clusters}
    page = environment.get_template("page.html.j2").render(
        clustering=clustering,
        embeddings=embeddings.id,
        model=clustering.spec["model"]["name"],
        options=_options(clustering.spec),
        missing=missing_line(embeddings),
        tables=[
            metric_table(name, scored, itself=name == clustering.spec["train"])
            for name, scored in clustering.metrics()["scored"].items()
        ],
        choice=choice_table(clustering.spec["chosen"]),
        classes=class_table(clustering, embeddings.id),
        confusions=confusions(clustering, embeddings.id),
        extremes=extreme_clusters(clustering, embeddings.id, shown),
        gallery=gallery,
        shown=shown,
        strips=list(MEMBERS),
        percent=_percent,
        images={row: data_uri(image) for row, image in gallery.thumbnails.items()},
    )
    return page, list(gallery.damaged)


def missing_line(embeddings: EmbeddingSet) -> str | None:
    """How many files below the source have no embedding; None when all have one, as far as it was noted."""
    groups = embeddings.notes.get("not_taken", [])
    files = sum(group["count"] for group in groups if not group["reason"].startswith(_NO_FILES))
    said = [f"{files:,} {'file was' if files == 1 else 'files were'} not taken"] if files else []
    if embeddings.failed:
        said.append(f"{embeddings.failed:,} could not be embedded")
    folders = [group["message"] for group in groups if group["reason"].startswith(_NO_FILES)]
    line = [f"{', '.join(said)}."] if said else []
    return " ".join([*line, *folders]) or None


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


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
