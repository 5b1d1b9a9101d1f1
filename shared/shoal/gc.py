"""Garbage in a store: work files of dead processes, expired uploads, incomplete embeddings, lone annotations."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import JobNotFound, JsonValue, QueueUnavailable
from shoal.jobs.queue import JobQueue
from shoal.jobs.workdirs import job_id_of
from shoal.schemas import Job
from shoal.store import EmbeddingSet, Store
from shoal.store.files import HALF_WRITTEN
from shoal.store.layout import EmbeddingsLayout, ids_in
from shoal.store.listing import open_each
from shoal.store.place import changed, size
from shoal.store.segments import SEGMENT_NAME
from shoal.store.uploads import Uploads, expired
from shoal.store.verify_results import is_annotated

DAY_S = 86_400.0
WORK_AGE_S = DAY_S
"""Work files not written to for this long belong to a dead process: a live one writes every few seconds."""


@dataclass(frozen=True)
class Garbage:
    """One thing to remove.

    Attributes
    ----------
    kind
        ``work``: files of a killed process. ``incomplete``: embeddings that no job continues. ``upload``: an upload
        that has expired. ``annotations``: those of a result that was deleted.
    path
        File or folder.
    bytes
        Its size.
    embeddings_id
        With ``incomplete``.
    layout
        Of the embeddings that the path is in, if it is in any.
    leftover
        Prefix of objects of a bucket that belong to no embeddings; then there is no path.
    """

    kind: str
    path: Path
    bytes: int
    embeddings_id: str | None = None
    layout: EmbeddingsLayout | None = None
    leftover: str | None = None

    @property
    def address(self) -> str:
        """Where it is, for people."""
        if self.leftover is not None or self.layout is None:
            return self.leftover or str(self.path)
        name = self.layout.name_of(self.path)
        return self.layout.address if name == "." else f"{self.layout.address}/{name}"


def find(
    store: Store,
    queue: JobQueue | None,
    *,
    beside: Sequence[Job] = (),
    work_age_s: float = WORK_AGE_S,
    incomplete_age_s: float | None = None,
    upload_days: float | None = None,
) -> Iterator[Garbage]:
    """Find what can be removed from the store.

    Parameters
    ----------
    queue
        Knows which jobs have ended. None: age alone decides.
    beside
        Unfinished jobs of other queues of the store.
    work_age_s
        Minimum age of work files. Those of an ended job count at any age. Those of a job that the queue does not know
        count by age, as the queue may have lost its data. Those of an unfinished job never count.
    incomplete_age_s
        Minimum age of incomplete embeddings that no unfinished job uses; None keeps them all, since a job of the same
        request would continue them.
    upload_days
        Days since the last use of an upload that no unfinished job names; None keeps them all, and so does a queue that
        is away.

    Raises
    ------
    QueueUnavailable
        Only with ``incomplete_age_s`` and without a queue.
    """
    layout = store.layout
    unfinished = {job.id for job in beside}
    for folder in (layout.temporary, layout.trash, layout.root / "inline"):
        yield from _old(_entries(folder), work_age_s)
    for sweep in map(layout.sweep, ids_in(layout.sweeps_folder)):
        for folder in (sweep.folder, sweep.points, sweep.plots):
            yield from _old((each for each in _entries(folder) if HALF_WRITTEN.fullmatch(each.name)), work_age_s)
    yield from _old((each for upload in Uploads(layout).all() for each in upload.lost()), work_age_s)
    for path in _entries(layout.work_folder):
        ended = _ended(queue, job_id_of(path))
        if ended is not False and job_id_of(path) not in unfinished:
            yield from _old([path], 0.0 if ended else work_age_s)
    for folder in _entries(layout.annotations_folder):
        if not is_annotated(layout, folder.name) and _age_s(folder) >= work_age_s:
            yield Garbage("annotations", folder, size(folder))
    used = set() if incomplete_age_s is None else _texts_of_jobs(queue, beside)
    for entry in open_each("embeddings", store.embeddings_ids(), store.embeddings):
        if entry.item is None:  # damaged: for `shoal repair` or a person to decide about
            continue
        embeddings_id, embeddings = entry.id, entry.item
        if incomplete_age_s is not None and _abandoned(embeddings, used, incomplete_age_s):
            of = embeddings.layout
            yield Garbage("incomplete", of.folder, of.size(of.folder), embeddings_id, of)
        else:
            yield from _old_work(embeddings, work_age_s)
    yield from _leftovers(store, work_age_s)
    if upload_days is not None and queue is not None:
        yield from _expired_uploads(store, queue, beside, upload_days)


def _expired_uploads(store: Store, queue: JobQueue, beside: Sequence[Job], days: float) -> Iterator[Garbage]:
    old = [each for each in Uploads(store.layout).all() if expired(each, days)]
    try:
        used = _texts_of_jobs(queue, beside) if old else set()
    except QueueUnavailable:
        return
    for upload in old:
        if upload.id not in used:
            yield Garbage("upload", upload.layout.folder, size(upload.layout.folder))


def remove(store: Store, garbage: Garbage) -> int:
    """Remove one finding; the bytes that it occupied, 0 if it is gone already or cannot be removed."""
    if garbage.embeddings_id is not None:
        store.delete_embeddings(garbage.embeddings_id)
    elif garbage.leftover is not None and store.layout.remote is not None:
        store.layout.remote.remove_leftover(garbage.leftover)
    elif garbage.layout is not None:
        garbage.layout.remove(garbage.path)
        return 0 if garbage.layout.has(garbage.path) else garbage.bytes
    elif garbage.path.is_dir() and not garbage.path.is_symlink():
        shutil.rmtree(garbage.path, ignore_errors=True)
    else:
        with suppress(OSError):
            garbage.path.unlink()
    return 0 if garbage.path.exists() else garbage.bytes


def _texts_of_jobs(queue: JobQueue | None, beside: Sequence[Job]) -> set[str]:
    """Every text in the requests of unfinished jobs."""
    if queue is None:
        raise QueueUnavailable(
            "`--incomplete-days` needs the job queue, to spare embeddings of unfinished jobs: start `shoal up`, or "
            "leave --incomplete-days out."
        )
    return {text for job in (*queue.unfinished(), *beside) for text in texts_of(job.request)}


def texts_of(value: JsonValue) -> Iterator[str]:
    """Every text in a request, however deep: the ids and paths that its job uses are among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_of(each)


