"""The store: one root folder with every embeddings set and every clustering in it."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.errors import EmbeddingsIncomplete, EmbeddingsNotFound, StoreError
from shoal.store import clustering as clusterings
from shoal.store import commits, sweeps
from shoal.store.atomic import publish_file, publish_folder, remove_folder, storage_errors
from shoal.store.clustering import Clustering, ClusteringWriter
from shoal.store.documents import read_listing, read_manifest, read_plan, shard_entries
from shoal.store.layout import EmbeddingsLayout, StoreLayout, is_id
from shoal.store.manifest import Manifest, Plan, conform_listing, listing_sha256
from shoal.store.partial import saved_images
from shoal.store.reader import EmbeddingSet
from shoal.store.sweeps import Sweep
from shoal.store.verify import VerifyReport, verify_embeddings
from shoal.store.writer import ShardWriter

LISTING_GROUP = 65_536
_STALE_S = 86_400.0
"""After this many seconds a half-prepared folder belongs to a dead process."""


class Store:
    """Embeddings and clusterings below one root folder.

    Safe to use from many threads, processes and machines at once: whatever becomes visible does so in one step.

    Parameters
    ----------
    root
        The folder; created with the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = StoreLayout(root)

    def embeddings_ids(self) -> list[str]:
        """Ids of all embeddings, finished or not, sorted."""
        folder = self.layout.embeddings_folder
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in folder.iterdir() if is_id(entry.name) and (entry / "plan.json").is_file())

    def embeddings(self, embeddings_id: str) -> EmbeddingSet:
        """Open an embeddings set as it is now.

        Raises
        ------
        EmbeddingsNotFound
            There is none of that id.
        """
        layout, plan = self._plan(embeddings_id)
        return EmbeddingSet(layout, plan)

    def create_embeddings(self, plan: Plan, listing: pa.Table) -> EmbeddingSet:
        """Create the folder of ``plan``, or open the one that is there.

        Parameters
        ----------
        plan
            What the folder will hold. The same plan always has the same id and so the same folder.
        listing
            The images: ``image_id``, ``image_path``, and where there are any ``label``, ``split``, ``stamp``; all text.
            Frozen as listing.parquet.

        Raises
        ------
        StoreError
            The listing is not the one that the plan names, or an image id is in it twice.
        StoreFull
            The disk is full; nothing is left behind.
        """
        layout = self.layout.embeddings(plan.id, plan.shard_digits)
        if not layout.plan.exists():
            self._create(layout, plan, _checked_listing(plan, listing))
        return self.embeddings(plan.id)

    def _create(self, layout: EmbeddingsLayout, plan: Plan, listing: pa.Table) -> None:
        temporary = EmbeddingsLayout(self.layout.temporary / f"{plan.id}.{secrets.token_hex(8)}", layout.digits)
        try:
            with storage_errors(layout.folder):
                for folder in temporary.folders:
                    folder.mkdir(parents=True)
                with temporary.listing.open("xb") as file:
                    pq.write_table(listing, file, compression="zstd", row_group_size=LISTING_GROUP)
                content = json.dumps(plan.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
                temporary.plan.write_bytes(content.encode() + b"\n")
            publish_folder(temporary.folder, layout.folder)
        except BaseException:
            shutil.rmtree(temporary.folder, ignore_errors=True)
            raise

    def shard_writer(self, embeddings_id: str, shard: int, *, attempt: int, owner: str) -> ShardWriter:
        """A writer for one shard.

        Parameters
        ----------
        shard
            Its number; `EmbeddingSet.missing_shards` lists those to write.
        attempt, owner
            Who writes, for people who read the commit.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        IndexError
            The plan has no such shard.
        """
        layout, plan = self._plan(embeddings_id)
        ids: list[Any] = read_listing(layout, *plan.shard_range(shard)).column("image_id").to_pylist()
        return ShardWriter(layout, plan, shard, ids, attempt=attempt, owner=owner)

    def finish_embeddings(self, embeddings_id: str) -> Manifest:
        """Write manifest.json once every shard is committed; returns the one that is there otherwise.

        Whatever killed processes left half done is completed or swept away on the way.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        EmbeddingsIncomplete
            A shard is not committed.
        StoreCorrupt
            A committed file is missing.
        """
        layout, plan = self._plan(embeddings_id)
        manifest = read_manifest(layout)
        if manifest is None:
            found = EmbeddingSet(layout, plan)
            missing = found.missing_shards()
            if missing:
                raise EmbeddingsIncomplete(
                    f"{embeddings_id} misses {len(missing)} of {plan.shards} shards, the first is {missing[0]}: submit "
                    "the extraction again, it writes only those.",
                    missing_shards=len(missing),
                )
            for commit in found.commits.values():
                commits.promote(layout, commit)
            self._publish_manifest(found)
            manifest = read_manifest(layout)
            if manifest is None:
                raise EmbeddingsNotFound(f"{embeddings_id} was deleted while it was being finished.")
        self.sweep_work(embeddings_id)
        return manifest

    def _publish_manifest(self, found: EmbeddingSet) -> None:
        layout = found.layout
        paths = [layout.plan, layout.listing, *(layout.commit(shard) for shard in found.commits)]
        manifest = Manifest(
            id=found.id,
            rows=found.rows,
            failed=found.failed,
            dim=found.dim,
            dtype=found.plan.dtype,
            shards=tuple(shard_entries(found.commits.values())),
            files=tuple(commits.record_file(path, path.relative_to(layout.folder).as_posix()) for path in paths),
            finished_at=datetime.now(UTC),
        ).sealed()
        content = manifest.model_dump_json(indent=2).encode() + b"\n"
        publish_file(layout.manifest, lambda file: file.write(content), temporary_folder=layout.work)

    def saved_images(self, embeddings_id: str) -> int:
        """How many images of a set would not have to be embedded again: of committed shards, and saved of others.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        """
        found = self.embeddings(embeddings_id)
        parts = sum(saved_images(found.layout.parts(shard)) for shard in found.missing_shards())
        return found.rows + found.failed + parts

    def sweep_work(self, embeddings_id: str) -> int:
        """Remove what dead attempts left in ``work/`` and ``parts/`` of a finished set; returns how many entries.

        A set that is not finished is left alone: its attempts may be alive.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        """
        layout, _ = self._plan(embeddings_id)
        if not layout.manifest.exists():
            return 0
        leftovers = list(layout.work.iterdir()) if layout.work.is_dir() else []
        leftovers += [layout.all_parts] if layout.all_parts.is_dir() else []
        for path in leftovers:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        return len(leftovers)

    def verify(self, embeddings_id: str) -> VerifyReport:
        """Read every byte of an embeddings set and compare it with its commits and its plan.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        """
        if not is_id(embeddings_id) or not self.layout.embeddings(embeddings_id).folder.is_dir():
            raise _not_found(embeddings_id)
        return verify_embeddings(self.layout.embeddings(embeddings_id))

    def delete_embeddings(self, embeddings_id: str) -> None:
        """Remove an embeddings set. It disappears in one step; a process that still writes to it fails.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        """
        if not is_id(embeddings_id):
            raise _not_found(embeddings_id)
        if not remove_folder(self.layout.embeddings(embeddings_id).folder, self.layout.trash):
            raise _not_found(embeddings_id)
        self._sweep_temporary()

    def clustering_ids(self) -> list[str]:
        """Ids of all clusterings, newest first."""
        return clusterings.clustering_ids(self.layout)

    def clustering(self, clustering_id: str) -> Clustering:
        """Open a clustering.

        Raises
        ------
        ClusteringNotFound
            There is none of that id.
        """
        return clusterings.open_clustering(self.layout, clustering_id)

    def clustering_writer(self, clustering_id: str) -> ClusteringWriter:
        """A writer for a new clustering, which appears as a whole when it is published."""
        return ClusteringWriter(self.layout, clustering_id)

    def delete_clustering(self, clustering_id: str) -> None:
        """Remove a clustering. It disappears in one step.

        Raises
        ------
        ClusteringNotFound
            There is none of that id.
        """
        clusterings.delete_clustering(self.layout, clustering_id)
        self._sweep_temporary()

    def sweep_ids(self) -> list[str]:
        """Ids of all sweeps, finished or not, newest first."""
        return sweeps.sweep_ids(self.layout)

    def sweep(self, sweep_id: str) -> Sweep:
        """Open a sweep.

        Raises
        ------
        SweepNotFound
            There is none of that id.
        """
        return sweeps.open_sweep(self.layout, sweep_id)

    def create_sweep(self, sweep_id: str, spec: dict[str, Any]) -> Sweep:
        """Create a sweep, or open the one that is there."""
        return sweeps.create_sweep(self.layout, sweep_id, spec)

    def delete_sweep(self, sweep_id: str) -> None:
        """Remove a sweep. It disappears in one step.

        Raises
        ------
        SweepNotFound
            There is none of that id.
        """
        sweeps.delete_sweep(self.layout, sweep_id)
        self._sweep_temporary()

    def _sweep_temporary(self) -> None:
        """Remove folders that killed processes were preparing."""
        folder = self.layout.temporary
        for entry in folder.iterdir() if folder.is_dir() else ():
            with suppress(OSError):
                if time.time() - entry.stat().st_mtime > _STALE_S:
                    shutil.rmtree(entry, ignore_errors=True)

    def _plan(self, embeddings_id: str) -> tuple[EmbeddingsLayout, Plan]:
        if not is_id(embeddings_id):
            raise _not_found(embeddings_id)
        try:
            plan = read_plan(self.layout.embeddings(embeddings_id))
        except (FileNotFoundError, NotADirectoryError):
            raise _not_found(embeddings_id) from None
        return self.layout.embeddings(embeddings_id, plan.shard_digits), plan


def _not_found(embeddings_id: str) -> EmbeddingsNotFound:
    return EmbeddingsNotFound(
        f"There are no embeddings {embeddings_id!r}: `GET /embeddings` lists the ids.", embeddings=embeddings_id
    )


def _checked_listing(plan: Plan, listing: pa.Table) -> pa.Table:
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
