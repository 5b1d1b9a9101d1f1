"""Reading a list of images: a path or an address a row, with a label, a split and a checksum where it has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa

from shoal.errors import ShoalError
from shoal.labels.columns import (
    KNOWN,
    checksum_column,
    clean_label,
    columns_of_list,
    is_address,
    looks_like_image,
    text_of,
)
from shoal.labels.formats import (
    HEAD_ROWS,
    blanks_before_quotes,
    head_lines,
    json_row,
    may_be_text,
    open_parquet,
    present,
    read_rows,
    record_batches,
    sniff_delimiter,
    split_spaced,
)
from shoal.labels.reading import typed_values
from shoal.userfiles import UserFile

Kind = Literal["lines", "spaced", "delimited", "jsonl", "parquet"]
MAX_BYTES = 8 << 30
_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}


class ListRow(NamedTuple):
    """A row: its line, counted from 1, or in Parquet its row, counted from 0; and what it says."""

    place: int
    path: str
    label: str | None
    split: str | None
    checksum: str | None = None
    """Of the file, such as ``sha256:…``."""


@dataclass(frozen=True)
class ListLayout:
    """How a list is written.

    Attributes
    ----------
    kind
        ``lines``: a path a line. ``spaced``: a path, blanks and a label a line.
    names
        The columns, in their order.
    path, label, split, checksum
        The columns that are read. That of checksums is called as its algorithm is.
    header
        Whether the first line names the columns.
    """

    kind: Kind
    names: tuple[str, ...]
    path: str
    label: str | None = None
    split: str | None = None
    checksum: str | None = None
    header: bool = False
    delimiter: str = ","
    skip_blanks: bool = False

    @property
    def unit(self) -> str:
        """The unit of a row's place."""
        return "row" if self.kind == "parquet" else "line"

    @property
    def columns(self) -> list[str | None]:
        """The columns that are read: paths, labels, splits, checksums."""
        return [self.path, self.label, self.split, self.checksum]


def detect(file: UserFile) -> ListLayout:
    """Detect how a list is written, from its head.

    Raises
    ------
    ShoalError
        The file's error: it cannot be read, is empty, or has no column of paths. It lists the columns.
    """
    kind = _KINDS.get(file.path.suffix.lower())
    if kind == "parquet":
        return _parquet_layout(file)
    lines = [line for line in head_lines(file) if line.strip()]
    if not lines:
        raise file.invalid("is empty: it names no image.")
    if kind == "jsonl":
        objects = [json_row(file, line, at) for at, line in enumerate(lines[:HEAD_ROWS], 1)]
        names = tuple(dict.fromkeys(name for each in objects for name in each))
        samples = {name: present([each.get(name) for each in objects]) for name in names}
        return ListLayout("jsonl", names, *columns_of_list(file, names, samples), checksum_column(names))
    return _text_layout(file, lines)


def rows(file: UserFile, layout: ListLayout) -> Iterator[ListRow]:
    """The rows of a list. Rows without a path are left out if they are blank.

    Raises
    ------
    ShoalError
        The file's error: a line cannot be read, or has a label and no path.
    """
    algorithm = (layout.checksum or "").casefold()
    for place, cells in _cells(file, layout):
        path, label, split = cells[0], clean_label(cells[1]), clean_label(cells[2])
        if path is not None and path.strip():
            checksum = f"{algorithm}:{cells[3].strip().lower()}" if cells[3] and cells[3].strip() else None
            written = path.strip()
            # An address keeps its backslashes, which its server may mean.
            written = written if is_address(written) else written.replace("\\", "/")
            yield ListRow(place, written, label, split, checksum)
        elif label is not None:
            raise file.invalid(
                f"has no `{layout.path}` in {layout.unit} {place}. Fill in the path or remove the row.",
                **{layout.unit: place},
                column=layout.path,
            )


def _text_layout(file: UserFile, lines: Sequence[str]) -> ListLayout:
    head = [line.strip() for line in lines[:HEAD_ROWS]]
    delimited = file.path.suffix.lower() in {".csv", ".tsv"}
    if not delimited and all(map(_is_path, head)):
        return ListLayout("lines", ("path",), "path")
    if not delimited and all(map(split_spaced, head)):
        return ListLayout("spaced", ("path", "label"), "path", "label")
    delimiter = sniff_delimiter(lines, ("path", "label"))
    skip = blanks_before_quotes(lines, delimiter)
    table = [fields for _, fields in _head_rows(file, lines, delimiter, skip) if fields]
    first = [cell.strip() for cell in table[0]]
    header = not any(looks_like_image(cell) or is_address(cell) for cell in first)
    if header and len(first) == 1 and not delimited:
        return ListLayout("lines", ("path",), "path", header=first[0].casefold() in KNOWN)
    names = tuple(first) if header else tuple(str(at + 1) for at in range(len(first)))
    body = [each for each in table[header:] if len(each) == len(names)]
    samples = {name: present([each[at] for each in body]) for at, name in enumerate(names)}
    path, label, split = columns_of_list(file, names, samples)
    if not header and len(names) == 2:
        label = next(name for name in names if name != path)
    checksum = checksum_column(names) if header else None
    return ListLayout("delimited", names, path, label, split, checksum, header, delimiter, skip)


