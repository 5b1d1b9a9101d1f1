"""A folder of images to a committed set of embeddings: source → decode → backend → store. Start reading here."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
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
from extractor.remote.fetcher import Fetcher
from extractor.sources.kinds import settings_for
from extractor.sources.reading import located_images
from extractor.sources.source import Place
from extractor.stream.batches import batches, decode_pool, sample_pixels
from extractor.stream.busy import Stages
from extractor.stream.progress import EmbedProgress
from extractor.stream.shards import Shards
from extractor.stream.sink import ShardSink


def run(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Run the job of a child process, which is of kind ``extract:<backend>``."""
    return extract(ctx, settings)


def extract(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Embed every image of a folder that is not embedded yet, or, as a helper, some of the shards.

    Parameters
    ----------
    ctx
        The job, with an `ExtractRequest`. Its checkpoint names the plan that an earlier attempt froze.
    settings
        Data, models and store roots; decode processes; device.

    Returns
    -------
    dict
        Of a helper, only ``embeddings`` (the id). Of a job also ``rows``, ``failed``, ``dim``, ``resumed_rows``: images
        that earlier attempts or jobs had embedded, ``reused_rows``: rows that were taken over from other sets,
        ``repaired_shards``: how many shards were damaged and are embedded again, ``workers``: how many workers
        embedded images in this attempt, ``engine``: what ran, and why (`extractor.jobs.engine.EngineChoice`), and the
        fields of `extractor.jobs.extract.outcome_of_files`.

    Raises
    ------
    TooManyFailures
        More than ``max_failed_fraction`` of the images cannot be embedded. Committed shards are kept.
    ShoalError
        The model, the source or the store cannot be used.
    """
    request = ExtractRequest.model_validate(ctx.request)
    store = Store.of(settings)
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
            return sample_pixels(ctx, pool(), fetcher, request, settings, listing, count)

        fetcher = stack.enter_context(Fetcher.of(settings))
        # The decode processes start while the network is loaded.
        model = stack.enter_context(ModelLoader(spec, settings, ctx, begin=pool))
        embeddings = open_plan(ctx, request, model, settings, store, sample)
        failures = FailureCounter(request.max_failed_fraction, embeddings, helper=ctx.helper)
        failures.check()
        resumed, workers = embeddings.rows, 1
        if embeddings.missing_shards():
            backend = model.backend_for(embeddings.plan)
            stored = find_stored_rows(
                store, embeddings, request.reuse, pool, lambda rows: ctx.progress("reuse", rows, unit="rows")
            )
            done = embed_missing(ctx, request, embeddings, backend, pool(), fetcher, settings, store, failures, stored)
            resumed, workers = resumed + done.resumed_rows, done.workers
    if ctx.helper:
        return {"embeddings": embeddings.id}
    manifest = store.finish_embeddings(embeddings.id)
    finished = store.embeddings(embeddings.id)
    return {
        "embeddings": embeddings.id,
        "rows": manifest.rows,
        "failed": manifest.failed,
        "dim": manifest.dim,
        "resumed_rows": resumed,
        "reused_rows": sum(commit.reused for commit in finished.commits.values()),
        "workers": workers,
        "repaired_shards": len(embeddings.repaired_shards),
        "engine": noted(embeddings, spec),
        **outcome_of_files(finished),
    }


@dataclass(frozen=True)
class Embedded:
    """What `embed_missing` did.

    Attributes
    ----------
    resumed_rows
        Rows of the missing shards that an earlier attempt had embedded and saved.
    workers
        How many workers have embedded shards meanwhile, this one included.
    """

    resumed_rows: int
    workers: int


def embed_missing(
    ctx: JobContext,
    request: ExtractRequest,
    embeddings: EmbeddingSet,
    backend: Backend,
    pool: DecodePool,
    fetcher: Fetcher,
    settings: Settings,
    store: Store,
    failures: FailureCounter,
    stored: StoredRows | None = None,
) -> Embedded:
    """Embed the shards that are not committed yet, decoding ahead of the network and committing behind it.

    Other workers may embed some of them. The worker that has the job waits until they are committed, or embeds those
    of a worker that has died; a helper leaves when no shard is left to begin.
    """
    before = embeddings.rows + embeddings.failed
    place = Place.of(request.images, settings.data, follow_links=settings.follow_links)
    stages = Stages(lambda: pool.busy_s, pool.workers)
    fetcher.working = stages.fetch.work
    shards = Shards(ctx, embeddings, request.workers, failures.add_of_others)
    with ShardSink(
        store,
        embeddings,
        shards,
        resumed=failures.add,
        written=failures.add_uncommitted,
        attempt=ctx.attempt,
        owner=ctx.owner,
        save_s=settings.save_s,
        writing=stages.write,
    ) as sink:
        progress = EmbedProgress(ctx, embeddings, shards, sink, stages)
        more = sink.begin()
        progress.report()
        while more:
            images = located_images(sink.listed(), place, fetcher)
            for batch in batches(ctx, pool, backend, images, request.batch_size, stages.network, stored):
                failed = sink.add(batch)
                embedded = len(batch.outcomes) - len(failed) - batch.reused
                ctx.count(embedded=embedded, failed=len(failed), **({"reused": batch.reused} if batch.reused else {}))
                failures.add(failed)
                ctx.advance(before + sink.kept)
                progress.report()
            sink.finish()
            ctx.advance(before + sink.kept)
            more = not ctx.helper and shards.wait(progress.report) and sink.begin()
    return Embedded(sink.resumed_rows, shards.workers)
