"""Reading a label file."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.labels.columns import Columns, clean_label, quoted_list, text_of
from shoal.labels.formats import (
    MAX_ROWS,
    Layout,
    blanks_before_quotes,
    detect,
    head_lines,
    json_row,
    open_npy,
    read_rows,
    record_batches,
    sniff_delimiter,
    split_spaced,
    too_many_rows,
)
from shoal.userfiles import UserFile

_MAX_BYTES = 8 << 30

Entry = tuple[int, str | None, str | None]
"""The position of a row in the file, its path and its label."""


@dataclass(frozen=True)
class LabelTable:
    """The content of a label file.

    Attributes
    ----------
    file
        The file; messages name it.
    layout
        Its format.
    labels
        In the file's order; None where an image has no label.
    paths
        The image of each label, as the file writes it. None where the file has no paths.
    places
        The line or row of each label.
    blank_tail
        How many of the last labels come from blank lines, which may be just the end of the file.
    """

    file: UserFile
    layout: Layout
    labels: list[str | None]
    paths: list[str] | None
    places: Sequence[int]
    blank_tail: int = 0

    def place(self, at: int) -> str:
        """Position of the n-th label, such as ``line 3``."""
        return f"{self.layout.unit} {self.places[at]}"


def check_labels(file: UserFile, requested: Columns) -> Layout:
    """The format of a label file; raises the error of `read_labels` where the head of the file already shows it."""
    return detect(file, requested)


def read_labels(file: UserFile, requested: Columns | None = None) -> LabelTable:
    """Read a label file.

    Parameters
    ----------
    file
        CSV with any of the delimiters comma, semicolon, tab and pipe; text with a label a line, or with a path and a
        label; JSON Lines; Parquet; ``.npy`` of ``(n,)``. Text is UTF-8, or UTF-16 or 32 with a byte order mark.
    requested
        The columns; detected by default.

    Raises
    ------
    ShoalError
        The file's error; it names the line or row, the column, and what is expected.
    """
    layout = detect(file, requested or Columns())
    labels: list[str | None] = []
    paths: list[str] | None = [] if layout.chosen.path is not None else None
    places = array("Q")
    known: dict[str, str] = {}  # One string object per distinct label.
    lost: list[int] = []
    for place, path, label in _entries(file, layout):
        if paths is not None:
            if path is None or not path.strip():
                if label is not None:
                    lost.append(place)
                continue
            paths.append(path)
        labels.append(known.setdefault(label, label) if label is not None else None)
        places.append(place)
        if len(labels) > MAX_ROWS:
            raise too_many_rows(file)
    if lost:
        raise file.invalid(
            f"has {len(lost)} rows without a `{layout.chosen.path}`, the first in {layout.unit} {lost[0]}. Fill "
            "in the path or remove the row.",
            **{layout.unit: lost[0]},
            column=layout.chosen.path,
        )
    return LabelTable(file, layout, labels, paths, places, _blank_tail(layout, labels))


def read_csv_columns(file: UserFile, names: Sequence[str], max_bytes: int) -> Iterator[tuple[int, list[str | None]]]:
    """Read some columns of a CSV file whose header names them; other columns are ignored.

    Yields
    ------
    line : int
        The line, counted from 1.
    values : list of str or None
        The cleaned value of each of ``names``; None where it is empty.

    Raises
    ------
    ShoalError
        The file's error: it cannot be read, or lacks one of the columns.
    """
    head = head_lines(file)
    delimiter = sniff_delimiter(head, names)
    with file.lines(max_bytes, deadline=None) as lines:
        found = read_rows(file, lines, delimiter, skip_blanks=blanks_before_quotes(head, delimiter))
        rows = ((line, fields) for line, fields in found if fields)
        header = [name.strip() for name in next(rows, (0, []))[1]]
        if not set(names) <= set(header):
            raise file.invalid(f"needs the columns {' and '.join(names)}; its columns are {quoted_list(header)}.")
        places = [header.index(name) for name in names]
        for line, fields in rows:
            yield line, [clean_label(fields[at]) if at < len(fields) else None for at in places]


def typed_values(file: UserFile, column: str, values: Any, first: int = 0) -> list[str | None]:
    """The values of a typed column as text.

    Parameters
    ----------
    values
        An Arrow array.
    first
        The row of the first of them.

    Raises
    ------
    ShoalError
        The file's error: a value is neither text, a whole number nor a boolean.
    """
    out: list[str | None] = []
    for row, value in enumerate(values.to_pylist(), first):
        try:
            out.append(text_of(value))
        except TypeError as error:
            raise file.error(
                f"{file}, column `{column}`: holds {values.type}, and row {row} is {error}; expected text or whole "
                "numbers.",
                **{**file.members, "column": column, "field": file.members.get("field", column), "row": row},
            ) from error
    return out


def _entries(file: UserFile, layout: Layout) -> Iterator[Entry]:
    if layout.kind == "npy":
        return _npy(file)
    if layout.kind == "parquet":
        return _parquet(file, layout)
    if layout.kind == "delimited":
        return _delimited(file, layout)
    return _lines(file, layout)


def _delimited(file: UserFile, layout: Layout) -> Iterator[Entry]:
    width = len(layout.names)
    label_at = layout.names.index(layout.chosen.label)
    path_at = layout.names.index(layout.chosen.path) if layout.chosen.path is not None else None
    header = layout.header
    with file.lines(_MAX_BYTES, deadline=None) as lines:
        for line, fields in read_rows(file, lines, layout.delimiter, skip_blanks=layout.skip_blanks):
            if header:
                header = not fields  # Blank lines may stand above it.
                continue
            if not fields:
                if width == 1:
                    yield line, None, None
                continue
            if len(fields) != width:
                raise file.invalid(
                    f"cannot be read, line {line}: {len(fields)} fields, but the header has {width}. Quote fields "
                    "that contain the delimiter.",
                    line=line,
                )
            yield line, None if path_at is None else fields[path_at], clean_label(fields[label_at])


def _lines(file: UserFile, layout: Layout) -> Iterator[Entry]:
    """The formats with one entry per line: JSON Lines, a label, or a path and a label."""
    header = layout.header
    with file.lines(_MAX_BYTES, deadline=None) as lines:
        for number, line in enumerate(lines, 1):
            blank = not line.strip()
            if header:
                header = blank
            elif layout.kind == "lines":
                yield number, None, clean_label(line)
            elif not blank and layout.kind == "jsonl":
                yield _json_entry(file, layout, line, number)
            elif not blank:
                pair = split_spaced(line)
                if pair is None:
                    raise file.invalid(
                        f"has no path and label in line {number}, unlike the lines before. Write `PATH LABEL` there.",
                        line=number,
                    )
                yield number, pair[0], clean_label(pair[1])


def _json_entry(file: UserFile, layout: Layout, line: str, number: int) -> Entry:
    row = json_row(file, line, number)
    cells: list[str | None] = []
    for column in (layout.chosen.path, layout.chosen.label):
        try:
            cells.append(text_of(row.get(column)) if column is not None else None)
        except TypeError as error:
            raise file.invalid(
                f"has {error} as `{column}` in line {number}; expected text or whole numbers.",
                line=number,
                column=column,
            ) from error
    return number, cells[0], clean_label(cells[1])


def _parquet(file: UserFile, layout: Layout) -> Iterator[Entry]:
    path, label = layout.chosen.path, layout.chosen.label
    columns = [name for name in (path, label) if name is not None]
    row = 0
    for batch in record_batches(file, columns):
        labels = typed_values(file, label, batch.column(label), row)
        paths = typed_values(file, path, batch.column(path), row) if path is not None else [None] * len(labels)
        for own, text in zip(paths, labels, strict=True):
            yield row, own, clean_label(text)
            row += 1


def _npy(file: UserFile) -> Iterator[Entry]:
    for row, value in enumerate(open_npy(file)):
        yield row, None, clean_label(_npy_text(file, value, row))


def _npy_text(file: UserFile, value: Any, row: int) -> str | None:
    try:
        return text_of(value.decode("utf-8") if isinstance(value, bytes) else np.asarray(value).item())
    except (TypeError, UnicodeDecodeError) as error:
        raise file.invalid(
            f"holds {np.asarray(value).dtype}, and row {row} is {error}; expected text or whole numbers.", row=row
        ) from error


def _blank_tail(layout: Layout, labels: Sequence[str | None]) -> int:
    """Number of blank lines at the end of a file with one label per line."""
    if layout.unit != "line" or layout.chosen.path is not None:
        return 0
    return next((at for at, label in enumerate(reversed(labels)) if label is not None), len(labels))
