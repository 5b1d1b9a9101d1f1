"""Renders the report of a clustering: index.html, one page that needs no other file, and contact-sheet.png."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering
from shoal.store.files import storage_errors
from shoal.store.layout import ClusteringLayout

from clusterer.results.report.contents import (
    Gallery,
    choice_table,
    class_table,
    confusions,
    data_uri,
    extreme_clusters,
    metric_table,
    open_gallery,
)

_NO_FILES = ("empty_folder", "folder_", "link_")
"""Prefixes of the reasons that concern folders."""
MEMBERS = {"nearest": 7, "borderline": 4, "farthest": 3}
TILE, GAP, MARGIN, CAPTION = 96, 6, 16, 190
MAX_ROWS = 100
INK, QUIET, PAPER, LINE, NOTHING = "#1c2126", "#5d6873", "#ffffff", "#e3e7ea", "#eef0f2"


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


def render_page(clustering: Clustering, embeddings: EmbeddingSet) -> tuple[str, list[str]]:
    """The report as HTML, and the files of thumbnails that are missing or damaged.

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
    return [
        ("normalisation", "unit L2 norm" if request["normalize"] else "none"),
        ("PCA", projection),
        ("k-means", f"{spec['engine']}, {request['kmeans']['init']}, {spec['restarts']} restart(s)"),
        ("seeds", ", ".join(str(seed) for seed in spec["seeds"]) + f" (shown: {spec['best_seed']})"),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def contact_sheet(
    clustering: Clustering,
    embeddings: EmbeddingSet,
    path: Path,
    *,
    columns: int = 10,
    max_clusters: int = MAX_ROWS,
) -> list[str]:
    """Write a PNG with the members nearest to each centroid, largest cluster first.

    Each row shows the cluster's number and size and, with labels, the most frequent one and its share.

    Parameters
    ----------
    embeddings
        The scored set whose images are shown.
    path
        Of the PNG.
    columns
        Images per row.
    max_clusters
        Rows at most; a last line says how many clusters are left out.

    Returns
    -------
    list of str
        Files of thumbnails that are missing or damaged; a tile with the image's name stands for each of their images.
    """
    gallery = open_gallery(clustering, embeddings, {"nearest": columns}, most=max_clusters)
    left_out = gallery.total - len(gallery.clusters)
    height = 2 * MARGIN + len(gallery.clusters) * (TILE + GAP) + (24 if left_out else 0)
    sheet = Image.new("RGB", (2 * MARGIN + CAPTION + columns * (TILE + GAP), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for position, cluster in enumerate(gallery.clusters):
        top = MARGIN + position * (TILE + GAP)
        if position:
            draw.line([(MARGIN, top - GAP // 2), (sheet.width - MARGIN, top - GAP // 2)], LINE)
        _caption(draw, cluster, top)
        for column, row in enumerate(cluster["nearest"]):
            sheet.paste(_tile(gallery, row), (MARGIN + CAPTION + column * (TILE + GAP), top))
    if left_out:
        text = f"{left_out} smaller clusters are not shown."
        draw.text((MARGIN, height - MARGIN - 16), text, QUIET, _font(13))
    sheet.save(path, format="PNG")
    return list(gallery.damaged)


def _caption(draw: ImageDraw.ImageDraw, cluster: dict[str, Any], top: int) -> None:
    title = f"{cluster['cluster']}  {cluster['majority']}" if cluster["majority"] else f"cluster {cluster['cluster']}"
    lines = [f"{cluster['size']:,} image" + ("" if cluster["size"] == 1 else "s")]
    if cluster["purity"] is not None:
        lines.append(f"{100 * cluster['purity']:.0f} % {cluster['majority']}")
    draw.text((MARGIN, top + 14), _fitting(title, 18), INK, _font(18))
    for index, line in enumerate(lines):
        draw.text((MARGIN, top + 40 + 20 * index), _fitting(line, 14), QUIET, _font(14))


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _fitting(text: str, size: int) -> str:
    """``text``, cut where it would leave the caption."""
    font = _font(size)
    if font.getlength(text) <= CAPTION - 12:
        return text
    while text and font.getlength(text + "…") > CAPTION - 12:
        text = text[:-1]
    return text + "…"


def _tile(gallery: Gallery, row: int) -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), PAPER)
    try:
        image = Image.open(io.BytesIO(gallery.thumbnails[row])).convert("RGB")
    except (KeyError, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        tile.paste(NOTHING, (0, 0, TILE, TILE))
        name = gallery.paths[row].rpartition("/")[2][:16]
        ImageDraw.Draw(tile).text((6, TILE // 2 - 8), name, QUIET, _font(11))
        return tile
    image.thumbnail((TILE, TILE))
    tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    return tile
