"""`/clusterings/{id}/map/…`: the map as small arrays for a page that draws it, and what its points are."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Final

import xxhash
from fastapi import Header, Query, Response
from shoal.errors import InvalidRequest, JsonValue
from shoal.store.place import version
from shoal.web import StoreDep
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from clusterer.api.loaded import manifest_version
from clusterer.api.parameters import ClusteringId, Scored
from clusterer.results import map_arrays
from clusterer.results.map_rows import describe_rows
from clusterer.results.named import Named
from clusterer.results.read import scored_set

BINARY: Final = "application/octet-stream"
CHECKED: Final = "private, no-cache"
MOST_ROWS: Final = 256
ARRAYS: Final[dict[int | str, dict[str, object]]] = {
    200: {"description": "Header and arrays.", "content": {BINARY: {}}},
    **problem_responses(404, 422),
}
KNOWN: Final[dict[int | str, dict[str, object]]] = {
    **ARRAYS,
    304: {"description": "They are those of the `ETag` in `If-None-Match`."},
}
IfNoneMatch = Annotated[str | None, Header(max_length=1000, description="`ETag` of the arrays known.")]

router = make_router(tags=["map"])


@router.get("/clusterings/{clustering_id}/map/points", response_class=Response, responses=KNOWN)
def get_points(
    clustering_id: ClusteringId, store: StoreDep, embeddings: Scored = None, if_none_match: IfNoneMatch = None
) -> Response:
    """Download where each image lies on the map, as 16-bit numbers in row order.

    The bytes are the length of a header (uint32), the header (JSON), then the arrays that the header lists, all
    little-endian and each filled up to a multiple of 8 bytes: `points` has x and y of every image, 0 to 65,535 over the
    header's ranges; `rows` is there if the rows are not 0 to n - 1.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    headers = _headers(_state(version(clustering.layout.map)))
    if _known(headers, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(map_arrays.points(clustering, chosen).encoded(), media_type=BINARY, headers=headers)


@router.get("/clusterings/{clustering_id}/map/values", response_class=Response, responses=KNOWN)
def get_values(
    clustering_id: ClusteringId,
    store: StoreDep,
    by: Annotated[map_arrays.By, Query(description="What the values are.")],
    embeddings: Scored = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Download one value of each image on the map, in the order of `/map/points`, and what the values mean.

    The format is that of `/map/points`. `distance` and `margin` (how much farther the next centroid is) are 0 to 254
    over the header's `range`, 255 for none. The others are places in the header's `legend`; its length stands for
    none. Clusters are those after moves and merges.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    said = store.journal(clustering.id).read()
    # Labels are those that the set has now.
    labels = [_state(manifest_version(store, chosen))] if by == "label" else []
    headers = _headers(said.version, by, _state(version(clustering.layout.map)), *labels)
    if _known(headers, if_none_match):
        return Response(status_code=304, headers=headers)
    found = map_arrays.values(store, clustering, Named.of(said, clustering.k, noisy=clustering.noisy), chosen, by)
    return Response(found.encoded(), media_type=BINARY, headers=headers)


@router.get("/clusterings/{clustering_id}/map/rows", responses=problem_responses(404, 422))
def get_rows(
    clustering_id: ClusteringId,
    store: StoreDep,
    rows: Annotated[
        str,
        Query(
            max_length=5000,
            pattern=r"^[0-9]{1,15}(,[0-9]{1,15})*$",
            description="Numbers of rows, 256 at most, separated by commas.",
            examples=["3,17,42"],
        ),
    ],
    embeddings: Scored = None,
) -> dict[str, JsonValue]:
    """Return what some images are: path and label, cluster, distance and margin, in the order of the rows.

    `merged_cluster` is the cluster after moves and merges, with its `name` and `flag`. Path and label are null if the
    embeddings were deleted. Rows that the clustering has not assigned are left out.
    """
    numbers = sorted({int(each) for each in rows.split(",")})
    if len(numbers) > MOST_ROWS:
        raise InvalidRequest(f"`rows` has {len(numbers)} rows; send {MOST_ROWS} at most.", field="rows")
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    found = describe_rows(store, clustering, Named.read(store, clustering), chosen, numbers)
    return {"embeddings": chosen, "rows": list(found)}


def _state(found: Hashable) -> str:
    """A version of a file as part of an ETag."""
    return xxhash.xxh3_64_hexdigest(repr(found).encode())


def _headers(*states: str) -> dict[str, str]:
    return {"ETag": f'"{"-".join(states)}"', "Cache-Control": CHECKED}


def _known(headers: dict[str, str], if_none_match: str | None) -> bool:
    return if_none_match is not None and headers["ETag"] in (each.strip() for each in if_none_match.split(","))
