"""`/clusterings/{id}/names` and `/moves`: names, flags and merges of clusters, and moves of single images.

Every write needs the `ETag` of the state that it was made for, in `If-Match`: of two people who read the same names and
change them, the second is told so. Nothing is overwritten: each write is an entry of a journal, and undoing is one too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal

import numpy as np
from fastapi import Body, Query, Response
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from shoal.errors import InvalidRequest
from shoal.keys import Caller
from shoal.schemas import Request as Schema
from shoal.store import Store
from shoal.store.annotations import Annotations, Changes, Entry, Note, as_json, missing_clusters
from shoal.store.clustering import Clustering
from shoal.store.journal import Journal
from shoal.web import StoreDep
from shoal.web.auth import CallerDep
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from clusterer.api.editing import MOST, WRITES, IfMatch, JournalEntry, Number, author_of, etag_of, expected
from clusterer.api.parameters import ClusteringId, Scored
from clusterer.results.read import scored_set

LONGEST: Final = 200
"""Characters of a name."""
_LINE: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f](?:[^\x00-\x1f\x7f-\x9f\u2028\u2029]*[^\s\x00-\x1f\x7f-\x9f])?")


def _line(text: str) -> str:
    if not _LINE.fullmatch(text):
        raise ValueError("Send one line of text, without control characters, that no space begins or ends.")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(_line)]


class ClusterNote(Schema):
    """What is said about a cluster. A field that is null or left out says nothing."""

    name: Text | None = Field(None, description="Its name. Clusters of the same name are one class in exports.")
    flag: Text | None = Field(None, description="A mark of your own, such as `review` or `ignore`.")
    merged_into: int | None = Field(
        None, ge=0, le=2**31 - 1, description="The cluster that it is part of; that one may be merged itself."
    )


class MoveAnswer(BaseModel):
    """A move of an image, in an entry."""

    embeddings: str
    row: int
    before: int | None = Field(description="The cluster it was moved to before; null: where k-means put it.")
    after: int | None


class FieldAnswer(BaseModel):
    """A change of one field of a cluster, in an entry."""

    cluster: int
    field: Literal["name", "flag", "merged_into"]
    before: str | int | None
    after: str | int | None


class EntryAnswer(JournalEntry):
    """An entry of the journal."""

    clusters: list[FieldAnswer]
    moves: list[MoveAnswer]


class History(BaseModel):
    """A page of the journal, newest entry first."""

    total: int
    entries: list[EntryAnswer]


Notes = Annotated[
    dict[Number, ClusterNote],
    Body(max_length=MOST, examples=[{"3": {"name": "shoes"}, "4": {"merged_into": 3}, "7": {"flag": "review"}}]),
]
NotesPatch = Annotated[
    dict[Number, ClusterNote | None], Body(max_length=MOST, examples=[{"3": {"name": "shoes"}, "4": {"name": None}}])
]
Moves = Annotated[
    dict[Number, Annotated[int, Field(ge=0, le=2**31 - 1)] | None],
    Body(max_length=MOST, examples=[{"17": 3, "18": None}]),
]
NAMES_ANSWER: Final[dict[int | str, dict[str, object]]] = {
    200: {
        "description": "The clusters of which something is said, by number.",
        "headers": {"ETag": {"description": "Send it in `If-Match` to change them.", "schema": {"type": "string"}}},
    }
}
MOVES_ANSWER: Final[dict[int | str, dict[str, object]]] = {
    200: {**NAMES_ANSWER[200], "description": "The cluster that each moved row was moved to, by row."}
}

router = make_router()


@router.get(
    "/clusterings/{clustering_id}/names",
    tags=["names"],
    response_model=dict[str, ClusterNote],
    responses={**NAMES_ANSWER, **problem_responses(404, 422)},
)
def get_names(clustering_id: ClusteringId, store: StoreDep, response: Response) -> dict[str, dict[str, object]]:
    """Return the names, flags and merges of clusters.

    The header `ETag` is the version of these names and of the moves; every change needs it in `If-Match`.
    """
    return _names(store.journal(clustering_id).read(), response)


@router.put(
    "/clusterings/{clustering_id}/names",
    tags=["names"],
    response_model=dict[str, ClusterNote],
    responses={**NAMES_ANSWER, **WRITES},
)
def put_names(
    clustering_id: ClusteringId,
    body: Notes,
    store: StoreDep,
    caller: CallerDep,
    response: Response,
    if_match: IfMatch = None,
) -> dict[str, dict[str, object]]:
    """Replace the names, flags and merges of all clusters: those left out have none afterwards.

    `PATCH` changes some of them. `If-Match` must be the current `ETag`: without it the answer is 428, after somebody
    else's change 412. Nothing is lost: `POST /clusterings/{id}/names/undo` takes a change back.
    """
    notes = {int(number): Note(**note.model_dump()) for number, note in body.items()}
    return _names(_change(store, clustering_id, caller, if_match, lambda now: now.replacing(notes)), response)


@router.patch(
    "/clusterings/{clustering_id}/names",
    tags=["names"],
    response_model=dict[str, ClusterNote],
    responses={**NAMES_ANSWER, **WRITES},
)
def patch_names(
    clustering_id: ClusteringId,
    body: NotesPatch,
    store: StoreDep,
    caller: CallerDep,
    response: Response,
    if_match: IfMatch = None,
) -> dict[str, dict[str, object]]:
    """Change some names, flags or merges: fields left out stay, null removes one, null for a cluster all of its own.

    A cluster may be merged into one that is merged itself; a circle is refused. `If-Match` as for `PUT`.
    """
    empty = ClusterNote().model_dump()
    fields = {
        int(number): empty if note is None else note.model_dump(include=note.model_fields_set)
        for number, note in body.items()
    }
    return _names(_change(store, clustering_id, caller, if_match, lambda now: now.setting(fields)), response)


@router.get(
    "/clusterings/{clustering_id}/moves",
    tags=["names"],
    response_model=dict[str, int],
    responses={**MOVES_ANSWER, **problem_responses(404, 422)},
)
def get_moves(
    clustering_id: ClusteringId, store: StoreDep, response: Response, embeddings: Scored = None
) -> dict[str, int]:
    """Return the images that were moved to another cluster: the cluster of each row."""
    chosen = scored_set(store.clustering(clustering_id), embeddings)
    return _moves(store.journal(clustering_id).read(), chosen, response)


@router.patch(
    "/clusterings/{clustering_id}/moves",
    tags=["names"],
    response_model=dict[str, int],
    responses={**MOVES_ANSWER, **WRITES},
)
def patch_moves(
    clustering_id: ClusteringId,
    body: Moves,
    store: StoreDep,
    caller: CallerDep,
    response: Response,
    embeddings: Scored = None,
    if_match: IfMatch = None,
) -> dict[str, int]:
    """Move images, by row, to other clusters; null moves one back to where k-means put it.

    The clustering stays as it is: exports and `/assignments` show where an image was moved to beside the cluster that
    k-means found. `If-Match` as for `PUT /clusterings/{id}/names`.
    """
    clustering = store.clustering(clustering_id)
    chosen = scored_set(clustering, embeddings)
    rows = {int(row): cluster for row, cluster in body.items()}
    _check_rows(clustering, chosen, rows)
    after = _change(store, clustering_id, caller, if_match, lambda now: now.moving(chosen, rows))
    return _moves(after, chosen, response)


@router.post(
    "/clusterings/{clustering_id}/names/undo",
    tags=["names"],
    response_model=EntryAnswer,
    responses={**WRITES, **problem_responses(409)},
)
def undo(
    clustering_id: ClusteringId,
    store: StoreDep,
    caller: CallerDep,
    response: Response,
    entry: Annotated[
        int | None,
        Query(ge=1, le=2**31 - 1, description="Number of the entry to take back, which may be an undo itself."),
    ] = None,
    if_match: IfMatch = None,
) -> EntryAnswer:
    """Take back a change of names or moves: by default the last one that was not taken back.

    The answer is the new entry. 409: no change is left, or what the entry set was changed again since.
    """
    journal = store.journal(clustering_id)
    before = _expected(journal, if_match)
    after = journal.undo(before, entry, author=author_of(caller))
    response.headers["ETag"] = etag_of(after)
    return _entry(next(journal.entries(after.number)), after)


@router.get(
    "/clusterings/{clustering_id}/names/history",
    tags=["names"],
    responses=problem_responses(404, 422),
)
def get_history(
    clustering_id: ClusteringId,
    store: StoreDep,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of entries to return.")] = 100,
    before: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="Only entries of a lower number: the next page.")
    ] = None,
) -> History:
    """List who changed names and moves, when, and from what to what, newest first."""
    journal = store.journal(clustering_id)
    now = journal.read()
    newest = now.number if before is None else min(now.number, before - 1)
    response.headers["ETag"] = etag_of(now)
    shown = journal.entries(newest)
    return History(total=now.number, entries=[_entry(each, now) for _, each in zip(range(limit), shown, strict=False)])


def _change(
    store: Store,
    clustering_id: str,
    caller: Caller,
    if_match: str | None,
    make: Callable[[Annotations], Changes],
) -> Annotations:
    k = store.clustering(clustering_id).k
    journal = store.journal(clustering_id)
    before = _expected(journal, if_match)
    changes = make(before)
    missing = next(missing_clusters(changes, k), None)
    if missing is not None:
        raise InvalidRequest(
            f"Clustering {clustering_id!r} has clusters 0 to {k - 1}, not {missing}.", field=str(missing), clusters=k
        )
    return journal.append(before, changes, author=author_of(caller))


def _expected(journal: Journal, if_match: str | None) -> Annotations:
    return expected(journal, if_match, "names", "/clusterings/{id}/names")


def _names(annotations: Annotations, response: Response) -> dict[str, dict[str, object]]:
    response.headers["ETag"] = etag_of(annotations)
    return as_json(annotations.notes)


def _moves(annotations: Annotations, embeddings_id: str, response: Response) -> dict[str, int]:
    response.headers["ETag"] = etag_of(annotations)
    rows = annotations.moves.get(embeddings_id, {})
    return {str(row): rows[row] for row in sorted(rows)}


def _entry(entry: Entry, now: Annotations) -> EntryAnswer:
    changes = entry.changes.model_dump()
    return EntryAnswer(
        entry=entry.number,
        at=entry.at,
        author=entry.author,
        undoes=entry.undoes,
        undone=now.undone(entry.number),
        **changes,
    )


def _check_rows(clustering: Clustering, embeddings_id: str, rows: Mapping[int, object]) -> None:
    """Refuse rows that the clustering has not assigned; those of a train set with `where` are some of the set's."""
    numbers = clustering.assignments(embeddings_id, columns=["row"]).column("row").to_numpy()
    missing = next((row for row in sorted(rows, reverse=True) if not _has(numbers, row)), None)
    if missing is None:
        return
    if len(numbers) and int(numbers[-1]) == len(numbers) - 1:
        problem = f"{embeddings_id} has rows 0 to {len(numbers) - 1}, not {missing}."
    else:
        problem = (
            f"Clustering {clustering.id!r} has clustered {len(numbers)} rows of {embeddings_id}, but not {missing}."
        )
    raise InvalidRequest(problem, field=str(missing), rows=len(numbers))


def _has(numbers: NDArray[np.int64], row: int) -> bool:
    at = int(np.searchsorted(numbers, row))
    return at < len(numbers) and int(numbers[at]) == row
