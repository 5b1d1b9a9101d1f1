"""The store's JSON documents as pydantic models, the schemas of its tables, and the hashes of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer

from shoal.errors import StoreError
from shoal.store.table_schemas import LISTING_SCHEMA

FORMAT = 1
"""Version of the on-disk format that this code writes."""
SHARD_DIGITS = 5
"""Least width of a shard number in file names."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SetName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def image_id(image_path: str) -> str:
    """Id of an image within its listing: 16 hex digits of the XXH3-64 of its path in UTF-8."""
    return xxhash.xxh3_64_hexdigest(image_path.encode("utf-8"))


def canonical_json(document: Any) -> bytes:
    """Canonical JSON, the input of hashes: sorted keys, no white space, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def conform_listing(listing: pa.Table) -> pa.Table:
    """``listing`` with exactly the columns of `LISTING_SCHEMA`; a missing nullable column becomes all null.

    Raises
    ------
    StoreError
        A required column is missing, or a column is not text.
    """
    columns = []
    for field in LISTING_SCHEMA:
        if field.name in listing.column_names:
            columns.append(listing.column(field.name))
        elif field.nullable:
            columns.append(pa.nulls(listing.num_rows, field.type))
        else:
            raise StoreError(f"The listing lacks the column `{field.name}`.")
    try:
        table = pa.table(columns, names=LISTING_SCHEMA.names).cast(LISTING_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise StoreError(f"The listing's columns must be text: {error}.") from error
    return table


def listing_sha256(listing: pa.Table) -> str:
    """SHA-256 of a listing's content, independent of the file that holds it.

    Input is the canonical JSON of the array of rows, each an array ``[image_id, image_path, label, split, stamp]``.
    """
    digest = hashlib.sha256()
    separator = b"["
    for batch in conform_listing(listing).to_batches(max_chunksize=65_536):
        rows = zip(*(batch.column(i).to_pylist() for i in range(batch.num_columns)), strict=True)
        digest.update(separator + canonical_json(list(rows))[1:-1])
        separator = b","
    digest.update(b"]" if separator == b"," else b"[]")
    return digest.hexdigest()


class Record(BaseModel):
    """Base of the store's JSON documents. Readers ignore unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Source(Record):
    """The source of the rows.

    Attributes
    ----------
    format
        The kind of source that the request names; None for a folder, or where what lies at ``path`` says it.
    include, exclude, limit
        Which images of it are taken.
    """

    kind: Literal["images", "import"]
    path: str
    labels: str | dict[str, Any] | None = None
    split: str | None = None
    count: int = Field(ge=0)
    listing_sha256: Sha256
    format: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Plans without these fields keep their ids.
        document: dict[str, Any] = serialise(self)
        optional = ("format", "include", "exclude", "limit")
        return {key: value for key, value in document.items() if value or key not in optional}

    @classmethod
    def of(
        cls,
        listing: pa.Table,
        *,
        kind: Literal["images", "import"],
        path: str,
        labels: str | dict[str, Any] | None = None,
        split: str | None = None,
    ) -> Source:
        """The source with the frozen listing ``listing``."""
        return cls(
            kind=kind,
            path=path,
            labels=labels,
            split=split,
            count=listing.num_rows,
            listing_sha256=listing_sha256(listing),
        )


class KeyRules(Record):
    """Rules for a checkpoint's keys, from the request or the catalogue."""

    prefix: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()


class LoadedCheckpoint(Record):
    """How a checkpoint was read.

    Attributes
    ----------
    asked_layout
        The requested layout, such as ``auto``; a plan's id contains this one, not the detected layout.
    container, prefix
        The part of the file that was read, and the prefix of its keys.
    filled
        Number of tensors of the network that were filled.
    renamed
        Number of tensors whose key a rule of the request changed.
    ignored, heads
        Unused keys: those that the request's rules ignore, and those of known heads. The first 200 of each.
    ignored_count, heads_count
        The number of unused keys of each kind.
    file
        Path of the file below the models root, if it is in a folder there.
    """

    asked_layout: str
    container: str
    prefix: str
    filled: int
    renamed: int = 0
    ignored: tuple[str, ...] = ()
    ignored_count: int = 0
    heads: tuple[str, ...] = ()
    heads_count: int = 0
    file: str | None = None

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        document: dict[str, object] = serialise(self)
        return {key: value for key, value in document.items() if value is not None}