def _is_path(line: str) -> bool:
    if is_address(line) and not any(mark.isspace() for mark in line):
        return not any(_ends_address(line, mark) for mark in ",;|")
    return looks_like_image(line) and not any(mark in line for mark in ",;\t|")


def _ends_address(line: str, mark: str) -> bool:
    """Whether a label may follow an address: `https://example.org/1.jpg,cat`, not `https://example.org/a,b/1.jpg`."""
    address, found, label = line.rpartition(mark)
    return bool(found) and looks_like_image(address) and not looks_like_image(label)


def _head_rows(file: UserFile, lines: Sequence[str], delimiter: str, skip: bool) -> Iterator[tuple[int, list[str]]]:
    """The first rows, without one that the end of the head cuts off."""
    found = read_rows(file, iter(lines[:HEAD_ROWS]), delimiter, skip_blanks=skip)
    for number in range(HEAD_ROWS):
        try:
            row = next(found, None)
        except ShoalError:
            if not number:
                raise
            return
        if row is None:
            return
        yield row


def _parquet_layout(file: UserFile) -> ListLayout:
    with file.open(None) as opened:
        parquet = open_parquet(file, opened)
        schema = parquet.schema_arrow
        names = tuple(each.name for each in schema if not pa.types.is_nested(each.type))
        texts = [each.name for each in schema if may_be_text(each.type)]
        try:
            head = next(parquet.iter_batches(HEAD_ROWS, columns=texts), None) if texts else None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise file.invalid(f"is not a complete Parquet file: {error}.") from error
        samples = {name: present(head.column(name).to_pylist()) for name in texts} if head is not None else {}
    return ListLayout("parquet", names, *columns_of_list(file, names, samples), checksum_column(names))


def _cells(file: UserFile, layout: ListLayout) -> Iterator[tuple[int, list[str | None]]]:
    if layout.kind == "parquet":
        yield from _parquet_cells(file, layout)
        return
    with file.lines(MAX_BYTES, deadline=None) as lines:
        if layout.kind == "delimited":
            yield from _delimited_cells(file, layout, lines)
            return
        header = layout.header
        for number, line in enumerate(lines, 1):
            if header or not line.strip():
                header = header and not line.strip()
                continue
            if layout.kind == "jsonl":
                yield number, _json_cells(file, layout, line, number)
            elif layout.kind == "lines":
                yield number, [line, None, None, None]
            else:
                yield number, [*_spaced(file, line, number), None, None]


def _delimited_cells(
    file: UserFile, layout: ListLayout, lines: Iterator[str]
) -> Iterator[tuple[int, list[str | None]]]:
    header = layout.header
    places = [None if name is None else layout.names.index(name) for name in layout.columns]
    for line, fields in read_rows(file, lines, layout.delimiter, skip_blanks=layout.skip_blanks):
        if header or not fields:
            header = header and not fields
            continue
        if len(fields) != len(layout.names):
            raise file.invalid(
                f"cannot be read, line {line}: {len(fields)} fields, but the first line has {len(layout.names)}. Quote "
                "fields that contain the delimiter.",
                line=line,
            )
        yield line, [None if at is None else fields[at] for at in places]


def _json_cells(file: UserFile, layout: ListLayout, line: str, number: int) -> list[str | None]:
    row = json_row(file, line, number)
    try:
        return [None if name is None else text_of(row.get(name)) for name in layout.columns]
    except TypeError as error:
        raise file.invalid(
            f"has {error} as a path, label or split in line {number}; expected text.", line=number
        ) from error


def _spaced(file: UserFile, line: str, number: int) -> tuple[str, str]:
    pair = split_spaced(line)
    if pair is None:
        raise file.invalid(
            f"has no path and label in line {number}, unlike the lines before. Write `PATH LABEL` there.", line=number
        )
    return pair


def _parquet_cells(file: UserFile, layout: ListLayout) -> Iterator[tuple[int, list[str | None]]]:
    named = [name for name in layout.columns if name is not None]
    first = 0
    for batch in record_batches(file, named):
        columns = {name: typed_values(file, name, batch.column(name), first) for name in named}
        for at in range(batch.num_rows):
            yield first + at, [None if name is None else columns[name][at] for name in layout.columns]
        first += batch.num_rows
