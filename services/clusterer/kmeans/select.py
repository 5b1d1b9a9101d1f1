"""Which engine runs."""

from __future__ import annotations

from clusterer.kmeans.engine import Engine


def select_engine(name: str) -> Engine:
    """The engine of that name; ``auto`` picks the fastest exact one for this machine.

    The engine's own ``name`` says what was picked, and goes into the result. Engines are imported here and not before,
    so that a process that never clusters does not need them.
    """
    if name in {"auto", "faiss"}:
        from clusterer.kmeans.faiss import FaissEngine

        return FaissEngine()
    raise ValueError(f"no k-means engine is named {name!r}")
