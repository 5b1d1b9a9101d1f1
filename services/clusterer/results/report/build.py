"""The report of a clustering: index.html and contact-sheet.png."""

from __future__ import annotations

from shoal.store import EmbeddingSet
from shoal.store.clustering import Clustering
from shoal.store.files import storage_errors
from shoal.store.layout import ClusteringLayout

from clusterer.results.report.page import render_page
from clusterer.results.report.sheet import contact_sheet


def write_report(clustering: Clustering, embeddings: EmbeddingSet, layout: ClusteringLayout) -> list[str]:
    """Write both files into the report folder of ``layout``; the same clustering gives the same bytes.

    Parameters
    ----------
    clustering
        What to show.
    embeddings
        The scored set whose images are shown.

    Returns
    -------
    list of str
        Files of thumbnails that are missing or damaged. Pictures are decoration: a report goes without them.
    """
    page, damaged = render_page(clustering, embeddings)
    with storage_errors(layout.report):
        layout.report_html.write_text(page, encoding="utf-8")
        damaged += contact_sheet(clustering, embeddings, layout.contact_sheet)
    return sorted(set(damaged))
