"""Which engine runs."""

from __future__ import annotations

import structlog
from shoal.errors import EngineUnavailable

from clusterer.kmeans.engine import Engine

_log = structlog.get_logger(__name__)


def select_engine(name: str, *, keep_bytes: int | None = None) -> Engine:
    """The engine of that name; ``auto`` picks the fastest exact one for this machine.

    The engine's own ``name`` says what was picked, and goes into the result with its ``reason``. Engines are imported
    here and not before, so that a process that never clusters does not need them.

    Parameters
    ----------
    keep_bytes
        Memory that it may use to remember things about the rows between iterations; None leaves that to the engine.

    Raises
    ------
    EngineUnavailable
        The engine does not run on this machine.
    """
    if name == "faiss":
        return _faiss("asked for")
    if name == "faiss-super":
        return _faiss_super(keep_bytes)
    if name == "fast":
        return _fast(keep_bytes)
    if name == "auto":
        picked = _automatic(keep_bytes)
        _log.info("kmeans_engine_picked", engine=picked.name, reason=picked.reason)
        return picked
    raise ValueError(f"no k-means engine is named {name!r}")


def needs_faiss(name: str) -> bool:
    """Whether the engine of that name, or the one that ``auto`` picks, is one of faiss's."""
    from clusterer.kmeans.fast import available, narrower_than_blas

    if name != "auto":
        return name != "fast"
    kernels = available()
    return not kernels or narrower_than_blas(kernels[0])


def _automatic(keep_bytes: int | None) -> Engine:
    from clusterer.kmeans.fast import KernelUnavailable, narrower_than_blas, open_kernel

    try:
        kernel = open_kernel()
    except KernelUnavailable as error:
        return _faiss(f"the fast engine's kernel does not run here: {error}")
    if narrower_than_blas(kernel.variant):
        return _faiss("this processor has AVX-512 for faiss, but not the 8-bit products (VNNI) that fast would use")
    return _fast(keep_bytes)


def _fast(keep_bytes: int | None) -> Engine:
    from clusterer.kmeans.fast import KEEP_BYTES, FastEngine, KernelUnavailable

    try:
        return FastEngine(keep_bytes=KEEP_BYTES if keep_bytes is None else keep_bytes)
    except KernelUnavailable as error:
        raise EngineUnavailable(
            f"The engine `fast` does not run on this machine: {error}. Use `auto` or `faiss`.", engine="fast"
        ) from error


def _faiss(reason: str) -> Engine:
    from clusterer.kmeans.faiss import FaissEngine

    return FaissEngine(reason)


def _faiss_super(keep_bytes: int | None) -> Engine:
    from clusterer.kmeans.faiss_super import KEEP_BYTES, SuperEngine, SuperUnavailable

    try:
        return SuperEngine(keep_bytes=KEEP_BYTES if keep_bytes is None else keep_bytes)
    except SuperUnavailable as error:
        raise EngineUnavailable(
            f"The engine `faiss-super` does not run on this machine: {error}. Use `auto` or `faiss`.",
            engine="faiss-super",
        ) from error
