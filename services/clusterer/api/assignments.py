"""`POST /assign`, and what such jobs leave: the clusters of an embeddings set, and its drift."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Path, Query, Response
from fastapi.responses import StreamingResponse
from shoal.errors import JsonValue
from shoal.schemas import AssignRequest, Id, Job
from shoal.schemas.execution import cluster_address
from shoal.store.listing import describe_all
from shoal.web import IdempotencyKey, SettingsDep, StoreDep, SubmitterDep, accepted
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat, table_response

from clusterer.jobs.assign_plan import plan_assign
from clusterer.results.assigned import ClusterOrder, described_rows, facts, list_clusters, rows_schema, summary
from clusterer.results.exports import deleted_headers
from clusterer.results.tools import safe_texts

KIND = "assign"
AssignmentsId = Annotated[Id, Path(description="Id of the assignments.")]
ROUTE = "/assignments/{assignments_id}"

router = make_router(tags=["assign"])


@router.post("/assign", status_code=202, responses=problem_responses(404, 409, 422, 503))
def assign_embeddings(
    body: AssignRequest,
    response: Response,
    submitter: SubmitterDep,
    store: StoreDep,
    settings: SettingsDep,
    key: IdempotencyKey = None,
) -> Job:
    """Start a job that assigns all rows of an embeddings set to a clustering, and states how they differ from its own.

    Its result has the id of the assignments. The clusters, distances and margins are those of a set that the clustering
    scored.
    """
    cluster_address(body.execution, settings)
    return accepted(submitter.submit(KIND, body, key, partial(plan_assign, store, body)), response)


@router.get("/assignments")
def list_assignments(store: StoreDep) -> dict[str, list[dict[str, JsonValue]]]:
    """List all assignments, newest first. Damaged ones have only `id`, `damaged` and `problem`."""
    return {"assignments": describe_all(store.assigned_ids(), store.assigned, summary)}


@router.get(ROUTE, responses=problem_responses(404, 422))
def get_assigned(assignments_id: AssignmentsId, store: StoreDep) -> dict[str, JsonValue]:
    """Return assignments: what was assigned, how it ran, and the drift against the clustering's train set."""
    return facts(store.assigned(assignments_id))


@router.get(
    f"{ROUTE}/rows",
    response_class=StreamingResponse,
    responses={**problem_responses(404, 422), **TABLE_RESPONSE},
)
def get_assigned_rows(
    assignments_id: AssignmentsId,
    store: StoreDep,
    format: Annotated[TableFormat, Query(description="Format of the table.")] = "parquet",  # noqa: A002
) -> Response:
    """Download the cluster of every row.

    Each row has the path and label of its image, and the label and name of its cluster. Path and label are null if the
    embeddings were deleted, names if the clustering was, with all merges and moves: the headers
    `Shoal-Deleted-Embeddings` and `Shoal-Deleted-Clustering` name them. Cells of a CSV file that a spreadsheet would
    compute have a `'` before them.
    """
    assigned = store.assigned(assignments_id)
    batches = described_rows(store, assigned)
    return table_response(
        safe_texts(batches) if format == "csv" else batches,
        rows_schema(assigned),
        format,
        f"{assignments_id}-rows",
        deleted_headers(store, assigned),
    )


@router.get(f"{ROUTE}/clusters", responses=problem_responses(404, 422))
def get_assigned_clusters(
    assignments_id: AssignmentsId,
    store: StoreDep,
    sort: Annotated[
        ClusterOrder, Query(description="Order: by rows, by how much the share grew or shrank, by outliers or by psi.")
    ] = "size",
    limit: Annotated[int, Query(ge=1, le=10_000, description="Maximum number of clusters to return.")] = 100,
) -> dict[str, JsonValue]:
    """List the clusters with their sizes beside those of the train set, their outliers, and their part of the drift."""
    assigned = store.assigned(assignments_id)
    return {"total": assigned.spec["k"], "clusters": list_clusters(assigned, sort=sort, limit=limit)}


@router.delete(ROUTE, status_code=204, responses=problem_responses(404, 422))
def delete_assigned(assignments_id: AssignmentsId, store: StoreDep) -> None:
    """Delete assignments."""
    store.delete_assigned(assignments_id)
