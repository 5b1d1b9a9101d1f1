"""The documents of an embeddings folder, plan, listing and manifest: written when it is created, and read."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from shoal.errors import EmbeddingsNotFound, ShoalError, StoreCorrupt, StoreError
from shoal.store.files import publish_file, publish_folder, record_file, replace_file, storage_errors
from shoal.store.layout import EmbeddingsLayout, StoreLayout
from shoal.store.records import (
    FORMAT,
    LISTING_SCHEMA,
    Manifest,
    Plan,
    ShardCommit,
    ShardEntry,
    conform_listing,
    listing_sha256,
    plan_id,
    seal_of,
)

LISTING_GROUP = 65_536


def not_found(embeddings_id: str) -> EmbeddingsNotFound:
    """The error for an id that names no embeddings."""
    return EmbeddingsNotFound(
        f"There are no embeddings {embeddings_id!r}: `GET /embeddings` lists the ids.", embeddings=embeddings_id
    )


def corrupt(layout: EmbeddingsLayout, name: str, problem: str) -> ShoalError:
    """The error for the file ``name`` of a set that is not as it should be, or for a set that is not there any more.

    A set may be deleted while it is read: what is missing then is no damage.
    """
    set_id = layout.folder.name
    if not layout.folder.is_dir():
        return not_found(set_id)
    return StoreCorrupt(
        f"embeddings/{set_id}/{name} {problem}. `shoal verify {set_id}` lists all damage; `shoal repair {set_id}`, or "
        "the same extract request or import again, mends it.",
        file=f"embeddings/{set_id}/{name}",
        embeddings=set_id,
    )


def reason_of(error: Exception) -> str:
    """What `corrupt` says is wrong with a file, without the file's name and without what to do."""
    members = error.members if isinstance(error, ShoalError) else {}
    return str(error).removeprefix(f"{members.get('file', '')} ").partition(". `shoal verify ")[0]


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
    try:
        document = json.loads(layout.plan.read_bytes())
        version = document["format"]
        if version == FORMAT:
            return Plan.model_validate(document)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise corrupt(layout, "plan.json", f"is no plan ({why(error)})") from error
    raise StoreError(f"{layout.folder.name} has format {version!r}, this Shoal reads {FORMAT}: update Shoal.")


def is_plan_of(layout: EmbeddingsLayout, plan: Plan) -> bool:
    """Whether the folder's id stands for ``plan``, which was read from it."""
    name = layout.folder.name
    return name == plan.id or plan_id(json.loads(layout.plan.read_bytes())) == name


def read_manifest(layout: EmbeddingsLayout) -> Manifest | None:
    """The manifest of a folder; None when it is not finished.

    Raises
    ------
    StoreCorrupt
        It is no manifest, or its seal does not fit.
    """
    try:
        content = layout.manifest.read_bytes()
        manifest = Manifest.model_validate_json(content)
        # A seal is of all fields; one that fits those known here is as good.
        fits = manifest.seal in {seal_of(json.loads(content)), seal_of(manifest.model_dump(mode="json"))}
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise corrupt(layout, "manifest.json", f"is no manifest ({why(error)})") from error
    if not fits:
        raise corrupt(layout, "manifest.json", "does not fit its seal: the file was damaged or changed")
    return manifest


def why(error: Exception) -> str:
    """The first line of what is wrong."""
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
        files=tuple(record_file(path, layout.name_of(path)) for path in paths),
        finished_at=datetime.now(UTC),
    ).sealed()
    content = manifest.model_dump_json(indent=2).encode() + b"\n"
    publish_file(layout.manifest, lambda file: file.write(content), temporary_folder=layout.work)


def read_notes(layout: EmbeddingsLayout) -> dict[str, Any]:
    """What is noted of how the listing was made; nothing where nobody noted it, or what was noted is damaged.

    No embedding depends on it, so a set without it is as good.
    """
    try:
        notes = json.loads(layout.notes.read_bytes())
    except (ValueError, OSError):
        return {}
    return notes if isinstance(notes, dict) else {}


def read_listing(
    layout: EmbeddingsLayout, start: int = 0, stop: int | None = None, columns: Sequence[str] = LISTING_SCHEMA.names
) -> pa.Table:
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
            schema = pa.schema([LISTING_SCHEMA.field(name) for name in columns])
            table = file.read_row_groups(groups, columns=list(columns)).cast(schema)
            return table.slice(start - skipped, max(stop - start, 0))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise corrupt(layout, "listing.parquet", f"cannot be read ({why(error)})") from error


def shard_entries(shard_commits: Iterable[ShardCommit]) -> list[ShardEntry]:
    """The shards with their global offsets."""
    entries, offset = [], 0
    for c in shard_commits:
        entries.append(
            ShardEntry(shard=c.shard, start=c.start, stop=c.stop, offset=offset, rows=c.rows, failed=c.failed)
        )
        offset += c.rows
    return entries


def create(store: StoreLayout, layout: EmbeddingsLayout, plan: Plan, listing: pa.Table) -> bool:
    """Publish a new folder of ``plan``; False when there is one.

    Raises
    ------
    StoreError
        The listing is not the one that the plan names, or an image id is in it twice.
    StoreFull
        The disk is full; nothing is left behind.
    """
    if layout.folder.is_dir():
        return False
    table = checked_listing(plan, listing)
    temporary = EmbeddingsLayout(store.temporary / f"{plan.id}.{secrets.token_hex(8)}", layout.digits)
    try:
        with storage_errors(layout.folder):
            # A file has no place there; the folder that another creator has just published stays.
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


def restore(layout: EmbeddingsLayout, plan: Plan, listing: pa.Table) -> None:
    """Write plan and listing of the folder of ``plan`` again where they are missing or damaged.

    Raises
    ------
    StoreError
        As of `create`.
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
            folder.mkdir(exist_ok=True)
    if not listed:
        replace_file(layout.listing, lambda file: _write_listing(file, table))
    if not sound:
        replace_file(layout.plan, lambda file: file.write(_plan_bytes(plan)))


def checked_listing(plan: Plan, listing: pa.Table) -> pa.Table:
    """``listing`` in its schema, when it is the one that ``plan`` names."""
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
