"""The label file of a request, joined to its images by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog
from shoal import labels
from shoal.errors import LabelsInvalid
from shoal.schemas import LabelFile
from shoal.userfiles import UserFile, confine

_log = structlog.get_logger(__name__)


def check(spec: LabelFile, root: Path) -> None:
    """Refuse a file that cannot be read or lacks a column, from its head alone.

    Parameters
    ----------
    root
        The data root, below which the file must lie.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        It is not a file below ``root``.
    LabelsInvalid
        It cannot be read or lacks a column; the message names its columns.
    """
    file = _file(spec, root)
    _require_paths(file, labels.check_labels(file, _columns(spec)))


def read(spec: LabelFile, root: Path, paths: Sequence[str]) -> labels.Joined:
    """The labels of ``paths``, in their order. Rows for other paths are ignored.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        As for `check`.
    LabelsInvalid
        The file cannot be read, lacks a column or has a row without a path; or a path has no row, or rows with
        different labels.
    """
    table = labels.read_labels(_file(spec, root), _columns(spec))
    _require_paths(table.file, table.layout)
    joined = labels.join_by_path(table, paths)
    if joined.note:
        _log.warning(joined.note)
    return joined


def _file(spec: LabelFile, root: Path) -> UserFile:
    path = confine(root, spec.file, "images.labels.file")
    return UserFile(path, f"The label file {spec.file!r}", LabelsInvalid, {"field": "images.labels"}, root.resolve())


def _require_paths(file: UserFile, layout: labels.Layout) -> None:
    if layout.chosen.path is None:
        raise file.invalid(
            f"has no column {labels.PATH_COLUMN!r}; its columns are {labels.quoted_list(layout.names)}. Images "
            "are joined to their labels by path: name the column with the paths in `path_column`."
        )


def _columns(spec: LabelFile) -> labels.Columns:
    if not spec.path_column:
        raise LabelsInvalid(
            "`images.labels.path_column` is empty: images are joined to their labels by path, so name the column with "
            "the paths, relative to `images.path`.",
            field="images.labels.path_column",
        )
    return labels.Columns(spec.path_column, spec.label_column)
