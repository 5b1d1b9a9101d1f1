"""Writes the report of a clustering: index.html, one page that needs no other file, and contact-sheet.png beside it."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering
from shoal.store.files import storage_errors
from shoal.store.layout import ClusteringLayout

from clusterer.results.report.contact_sheet import contact_sheet
from clusterer.results.report.contents import (
    choice_table,
    class_table,
    confusions,
    data_uri,
    extreme_clusters,
    main_figures,
    metric_table,
    open_gallery,
)
from clusterer.results.report.points import page_points
from clusterer.results.report.size import MOST_BYTES, Shown, choose

_NO_FILES = ("empty_folder", "folder_", "link_")
"""Prefixes of the reasons that concern folders."""
HERE: Final = Path(__file__).parent
STRIPS: Final = {"borderline": "On the border", "farthest": "Farthest from the centre"}
"""Images that a reader may unfold."""


def write_report(clustering: Clustering, embeddings: EmbeddingSet, layout: ClusteringLayout) -> list[str]:
    """Write both files into the report folder of ``layout``; the same clustering gives the same bytes.

    Parameters
    ----------
    clustering
        The clustering to show.
    embeddings
        The scored set whose images are shown.

    Returns
    -------
    list of str
        Files of thumbnails that are missing or damaged. Their images are left out of the report.
    """
    page, damaged = render_page(clustering, embeddings)
    with storage_errors(layout.report):
        layout.report_html.write_text(page, encoding="utf-8")
        damaged += contact_sheet(clustering, embeddings, layout.contact_sheet)
    return sorted(set(damaged))


@cache
def template() -> Template:
    """The page, compiled."""
    environment = Environment(
        loader=PackageLoader("clusterer", "results/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


@cache
def inline(name: str) -> tuple[str, str]:
    """A file that stands within the page, and its hash as a policy names it."""
    text = (HERE / name).read_text(encoding="utf-8")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def render_page(clustering: Clustering, embeddings: EmbeddingSet) -> tuple[str, list[str]]:
    """The report as HTML, of `MOST_BYTES` at most, and the files of thumbnails that are missing or damaged.

    Parameters
    ----------
    embeddings
        The scored set whose images are shown.
    """
    facts = _facts(clustering, embeddings)
    shown = choose(clustering, embeddings)
    while True:
        page, damaged = _render(clustering, embeddings, shown, facts)
        size = len(page.encode())
        if size <= MOST_BYTES or shown.clusters == 1:
            return page, damaged
        shown = shown.smaller(size)


def _facts(clustering: Clustering, embeddings: EmbeddingSet) -> dict[str, object]:
    """What a page says, however many clusters it shows."""
    scored = clustering.metrics()["scored"]
    tables = [metric_table(name, each, itself=name == clustering.spec["train"]) for name, each in scored.items()]
    return {
        "clustering": clustering,
        "embeddings": embeddings.id,
        "model": clustering.spec["model"]["name"],
        "options": _options(clustering.spec),
        "missing": missing_line(embeddings),
        "noise": scored[embeddings.id]["mean"].get("noise"),
        "figures": main_figures(scored[embeddings.id]["mean"], scored[embeddings.id]["std"]),
        "tables": tables,
        "choice": choice_table(clustering.spec["chosen"]),
        "picked": clustering.spec.get("picked"),
        "reduce": clustering.spec.get("reduce"),
        "classes": class_table(clustering, embeddings.id),
        "confusions": confusions(clustering, embeddings.id),
        "map": page_points(clustering, embeddings.id),
        "strips": STRIPS,
        "percent": _percent,
        "script": inline("page.js"),
        "style": inline("page.css"),
    }


def _render(
    clustering: Clustering, embeddings: EmbeddingSet, shown: Shown, facts: dict[str, object]
) -> tuple[str, list[str]]:
    gallery = open_gallery(clustering, embeddings, shown.members, most=shown.clusters)
    numbers = {row["cluster"] for row in gallery.clusters}
    page = template().render(
        **facts,
        gallery=gallery,
        fewer=shown.fewer,
        shown=numbers,
        extremes=extreme_clusters(clustering, embeddings.id, numbers),
        images={row: data_uri(image) for row, image in gallery.thumbnails.items()},
    )
    return page, list(gallery.damaged)


def missing_line(embeddings: EmbeddingSet) -> str | None:
    """How many files below the source have no embedding; None if none is recorded."""
    groups = embeddings.notes.get("not_taken", [])
    files = sum(group["count"] for group in groups if not group["reason"].startswith(_NO_FILES))
    parts = [f"{files:,} {'file was' if files == 1 else 'files were'} left out"] if files else []
    if embeddings.failed:
        parts.append(f"{embeddings.failed:,} could not be embedded")
    folders = [group["message"] for group in groups if group["reason"].startswith(_NO_FILES)]
    line = [f"{', '.join(parts)}."] if parts else []
    return " ".join([*line, *folders]) or None


def _options(spec: dict[str, Any]) -> list[tuple[str, str]]:
    request, pca = spec["request"], spec["request"]["pca"]
    projection = "none"
    if pca is not None:
        projection = f"{spec['dim']} → {spec['dim_clustered']}" + (", whitened" if pca["whiten"] else "")
    method = spec.get("method")
    plain = f"{spec['engine']}, {request['kmeans']['init']}, {spec['restarts']} restart(s)"
    return [
        ("normalisation", "unit L2 norm" if request["normalize"] else "none"),
        ("PCA", projection),
        *([("reduced", _said(spec["reduce"]))] if spec.get("reduce") else []),
        ("method", f"{method}, {len(spec.get('spaces', [1]))} model(s)") if method else ("k-means", plain),
        ("seeds", ", ".join(str(seed) for seed in spec["seeds"]) + f" (shown: {spec['best_seed']})"),
    ]


def _said(reduced: dict[str, object]) -> str:
    """``spectral, neighbours 10, steps 12, components 64``."""
    return ", ".join(str(value) if name == "method" else f"{name} {value}" for name, value in reduced.items())


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
