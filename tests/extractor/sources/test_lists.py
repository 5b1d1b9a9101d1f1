"""Lists of paths: how they are written, what they may name, what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extractor import pipeline
from extractor.sources import listing
from shoal.errors import NoImages, PathNotFound, SourceInvalid, TooManyFailures
from shoal.jobs.child import JobContext
from shoal.schemas import ImageSource
from shoal.settings import Settings
from shoal.store import Store

from tests.extractor.sources.contract import SourceContract, column, listed, picture, pictures, read


def write(data: Path, images: dict[str, bytes]) -> None:
    for name, content in images.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)


class TestFolder(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        (data / "set").mkdir(exist_ok=True)
        write(data / "set", images)
        return {"path": "set"}


class TestText(SourceContract):
    """Paths relative to the list's folder; classes by folders."""

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        (data / "set").mkdir(exist_ok=True)
        write(data / "set", images)
        (data / "set/list.txt").write_text("".join(f"{name}\n" for name in images))
        return {"path": "set/list.txt"}


class TestCsv(SourceContract):
    """Paths relative to the data root, with a label and a split."""

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        write(data / "images", images)
        (data / "lists").mkdir(exist_ok=True)
        rows = "".join(f"images/{name},{name.split('/')[0]},val\n" for name in images)
        (data / "lists/all.csv").write_text(f"image_path,label,split\n{rows}")
        return {"path": "lists/all.csv"}

    def test_the_column_of_splits_is_read(self, settings: Settings, fields: dict[str, Any]) -> None:
        found = listed(settings, **fields)
        assert set(column(found, "split")) == {"val"}
        assert found.notes["source"]["splits"] == ["val"]
        assert found.notes["source"]["labels"] == "source"
        assert "the column `label`" in found.notes["source"]["message"]


class TestJsonLines(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        write(data, images)
        rows = [{"file_name": name, "class": name.split("/")[0], "caption": "x"} for name in images]
        (data / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"path": "all.jsonl"}


class TestParquet(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        write(data, images)
        table = pa.table({"path": [*images], "label": [name.split("/")[0] for name in images]})
        pq.write_table(table, data / "all.parquet")
        return {"path": "all.parquet", "format": "list"}

    def containers(self, data: Path) -> list[Path]:
        return [path for path in super().containers(data) if path.suffix == ".png"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a b.png\nc.png\n", [("a b.png", None), ("c.png", None)]),
        ("a.png cat\n\nc.png dog\n", [("a.png", "cat"), ("c.png", "dog")]),
        ("a.png,cat\nc.png,dog\n", [("a.png", "cat"), ("c.png", "dog")]),
        ("path\na.png\nc.png\n", [("a.png", None), ("c.png", None)]),
        ("./a.png\nset/c.png\n", [("a.png", None), ("set/c.png", None)]),
    ],
)
def test_text_may_be_written_in_many_ways(
    settings: Settings, folder: Path, text: str, rows: list[tuple[str, str | None]]
) -> None:
    write(folder, pictures(("a.png", "a b.png", "c.png")))
    (folder / "list.txt").write_text(text)
    found = listed(settings, path="set/list.txt", labels="folder")
    labels = column(found, "label") if found.notes["source"]["labels"] == "source" else [None] * len(rows)
    assert list(zip(column(found, "image_path"), labels, strict=True)) == rows


def test_absolute_paths_below_the_root_are_taken(settings: Settings, folder: Path) -> None:
    write(settings.data, pictures(("elsewhere/a.png",)))
    (folder / "list.txt").write_text(f"{settings.data / 'elsewhere/a.png'}\n../elsewhere/a.png\n")
    fields = {"path": "set/list.txt"}
    found = listed(settings, **fields)
    assert column(found, "image_path") == ["../elsewhere/a.png"]
    assert found.notes["not_taken"][0]["reason"] == "listed_twice"
    assert read(settings, found, fields) == [picture(0)]


def test_what_is_missing_becomes_a_row_of_errors(
    settings: Settings, folder: Path, job: Callable[..., JobContext]
) -> None:
    names = tuple(f"{number:03}.png" for number in range(99))
    write(folder, pictures(names))
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in (*names[:50], "gone.png", *names[50:])))
    result = pipeline.extract(job(images={"path": "set/list.txt"}), settings)
    assert (result["rows"], result["failed"]) == (99, 1)
    (error,) = Store(settings.store).embeddings(str(result["embeddings"])).errors().to_pylist()
    assert (error["image_path"], error["code"]) == ("gone.png", "image_missing")
    assert "does not exist" in error["message"]
    strict = job(images={"path": "set/list.txt"}, max_failed_fraction=0.005)
    with pytest.raises(TooManyFailures, match=r"gone\.png \(image_missing\)"):
        pipeline.extract(strict, settings)


def test_an_entry_outside_of_the_root_is_an_error(settings: Settings, folder: Path, tmp_path: Path) -> None:
    write(tmp_path, pictures(("secret.png",)))
    write(folder, pictures(("a.png",)))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "list.txt").write_text(f"a.png\n../../secret.png\n{tmp_path}/secret.png\nlink.png\n")
    fields = {"path": "set/list.txt"}
    found = listed(settings, **fields)
    assert read(settings, found, fields) == [picture(0), *["image_outside_root"] * 3]


def test_a_list_without_a_file_that_exists_is_refused(settings: Settings, folder: Path) -> None:
    (folder / "list.txt").write_text("a.png\nb.png\n")
    message = r"None of the files .* exists, such as 'a.png'"
    with pytest.raises(NoImages, match=message):
        listing.check(ImageSource(path="set/list.txt"), settings.data, deadline=None)
    with pytest.raises(NoImages, match=message):
        listed(settings, path="set/list.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "id,label\n1,cat\n", r"no column 'path'; its columns are 'id', 'label'"),
        ("list.jsonl", '{"id": 1}\n', r"no column 'path'; its columns are 'id'"),
        ("list.jsonl", "{\n", r"line 1"),
        ("list.csv", "path,label\na.png,cat\na.png,dog\n", r"names 'a.png' twice, with different labels .* line 3"),
        ("list.csv", "path,label\na.png,cat,3\n", r"line 2: 3 fields, but the first line has 2"),
        ("list.csv", "path,label\n,cat\n", r"no `path` in line 2"),
        ("list.csv", "path,class,category\na.png,1,2\n", r"several possible columns for the labels"),
        ("list.txt", "", r"is empty"),
        ("list.parquet", "PAR1", r"not a Parquet file"),
    ],
)
def test_what_is_wrong_is_named(settings: Settings, folder: Path, name: str, text: str, message: str) -> None:
    write(folder, pictures(("a.png",)))
    (folder / name).write_text(text)
    with pytest.raises(SourceInvalid, match=message) as caught:
        listed(settings, path=f"set/{name}", format="list")
    assert caught.value.code == "source_invalid"
    assert caught.value.members["field"] == "images.path"


def test_a_pipe_does_not_block(settings: Settings, folder: Path) -> None:
    os.mkfifo(folder / "list.txt")
    with pytest.raises(PathNotFound, match="neither a folder nor a file"):
        listed(settings, path="set/list.txt")


def test_a_file_is_no_folder(settings: Settings, folder: Path) -> None:
    (folder / "list.txt").write_text("a.png\n")
    with pytest.raises(SourceInvalid, match=r"is a file, but `images.format` is `folder`"):
        listed(settings, path="set/list.txt", format="folder")
