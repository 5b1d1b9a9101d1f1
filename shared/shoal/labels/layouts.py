"""How a label file is written, told from its head alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shoal.delimited import blanks_before_quotes, head_lines, read_rows, sniff_delimiter
from shoal.labels.cells import clean_label, looks_like_image, text_of
from shoal.labels.columns import KNOWN, LABEL_COLUMN, PATH_COLUMN, Chosen, Columns, choose
from shoal.store.npy import NpyInvalid, map_npy
from shoal.userfiles import UserFile

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
ENDINGS = "CSV (.csv, .tsv, .txt), JSON Lines (.jsonl), Parquet or .npy"
"""What can be read, as a message says it."""
MOST_ROWS = 50_000_000
_MOST_FOOTER = 64 << 20
_SAMPLED = 100
_SPACED_NAMES = (PATH_COLUMN, LABEL_COLUMN)
_SPACED = re.compile(r"\s*(\S.*?)\s+(\S+)\s*")
_SPACED_WORDS = re.compile(r"\s*(\S.*?\.\w{2,4})\s+(\S.*?)\s*")


@dataclass(frozen=True)
class Layout:
    """How a label file is written.

    Attributes
    ----------
    kind
        ``lines``: a label a line. ``spaced``: a path, blanks and a label a line.
    names
        The columns in their order; without a header line their numbers from 1 on.
    chosen
        Which of them are read.
    header
        Whether the first line names the columns.
    delimiter
        Of ``delimited``.
    skip_blanks
        Whether blanks behind a delimiter are left out, since quotes follow them.
    """

    kind: Kind
    names: tuple[str, ...]
    chosen: Chosen
    header: bool = False
    delimiter: str = ","
    skip_blanks: bool = False

    @property
    def unit(self) -> str:
        """What places in the file are counted in: lines from 1 on, rows from 0 on."""
        return "row" if self.kind in {"parquet", "npy"} else "line"


def detect(file: UserFile, asked: Columns) -> Layout:
    """How ``file`` is written, and which of its columns are read. A file of any size costs little.

    Raises
    ------
    ShoalError
        The file's error: it cannot be read, is no label file, or its columns do not say which is which.
    """
    kind = _KINDS.get(file.path.suffix.lower()) or _kind_of(file)
    if kind == "npy":
        if asked.named:
            raise file.invalid("is an .npy file, which has no columns: leave their names out.")
        open_npy(file)
        return Layout("npy", (), Chosen(None, ""))
    if kind == "parquet":
        return _parquet(file, asked)
    lines = head_lines(file)
    if not any(line.strip() for line in lines):
        raise file.invalid("is empty: it has no columns and no labels.")
    if kind == "jsonl":
        return _jsonl(file, lines, asked)
    return _text(file, lines, asked, one_a_line=kind == "lines")


def open_parquet(file: UserFile, opened: Any) -> pq.ParquetFile:
    """A Parquet file whose footer and number of rows are within limits."""
    size = opened.seek(0, 2)
    opened.seek(max(0, size - 8))
    tail = opened.read(8)
    if len(tail) < 8 or tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > min(size, _MOST_FOOTER):
        raise file.invalid("is no Parquet file, or is cut off.")
    opened.seek(0)
    try:
        parquet = pq.ParquetFile(opened)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise file.invalid(f"is no Parquet file: {error}.") from error
    if parquet.metadata.num_rows > MOST_ROWS:
        raise too_many_rows(file)
    return parquet


def open_npy(file: UserFile) -> NDArray[Any]:
    """The values of an ``.npy``, mapped into memory, once it is clear that they may be labels."""
    with file.open(None) as opened:
        try:
            values = map_npy(opened)
        except NpyInvalid as error:
            raise file.invalid(
                f"is no complete .npy file of plain values: {error}. Save the labels with "
                "`np.save(path, labels.astype(str))`."
            ) from error
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        raise file.invalid(
            f"holds {values.shape} {values.dtype}: labels are one dimension of whole numbers, booleans or text."
        )
    if len(values) > MOST_ROWS:
        raise too_many_rows(file)
    return values


def too_many_rows(file: UserFile) -> Exception:
    """The error of a file with more rows than are read."""
    return file.invalid(f"has more than {MOST_ROWS:,} rows, which is more than is read.")


def split_spaced(line: str) -> tuple[str, str] | None:
    """The path and the label of ``path label``, or None."""
    for pattern in (_SPACED, _SPACED_WORDS):
        found = pattern.fullmatch(line)
        if found and looks_like_image(found[1]):
            return found[1], found[2]
    return None


def json_row(file: UserFile, line: str, number: int) -> dict[str, Any]:
    """The object on one line of JSON Lines."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise file.invalid(f"cannot be read, line {number}: {error}.", line=number) from error
    if not isinstance(row, dict):
        raise file.invalid(f"cannot be read, line {number}: each line is one JSON object.", line=number)
    return row


