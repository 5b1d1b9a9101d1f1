"""The report of a clustering: index.html and contact-sheet.png."""

from __future__ import annotations

from shoal.store import EmbeddingSet
from shoal.store.atomic import storage_errors
from shoal.store.clustering import Clustering
from shoal.store.layout import ClusteringLayout

from clusterer.report.page import render_page
from clusterer.report.sheet import contact_sheet


def write_report(clustering: Clustering, embeddings: EmbeddingSet, layout: ClusteringLayout) -> None:
    """Write both files into the report folder of ``layout``; the same clustering gives the same bytes.

    Parameters
    ----------
    clustering
        What to show.
    embeddings
        The scored set whose images are shown.
    """
    with storage_errors(layout.report):
        layout.report_html.write_text(render_page(clustering, embeddings), encoding="utf-8")
        contact_sheet(clustering, embeddings, layout.contact_sheet)
