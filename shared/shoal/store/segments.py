"""Saved parts of shards that are not committed yet, from which the next attempt continues.

The writer of a shard periodically saves its new rows as a *segment*: one file with whole images (vectors, metadata,
thumbnails, errors) and its own checksum. The next attempt reads the segments that follow each other from the start of
the shard's slice of the listing, whichever attempt wrote them; all other segments are ignored.
FORMAT.md, "Saved parts of a shard", is the specification.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
import xxhash
from numpy.typing import NDArray
from pydantic import ValidationError

from shoal.errors import StoreCorrupt
from shoal.store.files import storage_errors
from shoal.store.layout import EmbeddingsLayout
from shoal.store.records import FORMAT, Plan, Record, RowMetadata
from shoal.store.table_schemas import ERRORS_SCHEMA, METADATA_SCHEMA, PROPERTIES_SCHEMA

SEGMENT_NAME = re.compile(r"([0-9]{7,})-([0-9]{7,})-[0-9a-f]{16}\.segment")
_METADATA = pa.schema([field for field in (*METADATA_SCHEMA, *PROPERTIES_SCHEMA) if field.name != "row"])

log = structlog.get_logger(__name__)


class SegmentRecord(Record):
    """First line of a segment, JSON: its images, and the size and checksum of the rest of the file."""

    format: int = FORMAT
    embeddings: str
    shard: int
    start: int
    stop: int
    attempt: int
    owner: str
    bytes: int
    xxh3_64: str
    reused: int = 0


@dataclass
class Segment:
    """Consecutive images of a shard's slice, each embedded or failed.

    Attributes
    ----------
    start
        Number of images of the slice before the segment.
    vectors
        Blocks of rows in the plan's dtype; together one row for each of ``metadata``.
    metadata, images
        Records and thumbnails of the embedded images, in the order of their rows.
    errors
        The failed images: ``(image_id, image_path, code, message)``.
    reused
        How many of the rows were taken over from other sets.
    """

    start: int
    vectors: list[NDArray[Any]] = field(default_factory=list)
    metadata: list[RowMetadata] = field(default_factory=list)
    images: list[bytes | None] = field(default_factory=list)
    errors: list[tuple[str, str, str, str]] = field(default_factory=list)
    reused: int = 0
    size: int = 0
    """Bytes of vectors and thumbnails."""

    @property
    def stop(self) -> int:
        """Number of images of the slice up to and including the segment."""
        return self.start + len(self.metadata) + len(self.errors)

    def add(self, values: NDArray[Any], metadata: Sequence[RowMetadata], images: Sequence[bytes | None] | None) -> None:
        """Add embedded images."""
        self.vectors.append(values)
        self.metadata.extend(metadata)
        self.images.extend(images if images is not None else [None] * len(metadata))
        self.size += values.nbytes + sum(len(image) for image in images or () if image is not None)

    def image_ids(self) -> set[str]:
        """Ids of its images."""
        return {record.image_id for record in self.metadata} | {error[0] for error in self.errors}


@dataclass(frozen=True)
class ShardParts:
    """The saved parts of one shard.

    Parameters
    ----------
    layout, plan, shard
        The shard.
    ids
        Image ids of its slice of the listing, in order.
    """

    layout: EmbeddingsLayout
    plan: Plan
    shard: int
    ids: Sequence[str]

    def save(self, segment: Segment, *, attempt: int, owner: str) -> None:
        """Write a segment, durably, under a name that no other attempt uses.

        Raises
        ------
        StoreFull, StoreError
            The segment cannot be written; no file is left behind.
        FileNotFoundError
            The set was deleted, or another attempt committed the shard.
        """
        folder = self.layout.parts(self.shard)
        payload = _encode(segment, self.plan)
        record = SegmentRecord(
            embeddings=self.layout.folder.name,
            shard=self.shard,
            start=segment.start,
            stop=segment.stop,
            attempt=attempt,
            owner=owner,
            bytes=len(payload),
            xxh3_64=xxhash.xxh3_64_hexdigest(payload),
            reused=segment.reused,
        )
        with storage_errors(folder):
            for each in (folder.parent, folder):
                self.layout.make_folder(each)
        name = f"{segment.start:07d}-{segment.stop:07d}-{secrets.token_hex(8)}.segment"
        self.layout.publish(folder / name, record.model_dump_json().encode() + b"\n" + payload)

    def read(self) -> Iterator[Segment]:
        """The valid segments that follow each other from the start of the slice; damaged ones are skipped."""
        position = 0
        names = segment_names(self.layout, self.shard)
        while position < len(self.ids):
            found = None
            for _, name in sorted(((stop, name) for start, stop, name in names if start == position), reverse=True):
                try:
                    found = self._read(self.layout.parts(self.shard) / name)
                except (OSError, StoreCorrupt) as error:
                    log.warning("damaged segment skipped", file=name, reason=str(error))
                    continue
                break
            if found is None:
                return
            yield found
            position = found.stop

    def remove(self) -> None:
        """Remove all saved parts of the shard."""
        self.layout.remove(self.layout.parts(self.shard))

    def _read(self, path: Path) -> Segment:
        header, _, payload = self.layout.read(path).partition(b"\n")
        try:
            record = SegmentRecord.model_validate_json(header)
        except ValidationError as error:
            raise StoreCorrupt(f"{path.name} does not start with the record of a segment.") from error
        match = SEGMENT_NAME.fullmatch(path.name)
        named = (int(match[1]), int(match[2])) if match else None
        own = (FORMAT, self.layout.folder.name, self.shard)
        if (record.format, record.embeddings, record.shard) != own or (record.start, record.stop) != named:
            raise StoreCorrupt(f"{path.name} is a segment of another set, shard or range.")
        if len(payload) != record.bytes or xxhash.xxh3_64_hexdigest(payload) != record.xxh3_64:
            raise StoreCorrupt(f"{path.name} does not match its checksum.")
        segment = _decode(payload, record.start, self.plan)
        if segment.stop != record.stop or segment.image_ids() != set(self.ids[record.start : record.stop]):
            raise StoreCorrupt(f"{path.name} holds other images than the listing's slice.")
        segment.reused = record.reused
        return segment


def segment_names(layout: EmbeddingsLayout, shard: int) -> list[tuple[int, int, str]]:
    """Start, stop and name of each segment of a shard; empty if it has none."""
    try:
        matches = [SEGMENT_NAME.fullmatch(name) for name in layout.names(layout.parts(shard))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(int(match[1]), int(match[2]), match[0]) for match in matches if match]


def saved_images(layout: EmbeddingsLayout, shard: int) -> int:
    """Number of images that the segments of a shard hold, according to their names."""
    reached = 0
    spans = segment_names(layout, shard)
    while longest := max((stop for start, stop, _ in spans if start == reached < stop), default=0):
        reached = longest
    return reached


def _encode(segment: Segment, plan: Plan) -> bytes:
    """Two Arrow IPC streams: the rows, then the errors."""
    rows = len(segment.metadata)
    width = pa.binary(plan.dim * np.dtype(plan.dtype).itemsize)
    values = np.concatenate(segment.vectors) if segment.vectors else np.empty((0, plan.dim), plan.dtype)
    buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
    columns = [pa.array([getattr(record, f.name) for record in segment.metadata], f.type) for f in _METADATA]
    columns += [pa.Array.from_buffers(width, rows, buffers), pa.array(segment.images, pa.binary())]
    names = [*_METADATA.names, "vector", "image"]
    errors = [pa.array([row[i] for row in segment.errors], f.type) for i, f in enumerate(ERRORS_SCHEMA)]
    sink = pa.BufferOutputStream()
    for table in (pa.table(columns, names=names), pa.table(errors, schema=ERRORS_SCHEMA)):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue())


def _decode(payload: bytes, start: int, plan: Plan) -> Segment:
    try:
        source = pa.BufferReader(payload)
        rows, errors = (pa.ipc.open_stream(source).read_all() for _ in range(2))
        # A part that an earlier version saved has no properties.
        absent = set(PROPERTIES_SCHEMA.names).difference(rows.column_names)
        names = [name for name in _METADATA.names if name not in absent]
        metadata = [RowMetadata(**row) for row in rows.select(names).to_pylist()]
        values: NDArray[Any] = np.concatenate(
            [_values(chunk, plan) for chunk in rows.column("vector").chunks] or [np.empty((0, plan.dim), plan.dtype)]
        )
        segment = Segment(start, errors=[tuple(row.values()) for row in errors.to_pylist()])
        if metadata:
            segment.add(values, metadata, rows.column("image").to_pylist())
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"A segment cannot be read: {error}.") from error
    return segment


def _values(chunk: Any, plan: Plan) -> NDArray[Any]:
    flat = np.frombuffer(chunk.buffers()[1], plan.dtype)
    return flat.reshape(-1, plan.dim)[chunk.offset : chunk.offset + len(chunk)]
