"""The contact sheet of a report: one PNG with the members nearest to each centroid."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from shoal.schemas.graph import NOISE
from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering

from clusterer.results.report.contents import Gallery, open_gallery

TILE, GAP, MARGIN, CAPTION = 96, 6, 16, 190
MAX_ROWS = 100
INK, QUIET, PAPER, LINE, NOTHING = "#1c2126", "#5d6873", "#ffffff", "#e3e7ea", "#eef0f2"


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
    if cluster["cluster"] == NOISE:
        title = "noise: in no group"
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
