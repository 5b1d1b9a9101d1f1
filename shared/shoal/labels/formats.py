"""The format of a label file, detected from its head; and delimited text such as CSV."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shoal.labels.columns import (
    KNOWN,
    LABEL_COLUMN,
    PATH_COLUMN,
    Chosen,
    Columns,
    choose,
    clean_label,
    is_address,
    looks_like_image,
    text_of,
)
from shoal.store.npy import NpyInvalid, map_npy
from shoal.userfiles import HEAD_BYTES, UserFile, text_encoding

Kind = Literal["delimited", "lines", "spaced", "jsonl", "parquet", "npy"]

_KINDS: Mapping[str, Kind] = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".tab": "delimited",
    ".txt": "lines",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npy": "npy",
}
SUPPORTED = "CSV (.csv, .tsv, .txt), JSON Lines (.jsonl), Parquet or .npy"
"""The formats, for messages."""
MAX_ROWS = 50_000_000
_MAX_FOOTER = 64 << 20
HEAD_ROWS = 100
"""How many rows columns are detected from."""
_BATCH = 1 << 16
_SPACED_NAMES = (PATH_COLUMN, LABEL_COLUMN)
_SPACED = re.compile(r"\s*(\S.*?)\s+(\S+)\s*")
_SPACED_WORDS = re.compile(r"\s*(\S.*?\.\w{2,4})\s+(\S.*?)\s*")
DELIMITERS = (",", "\t", ";", "|")
"""In order of preference."""
_SNIFFED = 100
"""How many rows the delimiter is detected from."""

Row = tuple[int, list[str]]
"""The number of the line that a row ends in, counted from 1, and its fields."""


@dataclass(frozen=True)
class Layout:
    """How a label file is written.

    Attributes
    ----------
    kind
        ``lines``: a label a line. ``spaced``: a path, blanks and a label a line.
    names
        The columns in order; without a header line their numbers, from 1.
    chosen
        The columns that are read.
    header
        Whether the first line names the columns.
    delimiter
        Of ``delimited``.
    skip_blanks
        Whether spaces after a delimiter are skipped, as in ``"a", "b"``.
    """

    kind: Kind
    names: tuple[str, ...]
    chosen: Chosen
    header: bool = False
    delimiter: str = ","
    skip_blanks: bool = False

    @property
    def unit(self) -> str:
        """The unit of a position in the file: lines are counted from 1, rows from 0."""
        return "row" if self.kind in {"parquet", "npy"} else "line"


def detect(file: UserFile, requested: Columns) -> Layout:
    """Detect how ``file`` is written and choose its columns. Reads only the head of the file.

    Raises
    ------
    ShoalError
        The file's error: it cannot be read, is not a label file, or its columns are ambiguous.
    """
    kind = _KINDS.get(file.path.suffix.lower()) or _kind_of(file)
    if kind == "npy":
        if requested.named:
            raise file.invalid("is an .npy file, which has no columns: remove the column names.")
        open_npy(file)
        return Layout("npy", (), Chosen(None, ""))
    if kind == "parquet":
        return _parquet(file, requested)
    lines = head_lines(file)
    if not any(line.strip() for line in lines):
        raise file.invalid("is empty: it has no columns and no labels.")
    if kind == "jsonl":
        return _jsonl(file, lines, requested)
    return _text(file, lines, requested, one_a_line=kind == "lines")


def open_parquet(file: UserFile, opened: Any) -> pq.ParquetFile:
    """Open a Parquet file whose footer and number of rows are within limits."""
    size = opened.seek(0, 2)
    opened.seek(max(0, size - 8))
    tail = opened.read(8)
    if len(tail) < 8 or tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > min(size, _MAX_FOOTER):
        raise file.invalid("is not a Parquet file, or is truncated. Write it again.")
    opened.seek(0)
    try:
        parquet = pq.ParquetFile(opened)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise file.invalid(f"is not a Parquet file: {error}.") from error
    if parquet.metadata.num_rows > MAX_ROWS:
        raise too_many_rows(file)
    return parquet


def record_batches(file: UserFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file's ``columns``, some at once."""
    with file.open(None) as opened:
        batches = open_parquet(file, opened).iter_batches(_BATCH, columns=list(columns))
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise file.invalid(f"is not a complete Parquet file: {error}.") from error
            if batch is None:
                return
            yield batch


