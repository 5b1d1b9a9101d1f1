"""The extractor's REST API. It reads and writes the queue and the store, and imports no tensor library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from itertools import product
from pathlib import Path as FolderPath
from typing import Annotated, Literal

import pyarrow as pa
from fastapi import Depends, FastAPI, Path, Query, Response
from shoal.errors import (
    EmbeddingsInUse,
    InvalidRequest,
    JobFinished,
    JobNotFound,
    JsonValue,
    QueueUnavailable,
)
from shoal.jobs.kinds import host_missing
from shoal.jobs.queue import MAX_PAGE, JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import ExtractRequest, Id, Job
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.listing import describe_all
from shoal.store.table_schemas import METADATA_SCHEMA
from shoal.userfiles import below
from shoal.web import (
    DeadlineDep,
    IdempotencyKey,
    QueueDep,
    SettingsDep,
    StoreDep,
    SubmitterDep,
    accepted,
    create_app,
)
from shoal.web.pools import WORK
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat, table_response

from extractor.api import folders, imports, predictions, uploads
from extractor.api.predictions import HostsDep, ModelName, resolve_named
from extractor.api.uploads import ReceiverDep
from extractor.jobs import EXTRACT, IMPORT, OBSOLETE
from extractor.models import catalogue
from extractor.models.spec import ModelSpec
from extractor.online.client import HostClient, HostState
from extractor.remote.allowed import Allowed
from extractor.sources import listing
from extractor.sources.kinds import settings_of_owner, uploaded_path
from extractor.uploads.receive import Receiver

KINDS = (f"{EXTRACT}torch", f"{EXTRACT}tfserving")
EmbeddingsId = Annotated[Id, Path(description="Id of the embeddings.")]
PAGE_ROWS = 100
MAX_PAGE_ROWS = 10_000

router = make_router()


def build(settings: Settings | None = None, queue: JobQueue | None = None, store: Store | None = None) -> FastAPI:
    """The application; arguments that are left out are made from the environment."""
    settings = settings or Settings()
    hosts = HostClient(settings.online, settings.absent_kinds)

    async def check_hosts() -> dict[str, str]:
        states = await hosts.states()
        return {name: "ok" if state.answers else host_missing(name) for name, state in states.items()}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await WORK.run(cancel_obsolete, app.state.queue)
        yield
        await hosts.aclose()

    app = create_app(
        service="extractor",
        routers=[router, folders.router, imports.router, predictions.router, uploads.streaming, uploads.router],
        kinds=(*KINDS, IMPORT),
        summary="Computes embeddings of images with pretrained networks and writes them to the store.",
        inline_paths=["/v1/embeddings"],
        inline_folders=["/predictions/"],
        streamed=uploads.STREAMED,
        hosts=check_hosts,
        lifespan=lifespan,
        settings=settings,
        queue=queue,
        store=store,
    )
    app.state.hosts = hosts
    app.state.uploads = Receiver(settings, app.state.store)
    return app


def cancel_obsolete(queue: JobQueue) -> None:
    """Cancel what an older version left in the queue and no worker runs any more. Nobody waits for it."""
    with suppress(QueueUnavailable):
        for kind, state in product((f"{OBSOLETE}torch", f"{OBSOLETE}tfserving"), (JobState.QUEUED, JobState.RUNNING)):
            for job in queue.list(kind=kind, state=state, limit=MAX_PAGE).jobs:
                with suppress(JobFinished, JobNotFound):
                    queue.cancel(job.id)


async def _states(hosts: HostsDep) -> Mapping[str, HostState]:
    return await hosts.states()


HostStates = Annotated[Mapping[str, HostState], Depends(_states)]


@router.post("/extract", status_code=202, tags=["extract"], responses=problem_responses(409, 422, 503))
def extract(
    body: ExtractRequest,
    response: Response,
    submitter: SubmitterDep,
    settings: SettingsDep,
    deadline: DeadlineDep,
    receiver: ReceiverDep,
    key: IdempotencyKey = None,
) -> Job:
    """Start a job that embeds a folder of images, or uploaded ones. Its result has the id of the embeddings."""
    spec = catalogue.resolve(body.model, settings.models, settings=settings)
    if body.engine not in ("auto", "eager") and not spec.has_engines:
        raise InvalidRequest(spec.no_engines(body.engine), field="engine")

    def check() -> None:
        rooted = settings_of_owner(body, settings, receiver.uploads, submitter.caller.key_id)
        listing.check(
            body.images,
            rooted.data,
            follow_links=rooted.follow_links,
            allowed=Allowed.of(settings),
            deadline=deadline,
        )

    return accepted(submitter.submit(spec.kind, body, key, check), response)


@router.get("/models", tags=["models"], responses=problem_responses(422))
def list_models(settings: SettingsDep, queue: QueueDep, states: HostStates) -> dict[str, list[dict[str, JsonValue]]]:
    """List the models of the catalogue. Others can be used as `timm:<name>` or `open_clip:<name>`."""
    specs = catalogue.all_models(settings.models, settings=settings)
    served = _tensorflow_served(settings, queue)
    rows = [describe(spec, settings, served_elsewhere=served) for spec in specs]
    return {"models": [{**row, "loaded": _loaded(spec, states)} for row, spec in zip(rows, specs, strict=True)]}


@router.get("/models/{name:path}", tags=["models"], responses=problem_responses(404, 422))
def get_model(name: ModelName, settings: SettingsDep, queue: QueueDep, states: HostStates) -> dict[str, JsonValue]:
    """Return a model of the catalogue, `timm:<name>` or `open_clip:<name>`.

    `loaded` says whether a model host has it in memory.
    """
    spec = resolve_named(name, settings)
    row = describe(spec, settings, served_elsewhere=_tensorflow_served(settings, queue))
    return {**row, "loaded": _loaded(spec, states)}


def _loaded(spec: ModelSpec, states: Mapping[str, HostState]) -> bool:
    return spec.name in states[spec.backend].models


def describe(spec: ModelSpec, settings: Settings, *, served_elsewhere: bool) -> dict[str, JsonValue]:
    """A model as JSON, with whether its weights are on this machine and what must be installed to run it.

    Parameters
    ----------
    served_elsewhere
        Whether another process runs TensorFlow's models.
    """
    row = {key: value for key, value in asdict(spec).items() if key != "options"}
    return {
        **row,
        "transform": spec.transform.record(),
        "kind": spec.kind,
        "readiness": spec.readiness(settings.models, offline=settings.offline),
        "needs": spec.needs(served_elsewhere=served_elsewhere),
    }


def _tensorflow_served(settings: Settings, queue: JobQueue) -> bool:
    """Whether a server or a worker runs TensorFlow's models."""
    if settings.tf_serving_url:
        return True
    try:
        return f"{EXTRACT}tfserving" in queue.workers()
    except QueueUnavailable:
        return False


