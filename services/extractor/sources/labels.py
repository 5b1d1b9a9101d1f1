"""A request's label file, joined to its images by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from shoal import labels
from shoal.errors import LabelsInvalid
from shoal.schemas import LabelFile
from shoal.userfiles import UserFile

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LabelTable:
    """The label of each path of one label file."""

    table: labels.LabelTable

    @classmethod
    def check(cls, path: Path, spec: LabelFile, root: Path | None = None) -> None:
        """Refuse a file that cannot be read or lacks a column, from its head alone.

        Parameters
        ----------
        root
            Where the file must lie, with symlinks resolved.

        Raises
        ------
        LabelsInvalid
            Names the columns that there are.
        """
        file = _file(path, spec, root)
        _require_paths(file, labels.check_labels(file, _columns(spec)))

    @classmethod
    def read(cls, path: Path, spec: LabelFile, root: Path | None = None) -> LabelTable:
        """Read the whole file.

        Raises
        ------
        LabelsInvalid
            It cannot be read, lacks a column, or has a row without a path.
        """
        table = labels.read_labels(_file(path, spec, root), _columns(spec))
        _require_paths(table.file, table.layout)
        return cls(table)

    def join(self, paths: Sequence[str]) -> labels.Joined:
        """The labels of ``paths``, in their order. Rows of the file that no path asks for are of no concern.

        Raises
        ------
        LabelsInvalid
            A path has no row, or rows with different labels.
        """
        joined = labels.join_by_path(self.table, paths)
        if joined.note:
            log.warning(joined.note)
        return joined

    def labels(self, paths: Sequence[str]) -> list[str | None]:
        """The labels of `join` alone."""
        return self.join(paths).labels


def _file(path: Path, spec: LabelFile, root: Path | None) -> UserFile:
    return UserFile(path, f"The label file {spec.file!r}", LabelsInvalid, {"field": "images.labels"}, root)


def _require_paths(file: UserFile, layout: labels.Layout) -> None:
    if layout.chosen.path is None:
        raise file.invalid(
            f"has no column {labels.PATH_COLUMN!r}; its columns are {labels.listed(layout.names)}. Images are joined "
            "to their labels by path: name the column with the paths in `path_column`."
        )


def _columns(spec: LabelFile) -> labels.Columns:
    if not spec.path_column:
        raise LabelsInvalid(
            "`images.labels.path_column` is empty: images are joined to their labels by path, so name the column with "
            "the paths, relative to `images.path`.",
            field="images.labels.path_column",
        )
    return labels.Columns(spec.path_column, spec.label_column)
