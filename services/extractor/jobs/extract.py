"""An extraction job around its stream: the plan before the first image, failures meanwhile, files at the end.

The plan is frozen before the first image is read; every later attempt continues it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from shoal.errors import EmbeddingsNotFound, JobError, JsonValue, StoreCorrupt, TooManyFailures
from shoal.host import library_versions
from shoal.jobs.child import JobContext
from shoal.schemas import ExtractRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Plan, Source, Store
from shoal.userfiles import below

from extractor.backends.loading import ModelLoader
from extractor.images.transform import Transform
from extractor.jobs.engine import candidates, choose
from extractor.remote.allowed import Allowed
from extractor.sources.kinds import plan_path
from extractor.sources.listing import list_source

CHECKPOINT = "embeddings"
LIBRARIES = ("numpy", "pillow", "simplejpeg", "torch", "timm", "tensorflow")
ENGINE_LIBRARIES = ("openvino", "nncf")
NAMED_FAILURES = 5
"""How many files the error of too many failures names."""
EXAMPLES = 3

_log = structlog.get_logger(__name__)


def open_plan(
    ctx: JobContext,
    request: ExtractRequest,
    model: ModelLoader,
    settings: Settings,
    store: Store,
    sample: Callable[[pa.Table, int], NDArray[np.uint8]],
) -> EmbeddingSet:
    """The set of embeddings that the job fills; a helper finds the plan that the job's own worker froze.

    The plan of an earlier attempt is continued unchanged, whatever happened to the folder since; otherwise the folder
    is listed. The same request on unchanged files makes the same plan, and so finds what other jobs have committed.
    All that is committed is read and compared with its checksums: damaged shards are removed and embedded again.

    Parameters
    ----------
    sample
        Decodes some images of a listing, (n, size, size, 3).

    Raises
    ------
    ShoalError
        The source cannot be listed, the model differs from that of the frozen plan, or the plan's engine does not run
        here.
    """
    frozen = _frozen(ctx, store)
    if frozen is not None:
        model.require_unchanged(frozen.plan)
        model.sample = lambda count: sample(frozen.listing(), count)
        model.use(frozen.plan.engine)
        return frozen
    found = candidates(request, model.spec, settings)
    model.use(found[0])
    ctx.progress("list")
    listing = list_source(
        request.images,
        settings.data,
        follow_links=settings.follow_links,
        allowed=Allowed.of(settings),
        alive=lambda files: ctx.progress("list", files, unit="files"),
    )
    model.sample = partial(sample, listing.table)
    plan_of = partial(make_plan, request, model, listing.table, settings.data)

    def known(numerics: str | None) -> bool:
        return store.has_plan(plan_of(numerics).id)

    choice = choose(request, model, settings, found, known, listing.table.num_rows)
    model.use(choice.numerics)
    plan = plan_of(choice.numerics)
    if not store.has_plan(plan.id):
        # The id stays the same. A checkpoint that does not fit is refused here, before a set exists.
        plan = plan.model_copy(update={"model": model.loaded_record})
    embeddings = store.create_embeddings(plan, listing.table, lambda: ctx.progress("check"))
    engine = embeddings.notes.get("engine") or (choice.record() if model.spec.has_engines else None)
    store.write_notes(embeddings.id, {**listing.notes, **({"engine": engine} if engine else {})})
    ctx.save_checkpoint({CHECKPOINT: embeddings.id})
    return embeddings


def _frozen(ctx: JobContext, store: Store) -> EmbeddingSet | None:
    embeddings_id = (ctx.checkpoint or {}).get(CHECKPOINT)
    if ctx.helper:
        if embeddings_id is None:
            raise JobError("The job has no plan yet: nobody can help with it.")
        # Read and repaired by the worker that has the job.
        return store.embeddings(embeddings_id)
    if embeddings_id is None:
        return None
    try:
        return store.repaired_embeddings(embeddings_id, lambda: ctx.progress("check"))
    except EmbeddingsNotFound:  # Deleted between two attempts: nothing is left to continue.
        return None
    except StoreCorrupt as error:  # Its plan or listing: the same listing, made again, replaces them.
        _log.warning("frozen plan damaged, listing again", error=error.detail)
        return None


def make_plan(
    request: ExtractRequest, model: ModelLoader, listing: pa.Table, root: Path, numerics: str | None = None
) -> Plan:
    """What the set of embeddings will hold, computed in ``numerics``."""
    images = request.images
    source = Source.of(
        listing,
        kind="images",
        path=plan_path(images, below(root, images.path)),
        labels=images.labels if isinstance(images.labels, str) else images.labels.model_dump(mode="json"),
        split=images.split,
    )
    chosen = {"include": tuple(images.include), "exclude": tuple(images.exclude), "limit": images.limit}
    # `folder` is what every older plan read.
    named = {} if images.format in ("auto", "folder") else {"format": images.format}
    return Plan(
        name=request.name or model.spec.slug[:100],
        source=source.model_copy(update={**chosen, **named}),
        model=model.record,
        transform=transform_record(model.spec.transform),
        dim=model.dim,
        dtype=request.dtype,
        shard_rows=request.shard_rows,
        thumbnails=request.thumbnails,
        engine=numerics,
        libraries=library_versions(LIBRARIES if numerics is None else (*LIBRARIES, *ENGINE_LIBRARIES)),
    )


def transform_record(transform: Transform) -> dict[str, JsonValue]:
    """``transform`` as JSON stores it: equal to what is read back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in transform.record().items()}


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that has no embedding."""

    image_path: str
    code: str
    message: str = ""


class FailureCounter:
    """Counts failures, including those of shards that earlier attempts and other workers committed.

    Parameters
    ----------
    max_failed_fraction
        The allowed fraction of the plan's images.
    embeddings
        What is committed so far.
    helper
        Count only what this worker has been through, against the fraction of that: a machine that cannot read the
        images stops before it commits a shard of errors.
    """

    def __init__(self, max_failed_fraction: float, embeddings: EmbeddingSet, *, helper: bool = False) -> None:
        self._fraction = max_failed_fraction
        self._id = embeddings.id
        self._helper = helper
        self._seen = 0
        count = embeddings.plan.source.count
        self._total = min(embeddings.plan.shard_rows, count) if helper else count
        self._failed = 0 if helper else embeddings.failed
        committed = embeddings.errors().slice(0, NAMED_FAILURES).to_pylist() if self._failed else []
        self._first = [Failure(row["image_path"], row["code"], row["message"]) for row in committed]

    def add(self, failures: Sequence[Failure]) -> None:
        """Count ``failures``, and `check`. A helper counts by `add_uncommitted` alone."""
        if not self._helper:
            self._count(failures)

    def add_uncommitted(self, failures: Sequence[Failure], images: int) -> None:
        """Of a helper, count ``failures`` among ``images`` of a shard before it is committed, and `check`."""
        if self._helper:
            self._seen += images
            self._total = max(self._total, self._seen)
            self._count(failures)

    def _count(self, failures: Sequence[Failure]) -> None:
        self._failed += len(failures)
        self._first.extend(failures[: NAMED_FAILURES - len(self._first)])
        self.check()

    def add_of_others(self, failed: int) -> None:
        """Count the failed images of a shard that another worker has committed, and `check`."""
        if not self._helper:
            self._failed += failed
            self.check()

    def check(self) -> None:
        """Stop the job as soon as the fraction would be exceeded even if all other images were embedded.

        Raises
        ------
        TooManyFailures
            Names the count, the fraction and the first files.
        """
        if self._failed <= self._fraction * self._total:
            return
        first = ", ".join(f"{failure.image_path} ({failure.code})" for failure in self._first)
        explained = next((failure for failure in self._first if failure.message), None)
        why = f" {explained.image_path}: {explained.message}" if explained else ""
        raise TooManyFailures(
            f"{self._failed} of {self._total} images ({self._failed / self._total:.1%}) cannot be embedded, more than "
            f"`max_failed_fraction` = {self._fraction:g} allows. The first: {first}.{why} Repair or remove them, or "
            "submit the request with a larger `max_failed_fraction`: it continues after the shards committed so far.",
            embeddings=self._id,
            failed=self._failed,
            total=self._total,
        )


def outcome_of_files(embeddings: EmbeddingSet) -> dict[str, JsonValue]:
    """What happened to the files that have no embedding, as fields of a job's result.

    Returns
    -------
    dict
        ``failed_by_code``: of the images that could not be embedded, ``code``, ``count`` and ``examples``, most first.
        ``not_taken`` and ``source``: which files were not listed, and how the folders were read.
    """
    by_code: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in embeddings.errors().to_pylist() if embeddings.failed else ():
        by_code[row["code"]].append({"image_path": row["image_path"], "message": row["message"]})
    failed = [
        {"code": code, "count": len(found), "examples": found[:EXAMPLES]}
        for code, found in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    unknown: dict[str, JsonValue] = {
        "splits": [],
        "wrapper": None,
        "labels": None,
        "message": "An older version of Shoal made the listing.",
    }
    notes = embeddings.notes
    return {
        "failed_by_code": failed,
        "not_taken": notes.get("not_taken", []),
        "source": notes.get("source", unknown),
    }
