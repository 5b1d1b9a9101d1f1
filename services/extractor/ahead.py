"""What the child of an extraction imports before its job has come."""

from __future__ import annotations

from shoal.settings import Settings


def import_all(backend: str) -> None:
    """Import the pipeline and the libraries of ``backend``, ``torch`` or ``tfserving``."""
    import pyarrow

    from extractor import pipeline  # noqa: F401

    # The first conversion of a list imports pandas where that is installed.
    pyarrow.array([0])
    if backend == "torch":
        from extractor.backends import torch  # noqa: F401
    elif Settings().tf_serving_url:
        from extractor.backends import tfserving  # noqa: F401
    else:
        from extractor.backends import savedmodel  # noqa: F401
        from extractor.tf_serving.loading import tensorflow

        tensorflow()
