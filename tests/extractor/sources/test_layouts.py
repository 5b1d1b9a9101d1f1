"""Folders with a layout of their own: Hugging Face's imagefolder, ImageNet as its competitions publish it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from extractor import pipeline
from shoal.errors import SourceInvalid
from shoal.jobs.child import JobContext
from shoal.settings import Settings

from tests.extractor.sources.contract import SourceContract, column, listed, picture, pictures, read


def write(folder: Path, images: dict[str, bytes]) -> None:
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


class TestImageFolder(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        (data / "hf").mkdir(exist_ok=True)
        names = {name: name.replace("/", "-") for name in images}
        write(data / "hf", {names[name]: content for name, content in images.items()})
        rows = "".join(f"{names[name]},{name.split('/')[0]}\n" for name in images)
        (data / "hf/metadata.csv").write_text(f"file_name,label\n{rows}")
        return {"path": "hf"}

    def containers(self, data: Path) -> list[Path]:
        return [path for path in super().containers(data) if path.suffix == ".png"]


class TestSplits(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        for split, label in (("train", "cat"), ("test", "dog")):
            chosen = {name: content for name, content in images.items() if name.startswith(label)}
            write(data / "hf" / split, chosen)
            (data / "hf" / split).mkdir(parents=True, exist_ok=True)
            rows = [json.dumps({"file_name": name, "label": label}) + "\n" for name in chosen]
            (data / "hf" / split / "metadata.jsonl").write_text("".join(rows))
        return {"path": "hf"}

    def test_folders_are_the_splits(self, settings: Settings, fields: dict[str, Any]) -> None:
        found = listed(settings, **fields)
        assert found.notes["source"]["format"] == "imagefolder"
        assert column(found, "split") == ["test"] * 3 + ["train"] * 3


class TestImageNet(SourceContract):
    """Training images by folder, validation images flat; the classes of these above both, as Kaggle has it."""

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        folder = data / "in/ILSVRC/Data/CLS-LOC"
        (folder / "val").mkdir(parents=True, exist_ok=True)
        lines = ["ImageId,PredictionString"]
        for number, (name, content) in enumerate(images.items(), 1):
            image = f"ILSVRC2012_val_{number:08}"
            write(folder, {f"val/{image}.JPEG": content})
            lines.append(f"{image},{name.split('/')[0]} 1 2 3 4 ")
        (data / "in/LOC_val_solution.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
        return {"path": "in/ILSVRC/Data/CLS-LOC"}

    def empty(self, data: Path) -> dict[str, Any]:
        return {**self.build(data, {}), "format": "imagenet"}

    def containers(self, data: Path) -> list[Path]:
        return [path for path in super().containers(data) if path.suffix == ".JPEG"]

    def test_the_splits(self, settings: Settings, fields: dict[str, Any]) -> None:
        write(settings.data / fields["path"], {"train/n01440764/n01440764_1.JPEG": picture(50)})
        found = listed(settings, **fields)
        assert found.notes["source"]["format"] == "imagenet"
        assert column(found, "split") == ["train", *["val"] * 6]
        assert column(found, "label")[0] == "n01440764"


def test_a_list_of_synsets_is_in_the_order_of_the_images(settings: Settings, folder: Path) -> None:
    names = tuple(f"val/ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3))
    write(folder, dict(zip(names, pictures().values(), strict=False)))
    (folder / "imagenet_2012_validation_synset_labels.txt").write_text("n3\nn1\nn2\n")
    assert column(listed(settings, path="set/val"), "label") == ["n3", "n1", "n2"]
    (folder / "imagenet_2012_validation_synset_labels.txt").unlink()
    assert listed(settings, path="set/val").notes["source"]["format"] == "folder"
    with pytest.raises(SourceInvalid, match=r"LOC_val_solution\.csv"):
        listed(settings, path="set/val", format="imagenet")


def test_what_metadata_and_folder_do_not_share(settings: Settings, folder: Path) -> None:
    write(folder, pictures(("a.png", "b.png")))
    (folder / "metadata.csv").write_text("file_name,label\na.png,cat\ngone.png,dog\n")
    found = listed(settings, path="set")
    assert read(settings, found, {"path": "set"}) == [picture(0), "image_missing"]
    assert [group["reason"] for group in found.notes["not_taken"]] == ["not_named"]


def test_a_metadata_file_of_something_else_changes_nothing(settings: Settings, folder: Path) -> None:
    write(folder, pictures(("cat/a.png", "dog/b.png")))
    (folder / "metadata.csv").write_text("camera,owner\nx,y\n")
    found = listed(settings, path="set")
    assert found.notes["source"]["format"] == "folder"
    assert column(found, "label") == ["cat", "dog"]
    with pytest.raises(SourceInvalid, match=r"no column 'path'; its columns are 'camera', 'owner'"):
        listed(settings, path="set", format="imagefolder")


def test_a_folder_by_name_has_the_plan_of_any_folder(
    settings: Settings, folder: Path, job: Callable[..., JobContext]
) -> None:
    write(folder, pictures(("cat/a.png", "dog/b.png")))
    plain = pipeline.extract(job(images={"path": "set"}), settings)
    (folder / "metadata.csv").write_text("file_name,label\ncat/a.png,x\ndog/b.png,y\n")
    named = pipeline.extract(job(images={"path": "set", "format": "folder"}), settings)
    assert named["embeddings"] == plain["embeddings"]
    assert pipeline.extract(job(images={"path": "set"}), settings)["embeddings"] != plain["embeddings"]
