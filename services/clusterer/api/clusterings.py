"""The clusterer's REST API: it reads and writes the queue and the store, and imports no clustering library."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from shoal.jobs.queue import JobQueue
from shoal.schemas import ClusterRequest, Job
from shoal.schemas.execution import cluster_address
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.listing import describe_all
from shoal.web import DeadlineDep, IdempotencyKey, SettingsDep, StoreDep, SubmitterDep, accepted, create_app
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat, table_response

from clusterer.api import (
    assign,
    assignments,
    compare,
    decisions,
    duplicates,
    exports,
    groups,
    iterations,
    map_points,
    names,
    pictures,
    quality,
    search,
    suggestions,
    sweeps,
)
from clusterer.api.map import router as map_router
from clusterer.api.parameters import ClusteringId, Scored
from clusterer.jobs.plan import make_plan
from clusterer.results.exports import deleted_headers, named_assignments, named_schema
from clusterer.results.named import Named, with_names
from clusterer.results.read import (
    facts,
    list_classes,
    list_confusion,
    scored_set,
    summary,
)
from clusterer.results.report.policy import report_policy
from clusterer.results.tools import safe_texts
from clusterer.web import pages, proxy

KIND = "cluster"
HTML = "text/html; charset=utf-8"

router = make_router()


def build(settings: Settings | None = None, queue: JobQueue | None = None, store: Store | None = None) -> FastAPI:
    """The application; arguments default to the environment's settings."""
    return create_app(
        service="clusterer",
        routers=[
            router,
            assign.router,
            assignments.router,
            compare.router,
            decisions.router,  # Before the tables, whose routes would take `decisions` for one.
            duplicates.router,
            exports.router,
            groups.router,
            map_router,
            iterations.router,
            map_points.router,
            names.router,
            pictures.router,
            quality.router,
            search.router,
            suggestions.router,
            sweeps.router,
            proxy.router,
            pages.router,
        ],
        open_pages=pages.OPEN,
        streamed=proxy.STREAMED,
        kinds=(KIND, sweeps.KIND, assignments.KIND, duplicates.KIND, quality.KIND),
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
    cluster_address(body.execution, settings)
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
    """Delete a clustering, its report and its names."""
    store.delete_clustering(clustering_id)


@router.get("/clusterings/{clustering_id}/metrics", tags=["clusterings"], responses=problem_responses(404, 422))
def get_metrics(clustering_id: ClusteringId, store: StoreDep) -> dict[str, Any]:
    """Return all metrics of a clustering.

    Every scored set has those of each seed, with their mean, deviation and chance level.
    """
    return store.clustering(clustering_id).metrics()


@router.get("/clusterings/{clustering_id}/classes", tags=["clusters"], responses=problem_responses(404, 422))
def get_classes(
    clustering_id: ClusteringId,
    store: StoreDep,
    sort: Annotated[
        Literal["label", "worst", "best"], Query(description="Order: by label, or by accuracy, worst or best first.")
    ] = "label",
    limit: Annotated[int, Query(ge=1, le=100_000, description="Maximum number of classes to return.")] = 10_000,
    embeddings: Scored = None,
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
    embeddings: Scored = None,
) -> dict[str, Any]:
    """List the non-zero cells of the confusion matrix, largest first.

    `predicted` is null for clusters without a class.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    cells = list_confusion(clustering, chosen, rule=rule)
    return {"embeddings": chosen, "rule": rule, "total": len(cells), "cells": cells[:limit]}


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

    `cluster` is the cluster that k-means or a head found, with a head's `probability`; `merged_cluster` the one that
    its image is in after moves and merges, with its `name` and `flag`, which are null where
    `PUT /clusterings/{id}/names` gave none. In CSV, names and flags that a spreadsheet would compute have a `'` before
    them; `/export` makes all cells safe.

    Each row has the path and label of its image. They are null if the embeddings were deleted; the header
    `Shoal-Deleted-Embeddings` lists such sets.
    """
    clustering = store.clustering(clustering_id)
    schema = named_schema(clustering)
    batches = named_assignments(store, clustering, Named.read(store, clustering))
    return table_response(
        safe_texts(batches, ("name", "flag")) if format == "csv" else batches,
        schema,
        format,
        f"{clustering_id}-assignments",
        deleted_headers(store, clustering),
    )


@router.get(
    "/clusterings/{clustering_id}/report",
    tags=["clusterings"],
    response_class=FileResponse,
    responses=problem_responses(404, 422),
)
def get_report(clustering_id: ClusteringId, store: StoreDep) -> Response:
    """Return the report, one self-contained HTML page, with the names of clusters beside their numbers."""
    clustering = store.clustering(clustering_id)
    path, named = clustering.check(clustering.layout.report_html), Named.read(store, clustering)
    policy = report_policy(path)
    headers = {"Content-Security-Policy": policy} if policy else None
    if not named.spoken:
        return FileResponse(path, media_type=HTML, headers=headers)
    return Response(with_names(path.read_bytes(), named), media_type=HTML, headers=headers)


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
