"""Creating the folder of a plan, and writing its documents again where they are damaged."""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import suppress
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.errors import ShoalError, StoreError
from shoal.store.atomic import publish_folder, replace_file, storage_errors
from shoal.store.documents import read_listing, read_plan
from shoal.store.layout import EmbeddingsLayout, StoreLayout
from shoal.store.manifest import Plan, conform_listing, listing_sha256

LISTING_GROUP = 65_536


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


def restore(store: StoreLayout, layout: EmbeddingsLayout, plan: Plan, listing: pa.Table) -> None:
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
