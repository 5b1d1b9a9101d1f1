"""Writes embedded batches to the shards of the store, and commits full shards in the background."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
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
from extractor.stream.shards import Shards

WRITES_WAITING = 2
"""With more unfinished commits and saves `ShardSink.add` waits, so that a slow disk cannot fill the memory."""
LEAST_SAVED = 500
"""Of an open shard with fewer new images, half a shard is not saved before its time: that would take longer than the
commits which it spares the waiting for."""
MOST_UNSAVED_BYTES = 128 << 20
"""An open shard is saved early when so much of it is only in memory."""

_P = ParamSpec("_P")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _OpenShard:
    number: int
    writer: ShardWriter
    rows: list[dict[str, Any]]
    """The shard's slice of the listing."""
    position: int = 0
    unsaved_reused: int = 0
    """Rows from other sets since the last save."""
    saves: bool = True
    """False once a part could not be saved: the parts after a gap cannot be resumed."""

    @property
    def left(self) -> int:
        return len(self.rows) - self.position


@dataclass(frozen=True, slots=True)
class _Write:
    """A commit, or the save of a part, in the background."""

    finished: Future[bool]
    images: int
    """How many more images are safe with it."""
    kept: int
    """`ShardSink.kept` once it is finished."""
    shard: _OpenShard | None
    """The shard that is committed."""


