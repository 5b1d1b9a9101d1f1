"""The delimiter of a table is found, and its rows keep the numbers of their lines."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.errors import FileUnusable
from shoal.labels.formats import DELIMITERS, head_lines, read_rows, sniff_delimiter
from shoal.userfiles import HEAD_BYTES, UserFile


def rows_of(path: Path) -> list[tuple[int, list[str]]]:
    file = UserFile(path)
    delimiter = sniff_delimiter(head_lines(file))
    with file.lines(deadline=None) as lines:
        return list(read_rows(file, lines, delimiter))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label\na,b\n", ","),
        ("path;label\na,b;c\n", ";"),
        ("path\tlabel\na;b,c\td\n", "\t"),
        ("path|label\na|b\n", "|"),
        ('path;label\n"a;b";c\n', ";"),
        ("label\na\nb\n", ","),
        ("", ","),
        ("note;x,label\na,b\n", ","),
    ],
)
def test_the_delimiter_is_found(text: str, expected: str) -> None:
    assert sniff_delimiter(text.splitlines(keepends=True), {"label", "path"}) == expected


_fields = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(
    st.lists(st.lists(_fields, min_size=3, max_size=3), min_size=1, max_size=8),
    st.sampled_from(DELIMITERS),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_a_csv_writer_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str, encoding: str
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["a", "path", "c"], *rows])
    path = tmp_path_factory.mktemp("t") / "x.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    assert [fields for _, fields in rows_of(path)] == [["a", "path", "c"], *rows]


def test_rows_keep_the_numbers_of_their_lines(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n\n"two\nlines",c\nd,e')
    assert rows_of(tmp_path / "x.csv") == [(1, ["a", "b"]), (2, []), (4, ["two\nlines", "c"]), (5, ["d", "e"])]


@pytest.mark.parametrize("content", ['a,b\n"c,d\n', 'a,b\n"c"x,d\n', "a,b\n" + '"' + "c\n" * 200_000])
def test_quotes_that_do_not_close_are_an_error_that_names_the_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(FileUnusable, match=r"x\.csv cannot be read, line \d+: ") as refused:
        rows_of(tmp_path / "x.csv")
    assert refused.value.members["line"] > 1


def test_the_head_ends_with_a_complete_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("ä,b\r\n" * HEAD_BYTES)
    lines = head_lines(UserFile(path))
    assert set(lines) == {"ä,b\r\n"}
    assert HEAD_BYTES - 20 < len("".join(lines).encode()) <= HEAD_BYTES
    path.write_bytes(b"a,b\n" * 5 + b"\xff")
    with pytest.raises(FileUnusable, match="UTF-8"):
        head_lines(UserFile(path))
