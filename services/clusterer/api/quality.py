"""The routes of quality."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import pyarrow.compute as pc
from fastapi import Path, Query, Response
from shoal.errors import JsonValue
from shoal.schemas import Id, Job, QualityRequest
from shoal.store.analyses import QUALITY
from shoal.store.listing import describe_all
from shoal.web import IdempotencyKey, StoreDep, SubmitterDep, accepted
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat

from clusterer.api.parameters import Cursor, IsDecided, LabelText, Limit, PathText, analysis_table, paged
from clusterer.jobs.analysis_plan import set_of
from clusterer.results.analyses import Chosen, analysis_facts, counts, list_rows
from clusterer.results.decisions import Decided

KIND = QUALITY.name
MARKS = {"outliers": "outlier", "labels": "error"}
"""The column that says whether a row counts, by table; every row of the other tables does."""
COUNTED = {"labels": ["label", "suggested"], "images": ["issue"]}
"""The columns whose values are counted, by table."""
QualityId = Annotated[Id, Path(description="Id of the quality check.")]

router = make_router(tags=["quality"])


@router.post("/quality", status_code=202, responses=problem_responses(404, 409, 422, 503))
def quality(
    body: QualityRequest,
    response: Response,
    submitter: SubmitterDep,
    store: StoreDep,
    key: IdempotencyKey = None,
) -> Job:
    """Start a job that finds images that do not belong, labels that are probably wrong, and files that stand out."""
    return accepted(submitter.submit(KIND, body, key, partial(set_of, store, body)), response)


@router.get("/quality")
def list_quality(store: StoreDep) -> dict[str, list[dict[str, JsonValue]]]:
    """List all results of `POST /quality`, newest first. A damaged one has only `id`, `damaged` and `problem`."""
    ids = store.analysis_ids(QUALITY)
    return {"quality": describe_all(ids, lambda each: store.analysis(QUALITY, each), analysis_facts)}


@router.get("/quality/{quality_id}", responses=problem_responses(404, 422))
def get_quality(quality_id: QualityId, store: StoreDep) -> dict[str, JsonValue]:
    """Return a quality check: what was checked, how it ran, and how much was found."""
    return analysis_facts(store.analysis(QUALITY, quality_id))


@router.get("/quality/{quality_id}/{table}", responses={**problem_responses(404, 422), **TABLE_RESPONSE})
def get_quality_rows(
    quality_id: QualityId,
    table: Annotated[
        Literal["outliers", "labels", "images"],
        Path(description="Images far from all others, labels that are doubtful, or files that stand out."),
    ],
    store: StoreDep,
    everything: Annotated[
        bool, Query(alias="all", description="Whether to list all rows, not only those that count.")
    ] = False,
    format: Annotated[  # noqa: A002
        Literal["json"] | TableFormat,
        Query(description="`json` is a page; the other formats are the whole table, always with all rows."),
    ] = "json",
    q: PathText = None,
    label: LabelText = None,
    suggested: Annotated[str | None, Query(max_length=4096, description="Only labels that should be this one.")] = None,
    issue: Annotated[str | None, Query(max_length=40, description="Only files that stand out so.")] = None,
    decided: IsDecided = None,
    counted: Annotated[
        bool,
        Query(
            alias="counts",
            description="Whether to count, in `counts`, how many labels should be which others, or how many files "
            "stand out how: the most frequent first, whatever the other conditions are.",
        ),
    ] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> JsonValue:
    """List what was found, the most striking first, or download the table.

    Each row has what is decided about it. `suggested` and `issue` are conditions of one table and have no effect on the
    others. Cells of a CSV file that a spreadsheet would compute have a `'` before them.
    """
    found = store.analysis(QUALITY, quality_id)
    if format != "json":
        return analysis_table(found, table, format)
    start = int(cursor or 0)
    decisions = store.decisions(QUALITY, quality_id).read().decisions
    marked = None if everything or table not in MARKS else pc.field(MARKS[table])
    chosen = Chosen(path=q, label=label, decided=decided)
    own = {"suggested": suggested} if table == "labels" else {"issue": issue} if table == "images" else {}
    where = chosen.findings(decisions, own, marked)
    total, rows = list_rows(found, table, start=start, limit=limit, where=where)
    Decided(found, decisions).add_to(rows)
    page = paged("rows", rows, total, start)
    if counted:
        page["counts"] = counts(found, table, COUNTED[table], marked) if table in COUNTED else []
    return page


@router.delete("/quality/{quality_id}", status_code=204, responses=problem_responses(404, 422))
def delete_quality(quality_id: QualityId, store: StoreDep) -> None:
    """Delete a quality check."""
    store.delete_analysis(QUALITY, quality_id)