def _kind_of(file: UserFile) -> Kind:
    """The kind of a file whose name does not say it."""
    head = file.head()
    if (b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff"))) or head.lstrip()[:1] in {b"[", b"{"}:
        raise file.invalid(f"is no label file: labels are read from {ENDINGS}.")
    return "delimited"


def _parquet(file: UserFile, asked: Columns) -> Layout:
    with file.open(None) as opened:
        parquet = open_parquet(file, opened)
        schema = parquet.schema_arrow
        names = tuple(each.name for each in schema if not pa.types.is_nested(each.type))
        texts = [each.name for each in schema if may_be_text(each.type) and schema.names.count(each.name) == 1]
        samples: dict[str, list[str]] = {}
        try:
            if texts and parquet.metadata.num_rows:
                batch = next(parquet.iter_batches(_SAMPLED, row_groups=[0], columns=texts), None)
                samples = {name: _present(batch.column(name).to_pylist()) for name in texts} if batch else {}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise file.invalid(f"is no Parquet file: {error}.") from error
        return Layout("parquet", names, choose(file, names, asked, samples))


def may_be_text(kind: pa.DataType) -> bool:
    """Whether a column of Arrow's type ``kind`` may hold text: as such, as bytes, or as categories."""
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binaries = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_it(value) for is_it in (*texts, *binaries))


def _jsonl(file: UserFile, lines: Sequence[str], asked: Columns) -> Layout:
    rows = [json_row(file, line, at) for at, line in enumerate(lines[:_SAMPLED], 1) if line.strip()]
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    samples = {name: _present([row.get(name) for row in rows]) for name in names}
    return Layout("jsonl", names, choose(file, names, asked, samples))


def _text(file: UserFile, lines: Sequence[str], asked: Columns, *, one_a_line: bool) -> Layout:
    filled = [line for line in lines if line.strip()]
    if all(map(split_spaced, filled[:_SAMPLED])) and not any(mark in filled[0] for mark in ",;\t|"):
        return Layout("spaced", _SPACED_NAMES, choose(file, _SPACED_NAMES, asked, {}))
    first = filled[0].strip()
    delimiter = "\t" if file.path.suffix.lower() in {".tsv", ".tab"} and "\t" in first else None
    delimiter = delimiter or sniff_delimiter(lines, KNOWN | {name.casefold() for name in asked.named})
    skip_blanks = blanks_before_quotes(lines, delimiter)
    rows = list(_head_rows(file, lines, delimiter, skip_blanks))
    header = _is_header(rows[0], asked)
    names = tuple(name.strip() for name in rows[0]) if header else tuple(str(at + 1) for at in range(len(rows[0])))
    body = [row for row in rows[header:] if len(row) == len(names)]
    samples = {name: _present([row[at] for row in body]) for at, name in enumerate(names)}
    if one_a_line and not _is_table(names, samples, header):
        if all(map(split_spaced, filled[:_SAMPLED])):  # The paths have what else would be delimiters.
            return Layout("spaced", _SPACED_NAMES, choose(file, _SPACED_NAMES, asked, {}))
        # Labels may well have commas in them.
        header = first.casefold() in KNOWN
        return Layout("lines", ("1",), choose(file, ("1",), asked, {}), header)
    chosen = choose(file, names, asked, samples)
    if header and len(filled) == 1:
        raise file.invalid("has a header line and no rows below it.")
    return Layout("delimited", names, chosen, header, delimiter, skip_blanks)


def _head_rows(file: UserFile, lines: Sequence[str], delimiter: str, skip_blanks: bool) -> Iterator[list[str]]:
    """The first rows with fields. One that goes on behind the head is left out."""
    rows = read_rows(file, iter(lines), delimiter, skip_blanks=skip_blanks)
    for number in range(_SAMPLED):
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


def _is_header(first: Sequence[str], asked: Columns) -> bool:
    """Whether the first row names the columns: it does unless it holds an image, or nothing but numbers."""
    cells = [cell.strip() for cell in first]
    if any(cell in asked.named or cell.casefold() in KNOWN for cell in cells):
        return True
    return not any(map(looks_like_image, cells)) and not all(map(_is_number, cells))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not clean_label(text)
    return True


def _is_table(names: Sequence[str], samples: Mapping[str, Sequence[str]], header: bool) -> bool:
    """Whether a ``.txt`` of such columns is a table, not a label a line."""
    if len(names) < 2:
        return False
    known = header and any(name.casefold() in KNOWN for name in names)
    return known or any(values and all(map(looks_like_image, values)) for values in samples.values())


def _present(values: Sequence[Any]) -> list[str]:
    """The values that are there, as text; those that are no text at all are no sample of paths."""
    out = []
    for value in values:
        try:
            text = text_of(value)
        except TypeError:
            text = "?"
        if text is not None and text.strip():
            out.append(text)
    return out
