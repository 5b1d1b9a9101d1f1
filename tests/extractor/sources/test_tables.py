"""Parquet files with images in them: Hugging Face's and plain ones, their labels and splits, damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extractor.sources import listing
from shoal.errors import SourceInvalid
from shoal.schemas import ImageSource
from shoal.settings import Settings

from tests.extractor.sources.contract import SourceContract, column, listed, picture, pictures, read

CLASSES = ["cat", "dog"]


def write_hub(path: Path, images: dict[str, bytes], *, paths: bool = True) -> None:
    """A file as `datasets` writes it: structs of bytes and path, numbers as labels, their names in the metadata."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": content, "path": name if paths else None} for name, content in images.items()]
    labels = [CLASSES.index(name.split("/")[0]) for name in images]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table([pa.array(cells, kind), pa.array(labels, pa.int64())], schema=schema), path, row_group_size=2
    )


class TestHub(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        write_hub(data / "data/train-00000-of-00001.parquet", images, paths=False)
        return {"path": "data"}

    def test_the_files_name_is_the_split(self, settings: Settings, fields: dict[str, Any]) -> None:
        found = listed(settings, **fields)
        assert set(column(found, "split")) == {"train"}
        assert column(found, "image_path")[1] == "train-00000-of-00001.parquet/00000001"


class TestSeveral(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        for number, label in enumerate(CLASSES):
            write_hub(data / f"t/{number}.parquet", {name: each for name, each in images.items() if label in name})
        return {"path": "t/{0..1}.parquet"}

    def test_paths_of_their_own_are_kept(self, settings: Settings, fields: dict[str, Any]) -> None:
        assert "cat/1.png" in column(listed(settings, **fields), "image_path")


class TestPlain(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        names = [name.split("/")[0] for name in images]
        schema = pa.schema([("id", pa.int64()), ("image", pa.large_binary()), ("class", pa.string())])
        columns = [pa.array(range(len(names)), pa.int64()), pa.array([*images.values()], pa.large_binary())]
        pq.write_table(pa.table([*columns, pa.array(names, pa.string())], schema=schema), data / "a.parquet")
        return {"path": "a.parquet"}


def test_rows_without_bytes_are_errors(settings: Settings) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": picture(0)}, {"path": "elsewhere.png"}, None, {"bytes": picture(3)}], kind)
    pq.write_table(pa.table({"image": cells}), settings.data / "a.parquet")
    found = listed(settings, path="a.parquet")
    expected = [picture(0), "image_missing", "image_missing", picture(3)]
    assert read(settings, found, {"path": "a.parquet"}) == expected


def test_a_table_without_images_lists_its_columns(settings: Settings) -> None:
    pq.write_table(pa.table({"id": [1], "caption": ["x"]}), settings.data / "a.parquet")
    for refuse in (
        listed,
        lambda settings, **fields: listing.check(ImageSource(**fields), settings.data, deadline=None),
    ):
        with pytest.raises(SourceInvalid, match=r"has no column of images; its columns are 'id', 'caption'"):
            refuse(settings, path="a.parquet", format="parquet")


def test_a_label_that_is_no_class_is_none(settings: Settings) -> None:
    write_hub(settings.data / "a.parquet", pictures())
    table = pq.read_table(settings.data / "a.parquet")
    labels = pa.array([-1, 1, 0, 7, None, 1], pa.int64())
    pq.write_table(table.set_column(1, "label", labels).cast(table.schema), settings.data / "a.parquet")
    assert column(listed(settings, path="a.parquet"), "label") == [None, "dog", "cat", None, None, "dog"]


def test_damage_is_named_or_an_error_a_row(settings: Settings) -> None:
    write_hub(settings.data / "a.parquet", pictures())
    whole = (settings.data / "a.parquet").read_bytes()
    for content in (b"", whole[:100], whole[:-9], b"PAR1" + bytes(100) + b"PAR1"):
        (settings.data / "b.parquet").write_bytes(content)
        with pytest.raises(SourceInvalid, match=r"'b.parquet' is not a Parquet file"):
            listed(settings, path="b.parquet", format="parquet")
    damaged = bytearray(whole)
    damaged[4:2000] = b"\xff" * 1996
    (settings.data / "c.parquet").write_bytes(damaged)
    found = listed(settings, path="c.parquet", labels="none")
    codes = read(settings, found, {"path": "c.parquet"})
    assert codes[0] == "image_unreadable"
    assert len(codes) == 6