def open_npy(file: UserFile) -> NDArray[Any]:
    """Map the labels of an ``.npy`` file into memory, if their shape and dtype are those of labels."""
    with file.open(None) as opened:
        try:
            values = map_npy(opened)
        except NpyInvalid as error:
            raise file.invalid(
                f"is not a complete .npy file of plain values: {error}. Save the labels with "
                "`np.save(path, labels.astype(str))`."
            ) from error
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        raise file.invalid(
            f"holds {values.shape} {values.dtype}; expected a 1-D array of whole numbers, booleans or text."
        )
    if len(values) > MAX_ROWS:
        raise too_many_rows(file)
    return values


def too_many_rows(file: UserFile) -> Exception:
    """The error for a file with too many rows."""
    return file.invalid(f"has more than {MAX_ROWS:,} rows, the limit for a label file.")


def split_spaced(line: str) -> tuple[str, str] | None:
    """The path and the label of a line ``path label``; None for any other line."""
    for pattern in (_SPACED, _SPACED_WORDS):
        found = pattern.fullmatch(line)
        if found and (looks_like_image(found[1]) or _is_one_address(found[1])):
            return found[1], found[2]
    return None


def _is_one_address(text: str) -> bool:
    return is_address(text) and len(text.split()) == 1


def json_row(file: UserFile, line: str, number: int) -> dict[str, Any]:
    """The object on one line of JSON Lines."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise file.invalid(f"cannot be read, line {number}: {error}.", line=number) from error
    if not isinstance(row, dict):
        raise file.invalid(f"cannot be read, line {number}: expected one JSON object per line.", line=number)
    return row


def _kind_of(file: UserFile) -> Kind:
    """The kind of a file with an unknown extension."""
    head = file.head()
    if (b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff"))) or head.lstrip()[:1] in {b"[", b"{"}:
        raise file.invalid(f"is not a label file. Supported formats: {SUPPORTED}.")
    return "delimited"


def _parquet(file: UserFile, requested: Columns) -> Layout:
    with file.open(None) as opened:
        parquet = open_parquet(file, opened)
        schema = parquet.schema_arrow
        names = tuple(each.name for each in schema if not pa.types.is_nested(each.type))
        texts = [each.name for each in schema if may_be_text(each.type) and schema.names.count(each.name) == 1]
        samples: dict[str, list[str]] = {}
        try:
            if texts and parquet.metadata.num_rows:
                batch = next(parquet.iter_batches(HEAD_ROWS, row_groups=[0], columns=texts), None)
                samples = {name: present(batch.column(name).to_pylist()) for name in texts} if batch else {}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise file.invalid(f"is not a Parquet file: {error}.") from error
        return Layout("parquet", names, choose(file, names, requested, samples))


def may_be_text(kind: pa.DataType) -> bool:
    """Whether a column of Arrow's type ``kind`` may hold text: as such, as bytes, or as categories."""
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binaries = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_it(value) for is_it in (*texts, *binaries))


def _jsonl(file: UserFile, lines: Sequence[str], requested: Columns) -> Layout:
    rows = [json_row(file, line, at) for at, line in enumerate(lines[:HEAD_ROWS], 1) if line.strip()]
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    samples = {name: present([row.get(name) for row in rows]) for name in names}
    return Layout("jsonl", names, choose(file, names, requested, samples))


def _text(file: UserFile, lines: Sequence[str], requested: Columns, *, one_a_line: bool) -> Layout:
    filled = [line for line in lines if line.strip()]
    if all(map(split_spaced, filled[:HEAD_ROWS])) and not any(mark in filled[0] for mark in ",;\t|"):
        return Layout("spaced", _SPACED_NAMES, choose(file, _SPACED_NAMES, requested, {}))
    first = filled[0].strip()
    delimiter = "\t" if file.path.suffix.lower() in {".tsv", ".tab"} and "\t" in first else None
    delimiter = delimiter or sniff_delimiter(lines, KNOWN | {name.casefold() for name in requested.named})
    skip_blanks = blanks_before_quotes(lines, delimiter)
    rows = list(_head_rows(file, lines, delimiter, skip_blanks))
    header = _is_header(rows[0], requested)
    names = tuple(name.strip() for name in rows[0]) if header else tuple(str(at + 1) for at in range(len(rows[0])))
    body = [row for row in rows[header:] if len(row) == len(names)]
    samples = {name: present([row[at] for row in body]) for at, name in enumerate(names)}
    if one_a_line and not _is_table(names, samples, header):
        if all(map(split_spaced, filled[:HEAD_ROWS])):  # The paths contain characters that look like delimiters.
            return Layout("spaced", _SPACED_NAMES, choose(file, _SPACED_NAMES, requested, {}))
        # A label may contain commas.
        header = first.casefold() in KNOWN
        return Layout("lines", ("1",), choose(file, ("1",), requested, {}), header)
    chosen = choose(file, names, requested, samples)
    if header and len(filled) == 1:
        raise file.invalid("has a header line and no rows.")
    return Layout("delimited", names, chosen, header, delimiter, skip_blanks)


