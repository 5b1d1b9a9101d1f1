"""`/duplicates/{id}/decisions` and `/quality/{id}/decisions`: what people decide about the images that were found.

As names of clusters are, decisions are kept in a journal: every write needs the `ETag` of the state that it was made
for, in `If-Match`, and can be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import Body, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field
from shoal.errors import InvalidRequest
from shoal.schemas import Id
from shoal.schemas import Request as Schema
from shoal.store import Store
from shoal.store.analyses import ANALYSES, DUPLICATES, AnalysisKind
from shoal.store.annotations import Annotations, Entry
from shoal.store.journal import Journal
from shoal.web import StoreDep
from shoal.web.auth import CallerDep
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import MEDIA_TYPES, TableFormat, table_response

from clusterer.api.editing import MOST, WRITES, IfMatch, JournalEntry, Number, author_of, etag_of, expected
from clusterer.results.decisions import Decided
from clusterer.results.tools import safe_texts

LONGEST: Final = 4096
"""Characters of a label."""
TEXT: Final = "text/plain; charset=utf-8"


class DecisionBody(Schema):
    """What is decided about an image. A field that is null says nothing; one that is left out stays as it is."""

    action: Literal["keep", "drop"] | None = Field(None, description="Whether it stays in the set.")
    label: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST,
        description="The label that is right for it, which may be the one that it has. Of a quality check only.",
    )


class DecisionChangeAnswer(BaseModel):
    """A change of the decision about one image, in an entry."""

    row: int
    before: DecisionBody | None
    after: DecisionBody | None


class DecisionEntry(JournalEntry):
    """An entry of the journal."""

    decisions: list[DecisionChangeAnswer]


class DecisionHistory(BaseModel):
    """A page of the journal, newest entry first."""

    total: int
    entries: list[DecisionEntry]


class DecisionSummary(BaseModel):
    """How much is decided."""

    decided: int = Field(description="Images of which something is decided.")
    keep: int
    drop: int
    labels: int = Field(description="Images of which it is said which label is right.")
    drops: int = Field(description="Images to be dropped in all: as decided, otherwise as suggested by duplicates.")


async def _kind(request: Request) -> AnalysisKind:
    name: str = request.scope["route"].path.split("/")[1]
    return ANALYSES[name]


Kind = Annotated[AnalysisKind, Depends(_kind)]
Which = Annotated[Id, Path(description="Id of the duplicates or of the quality check.")]
Patch = Annotated[
    dict[Number, DecisionBody | None],
    Body(max_length=MOST, examples=[{"17": {"action": "drop"}, "18": {"label": "boot"}, "19": None}]),
]
ETAG: Final[dict[str, object]] = {
    "ETag": {"description": "Send it in `If-Match` to change them.", "schema": {"type": "string"}}
}
ANSWER: Final[dict[int | str, dict[str, object]]] = {
    200: {"description": "What is decided about each row.", "headers": ETAG}
}

router = make_router(tags=["decisions"])
Handler = TypeVar("Handler", bound=Callable[..., object])


def _route(method: str, path: str = "", **options: Any) -> Callable[[Handler], Handler]:
    """A route of both kinds of results."""

    def add(handler: Handler) -> Handler:
        for kind in ANALYSES:
            router.add_api_route(f"/{kind}/{{result_id}}/decisions{path}", handler, methods=[method], **options)
        return handler

    return add


@_route("GET", response_model=dict[str, DecisionBody], responses={**ANSWER, **problem_responses(404, 422)})
def get_decisions(
    kind: Kind,
    result_id: Which,
    store: StoreDep,
    response: Response,
    limit: Annotated[int | None, Query(ge=0, le=10**9, description="Maximum number of rows; all by default.")] = None,
) -> dict[str, dict[str, object]]:
    """Return what is decided about each row, by its number; of duplicates against a second set, rows of the first.

    The header `ETag` is the version of the decisions; every change needs it in `If-Match`.
    """
    now = store.decisions(kind, result_id).read()
    response.headers["ETag"] = etag_of(now)
    return _as_json(now, sorted(now.decisions)[:limit])


@_route("PATCH", response_model=dict[str, DecisionBody], responses={**ANSWER, **WRITES})
def patch_decisions(
    kind: Kind,
    result_id: Which,
    body: Patch,
    store: StoreDep,
    caller: CallerDep,
    response: Response,
    if_match: IfMatch = None,
) -> dict[str, dict[str, object]]:
    """Decide about images, by row; null takes back what was decided about one. The answer has the rows of the request.

    `If-Match` must be the current `ETag`: without it the answer is 428, after somebody else's change 412. Nothing is
    removed: `GET …/decisions/export` lists the images, and `where.not_duplicates_of` of `POST /cluster` leaves those
    of duplicates out.
    """
    found = store.analysis(kind, result_id)
    journal = store.decisions(kind, result_id)
    before = _expected(journal, if_match, kind, result_id)
    rows = {
        int(row): None if each is None else each.model_dump(include=each.model_fields_set) for row, each in body.items()
    }
    labelled = next((row for row, fields in rows.items() if fields and fields.get("label") is not None), None)
    if kind is DUPLICATES and labelled is not None:
        problem = "Duplicates take `action` only: say of a quality check which label is right."
        raise InvalidRequest(problem, field=f"{labelled}.label")
    Decided(found, before.decisions).require(sorted(rows))
    after = journal.append(before, before.deciding(rows), author=author_of(caller))
    response.headers["ETag"] = etag_of(after)
    return _as_json(after, [row for row in sorted(rows) if row in after.decisions])


@_route("GET", "/summary", responses={**ANSWER, **problem_responses(404, 422)})
def get_summary(kind: Kind, result_id: Which, store: StoreDep, response: Response) -> DecisionSummary:
    """Return how much is decided, and how many images are to be dropped."""
    decided, now = _decided(store, kind, result_id)
    response.headers["ETag"] = etag_of(now)
    return DecisionSummary(**decided.summary())


@_route(
    "GET",
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The list.", "content": {media: {} for media in (TEXT, *MEDIA_TYPES.values())}},
        **problem_responses(404, 422),
    },
)
def export_decisions(
    kind: Kind,
    result_id: Which,
    store: StoreDep,
    format: Annotated[  # noqa: A002
        Literal["txt"] | TableFormat,
        Query(description="`txt`: the paths of the images to drop, one a line; or the format of a table."),
    ],
    decided: Annotated[
        bool, Query(description="Only images of which something is decided, not those that duplicates suggest to drop.")
    ] = False,
) -> Response:
    """Download the images to drop, and what is decided, as a list.

    Of duplicates: every image that is to be dropped or of which something is decided, with what is `suggested`, what
    is `decided` and the `action` that follows. Of a quality check: what is decided, with the label that is right as
    `new_label`. Cells of a CSV file that a spreadsheet would compute have a `'` before them.
    """
    found, _ = _decided(store, kind, result_id)
    name = f"{result_id}-decisions"
    if format == "txt":
        text = "".join(f"{path}\n" for path in found.paths(only_decided=decided))
        headers = {"Content-Disposition": f'attachment; filename="{name}.txt"'}
        return PlainTextResponse(text, headers=headers)
    table = found.table(only_decided=decided)
    batches = iter(table.to_batches())
    return table_response(safe_texts(batches) if format == "csv" else batches, table.schema, format, name)


@_route("POST", "/undo", responses={**WRITES, **problem_responses(409)})
def undo_decision(
    kind: Kind,
    result_id: Which,
    store: StoreDep,
    caller: CallerDep,
    response: Response,
    entry: Annotated[
        int | None,
        Query(ge=1, le=2**31 - 1, description="Number of the entry to take back, which may be an undo itself."),
    ] = None,
    if_match: IfMatch = None,
) -> DecisionEntry:
    """Take back a change of decisions: by default the last one that was not taken back. The answer is the new entry.

    409: no change is left, or what the entry set was changed again since.
    """
    journal = store.decisions(kind, result_id)
    before = _expected(journal, if_match, kind, result_id)
    after = journal.undo(before, entry, author=author_of(caller))
    response.headers["ETag"] = etag_of(after)
    return _entry(next(journal.entries(after.number)), after)


@_route("GET", "/history", responses=problem_responses(404, 422))
def get_decision_history(
    kind: Kind,
    result_id: Which,
    store: StoreDep,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of entries to return.")] = 100,
    before: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="Only entries of a lower number: the next page.")
    ] = None,
) -> DecisionHistory:
    """List who decided what, and when, newest first."""
    journal = store.decisions(kind, result_id)
    now = journal.read()
    newest = now.number if before is None else min(now.number, before - 1)
    response.headers["ETag"] = etag_of(now)
    shown = zip(range(limit), journal.entries(newest), strict=False)
    return DecisionHistory(total=now.number, entries=[_entry(each, now) for _, each in shown])


def _decided(store: Store, kind: AnalysisKind, result_id: str) -> tuple[Decided, Annotations]:
    found = store.analysis(kind, result_id)
    now = store.decisions(kind, result_id).read()
    return Decided(found, now.decisions), now


def _expected(journal: Journal, if_match: str | None, kind: AnalysisKind, result_id: str) -> Annotations:
    return expected(journal, if_match, "decisions", f"/{kind.name}/{result_id}/decisions")


def _as_json(now: Annotations, rows: list[int]) -> dict[str, dict[str, object]]:
    return {str(row): now.decisions[row].model_dump() for row in rows}


def _entry(entry: Entry, now: Annotations) -> DecisionEntry:
    changes = [each.model_dump() for each in entry.changes.decisions]
    facts = {"entry": entry.number, "at": entry.at, "author": entry.author, "undoes": entry.undoes}
    return DecisionEntry.model_validate({**facts, "undone": now.undone(entry.number), "decisions": changes})
