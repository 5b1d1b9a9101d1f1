"""Joining labels to images: by path, or by order where neither side has paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.errors import ShoalError
from shoal.labels.columns import Columns, normal_path
from shoal.labels.reading import LabelTable

_MAX_LISTED = 5
"""How many paths an error lists."""


@dataclass(frozen=True)
class Joined:
    """The label of each image.

    Attributes
    ----------
    labels
        In the images' order; None where an image has no label.
    note
        A warning for the user where paths were matched although the two sides write them differently.
    """

    labels: list[str | None]
    note: str | None = None


def join(table: LabelTable, requested: Columns, paths: Sequence[str] | None, rows: int) -> Joined:
    """The label of each of ``rows`` images.

    Parameters
    ----------
    table
        The labels.
    paths
        The images' paths; None where the images have no paths.

    Raises
    ------
    ShoalError
        The label file's error: only one side has paths, or an image has no label or two.
    """
    if requested.in_order or (table.paths is None and paths is None):
        return Joined(labels_by_order(table, rows))
    if table.paths is not None and paths is not None:
        return join_by_path(table, paths)
    column, label = table.layout.chosen.path, table.layout.chosen.label
    in_order = f"If both are in the same order, join by order with `FILE::{label}`."
    if table.paths is not None:
        raise table.file.invalid(
            f"names images in `{column}`, such as {_some(table.paths)}, but the {rows} embeddings have no paths, so "
            f"labels cannot be matched to rows. {in_order}"
        )
    columns = f" among {', '.join(map(repr, table.layout.names))}" if table.layout.names else ""
    raise table.file.invalid(
        f"has no column of paths{columns}, but the images have paths, such as {_some(paths or ())}. Add a column "
        f"`path`, or name the existing one: `FILE:PATH_COLUMN:LABEL_COLUMN`. {in_order}"
    )


def labels_by_order(table: LabelTable, rows: int) -> list[str | None]:
    """The n-th label for the n-th of ``rows`` images.

    Raises
    ------
    ShoalError
        The file has more or fewer labels.
    """
    most = len(table.labels)
    if not most - table.blank_tail <= rows <= most:
        header = " (the first line is its header)" if table.layout.header else ""
        raise table.file.invalid(
            f"has {most - table.blank_tail} labels for {rows} embeddings{header}. Give one label per embedding."
        )
    return table.labels[:rows]


def join_by_path(table: LabelTable, paths: Sequence[str]) -> Joined:
    """The label of each of ``paths``. Rows of other images are ignored.

    A path is matched literally first, then in its normal form. If no path matches, paths are matched by their ends:
    ``1.png`` and ``/data/dogs/1.png`` match ``dogs/1.png`` where the match is unambiguous.

    Raises
    ------
    ShoalError
        The label file's error: an image has no row, or has rows with different labels.
    """
    if len(once := list(dict.fromkeys(paths))) < len(paths):
        joined = join_by_path(table, once)
        by_path = dict(zip(once, joined.labels, strict=True))
        return Joined([by_path[path] for path in paths], joined.note)
    exact = _rows_by(table, ((path, at) for at, path in enumerate(table.paths or ())))
    normal = _normal_rows(table, exact, paths)
    found = [exact.get(path) for path in paths]
    by_normal = [at for at, row in enumerate(found) if row is None]
    asking = Counter(normal_path(paths[at]) for at in by_normal)
    for at in by_normal:
        own = normal_path(paths[at])
        if asking[own] == 1:  # Several images share this normal form: ambiguous.
            found[at] = normal.get(own)
    note = None
    if paths and all(at is None for at in found):
        found = _rows_by_ending(normal, paths)
        if found[0] is not None:
            own = (table.paths or [""])[found[0]]
            note = f"{table.file} writes {own!r} for {paths[0]!r}: each image was matched by the end of its path."
    missing = [path for path, at in zip(paths, found, strict=True) if at is None]
    if missing:
        raise _missing(table, missing, len(paths))
    return Joined([table.labels[at] for at in found if at is not None], note)


def _rows_by(table: LabelTable, rows: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The first row of each path; a later one must have the same label."""
    first: dict[str, int] = {}
    for path, at in rows:
        before = first.setdefault(path, at)
        if table.labels[before] != table.labels[at]:
            raise _contradiction(table, path, before, at)
    return first


def _normal_rows(table: LabelTable, exact: dict[str, int], paths: Sequence[str]) -> dict[str, int]:
    """The rows by their normal paths, without those that match an image literally."""
    images = set(paths)
    normal = _rows_by(table, ((normal_path(path), at) for path, at in exact.items() if path not in images))
    if normal:
        for path, at in exact.items():
            other = normal.get(normal_path(path), at)
            if path in images and table.labels[other] != table.labels[at]:
                raise _contradiction(table, path, at, other)
    return normal


def _rows_by_ending(normal: dict[str, int], paths: Sequence[str]) -> list[int | None]:
    """The row of each image, matched where one path is the end of the other.

    All are None unless each image matches exactly one row, and no two images match the same.
    """
    split_paths = [normal_path(path).split("/") for path in paths]
    depths = {len(parts) for parts in split_paths}
    ends: dict[str, int | None] = {}
    for path, at in normal.items():
        parts = path.split("/")
        for depth in depths:
            if depth < len(parts):
                end = "/".join(parts[-depth:]).lstrip()  # A normal path has no leading space.
                ends[end] = None if end in ends else at
    found: list[int | None] = []
    for parts in split_paths:
        whole = "/".join(parts)
        shorter = ["/".join(parts[at:]).lstrip() for at in range(1, len(parts))]
        rows = [normal[path] for path in shorter if path in normal]
        longer = [ends[whole]] if whole in ends else []
        found.append(one[0] if len(one := [*rows, *longer]) == 1 else None)
    alone = None not in found and len(set(found)) == len(found)
    return found if alone else [None] * len(found)


def _contradiction(table: LabelTable, path: str, before: int, at: int) -> ShoalError:
    return table.file.invalid(
        f"has more than one row for {path!r}: its label is {table.labels[before]!r} in {table.place(before)} and "
        f"{table.labels[at]!r} in {table.place(at)}. Keep one row per image.",
        **{table.layout.unit: table.places[at]},
    )


def _missing(table: LabelTable, missing: Sequence[str], images: int) -> ShoalError:
    shown = ", ".join(map(repr, missing[:_MAX_LISTED])) + (" and others" if len(missing) > _MAX_LISTED else "")
    rows = f"rows such as {_some(table.paths)}" if table.paths else "no rows"
    return table.file.invalid(
        f"has no row for {len(missing)} of {images} images, such as {shown}. Its column `{table.layout.chosen.path}` "
        f"has {rows}. Add a row for each image, with the path as the images have it.",
        missing=len(missing),
    )


def _some(paths: Sequence[str]) -> str:
    return repr(paths[0]) if paths else "(none)"
