"""Reading the documents of an embeddings folder: its plan, its listing, its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from shoal.errors import StoreCorrupt, StoreError
from shoal.store.layout import EmbeddingsLayout
from shoal.store.manifest import FORMAT, Manifest, Plan, ShardCommit, ShardEntry


def read_plan(layout: EmbeddingsLayout) -> Plan:
    """The plan of a folder.

    Raises
    ------
    FileNotFoundError
        There is none: the folder is no embeddings folder.
    StoreError
        A newer version of Shoal wrote it.
    StoreCorrupt
        It is no plan.
    """
    content = layout.plan.read_bytes()
    try:
        document = json.loads(content)
        version = document["format"]
        if version == FORMAT:
            return Plan.model_validate(document)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(f"{layout.plan} is no plan: {error}.", file=str(layout.plan)) from error
    raise StoreError(f"{layout.folder.name} has format {version!r}, this Shoal reads {FORMAT}: update Shoal.")


def read_manifest(layout: EmbeddingsLayout) -> Manifest | None:
    """The manifest of a folder; None when it is not finished.

    Raises
    ------
    StoreCorrupt
        It is no manifest.
    """
    try:
        return Manifest.model_validate_json(layout.manifest.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreCorrupt(
            f"{layout.manifest} is no manifest: {error.errors()[0]['msg']}.", file=str(layout.manifest)
        ) from error


def read_listing(layout: EmbeddingsLayout, start: int = 0, stop: int | None = None) -> pa.Table:
    """Rows ``[start, stop)`` of listing.parquet; only the row groups that hold them are read.

    Raises
    ------
    StoreCorrupt
        The file is missing or no Parquet.
    """
    try:
        with pq.ParquetFile(layout.listing) as file:
            stop = file.metadata.num_rows if stop is None else stop
            groups, skipped, first = [], 0, 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if first < stop and start < last:
                    groups.append(group)
                elif last <= start:
                    skipped = last
                first = last
            return file.read_row_groups(groups).slice(start - skipped, max(stop - start, 0))
    except (pa.ArrowException, OSError) as error:
        raise StoreCorrupt(f"{layout.listing} cannot be read: {error}.", file=str(layout.listing)) from error


def shard_entries(shard_commits: Iterable[ShardCommit]) -> list[ShardEntry]:
    """The shards with their global offsets."""
    entries, offset = [], 0
    for c in shard_commits:
        entries.append(
            ShardEntry(shard=c.shard, start=c.start, stop=c.stop, offset=offset, rows=c.rows, failed=c.failed)
        )
        offset += c.rows
    return entries
