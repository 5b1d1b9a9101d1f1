"""The documents of an embeddings folder: plan, listing, notes and manifest, read and written."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from shoal.errors import EmbeddingsNotFound, ShoalError, StoreCorrupt, StoreError
from shoal.store.files import publish_folder, record_file, storage_errors
from shoal.store.layout import EmbeddingsLayout, StoreLayout
from shoal.store.records import (
    FORMAT,
    Manifest,
    Plan,
    ShardCommit,
    ShardEntry,
    conform_listing,
    listing_sha256,
    plan_id,
    seal_of,
)
from shoal.store.table_schemas import LISTING_SCHEMA

LISTING_GROUP = 65_536


def not_found(embeddings_id: str) -> EmbeddingsNotFound:
    """The error for an unknown embeddings id."""
    return EmbeddingsNotFound(
        f"Embeddings {embeddings_id!r} do not exist: `GET /embeddings` lists the ids.", embeddings=embeddings_id
    )


def corrupt(layout: EmbeddingsLayout, name: str, problem: str) -> ShoalError:
    """The error for a damaged file ``name`` of a set, or for a set that was deleted while it was read."""
    set_id = layout.folder.name
    if not layout.is_there():
        return not_found(set_id)
    return StoreCorrupt(
        f"embeddings/{set_id}/{name} {problem}. `shoal verify {set_id}` lists all damage. To repair it, run "
        f"`shoal repair {set_id}`, or submit the same extract request or import again.",
        file=f"embeddings/{set_id}/{name}",
        embeddings=set_id,
    )


def reason_of(error: Exception) -> str:
    """The middle of a message of `corrupt`: the problem without the file's name and the advice."""
    members = error.members if isinstance(error, ShoalError) else {}
    return str(error).removeprefix(f"{members.get('file', '')} ").partition(". `shoal verify ")[0]


def read_plan(layout: EmbeddingsLayout) -> Plan:
    """Read the plan of a folder.

    Raises
    ------
    FileNotFoundError
        The file is missing.
    StoreError
        A newer version of Shoal wrote it.
    StoreCorrupt
        The file is not a plan.
    """
    try:
        document = json.loads(layout.read(layout.plan))
        version = document["format"]
        if version == FORMAT:
            return Plan.model_validate(document)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise corrupt(layout, "plan.json", f"is not a plan ({first_line(error)})") from error
    raise StoreError(f"{layout.folder.name} has format {version!r}, this Shoal reads format {FORMAT}: update Shoal.")


def is_plan_of(layout: EmbeddingsLayout, plan: Plan) -> bool:
    """Whether the folder's id belongs to ``plan``, which was read from it."""
    name = layout.folder.name
    return name == plan.id or plan_id(json.loads(layout.read(layout.plan))) == name


def read_manifest(layout: EmbeddingsLayout) -> Manifest | None:
    """Read the manifest of a folder; None if the set is not finished.

    Raises
    ------
    StoreCorrupt
        The file is not a manifest, or its seal does not match.
    """
    try:
        content = layout.read(layout.manifest)
        manifest = Manifest.model_validate_json(content)
        # A seal covers all fields; a seal over the fields known here is accepted too.
        sealed = manifest.seal in {seal_of(json.loads(content)), seal_of(manifest.model_dump(mode="json"))}
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise corrupt(layout, "manifest.json", f"is not a manifest ({first_line(error)})") from error
    if not sealed:
        raise corrupt(layout, "manifest.json", "does not match its seal: the file was damaged or changed")
    return manifest


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"])
    return str(error).partition("\n")[0]


def publish_manifest(layout: EmbeddingsLayout, plan: Plan, commits: Mapping[int, ShardCommit]) -> None:
    """Write the manifest of a set whose shards are all committed, unless there is one."""
    paths = [layout.plan, layout.listing, *(layout.commit(shard) for shard in commits)]
    manifest = Manifest(
        id=layout.folder.name,
        rows=sum(commit.rows for commit in commits.values()),
        failed=sum(commit.failed for commit in commits.values()),
        dim=plan.dim,
        dtype=plan.dtype,
        shards=tuple(shard_entries(commits.values())),
        files=tuple(record_file(layout.local(path), layout.name_of(path)) for path in paths),
        finished_at=datetime.now(UTC),
    ).sealed()
    content = manifest.model_dump_json(indent=2).encode() + b"\n"
    layout.publish(layout.manifest, content, layout.work)


def read_notes(layout: EmbeddingsLayout) -> dict[str, Any]:
    """Read listed.json, how the listing was made; empty if the file is missing or damaged, since no reader needs it."""
    try:
        notes = json.loads(layout.read(layout.notes))
    except (ValueError, OSError):
        return {}
    return notes if isinstance(notes, dict) else {}


