"""The same labels, whatever file they are in; or a sentence that says what is wrong with it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.errors import LabelsInvalid
from shoal.labels import Columns, check_labels, clean_label, read_labels
from shoal.labels.formats import MAX_ROWS
from shoal.userfiles import HEAD_BYTES, UserFile

from tests.shared.labels.conftest import MakeFile

PAIRS = [("a/1.png", "dog"), ("b/2.png", None), ("c, d/3.png", "1")]


def read(file: UserFile, *columns: str | None) -> list[tuple[str | None, str | None]]:
    table = read_labels(file, Columns(*columns))
    paths: Sequence[str | None] = table.paths or [None] * len(table.labels)
    return list(zip(paths, table.labels, strict=True))


CSV = 'path,label\na/1.png,dog \nb/2.png,nan\n"c, d/3.png",1.0\n'
WRITTEN: dict[str, Any] = {
    "comma.csv": CSV,
    "crlf.csv": CSV.replace("\n", "\r\n"),
    "blank lines.csv": "\n" + CSV.replace("\n", "\n\n"),
    "mark.csv": CSV.encode("utf-8-sig"),
    "utf16.csv": CSV.encode("utf-16"),
    "semicolon.csv": "path;label\na/1.png;dog\nb/2.png;\nc, d/3.png;1\n",
    "tab.csv": "path\tlabel\na/1.png\tdog\nb/2.png\tNaN\nc, d/3.png\t1.0\n",
    "tab.tsv": "path\tlabel\na/1.png\tdog\nb/2.png\t \nc, d/3.png\t1\n",
    "pipe.txt": "path|label\na/1.png|dog\nb/2.png|\nc, d/3.png|1\n",
    "other.dat": CSV,
    "no header.csv": 'a/1.png,dog\nb/2.png,\n"c, d/3.png",1\n',
    "no header, label first.csv": 'dog,a/1.png\n,b/2.png\n1,"c, d/3.png"\n',
    "names.csv": "ID;File Name;Class\n7;a/1.png;dog\n8;b/2.png;\n9;c, d/3.png;1\n",
    "lines.jsonl": '{"label": "dog", "path": "a/1.png"}\n\n{"path": "b/2.png"}\n{"path": "c, d/3.png", "label": 1.0}\n',
    "hugging face.jsonl": "".join(json.dumps({"file_name": p, "category": c}) + "\n" for p, c in PAIRS),
    "text.parquet": {"path": [p for p, _ in PAIRS], "label": ["dog", "nan", " 1.0"], "score": [0.5] * 3},
    "dictionary.parquet": {
        "image_path": [p for p, _ in PAIRS],
        "class": pa.array(["dog", None, "1"]).dictionary_encode(),
    },
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_labels_are_read_from_any_file(make_file: MakeFile, name: str) -> None:
    file = make_file(name, WRITTEN[name])
    check_labels(file, Columns())
    assert read(file) == PAIRS


NUMBERS = ["3", None, "5", "5"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("y.csv", "label\n3\n\n5\n5\n"),
        ("y.csv", "class\n3.0\nnan\n5.0\n5.0\n"),
        ("y.csv", "3\n\n5\n5\n"),
        ("y.csv", "id,label\n0,3.0\n1,\n2,5.0\n3,5.0\n"),
        ("y.csv", ",label\n0,3.0\n1,\n2,5.0\n3,5.0\n"),
        ("y.txt", "3\n\n5\n5\n"),
        ("y.txt", "label\n3\n\n5\n5"),
        ("y.tsv", "label\n3\n\n5\n5\n"),
        ("y.jsonl", '{"label": 3}\n{"label": null}\n{"label": 5.0}\n{"label": "5"}\n'),
        ("y.jsonl", '{"y": 3, "n": [1]}\n{"y": NaN}\n{"y": 5.0}\n{"y": "5"}\n'),
        ("y.parquet", {"label": [3, None, 5, 5]}),
        ("y.parquet", {"label": [3.0, None, 5.0, 5.0], "other": list("abcd")}),
        ("y.parquet", {"label": [3.0, float("nan"), 5.0, 5.0]}),
        ("y.npy", np.array([3, np.nan, 5, 5])),
        ("y.npy", np.array(["3", "nan", "5 ", "5.0"])),
        ("y.npy", np.array([b"3", b"", b"5", b"5"])),
    ],
)
def test_labels_without_paths_keep_their_order(make_file: MakeFile, name: str, content: Any) -> None:
    assert read(make_file(name, content)) == [(None, label) for label in NUMBERS]


def test_true_and_false_are_the_same_everywhere(make_file: MakeFile) -> None:
    for name, content in (
        ("y.npy", np.array([True, False])),
        ("y.parquet", {"label": [True, False]}),
        ("y.jsonl", '{"label": true}\n{"label": false}\n'),
        ("y.csv", "label\nTrue\nFalse\n"),
    ):
        assert read(make_file(name, content)) == [(None, "True"), (None, "False")]


def test_labels_a_line_may_have_commas_in_them(make_file: MakeFile) -> None:
    labels = ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark"]
    assert read(make_file("y.txt", "\n".join(labels))) == [(None, label) for label in labels]


@pytest.mark.parametrize("name", ["val.txt", "val.csv"])
def test_a_path_and_a_label_may_have_blanks_between_them(make_file: MakeFile, name: str) -> None:
    file = make_file(name, "ILSVRC2012_val_00000001.JPEG 65\nmy dogs/2.JPEG\t970\n".replace("\t", " "))
    assert read(file) == [("ILSVRC2012_val_00000001.JPEG", "65"), ("my dogs/2.JPEG", "970")]


def test_a_label_after_a_path_may_be_of_more_words(make_file: MakeFile) -> None:
    file = make_file("val.txt", "my dogs/2.png golden retriever\na,b/1.JPEG cat\n")
    assert read(file) == [("my dogs/2.png", "golden retriever"), ("a,b/1.JPEG", "cat")]


def test_quotes_may_follow_blanks(make_file: MakeFile) -> None:
    file = make_file("y.csv", '"path", "label"\n"a,b.png", "tench, Tinca tinca"\n"c.png",  "cat"\n')
    assert read(file) == [("a,b.png", "tench, Tinca tinca"), ("c.png", "cat")]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["1", "2", None]).dictionary_encode(),
        pa.array([b"1", b"2", None]),
        pa.array([1, 2, None], pa.decimal128(5, 2)),
        pa.array([1.0, 2.0, float("nan")]),
        pa.array(["1.0", " 2 ", ""], pa.string_view()),
    ],
)
def test_parquets_types_give_the_same_labels(make_file: MakeFile, labels: pa.Array) -> None:
    paths = pa.array([b"1.png", b"2.png", b"3.png"])
    for column in (paths, paths.cast(pa.string()), paths.cast(pa.string()).dictionary_encode()):
        file = make_file("y.parquet", {"photo": column, "label": labels})
        assert read(file) == [("1.png", "1"), ("2.png", "2"), ("3.png", None)]


@pytest.mark.parametrize(
    "labels", [pa.array([b"\xff"]), pa.array(["1.5"]).cast(pa.float64()).cast(pa.decimal128(5, 2))]
)
def test_what_is_no_label_in_parquet_is_named(make_file: MakeFile, labels: pa.Array) -> None:
    with pytest.raises(LabelsInvalid, match=r"row 0 is (bytes that are not UTF-8 text|the fraction 1\.50)"):
        read(make_file("y.parquet", {"path": ["1.png"], "label": labels}))


class TestColumns:
    @pytest.mark.parametrize(
        ("header", "columns", "expected"),
        [
            ("image_path,path,label", (), (1, 2)),
            ("image_path,path,label", ("path",), (1, 2)),
            ("path,image_path,label", ("image_path",), (1, 2)),
            ("image_path,file,label", (), (0, 2)),
            ("Path,path,Label,label", (), (1, 3)),
            ("Path,path,Label,label", ("path", "label"), (1, 3)),
            ("label,filename", (), (1, 0)),
            ("IMG,Category", (), (0, 1)),
            ("img path,species", (), (0, 1)),
            ("file,label,class", (), (0, 1)),
            ("a,b,label", (), (None, 2)),
            ("a,b,c", ("a", "c"), (0, 2)),
            ("path,b,label", ("b",), (1, 2)),
            ("path,label,breed", (None, "breed"), (0, 2)),
            ("path,label,breed", ("", "breed"), (None, 2)),
            ("path,label", ("",), (None, 1)),
        ],
    )
    def test_they_are_found_or_named(
        self, make_file: MakeFile, header: str, columns: tuple[str | None, ...], expected: tuple[int | None, int]
    ) -> None:
        cells = [f"x{at}" for at in range(len(header.split(",")))]
        path, label = expected
        found = read(make_file("y.csv", f"{header}\n{','.join(cells)}\n"), *columns)
        assert found == [(None if path is None else cells[path], cells[label])]

    def test_a_column_with_nothing_but_images_holds_the_paths(self, make_file: MakeFile) -> None:
        for name, content in (
            ("y.csv", "id,photo,label\n7,1.png,a\n8,x/2.JPG,b\n"),
            ("y.jsonl", '{"photo": "1.png", "c": "a"}\n{"photo": "x/2.JPG", "c": "b"}\n'),
            ("y.parquet", {"photo": ["1.png", "x/2.JPG"], "c": ["a", "b"]}),
        ):
            assert read(make_file(name, content)) == [("1.png", "a"), ("x/2.JPG", "b")]

    @pytest.mark.parametrize(
        ("content", "columns", "message"),
        [
            (
                "filename,img,label\n1,2,3\n",
                (),
                r"the images' paths: 'filename', 'img'.*columns 'filename', 'img', 'lab",
            ),
            ("path,class,category\n1,2,3\n", (), r"the labels: 'class', 'category'"),
            ("path,b,c\n1,2,3\n", (), r"no column 'label'; its columns are 'path', 'b', 'c'"),
            ("path,label\n1,2\n", ("file",), r"no column 'file'; its columns are 'path', 'label'"),
            ("path,label\n1,2\n", ("path", "breed"), r"no column 'breed'; its columns are 'path', 'label'"),
            ("path,label,label\n1,2,3\n", (), r"2 columns 'label'"),
            ("1.png,a,b\n2.png,a,b\n", (), r"its columns are '1', '2', '3'"),
        ],
    )
    def test_what_is_missing_or_ambiguous_lists_the_columns(
        self, make_file: MakeFile, content: str, columns: tuple[str, ...], message: str
    ) -> None:
        for act in (check_labels, read_labels):
            with pytest.raises(LabelsInvalid, match=message):
                act(make_file("y.csv", content), Columns(*columns))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("y.csv", "", "is empty"),
        ("y.csv", " \n\n", "is empty"),
        ("y.csv", "path,label\n\n", "a header line and no rows"),
        ("y.csv", b"path,label\n\xff,a\n", "UTF-8"),
        ("y.csv", "path,label\n1.png,a\n1.png\n", "line 3: 1 fields, but the header has 2"),
        ("y.csv", 'path,label\n"1.png,a\n', "line 2"),
        ("y.csv", "path,label\n1.png,a\n ,b\n", r"1 rows without a `path`, the first in line 3"),
        ("y.jsonl", '{"label": 1}\n[1]\n', "line 2: expected one JSON object per line"),
        ("y.jsonl", '{"label": 1}\n{"label": 1\n', "line 2"),
        ("y.jsonl", '{"label": ' + "[" * 50_000, "line 1"),
        ("y.jsonl", '{"label": [1]}\n', "a list as `label` in line 1"),
        ("y.jsonl", '{"label": 0.5}\n', "the fraction 0.5 as `label` in line 1"),
        ("y.parquet", "PAR1", "not a Parquet"),
        ("y.parquet", b"PAR1" + b"x" * 50 + b"\xff\xff\xff\x7fPAR1", "not a Parquet"),
        ("y.parquet", {"label": [0.0, 0.5]}, "column `label`: holds double, and row 1 is the fraction 0.5"),
        ("y.npy", "PAR1", "not a complete .npy"),
        ("y.npy", np.zeros((2, 2), int), r"\(2, 2\) int64"),
        ("y.npy", np.array([1, 0.5]), "row 1 is the fraction 0.5"),
        ("y.npy", np.array([b"\xff"]), "row 0"),
        ("y.npy", np.zeros(2, complex), "complex"),
        ("y.json", "[]", "not a label file. Supported formats: CSV"),
        ("y.xlsx", b"PK\3\4\0\0", "not a label file"),
    ],
)
def test_what_is_wrong_is_named(make_file: MakeFile, name: str, content: Any, message: str) -> None:
    with pytest.raises(LabelsInvalid, match=message) as refused:
        read_labels(make_file(name, content))
    assert name in refused.value.detail


def test_an_npy_has_no_columns(make_file: MakeFile) -> None:
    with pytest.raises(LabelsInvalid, match="no columns"):
        read_labels(make_file("y.npy", np.arange(3)), Columns("a", "b"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["y.csv", "y.txt", "y.jsonl", "y.parquet", "y.npy", "y.pipe"])
@pytest.mark.parametrize("act", [check_labels, read_labels])
def test_a_pipe_and_a_device_are_refused_at_once(tmp_path: Path, name: str, act: Any) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path = tmp_path / name
        make(path)
        with pytest.raises(LabelsInvalid, match="not a regular file"):
            act(UserFile(path, name, LabelsInvalid), Columns())
        path.unlink()


@pytest.mark.parametrize("name", ["y.csv", "y.txt", "y.jsonl", "y.parquet", "y.npy"])
@pytest.mark.parametrize("act", [check_labels, read_labels])
def test_a_file_without_ends_of_lines_does_not_fill_the_memory(tmp_path: Path, name: str, act: Any) -> None:
    path = tmp_path / name
    path.write_bytes(b"a" * HEAD_BYTES)
    os.truncate(path, 4 << 30)
    file = UserFile(path, name, LabelsInvalid)
    if act is check_labels:
        with suppress(LabelsInvalid):  # Its head may well look like labels.
            check_labels(file, Columns())
    else:
        with pytest.raises(LabelsInvalid, match=name):
            read_labels(file)


def test_the_check_reads_no_more_than_the_head(make_file: MakeFile) -> None:
    file = make_file("y.csv", "path,label\n" + "1.png,a\n" * HEAD_BYTES + "broken\n")
    check_labels(file, Columns())
    with pytest.raises(LabelsInvalid, match=rf"line {HEAD_BYTES + 2}: 1 fields"):
        read_labels(file)


def test_a_small_file_that_stands_for_very_many_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "y.parquet"
    with pq.ParquetWriter(path, pa.schema([("label", pa.null())])) as writer:
        for _ in range(6):
            writer.write_table(pa.table({"label": pa.nulls(MAX_ROWS // 5)}))
    with pytest.raises(LabelsInvalid, match="more than 50,000,000 rows"):
        check_labels(UserFile(path, error=LabelsInvalid), Columns())


_cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6)


@given(
    st.lists(st.tuples(_cells, _cells), min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_is_written_as_csv_json_and_parquet_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str, encoding: str
) -> None:
    rows = [(f"{at}{path}.png", label) for at, (path, label) in enumerate(rows)]
    folder = tmp_path_factory.mktemp("labels")
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("path", "label"), *rows])
    (folder / "y.csv").write_bytes(text.getvalue().encode(encoding))
    (folder / "y.jsonl").write_text("".join(json.dumps({"path": p, "label": c}) + "\n" for p, c in rows))
    pq.write_table(pa.table({"path": [p for p, _ in rows], "label": [c for _, c in rows]}), folder / "y.parquet")
    expected = [(path, clean_label(label)) for path, label in rows]
    for name in ("y.csv", "y.jsonl", "y.parquet"):
        assert read(UserFile(folder / name)) == expected


@given(st.binary(max_size=60), st.sampled_from([".csv", ".tsv", ".txt", ".jsonl", ".parquet", ".npy", ""]))
def test_no_bytes_give_anything_but_labels_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("labels") / f"y{suffix}"
    for start in (b"", b"path,label\n", b'{"label": 1}\n'):
        path.write_bytes(start + content)
        try:
            table = read_labels(UserFile(path, error=LabelsInvalid))
        except LabelsInvalid:
            continue
        assert len(table.labels) == len(table.places)