class ShardSink:
    """Writes batches, which may span shards, and commits each full shard in a background thread.

    At most as many images as a shard has are written and neither committed nor saved, so that a killed job repeats no
    more of them: `add` waits for commits. So that it rarely has to, an open shard is saved once half a shard is new.

    As a context manager it waits for running commits at its end. When the job is stopped it saves the rows of the
    unfinished shard for the next attempt.

    Parameters
    ----------
    store, embeddings
        The set.
    shards
        Which of its missing shards are written, one after another.
    resumed
        Called with the failed images among what an earlier attempt saved of a shard.
    written
        Called with the failed images of a part of a shard and the number of its images, before the shard is
        committed; may raise.
    attempt, owner
        Recorded in each commit.
    save_s
        Interval between saves of the open shard, seconds: at most so much work is lost in a crash.
    writing
        Runs during `add`, and while a shard is committed or saved in the background.

    Attributes
    ----------
    done
        Images of the shards that are embedded or failed.
    resumed_rows
        Those among `done` that an earlier attempt had embedded and saved.
    kept
        Those among `done` that are committed or saved, so that the next attempt finds them.
    """

    def __init__(
        self,
        store: Store,
        embeddings: EmbeddingSet,
        shards: Shards,
        *,
        resumed: Callable[[Sequence[Failure]], None],
        written: Callable[[Sequence[Failure], int], None],
        attempt: int,
        owner: str,
        save_s: float = 30.0,
        writing: Clock | None = None,
    ) -> None:
        self._store, self._embeddings = store, embeddings
        self._writing = writing or Clock()
        self._attempt, self._owner = attempt, owner
        self._shards = shards
        self._resumed, self._written = resumed, written
        self._begun: deque[_OpenShard] = deque()
        self._next: _OpenShard | None = None
        self._current: _OpenShard | None = None
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._writes: deque[_Write] = deque()
        self._fresh = 0
        self._save_s = save_s
        self._most_at_risk = embeddings.plan.shard_rows
        self._safe_at = time.monotonic()
        self.done = 0
        self.resumed_rows = 0
        self.kept = 0

    def __enter__(self) -> ShardSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            # After an error the last save must do: the rows since may have caused the error.
            if self._current is not None and not isinstance(error, Exception):
                self._save(self._current)
        finally:
            self._committer.shutdown(wait=True)
            for shard in (self._current, *self._begun):
                if shard is not None:
                    shard.writer.discard()

    def begin(self) -> bool:
        """Begin the next shard; false when there is none.

        What an earlier attempt, or a worker that has stopped, saved of it is loaded; a shard that is all there is
        committed at once.

        Raises
        ------
        StoreFull, StoreError
            What was saved, or a commit, could not be written.
        """
        self._next = None
        while self._next is None and (number := self._shards.take()) is not None:
            rows = self._slice(number).to_pylist()
            writer = self._store.shard_writer(
                self._embeddings.id, number, attempt=self._attempt, owner=self._owner, properties=True
            )
            shard = _OpenShard(number, writer, rows)
            self._begun.append(shard)
            layout = self._embeddings.layout
            layout.refresh(layout.parts(number))
            if layout.has(layout.parts(number)):
                self._resume(shard)
            if shard.left:
                self._next = shard
            else:
                self._submit(self._begun.pop(), 0, _commit_or_discard, writer)
        return self._next is not None

    def _resume(self, shard: _OpenShard) -> None:
        failures = [Failure(path, code) for path, code in shard.writer.resume()]
        shard.position = shard.writer.done
        self.done += shard.position
        self.resumed_rows += shard.writer.rows
        self._resumed(failures)

    def listed(self) -> Iterator[Row]:
        """The images to embed as they were listed, in the order in which `add` expects their outcomes.

        Call `begin` before; it begins the shards that follow.
        """
        while (shard := self._next) is not None:
            for row in shard.rows[shard.position :]:
                yield Row(row["image_path"], row["stamp"])
            self.begin()

    def open(self) -> dict[int, int]:
        """How many images of each shard that is begun and not committed are embedded or failed."""
        shards = [write.shard for write in self._writes if write.shard is not None and not write.finished.done()]
        shards += [*self._begun] if self._current is None else [self._current, *self._begun]
        return {shard.number: shard.position for shard in shards}

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
        outcomes, vectors, stored = batch.outcomes, batch.vectors, batch.stored
        while outcomes:
            shard = self._open()
            part = outcomes[: shard.left]
            while self._writes and self.at_risk + len(part) > self._most_at_risk:
                self._finish_write()
            embedded = sum(isinstance(outcome, Decoded) for outcome in part)
            failed = self._write(shard, part, vectors[:embedded], stored[:embedded])
            self._written(failed, len(part))
            failures += failed
            outcomes, vectors, stored = outcomes[len(part) :], vectors[embedded:], stored[embedded:]
            shard.position += len(part)
            self.done += len(part)
            self._fresh += len(part)
            if not shard.left:
                self._current = None
                # Submitted before an earlier commit's failure is raised, so that the writer is closed in any case.
                self._submit(shard, self._taken(), _commit_or_discard, shard.writer)
        if self._current is not None and self._save_is_due(self._current):
            self._save(self._current)
        return failures

    @property
    def at_risk(self) -> int:
        """How many images were added that are neither committed nor saved."""
        return self._fresh + sum(write.images for write in self._writes if not write.finished.done())

    def finish(self) -> None:
        """Wait for all commits.

        Raises
        ------
        StoreFull, StoreError
            A commit failed.
        """
        while self._writes:
            self._finish_write()

    def _open(self) -> _OpenShard:
        if self._current is None:
            self._current = self._begun.popleft()
            self._current.writer.keep_unsaved()
            self._safe_at = time.monotonic()
        return self._current

    def _slice(self, shard: int) -> pa.Table:
        return self._embeddings.listing(*self._embeddings.plan.shard_range(shard))

    def _taken(self) -> int:
        """The images that were added since the last save or commit, which one makes safe now."""
        fresh, self._fresh = self._fresh, 0
        return fresh

    def _submit(
        self,
        shard: _OpenShard | None,
        images: int,
        write: Callable[_P, bool],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        finished = self._committer.submit(partial(self._timed, write, *args, **kwargs))
        self._writes.append(_Write(finished, images, self.done if images else self.kept, shard))
        while self._writes and (self._writes[0].finished.done() or len(self._writes) > WRITES_WAITING):
            self._finish_write()

    def _finish_write(self) -> None:
        write = self._writes.popleft()
        if write.finished.result():
            self.kept = max(self.kept, write.kept)
        else:
            self._fresh += write.images

    def _timed(self, write: Callable[_P, bool], *arguments: _P.args, **options: _P.kwargs) -> bool:
        with self._writing.work():
            return write(*arguments, **options)

    def _save_is_due(self, shard: _OpenShard) -> bool:
        return (
            time.monotonic() - self._safe_at >= self._save_s
            or shard.writer.unsaved_bytes >= MOST_UNSAVED_BYTES
            or self._fresh >= max(self._most_at_risk // 2, LEAST_SAVED)
        )

    def _save(self, shard: _OpenShard) -> None:
        """Save what was added to ``shard`` since the last time, in the background."""
        self._safe_at = time.monotonic()
        segment = shard.writer.take_unsaved()
        if segment is not None:
            segment.reused, shard.unsaved_reused = shard.unsaved_reused, 0
            self._submit(None, self._taken(), _save_if_possible, shard, segment)

    def _write(
        self,
        shard: _OpenShard,
        outcomes: Sequence[Decoded | Undecodable],
        vectors: NDArray[np.float32],
        stored: NDArray[np.bool_],
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
            reused = int(stored[finite].sum())
            shard.writer.reused += reused
            shard.unsaved_reused += reused
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
        if not writer.commit():
            log.info("another worker has committed the shard first")
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
        **(outcome.properties._asdict() if outcome.properties is not None else {}),
    )
