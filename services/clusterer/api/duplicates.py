"""The routes of duplicates."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import Path, Query, Response
from fastapi.responses import StreamingResponse
from shoal.errors import JsonValue
from shoal.schemas import DuplicatesRequest, Id, Job
from shoal.schemas.execution import cluster_address
from shoal.store.analyses import DUPLICATES
from shoal.store.listing import describe_all
from shoal.web import IdempotencyKey, SettingsDep, StoreDep, SubmitterDep, accepted
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat

from clusterer.api.parameters import Cursor, IsDecided, LabelText, Limit, PathText, analysis_table, paged
from clusterer.jobs.analysis_plan import sets_of
from clusterer.results.analyses import Chosen, analysis_facts, list_groups

KIND = DUPLICATES.name
DuplicatesId = Annotated[Id, Path(description="Id of the duplicates.")]

router = make_router(tags=["duplicates"])


@router.post("/duplicates", status_code=202, responses=problem_responses(404, 409, 422, 503))
def duplicates(
    body: DuplicatesRequest,
    response: Response,
    submitter: SubmitterDep,
    store: StoreDep,
    settings: SettingsDep,
    key: IdempotencyKey = None,
) -> Job:
    """Start a job that finds images that show the same, and says which of each group to keep. It removes nothing."""
    cluster_address(body.execution, settings)
    return accepted(submitter.submit(KIND, body, key, partial(sets_of, store, body)), response)


@router.get("/duplicates")
def list_duplicates(store: StoreDep) -> dict[str, list[dict[str, JsonValue]]]:
    """List all results of `POST /duplicates`, newest first. A damaged one has only `id`, `damaged` and `problem`."""
    ids = store.analysis_ids(DUPLICATES)
    return {"duplicates": describe_all(ids, lambda each: store.analysis(DUPLICATES, each), analysis_facts)}


@router.get("/duplicates/{duplicates_id}", responses=problem_responses(404, 422))
def get_duplicates(duplicates_id: DuplicatesId, store: StoreDep) -> dict[str, JsonValue]:
    """Return duplicates: what was searched, how it ran, and how many groups and copies there are."""
    return analysis_facts(store.analysis(DUPLICATES, duplicates_id))


@router.get("/duplicates/{duplicates_id}/groups", responses=problem_responses(404, 422))
def get_groups(
    duplicates_id: DuplicatesId,
    store: StoreDep,
    sort: Annotated[
        Literal["size", "similarity", "doubtful"],
        Query(
            description="Order: the largest groups first, those whose least similar images are most similar, or those "
            "whose least similar images are least similar."
        ),
    ] = "size",
    copy: Annotated[
        Literal["file", "pixels", "near"] | None,
        Query(
            description="Only groups whose copies are all of the same `file` as the kept image, of the same `pixels` "
            "or the same file, or of which one is only similar (`near`)."
        ),
    ] = None,
    members: Annotated[int, Query(ge=1, le=1000, description="Maximum number of images to list of a group.")] = 100,
    least: Annotated[
        float | None, Query(ge=-1, le=1, description="Only groups in which any two images are at least so similar.")
    ] = None,
    most: Annotated[
        float | None, Query(ge=-1, le=1, description="Only groups whose least similar images are at most so similar.")
    ] = None,
    q: PathText = None,
    label: LabelText = None,
    decided: IsDecided = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, JsonValue]:
    """List groups of images that show the same.

    Each image has its similarity to the one to keep, what kind of copy it is, whether to keep it, and why, and what is
    decided about it. The one to keep comes first. A group is decided when each of its images is, of two sets each of
    the first.
    """
    found = store.analysis(DUPLICATES, duplicates_id)
    decisions = store.decisions(DUPLICATES, duplicates_id).read().decisions
    start = int(cursor or 0)
    chosen = Chosen(path=q, label=label, decided=decided, least=least, most=most)
    total, groups = list_groups(
        found, sort=sort, start=start, limit=limit, members=members, copy=copy, chosen=chosen, decisions=decisions
    )
    return paged("groups", groups, total, start)


@router.get(
    "/duplicates/{duplicates_id}/{table}",
    response_class=StreamingResponse,
    responses={**problem_responses(404, 422), **TABLE_RESPONSE},
)
def get_table(
    duplicates_id: DuplicatesId,
    table: Annotated[
        Literal["members", "pairs"],
        Path(description="The images of all groups, or the pairs of similar images within them."),
    ],
    store: StoreDep,
    format: Annotated[TableFormat, Query(description="Format of the table.")] = "parquet",  # noqa: A002
) -> Response:
    """Download a table of duplicates.

    Cells of a CSV file that a spreadsheet would compute have a `'` before them.
    """
    found = store.analysis(DUPLICATES, duplicates_id)
    return analysis_table(found, table, format)


@router.delete("/duplicates/{duplicates_id}", status_code=204, responses=problem_responses(404, 422))
def delete_duplicates(duplicates_id: DuplicatesId, store: StoreDep) -> None:
    """Delete the result of a search for duplicates; the images and embeddings stay."""
    store.delete_analysis(DUPLICATES, duplicates_id)
