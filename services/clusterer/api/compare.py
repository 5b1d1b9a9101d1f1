"""`GET /clusterings/{a}/compare/{b}`, and where single images are in clusterings."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from shoal.errors import JsonValue
from shoal.schemas import Id
from shoal.web import StoreDep
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from clusterer.api.parameters import ClusteringId, Cursor, Limit, Scored, paged
from clusterer.results.compare import CompareOrder, compare
from clusterer.results.flows import flow, places
from clusterer.results.read import scored_set

OtherId = Annotated[Id, Path(description="Id of the clustering that it is compared with, `b`.")]

router = make_router(tags=["clusterings"])


@router.get("/clusterings/{clustering_id}/compare/{other_id}", responses=problem_responses(404, 422))
def compare_clusterings(
    clustering_id: Annotated[Id, Path(description="Id of the clustering, `a`.")],
    other_id: OtherId,
    store: StoreDep,
    sort: Annotated[
        CompareOrder,
        Query(description="Order of `clusters`: the least similar to any of `b` first, by size or number."),
    ] = "changed",
    limit: Annotated[int, Query(ge=1, le=10_000, description="Maximum number of entries of each list.")] = 100,
) -> dict[str, JsonValue]:
    """Compare two clusterings over the rows that both have assigned: which clusters were split and merged.

    Rows are matched by number where both have assigned the same embeddings, otherwise by image.
    """
    return compare(store.clustering(clustering_id), store.clustering(other_id), sort=sort, limit=limit)


@router.get("/clusterings/{clustering_id}/compare/{other_id}/rows", responses=problem_responses(404, 422))
def get_flow(
    clustering_id: Annotated[Id, Path(description="Id of the clustering, `a`.")],
    other_id: OtherId,
    store: StoreDep,
    a: Annotated[int, Query(ge=-1, le=2**31 - 1, description="Number of a cluster of `a`; -1 for noise.")],
    b: Annotated[int, Query(ge=-1, le=2**31 - 1, description="Number of a cluster of `b`; -1 for noise.")],
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, JsonValue]:
    """List the images that are in one cluster of `a` and in one of `b`: the cell of the comparison, row by row.

    Each row has the `embeddings` that `a` has assigned, its number there, its path and its label.
    """
    sides = (store.clustering(clustering_id), store.clustering(other_id))
    start = int(cursor or 0)
    total, rows = flow(store, sides, (a, b), start=start, limit=limit)
    return paged("rows", rows, total, start)


@router.get("/clusterings/{clustering_id}/places", responses=problem_responses(404, 422))
def get_places(
    clustering_id: ClusteringId,
    store: StoreDep,
    rows: Annotated[
        str,
        Query(
            max_length=8000,
            pattern=r"^[0-9]{1,15}(,[0-9]{1,15})*$",
            description="Numbers of rows, with commas between them; rows that were not clustered are left out.",
        ),
    ],
    embeddings: Scored = None,
) -> dict[str, JsonValue]:
    """Say which cluster each of some rows is in, with its distance to the centroid, after moves and merges too."""
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    found = places(store, clustering, chosen, [int(each) for each in rows.split(",")])
    return {"embeddings": chosen, "places": found}