def read_listing(
    layout: EmbeddingsLayout, start: int = 0, stop: int | None = None, columns: Sequence[str] = LISTING_SCHEMA.names
) -> pa.Table:
    """Read the rows ``[start, stop)`` of listing.parquet, and only the row groups that hold them.

    Raises
    ------
    StoreCorrupt
        The file is missing or not a Parquet file.
    """
    try:
        with pq.ParquetFile(layout.local(layout.listing)) as file:
            stop = file.metadata.num_rows if stop is None else stop
            groups, skipped, first = [], 0, 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if first < stop and start < last:
                    groups.append(group)
                elif last <= start:
                    skipped = last
                first = last
            schema = pa.schema([LISTING_SCHEMA.field(name) for name in columns])
            table = file.read_row_groups(groups, columns=list(columns)).cast(schema)
            return table.slice(start - skipped, max(stop - start, 0))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise corrupt(layout, "listing.parquet", f"cannot be read ({first_line(error)})") from error


def shard_entries(shard_commits: Iterable[ShardCommit]) -> list[ShardEntry]:
    """The shards' entries of a manifest, with their global offsets."""
    entries, offset = [], 0
    for c in shard_commits:
        entries.append(
            ShardEntry(shard=c.shard, start=c.start, stop=c.stop, offset=offset, rows=c.rows, failed=c.failed)
        )
        offset += c.rows
    return entries


def create(store: StoreLayout, layout: EmbeddingsLayout, plan: Plan, listing: pa.Table) -> bool:
    """Create the folder of ``plan``; False if it exists.

    Raises
    ------
    StoreError
        The listing is not the one that the plan names, or it repeats an image id.
    StoreFull
        The disk is full; no file is left behind.
    """
    if layout.is_there():
        return False
    table = checked_listing(plan, listing)
    if store.remote is not None:
        return _create_remote(layout, plan, table)
    temporary = EmbeddingsLayout(store.temporary / f"{plan.id}.{secrets.token_hex(8)}", layout.digits)
    try:
        with storage_errors(layout.folder):
            # A stray file is removed; a folder that another creator has just published stays.
            with suppress(FileNotFoundError, IsADirectoryError):
                layout.folder.unlink()
            for folder in temporary.folders:
                folder.mkdir(parents=True)
            with temporary.listing.open("xb") as file:
                _write_listing(file, table)
            temporary.plan.write_bytes(_plan_bytes(plan))
        return publish_folder(temporary.folder, layout.folder)
    except BaseException:
        shutil.rmtree(temporary.folder, ignore_errors=True)
        raise


def _create_remote(layout: EmbeddingsLayout, plan: Plan, listing: pa.Table) -> bool:
    """Create a set in a bucket, where it appears with its plan; False, so that what a deletion left is looked for."""
    sink = BytesIO()
    _write_listing(sink, listing)
    layout.publish(layout.listing, sink.getvalue())
    layout.publish(layout.plan, _plan_bytes(plan))
    return False


def restore(layout: EmbeddingsLayout, plan: Plan, listing: pa.Table) -> None:
    """Write the plan and the listing of an existing folder again where they are missing or damaged.

    Raises
    ------
    StoreError
        See `create`.
    """
    try:
        sound = read_plan(layout).id == plan.id
    except (FileNotFoundError, ShoalError):
        sound = False
    try:
        listed = read_listing(layout).equals(conform_listing(listing))
    except ShoalError:
        listed = False
    if sound and listed:
        return
    table = checked_listing(plan, listing)
    with storage_errors(layout.folder):
        for folder in layout.folders:
            layout.make_folder(folder)
    if not listed:
        layout.replace(layout.listing, lambda file: _write_listing(file, table))
    if not sound:
        layout.replace(layout.plan, lambda file: file.write(_plan_bytes(plan)))


def checked_listing(plan: Plan, listing: pa.Table) -> pa.Table:
    """``listing`` in its schema; raises unless it is the one that ``plan`` names."""
    table = conform_listing(listing)
    if table.num_rows != plan.source.count or listing_sha256(table) != plan.source.listing_sha256:
        raise StoreError("The listing is not the one that the plan's source names: build the source with `Source.of`.")
    distinct = pc.count_distinct(table.column("image_id")).as_py()
    if distinct != table.num_rows:
        raise StoreError(
            f"The listing has {table.num_rows} rows and {distinct} different image ids: list each path once."
        )
    return table


def _plan_bytes(plan: Plan) -> bytes:
    content = json.dumps(plan.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    return content.encode() + b"\n"


def _write_listing(file: BinaryIO, listing: pa.Table) -> None:
    pq.write_table(listing, file, compression="zstd", row_group_size=LISTING_GROUP)
