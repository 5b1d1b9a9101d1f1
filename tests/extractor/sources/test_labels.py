"""The label file of a request, joined to its images by path."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extractor.sources import listing
from extractor.sources.listing import list_source
from shoal.errors import LabelsInvalid, PathNotFound, PathOutsideRoot
from shoal.schemas import ImageSource
from shoal.settings import Settings

check = partial(listing.check, deadline=None)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def source(**fields: object) -> ImageSource:
    return ImageSource.model_validate({"path": "set", **fields})


class TestLabelFile:
    @pytest.fixture(autouse=True)
    def _images(self, folder: Path) -> None:
        touch(folder, "1.png", "x/2.png")

    def labels(self, settings: Settings, file: str = "labels.csv", **columns: str) -> list[str | None]:
        table = list_source(source(labels={"file": file, **columns}), settings.data).table
        return table.column("label").to_pylist()

    def test_csv(self, settings: Settings) -> None:
        (settings.data / "labels.csv").write_text("path,label,n\n./x/2.png,dog,1\n1.png,007,2\nother.png,bird,3\n")
        assert self.labels(settings) == ["007", "dog"]

    def test_parquet_with_numbers_and_columns_of_other_names(self, settings: Settings) -> None:
        pq.write_table(pa.table({"f": ["1.png", "x/2.png"], "c": [3, None]}), settings.data / "l.parquet")
        assert self.labels(settings, "l.parquet", path_column="f", label_column="c") == ["3", None]

    def test_any_delimiter_and_the_obvious_columns(self, settings: Settings) -> None:
        (settings.data / "labels.csv").write_text("Class;File Name\ndog;x/2.png\n1.0;1.png\n", "utf-8-sig")
        check(source(labels={"file": "labels.csv"}), settings.data)
        assert self.labels(settings) == ["1", "dog"]

    def test_a_folder_with_a_blank_before_its_name_finds_its_row(self, settings: Settings, folder: Path) -> None:
        touch(folder, " dir/3.png")
        (settings.data / "labels.csv").write_text("path,label\n dir/3.png,cat\n1.png,dog\nx/2.png,dog\n")
        assert self.labels(settings) == ["cat", "dog", "dog"]

    def test_labels_without_paths_are_never_joined_by_order(self, settings: Settings) -> None:
        (settings.data / "labels.csv").write_text("label\na\nb\n")
        for act in (check, list_source):
            with pytest.raises(LabelsInvalid, match=r"no column 'path'; its columns are 'label'\."):
                act(source(labels={"file": "labels.csv"}), settings.data)
        with pytest.raises(LabelsInvalid, match="path_column` is empty"):
            self.labels(settings, path_column="")

    @pytest.mark.timeout(30)
    def test_a_pipe_does_not_block(self, settings: Settings) -> None:
        os.mkfifo(settings.data / "labels.csv")
        for act in (check, list_source):
            with pytest.raises(LabelsInvalid, match="named pipe") as refused:
                act(source(labels={"file": "labels.csv"}), settings.data)
            assert str(settings.data) not in refused.value.detail

    def test_an_empty_label_is_none(self, settings: Settings) -> None:
        (settings.data / "labels.csv").write_text("path,label\n1.png,\nx/2.png,dog\n")
        assert self.labels(settings) == [None, "dog"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("path,note,n\n1.png,a,b\n", "no column 'label'; its columns are 'path', 'note', 'n'"),
            ("path,label\n1.png,a\n1.png,b\nx/2.png,c\n", "more than one row for '1.png'"),
            (
                "path,label\n1.png,a\n./1.png,b\nx/2.png,c\n",
                "more than one row for '1.png'.* in line 2 and 'b' in line 3",
            ),
            ("path,label\n1.png,a\n", "no row for 1 of 2 images, such as 'x/2.png'.* rows such as '1.png'"),
            ("path,label\n,a\n1.png,b\nx/2.png,c\n", "1 rows without a `path`"),
            ("", "is empty"),
            ("path,label\n1.png,a,b,c\n", "cannot be read, line 2: 4 fields, but the header has 2"),
        ],
    )
    def test_what_is_wrong_is_named(self, settings: Settings, content: str, message: str) -> None:
        (settings.data / "labels.csv").write_text(content)
        with pytest.raises(LabelsInvalid, match=message):
            self.labels(settings)

    def test_a_missing_column_is_found_by_the_quick_check(self, settings: Settings) -> None:
        (settings.data / "labels.csv").write_text("path,note,n\n")
        with pytest.raises(LabelsInvalid, match="no column 'label'"):
            check(source(labels={"file": "labels.csv"}), settings.data)

    @pytest.mark.parametrize(("file", "error"), [("../x.csv", PathOutsideRoot), ("none.csv", PathNotFound)])
    def test_the_file_must_lie_below_the_root(self, settings: Settings, file: str, error: type[Exception]) -> None:
        with pytest.raises(error):
            check(source(labels={"file": file}), settings.data)
