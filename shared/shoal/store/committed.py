"""The committed files of an embeddings folder: found where they are, compared with their records before they are read.

Sizes are compared when a set is opened, which costs a look at each name; checksums when a file is first read, which
costs about a tenth of reading it. Pictures are decoration: where they are damaged, a set can be used without them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import ShoalError, StoreCorrupt, StoreError
from shoal.store import commits
from shoal.store.documents import corrupt, is_plan_of, shard_entries
from shoal.store.integrity import damage_of
from shoal.store.layout import DATA_KINDS, THUMBS, EmbeddingsLayout
from shoal.store.manifest import FileRecord, Manifest, Plan, ShardCommit

T = TypeVar("T")

MISSING = "is missing, though it was committed"
HASHED_THUMBS = 64 << 20
"""A larger file of pictures is not read as a whole to show a few of them: its size must do."""


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
                shards = commits.committed_shards(self._layout)
            except OSError as error:
                raise self.corrupt("commits", f"cannot be read ({error.strerror})") from error
        return {shard: self._commit(shard) for shard in shards}

    def _commit(self, shard: int) -> ShardCommit:
        path = self._layout.commit(shard)
        name = path.relative_to(self._layout.folder).as_posix()
        try:
            return commits.read_commit(path)
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
                raise self.corrupt(self._layout.commit(shard).relative_to(self._layout.folder).as_posix(), problem)
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
        return commits.record_of(self.commits[shard], kind) is not None

    def open(self, shard: int, kind: str, load: Callable[[Path], T]) -> T:
        """What ``load`` makes of a committed shard's file of ``kind``, whose checksum was compared before.

        Raises
        ------
        StoreCorrupt
            The file is missing or is not the committed one.
        """
        commit = self.commits[shard]
        record = commits.record_of(commit, kind)
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
            path = commits.locate_record(self._layout, commit, record)
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
    wanted = set(commits.kinds_of(commit))
    named = [layout.data_name(kind, shard) if kind in DATA_KINDS else "" for kind in kinds.values()]
    if set(kinds.values()) - {THUMBS} != wanted or list(kinds) != named:
        return f"names the files {sorted(kinds)}, not one each of {sorted(wanted)}"
    return None
