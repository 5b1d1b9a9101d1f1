"""The metadata of the rows: paths, labels and splits, from the files themselves or from a label file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ImportInvalid
from shoal.importer.metadata import read_metadata
from shoal.importer.parts import Part
from shoal.importer.records import read_arrays
from shoal.labels import Columns, clean_label, join, read_labels
from shoal.userfiles import UserFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The metadata of the rows, as columns."""

    paths: list[str]
    labels: list[str | None]
    splits: list[str | None]
    numbers: Mapping[str, list[int | None]]


def read_rows(
    path: Path, parts: Sequence[Part], labels: Path | None, split: str | None, requested: Columns | None = None
) -> Rows:
    """Read the metadata of the rows.

    Parameters
    ----------
    path
        The imported file or folder.
    parts
        Its vectors.
    labels, split
        As for `shoal.importer.import_embeddings`.
    requested
        The columns of the label file.

    Raises
    ------
    ImportInvalid
        Metadata, labels and vectors do not match.
    """
    record = read_metadata(path, parts) or read_arrays(parts, with_labels=labels is None)
    count = sum(part.rows for part in parts)
    generated = [part.row_name(row) for part in parts for row in range(part.rows)]
    own = record.paths
    paths = _distinct(own, generated) if own else generated
    if labels is not None:
        # By the files' own paths: several rows may belong to one image.
        joined_by = [path or fallback for path, fallback in zip(own, generated, strict=True)] if own else None
        row_labels = _labels(labels, requested or Columns(), joined_by, count)
    else:
        row_labels = [clean_label(label) for label in record.labels or [None] * count]
    return Rows(
        paths=paths,
        labels=row_labels,
        splits=[split] * count if split is not None else record.splits or [None] * count,
        numbers=record.numbers,
    )


def _labels(path: Path, requested: Columns, paths: Sequence[str] | None, count: int) -> list[str | None]:
    joined = join(
        read_labels(UserFile(path, error=ImportInvalid, members={"file": str(path)}), requested),
        requested,
        paths,
        count,
    )
    if joined.note:
        log.warning("%s", joined.note)
    return joined.labels


def _distinct(paths: Sequence[str | None], generated: Sequence[str]) -> list[str]:
    """``paths`` made distinct: a missing path gets its generated name, a repeated one its row number as suffix."""
    own = [path or fallback for path, fallback in zip(paths, generated, strict=True)]
    taken = set(own)
    seen: set[str] = set()
    out = []
    for row, path in enumerate(own):
        name = path
        while name in seen or (name != path and name in taken):
            name = f"{name}#{row}"
        seen.add(name)
        out.append(name)
    return out
