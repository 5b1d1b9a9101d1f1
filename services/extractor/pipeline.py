"""A folder of images to a committed set of embeddings: source → decode → backend → store. Start reading here."""

from __future__ import annotations

from typing import Any

from shoal.jobs.child import JobContext
from shoal.schemas import ExtractRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

from extractor.jobs.failures import Tolerance, account
from extractor.jobs.plan import open_plan
from extractor.models import catalogue
from extractor.models.model import Model
from extractor.online import job as inline_job
from extractor.online.inline import KIND_PREFIX
from extractor.stream.batches import batches, decode_pool
from extractor.stream.sink import ShardSink


def run(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Do the job of one child process, whichever of the extractor's kinds it is."""
    if ctx.kind.startswith(KIND_PREFIX):
        return inline_job.run(ctx, settings)
    return extract(ctx, settings)


def extract(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Embed every image of a folder that is not embedded yet.

    Parameters
    ----------
    ctx
        The job: an `ExtractRequest`. Its checkpoint names the plan that an earlier attempt froze.
    settings
        Data, models and store roots; decode processes; device.

    Returns
    -------
    dict
        ``embeddings`` (the id), ``rows``, ``failed``, ``dim``, ``resumed_rows``: images that earlier attempts or jobs
        had done, and ``repaired_shards``: how many shards were damaged and are embedded again.
        `extractor.jobs.failures.account` adds what became of the other files.

    Raises
    ------
    TooManyFailures
        More than ``max_failed_fraction`` of the images cannot be embedded. Committed shards are kept.
    ShoalError
        The model, the source or the store cannot be used as the request says.
    """
    request = ExtractRequest.model_validate(ctx.request)
    store = Store(settings.store)
    spec = catalogue.resolve(request.model, settings.models, settings=settings)
    with Model(spec, settings, ctx) as model:
        embeddings = open_plan(ctx, request, model, settings, store)
        tolerance = Tolerance(request.max_failed_fraction, embeddings)
        tolerance.check()
        resumed = embeddings.rows
        if embeddings.missing_shards():
            resumed += embed_missing(ctx, request, embeddings, model, settings, store, tolerance)
    manifest = store.finish_embeddings(embeddings.id)
    return {
        "embeddings": embeddings.id,
        "rows": manifest.rows,
        "failed": manifest.failed,
        "dim": manifest.dim,
        "resumed_rows": resumed,
        "repaired_shards": len(embeddings.repaired_shards),
        **account(store.embeddings(embeddings.id)),
    }


def embed_missing(
    ctx: JobContext,
    request: ExtractRequest,
    embeddings: EmbeddingSet,
    model: Model,
    settings: Settings,
    store: Store,
    tolerance: Tolerance,
) -> int:
    """Embed the shards that are not committed yet, decoding ahead of the network and committing behind it.

    Returns
    -------
    int
        How many rows of these shards an earlier attempt had embedded and saved.
    """
    backend = model.backend_for(embeddings.plan)
    total = embeddings.plan.source.count
    before = embeddings.rows + embeddings.failed
    with (
        decode_pool(request, embeddings.plan, model.spec, settings) as pool,
        ShardSink(store, embeddings, attempt=ctx.attempt, owner=ctx.owner, save_s=settings.save_s) as sink,
    ):
        tolerance.count(sink.resume())
        ctx.progress("embed", before + sink.done, total, "images")
        for batch in batches(ctx, pool, backend, sink.paths(), request.batch_size):
            failures = sink.add(batch)
            ctx.count(embedded=len(batch.outcomes) - len(failures), failed=len(failures))
            tolerance.count(failures)
            ctx.advance(before + sink.kept)
            ctx.progress("embed", before + sink.done, total, "images")
        sink.finish()
        ctx.advance(before + sink.kept)
    return sink.resumed_rows