class ModelRecord(Record):
    """The model of the embeddings.

    Attributes
    ----------
    layout
        Key layout of the checkpoint: the requested one until the checkpoint is read, then the detected one.
    keys
        The request's rules for its keys.
    loaded
        How the checkpoint was read. Not part of a plan's id.
    """

    name: str
    backend: str
    architecture: str
    weights_sha256: Sha256 | None = None
    weights_file: str | None = None
    layout: str | None = None
    embedding: str
    seed: int | None = None
    keys: KeyRules | None = None
    loaded: LoadedCheckpoint | None = None

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Older plans lack these fields and must keep their ids.
        document: dict[str, Any] = serialise(self)
        return {key: value for key, value in document.items() if value is not None or key not in ("keys", "loaded")}

    def requested(self) -> ModelRecord:
        """The record before the checkpoint is read; records of the same model are equal."""
        if self.loaded is None:
            return self
        return self.model_copy(update={"layout": self.loaded.asked_layout, "loaded": None})

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of `requested`: equal for records of the same model."""
        return hashlib.sha256(canonical_json(self.requested().model_dump(mode="json"))).hexdigest()


class Plan(Record):
    """plan.json: what an embeddings folder will hold, fixed before the first row.

    Attributes
    ----------
    dim
        Length of an embedding.
    shard_rows
        Shard ``i`` is the slice ``[i * shard_rows, (i + 1) * shard_rows)`` of the listing.
    engine
        Numerics class of the engine that computes the rows, such as ``openvino-bf16``; None for PyTorch's own float32,
        which older plans do not name either.
    libraries
        Versions of the libraries. Not part of the id, so that an update of a library does not restart the work.
    """

    format: int = FORMAT
    name: SetName
    source: Source
    model: ModelRecord
    transform: dict[str, Any] = Field(default_factory=dict)
    dim: int = Field(ge=1)
    dtype: Literal["float16", "float32"]
    shard_rows: int = Field(ge=1)
    thumbnails: bool = False
    engine: str | None = Field(None, max_length=100)
    libraries: dict[str, str] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_engine(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        # Older plans lack the field and must keep their ids.
        document: dict[str, object] = serialise(self)
        return {key: value for key, value in document.items() if value is not None or key != "engine"}

    @property
    def id(self) -> str:
        """The embeddings' id: the name and 12 hex digits of the plan's hash."""
        return plan_id(self.model_dump(mode="json"))

    @property
    def engine_name(self) -> str:
        """The request's ``engine`` that computes in `engine`, such as ``openvino``."""
        if self.engine is None:
            return "eager"
        return self.engine if self.engine.endswith("-int8") else self.engine.partition("-")[0]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.source.count // self.shard_rows)

    @property
    def shard_digits(self) -> int:
        """Width of a shard's number in file names."""
        return max(SHARD_DIGITS, len(str(self.shards - 1)))

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First listing row of ``shard`` and the one after its last.

        Raises
        ------
        IndexError
            The plan has no such shard.
        """
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard {shard} of a plan with {self.shards}")
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, self.source.count)


def plan_id(document: Mapping[str, Any]) -> str:
    """The id of the set with this plan.json: it depends on what was requested, not on what was detected."""
    content = {key: value for key, value in document.items() if key != "libraries"}
    model = dict(document["model"])
    if loaded := model.pop("loaded", None):
        model["layout"] = loaded["asked_layout"]
    content["model"] = model
    return f"{document['name']}-{hashlib.sha256(canonical_json(content)).hexdigest()[:12]}"


class FileRecord(Record):
    """A file at the time of its commit. ``path`` is relative to the folder of the set or the clustering."""

    path: str
    bytes: int = Field(ge=0)
    xxh3_64: str
    sha256: Sha256


class ShardCommit(Record):
    """commits/NNNNN.json: the commit point of a shard."""

    format: int = FORMAT
    shard: int = Field(ge=0)
    start: int = Field(ge=0)
    stop: int = Field(ge=0)
    rows: int = Field(ge=0)
    failed: int = Field(ge=0)
    files: tuple[FileRecord, ...]
    attempt: int
    owner: str
    token: str
    committed_at: datetime
    reused: int = Field(0, ge=0)
    """Rows that were taken over from other sets; absent where there are none."""


class ShardEntry(Record):
    """A shard in manifest.json. ``offset`` is the global row of its first row."""

    shard: int
    start: int
    stop: int
    offset: int
    rows: int
    failed: int


class Manifest(Record):
    """manifest.json: written last, when every shard is committed."""

    format: int = FORMAT
    id: str
    complete: Literal[True] = True
    rows: int
    failed: int
    dim: int
    dtype: str
    shards: tuple[ShardEntry, ...]
    files: tuple[FileRecord, ...]
    finished_at: datetime
    seal: str = ""

    def sealed(self) -> Manifest:
        """The same manifest with `seal`, the XXH3-64 of its canonical JSON without that field."""
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})


class FilesRecord(Record):
    """files.json: the files of a published clustering."""

    format: int = FORMAT
    files: tuple[FileRecord, ...]
    seal: str = ""

    def sealed(self) -> FilesRecord:
        """The same record with `seal`, as in a `Manifest`."""
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})


def seal_of(document: Mapping[str, Any]) -> str:
    """The value of the field ``seal`` of a manifest.json or files.json."""
    return xxhash.xxh3_64_hexdigest(canonical_json({k: v for k, v in document.items() if k != "seal"}))


@dataclass(frozen=True, slots=True)
class RowMetadata:
    """Metadata of one embedded image. ``sha256`` is that of the image file; FORMAT.md says what the others mean."""

    image_id: str
    image_path: str
    label: str | None = None
    split: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    brightness: float | None = None
    luma_1: float | None = None
    luma_5: float | None = None
    luma_99: float | None = None
    entropy: float | None = None
    sharpness: float | None = None
    pixel_hash: str | None = None
