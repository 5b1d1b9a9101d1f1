"""Which label belongs to which image: by path, or by order where there is no path anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.errors import ShoalError
from shoal.labels.cells import normal_path
from shoal.labels.columns import Columns
from shoal.labels.reading import LabelTable

_NAMED = 5
"""How many paths an error names."""


@dataclass(frozen=True)
class Joined:
    """The label of each image.

    Attributes
    ----------
    labels
        In the images' order; None where an image has no label.
    note
        A sentence to pass on where paths were joined although they are written otherwise.
    """

    labels: list[str | None]
    note: str | None = None


def join(table: LabelTable, asked: Columns, paths: Sequence[str] | None, rows: int) -> Joined:
    """The label of each of ``rows`` images.

    Parameters
    ----------
    table
        The labels, and the columns that were asked for.
    paths
        The images' paths. None: they have none of their own.

    Raises
    ------
    ShoalError
        The label file's error: only one side has paths, or labels and images do not fit together.
    """
    if asked.in_order or (table.paths is None and paths is None):
        return Joined(labels_by_order(table, rows))
    if table.paths is not None and paths is not None:
        return join_by_path(table, paths)
    column, label = table.layout.chosen.path, table.layout.chosen.label
    in_order = f"Where both have the same order, say so: `FILE::{label}` joins by order."
    if table.paths is not None:
        raise table.file.invalid(
            f"names images in `{column}`, such as {_some(table.paths)}, but the {rows} embeddings come without paths, "
            f"so nothing says which row is which image. {in_order}"
        )
    columns = f" among {', '.join(map(repr, table.layout.names))}" if table.layout.names else ""
    raise table.file.invalid(
        f"has no column of paths{columns}, but the images have paths, such as {_some(paths or ())}. Add a column "
        f"`path`, or name the one that there is: `FILE:PATH_COLUMN:LABEL_COLUMN`. {in_order}"
    )


def labels_by_order(table: LabelTable, rows: int) -> list[str | None]:
    """The n-th label for the n-th of ``rows`` images.

    Raises
    ------
    ShoalError
        There are more or fewer.
    """
    most = len(table.labels)
    if not most - table.blank_tail <= rows <= most:
        first = " (the first line is its header)" if table.layout.header else ""
        raise table.file.invalid(
            f"has {most - table.blank_tail} labels for {rows} embeddings: one is needed for each{first}."
        )
    return table.labels[:rows]


def join_by_path(table: LabelTable, paths: Sequence[str]) -> Joined:
    """The label of each of ``paths``. Rows of the file that no path asks for are of no concern.

    A path is looked for as it stands first, then in its normal form. Where not one is found so, the label file's
    paths may start higher up or lower down than the images': ``1.png`` and ``/data/dogs/1.png`` mean ``dogs/1.png``
    where nothing else can be meant.

    Raises
    ------
    ShoalError
        The label file's error: an image has no row, or rows with different labels.
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
        if asking[own] == 1:  # Nothing says which of several is meant.
            found[at] = normal.get(own)
    note = None
    if paths and all(at is None for at in found):
        found = _rows_by_ending(normal, paths)
        if found[0] is not None:
            own = (table.paths or [""])[found[0]]
            note = f"{table.file} writes {own!r} for {paths[0]!r}: each image was found by the end of its path."
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
    """The rows by their normal paths, but those that belong to an image as they stand."""
    images = set(paths)
    normal = _rows_by(table, ((normal_path(path), at) for path, at in exact.items() if path not in images))
    if normal:
        for path, at in exact.items():
            other = normal.get(normal_path(path), at)
            if path in images and table.labels[other] != table.labels[at]:
                raise _contradiction(table, path, at, other)
    return normal


def _rows_by_ending(normal: dict[str, int], paths: Sequence[str]) -> list[int | None]:
    """The row of each image where one path is the end of the other's.

    All are None unless each image has just one row, and no other image has the same.
    """
    wanted = [normal_path(path).split("/") for path in paths]
    depths = {len(parts) for parts in wanted}
    ends: dict[str, int | None] = {}
    for path, at in normal.items():
        parts = path.split("/")
        for depth in depths:
            if depth < len(parts):
                end = "/".join(parts[-depth:]).lstrip()  # As a normal path starts.
                ends[end] = None if end in ends else at
    found: list[int | None] = []
    for parts in wanted:
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
        f"{table.labels[at]!r} in {table.place(at)}. Keep one row an image.",
        **{table.layout.unit: table.places[at]},
    )


def _missing(table: LabelTable, missing: Sequence[str], images: int) -> ShoalError:
    shown = ", ".join(map(repr, missing[:_NAMED])) + (" and others" if len(missing) > _NAMED else "")
    own = f"rows such as {_some(table.paths)}" if table.paths else "no rows"
    return table.file.invalid(
        f"has no row for {len(missing)} of {images} images, such as {shown}. Its column `{table.layout.chosen.path}` "
        f"has {own}: give each image a row, with its path as the images have it.",
        missing=len(missing),
    )


def _some(paths: Sequence[str]) -> str:
    return repr(paths[0]) if paths else "(none)"
