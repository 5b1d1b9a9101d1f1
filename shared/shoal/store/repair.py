"""Mending a set of embeddings: what its checksums prove goes back to its place, damaged shards are taken out.

A shard that is taken out is as if it had never been written: `EmbeddingSet.missing_shards` lists it, and the job that
made the set, sent again, writes it and no other. Nothing is deleted here: what is taken out lies in ``.trash``.

Each step leaves a set behind that readers refuse or read rightly, whenever the process stops: the manifest goes first,
so that the set does not count as complete; then a shard's data, whose absence readers notice; its commit goes last, so
that no later commit of the shard ever finds old data at its final names.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from shoal.errors import ShoalError, StoreCorrupt
from shoal.store import commits
from shoal.store.commits import commit_problem
from shoal.store.documents import is_plan_of, read_listing, read_manifest, read_plan, reason_of, shard_entries
from shoal.store.files import damage_of, fsync_folder, hash_file, storage_errors
from shoal.store.layout import DATA_KINDS, EmbeddingsLayout, StoreLayout, files_below
from shoal.store.records import FileRecord, Manifest, Plan, ShardCommit, listing_sha256
from shoal.store.verify import Problem, VerifyReport, check_shard

Alive = Callable[[], None]


@dataclass
class RepairReport:
    """What `repair_embeddings` did.

    Attributes
    ----------
    kind
        ``images`` or ``import``: what writes the removed shards again; None where the plan cannot be read.
    restored
        Files that are as they were committed again.
    removed
        Shards that were taken out, and now are missing.
    left
        Damage that only the request or the import that made the set can mend.
    unsealed
        All shards are there and sound, but the set has no manifest (any more).
    """

    id: str
    kind: str | None = None
    restored: list[str] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    unsealed: bool = False

    @property
    def untouched(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.restored or self.removed or self.left)


def repair_embeddings(
    store: StoreLayout, embeddings_id: str, *, deep: bool, imported: bool, alive: Alive | None = None
) -> RepairReport:
    """Mend a set as far as the store itself can.

    Parameters
    ----------
    deep
        Whether to look at values and rows behind right checksums too, as `verify_embeddings` does.
    imported
        Whether to take shards out of imported sets, which nothing but the same import can write again.
    alive
        Called before each file.
    """
    layout = store.embeddings(embeddings_id)
    report = RepairReport(embeddings_id)
    plan = _sound_plan(layout, report)
    if plan is None:
        return report
    report.kind = plan.source.kind
    layout = EmbeddingsLayout(layout.folder, plan.shard_digits)
    with _locked(layout.folder), storage_errors(layout.folder):
        _Repair(layout, plan, report, store.trash, alive or (lambda: None)).run(deep=deep, imported=imported)
    return report


class _Repair:
    def __init__(self, layout: EmbeddingsLayout, plan: Plan, report: RepairReport, trash: Path, alive: Alive) -> None:
        self._layout, self._plan, self._report, self._alive = layout, plan, report, alive
        self._trash = trash / f"{report.id}.{secrets.token_hex(8)}"
        # Before the commits are read: a file found at a final name belongs to a commit that was there already.
        self._files = [path for kind in DATA_KINDS for path in files_below(layout.folder / kind)]

    def run(self, *, deep: bool, imported: bool) -> None:
        layout, report = self._layout, self._report
        manifest, bad_manifest = self._manifest()
        records = [record for record in manifest.files if record.path.startswith("commits/")] if manifest else []
        self._restore([(layout.folder / each.path, each) for each in records], files_below(layout.commits))
        sound, damaged = self._commits(manifest)
        self._restore(
            [(self._place(commit, record), record) for commit in sound.values() for record in commit.files],
            [*self._files, *files_below(layout.work)],
        )
        listing = self._listing(manifest)
        if listing is None:
            report.left.append(Problem("listing.parquet", "is not the listing that the plan names"))
        damaged |= {shard for shard, commit in sound.items() if self._damaged(commit, listing if deep else None)}
        if damaged and self._plan.source.kind == "import" and not imported:
            report.left += [Problem(f"shard {shard}", "is damaged") for shard in sorted(damaged)]
            return
        stale = bad_manifest or (manifest is not None and not self._fits(manifest, sound))
        if damaged or stale:
            self._move(layout.manifest)
        for shard in sorted(damaged):
            self._take_out(shard, sound.get(shard))
        self._sweep_strays({record.path for commit in sound.values() for record in commit.files})
        whole = not damaged and len(sound) == self._plan.shards and listing is not None
        report.unsealed = whole and not layout.manifest.exists() and (deep or stale)

    def _manifest(self) -> tuple[Manifest | None, bool]:
        """The manifest when its seal fits; whether there is one that does not."""
        try:
            manifest = read_manifest(self._layout)
        except StoreCorrupt:
            return None, True
        return manifest, False

    def _commits(self, manifest: Manifest | None) -> tuple[dict[int, ShardCommit], set[int]]:
        """The commits that can be trusted, and the shards whose commits cannot."""
        sound: dict[int, ShardCommit] = {}
        there = set(commits.committed_shards(self._layout)) if self._layout.commits.is_dir() else set()
        expected = {entry.shard: (entry.rows, entry.failed) for entry in manifest.shards} if manifest else {}
        shards = there | expected.keys()
        for shard in sorted(shards):
            with suppress(StoreCorrupt, OSError):
                commit = commits.read_commit(self._layout.commit(shard))
                counts = (commit.rows, commit.failed)
                if counts == expected.get(shard, counts) and not commit_problem(
                    self._layout, self._plan, shard, commit
                ):
                    sound[shard] = commit
        return sound, shards - sound.keys()

    def _damaged(self, commit: ShardCommit, listing: pa.Table | None) -> bool:
        """Whether a file of the shard is not the committed one, or with ``listing``, holds what it must not."""
        if any(not self._right(self._place(commit, record), record) for record in commit.files):
            return True
        found = VerifyReport(self._report.id)
        if listing is not None:
            check_shard(self._layout, self._plan, commit, listing, found)
        return bool(found.problems)

    def _right(self, path: Path | None, record: FileRecord) -> bool:
        self._alive()
        try:
            return path is not None and damage_of(path, record) is None
        except FileNotFoundError:
            return False

    def _place(self, commit: ShardCommit, record: FileRecord) -> Path:
        """Where a committed file is, or where it should be."""
        return commits.locate_record(self._layout, commit, record) or self._layout.folder / record.path

    def _restore(self, wanted: Iterable[tuple[Path, FileRecord]], candidates: Iterable[Path]) -> None:
        """Put files back that lie under another name, such as each other's."""
        right: set[Path] = set()
        lost: dict[Path, FileRecord] = {}
        for path, record in wanted:
            if self._right(path, record):
                right.add(path)
            else:
                lost[self._layout.folder / record.path] = record
        if not lost:
            return
        aside = self._layout.work / f"repair-{secrets.token_hex(8)}"
        moves: list[tuple[Path, Path]] = []
        for path in candidates:
            if path in right:
                continue
            final = self._home_of(path, lost)
            if final is not None:
                aside.mkdir(parents=True, exist_ok=True)
                # A second name: whenever this stops, each file still has one.
                os.link(path, aside / str(len(moves)))
                moves.append((aside / str(len(moves)), final))
                del lost[final]
        for linked, final in moves:
            final.parent.mkdir(exist_ok=True)
            linked.replace(final)
            fsync_folder(final.parent)
            self._report.restored.append(self._layout.name_of(final))
        if moves:
            # Two names of one file: renaming one to the other leaves both.
            _remove_empty(aside)

    def _home_of(self, path: Path, lost: dict[Path, FileRecord]) -> Path | None:
        """Which of the lost files this one is."""
        self._alive()
        with suppress(OSError):
            if path.stat().st_size in {record.bytes for record in lost.values()}:
                found = hash_file(path)
                same = ((record.bytes, record.xxh3_64, record.sha256) == found for record in lost.values())
                return next((final for final, is_it in zip(lost, same, strict=True) if is_it), None)
        return None

    def _listing(self, manifest: Manifest | None) -> pa.Table | None:
        """The listing, when it is the one that the plan names."""
        record = next((each for each in manifest.files if each.path == "listing.parquet"), None) if manifest else None
        with suppress(ShoalError, ValueError):
            listing = read_listing(self._layout)
            # The hash of the content takes seconds for a million images, that of the file none.
            if record is not None and self._right(self._layout.listing, record):
                return listing
            return listing if listing_sha256(listing) == self._plan.source.listing_sha256 else None
        return None

    def _fits(self, manifest: Manifest, sound: dict[int, ShardCommit]) -> bool:
        """Whether the manifest is the one of plan, listing and commits as they are."""
        return list(manifest.shards) == shard_entries(sound.values()) and all(
            self._right(self._layout.folder / record.path, record) for record in manifest.files
        )

    def _take_out(self, shard: int, judged: ShardCommit | None) -> None:
        """Move a shard's data away, then its commit; another attempt's, written since it was judged, stays."""
        layout, path = self._layout, self._layout.commit(shard)
        token = None
        with suppress(StoreCorrupt, OSError):
            token = commits.read_commit(path).token
        if judged is not None and token != judged.token:
            return
        for kind in DATA_KINDS:
            self._move(layout.data(kind, shard))
            if token and Path(token).name == token:
                self._move(layout.staged(token, layout.data_name(kind, shard)))
        self._move(path)
        self._report.removed.append(shard)

    def _sweep_strays(self, known: set[str]) -> None:
        for path in self._files:
            name = self._layout.name_of(path)
            if name not in known and path.exists():
                self._move(path)
                if name not in self._report.restored:
                    self._report.restored.append(name)

    def _move(self, path: Path) -> None:
        """Take a file out of the set, durably."""
        target = self._trash / self._layout.name_of(path).replace("/", "_")
        while path.exists():
            # Whoever empties the trash may do so right now.
            self._trash.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                path.rename(target)
                fsync_folder(path.parent)


def _sound_plan(layout: EmbeddingsLayout, report: RepairReport) -> Plan | None:
    """The plan, when the id or the manifest's seal proves it."""
    try:
        plan = read_plan(layout)
        if is_plan_of(layout, plan):
            return plan
    except FileNotFoundError:
        report.left.append(Problem("plan.json", "is missing"))
        return None
    except ShoalError as error:
        report.left.append(Problem("plan.json", reason_of(error)))
        return None
    with suppress(ShoalError, FileNotFoundError):
        manifest = read_manifest(layout)
        for record in manifest.files if manifest else ():
            if record.path == "plan.json" and damage_of(layout.plan, record) is None:
                return plan
    report.left.append(Problem("plan.json", "is not the plan that this id stands for"))
    return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One repair of a set at a time, where the file system can lock a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()
