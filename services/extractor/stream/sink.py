"""Writes embedded batches to the shards of the store, and commits full shards in the background."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from shoal.errors import ImageNotFinite, StoreError
from shoal.store import EmbeddingSet, RowMetadata, ShardWriter, Store
from shoal.store.segments import Segment

from extractor.images.child import Decoded, Undecodable
from extractor.jobs.extract import Failure
from extractor.sources.source import Row
from extractor.stream.batches import Batch
from extractor.stream.busy import Clock

COMMITS_WAITING = 2
"""With more unfinished commits than this `ShardSink.add` waits, so that a slow disk cannot fill the memory."""
MOST_UNSAVED_BYTES = 128 << 20
"""An open shard is saved early when so much of it is only in memory."""

_P = ParamSpec("_P")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _OpenShard:
    writer: ShardWriter
    rows: list[dict[str, Any]]
    """The shard's slice of the listing."""
    position: int = 0
    saves: bool = True
    """False once a part could not be saved: the parts after a gap cannot be resumed."""

    @property
    def left(self) -> int:
        return len(self.rows) - self.position


class ShardSink:
    """Writes batches, which may span shards, and commits each full shard in a background thread.

    As a context manager it waits for running commits at its end. When the job is stopped it saves the rows of the
    unfinished shard for the next attempt.

    Parameters
    ----------
    store, embeddings
        The set whose missing shards are written, in their order.
    attempt, owner
        Recorded in each commit.
    save_s
        Interval between saves of the open shard, seconds: at most so much work is lost in a crash.
    writing
        Runs during `add`, and while a shard is committed or saved in the background.

    Attributes
    ----------
    done
        Images of the missing shards that are embedded or failed.
    resumed_rows
        Those among `done` that an earlier attempt had embedded and saved.
    kept
        Those among `done` that are committed or saved, so that the next attempt finds them.
    """

    def __init__(
        self,
        store: Store,
        embeddings: EmbeddingSet,
        *,
        attempt: int,
        owner: str,
        save_s: float = 30.0,
        writing: Clock | None = None,
    ) -> None:
        self._store, self._embeddings = store, embeddings
        self._writing = writing or Clock()
        self._attempt, self._owner = attempt, owner
        self._missing = embeddings.missing_shards()
        self._todo = deque(self._missing)
        self._current: _OpenShard | None = None
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._commits: deque[tuple[Future[bool], int]] = deque()
        self._resumed: dict[int, _OpenShard] = {}
        self._skip: dict[int, int] = {}
        self._save_s = save_s
        self._safe_at = time.monotonic()
        self.done = 0
        self.resumed_rows = 0
        self.kept = 0

    def __enter__(self) -> ShardSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # After an error the last save must do: the rows since may have caused the error.
        if self._current is not None and not isinstance(error, Exception):
            self._save(self._current)
        self._committer.shutdown(wait=True)
        for shard in (self._current, *self._resumed.values()):
            if shard is not None:
                shard.writer.discard()

    def resume(self) -> list[Failure]:
        """Load what earlier attempts saved of shards that they did not commit.

        Returns
        -------
        list of Failure
            The images among it that became error rows.
        """
        failures: list[Failure] = []
        layout = self._embeddings.layout
        for number in [number for number in self._missing if layout.parts(number).is_dir()]:
            shard = self._resumed[number] = self._begin(number)
            failures += [Failure(path, code) for path, code in shard.writer.resume()]
            self._skip[number] = shard.position = shard.writer.done
            self.done += shard.position
            self.resumed_rows += shard.writer.rows
            if not shard.left:
                self._todo.remove(number)
                self._commit(self._resumed.pop(number).writer)
        return failures

    def listed(self) -> Iterator[Row]:
        """The images to embed as they were listed, in the order in which `add` expects their outcomes."""
        for number in self._missing:
            rows = self._slice(number).slice(self._skip.get(number, 0))
            for name, stamp in zip(rows["image_path"].to_pylist(), rows["stamp"].to_pylist(), strict=True):
                yield Row(name, stamp)

    def add(self, batch: Batch) -> list[Failure]:
        """Write a batch.

        Returns
        -------
        list of Failure
            The images that became error rows.

        Raises
        ------
        StoreFull, StoreError
            This batch, or a commit since the previous one, could not be written.
        """
        with self._writing.work():
            return self._add(batch)

    def _add(self, batch: Batch) -> list[Failure]:
        failures: list[Failure] = []
        outcomes, vectors = batch.outcomes, batch.vectors
        while outcomes:
            shard = self._open()
            part = outcomes[: shard.left]
            embedded = sum(isinstance(outcome, Decoded) for outcome in part)
            failures += self._write(shard, part, vectors[:embedded])
            outcomes, vectors = outcomes[len(part) :], vectors[embedded:]
            shard.position += len(part)
            self.done += len(part)
            if not shard.left:
                self._current = None
                self._commit(shard.writer)
        if self._current is not None and self._save_is_due(self._current):
            self._save(self._current)
        return failures

    def finish(self) -> None:
        """Wait for all commits.

        Raises
        ------
        StoreFull, StoreError
            A commit failed.
        """
        while self._commits:
            self._finish_commit()

    def _open(self) -> _OpenShard:
        if self._current is None:
            number = self._todo.popleft()
            self._current = self._resumed.pop(number, None) or self._begin(number)
            self._current.writer.keep_unsaved()
            self._safe_at = time.monotonic()
        return self._current

    def _begin(self, number: int) -> _OpenShard:
        rows = self._slice(number).to_pylist()
        writer = self._store.shard_writer(self._embeddings.id, number, attempt=self._attempt, owner=self._owner)
        return _OpenShard(writer, rows)

    def _slice(self, shard: int) -> pa.Table:
        return self._embeddings.listing(*self._embeddings.plan.shard_range(shard))

    def _commit(self, writer: ShardWriter) -> None:
        # Submitted before an earlier commit's failure is raised here, so that the writer is closed in any case.
        self._commits.append((self._committer.submit(self._timed, _commit_or_discard, writer), self.done))
        self._finish_commits()

    def _finish_commits(self) -> None:
        while self._commits and (self._commits[0][0].done() or len(self._commits) > COMMITS_WAITING):
            self._finish_commit()

    def _finish_commit(self) -> None:
        finished, done = self._commits.popleft()
        if finished.result():
            self.kept = max(self.kept, done)

    def _timed(self, write: Callable[_P, bool], *arguments: _P.args, **options: _P.kwargs) -> bool:
        with self._writing.work():
            return write(*arguments, **options)

    def _save_is_due(self, shard: _OpenShard) -> bool:
        return time.monotonic() - self._safe_at >= self._save_s or shard.writer.unsaved_bytes >= MOST_UNSAVED_BYTES

    def _save(self, shard: _OpenShard) -> None:
        """Save what was added to ``shard`` since the last time, in the background."""
        self._safe_at = time.monotonic()
        segment = shard.writer.take_unsaved()
        if segment is not None:
            self._commits.append((self._committer.submit(self._timed, _save_if_possible, shard, segment), self.done))
            self._finish_commits()

    def _write(
        self, shard: _OpenShard, outcomes: Sequence[Decoded | Undecodable], vectors: NDArray[np.float32]
    ) -> list[Failure]:
        rows = shard.rows[shard.position : shard.position + len(outcomes)]
        finite = self._finite(vectors)
        metadata: list[RowMetadata] = []
        thumbnails: list[bytes | None] = []
        failures: list[Failure] = []
        row_of_vector = iter(range(len(vectors)))
        for row, outcome in zip(rows, outcomes, strict=True):
            error = outcome if isinstance(outcome, Undecodable) else None
            if isinstance(outcome, Decoded):
                vector = next(row_of_vector)
                if finite[vector]:
                    metadata.append(_metadata(row, outcome))
                    thumbnails.append(outcome.thumbnail)
                else:
                    error = self._not_finite(outcome, vectors[vector])
            if error is not None:
                shard.writer.append_error(row["image_id"], row["image_path"], error.code, error.message)
                failures.append(Failure(row["image_path"], error.code, error.message))
        if metadata:
            shard.writer.append(vectors[finite], metadata, thumbnails if self._embeddings.plan.thumbnails else None)
        return failures

    def _finite(self, vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows are finite in the stored dtype."""
        with np.errstate(over="ignore"):
            stored = vectors.astype(self._embeddings.dtype, copy=False)
        finite: NDArray[np.bool_] = np.isfinite(stored).all(axis=1)
        return finite

    def _not_finite(self, outcome: Decoded, vector: NDArray[np.float32]) -> Undecodable:
        if np.isfinite(vector).all():
            dtype = self._embeddings.plan.dtype
            message = f"Its embedding holds a value too large for {dtype}: submit the request with dtype `float32`."
        else:
            message = "The model's output for it holds NaN or infinity: check that the weights belong to this model."
        return Undecodable(outcome.ticket, ImageNotFinite.code, message)


def _commit_or_discard(writer: ShardWriter) -> bool:
    """Commit the shard; true, also when another attempt has committed it meanwhile."""
    with writer:
        writer.commit()
    return True


def _save_if_possible(shard: _OpenShard, segment: Segment) -> bool:
    if not shard.saves:
        return False
    try:
        shard.writer.save(segment)
    except StoreError as error:
        # The job continues: if the shard itself cannot be written, its commit fails.
        shard.saves = False
        log.warning("unfinished shard cannot be saved, a crash loses all of it", error=error.detail)
    return shard.saves


def _metadata(row: dict[str, Any], outcome: Decoded) -> RowMetadata:
    return RowMetadata(
        image_id=row["image_id"],
        image_path=row["image_path"],
        label=row["label"],
        split=row["split"],
        width=outcome.width,
        height=outcome.height,
        bytes=outcome.file_bytes,
        sha256=outcome.sha256,
    )