@router.get("/embeddings", tags=["embeddings"])
def list_embeddings(store: StoreDep) -> dict[str, list[dict[str, JsonValue]]]:
    """List all embeddings, finished or not. A damaged set is listed as `id`, `damaged` and the `problem`."""
    return {"embeddings": describe_all(store.embeddings_ids(), store.embeddings, EmbeddingSet.summary)}


@router.get("/embeddings/{embeddings_id}", tags=["embeddings"], responses=problem_responses(404, 422))
def get_embeddings(embeddings_id: EmbeddingsId, store: StoreDep) -> dict[str, JsonValue]:
    """Return a set of embeddings: its plan, and how much of it is committed."""
    return store.embeddings(embeddings_id).summary()


@router.get("/embeddings/{embeddings_id}/errors", tags=["embeddings"], responses=problem_responses(404, 422))
def get_errors(
    embeddings_id: EmbeddingsId,
    store: StoreDep,
    offset: Annotated[int, Query(ge=0, le=2**53, description="Number of images to skip.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of images to return.")] = 100,
) -> dict[str, JsonValue]:
    """List the images that could not be embedded, and why."""
    table = store.embeddings(embeddings_id).errors()
    end = offset + limit
    return {
        "errors": table.slice(offset, limit).to_pylist(),
        "total": table.num_rows,
        "next_offset": end if end < table.num_rows else None,
    }


