"""The clusterer's REST API: it reads and writes the queue and the store, and imports no clustering library."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from shoal.jobs.queue import JobQueue
from shoal.schemas import ClusterRequest, Id, Job
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.listing import describe_all
from shoal.web import DeadlineDep, IdempotencyKey, SettingsDep, StoreDep, SubmitterDep, accepted, create_app
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat, table_response

from clusterer.api import assign, search, sweeps
from clusterer.jobs.plan import make_plan
from clusterer.results.exports import deleted_sets, described_assignments, described_schema
from clusterer.results.read import (
    describe_cluster,
    facts,
    list_classes,
    list_clusters,
    list_confusion,
    scored_set,
    summary,
)

KIND = "cluster"
ClusteringId = Annotated[Id, Path(description="Id of the clustering.")]

router = make_router()


def build(settings: Settings | None = None, queue: JobQueue | None = None, store: Store | None = None) -> FastAPI:
    """The application; arguments default to the environment's settings."""
    return create_app(
        service="clusterer",
        routers=[router, assign.router, search.router, sweeps.router],
        kinds=(KIND, sweeps.KIND),
        summary="Clusters embeddings with PCA and k-means, and scores the clusters.",
        inline_paths=["/assign", "/search"],
        settings=settings,
        queue=queue,
        store=store,
    )


@router.post("/cluster", status_code=202, tags=["cluster"], responses=problem_responses(404, 409, 422, 503))
def cluster(
    body: ClusterRequest,
    response: Response,
    submitter: SubmitterDep,
    store: StoreDep,
    settings: SettingsDep,
    deadline: DeadlineDep,
    key: IdempotencyKey = None,
) -> Job:
    """Start a job that clusters embeddings and scores the clusters. Its result has the id of the clustering."""
    check = partial(make_plan, store, body, settings.data, deadline=deadline)
    return accepted(submitter.submit(KIND, body, key, check), response)


@router.get("/clusterings", tags=["clusterings"])
def list_clusterings(store: StoreDep) -> dict[str, list[dict[str, Any]]]:
    """List all clusterings, newest first. A damaged one has only `id`, `damaged` and `problem`."""
    return {"clusterings": describe_all(store.clustering_ids(), store.clustering, summary)}


@router.get("/clusterings/{clustering_id}", tags=["clusterings"], responses=problem_responses(404, 422))
def get_clustering(clustering_id: ClusteringId, store: StoreDep) -> dict[str, Any]:
    """Return a clustering: what was clustered, how it ran, and its main metrics."""
    return facts(store.clustering(clustering_id))


@router.delete(
    "/clusterings/{clustering_id}", status_code=204, tags=["clusterings"], responses=problem_responses(404, 422)
)
def delete_clustering(clustering_id: ClusteringId, store: StoreDep) -> None:
    """Delete a clustering and its report."""
    store.delete_clustering(clustering_id)


@router.get("/clusterings/{clustering_id}/metrics", tags=["clusterings"], responses=problem_responses(404, 422))
def get_metrics(clustering_id: ClusteringId, store: StoreDep) -> dict[str, Any]:
    """Return all metrics of a clustering.

    Every scored set has those of each seed, with their mean, deviation and chance level.
    """
    return store.clustering(clustering_id).metrics()


@router.get("/clusterings/{clustering_id}/clusters", tags=["clusters"], responses=problem_responses(404, 422))
def get_clusters(
    clustering_id: ClusteringId,
    store: StoreDep,
    sort: Annotated[Literal["size", "purity", "tightness"], Query(description="Order of the clusters.")] = "size",
    limit: Annotated[int, Query(ge=1, le=10_000, description="Maximum number of clusters to return.")] = 100,
    embeddings: Annotated[Id | None, Query(description="Id of the scored embeddings; the first by default.")] = None,
) -> dict[str, Any]:
    """List the clusters, the largest, purest or tightest first."""
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    clusters = list_clusters(clustering, chosen, sort=sort, limit=limit)
    return {"embeddings": chosen, "total": clustering.k, "clusters": clusters}


