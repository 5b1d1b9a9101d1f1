"""The plan of an extraction: frozen before the first image is read, found again by every later attempt."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import structlog
from shoal.errors import EmbeddingsNotFound, StoreCorrupt
from shoal.host import library_versions
from shoal.schemas import ExtractRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Plan, Source, Store
from shoal.userfiles import below

from extractor.images.transform import Transform
from extractor.models.model import Model
from extractor.sources.listing import list_source

if TYPE_CHECKING:
    from shoal.jobs.child import JobContext

_log = structlog.get_logger(__name__)

CHECKPOINT = "embeddings"
LIBRARIES = ("numpy", "pillow", "torch", "timm", "tensorflow")


def open_plan(ctx: JobContext, request: ExtractRequest, model: Model, settings: Settings, store: Store) -> EmbeddingSet:
    """The set of embeddings that the job fills.

    An earlier attempt's plan is taken up as it was frozen, whatever has happened to the folder since; else the folder
    is listed. The same request on unchanged files makes the same plan, and so finds what other jobs have committed.
    All that is committed is read and compared with its checksums: damaged shards are taken out and embedded again.

    Raises
    ------
    ShoalError
        The source cannot be listed, or the model is no longer the one of the frozen plan.
    """
    frozen = _frozen(ctx, store)
    if frozen is not None:
        model.require_unchanged(frozen.plan)
        return frozen
    ctx.progress("list")
    listing = list_source(
        request.images,
        settings.data,
        follow_links=settings.follow_links,
        alive=lambda files: ctx.progress("list", files, unit="files"),
    )
    plan = make_plan(request, model, listing.table, settings.data)
    if not store.has_plan(plan.id):
        # The id stays the same. A checkpoint that does not fit is refused here, before there is a set.
        plan = plan.model_copy(update={"model": model.loaded_record})
    embeddings = store.create_embeddings(plan, listing.table, lambda: ctx.progress("check"))
    store.write_notes(embeddings.id, listing.notes)
    ctx.save_checkpoint({CHECKPOINT: embeddings.id})
    return embeddings


def _frozen(ctx: JobContext, store: Store) -> EmbeddingSet | None:
    embeddings_id = (ctx.checkpoint or {}).get(CHECKPOINT)
    if embeddings_id is None:
        return None
    try:
        return store.repaired_embeddings(embeddings_id, lambda: ctx.progress("check"))
    except EmbeddingsNotFound:  # Deleted between two attempts: nothing is left to go on from.
        return None
    except StoreCorrupt as error:  # Its plan or listing: the same listing, made anew, mends them.
        _log.warning("frozen plan damaged, listing again", error=error.detail)
        return None


def make_plan(request: ExtractRequest, model: Model, listing: pa.Table, root: Path) -> Plan:
    """What the set of embeddings will hold."""
    labels = request.images.labels
    return Plan(
        name=request.name or model.spec.slug[:100],
        source=Source.of(
            listing,
            kind="images",
            path=below(root, request.images.path),
            labels=labels if isinstance(labels, str) else labels.model_dump(mode="json"),
            split=request.images.split,
        ),
        model=model.record,
        transform=transform_record(model.spec.transform),
        dim=model.dim,
        dtype=request.dtype,
        shard_rows=request.shard_rows,
        thumbnails=request.thumbnails,
        libraries=library_versions(LIBRARIES),
    )


def transform_record(transform: Transform) -> dict[str, Any]:
    """``transform`` as JSON has it: equal to what is read back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(transform).items()}
