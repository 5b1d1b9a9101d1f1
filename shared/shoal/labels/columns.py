"""Which column of a label file holds the images' paths, and which the labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.labels.cells import looks_like_image
from shoal.userfiles import UserFile

PATH_COLUMN = "path"
LABEL_COLUMN = "label"
"""The columns that a request means unless it names others. Where they are missing, the obvious ones are looked for."""

_BEST_PATHS = (PATH_COLUMN, "image_path")
"""Taken before any other, in this order."""
_PATHS = frozenset(
    [
        *("image_path", "image_file", "image_filename", "image_name", "image"),
        *("img_path", "img_file", "img_filename", "img_name", "img"),
        *("path", "file_path", "filepath", "relative_path", "rel_path", "relpath"),
        *("file_name", "filename", "file", "key", "url"),
    ]
)
_LABELS = frozenset(
    [
        *("label", "labels", "label_name", "category", "target", "y"),
        *("class", "classes", "class_name", "classname", "class_label"),
    ]
)
KNOWN = _PATHS | _LABELS
"""Names that a header is told by, in lower case."""
_NAMED = 20


@dataclass(frozen=True)
class Columns:
    """What a request says of the columns.

    Attributes
    ----------
    path
        Column with the images' paths. None: it is looked for. Empty: there is none; labels are in the images' order.
    label
        Column with the labels. None or empty: it is looked for.
    """

    path: str | None = None
    label: str | None = None

    @property
    def in_order(self) -> bool:
        """Whether the request says that labels are in the images' order."""
        return self.path == ""

    @property
    def named(self) -> list[str]:
        """The columns that must be there, since the request names them and nothing stands in for them."""
        wanted = (self.path, PATH_COLUMN), (self.label, LABEL_COLUMN)
        return [name for name, default in wanted if name and name != default]


@dataclass(frozen=True)
class Chosen:
    """The columns of a file that are read. ``path`` is None where there are no paths."""

    path: str | None
    label: str


def choose(file: UserFile, names: Sequence[str], asked: Columns, samples: Mapping[str, Sequence[str]]) -> Chosen:
    """Choose among the columns ``names`` of ``file``.

    Parameters
    ----------
    names
        The columns, in their order.
    asked
        What the request says.
    samples
        Some values of each column, as text: a column with nothing but names of image files holds paths, whatever it
        is called.

    Raises
    ------
    ShoalError
        The file's error: a named column is missing, or more than one would do. It lists the columns.
    """
    for name in asked.named:
        _require_one(file, names, name)
    path = None if asked.in_order else _path(file, names, asked, samples)
    return Chosen(path, _label(file, names, asked, path))


def _path(file: UserFile, names: Sequence[str], asked: Columns, samples: Mapping[str, Sequence[str]]) -> str | None:
    # A request that names no column says `path`: both are the same, whatever else there is.
    wanted = asked.path or PATH_COLUMN
    if wanted in names:
        _require_one(file, names, wanted)
        return wanted
    others = [name for name in names if name != (asked.label or LABEL_COLUMN)]
    for key in _BEST_PATHS:
        best = [name for name in others if _key(name) == key]
        if len(best) > 1:
            raise _ambiguous(file, names, best, "the images' paths", "path")
        if best:
            return best[0]
    found = [name for name in others if _key(name) in _PATHS]
    if not found:
        found = [name for name in others if samples.get(name) and all(map(looks_like_image, samples[name]))]
    if len(found) > 1:
        raise _ambiguous(file, names, found, "the images' paths", "path")
    return found[0] if found else None


def _label(file: UserFile, names: Sequence[str], asked: Columns, path: str | None) -> str:
    wanted = asked.label or LABEL_COLUMN
    if wanted in names:
        _require_one(file, names, wanted)
        return wanted
    others = [name for name in names if name != path]
    found = [name for name in others if _key(name) == LABEL_COLUMN]
    found = found or [name for name in others if _key(name) in _LABELS]
    if len(found) > 1:
        raise _ambiguous(file, names, found, "the labels", "label")
    if found:
        return found[0]
    if len(others) == 1:
        return others[0]
    raise file.invalid(
        f"has no column {LABEL_COLUMN!r}; its columns are {listed(names)}. Name the one with the labels: "
        "`FILE:PATH_COLUMN:LABEL_COLUMN`, in a request `label_column`.",
        column=LABEL_COLUMN,
    )


def is_path_name(name: str) -> bool:
    """Whether a column of that name holds the images' paths, as far as a name tells."""
    return _key(name) in _PATHS


def listed(names: Sequence[str]) -> str:
    """Columns as a message lists them."""
    shown = ", ".join(repr(name) for name in names[:_NAMED]) or "(none)"
    return f"{shown}, …" if len(names) > _NAMED else shown


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _require_one(file: UserFile, names: Sequence[str], name: str) -> None:
    count = names.count(name)
    if count != 1:
        has = "no column" if not count else f"{count} columns"
        raise file.invalid(f"has {has} {name!r}; its columns are {listed(names)}.", column=name)


def _ambiguous(file: UserFile, names: Sequence[str], found: Sequence[str], what: str, which: str) -> Exception:
    return file.invalid(
        f"has more than one column that may hold {what}: {listed(found)}. Name one of its columns {listed(names)}: "
        f"`FILE:PATH_COLUMN:LABEL_COLUMN`, in a request `{which}_column`.",
        column=found[0],
    )
