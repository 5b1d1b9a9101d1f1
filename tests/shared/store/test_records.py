"""Ids, shard ranges and hashes: what other languages must be able to compute too."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shoal.errors import StoreError
from shoal.store import ModelRecord, Plan, Source, image_id, listing_sha256

MODEL = ModelRecord(name="m", backend="torch", architecture="a", embedding="pooled")


def _plan(count: int = 10, shard_rows: int = 4, **changes: object) -> Plan:
    source = Source(kind="images", path="x", count=count, listing_sha256="0" * 64)
    fields = {"name": "toy", "source": source, "model": MODEL, "dim": 3, "dtype": "float32", "shard_rows": shard_rows}
    return Plan.model_validate({**fields, **changes})


def test_an_images_id_is_the_xxh3_of_its_path() -> None:
    assert image_id("cat/1.png") == "60be5b483f95224d"
    assert image_id("Füchse/ä.png") != image_id("Fuchse/a.png")
    assert image_id("") == "2d06800538d394c2", "the published XXH3-64 of nothing"


def test_the_same_plan_has_the_same_id_whatever_the_libraries() -> None:
    assert _plan().id == _plan(libraries={"torch": "9"}).id
    assert _plan().id.startswith("toy-")


@pytest.mark.parametrize(
    "change", [{"dim": 4}, {"dtype": "float16"}, {"shard_rows": 5}, {"transform": {"size": 9}}, {"name": "other"}]
)
def test_any_other_change_of_a_plan_changes_its_id(change: dict[str, Any]) -> None:
    assert _plan(**change).id != _plan().id


def test_records_of_the_same_model_have_one_digest_however_its_checkpoint_was_read() -> None:
    document = {
        "name": "m",
        "backend": "torch",
        "architecture": "a",
        "weights_sha256": None,
        "weights_file": None,
        "layout": "auto",
        "embedding": "pooled",
        "seed": None,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    asked = ModelRecord.model_validate(document)
    read = {"asked_layout": "auto", "container": "model", "prefix": "module.", "filled": 3}
    loaded = ModelRecord.model_validate({**document, "layout": "moco", "loaded": read})
    assert asked.digest == loaded.digest == hashlib.sha256(text.encode()).hexdigest()
    assert ModelRecord.model_validate({**document, "seed": 1}).digest != asked.digest


@given(count=st.integers(0, 5000), shard_rows=st.integers(1, 700))
def test_shards_partition_the_listing(count: int, shard_rows: int) -> None:
    plan = _plan(count, shard_rows)
    rows = [row for shard in range(plan.shards) for row in range(*plan.shard_range(shard))]
    assert rows == list(range(count))
    assert all(start < stop for start, stop in map(plan.shard_range, range(plan.shards)))


def test_there_is_no_shard_beyond_the_last() -> None:
    with pytest.raises(IndexError):
        _plan().shard_range(3)
    with pytest.raises(IndexError):
        _plan().shard_range(-1)


def test_shard_numbers_of_large_plans_all_have_the_same_width() -> None:
    assert _plan(100_000, 1).shard_digits == 5
    assert _plan(100_001, 1).shard_digits == 6


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"dim": 0}, {"shard_rows": 0}, {"name": "../x"}])
def test_a_plan_that_cannot_be_stored_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _plan(**change)


def test_the_listings_hash_is_that_of_its_rows_as_json() -> None:
    listing = pa.table({"image_id": ["1", "2"], "image_path": ["ä/1", 'b"\n'], "label": ["x", None]})
    rows = [["1", "ä/1", "x", None, None], ["2", 'b"\n', None, None, None]]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    assert listing_sha256(listing) == hashlib.sha256(text.encode()).hexdigest()


def test_the_listings_hash_does_not_depend_on_how_it_is_chunked() -> None:
    listing = pa.table({"image_id": [str(i) for i in range(70_000)], "image_path": ["p"] * 70_000})
    halves = pa.concat_tables([listing.slice(0, 11), listing.slice(11)])
    rows = [[str(i), "p", None, None, None] for i in range(70_000)]
    expected = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
    assert listing_sha256(halves) == listing_sha256(listing) == expected
    assert listing_sha256(listing.slice(0, 0)) == hashlib.sha256(b"[]").hexdigest()


def test_a_listing_without_paths_is_refused() -> None:
    with pytest.raises(StoreError, match="image_path"):
        listing_sha256(pa.table({"image_id": ["1"]}))
