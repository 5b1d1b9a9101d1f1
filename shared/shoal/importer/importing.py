"""Importing embeddings, from the files to the finished set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from shoal.errors import ImportInvalid
from shoal.importer.files import Part, Rows, check_values, chunks, open_parts, read_rows
from shoal.labels import Columns
from shoal.schemas import NAME_PATTERN, NAME_RULE
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id

log = logging.getLogger(__name__)


def import_embeddings(
    store: Store,
    path: Path,
    *,
    name: str,
    labels: Path | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    dtype: Literal["float16", "float32"] | None = None,
    shard_rows: int = 100_000,
) -> str:
    """Copy existing embeddings into the store as a finished embeddings set; returns its id.

    The id is ``name`` and a hash of the content: importing the same content again copies nothing, and an interrupted
    import is continued.

    Parameters
    ----------
    path
        One ``.npy`` of ``(n, dim)`` float16, float32 or float64, or a folder in clip-retrieval's layout:
        ``img_emb/*.npy`` and optionally ``metadata/*.parquet``, paired by the numbers in their names. Of the metadata
        the image's path (`PATHS`), ``label``, ``split``, ``width``, ``height`` and ``bytes`` are kept.
    labels, columns
        A label file and its columns; overrides the metadata's labels. See `shoal.labels.read_labels` and `join`.
    split
        Split of every row; takes precedence over the metadata's.
    dtype
        What to store; by default float16 if all files are float16, else float32. Rounding float64 is logged.
    shard_rows
        Rows per file.

    Raises
    ------
    ImportInvalid
        The files are not as described above; the message names the file, row or field.
    StoreFull
        The disk is full.
    """
    parts = open_parts(path)
    stored = dtype or ("float16" if all(part.values.dtype == np.float16 for part in parts) else "float32")
    rows = read_rows(path, parts, labels, split, columns)
    digest = check_values(parts, np.dtype(stored))
    plan, listing = _plan(
        path, parts, rows, digest, name=name, dtype=stored, labels=labels, split=split, size=shard_rows
    )
    found = store.create_embeddings(plan, listing)
    for shard in found.missing_shards():
        _write_shard(store, found.id, plan, shard, parts, rows)
    store.finish_embeddings(found.id)
    return found.id


def _plan(
    path: Path,
    parts: Sequence[Part],
    rows: Rows,
    digest: str,
    *,
    name: str,
    dtype: str,
    labels: Path | None,
    split: str | None,
    size: int,
) -> tuple[Plan, pa.Table]:
    imported = sorted({part.values.dtype.name for part in parts})
    if "float64" in imported:
        log.warning("%s holds float64, which is stored as %s.", path, dtype)
    listing = pa.table(
        {
            "image_id": pa.array([image_id(value) for value in rows.paths], pa.string()),
            "image_path": pa.array(rows.paths, pa.string()),
            "label": pa.array(rows.labels, pa.string()),
            "split": pa.array(rows.splits, pa.string()),
        }
    )
    try:
        plan = Plan(
            name=name,
            source=Source.of(
                listing, kind="import", path=path.name, labels=labels.name if labels else None, split=split
            ),
            model=ModelRecord(name=name, backend="import", architecture="unknown", embedding="imported"),
            transform={"imported_dtype": ",".join(imported), "content_sha256": digest},
            dim=parts[0].values.shape[1],
            dtype=dtype,
            shard_rows=size,
        )
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        pattern = (error.errors()[0].get("ctx") or {}).get("pattern")
        why = NAME_RULE if pattern == NAME_PATTERN else f"{error.errors()[0]['msg']}."
        raise ImportInvalid(f"`{field}`: {why}", field=field) from error
    return plan, listing


def _write_shard(store: Store, embeddings_id: str, plan: Plan, shard: int, parts: Sequence[Part], rows: Rows) -> None:
    with store.shard_writer(embeddings_id, shard, attempt=1, owner="import") as writer:
        for part, lo, hi, first in chunks(parts, *plan.shard_range(shard)):
            metadata = [
                RowMetadata(
                    image_id=image_id(rows.paths[row]),
                    image_path=rows.paths[row],
                    label=rows.labels[row],
                    split=rows.splits[row],
                    width=rows.numbers["width"][row],
                    height=rows.numbers["height"][row],
                    bytes=rows.numbers["bytes"][row],
                )
                for row in range(first, first + hi - lo)
            ]
            writer.append(part.values[lo:hi], metadata)
        writer.commit()