@router.get("/clusterings/{clustering_id}/classes", tags=["clusters"], responses=problem_responses(404, 422))
def get_classes(
    clustering_id: ClusteringId,
    store: StoreDep,
    sort: Annotated[
        Literal["label", "worst", "best"], Query(description="Order: by label, or by accuracy, worst or best first.")
    ] = "label",
    limit: Annotated[int, Query(ge=1, le=100_000, description="Maximum number of classes to return.")] = 10_000,
    embeddings: Annotated[Id | None, Query(description="Id of the scored embeddings; the first by default.")] = None,
) -> dict[str, Any]:
    """List the classes.

    Each comes with its number of rows, its most frequent clusters, and its accuracy under either rule.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    classes = list_classes(clustering, chosen, sort=sort)
    return {"embeddings": chosen, "total": len(classes), "classes": classes[:limit]}


@router.get("/clusterings/{clustering_id}/confusion", tags=["clusters"], responses=problem_responses(404, 422))
def get_confusion(
    clustering_id: ClusteringId,
    store: StoreDep,
    rule: Annotated[
        Literal["hungarian", "majority"],
        Query(description="How clusters get classes: one to one (`hungarian`), or the most frequent (`majority`)."),
    ] = "hungarian",
    limit: Annotated[int, Query(ge=1, le=1_000_000, description="Maximum number of cells to return.")] = 10_000,
    embeddings: Annotated[Id | None, Query(description="Id of the scored embeddings; the first by default.")] = None,
) -> dict[str, Any]:
    """List the non-zero cells of the confusion matrix, largest first.

    `predicted` is null for clusters without a class.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    cells = list_confusion(clustering, chosen, rule=rule)
    return {"embeddings": chosen, "rule": rule, "total": len(cells), "cells": cells[:limit]}


@router.get("/clusterings/{clustering_id}/clusters/{cluster}", tags=["clusters"], responses=problem_responses(404, 422))
def get_cluster(
    clustering_id: ClusteringId,
    cluster: Annotated[int, Path(ge=-(2**31), le=2**31 - 1, description="Number of the cluster, from 0.")],
    store: StoreDep,
    embeddings: Annotated[Id | None, Query(description="Id of the scored embeddings; the first by default.")] = None,
    thumbnails: Annotated[bool, Query(description="Whether to add a thumbnail of each member, as a data URI.")] = False,
) -> dict[str, Any]:
    """Return a cluster with its nearest, farthest and borderline members."""
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    return describe_cluster(store, clustering, chosen, cluster, thumbnails=thumbnails)


@router.get(
    "/clusterings/{clustering_id}/assignments",
    tags=["clusterings"],
    response_class=StreamingResponse,
    responses={**problem_responses(404, 422), **TABLE_RESPONSE},
)
def get_assignments(
    clustering_id: ClusteringId,
    store: StoreDep,
    format: Annotated[TableFormat, Query(description="Format of the table.")] = "parquet",  # noqa: A002
) -> Response:
    """Download the cluster of every row of every scored set.

    Each row has the path and label of its image. They are null if the embeddings were deleted; the header
    `Shoal-Deleted-Embeddings` lists such sets.
    """
    clustering = store.clustering(clustering_id)
    schema = described_schema(clustering)
    deleted = ", ".join(deleted_sets(store, clustering))
    return table_response(
        described_assignments(store, clustering, schema),
        schema,
        format,
        f"{clustering_id}-assignments",
        {"Shoal-Deleted-Embeddings": deleted} if deleted else None,
    )


@router.get(
    "/clusterings/{clustering_id}/report",
    tags=["clusterings"],
    response_class=FileResponse,
    responses=problem_responses(404, 422),
)
def get_report(clustering_id: ClusteringId, store: StoreDep) -> FileResponse:
    """Return the report, one self-contained HTML page."""
    clustering = store.clustering(clustering_id)
    return FileResponse(clustering.check(clustering.layout.report_html), media_type="text/html; charset=utf-8")


@router.get(
    "/clusterings/{clustering_id}/contact-sheet",
    tags=["clusterings"],
    response_class=FileResponse,
    responses=problem_responses(404, 422),
)
def get_contact_sheet(clustering_id: ClusteringId, store: StoreDep) -> FileResponse:
    """Return the contact sheet, a PNG. Each line shows the members of a cluster that are nearest to its centroid."""
    clustering = store.clustering(clustering_id)
    return FileResponse(clustering.check(clustering.layout.contact_sheet), media_type="image/png")
