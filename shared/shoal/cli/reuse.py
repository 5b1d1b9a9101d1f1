"""Finding again what was made before: a clustering of the same embeddings by the same request."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from shoal import __version__
from shoal.errors import ShoalError
from shoal.schemas import ClusterRequest
from shoal.store import Store

CHANGES_NOTHING = {"memory_limit"}
"""Fields of a request that the result does not depend on."""


def canonical(request: dict[str, Any]) -> dict[str, Any] | None:
    """A clustering's request with every default in its place, equal for requests that mean the same.

    None when this version does not understand it.
    """
    given = {name: value for name, value in request.items() if value is not None}
    try:
        parsed = ClusterRequest.model_validate(given)
    except ValidationError:
        return None
    return parsed.model_dump(mode="json", exclude=CHANGES_NOTHING)


def same_clustering(store: Store, request: dict[str, Any]) -> str | None:
    """The newest clustering that ``request`` would only repeat, made by this version of Shoal; None if there is none.

    With its seeds, a second run would only say the same.
    """
    wanted = canonical(request)
    if wanted is None:
        return None
    for clustering_id in store.clustering_ids():
        try:
            clustering = store.clustering(clustering_id)
            if canonical(clustering.spec["request"]) == wanted and clustering.run().get("version") == __version__:
                for path in (clustering.layout.report_html, clustering.layout.contact_sheet):
                    clustering.check(path)
                return clustering_id
        except (ShoalError, KeyError, TypeError, ValueError, OSError):
            continue  # Removed meanwhile, or damaged: another one is made.
    return None
