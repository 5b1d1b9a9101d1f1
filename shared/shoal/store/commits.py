"""The commits of an embeddings folder: the protocol that makes a shard count, and reading what is committed.

An attempt keeps its finished files below ``work/<token>/``. Linking ``commits/NNNNN.json`` decides which attempt's
files are the shard's; only then are those files, and never another attempt's, renamed to their final names, by the
winner or by whoever comes later. FORMAT.md, "Commit protocol", gives the reasons.

Readers compare sizes when a set is opened, which costs a look at each name; checksums when a file is first read, which
costs about a tenth of reading it. Thumbnails are optional: where they are damaged, a set can be used without them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from shoal.errors import ShoalError, StoreCorrupt, StoreError
from shoal.store.documents import corrupt, is_plan_of, shard_entries
from shoal.store.files import damage_of, fsync_folder, publish_file, storage_errors
from shoal.store.layout import COMMIT_NAME, DATA_KINDS, ERRORS, IMG_EMB, METADATA, THUMBS, EmbeddingsLayout
from shoal.store.records import FileRecord, Manifest, Plan, ShardCommit

T = TypeVar("T")

MISSING = "is missing, though it was committed"
HASHED_THUMBS = 64 << 20
"""A larger file of pictures is not read as a whole to show a few of them: its size must do."""


def read_commit(path: Path) -> ShardCommit:
    """The commit in ``path``.

    Raises
    ------
    StoreCorrupt
        It is no commit.
    FileNotFoundError
        There is none.
    """
    try:
        return ShardCommit.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreCorrupt(f"{path} cannot be read ({error.strerror or error}).", file=str(path)) from error
    except ValidationError as error:
        raise StoreCorrupt(f"{path} is no commit: {error.errors()[0]['msg']}.", file=str(path)) from error


def committed_shards(layout: EmbeddingsLayout) -> list[int]:
    """Numbers of the committed shards, ascending."""
    with os.scandir(layout.commits) as entries:
        matches = (COMMIT_NAME.fullmatch(entry.name) for entry in entries)
        return sorted(int(match[1]) for match in matches if match)


def publish_commit(layout: EmbeddingsLayout, commit: ShardCommit) -> bool:
    """Link ``commit`` into place: the moment at which its shard becomes committed.

    Returns
    -------
    bool
        False: another attempt's commit is there.
    """
    content = commit.model_dump_json(indent=2).encode() + b"\n"
    final = layout.commit(commit.shard)
    published = publish_file(final, lambda file: file.write(content), temporary_folder=layout.staging(commit.token))
    # The link may have been made although its call failed, as over NFS when the answer is lost.
    return published or read_commit(final).token == commit.token


def promote(layout: EmbeddingsLayout, commit: ShardCommit) -> None:
    """Rename a committed shard's files to their final names, then remove what is left of its staging folder.

    Anybody may do this at any time, and at the same time as others: all of them rename the same files.

    Raises
    ------
    StoreCorrupt
        A file that the commit names is nowhere.
    """
    for record in commit.files:
        final, staged = layout.folder / record.path, layout.staged(commit.token, record.path)
        if final.exists():
            continue
        with storage_errors(final):
            final.parent.mkdir(exist_ok=True)
            try:
                staged.rename(final)
            except FileNotFoundError:
                if not final.exists():
                    raise StoreCorrupt(
                        f"{final} is committed but neither there nor in {staged.parent}.", file=record.path
                    ) from None
    # All folders, even where another process did the renaming: it may not have come to make them durable.
    for folder in {(layout.folder / record.path).parent for record in commit.files}:
        fsync_folder(folder)
    shutil.rmtree(layout.staging(commit.token), ignore_errors=True)


def kinds_of(commit: ShardCommit) -> tuple[str, ...]:
    """The kinds of files that a shard of so many rows and errors must have; pictures may come with them."""
    return ((IMG_EMB, METADATA) if commit.rows else ()) + ((ERRORS,) if commit.failed else ())


def record_of(commit: ShardCommit, kind: str) -> FileRecord | None:
    """The record of a shard's file of ``kind``; None when it has none."""
    return next((record for record in commit.files if record.path.startswith(f"{kind}/")), None)


def locate_record(layout: EmbeddingsLayout, commit: ShardCommit, record: FileRecord) -> Path | None:
    """Where a committed file is now; None when it is nowhere."""
    final = layout.folder / record.path
    # Twice, because the file may be renamed between the two looks.
    for path in (final, layout.staged(commit.token, record.path), final):
        if path.exists():
            return path
    return None


