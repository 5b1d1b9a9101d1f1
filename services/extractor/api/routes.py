"""The extractor's REST API. It only reads and writes the queue and the store: no tensor library is imported here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path as FolderPath
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Response
from shoal.errors import EmbeddingsInUse, ModelNotFound, QueueUnavailable, UnknownModel
from shoal.jobs.queue import JobQueue
from shoal.schemas import ExtractRequest, Id, Job
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.listing import describe_all
from shoal.store.records import METADATA_SCHEMA
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
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.tables import TABLE_RESPONSE, TableFormat, table_response

from extractor.api import predictions as openai
from extractor.api import rows
from extractor.models import catalogue
from extractor.models.spec import ModelSpec
from extractor.sources import listing as sources

KINDS = ("extract:torch", "extract:tfserving")

router = make_router()


def build(settings: Settings | None = None, queue: JobQueue | None = None, store: Store | None = None) -> FastAPI:
    """The application; what it works on comes from the environment when left out."""
    return create_app(
        service="extractor",
        routers=[router, openai.router],
        kinds=KINDS,
        summary="Computes embeddings of images with pretrained networks and writes them to the store.",
        inline_paths=["/v1/embeddings"],
        settings=settings,
        queue=queue,
        store=store,
    )


@router.post("/extract", status_code=202, tags=["extract"], responses=problem_responses(409, 422, 503))
def extract(
    body: ExtractRequest,
    response: Response,
    submitter: SubmitterDep,
    settings: SettingsDep,
    deadline: DeadlineDep,
    key: IdempotencyKey = None,
) -> Job:
    """Embed a folder of images. The answer is a job; its result names the embeddings."""
    spec = catalogue.resolve(body.model, settings.models, settings=settings)
    check = partial(sources.check, body.images, settings.data, follow_links=settings.follow_links, deadline=deadline)
    return accepted(submitter.submit(spec.kind, body, key, check), response)


@router.get("/models", tags=["models"], responses=problem_responses(422))
def list_models(settings: SettingsDep, queue: QueueDep) -> dict[str, list[dict[str, Any]]]:
    """The catalogue. Any model of timm can be asked for beside it, as `timm:<name>`."""
    specs = catalogue.all_models(settings.models, settings=settings)
    served = _tensorflow_is_run(settings, queue)
    return {"models": [describe(spec, settings, served_elsewhere=served) for spec in specs]}


@router.get("/models/{name:path}", tags=["models"], responses=problem_responses(404, 422))
def get_model(name: Annotated[str, Path(max_length=300)], settings: SettingsDep, queue: QueueDep) -> dict[str, Any]:
    """One model: of the catalogue, or `timm:<name>`."""
    try:
        spec = catalogue.resolve(name, settings.models, settings=settings)
    except UnknownModel as error:
        # In a request's body an unknown model is a wrong field; here it is a resource that is not there.
        raise ModelNotFound(error.detail, **error.members) from None
    return describe(spec, settings, served_elsewhere=_tensorflow_is_run(settings, queue))


def describe(spec: ModelSpec, settings: Settings, *, served_elsewhere: bool) -> dict[str, Any]:
    """A model as JSON, with whether its weights are here and what has to be installed to run it.

    Parameters
    ----------
    served_elsewhere
        Whether somebody else runs TensorFlow's models.
    """
    row = {key: value for key, value in asdict(spec).items() if key != "options"}
    return {
        **row,
        "kind": spec.kind,
        "readiness": spec.readiness(settings.models, offline=settings.offline),
        "needs": spec.needs(served_elsewhere=served_elsewhere),
    }


def _tensorflow_is_run(settings: Settings, queue: JobQueue) -> bool:
    """Whether TensorFlow's models have a server or a worker beyond this process."""
    if settings.tf_serving_url:
        return True
    try:
        return "extract:tfserving" in queue.workers()
    except QueueUnavailable:
        return False


@router.get("/embeddings", tags=["embeddings"])
def list_embeddings(store: StoreDep) -> dict[str, list[dict[str, Any]]]:
    """All embeddings, finished or not; a damaged set is listed as `id`, `damaged` and the `problem`."""
    return {"embeddings": describe_all(store.embeddings_ids(), store.embeddings, EmbeddingSet.summary)}


@router.get("/embeddings/{embeddings_id}", tags=["embeddings"], responses=problem_responses(404, 422))
def get_embeddings(embeddings_id: Id, store: StoreDep) -> dict[str, Any]:
    """One set of embeddings: its plan and how much of it is there."""
    return store.embeddings(embeddings_id).summary()


@router.get("/embeddings/{embeddings_id}/errors", tags=["embeddings"], responses=problem_responses(404, 422))
def get_errors(
    embeddings_id: Id,
    store: StoreDep,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """The images that could not be embedded, and why."""
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
    embeddings_id: Id,
    store: StoreDep,
    format: Annotated[Literal["json"] | TableFormat, Query(description="json is paged, the rest streams.")] = "json",  # noqa: A002
    limit: Annotated[
        int | None, Query(ge=1, le=2**53, description="Rows at most; of json 100 by default and 10,000 at most.")
    ] = None,
    cursor: Annotated[str | None, Query(max_length=20, description="`next_cursor` of the page before.")] = None,
) -> Any:
    """The rows of an embeddings set with their images: row, image_id, image_path, label, split, width, height, …"""
    found = store.embeddings(embeddings_id)
    start = rows.start_of(cursor)
    if format == "json":
        return rows.page(found, start, limit)
    stop = found.rows if limit is None else start + limit
    return table_response(rows.batches(found, start, stop), METADATA_SCHEMA, format, f"{embeddings_id}-rows")


@router.delete(
    "/embeddings/{embeddings_id}", status_code=204, tags=["embeddings"], responses=problem_responses(404, 409, 422, 503)
)
def delete_embeddings(embeddings_id: Id, store: StoreDep, queue: QueueDep, settings: SettingsDep) -> None:
    """Delete embeddings that no job waits for or works on."""
    embeddings = store.embeddings_unchecked(embeddings_id)
    for job in queue.unfinished():
        if reads(job, embeddings_id) if embeddings is None else uses(job, embeddings, settings.data):
            raise EmbeddingsInUse(
                f"The job {job.id} ({job.kind}, {job.state}) uses {embeddings_id}: wait for it, or cancel it with "
                f"DELETE /jobs/{job.id}.",
                job=job.id,
            )
    store.delete_embeddings(embeddings_id)


def uses(job: Job, embeddings: EmbeddingSet, root: FolderPath) -> bool:
    """Whether ``job`` reads the embeddings, or is writing them as far as its request tells."""
    if job.kind in KINDS:
        images = job.request.get("images") or {}
        source = embeddings.plan.source
        same_source = source.kind == "images" and below(root, str(images.get("path"))) == below(root, source.path)
        return not embeddings.complete and same_source
    return reads(job, embeddings.id)


def reads(job: Job, embeddings_id: str) -> bool:
    """Whether ``job`` names the embeddings in its request."""
    return embeddings_id in _texts(job.request.get("embeddings"))


def _texts(value: Any) -> Iterator[str]:
    """Every text within a JSON value: an id, a list of ids, or an object of both."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in _texts(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _texts(inner))
