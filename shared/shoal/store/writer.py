"""Writing one shard: rows stream into the attempt's own folder until `ShardWriter.commit`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from operator import attrgetter
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shoal.errors import DimensionMismatch, EmbeddingsNotFound, NotFinite, StoreError
from shoal.store import commits
from shoal.store.files import fsync_file, record_file, storage_errors
from shoal.store.layout import ERRORS, IMG_EMB, METADATA, THUMBS, EmbeddingsLayout
from shoal.store.npy import NpyWriter
from shoal.store.records import Plan, RowMetadata, ShardCommit
from shoal.store.segments import Segment, ShardParts
from shoal.store.table_schemas import ERRORS_SCHEMA, METADATA_SCHEMA, PROPERTIES_SCHEMA, THUMBS_SCHEMA

METADATA_GROUP, THUMBS_GROUP = 10_000, 256
"""Rows per Parquet row group. Small groups of thumbnails let a report read a few without reading all."""


class _Table:
    """A Parquet file that is written row by row."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, group_rows: int) -> None:
        self._schema = schema
        self._group_rows = group_rows
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) >= self._group_rows:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Close the file in any state; otherwise the writer would retry when it is garbage-collected."""
        with suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()
        self._writer.is_open = False


class ShardWriter:
    """Writes one attempt at one shard. As a context manager it discards uncommitted rows on exit.

    Embeddings are written at once; memory holds at most one row group of each table. A shard in which every image
    failed has only an errors file, no vectors and no metadata.

    Parameters
    ----------
    layout, plan
        Of the embeddings folder.
    shard
        Number of the shard.
    expected_ids
        Image ids of the shard's slice of the listing: each must be appended exactly once, as a row or as an error.
    attempt, owner, properties
        As in `Store.shard_writer`. The commit records the attribute ``reused`` too: rows taken over from other sets.
    """

    def __init__(
        self,
        layout: EmbeddingsLayout,
        plan: Plan,
        shard: int,
        expected_ids: Sequence[str],
        *,
        attempt: int,
        owner: str,
        properties: bool = False,
    ) -> None:
        self._metadata = pa.schema([*METADATA_SCHEMA, *(PROPERTIES_SCHEMA if properties else ())])
        self._values = attrgetter(*self._metadata.names[1:])
        self._layout, self._plan, self._shard = layout, plan, shard
        self._attempt, self._owner = attempt, owner
        self._start, self._stop = plan.shard_range(shard)
        self._missing = set(expected_ids)
        self._expected = frozenset(self._missing)
        self._parts = ShardParts(layout, plan, shard, expected_ids)
        self._unsaved: Segment | None = None
        self._token = f"{shard:0{layout.digits}d}-{attempt}-{secrets.token_hex(8)}"
        self._staging = layout.staging(self._token)
        self._files: dict[str, BinaryIO] = {}
        self._tables: dict[str, _Table] = {}
        self._vectors: NpyWriter | None = None
        self._published = self._closed = False
        self.rows = self.failed = self.reused = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def done(self) -> int:
        """Number of appended images, embedded or failed."""
        return self.rows + self.failed

    @property
    def unsaved_bytes(self) -> int:
        """Bytes of memory that `take_unsaved` would release."""
        return self._unsaved.size if self._unsaved is not None else 0

    def resume(self) -> list[tuple[str, str]]:
        """Append what earlier attempts saved of the shard.

        Call it before the first append. Afterwards the first `done` images of the slice are present, and the others
        must be appended in the slice's order. The resulting files are those of an uninterrupted attempt.

        Returns
        -------
        list of tuple
            Path and code of each failed image among them.

        Raises
        ------
        StoreFull, StoreError
            The rows cannot be written.
        """
        if self.done:
            raise StoreError(f"Shard {self._shard} already has {self.done} images: resume before the first append.")
        failures = []
        for segment in self._parts.read():
            for error in segment.errors:
                self.append_error(*error)
                failures.append((error[1], error[2]))
            if segment.metadata:
                self.append(np.concatenate(segment.vectors), segment.metadata, segment.images)
            self.reused += segment.reused
        return failures

    def keep_unsaved(self) -> None:
        """Keep the appended images for `take_unsaved` from now on; it requires the order of the slice."""
        if self._unsaved is None:
            self._unsaved = Segment(self.done)

    def take_unsaved(self) -> Segment | None:
        """The images appended since the last call, or since `keep_unsaved`; None if there are none.

        Raises
        ------
        StoreError
            The images are not the next part of the slice.
        """
        segment = self._unsaved
        if segment is None or segment.stop == segment.start:
            return None
        if segment.image_ids() != set(self._parts.ids[segment.start : segment.stop]):
            raise StoreError(
                f"Images of shard {self._shard} were appended out of order: they cannot be saved in parts."
            )
        self._unsaved = Segment(segment.stop)
        return segment

    def save(self, segment: Segment) -> None:
        """Save ``segment`` for the next attempt, in case this one dies. Safe while another thread appends.

        Raises
        ------
        StoreFull, StoreError
            The segment cannot be written. The attempt may continue, but segments after this gap will be ignored.
        """
        try:
            self._parts.save(segment, attempt=self._attempt, owner=self._owner)
        except FileNotFoundError:
            raise StoreError(
                f"Shard {self._shard} of {self._layout.folder.name} was committed by another attempt or deleted."
            ) from None

    def append(
        self,
        embeddings: NDArray[Any],
        metadata: Sequence[RowMetadata],
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """Append rows: all of them, or none if this raises before writing.

        Parameters
        ----------
        embeddings
            ``(m, dim)`` floating point; converted to the plan's dtype.
        metadata
            One record per row.
        thumbnails
            One WebP image or None per row.

        Raises
        ------
        DimensionMismatch
            ``embeddings`` has another shape.
        NotFinite
            A value is NaN or infinite, or overflows the plan's dtype; the message names the image.
        StoreError
            An image is not part of the shard or was appended before, or the counts differ.
        StoreFull
            The disk is full; the writer cannot be used any more.
        """
        values = self._checked(embeddings, metadata, thumbnails)
        if not len(metadata):
            return
        self._take_ids([record.image_id for record in metadata])
        with storage_errors(self._staging):
            if self._vectors is None:
                self._vectors = NpyWriter(self._open(IMG_EMB), self._plan.dim, values.dtype)
            self._vectors.append(values)
            table = self._table(METADATA, self._metadata, METADATA_GROUP)
            for row, record in enumerate(metadata, start=self.rows):
                table.add((row, *self._values(record)))
            for row, image in enumerate(thumbnails or (), start=self.rows):
                if image is not None:
                    self._table(THUMBS, THUMBS_SCHEMA, THUMBS_GROUP).add((row, image))
        self.rows += len(metadata)
        if self._unsaved is not None:
            self._unsaved.add(values, metadata, thumbnails)

    def append_error(self, image_id: str, image_path: str, code: str, message: str) -> None:
        """Append an image that could not be embedded.

        Raises
        ------
        StoreError
            The image is not part of the shard or was appended before.
        StoreFull
            The disk is full.
        """
        self._take_ids([image_id])
        with storage_errors(self._staging):
            self._table(ERRORS, ERRORS_SCHEMA, METADATA_GROUP).add((image_id, image_path, code, message))
        self.failed += 1
        if self._unsaved is not None:
            self._unsaved.errors.append((image_id, image_path, code, message))

    def commit(self) -> bool:
        """Commit the shard.

        Returns
        -------
        bool
            True: this attempt's rows are the shard. False: another attempt committed the shard first, and this
            attempt's rows are discarded.

        Raises
        ------
        StoreError, StoreFull
            Images of the shard are missing, or the disk is full; nothing is committed.
        """
        self._require_open()
        if self._missing:
            raise StoreError(
                f"Shard {self._shard} lacks {len(self._missing)} of its {self._stop - self._start} images, such as "
                f"{min(self._missing)}: append each as a row or as an error before the commit."
            )
        final = self._layout.commit(self._shard)
        try:
            commit = self._stage()
            self._published = True
            won = commits.publish_commit(self._layout, commit)
        except FileNotFoundError:
            # `Store.finish_embeddings` removed the staging folder, which requires a commit of this shard.
            self._layout.refresh(final)
            if not self._layout.has(final):
                raise self._gone() from None
            won = False
        if won:
            self._closed = True
            commits.promote(self._layout, commit)
        else:
            self.discard()
            # The winner may have been killed before it promoted its files.
            commits.promote(self._layout, commits.read_commit(self._layout, self._shard))
        self._parts.remove()
        return won

    def _stage(self) -> ShardCommit:
        """Make the files durable in the staging folder; returns the commit that names them."""
        with storage_errors(self._staging):
            self._layout.make_staging(self._staging)
            self._finish_files()
            records = tuple(
                record_file(self._layout.staged(self._token, name), name)
                for name in (self._layout.data_name(kind, self._shard) for kind in self._files)
            )
            self._layout.stage(self._staging, [record.path.rpartition("/")[2] for record in records])
        return ShardCommit(
            shard=self._shard,
            start=self._start,
            stop=self._stop,
            rows=self.rows,
            failed=self.failed,
            files=records,
            attempt=self._attempt,
            owner=self._owner,
            token=self._token,
            committed_at=datetime.now(UTC),
            reused=self.reused,
        )

    def discard(self) -> None:
        """Delete this attempt's files; has no effect after `commit`."""
        if self._closed:
            return
        self._closed = True
        for table in self._tables.values():
            table.abandon()
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        if not self._may_count():
            self._layout.remove(self._staging)

    def _may_count(self) -> bool:
        """Whether the files may be the shard's: the commit may be linked although an error followed."""
        if not self._published:
            return False
        try:
            self._layout.refresh(self._layout.commit(self._shard))
            return commits.read_commit(self._layout, self._shard).token == self._token
        except FileNotFoundError:
            return False
        except (OSError, StoreError):  # not known: a later attempt or `shoal gc` removes what does not count
            return True

    def _gone(self) -> EmbeddingsNotFound:
        return EmbeddingsNotFound(f"{self._layout.folder.name} was deleted while shard {self._shard} was written.")

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError(f"The writer of shard {self._shard} is closed: it was committed or discarded.")

    def _checked(
        self, embeddings: NDArray[Any], metadata: Sequence[RowMetadata], thumbnails: Sequence[bytes | None] | None
    ) -> NDArray[Any]:
        """``embeddings`` in the plan's dtype, every value finite."""
        self._require_open()
        shape = (len(metadata), self._plan.dim)
        if embeddings.shape != shape:
            raise DimensionMismatch(f"Embeddings have shape {embeddings.shape}; expected {shape}.")
        if thumbnails is not None and len(thumbnails) != len(metadata):
            raise StoreError(f"{len(thumbnails)} thumbnails for {len(metadata)} rows: pass one or None per row.")
        with np.errstate(over="ignore"):
            values = embeddings.astype(self._plan.dtype, copy=False)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            if np.isfinite(embeddings[row]).all():
                reason = f"holds a value too large for {self._plan.dtype}: use float32"
            else:
                reason = "holds NaN or infinity: check the model's weights and this image"
            path = metadata[row].image_path
            raise NotFinite(f"The embedding of {path} {reason}.", image_path=path)
        return values

    def _take_ids(self, ids: Sequence[str]) -> None:
        self._require_open()
        for position, image_id in enumerate(ids):
            if image_id not in self._missing:
                self._missing.update(ids[:position])
                what = (
                    "was appended twice"
                    if image_id in self._expected
                    else "is not part of the shard's slice of the listing"
                )
                raise StoreError(f"Image {image_id} {what} (shard {self._shard}).")
            self._missing.remove(image_id)

    def _open(self, kind: str) -> BinaryIO:
        try:
            self._layout.make_staging(self._staging)
        except FileNotFoundError:
            raise self._gone() from None
        file = self._layout.staged(self._token, self._layout.data_name(kind, self._shard)).open("xb")
        self._files[kind] = file
        return file

    def _table(self, kind: str, schema: pa.Schema, group_rows: int) -> _Table:
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = _Table(self._open(kind), schema, group_rows)
        return table

    def _finish_files(self) -> None:
        """Complete, sync and close every file."""
        if self._vectors is not None:
            self._vectors.finish()
        for table in self._tables.values():
            table.close()
        for file in self._files.values():
            fsync_file(file)
            file.close()