def _head_rows(file: UserFile, lines: Sequence[str], delimiter: str, skip_blanks: bool) -> Iterator[list[str]]:
    """The first rows with fields, without one that is cut off by the end of the head."""
    rows = read_rows(file, iter(lines), delimiter, skip_blanks=skip_blanks)
    for number in range(HEAD_ROWS):
        try:
            row = next(rows, None)
        except file.error:
            if not number:
                raise
            return
        if row is None:
            return
        if row[1]:
            yield row[1]


def _is_header(first: Sequence[str], requested: Columns) -> bool:
    """Whether the first row names the columns: unless it holds an image's path or only numbers, it does."""
    cells = [cell.strip() for cell in first]
    if any(cell in requested.named or cell.casefold() in KNOWN for cell in cells):
        return True
    return not any(map(looks_like_image, cells)) and not all(map(_is_number, cells))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not clean_label(text)
    return True


def _is_table(names: Sequence[str], samples: Mapping[str, Sequence[str]], header: bool) -> bool:
    """Whether a ``.txt`` file with these columns is a table rather than one label per line."""
    if len(names) < 2:
        return False
    known = header and any(name.casefold() in KNOWN for name in names)
    return known or any(values and all(map(looks_like_image, values)) for values in samples.values())


def present(values: Sequence[Any]) -> list[str]:
    """The values that are not missing, as text; a value that is not text counts as ``?``."""
    out = []
    for value in values:
        try:
            text = text_of(value)
        except TypeError:
            text = "?"
        if text is not None and text.strip():
            out.append(text)
    return out


def head_lines(file: UserFile) -> list[str]:
    """The first complete lines of a text file of any size, each with its end."""
    head = file.head(HEAD_BYTES)
    whole = len(head) < HEAD_BYTES
    try:
        text = codecs.getincrementaldecoder(text_encoding(head))().decode(head, final=whole)
    except UnicodeError as error:
        raise file.invalid(f"cannot be read: it is not UTF-8 text ({error}). Save it as UTF-8.") from error
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)
    return lines if whole or len(lines) < 2 else lines[:-1]


def sniff_delimiter(lines: Sequence[str], known: Collection[str] = ()) -> str:
    """The delimiter of a table that starts with ``lines``.

    Parameters
    ----------
    known
        Names of columns in lower case. A delimiter that yields such a column is preferred.

    Returns
    -------
    str
        The delimiter that splits all rows into the same number of fields, more than one; else the one that splits the
        first row into the most fields; a comma if none splits it.
    """

    def fitness(delimiter: str) -> tuple[bool, bool, int]:
        table = _parsed_rows(lines, delimiter)
        header = table[0] if table else []
        even = len(header) > 1 and all(len(row) == len(header) for row in table)
        named = len(header) > 1 and any(field.strip().casefold() in known for field in header)
        return named, even, len(header)

    return max(DELIMITERS, key=fitness)  # The first of equals.


def blanks_before_quotes(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the table has spaces between a delimiter and a quote: ``"a", "b"``."""
    return any(re.search(rf'{re.escape(delimiter)} +"', line) for line in lines)


def read_rows(file: UserFile, lines: Iterator[str], delimiter: str, *, skip_blanks: bool = False) -> Iterator[Row]:
    """Read the rows of a table; a blank line is a row without fields.

    Parameters
    ----------
    skip_blanks
        Skip spaces after a delimiter; see `blanks_before_quotes`.

    Raises
    ------
    ShoalError
        The file's error: a quote is not closed, or a field is too long.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=skip_blanks)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise file.invalid(f"cannot be read, line {reader.line_num}: {error}.", line=reader.line_num) from error
        yield reader.line_num, fields


def _parsed_rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The first rows, up to the first one that cannot be read."""
    rows: list[list[str]] = []
    try:
        skip = blanks_before_quotes(lines, delimiter)
        for row in csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=skip):
            if row:
                rows.append(row)
            if len(rows) == _SNIFFED:
                break
    except csv.Error:
        pass
    return rows
