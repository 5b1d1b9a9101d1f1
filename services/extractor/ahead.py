"""What the child of an extraction imports before its job has come."""

from __future__ import annotations

from importlib.util import find_spec

from shoal.settings import Settings


def import_all(backend: str) -> None:
    """Import the pipeline and the libraries of ``backend``, ``torch`` or ``tfserving``."""
    import pyarrow

    from extractor import pipeline  # noqa: F401
    from extractor.backends.loading import import_libraries

    # The first conversion of a list imports pandas where that is installed.
    pyarrow.array([0])
    import_libraries(backend, Settings())
    if backend == "torch" and find_spec("openvino") is not None:
        from extractor.backends.engines.numerics import openvino_types

        openvino_types()