@router.get(
    "/embeddings/{embeddings_id}/rows",
    tags=["embeddings"],
    responses={**problem_responses(404, 422), **TABLE_RESPONSE},
)
def get_rows(
    embeddings_id: EmbeddingsId,
    store: StoreDep,
    format: Annotated[  # noqa: A002
        Literal["json"] | TableFormat,
        Query(description="Format of the table. `json` is paged; the others are streamed."),
    ] = "json",
    limit: Annotated[
        int | None,
        Query(ge=1, le=2**53, description="Maximum number of rows; for `json` 100 by default, at most 10,000."),
    ] = None,
    cursor: Annotated[str | None, Query(max_length=20, description="`next_cursor` of the previous page.")] = None,
) -> JsonValue:
    """List the rows of embeddings with their images: row, image_id, image_path, label, split, width, height, …"""
    found = store.embeddings(embeddings_id)
    start = first_row(cursor)
    if format == "json":
        return page(found, start, limit)
    stop = found.rows if limit is None else start + limit
    return table_response(row_batches(found, start, stop), METADATA_SCHEMA, format, f"{embeddings_id}-rows")


def first_row(cursor: str | None) -> int:
    """The row at which a page begins.

    Raises
    ------
    InvalidRequest
        ``cursor`` is not the ``next_cursor`` of a page.
    """
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and int(cursor) < 2**53):
        raise InvalidRequest(
            f"`cursor` is {cursor!r}: send `next_cursor` of the previous page, or no cursor for the first page.",
            field="cursor",
        )
    return int(cursor)


def page(embeddings: EmbeddingSet, start: int, limit: int | None) -> dict[str, JsonValue]:
    """Some rows, how many rows the set has, and where the next page begins.

    Raises
    ------
    InvalidRequest
        ``limit`` is larger than a page.
    """
    limit = limit or PAGE_ROWS
    if limit > MAX_PAGE_ROWS:
        raise InvalidRequest(
            f"`limit` is {limit}: a page of JSON has at most {MAX_PAGE_ROWS} rows. Follow `next_cursor`, or send "
            "`format=jsonl`, which streams all rows.",
            field="limit",
        )
    stop = start + limit
    return {
        "rows": [row for batch in row_batches(embeddings, start, stop) for row in batch.to_pylist()],
        "total": embeddings.rows,
        "complete": embeddings.complete,
        "next_cursor": str(stop) if stop < embeddings.rows else None,
    }


def row_batches(embeddings: EmbeddingSet, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """The metadata of the rows from ``start`` to ``stop``."""
    for table in embeddings.iter_metadata(start=start, stop=stop):
        yield from table.to_batches()


@router.delete(
    "/embeddings/{embeddings_id}", status_code=204, tags=["embeddings"], responses=problem_responses(404, 409, 422, 503)
)
def delete_embeddings(embeddings_id: EmbeddingsId, store: StoreDep, queue: QueueDep, settings: SettingsDep) -> None:
    """Delete embeddings that no queued or running job uses."""
    embeddings = store.embeddings_unchecked(embeddings_id)
    for job in queue.unfinished():
        if reads(job, embeddings_id) if embeddings is None else uses(job, embeddings, settings.data):
            raise EmbeddingsInUse(
                f"Job {job.id} ({job.kind}, {job.state}) uses {embeddings_id}. Wait for it, or cancel it with "
                f"`DELETE /jobs/{job.id}`.",
                job=job.id,
            )
    store.delete_embeddings(embeddings_id)


def uses(job: Job, embeddings: EmbeddingSet, root: FolderPath) -> bool:
    """Whether ``job`` reads the embeddings, or may write them, judging by its request."""
    if job.kind in KINDS:
        images = job.request.get("images") or {}
        source = embeddings.plan.source
        path = below(root, str(images.get("path", ".")))
        path = uploaded_path(images["upload"], path) if "upload" in images else path
        same_source = source.kind == "images" and path == below(root, source.path)
        return not embeddings.complete and same_source
    if job.kind == IMPORT and imports.may_fill(job.request, embeddings):
        return True
    return reads(job, embeddings.id)


def reads(job: Job, embeddings_id: str) -> bool:
    """Whether ``job`` names the embeddings in its request."""
    return embeddings_id in _strings(job.request.get("embeddings"))


def _strings(value: JsonValue) -> Iterator[str]:
    """Every string within a JSON value: an id, a list of ids, or an object of both."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in _strings(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _strings(inner))
