"""Dark, bright, blurred and flat pictures, and copies, are found by what was gathered while they were decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from clusterer.jobs import duplicates, quality
from extractor import pipeline
from PIL import Image, ImageFilter
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import DUPLICATES, QUALITY
from shoal.store.table_schemas import METADATA_SCHEMA, PROPERTIES_SCHEMA

MODEL = {"architecture": "pixels", "weights": "random", "transform": {"size": 112}}
PLANTED = {
    "dark.png": {"dark"},
    "black.png": {"dark", "low_contrast", "low_entropy"},
    "bright.png": {"bright"},
    "white.png": {"bright", "low_contrast", "low_entropy"},
    "grey.png": {"low_contrast", "low_entropy"},
    "blurred.png": {"blurry"},
}


def photo(seed: int) -> Image.Image:
    """Edges of every kind, and the range of a photograph."""
    generator = np.random.default_rng(seed)
    large = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((224, 224), 2)
    noise = generator.normal(0, 12, (224, 224, 1))
    return Image.fromarray(np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("properties")
    folder = root / "data" / "set"
    for each in (folder, root / "models", root / "store"):
        each.mkdir(parents=True)
    for number in range(20):
        photo(number).save(folder / f"{number:02d}.png")
    photo(50).point(lambda level: level // 5).save(folder / "dark.png")
    bright = photo(51).point(lambda level: 245 + level // 25)
    bright.paste((0, 0, 0), (20, 60, 120, 70))
    bright.save(folder / "bright.png")
    photo(52).filter(ImageFilter.GaussianBlur(4)).save(folder / "blurred.png")
    for name, level in (("black", 0), ("white", 255), ("grey", 120)):
        Image.new("RGB", (224, 224), (level,) * 3).save(folder / f"{name}.png")
    return Settings(
        data=root / "data", models=root / "models", store=root / "store", decode_workers=1, device="cpu", offline=True
    )


def extract(settings: Settings, **fields: Any) -> str:
    body = {"images": {"path": "set"}, "model": MODEL, "shard_rows": 10, **fields}
    result = pipeline.run(JobContext.local(body, kind="extract:torch"), settings)
    assert Store(settings.store).verify(result["embeddings"]).ok
    return str(result["embeddings"])


def issues(settings: Settings, embeddings: str) -> dict[str, set[str]]:
    context = JobContext.local({"embeddings": embeddings, "neighbours": 3}, kind="quality")
    found = Store(settings.store).analysis(QUALITY, quality.run(context, settings)["quality"])
    named: dict[str, set[str]] = {}
    for row in found.table("images").to_pylist():
        if row["issue"] != "low_detail":
            named.setdefault(row["image_path"], set()).add(row["issue"])
    return named


def properties(settings: Settings, embeddings: str) -> dict[str, dict[str, Any]]:
    rows = Store(settings.store).embeddings(embeddings).metadata(["image_path", *PROPERTIES_SCHEMA.names])
    return {row["image_path"]: row for row in rows.to_pylist()}


def test_what_is_planted_is_found_and_nothing_else(settings: Settings) -> None:
    found = extract(settings)
    assert issues(settings, found) == PLANTED
    rows = properties(settings, found)
    assert rows["grey.png"]["brightness"] == pytest.approx(120 / 255)
    assert (rows["white.png"]["entropy"], rows["white.png"]["sharpness"]) == (0, 0)
    assert all(
        rows["00.png"][name] > 0 for name in ("brightness", "luma_1", "luma_5", "luma_99", "entropy", "sharpness")
    )
    assert len({row["pixel_hash"] for row in rows.values()}) == len(rows)


def test_reused_rows_keep_their_properties(settings: Settings) -> None:
    before = properties(settings, extract(settings))
    context = JobContext.local(
        {"images": {"path": "set"}, "model": MODEL, "name": "again", "shard_rows": 7}, kind="extract:torch"
    )
    result = pipeline.run(context, settings)
    assert result["reused_rows"] == len(before)
    after = properties(settings, result["embeddings"])
    for path, row in before.items():
        assert {**row, "row": 0} == {**after[path], "row": 0}


def test_a_store_without_the_columns_is_read_and_reused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = settings.model_copy(update={"store": tmp_path / "store"})
    (tmp_path / "store").mkdir()
    writer = Store.shard_writer
    with monkeypatch.context() as patch:
        patch.setattr(Store, "shard_writer", lambda *given, properties, **named: writer(*given, **named))
        found = extract(old)
    files = sorted((tmp_path / "store" / "embeddings" / found / "metadata").iterdir())
    assert [pq.read_schema(each).names for each in files] == [METADATA_SCHEMA.names] * 3
    assert all(row["sharpness"] is None and row["pixel_hash"] is None for row in properties(old, found).values())
    assert issues(old, found) == {}
    again = extract(old, name="again")
    assert all(row["brightness"] is None for row in properties(old, again).values())
    assert len(properties(old, extract(old, name="anew", reuse=None))["00.png"]["pixel_hash"]) == 32


def test_copies_by_pixels_and_the_sharper_copy(settings: Settings, tmp_path: Path) -> None:
    own = settings.model_copy(update={"data": tmp_path / "data", "store": tmp_path / "store"})
    folder = own.data / "set"
    folder.mkdir(parents=True)
    own.store.mkdir()
    picture = photo(1)
    picture.save(folder / "a.png")
    picture.save(folder / "b.bmp")
    # As many pixels and bytes, and its path sorts first.
    picture.filter(ImageFilter.GaussianBlur(2)).save(folder / "a soft.bmp")
    # The network does not see the corner.
    corner = np.array(photo(2))
    Image.fromarray(corner).save(folder / "corner.png")
    corner[0, 0] ^= 255
    Image.fromarray(corner).save(folder / "other corner.png")
    found = extract(own, thumbnails=False)
    context = JobContext.local({"embeddings": found, "threshold": 0.95, "link": "single"}, kind="duplicates")
    result = Store(own.store).analysis(DUPLICATES, duplicates.run(context, own)["duplicates"])
    members = {row["image_path"]: row for row in result.table("members").to_pylist()}
    copies = {path.removeprefix("other "): row["copy"] for path, row in members.items() if not row["keep"]}
    assert copies == {"a soft.bmp": "near", "a.png": "pixels", "corner.png": "near"}
    assert members["a soft.bmp"]["reason"].startswith("as many pixels, less sharp: variance of the Laplacian ")
