"""Repairing an embeddings set: files that checksums identify are moved back, damaged shards are removed.

A removed shard becomes a missing shard: `EmbeddingSet.missing_shards` lists it, and the same extract request writes it
again, and only it. No file is deleted: removed files are moved to ``.trash``.

Whenever the process stops, readers either refuse the set or read correct data: the manifest is removed first, so that
the set is not complete; then a shard's data, whose absence readers detect; its commit last, so that a later commit of
the shard never finds old data at its final names.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from shoal.errors import ShoalError, StoreCorrupt
from shoal.store import commits
from shoal.store.commits import commit_problem
from shoal.store.documents import is_plan_of, read_listing, read_manifest, read_plan, reason_of, shard_entries
from shoal.store.files import hash_file, storage_errors
from shoal.store.layout import DATA_KINDS, EmbeddingsLayout, StoreLayout
from shoal.store.records import FileRecord, Manifest, Plan, ShardCommit, listing_sha256
from shoal.store.verify import Problem, VerifyReport, check_shard

Alive = Callable[[], None]


@dataclass
class RepairReport:
    """The result of `repair_embeddings`.

    Attributes
    ----------
    kind
        ``images`` or ``import``: the kind of job that writes the removed shards again; None if the plan is damaged.
    restored
        Files that are restored to their committed content.
    removed
        Removed shards, which are now missing.
    left
        Damage that only the same extract request or import can repair.
    unsealed
        All shards are intact, but the set has no manifest.
    """

    id: str
    kind: str | None = None
    restored: list[str] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    unsealed: bool = False

    @property
    def untouched(self) -> bool:
        """Whether the set was intact."""
        return not (self.restored or self.removed or self.left)


def repair_embeddings(
    store: StoreLayout, embeddings_id: str, *, deep: bool, imported: bool, alive: Alive | None = None
) -> RepairReport:
    """Repair a set as far as its checksums allow.

    Parameters
    ----------
    deep
        Also check the values and rows of files with correct checksums, as `verify_embeddings` does.
    imported
        Also remove damaged shards of imported sets, which only the same import can write again.
    alive
        Called before each file is read.
    """
    layout = store.embeddings(embeddings_id)
    report = RepairReport(embeddings_id)
    plan = _valid_plan(layout, report)
    if plan is None:
        return report
    report.kind = plan.source.kind
    layout = layout.with_digits(plan.shard_digits)
    with layout.fresh() if deep else nullcontext(layout) as found, found.locked(), storage_errors(layout.folder):
        _Repair(found, plan, report, store.trash, alive or (lambda: None)).run(deep=deep, imported=imported)
    return report


class _Repair:
    def __init__(self, layout: EmbeddingsLayout, plan: Plan, report: RepairReport, trash: Path, alive: Alive) -> None:
        self._layout, self._plan, self._report, self._alive = layout, plan, report, alive
        self._trash = trash / f"{report.id}.{secrets.token_hex(8)}"
        # Before the commits are read: a file with a final name then belongs to a commit that existed before.
        self._files = [path for kind in DATA_KINDS for path in layout.files_below(layout.folder / kind)]
        self._hashed = True

    def run(self, *, deep: bool, imported: bool) -> None:
        layout, report = self._layout, self._report
        self._hashed = deep or not layout.verified_by_storage
        manifest, bad_manifest = self._manifest()
        records = [record for record in manifest.files if record.path.startswith("commits/")] if manifest else []
        self._restore([(layout.folder / each.path, each) for each in records], layout.files_below(layout.commits))
        valid, damaged = self._commits(manifest)
        self._restore(
            [(self._path_of(commit, record), record) for commit in valid.values() for record in commit.files],
            [*self._files, *layout.files_below(layout.work)],
        )
        listing = self._listing(manifest)
        if listing is None:
            report.left.append(Problem("listing.parquet", "is not the listing that the plan was made for"))
        damaged |= {shard for shard, commit in valid.items() if self._damaged(commit, listing if deep else None)}
        if damaged and self._plan.source.kind == "import" and not imported:
            report.left += [Problem(f"shard {shard}", "is damaged") for shard in sorted(damaged)]
            return
        stale = bad_manifest or (manifest is not None and not self._is_current(manifest, valid))
        if damaged or stale:
            self._move(layout.manifest)
        for shard in sorted(damaged):
            self._remove_shard(shard, valid.get(shard))
        self._remove_uncommitted({record.path for commit in valid.values() for record in commit.files})
        whole = not damaged and len(valid) == self._plan.shards and listing is not None
        report.unsealed = whole and not layout.has(layout.manifest) and (deep or stale)

    def _manifest(self) -> tuple[Manifest | None, bool]:
        """The manifest, if its seal matches; and whether there is a damaged one."""
        try:
            manifest = read_manifest(self._layout)
        except StoreCorrupt:
            return None, True
        return manifest, False

    def _commits(self, manifest: Manifest | None) -> tuple[dict[int, ShardCommit], set[int]]:
        """The valid commits, and the shards with invalid ones."""
        valid: dict[int, ShardCommit] = {}
        there: set[int] = set()
        with suppress(FileNotFoundError, NotADirectoryError):
            there.update(commits.committed_shards(self._layout))
        expected = {entry.shard: (entry.rows, entry.failed) for entry in manifest.shards} if manifest else {}
        shards = there | expected.keys()
        self._layout.prefetch(self._layout.commit(shard) for shard in there)
        for shard in sorted(shards):
            with suppress(StoreCorrupt, OSError):
                commit = commits.read_commit(self._layout, shard)
                counts = (commit.rows, commit.failed)
                if counts == expected.get(shard, counts) and not commit_problem(
                    self._layout, self._plan, shard, commit
                ):
                    valid[shard] = commit
        return valid, shards - valid.keys()

    def _damaged(self, commit: ShardCommit, listing: pa.Table | None) -> bool:
        """Whether a file of the shard differs from its record or, with ``listing``, has invalid content."""
        if any(not self._matches(self._path_of(commit, record), record) for record in commit.files):
            return True
        found = VerifyReport(self._report.id)
        if listing is not None:
            check_shard(self._layout, self._plan, commit, listing, found)
        return bool(found.problems)

    def _matches(self, path: Path | None, record: FileRecord) -> bool:
        self._alive()
        try:
            return path is not None and self._layout.damage(path, record, hashed=self._hashed) is None
        except FileNotFoundError:
            return False

    def _path_of(self, commit: ShardCommit, record: FileRecord) -> Path:
        """The path of a committed file, or its final path if it is missing."""
        return commits.locate_record(self._layout, commit, record) or self._layout.folder / record.path

    def _restore(self, expected: Iterable[tuple[Path, FileRecord]], candidates: Iterable[Path]) -> None:
        """Move files back that have another file's name."""
        intact: set[Path] = set()
        lost: dict[Path, FileRecord] = {}
        for path, record in expected:
            if self._matches(path, record):
                intact.add(path)
            else:
                lost[self._layout.folder / record.path] = record
        if not lost:
            return
        aside = self._layout.work / f"repair-{secrets.token_hex(8)}"
        moves: list[tuple[Path, Path]] = []
        for path in candidates:
            if path in intact:
                continue
            final = self._final_path_of(path, lost)
            if final is not None:
                # Linked, not renamed: each file keeps a name whenever this stops.
                self._layout.link(path, aside / str(len(moves)))
                moves.append((aside / str(len(moves)), final))
                del lost[final]
        for linked, final in moves:
            self._layout.rename(linked, final)
            self._layout.sync([final.parent])
            self._report.restored.append(self._layout.name_of(final))
        if moves:
            # `rename` between two links to the same file leaves both.
            self._layout.remove(aside)

    def _final_path_of(self, path: Path, lost: dict[Path, FileRecord]) -> Path | None:
        """The final path of the lost file with these bytes, if any."""
        self._alive()
        with suppress(OSError):
            if self._layout.size(path) in {record.bytes for record in lost.values()}:
                found = hash_file(self._layout.local(path))
                same = ((record.bytes, record.xxh3_64, record.sha256) == found for record in lost.values())
                return next((final for final, is_it in zip(lost, same, strict=True) if is_it), None)
        return None

    def _listing(self, manifest: Manifest | None) -> pa.Table | None:
        """The listing, if it is the one that the plan names."""
        record = next((each for each in manifest.files if each.path == "listing.parquet"), None) if manifest else None
        with suppress(ShoalError, ValueError):
            listing = read_listing(self._layout)
            # The hash of the file is fast; that of the content takes seconds for a million images.
            if record is not None and self._matches(self._layout.listing, record):
                return listing
            return listing if listing_sha256(listing) == self._plan.source.listing_sha256 else None
        return None

    def _is_current(self, manifest: Manifest, valid: dict[int, ShardCommit]) -> bool:
        """Whether the manifest matches the plan, the listing and the commits."""
        return list(manifest.shards) == shard_entries(valid.values()) and all(
            self._matches(self._layout.folder / record.path, record) for record in manifest.files
        )

    def _remove_shard(self, shard: int, checked: ShardCommit | None) -> None:
        """Move a shard's data to the trash, then its commit; a commit written since the check stays."""
        layout, path = self._layout, self._layout.commit(shard)
        token = None
        with suppress(StoreCorrupt, OSError):
            token = commits.read_commit(layout, shard).token
        if checked is not None and token != checked.token:
            return
        for kind in DATA_KINDS:
            self._move(layout.data(kind, shard))
            if token and Path(token).name == token:
                self._move(layout.staged(token, layout.data_name(kind, shard)))
        self._move(path)
        self._report.removed.append(shard)

    def _remove_uncommitted(self, known: set[str]) -> None:
        for path in self._files:
            name = self._layout.name_of(path)
            if name not in known and self._layout.has(path):
                self._move(path)
                if name not in self._report.restored:
                    self._report.restored.append(name)

    def _move(self, path: Path) -> None:
        """Move a file of the set to the trash; durable."""
        self._layout.move_to_trash(path, self._trash)


def _valid_plan(layout: EmbeddingsLayout, report: RepairReport) -> Plan | None:
    """The plan, if the id or the manifest confirms it."""
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
            if record.path == "plan.json" and layout.damage(layout.plan, record) is None:
                return plan
    report.left.append(Problem("plan.json", "is the plan of another set"))
    return None
