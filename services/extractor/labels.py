"""Labels from a CSV or Parquet file, joined to images by path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
from shoal.errors import LabelsInvalid
from shoal.schemas import LabelFile

NAMED = 5
"""How many paths an error names at most."""


@dataclass(frozen=True)
class LabelTable:
    """The label of each path of one label file.

    Attributes
    ----------
    file
        Name of the file, for messages.
    by_path
        Path to label; None for an empty label.
    """

    file: str
    by_path: dict[str, str | None]

    @classmethod
    def check(cls, path: Path, spec: LabelFile) -> None:
        """Refuse a file that cannot be read or lacks a column, from its head alone.

        Raises
        ------
        LabelsInvalid
            Names the columns that there are.
        """
        _require(_column_names(path, spec), spec)

    @classmethod
    def read(cls, path: Path, spec: LabelFile) -> LabelTable:
        """Read the whole file.

        Raises
        ------
        LabelsInvalid
            It cannot be read, lacks a column, has a row without a path, or the same path in two rows.
        """
        _require(_column_names(path, spec), spec)
        paths, labels = _columns(path, spec)
        normal = [_normal(p) for p in paths]
        if missing := sum(p is None for p in normal):
            raise _invalid(spec, f"has {missing} rows without a `{spec.path_column}`")
        counts = Counter(p for p in normal if p is not None)
        twice = [p for p, count in counts.most_common(NAMED) if count > 1]
        if twice:
            raise _invalid(spec, f"has more than one row for {_named(twice)}: keep one row an image")
        return cls(spec.file, dict(zip(counts, (label or None for label in labels), strict=True)))

    def labels(self, paths: Sequence[str]) -> list[str | None]:
        """The labels of ``paths``, in their order. Rows of the file that no path asks for are of no concern.

        Raises
        ------
        LabelsInvalid
            Names the first paths that have no row.
        """
        missing = [path for path in paths if path not in self.by_path]
        if missing:
            raise LabelsInvalid(
                f"The label file {self.file!r} has no row for {len(missing)} of {len(paths)} images, such as "
                f"{_named(missing)}: give each image a row, with its path relative to `images.path`.",
                field="images.labels",
            )
        return [self.by_path[path] for path in paths]


def _column_names(path: Path, spec: LabelFile) -> list[str]:
    if not path.is_file():
        raise _invalid(spec, "is no file")
    try:
        if _is_parquet(path):
            return list(pq.read_schema(path).names)
        with path.open("rb") as file:
            head = file.readline(1 << 20)
        if not head.strip():
            raise _invalid(spec, "is empty")
        return list(csv.read_csv(BytesIO(head)).column_names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _invalid(spec, f"cannot be read: {error}") from error


def _columns(path: Path, spec: LabelFile) -> tuple[list[str | None], list[str | None]]:
    names = [spec.path_column, spec.label_column]
    try:
        if _is_parquet(path):
            table = pq.read_table(path, columns=names)
        else:
            types = dict.fromkeys(names, pa.string())
            table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types, include_columns=names))
        paths, labels = (pc.cast(table.column(name), pa.string()).to_pylist() for name in names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _invalid(spec, f"cannot be read: {error}") from error
    return paths, labels


def _require(columns: list[str], spec: LabelFile) -> None:
    for wanted in (spec.path_column, spec.label_column):
        if wanted not in columns:
            raise _invalid(spec, f"has no column {wanted!r}; its columns are {_named(columns)}")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in {".parquet", ".pq"}


def _normal(path: str | None) -> str | None:
    return path.strip().removeprefix("./") or None if path is not None else None


def _named(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:NAMED])
    return f"{listed}, …" if len(names) > NAMED else listed


def _invalid(spec: LabelFile, what: str) -> LabelsInvalid:
    return LabelsInvalid(f"The label file {spec.file!r} {what}.", field="images.labels")