def _ended(queue: JobQueue | None, job_id: str) -> bool | None:
    """Whether a job has ended; None if the queue does not know."""
    if queue is None:
        return None
    try:
        return queue.get(job_id).state.terminal
    except (JobNotFound, QueueUnavailable):
        return None


def _leftovers(store: Store, age_s: float) -> Iterator[Garbage]:
    """What deleted or repaired embeddings left in a bucket."""
    remote = store.layout.remote
    for prefix, (total, written) in remote.leftovers().items() if remote is not None else ():
        if time.time() - written >= age_s:
            yield Garbage("work", Path(prefix), total, leftover=prefix)


def _old_work(embeddings: EmbeddingSet, age_s: float) -> Iterator[Garbage]:
    layout = embeddings.layout
    for path in _work_files(embeddings):
        if time.time() - layout.changed(path) >= age_s:
            yield Garbage("work", path, layout.size(path), layout=layout)


def _work_files(embeddings: EmbeddingSet) -> Iterator[Path]:
    # A committed attempt's folder may still hold the shard's files: whoever opens the set moves them to their place.
    committed, layout = {commit.token for commit in embeddings.commits.values()}, embeddings.layout
    for path in _files_of(layout, layout.work):
        if embeddings.complete or path.name not in committed:
            yield path
    yield from (path for path in _files_of(layout, layout.folder) if HALF_WRITTEN.fullmatch(path.name))
    # What is saved of a shard is as good as a commit until the shard is committed: only half-written files are dead.
    saved = {layout.parts(shard).name for shard in embeddings.missing_shards()}
    for path in _files_of(layout, layout.all_parts):
        if path.name not in saved:
            yield path
        else:
            yield from (each for each in _files_of(layout, path) if not SEGMENT_NAME.fullmatch(each.name))


def _files_of(layout: EmbeddingsLayout, folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder / name for name in layout.names(folder))
    return []


def _abandoned(embeddings: EmbeddingSet, used: set[str], age_s: float) -> bool:
    age = time.time() - embeddings.layout.changed(embeddings.layout.folder)
    if embeddings.complete or age < age_s:
        return False
    path = embeddings.plan.source.path
    uploaded = path.removeprefix("upload:").partition("/")[0] if path.startswith("upload:") else path
    return used.isdisjoint((embeddings.id, path, uploaded))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _old(paths: Iterable[Path], age_s: float) -> Iterator[Garbage]:
    return (Garbage("work", path, size(path)) for path in paths if _age_s(path) >= age_s)


def _age_s(path: Path) -> float:
    """Seconds since anything in it was written."""
    return time.time() - changed(path)
