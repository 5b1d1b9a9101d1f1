"""Which images are listed, in which order, with which labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extractor.sources import folder as walking
from extractor.sources import listing
from extractor.sources.listing import list_source
from shoal.errors import LabelsInvalid, NoImages, PathNotFound, PathOutsideRoot
from shoal.schemas import ImageSource
from shoal.settings import Settings
from shoal.store import image_id, listing_sha256

check = partial(listing.check, deadline=None)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def source(**fields: Any) -> ImageSource:
    return ImageSource(path="set", **fields)


def listed(settings: Settings, **fields: Any) -> list[str]:
    return list_source(source(**fields), settings.data).table.column("image_path").to_pylist()


def test_paths_are_sorted_and_the_first_folder_is_the_label(settings: Settings, folder: Path) -> None:
    touch(folder, "b/x/2.png", "b/10.png", "a/1.png", "top.png", "a.b/0.png")
    table = list_source(source(split="val"), settings.data).table
    assert table.column("image_path").to_pylist() == ["a.b/0.png", "a/1.png", "b/10.png", "b/x/2.png", "top.png"]
    assert table.column("label").to_pylist() == ["a.b", "a", "b", "b", None]
    assert set(table.column("split").to_pylist()) == {"val"}
    assert table.column("image_id")[1].as_py() == image_id("a/1.png")


def test_labels_can_be_left_out(settings: Settings, folder: Path) -> None:
    touch(folder, "a/1.png")
    assert list_source(source(labels="none"), settings.data).table.column("label").to_pylist() == [None]


def test_the_file_systems_order_does_not_matter(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(folder, *(f"{kind}/{number}.png" for kind in "cab" for number in range(5)))
    before = list_source(source(), settings.data).table
    scan = os.scandir

    class Reversed:
        def __init__(self, path: str) -> None:
            with scan(path) as entries:
                self.entries = list(entries)[::-1]

        def __iter__(self) -> Any:
            return iter(self.entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Reversed)
    assert list_source(source(), settings.data).table.equals(before)


def test_only_images_that_are_not_hidden_are_listed(settings: Settings, folder: Path) -> None:
    endings = ["jpg", "JPEG", "png", "WebP", "bmp", "gif", "tif", "TIFF", "ppm", "pgm"]
    touch(folder, *(f"x.{ending}" for ending in endings))
    touch(folder, ".hidden.png", ".cache/x.png", "notes.txt", "x.png.part", "png", "Thumbs.db")
    assert len(listed(settings)) == len(endings)


def test_an_edited_image_makes_another_listing(settings: Settings, folder: Path) -> None:
    touch(folder, "a/1.png")
    before = listing_sha256(list_source(source(), settings.data).table)
    assert listing_sha256(list_source(source(), settings.data).table) == before
    os.utime(folder / "a/1.png", ns=(1, 1))
    assert listing_sha256(list_source(source(), settings.data).table) != before


def test_odd_names_survive(settings: Settings, folder: Path) -> None:
    touch(folder, "ä b/日本 [1].png", "ä b/new\nline.png", "ä b/'quote\".png")
    assert sorted(listed(settings)) == sorted(["ä b/日本 [1].png", "ä b/new\nline.png", "ä b/'quote\".png"])


def test_a_name_that_is_not_utf8_is_listed_in_its_escaped_form(settings: Settings, folder: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    assert listed(settings) == ["\\udcff.png"]


class TestSymlinks:
    def test_files_and_folders_within_the_root_are_followed(self, settings: Settings, folder: Path) -> None:
        touch(settings.data, "elsewhere/1.png")
        (folder / "a").symlink_to(settings.data / "elsewhere")
        (folder / "b.png").symlink_to(settings.data / "elsewhere/1.png")
        assert listed(settings) == ["a/1.png", "b.png"]

    def test_a_folder_outside_the_root_is_not_entered(self, settings: Settings, folder: Path, tmp_path: Path) -> None:
        touch(tmp_path, "private/1.png")
        (folder / "out").symlink_to(tmp_path / "private")
        touch(folder, "in/1.png")
        assert listed(settings) == ["in/1.png"]

    def test_a_file_outside_the_root_is_listed_to_become_an_error(
        self, settings: Settings, folder: Path, tmp_path: Path
    ) -> None:
        touch(tmp_path, "private.png")
        (folder / "out.png").symlink_to(tmp_path / "private.png")
        assert listed(settings) == ["out.png"]

    def test_loops_end(self, settings: Settings, folder: Path) -> None:
        touch(folder, "a/1.png")
        (folder / "a/up").symlink_to(folder)
        (folder / "a/self").symlink_to(folder / "a")
        assert listed(settings) == ["a/1.png"]

    def test_a_dangling_one_is_listed_to_become_an_error(self, settings: Settings, folder: Path) -> None:
        (folder / "x.png").symlink_to(folder / "nothing.png")
        assert listed(settings) == ["x.png"]


class TestRefusals:
    @pytest.mark.parametrize("refuse", [check, list_source])
    def test_a_folder_without_images(self, settings: Settings, folder: Path, refuse: Callable[..., Any]) -> None:
        touch(folder, "notes.txt", "empty/.keep")
        with pytest.raises(NoImages, match=r"holds no image.*\.jpeg"):
            refuse(source(), settings.data)

    @pytest.mark.parametrize(
        ("path", "error"),
        [("..", PathOutsideRoot), ("/etc", PathOutsideRoot), ("nowhere", PathNotFound), ("file.png", PathNotFound)],
    )
    def test_a_path_that_cannot_be(self, settings: Settings, path: str, error: type[Exception]) -> None:
        touch(settings.data, "file.png")
        with pytest.raises(error):
            check(ImageSource(path=path), settings.data)

    def test_a_symlink_out_of_the_root(self, settings: Settings, tmp_path: Path) -> None:
        touch(tmp_path, "private/1.png")
        (settings.data / "out").symlink_to(tmp_path / "private")
        with pytest.raises(PathOutsideRoot):
            check(ImageSource(path="out"), settings.data)

    def test_the_check_stops_at_the_first_image(
        self, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(folder, *(f"{number}.png" for number in range(50)))
        seen = []
        found = walking._stamp
        monkeypatch.setattr(walking, "_stamp", lambda *args: seen.append(args) or found(*args))
        check(source(), settings.data)
        assert len(seen) == 1


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
            ("path,label\n1.png,a,b,c\n", "cannot be read, line 2: 4 fields under a header of 2"),
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
