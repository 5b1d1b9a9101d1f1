"""A folder of images to a committed set of embeddings: source → decode → backend → store. Start reading here."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.errors import JsonValue
from shoal.jobs.child import JobContext
from shoal.schemas import ExtractRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

from extractor.backends.base import Backend
from extractor.backends.loading import ModelLoader
from extractor.images.pool import DecodePool
from extractor.jobs.engine import noted
from extractor.jobs.extract import FailureCounter, open_plan, outcome_of_files
from extractor.jobs.reuse import StoredRows, find_stored_rows
from extractor.models import catalogue
from extractor.sources.reading import located_images
from extractor.sources.source import Place
from extractor.sources.uploaded import settings_for
from extractor.stream.batches import batches, decode_pool, sample_pixels
from extractor.stream.busy import Stages
from extractor.stream.sink import ShardSink


def run(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Run the job of a child process, which is of kind ``extract:<backend>``."""
    return extract(ctx, settings)


def extract(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Embed every image of a folder that is not embedded yet.

    Parameters
    ----------
    ctx
        The job, with an `ExtractRequest`. Its checkpoint names the plan that an earlier attempt froze.
    settings
        Data, models and store roots; decode processes; device.

    Returns
    -------
    dict
        ``embeddings`` (the id), ``rows``, ``failed``, ``dim``, ``resumed_rows``: images that earlier attempts or jobs
        had embedded, ``reused_rows``: rows that this attempt took over from other sets, ``repaired_shards``: how many
        shards were damaged and are embedded again, ``engine``: what ran, and why
        (`extractor.jobs.engine.EngineChoice`), and the fields of `extractor.jobs.extract.outcome_of_files`.

    Raises
    ------
    TooManyFailures
        More than ``max_failed_fraction`` of the images cannot be embedded. Committed shards are kept.
    ShoalError
        The model, the source or the store cannot be used.
    """
    request = ExtractRequest.model_validate(ctx.request)
    store = Store(settings.store)
    settings = settings_for(request.images, settings, store)
    spec = catalogue.resolve(request.model, settings.models, settings=settings)
    with ExitStack() as stack:

        @cache
        def pool() -> DecodePool:
            made = stack.enter_context(decode_pool(request, spec, settings))
            made.start()
            return made

        def sample(listing: pa.Table, count: int) -> NDArray[np.uint8]:
            ctx.progress("engine")
            return sample_pixels(ctx, pool(), request, settings, listing, count)

        # The decode processes start while the network is loaded.
        model = stack.enter_context(ModelLoader(spec, settings, ctx, begin=pool))
        embeddings = open_plan(ctx, request, model, settings, store, sample)
        failures = FailureCounter(request.max_failed_fraction, embeddings)
        failures.check()
        resumed, reused = embeddings.rows, 0
        if embeddings.missing_shards():
            backend = model.backend_for(embeddings.plan)
            stored = find_stored_rows(
                store, embeddings, request.reuse, pool, lambda rows: ctx.progress("reuse", rows, unit="rows")
            )
            saved, reused = embed_missing(ctx, request, embeddings, backend, pool(), settings, store, failures, stored)
            resumed += saved
    manifest = store.finish_embeddings(embeddings.id)
    return {
        "embeddings": embeddings.id,
        "rows": manifest.rows,
        "failed": manifest.failed,
        "dim": manifest.dim,
        "resumed_rows": resumed,
        "reused_rows": reused,
        "repaired_shards": len(embeddings.repaired_shards),
        "engine": noted(embeddings, spec),
        **outcome_of_files(store.embeddings(embeddings.id)),
    }


def embed_missing(
    ctx: JobContext,
    request: ExtractRequest,
    embeddings: EmbeddingSet,
    backend: Backend,
    pool: DecodePool,
    settings: Settings,
    store: Store,
    failures: FailureCounter,
    stored: StoredRows | None = None,
) -> tuple[int, int]:
    """Embed the shards that are not committed yet, decoding ahead of the network and committing behind it.

    Returns
    -------
    tuple of int
        How many of these shards' rows an earlier attempt had embedded and saved, and how many come from ``stored``.
    """
    reused = 0
    total = embeddings.plan.source.count
    before = embeddings.rows + embeddings.failed
    place = Place.of(request.images, settings.data, follow_links=settings.follow_links)
    stages = Stages(lambda: pool.busy_s, pool.workers)
    with ShardSink(
        store, embeddings, attempt=ctx.attempt, owner=ctx.owner, save_s=settings.save_s, writing=stages.write
    ) as sink:
        failures.add(sink.resume())
        ctx.progress("embed", before + sink.done, total, "images")
        images = located_images(sink.listed(), place)
        for batch in batches(ctx, pool, backend, images, request.batch_size, stages.network, stored):
            failed = sink.add(batch)
            reused += batch.reused
            embedded = len(batch.outcomes) - len(failed) - batch.reused
            ctx.count(embedded=embedded, failed=len(failed), **({"reused": batch.reused} if batch.reused else {}))
            failures.add(failed)
            ctx.advance(before + sink.kept)
            ctx.progress("embed", before + sink.done, total, "images", stages.detail())
        sink.finish()
        ctx.advance(before + sink.kept)
    return sink.resumed_rows, reused
