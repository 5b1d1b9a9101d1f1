"""What the child of a job imports before its job has come."""

from __future__ import annotations


def import_all() -> None:
    """Import what every job needs, with what libraries and our own code would prepare on first use."""
    import email.parser  # noqa: F401, to read the versions of libraries

    import pyarrow
    import pyarrow.dataset
    from PIL import Image

    from clusterer import pipeline  # noqa: F401
    from clusterer.jobs import assign, duplicates, quality, sweep  # noqa: F401
    from clusterer.kmeans.fast import engine  # noqa: F401
    from clusterer.results.report import page

    Image.init()
    page.template()
    # The first conversion of a list imports pandas where that is installed.
    pyarrow.array([0])
