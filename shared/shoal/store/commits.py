"""The commits of an embeddings folder: the commit protocol, and reading committed files.

An attempt writes its files in ``work/<token>/``. Linking ``commits/NNNNN.json`` decides which attempt's files are the
shard's; then those files, and no other attempt's, are renamed to their final names, by the winner or by any later
process. FORMAT.md, "Commit protocol", gives the reasons.

Readers compare sizes when a set is opened, and checksums when a file is first read, which takes about a tenth of the
time of reading it. Thumbnails are optional: a set with damaged thumbnails can be used without them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from shoal.errors import ShoalError, StoreCorrupt, StoreError
from shoal.store.documents import corrupt, is_plan_of, shard_entries
from shoal.store.layout import COMMIT_NAME, DATA_KINDS, ERRORS, IMG_EMB, METADATA, THUMBS, EmbeddingsLayout
from shoal.store.records import FileRecord, Manifest, Plan, ShardCommit
from shoal.store.table_schemas import PROPERTIES_SCHEMA

T = TypeVar("T")

MISSING = "is missing, although it was committed"
MAX_HASHED_THUMBS = 64 << 20
"""Of a larger file of thumbnails only the size is compared: hashing it to show a few would take too long."""


def read_commit(layout: EmbeddingsLayout, shard: int) -> ShardCommit:
    """Read the commit of a shard.

    Raises
    ------
    StoreCorrupt
        The file is not a commit.
    FileNotFoundError
        The file does not exist.
    """
    path = layout.commit(shard)
    try:
        return ShardCommit.model_validate_json(layout.read(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreCorrupt(f"{path} cannot be read ({error.strerror or error}).", file=str(path)) from error
    except ValidationError as error:
        raise StoreCorrupt(f"{path} is not a commit: {error.errors()[0]['msg']}.", file=str(path)) from error


def committed_shards(layout: EmbeddingsLayout) -> list[int]:
    """Numbers of the shards that are committed now, ascending.

    Raises
    ------
    FileNotFoundError
        The set was deleted.
    """
    layout.refresh(layout.commits)
    matches = (COMMIT_NAME.fullmatch(name) for name in layout.names(layout.commits))
    return sorted(int(match[1]) for match in matches if match)


def publish_commit(layout: EmbeddingsLayout, commit: ShardCommit) -> bool:
    """Link ``commit`` into place; from then on its shard is committed.

    Returns
    -------
    bool
        False: another attempt committed the shard first.
    """
    absent = None if commit.reused else {"reused"}
    content = commit.model_dump_json(indent=2, exclude=absent).encode() + b"\n"
    published = layout.publish(layout.commit(commit.shard), content, layout.staging(commit.token))
    # The link may exist although the call failed, as over NFS when the reply is lost.
    return published or read_commit(layout, commit.shard).token == commit.token


def promote(layout: EmbeddingsLayout, commit: ShardCommit) -> None:
    """Rename a committed shard's files to their final names, then remove its staging folder.

    Any process may do this at any time, also concurrently: all of them rename the same files.

    Raises
    ------
    StoreCorrupt
        A file that the commit names is missing.
    """
    for record in commit.files:
        final, staged = layout.folder / record.path, layout.staged(commit.token, record.path)
        if layout.has(final):
            continue
        try:
            layout.rename(staged, final)
        except FileNotFoundError:
            if not layout.has(final):
                raise StoreCorrupt(
                    f"{final} is committed, but missing there and in {staged.parent}.", file=record.path
                ) from None
    # All folders, even where another process renamed the files: it may have stopped before its fsync.
    layout.sync((layout.folder / record.path).parent for record in commit.files)
    layout.remove(layout.staging(commit.token))


def required_kinds(commit: ShardCommit) -> tuple[str, ...]:
    """The kinds of files that the shard must have; thumbnails are optional."""
    return ((IMG_EMB, METADATA) if commit.rows else ()) + ((ERRORS,) if commit.failed else ())


def record_of(commit: ShardCommit, kind: str) -> FileRecord | None:
    """The record of a shard's file of ``kind``, if it has one."""
    return next((record for record in commit.files if record.path.startswith(f"{kind}/")), None)


def locate_record(layout: EmbeddingsLayout, commit: ShardCommit, record: FileRecord) -> Path | None:
    """The current path of a committed file; None if it is missing."""
    final = layout.folder / record.path
    # The final name twice: the file may be renamed between the two checks.
    for path in (final, layout.staged(commit.token, record.path), final):
        if layout.has(path):
            return path
    return None


