"""Tables in text: CSV and its kin, with the delimiter found from the file's head."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Collection, Iterator, Sequence

from shoal.userfiles import HEAD_BYTES, UserFile, text_encoding

DELIMITERS = (",", "\t", ";", "|")
"""The most usual first."""
_SNIFFED = 100
"""Rows that tell the delimiter."""

Row = tuple[int, list[str]]
"""The number of the line that a row ends in, counted from 1, and its fields."""


def head_lines(file: UserFile) -> list[str]:
    """The first complete lines of a text file of any size, each with its end."""
    head = file.head(HEAD_BYTES)
    whole = len(head) < HEAD_BYTES
    try:
        text = codecs.getincrementaldecoder(text_encoding(head))().decode(head, final=whole)
    except UnicodeError as error:
        raise file.invalid(f"cannot be read: it is no text in UTF-8 ({error}). Save it as UTF-8.") from error
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)
    return lines if whole or len(lines) < 2 else lines[:-1]


def sniff_delimiter(lines: Sequence[str], known: Collection[str] = ()) -> str:
    """The delimiter of a table that starts with ``lines``.

    Parameters
    ----------
    known
        Names of columns in lower case. Where more than one delimiter would do, the one that makes such a column does.

    Returns
    -------
    str
        The delimiter that splits all rows into the same number of fields, more than one; else the one that splits the
        first row into the most; a comma where none splits it.
    """

    def fitness(delimiter: str) -> tuple[bool, bool, int]:
        table = _parsed(lines, delimiter)
        header = table[0] if table else []
        even = len(header) > 1 and all(len(row) == len(header) for row in table)
        named = len(header) > 1 and any(field.strip().casefold() in known for field in header)
        return named, even, len(header)

    return max(DELIMITERS, key=fitness)  # The first of equals.


def blanks_before_quotes(lines: Sequence[str], delimiter: str) -> bool:
    """Whether a table that starts with ``lines`` has blanks between a delimiter and a quote: ``"a", "b"``."""
    return any(re.search(rf'{re.escape(delimiter)} +"', line) for line in lines)


def read_rows(file: UserFile, lines: Iterator[str], delimiter: str, *, skip_blanks: bool = False) -> Iterator[Row]:
    """The rows of a table; a blank line is a row without fields.

    Parameters
    ----------
    skip_blanks
        Leave out blanks behind a delimiter, as `blanks_before_quotes` says.

    Raises
    ------
    ShoalError
        The file's error: quotes do not close, or a field is longer than any text is.
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


def _parsed(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The first rows as far as they can be read."""
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
