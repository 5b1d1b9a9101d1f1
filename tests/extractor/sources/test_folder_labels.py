"""Which folders are classes, and which are splits, wrappers or shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from extractor.sources.listing import list_source
from shoal.errors import LabelsAmbiguous, LabelsInvalid
from shoal.schemas import ImageSource
from shoal.settings import Settings


@pytest.fixture
def read(settings: Settings, folder: Path) -> Any:
    """``read("cat/0.png", …, labels=…)``: (label, split) of each path, and what is said of the source."""

    def read(*paths: str, **fields: Any) -> tuple[dict[str, tuple[str | None, str | None]], dict[str, Any]]:
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(b"x")
        listing = list_source(ImageSource(path="set", **fields), settings.data)
        columns = (listing.table.column(name).to_pylist() for name in ("image_path", "label", "split"))
        return {path: (label, split) for path, label, split in zip(*columns, strict=True)}, listing.notes["source"]

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
    assert "taken for splits" in said["message"]


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
