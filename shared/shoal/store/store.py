"""The store: one root folder with every embeddings set and every result in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from shoal.errors import EmbeddingsIncomplete, EmbeddingsNotFound, StoreError
from shoal.settings import Settings
from shoal.store import commits
from shoal.store.documents import (
    corrupt,
    create,
    not_found,
    publish_manifest,
    read_listing,
    read_manifest,
    read_notes,
    read_plan,
    restore,
)
from shoal.store.layout import EmbeddingsLayout, is_id
from shoal.store.listing import Entry, open_each
from shoal.store.reader import EmbeddingSet
from shoal.store.records import Manifest, Plan
from shoal.store.remote import RemoteSets
from shoal.store.repair import RepairReport, repair_embeddings
from shoal.store.results import Result, ResultStore
from shoal.store.segments import saved_images
from shoal.store.verify import VerifyReport, verify_embeddings
from shoal.store.writer import ShardWriter


class Store(ResultStore):
    """Embeddings and results below one root folder.

    Safe to use from many threads, processes and machines at once: whatever becomes visible does so in one step.

    Parameters
    ----------
    root
        The folder; created with the first write.
    remote
        The bucket of the embeddings; by default they are below ``root``.
    """

    @classmethod
    def of(cls, settings: Settings, root: Path | None = None) -> Self:
        """The store of a process, or one at another folder with the same bucket."""
        return cls(root or settings.store, RemoteSets.of(settings))

    def embeddings_ids(self) -> list[str]:
        """Ids of all embeddings, finished or not, damaged or not, sorted."""
        return self.layout.embeddings_ids()

    def embeddings(self, embeddings_id: str) -> EmbeddingSet:
        """Open an embeddings set as it is now.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        StoreCorrupt
            The set is damaged, as far as its documents and the sizes of its files tell.
        """
        layout, plan = self._plan(embeddings_id)
        try:
            found = EmbeddingSet(layout, plan)
            found.check()
        except FileNotFoundError:  # deleted meanwhile
            raise corrupt(layout, "plan.json", "is missing") from None
        return found

    def has_plan(self, embeddings_id: str) -> bool:
        """Whether a set has that id and a readable plan."""
        try:
            self._plan(embeddings_id)
        except (EmbeddingsNotFound, StoreError):
            return False
        return True

    def embeddings_unchecked(self, embeddings_id: str) -> EmbeddingSet | None:
        """Open a set that may be damaged, to delete it; None when its documents cannot be read.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        """
        try:
            return EmbeddingSet(*self._plan(embeddings_id))
        except StoreError:
            return None

    def create_embeddings(self, plan: Plan, listing: pa.Table, alive: Callable[[], None] | None = None) -> EmbeddingSet:
        """Create the folder of ``plan``, or open and repair the existing one.

        Every byte of an existing set is checked; its damaged shards are removed, and so become missing shards.

        Parameters
        ----------
        plan
            What the folder will hold. The same plan always has the same id and so the same folder.
        listing
            The images, frozen as listing.parquet: text columns ``image_id`` and ``image_path``; optional ``label``,
            ``split``, ``stamp``.
        alive
            See `repaired_embeddings`.

        Raises
        ------
        StoreError
            The listing is not the one that the plan names, or it repeats an image id.
        StoreFull
            The disk is full; no file is left behind.
        """
        layout = self.layout.embeddings(plan.id, plan.shard_digits)
        if create(self.layout, layout, plan, listing):
            return self.embeddings(plan.id)
        restore(layout, plan, listing)
        return self.repaired_embeddings(plan.id, alive)

    def repaired_embeddings(self, embeddings_id: str, alive: Callable[[], None] | None = None) -> EmbeddingSet:
        """Remove an embeddings set's damaged shards and open it, to write its missing shards.

        Parameters
        ----------
        alive
            Called repeatedly while every committed byte is compared with its checksum.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        StoreCorrupt
            The plan or the listing is damaged; `create_embeddings` writes them again.
        """
        report = self.repair(embeddings_id, deep=False, imported=True, alive=alive)
        if report.left:
            raise corrupt(self.layout.embeddings(embeddings_id), report.left[0].file, report.left[0].problem)
        found = self.embeddings(embeddings_id)
        found.repaired_shards = tuple(report.removed)
        return found

    def write_notes(self, embeddings_id: str, notes: Mapping[str, Any]) -> None:
        """Write listed.json: JSON values on how the listing was made. Replaces the former notes.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        StoreFull, StoreError
            The file cannot be written; the former notes stay.
        """
        layout, _ = self._plan(embeddings_id)
        if read_notes(layout) == notes:
            return
        content = json.dumps(notes, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            layout.replace(layout.notes, lambda file: file.write(content))
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
        """Repair an embeddings set as far as its checksums allow, and remove its damaged shards.

        Parameters
        ----------
        deep, imported, alive
            See `shoal.store.repair.repair_embeddings`.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
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

    def shard_writer(
        self, embeddings_id: str, shard: int, *, attempt: int, owner: str, properties: bool = False
    ) -> ShardWriter:
        """A writer for one of `EmbeddingSet.missing_shards`; the commit records ``attempt`` and ``owner``.

        ``properties``: whether the images' properties are known, and stored.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        IndexError
            The plan has no such shard.
        """
        layout, plan = self._plan(embeddings_id)
        ids: list[str] = read_listing(layout, *plan.shard_range(shard)).column("image_id").to_pylist()
        return ShardWriter(layout, plan, shard, ids, attempt=attempt, owner=owner, properties=properties)

    def finish_embeddings(self, embeddings_id: str) -> Manifest:
        """Write manifest.json when every shard is committed; return the existing manifest otherwise.

        Files that killed processes left in ``work/`` are promoted where a commit names them, and removed where none
        does.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
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
                    f"{embeddings_id} lacks {len(missing)} of {plan.shards} shards, the first is {missing[0]}: submit "
                    "the extraction again; it writes only the missing shards.",
                    missing_shards=len(missing),
                )
            for commit in found.commits.values():
                commits.promote(layout, commit)
            publish_manifest(layout, plan, found.commits)
            manifest = read_manifest(layout)
            if manifest is None:
                raise EmbeddingsNotFound(f"{embeddings_id} was deleted while its manifest was written.")
        self.clean_work(embeddings_id)
        return manifest

    def saved_images(self, embeddings_id: str) -> int:
        """How many images of a set need no new embedding: those of committed shards and of saved parts.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        """
        found = self.embeddings(embeddings_id)
        parts = sum(saved_images(found.layout, shard) for shard in found.missing_shards())
        return found.rows + found.failed + parts

    def clean_work(self, embeddings_id: str) -> int:
        """Remove the files of dead attempts from ``work/`` and ``parts/`` of a finished set; returns their number.

        An unfinished set is left alone: its attempts may be alive.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        """
        layout, _ = self._plan(embeddings_id)
        if not layout.has(layout.manifest):
            return 0
        dead = []
        with suppress(FileNotFoundError):
            dead += [layout.work / name for name in layout.names(layout.work)]
        if layout.has(layout.all_parts):
            dead.append(layout.all_parts)
        for path in dead:
            layout.remove(path)
        return len(dead)

    def verify(self, embeddings_id: str) -> VerifyReport:
        """Read every byte of an embeddings set and compare it with its commits and its plan.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        """
        self._require_folder(embeddings_id)
        return verify_embeddings(self.layout.embeddings(embeddings_id))

    def delete_embeddings(self, embeddings_id: str) -> None:
        """Remove an embeddings set in one step; a process that still writes to it fails.

        Raises
        ------
        EmbeddingsNotFound
            No set has that id.
        """
        if self.layout.remote is None:
            self._delete(self.layout.embeddings_folder, embeddings_id, not_found)
        elif not is_id(embeddings_id) or not self.layout.remote.delete(embeddings_id):
            raise not_found(embeddings_id)

    def entries(self) -> list[Entry[EmbeddingSet | Result]]:
        """Every embeddings set, then every result; damaged ones included."""
        return [*open_each("embeddings", self.embeddings_ids(), self.embeddings), *self.results()]

    def _require_folder(self, embeddings_id: str) -> None:
        if not is_id(embeddings_id) or not self.layout.embeddings(embeddings_id).is_there():
            raise not_found(embeddings_id)

    def _plan(self, embeddings_id: str) -> tuple[EmbeddingsLayout, Plan]:
        if not is_id(embeddings_id):
            raise not_found(embeddings_id)
        layout = self.layout.embeddings(embeddings_id)
        try:
            plan = read_plan(layout)
        except FileNotFoundError:
            raise corrupt(layout, "plan.json", "is missing") from None
        return layout.with_digits(plan.shard_digits), plan
