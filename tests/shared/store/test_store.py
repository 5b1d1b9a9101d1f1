"""Creating, finishing, listing and deleting embeddings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from shoal.errors import EmbeddingsIncomplete, EmbeddingsNotFound, StoreCorrupt, StoreError
from shoal.store import ModelRecord, Plan, Source, Store, image_id

from tests.shared.store.conftest import Toy

BAD_IDS = ["", ".", "..", "../x", "a/b", "/etc", "toy-000000000000", "a\0b", "x" * 300]


def test_an_empty_store_holds_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "nowhere").embeddings_ids() == []


def test_creating_the_same_plan_again_keeps_what_is_there(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    toy.write(1)
    assert toy.create().missing_shards() == [0, 2]
    assert toy.store.embeddings_ids() == [toy.id]


def test_many_creators_at_once_make_one_folder(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    start = threading.Barrier(6)
    ids: list[str] = []

    def create() -> None:
        start.wait()
        ids.append(toy.create().id)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids == [toy.id] * 6
    assert list(toy.store.layout.temporary.iterdir()) == []


def test_a_listing_other_than_the_plans_is_refused(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    with pytest.raises(StoreError, match="not the one"):
        toy.store.create_embeddings(toy.plan, toy.listing.slice(1))
    assert toy.store.embeddings_ids() == []


def test_an_image_listed_twice_is_refused(make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    toy = make_toy()
    listing = pa.table({"image_id": [image_id("a")] * 2, "image_path": ["a"] * 2})
    plan = toy.plan.model_copy(update={"source": Source.of(listing, kind="images", path="x")})
    with pytest.raises(StoreError, match="once"):
        toy.store.create_embeddings(plan, listing)


@pytest.mark.parametrize("embeddings_id", BAD_IDS)
def test_what_is_no_id_is_not_found_and_touches_nothing(make_toy: Callable[..., Toy], embeddings_id: str) -> None:
    toy = make_toy()
    toy.write_all()
    for call in (toy.store.embeddings, toy.store.delete_embeddings, toy.store.verify, toy.store.finish_embeddings):
        with pytest.raises(EmbeddingsNotFound):
            call(embeddings_id)
    assert toy.store.verify(toy.id).ok


def test_a_set_with_missing_shards_cannot_be_finished(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    toy.write(0)
    with pytest.raises(EmbeddingsIncomplete, match="lacks 2 of 3 shards, the first is 1"):
        toy.store.finish_embeddings(toy.id)
    assert not toy.store.embeddings(toy.id).complete


def test_finishing_again_gives_the_same_manifest(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.write_all()
    first = toy.store.finish_embeddings(toy.id)
    assert toy.store.finish_embeddings(toy.id) == first
    assert (first.rows, [entry.offset for entry in first.shards]) == (25, [0, 10, 20])


def test_finishing_sweeps_what_dead_attempts_left(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    dead = toy.folder / "work" / "00000-1-dead"
    dead.mkdir()
    (dead / "img_emb_00000.npy").write_bytes(b"half")
    assert toy.store.clean_work(toy.id) == 0, "attempts at an unfinished set may be alive"
    toy.write_all()
    assert list((toy.folder / "work").iterdir()) == []


def test_deleted_embeddings_are_gone(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.write_all()
    toy.store.delete_embeddings(toy.id)
    assert toy.store.embeddings_ids() == []
    assert not list(toy.store.layout.trash.iterdir())
    with pytest.raises(EmbeddingsNotFound, match=toy.id):
        toy.store.delete_embeddings(toy.id)
    assert toy.create().missing_shards() == [0, 1, 2]


def test_deleting_sweeps_folders_that_were_never_finished(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.write_all()
    old, young = (toy.store.layout.temporary / name for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    toy.store.delete_embeddings(toy.id)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_newer_format_is_refused_and_left_alone(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    plan = toy.folder / "plan.json"
    plan.write_text(plan.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreError, match="format 2"):
        toy.store.embeddings(toy.id)


def test_a_damaged_plan_is_named(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    for content in ("", "{}", '{"format": 1}', "[]"):
        (toy.folder / "plan.json").write_text(content)
        with pytest.raises(StoreCorrupt, match=r"plan\.json"):
            toy.store.embeddings(toy.id)


def test_fields_of_later_writers_are_ignored(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.write_all()
    for path in (toy.folder / "manifest.json", toy.folder / "plan.json", toy.folder / "commits" / "00000.json"):
        path.write_text(path.read_text().replace('"format": 1,', '"format": 1, "colour": "blue",', 1))
    found = toy.store.embeddings(toy.id)
    assert (found.rows, found.commits[0].rows) == (25, 10)


def test_records_cannot_be_changed_by_accident() -> None:
    source = Source(kind="images", path="x", count=1, listing_sha256="0" * 64)
    model = ModelRecord(name="m", backend="torch", architecture="a", embedding="pooled")
    plan = Plan(name="x", source=source, model=model, dim=1, dtype="float32", shard_rows=1)
    with pytest.raises(ValueError, match="frozen"):
        plan.dim = 2  # type: ignore[misc]