class CommittedFiles:
    """What the commits and the manifest of one embeddings folder name.

    Parameters
    ----------
    layout
        Paths of the folder.
    manifest
        Its manifest; None while the set is not complete.
    """

    def __init__(self, layout: EmbeddingsLayout, manifest: Manifest | None) -> None:
        self._layout = layout
        self._manifest = manifest
        self._documents = {record.path: record for record in manifest.files} if manifest else {}
        self._checked: set[str] = set()

    @cached_property
    def commits(self) -> dict[int, ShardCommit]:
        """The commits by shard number, ascending.

        Raises
        ------
        StoreCorrupt
            One cannot be read.
        """
        if self._manifest:
            shards = [entry.shard for entry in self._manifest.shards]
        else:
            try:
                shards = committed_shards(self._layout)
            except OSError as error:
                raise self.corrupt("commits", f"cannot be read ({error.strerror})") from error
        return {shard: self._commit(shard) for shard in shards}

    def _commit(self, shard: int) -> ShardCommit:
        path = self._layout.commit(shard)
        name = self._layout.name_of(path)
        try:
            return read_commit(path)
        except FileNotFoundError:
            raise self.corrupt(name, MISSING) from None
        except StoreCorrupt as error:
            raise self.corrupt(name, "is no commit") from error

    def corrupt(self, name: str, problem: str) -> ShoalError:
        """The error for a file that is not as it should be, or for a set that was deleted meanwhile."""
        return corrupt(self._layout, name, problem)

    def check(self, plan: Plan) -> None:
        """Compare plan and manifest with each other, and the size of every file with its record.

        Raises
        ------
        StoreCorrupt
            Something does not fit; the file is named.
        """
        if not is_plan_of(self._layout, plan):
            if "plan.json" not in self._documents:
                raise self.corrupt("plan.json", "is not the plan that this id stands for")
            self.check_document("plan.json")  # a folder that was renamed
        for shard, commit in self.commits.items():
            problem = commit_problem(self._layout, plan, shard, commit)
            if problem:
                raise self.corrupt(self._layout.name_of(self._layout.commit(shard)), problem)
            for record in commit.files:
                if not record.path.startswith(f"{THUMBS}/"):
                    self._compare(commit, record, hashed=False)
        if self._manifest:
            self._check_manifest(plan, self._manifest)
            self.check_document("listing.parquet", hashed=False)

    def _check_manifest(self, plan: Plan, manifest: Manifest) -> None:
        whole = [entry.shard for entry in manifest.shards] == list(range(plan.shards))
        if not whole or (manifest.dim, manifest.dtype) != (plan.dim, plan.dtype):
            raise self.corrupt("manifest.json", "does not fit the plan")
        if list(manifest.shards) != shard_entries(self.commits.values()):
            raise self.corrupt("manifest.json", "does not fit the commits")

    def check_document(self, name: str, *, hashed: bool = True) -> None:
        """Compare a document that the manifest records with its record; before there is one, nothing is known of it."""
        record = self._documents.get(name)
        if record is None or name in self._checked:
            return
        try:
            problem = damage_of(self._layout.folder / name, record, hashed=hashed)
        except FileNotFoundError:
            problem = MISSING
        if problem:
            raise self.corrupt(name, problem)
        if hashed:
            self._checked.add(name)

    def has(self, shard: int, kind: str) -> bool:
        """Whether a committed shard has a file of ``kind``."""
        return record_of(self.commits[shard], kind) is not None

    def open(self, shard: int, kind: str, load: Callable[[Path], T]) -> T:
        """What ``load`` makes of a committed shard's file of ``kind``, whose checksum was compared before.

        Raises
        ------
        StoreCorrupt
            The file is missing or is not the committed one.
        """
        commit = self.commits[shard]
        record = record_of(commit, kind)
        if record is None:
            raise self.corrupt(self._layout.data_name(kind, shard), "is in no commit, though the shard must have one")
        hashed = kind != THUMBS or record.bytes <= HASHED_THUMBS
        for _ in range(2):  # the file may be promoted between the look and the load, once
            path = self._compare(commit, record, hashed=hashed)
            try:
                return load(path)
            except FileNotFoundError:
                continue
            except StoreError as error:
                raise self.corrupt(record.path, error.detail) from error
        raise self.corrupt(record.path, MISSING)

    def table(self, shard: int, kind: str, schema: pa.Schema, filters: Any = None) -> pa.Table:
        """The columns of ``schema`` of a committed shard's table."""

        def load(path: Path) -> pa.Table:
            try:
                return pq.read_table(path, columns=schema.names, filters=filters, partitioning=None).cast(schema)
            except FileNotFoundError:
                raise
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                raise StoreCorrupt(f"is no complete Parquet file ({error})") from error

        return self.open(shard, kind, load)

    def _compare(self, commit: ShardCommit, record: FileRecord, *, hashed: bool) -> Path:
        """The file's path, when its bytes are the committed ones, or at least as many."""
        for _ in range(3):
            path = locate_record(self._layout, commit, record)
            if path is None:
                break
            try:
                problem = damage_of(path, record, hashed=hashed and record.path not in self._checked)
            except FileNotFoundError:  # renamed to its final name just now
                continue
            if problem:
                raise self.corrupt(record.path, problem)
            if hashed:
                self._checked.add(record.path)
            return path
        raise self.corrupt(record.path, MISSING)


def commit_problem(layout: EmbeddingsLayout, plan: Plan, shard: int, commit: ShardCommit) -> str | None:
    """Why ``commit`` cannot be the one of ``shard``; None when it can."""
    if shard >= plan.shards or commit.shard != shard or (commit.start, commit.stop) != plan.shard_range(shard):
        return "is of a shard or range that is not the plan's"
    if commit.rows + commit.failed != commit.stop - commit.start:
        return f"names {commit.rows} rows and {commit.failed} errors for {commit.stop - commit.start} images"
    kinds = {record.path: record.path.partition("/")[0] for record in commit.files}
    wanted = set(kinds_of(commit))
    named = [layout.data_name(kind, shard) if kind in DATA_KINDS else "" for kind in kinds.values()]
    if set(kinds.values()) - {THUMBS} != wanted or list(kinds) != named:
        return f"names the files {sorted(kinds)}, not one each of {sorted(wanted)}"
    return None
