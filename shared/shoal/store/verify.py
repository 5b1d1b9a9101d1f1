"""Verifying an embeddings folder: every byte against its commits, its plan and its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import ShoalError
from shoal.store import commits
from shoal.store.commits import commit_problem
from shoal.store.documents import first_line, read_listing, read_manifest, read_plan, reason_of, shard_entries
from shoal.store.files import hash_file
from shoal.store.layout import DATA_KINDS, ERRORS, IMG_EMB, METADATA, THUMBS, EmbeddingsLayout
from shoal.store.npy import open_npy
from shoal.store.records import FileRecord, Manifest, Plan, ShardCommit, listing_sha256, plan_id

_SCAN_ROWS = 16_384


@dataclass(frozen=True)
class Problem:
    """A damaged or unexpected file. ``file`` is relative to the folder of the set or result."""

    file: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclass
class VerifyReport:
    """The result of `Store.verify`.

    Attributes
    ----------
    kind
        ``embeddings``, ``clustering``, ``sweep``, ``assignments`` or ``annotations``.
    complete
        Whether manifest.json exists. An incomplete set is not a problem by itself.
    missing_shards
        Number of shards without a commit.
    files, bytes
        Number of files and bytes read.
    rows, failed
        Sums over the committed shards.
    """

    id: str
    complete: bool = False
    missing_shards: int = 0
    files: int = 0
    bytes: int = 0
    rows: int = 0
    failed: int = 0
    problems: list[Problem] = field(default_factory=list)
    kind: str = "embeddings"

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def add(self, file: str, problem: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(file, problem))


def verify_embeddings(layout: EmbeddingsLayout) -> VerifyReport:
    """Check every file of an embeddings folder.

    Parameters
    ----------
    layout
        Of the folder.

    Returns
    -------
    VerifyReport
        Contains every problem found; damaged files raise no error.
    """
    with layout.fresh() as fresh:
        return _verified(fresh)


def _verified(layout: EmbeddingsLayout) -> VerifyReport:
    report = VerifyReport(layout.folder.name)
    plan = _check_plan(layout, report)
    if plan is None:
        return report
    layout = layout.with_digits(plan.shard_digits)
    listing = _check_listing(layout, plan, report)
    found = _check_commits(layout, plan, report)
    for commit in found.values():
        check_shard(layout, plan, commit, listing, report)
        report.rows += commit.rows
        report.failed += commit.failed
    report.missing_shards = plan.shards - len(found)
    _check_manifest(layout, found, report)
    unread = set(_committed_shards(layout, VerifyReport(report.id))) - found.keys()
    for name in [] if unread else _uncommitted_files(layout, found.values()):
        report.add(name, "belongs to no committed shard; other programs that read the folder would take it for data")
    return report


def _check_plan(layout: EmbeddingsLayout, report: VerifyReport) -> Plan | None:
    report.files += 1
    try:
        plan = read_plan(layout)
        expected = plan_id(json.loads(layout.read(layout.plan)))
    except FileNotFoundError:
        report.add("plan.json", "is missing")
        return None
    except (ShoalError, OSError) as error:
        report.add("plan.json", reason_of(error))
        return None
    if expected != report.id:
        report.add("plan.json", f"is the plan of {expected}, not of this set")
    return plan


def _check_listing(layout: EmbeddingsLayout, plan: Plan, report: VerifyReport) -> pa.Table | None:
    report.files += 1
    try:
        listing = read_listing(layout)
        digest = listing_sha256(listing)
    except (ShoalError, pa.ArrowException, ValueError) as error:
        report.add("listing.parquet", reason_of(error))
        return None
    if (listing.num_rows, digest) != (plan.source.count, plan.source.listing_sha256):
        report.add("listing.parquet", "is not the listing that the plan was made for: its count or checksum differs")
        return None
    return listing


def _check_commits(layout: EmbeddingsLayout, plan: Plan, report: VerifyReport) -> dict[int, ShardCommit]:
    found = {}
    for shard in _committed_shards(layout, report):
        name = layout.name_of(layout.commit(shard))
        report.files += 1
        try:
            commit = commits.read_commit(layout, shard)
        except (ShoalError, OSError) as error:
            report.add(name, str(error))
            continue
        problem = commit_problem(layout, plan, shard, commit)
        if problem:
            report.add(name, problem)
            continue
        found[shard] = commit
    return found


def _committed_shards(layout: EmbeddingsLayout, report: VerifyReport) -> list[int]:
    try:
        return commits.committed_shards(layout)
    except OSError as error:
        report.add("commits", f"cannot be read: {error}")
        return []


def check_file(record: FileRecord, path: Path, report: VerifyReport) -> bool:
    """Compare a file's bytes with its record."""
    report.files += 1
    try:
        size, fast, strong = hash_file(path)
    except OSError as error:
        report.add(record.path, f"cannot be read: {error}")
        return False
    report.bytes += size
    if size != record.bytes:
        report.add(record.path, f"has {size:,} bytes, but {record.bytes:,} were committed")
    elif (fast, strong) != (record.xxh3_64, record.sha256 or strong):
        report.add(record.path, "does not have the committed checksum: it was damaged, changed or replaced")
    else:
        return True
    return False