class CommittedFiles:
    """The files of one embeddings folder that its commits and its manifest name.

    Parameters
    ----------
    layout
        Paths of the folder.
    manifest
        Its manifest; None if the set is not complete.
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
        self._layout.prefetch(self._layout.commit(shard) for shard in shards)
        return {shard: self._commit(shard) for shard in shards}

    def _commit(self, shard: int) -> ShardCommit:
        name = self._layout.name_of(self._layout.commit(shard))
        try:
            return read_commit(self._layout, shard)
        except FileNotFoundError:
            raise self.corrupt(name, MISSING) from None
        except StoreCorrupt as error:
            raise self.corrupt(name, "is not a commit") from error

    def corrupt(self, name: str, problem: str) -> ShoalError:
        """See `shoal.store.documents.corrupt`."""
        return corrupt(self._layout, name, problem)

    def check(self, plan: Plan) -> None:
        """Compare the documents with each other, and the size of every file with its record.

        Raises
        ------
        StoreCorrupt
            A file does not match; the message names it.
        """
        if not is_plan_of(self._layout, plan):
            if "plan.json" not in self._documents:
                raise self.corrupt("plan.json", "is not the plan that this id belongs to")
            self.check_document("plan.json")  # the folder was renamed
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
            raise self.corrupt("manifest.json", "does not match the plan")
        if list(manifest.shards) != shard_entries(self.commits.values()):
            raise self.corrupt("manifest.json", "does not match the commits")

    def check_document(self, name: str, *, hashed: bool = True) -> None:
        """Compare a document with its record in the manifest, if there is a manifest."""
        record = self._documents.get(name)
        if record is None or name in self._checked:
            return
        try:
            problem = self._layout.damage(self._layout.folder / name, record, hashed=hashed)
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
        """Compare a committed shard's file of ``kind`` with its record, and return what ``load`` makes of it.

        Raises
        ------
        StoreCorrupt
            The file is missing or does not match its record.
        """
        commit = self.commits[shard]
        record = record_of(commit, kind)
        if record is None:
            raise self.corrupt(self._layout.data_name(kind, shard), "is missing from the shard's commit")
        hashed = kind != THUMBS or record.bytes <= MAX_HASHED_THUMBS
        for _ in range(2):  # the file may be renamed once, between the check and the load
            path = self._compare(commit, record, hashed=hashed)
            try:
                return load(self._layout.local(path))
            except FileNotFoundError:
                continue
            except StoreError as error:
                raise self.corrupt(record.path, error.detail) from error
        raise self.corrupt(record.path, MISSING)

    def table(self, shard: int, kind: str, schema: pa.Schema, filters: Any = None) -> pa.Table:
        """The columns of ``schema`` of a committed shard's table; null where the file lacks the images' properties."""
        may_lack = set(PROPERTIES_SCHEMA.names).intersection(schema.names)

        def load(path: Path) -> pa.Table:
            try:
                lacking = may_lack.difference(pq.read_schema(path).names) if may_lack else may_lack
                columns = [name for name in schema.names if name not in lacking]
                table = pq.read_table(path, columns=columns, filters=filters, partitioning=None)
                for name in lacking:
                    table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
                return table.select(schema.names).cast(schema)
            except FileNotFoundError:
                raise
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                raise StoreCorrupt(f"is not a complete Parquet file ({error})") from error

        return self.open(shard, kind, load)

    def rows(self, shard: int, kind: str, schema: pa.Schema, numbers: Sequence[int]) -> pa.Table:
        """Some rows of a committed shard's table, by ``row``; reads only the row groups that they are in."""

        def load(path: Path) -> pa.Table:
            try:
                with pq.ParquetFile(path, memory_map=True) as file:
                    groups = _groups_with(file.metadata, numbers)
                    table = file.read_row_groups(groups, columns=schema.names).select(schema.names).cast(schema)
                return table.filter(pc.is_in(table.column("row"), value_set=pa.array(numbers, pa.int64())))
            except FileNotFoundError:
                raise
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                raise StoreCorrupt(f"is not a complete Parquet file ({error})") from error

        return self.open(shard, kind, load)

    def _compare(self, commit: ShardCommit, record: FileRecord, *, hashed: bool) -> Path:
        """The file's path, once its checksum, or only its size, matches its record."""
        for _ in range(3):
            path = locate_record(self._layout, commit, record)
            if path is None:
                break
            try:
                problem = self._layout.damage(path, record, hashed=hashed and record.path not in self._checked)
            except FileNotFoundError:  # just renamed to its final name
                continue
            if problem:
                raise self.corrupt(record.path, problem)
            if hashed:
                self._checked.add(record.path)
            return path
        raise self.corrupt(record.path, MISSING)


def _groups_with(metadata: pq.FileMetaData, numbers: Sequence[int]) -> list[int]:
    """The row groups that may have one of these rows, which ascend; all without statistics."""
    found = []
    for group in range(metadata.num_row_groups):
        known = metadata.row_group(group).column(0).statistics
        if known is None or not known.has_min_max:
            found.append(group)
            continue
        at = bisect_left(numbers, known.min)
        if at < len(numbers) and numbers[at] <= known.max:
            found.append(group)
    return found


def commit_problem(layout: EmbeddingsLayout, plan: Plan, shard: int, commit: ShardCommit) -> str | None:
    """Why ``commit`` cannot be the commit of ``shard``; None if it can."""
    if shard >= plan.shards or commit.shard != shard or (commit.start, commit.stop) != plan.shard_range(shard):
        return "is the commit of another shard, or of other images than the plan's"
    images = commit.stop - commit.start
    if commit.rows + commit.failed != images:
        return f"counts {commit.rows} rows and {commit.failed} errors, but its shard has {images} images"
    kinds = {record.path: record.path.partition("/")[0] for record in commit.files}
    required = set(required_kinds(commit))
    named = [layout.data_name(kind, shard) if kind in DATA_KINDS else "" for kind in kinds.values()]
    if set(kinds.values()) - {THUMBS} != required or list(kinds) != named:
        return f"names the files {sorted(kinds)}; expected one file each in {sorted(required)}"
    return None
