"""Shoal groups large collections of unlabelled images by what they show, and says how good the groups are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.client import AsyncClient, Client
    from shoal.errors import ShoalError
    from shoal.store import Store

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "ShoalError", "Store", "__version__"]

_HOMES = {
    "AsyncClient": "shoal.client",
    "Client": "shoal.client",
    "ShoalError": "shoal.errors",
    "Store": "shoal.store",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a worker's supervisor must not load numpy because the package was imported.
    if name not in _HOMES:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