def check_shard(
    layout: EmbeddingsLayout, plan: Plan, commit: ShardCommit, listing: pa.Table | None, report: VerifyReport
) -> None:
    """Compare a shard's files with their records, and their content with the plan, the commit and the listing."""
    paths: dict[str, Path] = {}
    for record in commit.files:
        kind = record.path.partition("/")[0]
        path = commits.locate_record(layout, commit, record)
        if path is None:
            report.add(record.path, commits.MISSING)
        elif (here := _local(layout, path, record, report)) and check_file(record, here, report):
            paths[kind] = here
    if IMG_EMB in paths:
        _check_vectors(plan, commit, paths[IMG_EMB], layout.data_name(IMG_EMB, commit.shard), report)
    names = {kind: layout.data_name(kind, commit.shard) for kind in DATA_KINDS}
    tables = {}
    for kind in {METADATA, ERRORS, THUMBS} & paths.keys():
        try:
            tables[kind] = pq.read_table(paths[kind], partitioning=None)
        except (pa.ArrowException, OSError, ValueError) as error:
            report.add(names[kind], f"cannot be read as Parquet: {first_line(error)}")
            return
    for problem_kind, problem in _table_problems(commit, tables):
        report.add(names[problem_kind], problem)
    if listing is not None and {METADATA, ERRORS} & {r.path.partition("/")[0] for r in commit.files} <= tables.keys():
        _check_ids(layout, commit, listing, tables, report)


def _local(layout: EmbeddingsLayout, path: Path, record: FileRecord, report: VerifyReport) -> Path | None:
    """The file of this machine with the content of ``path``; None, and a problem, if it is missing."""
    try:
        return layout.local(path)
    except FileNotFoundError as error:
        report.files += 1
        report.add(record.path, f"cannot be read: {error}")
        return None


def _check_vectors(plan: Plan, commit: ShardCommit, path: Path, name: str, report: VerifyReport) -> None:
    try:
        array = open_npy(path, commit.rows, plan.dim, plan.dtype)
    except (ShoalError, OSError) as error:
        report.add(name, str(error))
        return
    for first in range(0, len(array), _SCAN_ROWS):
        finite = np.isfinite(array[first : first + _SCAN_ROWS]).all(axis=1)
        if not finite.all():
            report.add(name, f"row {first + int(np.argmin(finite))} holds NaN or infinity")
            return


def _table_problems(commit: ShardCommit, tables: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, rows in ((METADATA, commit.rows), (ERRORS, commit.failed)):
        if kind in tables and tables[kind].num_rows != rows:
            yield kind, f"has {tables[kind].num_rows:,} rows, but {rows:,} were committed"
    if METADATA in tables and tables[METADATA].column("row").to_pylist() != list(range(tables[METADATA].num_rows)):
        yield METADATA, "does not count up from 0 in its column `row`"
    if THUMBS in tables:
        rows = tables[THUMBS].column("row").to_pylist()
        if len(set(rows)) != len(rows) or not set(rows) <= set(range(commit.rows)):
            yield THUMBS, "has a number twice, or one that is no row, in its column `row`"


def _check_ids(
    layout: EmbeddingsLayout, commit: ShardCommit, listing: pa.Table, tables: dict[str, Any], report: VerifyReport
) -> None:
    """Check that the ids of rows and errors together are the shard's slice of the listing, each once."""
    expected: list[Any] = listing.column("image_id").slice(commit.start, commit.stop - commit.start).to_pylist()
    present: list[Any] = [
        value for kind in (METADATA, ERRORS) if kind in tables for value in tables[kind].column("image_id").to_pylist()
    ]
    if sorted(expected) != sorted(present):
        missing, extra = set(expected) - set(present), set(present) - set(expected)
        repeated = len(present) - len(set(present))
        report.add(
            layout.name_of(layout.commit(commit.shard)),
            "does not have each of its images once, in rows or errors: "
            f"{len(missing)} images missing, {len(extra)} unknown, {repeated} repeated",
        )


def _check_manifest(layout: EmbeddingsLayout, found: dict[int, ShardCommit], report: VerifyReport) -> None:
    try:
        manifest: Manifest | None = read_manifest(layout)
    except (ShoalError, OSError) as error:
        report.complete = True
        report.add("manifest.json", reason_of(error))
        return
    if manifest is None:
        return
    report.complete = True
    report.files += 1
    if manifest.id != report.id:
        report.add("manifest.json", f"is the manifest of {manifest.id}, not of this set")
    if report.missing_shards:
        report.add("manifest.json", f"is there, but {report.missing_shards} shards have no readable commit")
    elif list(manifest.shards) != shard_entries(found.values()):
        report.add("manifest.json", "lists other shards than the commits")
    if (manifest.rows, manifest.failed) != (
        sum(s.rows for s in manifest.shards),
        sum(s.failed for s in manifest.shards),
    ):
        report.add("manifest.json", "has totals that are not the sums over its shards")
    for record in manifest.files:
        if (here := _local(layout, layout.folder / record.path, record, report)) is not None:
            check_file(record, here, report)


def _uncommitted_files(layout: EmbeddingsLayout, found: Any) -> list[str]:
    """Files in the data folders that no commit names."""
    known = {record.path for commit in found for record in commit.files}
    names = {layout.name_of(path) for kind in DATA_KINDS for path in layout.files_below(layout.folder / kind)}
    return sorted(names - known)
