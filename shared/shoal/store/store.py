"""The store: one root folder with every embeddings set and every clustering in it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from shoal.errors import EmbeddingsIncomplete, EmbeddingsNotFound, NotFound, StoreError
from shoal.store import clustering as clusterings
from shoal.store import commits, sweeps
from shoal.store.atomic import publish_file, remove_folder, replace_file
from shoal.store.clustering import Clustering, ClusteringWriter
from shoal.store.creation import create, restore
from shoal.store.documents import (
    corrupt,
    not_found,
    read_listing,
    read_manifest,
    read_notes,
    read_plan,
    shard_entries,
)
from shoal.store.layout import EmbeddingsLayout, StoreLayout, is_id
from shoal.store.manifest import Manifest, Plan
from shoal.store.partial import saved_images
from shoal.store.reader import EmbeddingSet
from shoal.store.repair import RepairReport, repair_embeddings
from shoal.store.survey import Entry, ids_in, strays_in, survey
from shoal.store.sweeps import Sweep
from shoal.store.verify import Problem, VerifyReport, verify_embeddings
from shoal.store.verify_results import verify_clustering, verify_sweep
from shoal.store.writer import ShardWriter

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
        """Ids of all embeddings, finished or not, damaged or not, sorted."""
        return ids_in(self.layout.embeddings_folder)

    def embeddings(self, embeddings_id: str) -> EmbeddingSet:
        """Open an embeddings set as it is now.

        Raises
        ------
        EmbeddingsNotFound
            Nothing has that id.
        StoreCorrupt
            It is damaged, as far as documents and the sizes of files tell.
        """
        layout, plan = self._plan(embeddings_id)
        try:
            found = EmbeddingSet(layout, plan)
            found.check()
        except FileNotFoundError:  # deleted while it was looked at
            raise corrupt(layout, "plan.json", "is missing") from None
        return found

    def has_plan(self, embeddings_id: str) -> bool:
        """Whether there is a set of that id whose plan can be read."""
        try:
            self._plan(embeddings_id)
        except (EmbeddingsNotFound, StoreError):
            return False
        return True

    def embeddings_as_far_as_readable(self, embeddings_id: str) -> EmbeddingSet | None:
        """Open a set that may be damaged, to delete it; None when not even its documents can be read.

        Raises
        ------
        EmbeddingsNotFound
            Nothing has that id.
        """
        try:
            return EmbeddingSet(*self._plan(embeddings_id))
        except StoreError:
            return None

    def create_embeddings(self, plan: Plan, listing: pa.Table, alive: Callable[[], None] | None = None) -> EmbeddingSet:
        """Create the folder of ``plan``, or open the one that is there.

        One that is there is read as a whole and mended: damaged shards are taken out of it, and so are missing again.

        Parameters
        ----------
        plan
            What the folder will hold. The same plan always has the same id and so the same folder.
        listing
            The images: ``image_id``, ``image_path``, and where there are any ``label``, ``split``, ``stamp``; all text.
            Frozen as listing.parquet.
        alive
            As of `mended_embeddings`.

        Raises
        ------
        StoreError
            The listing is not the one that the plan names, or an image id is in it twice.
        StoreFull
            The disk is full; nothing is left behind.
        """
        layout = self.layout.embeddings(plan.id, plan.shard_digits)
        if create(self.layout, layout, plan, listing):
            return self.embeddings(plan.id)
        restore(self.layout, layout, plan, listing)
        return self.mended_embeddings(plan.id, alive)

    def mended_embeddings(self, embeddings_id: str, alive: Callable[[], None] | None = None) -> EmbeddingSet:
        """Open an embeddings set that is to be completed: without its damaged shards, which are taken out.

        Parameters
        ----------
        alive
            Called now and then while every committed byte is compared with its checksum.

        Raises
        ------
        EmbeddingsNotFound
            Nothing has that id.
        StoreCorrupt
            Its plan or its listing is damaged; `create_embeddings` writes them again.
        """
        report = self.repair(embeddings_id, deep=False, imported=True, alive=alive)
        if report.left:
            raise corrupt(self.layout.embeddings(embeddings_id), report.left[0].file, report.left[0].problem)
        found = self.embeddings(embeddings_id)
        found.repaired_shards = tuple(report.removed)
        return found

    def write_notes(self, embeddings_id: str, notes: dict[str, Any]) -> None:
        """Keep what the plan does not say of how the listing was made, in place of what was noted before.

        Parameters
        ----------
        notes
            JSON values.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        StoreFull, StoreError
            They cannot be written; what was noted before stays.
        """
        layout, _ = self._plan(embeddings_id)
        if read_notes(layout) == notes:
            return
        content = json.dumps(notes, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            replace_file(layout.notes, lambda file: file.write(content))
        except FileNotFoundError:  # deleted meanwhile
            raise not_found(embeddings_id) from None

    def repair(
        self,
        embeddings_id: str,
        *,
        deep: bool = True,
        imported: bool = False,
        alive: Callable[[], None] | None = None,
    ) -> RepairReport:
        """Mend what the store itself proves, and take the shards out that are damaged; see `repair_embeddings`.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        """
        self._require_folder(embeddings_id)
        try:
            report = repair_embeddings(self.layout, embeddings_id, deep=deep, imported=imported, alive=alive)
        except FileNotFoundError:  # deleted meanwhile
            raise not_found(embeddings_id) from None
        if report.unsealed:
            self.finish_embeddings(embeddings_id)
            report.restored.append("manifest.json")
        return report

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

    def survey(self) -> list[Entry]:
        """Every set, clustering and sweep, damaged ones and stray folders included: nothing in it raises.

        Sets come first and then clusterings and sweeps, each kind in the order of its list of ids.
        """
        return [
            *survey("embeddings", ids_in(self.layout.embeddings_folder), self.embeddings),
            *survey("clustering", self.clustering_ids(), self.clustering),
            *survey("sweep", self.sweep_ids(), self.sweep),
        ]

    def verify_all(self) -> Iterator[VerifyReport]:
        """`verify` for everything in the store, and a report for each file where only folders belong."""
        kinds = (
            (self.layout.embeddings_folder, "embeddings", self.verify),
            (
                self.layout.clusterings_folder,
                "clustering",
                lambda name: verify_clustering(self.layout.clustering(name)),
            ),
            (self.layout.sweeps_folder, "sweep", lambda name: verify_sweep(self.layout.sweep(name))),
        )
        for folder, kind, verify in kinds:
            for stray in strays_in(folder):
                yield VerifyReport(stray, kind=kind, problems=[Problem(stray, f"is no folder, so no part of {folder}")])
            for name in ids_in(folder):
                try:
                    yield verify(name)
                except NotFound:  # deleted since it was listed
                    continue

    def verify_any(self, which: str) -> VerifyReport:
        """`verify` for an id of whatever kind: embeddings, a clustering or a sweep.

        Raises
        ------
        NotFound
            The store has nothing of that id.
        """
        if is_id(which):
            if self.layout.embeddings(which).folder.is_dir():
                return self.verify(which)
            if self.layout.clustering(which).folder.is_dir():
                return verify_clustering(self.layout.clustering(which))
            if self.layout.sweep(which).folder.is_dir():
                return verify_sweep(self.layout.sweep(which))
        raise NotFound(
            f"{self.root} has no embeddings, clustering or sweep {which!r}: `shoal verify` checks all it has."
        )

    def verify(self, embeddings_id: str) -> VerifyReport:
        """Read every byte of an embeddings set and compare it with its commits and its plan.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        """
        self._require_folder(embeddings_id)
        return verify_embeddings(self.layout.embeddings(embeddings_id))

    def _require_folder(self, embeddings_id: str) -> None:
        if not is_id(embeddings_id) or not self.layout.embeddings(embeddings_id).folder.is_dir():
            raise not_found(embeddings_id)

    def delete_embeddings(self, embeddings_id: str) -> None:
        """Remove an embeddings set. It disappears in one step; a process that still writes to it fails.

        Raises
        ------
        EmbeddingsNotFound
            There is no such id.
        """
        if not is_id(embeddings_id):
            raise not_found(embeddings_id)
        if not remove_folder(self.layout.embeddings(embeddings_id).folder, self.layout.trash):
            raise not_found(embeddings_id)
        self._sweep_temporary()

    def clustering_ids(self) -> list[str]:
        """Ids of all clusterings, newest first."""
        return clusterings.clustering_ids(self.layout)

    def clustering(self, clustering_id: str) -> Clustering:
        """Open a clustering.

        Raises
        ------
        ClusteringNotFound
            Nothing has that id.
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
            Nothing has that id.
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
            Nothing has that id.
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
            Nothing has that id.
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
            raise not_found(embeddings_id)
        layout = self.layout.embeddings(embeddings_id)
        try:
            plan = read_plan(layout)
        except FileNotFoundError:
            raise corrupt(layout, "plan.json", "is missing") from None
        return self.layout.embeddings(embeddings_id, plan.shard_digits), plan
