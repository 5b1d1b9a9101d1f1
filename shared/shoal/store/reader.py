"""Reading an embeddings set: committed shards only, vectors memory-mapped."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from shoal.errors import StoreCorrupt, StoreError
from shoal.store.commits import CommittedFiles
from shoal.store.documents import read_listing, read_manifest, read_notes, shard_entries
from shoal.store.layout import ERRORS, IMG_EMB, METADATA, THUMBS, EmbeddingsLayout
from shoal.store.npy import open_npy, release_pages
from shoal.store.records import Manifest, Plan, ShardCommit, ShardEntry
from shoal.store.table_schemas import ERRORS_SCHEMA, METADATA_SCHEMA, PROPERTIES_SCHEMA, THUMBS_SCHEMA

Array = NDArray[Any]


class EmbeddingSet:
    """One embeddings folder, as it was when it was opened.

    Global rows number the rows of the committed shards in the order of the shards. They are final once the set is
    `complete`; before that a shard committed later may shift them, in sets opened later.

    Before a file is read, its bytes are compared with its commit; where they differ, reading raises `StoreCorrupt`.

    Parameters
    ----------
    layout
        Paths of the folder.
    plan
        Its plan.
    sent
        Open it when it is first used, not now.
    """

    _sent = False

    def __init__(self, layout: EmbeddingsLayout, plan: Plan, *, sent: bool = False) -> None:
        self.layout = layout
        self.plan = plan
        self.repaired_shards: tuple[int, ...] = ()
        """Damaged shards that were removed when the set was opened by `Store.repaired_embeddings`."""
        self._sent = sent
        if not sent:
            self._by_shard  # noqa: B018 - opens it

    def __reduce__(self) -> tuple[Any, ...]:
        """A set that is sent to another process is opened there, when it is used: Ray loses what unpickling raises."""
        return partial(type(self), sent=True), (self.layout, self.plan)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest; None if the set is not complete.

        Raises
        ------
        StoreError
            The set was sent to this machine, whose store has no such set.
        """
        if self._sent and not self.layout.is_there():
            raise StoreError(
                f"Node {socket.gethostname()} finds no embeddings at {self.layout.address}. Mount the store under the "
                "same path on all nodes, or keep embeddings in a bucket: SHOAL_EMBEDDINGS_STORE.",
                path=self.layout.address,
            )
        return read_manifest(self.layout)

    @cached_property
    def _files(self) -> CommittedFiles:
        return CommittedFiles(self.layout, self.manifest)

    @cached_property
    def _entries(self) -> list[ShardEntry]:
        return list(self.manifest.shards) if self.manifest else shard_entries(self.commits.values())

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        return np.array([e.offset for e in self._entries] + [sum(e.rows for e in self._entries)], dtype=np.int64)

    @cached_property
    def _by_shard(self) -> dict[int, ShardEntry]:
        return {entry.shard: entry for entry in self._entries}

    @cached_property
    def _mapped(self) -> Callable[[int], Array]:
        return lru_cache(maxsize=8)(self.shard)  # each mapping holds a file descriptor

    @property
    def id(self) -> str:
        """The embeddings' id."""
        return self.layout.folder.name

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.plan.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32, as stored."""
        return np.dtype(self.plan.dtype)

    @property
    def rows(self) -> int:
        """Number of committed embeddings."""
        return sum(entry.rows for entry in self._entries)

    @property
    def failed(self) -> int:
        """Number of images that could not be embedded, in committed shards."""
        return sum(entry.failed for entry in self._entries)

    @property
    def complete(self) -> bool:
        """Whether every shard is committed and manifest.json is written."""
        return self.manifest is not None

    @property
    def commits(self) -> dict[int, ShardCommit]:
        """The commits by shard number, ascending."""
        return self._files.commits

    def check(self) -> None:
        """Compare the documents with each other and the size of every file with its record; reads no data.

        Raises
        ------
        StoreCorrupt
            A file does not match; the message names it.
        """
        self._files.check(self.plan)

    def missing_shards(self) -> list[int]:
        """Numbers of the shards that are not committed."""
        return [shard for shard in range(self.plan.shards) if shard not in self._by_shard]

    def shard(self, shard: int) -> Array:
        """The vectors of a committed shard.

        Returns
        -------
        ndarray
            ``(rows, dim)`` of the stored dtype: a read-only memmap of the file.

        Raises
        ------
        StoreError
            The shard is not committed.
        StoreCorrupt
            Its file is missing or damaged.
        """
        entry = self._by_shard.get(shard)
        if entry is None:
            raise StoreError(f"Shard {shard} of {self.id} is not committed.")
        if not entry.rows:
            return np.empty((0, self.dim), self.dtype)
        rows, dim, dtype = entry.rows, self.dim, self.plan.dtype
        return self._files.open(shard, IMG_EMB, lambda path: open_npy(path, rows, dim, dtype))

    def iter_batches(
        self,
        batch_rows: int = 8192,
        *,
        dtype: DTypeLike = np.float32,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[tuple[int, Array]]:
        """All vectors from ``start`` to ``stop`` in global row order, in batches that may span shards.

        Parameters
        ----------
        batch_rows
            Rows per batch; the last one may have fewer.
        dtype
            Of the batches.

        Yields
        ------
        first : int
            Global row of the batch's first row.
        batch : ndarray
            ``(b, dim)`` of ``dtype``: a read-only view of the file if ``dtype`` is the stored one and the batch lies
            within one shard, else a copy.
        """
        stop = self.rows if stop is None else min(stop, self.rows)
        if batch_rows < 1 or start < 0:
            raise ValueError(f"batch_rows is {batch_rows} and start {start}: expected at least 1 and 0")
        for first in range(start, stop, batch_rows):
            parts = list(self._parts(first, min(first + batch_rows, stop)))
            yield first, _joined(parts, np.dtype(dtype))
            for part in parts:
                release_pages(part)

    def _parts(self, start: int, stop: int) -> Iterator[Array]:
        """The rows from ``start`` to ``stop``, as views of the shards that hold them."""
        first = int(np.searchsorted(self._offsets, start, side="right")) - 1
        last = int(np.searchsorted(self._offsets, stop, side="left"))
        for entry in self._entries[first:last]:
            lo, hi = max(start - entry.offset, 0), min(stop - entry.offset, entry.rows)
            if lo < hi:
                yield self._mapped(entry.shard)[lo:hi]

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of some global rows, in the order of ``rows``.

        Parameters
        ----------
        rows
            ``(m,)`` integers, repeats allowed. The files are read in ascending order, whatever the order of ``rows``.

        Returns
        -------
        ndarray
            ``(m, dim)`` float32.

        Raises
        ------
        IndexError
            A row is negative or not below `rows`.
        """
        selected = self._valid_rows(rows)
        order = np.argsort(selected, kind="stable")
        ordered = selected[order]
        out = np.empty((len(selected), self.dim), np.float32)
        borders = np.searchsorted(ordered, self._offsets)
        for entry, lo, hi in zip(self._entries, borders[:-1], borders[1:], strict=True):
            if lo < hi:
                vectors = self._mapped(entry.shard)
                out[order[lo:hi]] = vectors[ordered[lo:hi] - entry.offset]
                release_pages(vectors)
        return out

    def metadata(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows' metadata in global row order.

        Parameters
        ----------
        columns
            The columns besides ``row``; all by default.

        Returns
        -------
        pyarrow.Table
            ``row`` (int64, global) first.
        """
        tables = list(self.iter_metadata(columns))
        return pa.concat_tables(tables) if tables else _metadata_schema(columns).empty_table()

    def iter_metadata(
        self, columns: Sequence[str] | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[pa.Table]:
        """The metadata of the rows from ``start`` to ``stop``, shard by shard: only one shard's table is in memory."""
        schema = _metadata_schema(columns)
        stop = self.rows if stop is None else min(stop, self.rows)
        for entry in self._entries:
            lo, hi = max(start - entry.offset, 0), min(stop - entry.offset, entry.rows)
            if lo >= hi:
                continue
            table = self._files.table(entry.shard, METADATA, schema)
            if table.num_rows != entry.rows:
                name = self.layout.data_name(METADATA, entry.shard)
                raise self._files.corrupt(name, f"has {table.num_rows} rows, its commit says {entry.rows}")
            part = table.slice(lo, hi - lo)
            yield part.set_column(0, schema.field(0), pc.add(part.column(0), entry.offset))

    def labels(self) -> list[str | None] | None:
        """The labels in global row order; None if no row has one."""
        column = self.metadata(["label"]).column("label")
        return None if column.null_count == len(column) else column.to_pylist()

    def errors(self) -> pa.Table:
        """The images that could not be embedded: image_id, image_path, code, message."""
        tables = [self._files.table(entry.shard, ERRORS, ERRORS_SCHEMA) for entry in self._entries if entry.failed]
        return pa.concat_tables(tables) if tables else ERRORS_SCHEMA.empty_table()

    def thumbnails(
        self, rows: NDArray[np.int64] | Sequence[int], *, damaged: list[str] | None = None
    ) -> dict[int, bytes]:
        """The WebP thumbnails of the rows that have one, by global row.

        Parameters
        ----------
        damaged
            Receives the names of missing or damaged files, whose rows then have no thumbnail. None: such a file is
            an error.

        Raises
        ------
        IndexError
            A row is negative or not below `rows`.
        StoreCorrupt
            A file is missing or damaged.
        """
        selected = np.unique(self._valid_rows(np.asarray(rows, dtype=np.int64)))
        found: dict[int, bytes] = {}
        borders = np.searchsorted(selected, self._offsets)
        for entry, lo, hi in zip(self._entries, borders[:-1], borders[1:], strict=True):
            if lo < hi and self._files.has(entry.shard, THUMBS):
                local = (selected[lo:hi] - entry.offset).tolist()
                try:
                    table = self._files.rows(entry.shard, THUMBS, THUMBS_SCHEMA, local)
                except StoreCorrupt as error:
                    if damaged is None:
                        raise
                    damaged.append(str(error.members["file"]))
                    continue
                for row, image in zip(*(table.column(name).to_pylist() for name in ("row", "image")), strict=True):
                    found[int(row) + entry.offset] = image
        return found

    def properties(self, rows: NDArray[np.int64] | Sequence[int]) -> pa.Table:
        """``row`` and the images' properties (`PROPERTIES_SCHEMA`) of some rows, ascending; null where not known.

        Raises
        ------
        IndexError
            A row is negative or not below `rows`.
        StoreCorrupt
            A file is missing or damaged.
        """
        selected = np.unique(self._valid_rows(np.asarray(rows, dtype=np.int64)))
        schema = _metadata_schema(PROPERTIES_SCHEMA.names)
        found = [schema.empty_table()]
        borders = np.searchsorted(selected, self._offsets)
        for entry, lo, hi in zip(self._entries, borders[:-1], borders[1:], strict=True):
            if lo < hi:
                local = (selected[lo:hi] - entry.offset).tolist()
                table = self._files.table(entry.shard, METADATA, schema, pc.field("row").isin(local))
                found.append(table.set_column(0, schema.field(0), pc.add(table.column(0), entry.offset)))
        return pa.concat_tables(found)

    def listing(self, start: int = 0, stop: int | None = None) -> pa.Table:
        """The frozen listing, or its slice ``[start, stop)``: image_id, image_path, label, split, stamp."""
        self._files.check_document("listing.parquet")
        return read_listing(self.layout, start, stop)

    @property
    def notes(self) -> dict[str, Any]:
        """How the listing was made, as JSON values: ``not_taken``, ``source``. Empty if listed.json is missing."""
        return read_notes(self.layout)

    def summary(self) -> dict[str, Any]:
        """The answer of `GET /embeddings/{id}`, as JSON values."""
        notes = self.notes
        self._files.check_document("listing.parquet")
        labels = read_listing(self.layout, columns=["label"]).column("label")
        return {
            "id": self.id,
            "name": self.plan.name,
            "complete": self.complete,
            "rows": self.rows,
            "failed": self.failed,
            "images": self.plan.source.count,
            "dim": self.dim,
            "dtype": self.plan.dtype,
            "classes": pc.count_distinct(labels, mode="only_valid").as_py() or None,
            "shards": {"total": self.plan.shards, "committed": len(self._entries), "rows": self.plan.shard_rows},
            "thumbnails": self.plan.thumbnails,
            "finished_at": self.manifest.finished_at.isoformat() if self.manifest else None,
            "source": self.plan.source.model_dump(mode="json"),
            "not_taken": notes.get("not_taken"),
            "recognised": notes.get("source"),
            "model": self.plan.model.model_dump(mode="json"),
            "transform": self.plan.transform,
            "engine": notes.get("engine") or {"numerics": self.plan.engine},
            "libraries": self.plan.libraries,
        }

    def _valid_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        selected = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(selected) and not 0 <= selected.min() <= selected.max() < self.rows:
            raise IndexError(f"rows {selected.min()}..{selected.max()} of an embedding set with {self.rows}")
        return selected


def _joined(parts: Sequence[Array], dtype: np.dtype[Any]) -> Array:
    """All parts as one array; a single part of ``dtype`` is not copied."""
    if len(parts) == 1:
        return parts[0].astype(dtype, copy=False)
    out = np.empty((sum(map(len, parts)), parts[0].shape[1]), dtype)
    np.concatenate(parts, out=out, casting="same_kind")
    return out


def _metadata_schema(columns: Sequence[str] | None) -> pa.Schema:
    """The metadata's schema with ``row`` and some of the other columns; all but the properties by default."""
    if columns is None:
        return METADATA_SCHEMA
    fields = {field.name: field for field in (*METADATA_SCHEMA, *PROPERTIES_SCHEMA)}
    unknown = set(columns) - set(fields)
    if unknown:
        raise ValueError(f"metadata has no column {sorted(unknown)}; it has {list(fields)}")
    return pa.schema([field for name, field in fields.items() if name == "row" or name in columns])
