"""`/clusterings/{id}/clusters`: the groups of a clustering, found and sorted, and the images of each."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Path, Query, Response
from pydantic import StringConstraints
from shoal.errors import EmbeddingsNotFound
from shoal.store import Store
from shoal.web import StoreDep
from shoal.web.pools import WORK
from shoal.web.problems import problem_responses
from shoal.web.route import json_response
from shoal.web.route import router as make_router

from clusterer.api.loaded import GroupsDep, LoadedGroups, SetsDep
from clusterer.api.parameters import ClusteringId, Scored
from clusterer.results.groups import View, Wanted, beside, list_groups, list_members
from clusterer.results.images import SetImages
from clusterer.results.named import Named
from clusterer.results.read import describe_cluster, scored_set

MOST_COVERS: Final = 12
"""Nearest rows of each cluster that a clustering keeps."""
Sought = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ClusterNumber = Annotated[
    int, Path(ge=-(2**31), le=2**31 - 1, description="Number of the cluster, from 0; -1 for noise.")
]
Offset = Annotated[int, Query(ge=0, le=2**31 - 1, description="How many to leave out at the beginning.")]

router = make_router()


def wanted_groups(
    sort: Annotated[
        Literal["size", "purity", "tightness", "name", "flag", "number", "distance"],
        Query(description="Order of the clusters; `distance` is that of their centroids from the one of `to`."),
    ] = "size",
    order: Annotated[
        Literal["asc", "desc"] | None,
        Query(description="Direction. By default the largest and the purest first, all else from low to high."),
    ] = None,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Maximum number of clusters to return.")] = 100,
    covers: Annotated[
        int, Query(ge=0, le=MOST_COVERS, description="How many rows nearest to the centroid each cluster comes with.")
    ] = 0,
    q: Annotated[
        Sought | None,
        Query(description="Only clusters with this in their name, or in the label or the path of one of their images."),
    ] = None,
    label: Annotated[
        str | None, Query(min_length=1, max_length=4096, description="Only clusters with images of this label.")
    ] = None,
    flag: Annotated[Sought | None, Query(description="Only clusters with this flag.")] = None,
    flagged: Annotated[bool | None, Query(description="Only clusters with a flag, or only those without.")] = None,
    named: Annotated[bool | None, Query(description="Only clusters with a name, or only those without.")] = None,
    merged: Annotated[
        bool, Query(description="Whether to list groups after merges and moves instead, with figures of their own.")
    ] = False,
    to: Annotated[
        int | None, Query(ge=-1, le=2**31 - 1, description="The cluster that `sort=distance` measures from.")
    ] = None,
    clusters: Annotated[
        str | None,
        Query(
            pattern=r"^(-1|[0-9]{1,9})(,(-1|[0-9]{1,9}))*$",
            max_length=10_000,
            description="Only these clusters: their numbers, with commas between them.",
            examples=["3,17"],
        ),
    ] = None,
) -> Wanted:
    """Which clusters a request asks for."""
    chosen = None if clusters is None else frozenset(int(each) for each in clusters.split(","))
    return Wanted(sort, order, offset, limit, covers, q, label, flag, flagged, named, merged, to, chosen)


@router.get("/clusterings/{clustering_id}/clusters", tags=["clusters"], responses=problem_responses(404, 422))
async def get_clusters(
    clustering_id: ClusteringId,
    store: StoreDep,
    groups: GroupsDep,
    sets: SetsDep,
    wanted: Annotated[Wanted, Depends(wanted_groups)],
    embeddings: Scored = None,
) -> Response:
    """List the clusters that k-means found, the largest first, or those that match.

    `merged_cluster` is the cluster that each one is part of after merges, with its `name` and `flag`. Sizes and other
    figures are those of the clustering itself, before merges and moves. With `merged=true` merged clusters are one
    entry, whose `parts` are their numbers, and the figures are those of the images that are in it now; `tightness`
    is the mean distance of each image from the centroid of the cluster that k-means put it in.

    `total` counts all clusters that match. With `q` or `label`, `matches` is how many images of a cluster do; with
    `covers`, `covers` are the rows nearest to its centroid, for `GET /embeddings/{id}/thumbnails`.
    """
    view = await _view(store, groups, sets, clustering_id, embeddings, images=wanted.needs_images)
    return await WORK.run(_clusters, view, wanted)


@router.get("/clusterings/{clustering_id}/clusters/{cluster}", tags=["clusters"], responses=problem_responses(404, 422))
def get_cluster(
    clustering_id: ClusteringId,
    cluster: ClusterNumber,
    store: StoreDep,
    embeddings: Scored = None,
    thumbnails: Annotated[bool, Query(description="Whether to add a thumbnail of each member, as a data URI.")] = False,
) -> dict[str, Any]:
    """Return a cluster with its nearest, farthest and borderline members."""
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    found = describe_cluster(store, clustering, chosen, cluster, thumbnails=thumbnails)
    return {**found, **Named.read(store, clustering).of_cluster(cluster)}


@router.get(
    "/clusterings/{clustering_id}/clusters/{cluster}/members",
    tags=["clusters"],
    responses=problem_responses(404, 422),
)
async def get_members(
    clustering_id: ClusteringId,
    cluster: ClusterNumber,
    store: StoreDep,
    groups: GroupsDep,
    sets: SetsDep,
    order: Annotated[
        Literal["nearest", "farthest", "borderline"],
        Query(description="Order: by distance from the centroid, or by how near the next centroid is."),
    ] = "nearest",
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of images to return.")] = 100,
    embeddings: Scored = None,
) -> Response:
    """List the images of a cluster, as it is after merges and moves.

    A cluster that was merged answers for the one that it is part of, whose number `cluster` says. Images that were
    moved there come first, with `moved_from`; those moved elsewhere are left out. Distances are from the centroid of
    the cluster that k-means put an image in (`cluster` of each). `is_outlier` is as in `/assign`.

    `previous` and `next` are the groups beside this one by size.
    """
    view = await _view(store, groups, sets, clustering_id, embeddings, images=True)
    return await WORK.run(_members, view, cluster, order, offset, limit)


async def _view(
    store: Store,
    groups: LoadedGroups,
    sets: Any,
    clustering_id: str,
    embeddings: str | None,
    *,
    images: bool,
) -> View:
    loaded = await groups.get(clustering_id)
    chosen = scored_set(loaded.clustering, embeddings)
    named = await WORK.run(lambda: loaded.named(store.journal(clustering_id).read()))
    shown: SetImages | None = None
    if images:
        try:
            shown = await sets.get(chosen)
        except EmbeddingsNotFound:
            # The embeddings were deleted; paths and labels are null.
            shown = None
        if shown is not None and not await WORK.run(loaded.made_of, shown):
            # Made again of other images: their paths and labels are not those of what was clustered.
            shown = None
    return View(loaded, chosen, named, shown)


def _clusters(view: View, wanted: Wanted) -> Response:
    total, clusters = list_groups(view, wanted)
    return json_response({"embeddings": view.embeddings_id, "total": total, "clusters": clusters})


def _members(view: View, cluster: int, order: str, offset: int, limit: int) -> Response:
    found = list_members(view, cluster, order=order, offset=offset, limit=limit)
    return json_response({**found, **beside(view, cluster)})
