"""The job of ``POST /embeddings``: uploaded files of embeddings as a finished set, or as several."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from shoal.errors import ImportInvalid, JsonValue
from shoal.importer import Keys, Limits, import_sets
from shoal.jobs.child import JobContext
from shoal.labels import Columns
from shoal.memory import machine_memory
from shoal.schemas import ImportRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.uploads import Upload, Uploads
from shoal.userfiles import confine

from extractor.uploads.files import FREE_BYTES, MAX_RATIO
from extractor.uploads.pieces import whole_files

MAX_ROWS: Final = 1_000_000_000


def run(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Import what an `ImportRequest` names.

    Returns
    -------
    dict
        ``embeddings`` (the id), ``rows`` and ``dim``; of a file with several sets those of the first, and ``sets``:
        the ids by the names of all sets.

    Raises
    ------
    ImportInvalid
        The files are no embeddings, or declare more values than their size explains; paths are those of the upload.
    OutOfMemory
        A value of theirs needs more than ``memory_limit``, by default a quarter of the memory.
    UploadNotFound, PathNotFound, StoreFull
    """
    request = ImportRequest.model_validate(ctx.request)
    store = Store.of(settings)
    upload = Uploads(store.layout).complete(request.upload, "upload")
    upload.touch()
    labels = request.labels
    with (
        whole_files(upload, store.layout.work(f"i-{ctx.id}"), partial(ctx.progress, "join", unit="files")) as root,
        _paths_within(root),
        _bounded(settings),
    ):
        made = import_sets(
            store,
            confine(root, request.path, "path"),
            name=request.name,
            labels=confine(root, labels.file, "labels.file") if labels else None,
            columns=Columns(labels.path_column, labels.label_column) if labels else None,
            split=request.split,
            keys=Keys(request.key, request.label_key, request.path_key),
            limits=limits_of(upload, settings),
            on_rows=lambda stage, done, total: ctx.progress(stage, done, total, "rows"),
        )
    first = store.embeddings(next(iter(made.values())))
    several: dict[str, JsonValue] = {"sets": dict(made)} if len(made) > 1 else {}
    return {"embeddings": first.id, "rows": first.rows, "dim": first.dim, **several}


def limits_of(upload: Upload, settings: Settings) -> Limits:
    """What an upload may declare: compressed files hold more than their size, but neither without end."""
    return Limits(min(FREE_BYTES + MAX_RATIO * upload.bytes, int(settings.upload_quota)), MAX_ROWS)


@contextmanager
def _paths_within(root: Path) -> Iterator[None]:
    """Errors name files by their paths within the upload, not by those of this machine."""
    try:
        yield
    except ImportInvalid as error:
        prefix = f"{root}/"
        members = {
            name: value.removeprefix(prefix) if isinstance(value, str) else value
            for name, value in error.members.items()
        }
        raise ImportInvalid(error.detail.replace(prefix, "").replace(str(root), "The upload"), **members) from error


@contextmanager
def _bounded(settings: Settings) -> Iterator[None]:
    """Let this process take only so much more memory: files of others declare how large their values are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes() + int(settings.memory_limit or machine_memory() // 4)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Memory that this process has taken, in bytes; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 0)
