"""Which images are listed, in which order, under which names, with which labels and splits of their folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from extractor.sources import folder as folder_module
from extractor.sources import listing
from extractor.sources.listing import SourceFacts, list_source
from extractor.sources.names import candidate_paths, is_text, listed_names
from hypothesis import given
from hypothesis import strategies as st
from shoal.errors import LabelsAmbiguous, LabelsInvalid, NoImages, PathNotFound, PathOutsideRoot
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
        found = folder_module._stamp
        monkeypatch.setattr(folder_module, "_stamp", lambda *args: seen.append(args) or found(*args))
        check(source(), settings.data)
        assert len(seen) == 1


_NAME = st.lists(st.sampled_from([b"a", b"\\", b"udcff", b"xff", b"\xff", b"\xfe", "é".encode(), b"\xed\xa0\x80"])).map(
    lambda parts: os.fsdecode(b"".join(parts) or b"-")
)


@given(st.lists(_NAME, unique=True, max_size=8))
def test_names_become_distinct_text_and_text_stays(paths: list[str]) -> None:
    names = listed_names(paths)
    assert len(set(names)) == len(paths)
    assert all(is_text(name) for name in names)
    assert [name for name, path in zip(names, paths, strict=True) if is_text(path)] == list(filter(is_text, paths))


@given(_NAME)
def test_a_name_leads_back_to_its_file(path: str) -> None:
    assert path in candidate_paths(listed_names([path])[0])


@pytest.fixture
def read(settings: Settings, folder: Path) -> Any:
    """``read("cat/0.png", …, labels=…)``: (label, split) of each path, and what is said of the source."""

    def read(*paths: str, **fields: Any) -> tuple[dict[str, tuple[str | None, str | None]], SourceFacts]:
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"x")
        found = list_source(ImageSource(path="set", **fields), settings.data)
        columns = (found.table.column(name).to_pylist() for name in ("image_path", "label", "split"))
        return {path: (label, split) for path, label, split in zip(*columns, strict=True)}, found.notes["source"]

    return read


def test_plain_class_folders(read: Any) -> None:
    rows, said = read("cat/0.png", "cat/deep/1.png", "dog/0.png", "top.png")
    assert rows == {
        "cat/0.png": ("cat", None),
        "cat/deep/1.png": ("cat", None),
        "dog/0.png": ("dog", None),
        "top.png": (None, None),
    }
    assert (said["splits"], said["wrapper"], said["labels"]) == ([], None, "folder")
    assert said["message"] == "The first folder below `path` is the class, such as `cat`, `dog`."


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "TEST"), ("training", "validation", "test"), ("train",)])
def test_splits_are_no_classes(read: Any, names: tuple[str, ...]) -> None:
    rows, said = read(*(f"{name}/{label}/0.png" for name in names for label in ("cat", "dog")))
    assert rows == {f"{name}/{label}/0.png": (label, name) for name in names for label in ("cat", "dog")}
    assert said["splits"] == sorted(names)
    assert "are the splits" in said["message"]


def test_the_requests_own_split_wins(read: Any) -> None:
    rows, _ = read("train/cat/0.png", "val/cat/0.png", split="mine")
    assert rows == {"train/cat/0.png": ("cat", "mine"), "val/cat/0.png": ("cat", "mine")}


def test_splits_without_classes_give_no_labels(read: Any) -> None:
    rows, said = read("train/0.png", "val/1.png")
    assert rows == {"train/0.png": (None, "train"), "val/1.png": (None, "val")}
    assert said["labels"] == "none"


@pytest.mark.parametrize(
    ("paths", "wrapper", "labels"),
    [
        (["images/cat/0.png", "images/dog/1.png"], "images", ["cat", "dog"]),
        (["my-set/x/cat/0.png", "my-set/x/dog/1.png"], "my-set/x", ["cat", "dog"]),
        (["images/0.png", "images/1.png"], "images", [None, None]),
        (["cat/0.png", "cat/1.png"], None, ["cat", "cat"]),
    ],
)
def test_a_folder_that_holds_all_is_skipped(read: Any, paths: list[str], wrapper: str, labels: list[str]) -> None:
    rows, said = read(*paths)
    assert [rows[path][0] for path in paths] == labels
    assert said["wrapper"] == wrapper


def test_wrappers_and_splits_are_found_within_each_other(read: Any) -> None:
    rows, said = read("ILSVRC/Data/train/n01/0.jpg", "ILSVRC/Data/train/n02/0.jpg", "ILSVRC/Data/val/0.jpg")
    assert list(rows.values()) == [("n01", "train"), ("n02", "train"), (None, "val")]
    assert said["wrapper"] == "ILSVRC/Data"


@pytest.mark.parametrize("pattern", ["{}/images/0.png", "images/{}/0.png"])
def test_the_folders_of_detection_sets(read: Any, pattern: str) -> None:
    rows, _ = read(pattern.format("train2017"), pattern.format("val2017"))
    assert list(rows.values()) == [(None, "train2017"), (None, "val2017")]


def test_numbered_shards_are_no_classes(read: Any) -> None:
    rows, said = read("00000/000000001.jpg", "00000/000000002.jpg", "00001/000010000.jpg", "00000/000000001.json")
    assert set(rows.values()) == {(None, None)}
    assert "numbered shards" in said["message"]
    assert "folder_level" in said["message"]


@pytest.mark.parametrize(
    "paths",
    [
        ["00000/00000_00001.ppm", "00042/00000_00001.ppm"],
        ["0/1.png", "9/2.png"],
        ["00000/a/1.jpg", "00001/b/1.jpg"],
    ],
)
def test_other_numbered_folders_are_classes(read: Any, paths: list[str]) -> None:
    rows, _ = read(*paths)
    assert [rows[path][0] for path in paths] == [path.partition("/")[0] for path in paths]


@pytest.mark.parametrize(
    "paths",
    [
        ["train/cat/0.png", "val/cat/0.png", "extra/0.png"],
        ["train/0.png", "val/0.png", "cat/0.png"],
        ["train/cat/0.png", "dog/0.png"],
        ["test/0.png", "dog/0.png"],
    ],
)
def test_splits_beside_other_folders_are_refused(read: Any, paths: list[str]) -> None:
    with pytest.raises(LabelsAmbiguous, match=r"Send `images\.labels`.*folder_level"):
        read(*paths)
    rows, said = read(labels={"folder_level": 0})
    assert {label for label, _ in rows.values()} == {path.partition("/")[0] for path in paths}
    assert said["labels"] == "folder"


def test_a_train_among_other_things_is_a_class(read: Any) -> None:
    rows, _ = read("train/0.png", "bus/0.png", "car/0.png")
    assert rows["train/0.png"] == ("train", None)


def test_the_level_can_be_named(read: Any) -> None:
    rows, _ = read("a/train/cat/0.png", "a/0.png", labels={"folder_level": 2})
    assert rows == {"a/train/cat/0.png": ("cat", None), "a/0.png": (None, None)}


def test_a_level_below_every_folder_is_refused(read: Any) -> None:
    with pytest.raises(LabelsInvalid, match="level 2, from 0, but no image lies in more than 2 folders"):
        read("a/cat/0.png", "a/1.png", labels={"folder_level": 2})
