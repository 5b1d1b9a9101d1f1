"""`GET /clusterings/{id}/map`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from shoal.web import StoreDep
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat, table_response

from clusterer.api.parameters import ClusteringId, Scored
from clusterer.results.places import PLACES_SCHEMA, places_with_clusters
from clusterer.results.read import scored_set

router = make_router(tags=["map"])


@router.get(
    "/clusterings/{clustering_id}/map",
    response_class=StreamingResponse,
    responses={**problem_responses(404, 422), **TABLE_RESPONSE},
)
def get_map(
    clustering_id: ClusteringId,
    store: StoreDep,
    embeddings: Scored = None,
    format: Annotated[TableFormat, Query(description="Format of the table.")] = "arrow",  # noqa: A002
) -> Response:
    """Download the map: the place of every row in the plane, and the cluster that k-means found for it.

    Rows that are near in the space that was clustered are near on the map. `x` and `y` are -1 to 1 on the longer axis
    for the rows of the train set; they have no unit, and distances between far places mean little. All scored sets lie
    on the same map. Clusterings of earlier versions have none: `map_not_found`.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    batches = places_with_clusters(clustering, chosen)
    return table_response(batches, PLACES_SCHEMA, format, f"{clustering_id}-map")
