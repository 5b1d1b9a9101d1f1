"""The commit protocol of a shard: staging, the one commit link, and promotion to the final names.

An attempt keeps its finished files below ``work/<token>/``. Linking ``commits/NNNNN.json`` decides which attempt's
files are the shard's; only then are those files, and never another attempt's, renamed to their final names, by the
winner or by whoever comes later. FORMAT.md, "Commit protocol", gives the reasons.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import xxhash
from pydantic import ValidationError

from shoal.errors import StoreCorrupt
from shoal.store.atomic import fsync_folder, publish_file, storage_errors
from shoal.store.layout import COMMIT_NAME, ERRORS, IMG_EMB, METADATA, EmbeddingsLayout
from shoal.store.manifest import FileRecord, ShardCommit

_CHUNK = 1 << 22


def hash_file(path: Path, *, sha256: bool = True) -> tuple[int, str, str | None]:
    """Size in bytes, XXH3-64 and SHA-256 (None unless asked for) of a file, in one pass."""
    fast, strong, size = xxhash.xxh3_64(), hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            fast.update(chunk)
            if sha256:
                strong.update(chunk)
            size += len(chunk)
    return size, fast.hexdigest(), strong.hexdigest() if sha256 else None


def record_file(path: Path, name: str) -> FileRecord:
    """The record of a finished file that is to be known as ``name``."""
    size, fast, strong = hash_file(path)
    return FileRecord(path=name, bytes=size, xxh3_64=fast, sha256=strong or "")


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
