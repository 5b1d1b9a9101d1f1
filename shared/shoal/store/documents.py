"""Reading the documents of an embeddings folder: its plan, its listing, its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from shoal.errors import EmbeddingsNotFound, ShoalError, StoreCorrupt, StoreError
from shoal.store.layout import EmbeddingsLayout
from shoal.store.manifest import FORMAT, LISTING_SCHEMA, Manifest, Plan, ShardCommit, ShardEntry, plan_id, seal_of


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
