"""Reading committed shards: batches, gathers, tables, damage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shoal.errors import StoreCorrupt, StoreError
from shoal.importer import import_embeddings
from shoal.store import Store

from tests.shared.store.conftest import Toy


def test_a_shard_is_the_file_itself_not_a_copy(make_toy: Callable[..., Toy]) -> None:
    found = make_toy().write_all()
    shard = found.shard(0)
    assert isinstance(shard, np.memmap)
    assert not shard.flags.writeable
    first, batch = next(found.iter_batches(10))
    assert first == 0
    assert isinstance(batch.base, np.memmap) or isinstance(batch, np.memmap)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_batches_and_gathers_equal_the_whole(make_toy: Callable[..., Toy], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30), "count")
    shard_rows = data.draw(st.integers(1, 12), "shard_rows")
    fails = data.draw(st.sets(st.integers(0, count - 1)), "fails")
    dtype = data.draw(st.sampled_from(["float16", "float32"]), "dtype")
    with tempfile.TemporaryDirectory() as root:
        toy = make_toy(count, 3, shard_rows, sorted(fails), dtype=dtype, root=Path(root))
        found = toy.write_all()
        whole = toy.kept.astype(np.float32)
        assert (found.rows, found.failed) == (len(whole), len(fails))
        size = data.draw(st.integers(1, 40), "batch_rows")
        start = data.draw(st.integers(0, len(whole)), "start")
        stop = data.draw(st.integers(start, len(whole) + 3) | st.none(), "stop")
        batches = list(found.iter_batches(size, start=start, stop=stop))
        assert all(b.dtype == np.float32 and b.ndim == 2 for _, b in batches)
        assert [first for first, _ in batches] == list(range(start, min(stop or len(whole), len(whole)), size))[
            : len(batches)
        ]
        joined = np.concatenate([b for _, b in batches]) if batches else np.empty((0, 3), np.float32)
        np.testing.assert_array_equal(joined, whole[start:stop])
        if len(whole):
            rows = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20), "rows"), np.int64)
            np.testing.assert_array_equal(found.take(rows), whole[rows])
        assert toy.store.verify(toy.id).ok


def test_batches_come_in_the_type_asked_for(make_toy: Callable[..., Toy]) -> None:
    found = make_toy(dtype="float16").write_all()
    assert {b.dtype for _, b in found.iter_batches(7, dtype=np.float16)} == {np.dtype("float16")}
    assert {b.dtype for _, b in found.iter_batches(7, dtype=np.float64)} == {np.dtype("float64")}


def test_rows_that_do_not_exist_are_refused(make_toy: Callable[..., Toy]) -> None:
    found = make_toy().write_all()
    for rows in ([-1], [25], [0, 99]):
        with pytest.raises(IndexError):
            found.take(np.array(rows))
        with pytest.raises(IndexError):
            found.thumbnails(rows)
    assert found.take(np.array([], np.int64)).shape == (0, 4)


def test_metadata_count_rows_over_all_shards(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(fails=[2, *range(10, 20)])
    found = toy.write_all()
    table = found.metadata()
    assert table.column_names[0] == "row"
    assert table.column("row").to_pylist() == list(range(14))
    paths = toy.listing.column("image_path").to_pylist()
    expected = [path for i, path in enumerate(paths) if i not in toy.fails]
    assert table.column("image_path").to_pylist() == expected
    assert found.metadata(["label"]).column_names == ["row", "label"]
    assert found.labels() == [path.split("/")[0] for path in expected]
    with pytest.raises(ValueError, match="colour"):
        found.metadata(["colour"])


def test_errors_name_every_image_that_failed(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(fails=[2, 24])
    errors = toy.write_all().errors()
    assert errors.column("image_path").to_pylist() == ["class2/0002.png", "class0/0024.png"]
    assert set(errors.column("code").to_pylist()) == {"image_truncated"}


def test_thumbnails_come_by_global_row_where_there_are_any(make_toy: Callable[..., Toy]) -> None:
    found = make_toy(fails=[0]).write_all()
    assert found.thumbnails([0, 1, 12, 0]) == {0: b"RIFF1", 12: b"RIFF13"}
    assert found.thumbnails([]) == {}


def test_a_set_without_labels_has_none(make_toy: Callable[..., Toy]) -> None:
    assert make_toy(labels=False).write_all().labels() is None


def test_a_set_in_which_every_image_failed_is_whole_and_empty(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(count=12, fails=range(12))
    found = toy.write_all()
    assert (found.complete, found.rows, found.failed) == (True, 0, 12)
    assert list(found.iter_batches()) == []
    assert found.shard(1).shape == (0, 4)
    assert found.metadata().num_rows == 0
    assert found.labels() is None
    assert toy.store.verify(toy.id).ok


def test_committed_shards_can_be_read_before_the_set_is_complete(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    toy.write(2)
    toy.write(0)
    found = toy.store.embeddings(toy.id)
    assert (found.complete, found.rows, found.missing_shards()) == (False, 15, [1])
    np.testing.assert_array_equal(found.take(np.arange(15)), toy.vectors[[*range(10), *range(20, 25)]])
    with pytest.raises(StoreError, match="not committed"):
        found.shard(1)
    toy.write(1)
    assert found.rows == 15, "an opened set stays as it was"
    assert toy.store.embeddings(toy.id).rows == 25


def test_a_slice_of_the_listing_is_that_slice(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    found = toy.create()
    assert found.listing(10, 13).column("image_path").to_pylist() == [f"class{i % 3}/{i:04}.png" for i in (10, 11, 12)]
    assert found.listing().num_rows == 25


@pytest.mark.parametrize("kind", ["img_emb", "metadata", "thumbs"])
def test_a_damaged_file_is_named(make_toy: Callable[..., Toy], kind: str) -> None:
    toy = make_toy()
    found = toy.write_all()
    path = next((toy.folder / kind).glob("*00001*"))
    path.write_bytes(path.read_bytes()[:-9])
    calls: dict[str, Callable[[], object]] = {
        "img_emb": lambda: list(found.iter_batches()),
        "metadata": found.metadata,
        "thumbs": lambda: found.thumbnails([11]),
    }
    with pytest.raises(StoreCorrupt, match=path.name):
        calls[kind]()
    path.unlink()
    with pytest.raises(StoreCorrupt, match=path.name):
        toy.store.embeddings(toy.id).shard(1) if kind == "img_emb" else calls[kind]()


def test_the_summary_tells_what_the_set_is(make_toy: Callable[..., Toy]) -> None:
    summary = make_toy(fails=[3]).write_all().summary()
    assert (summary["rows"], summary["failed"], summary["images"], summary["classes"]) == (24, 1, 25, 3)
    assert summary["shards"] == {"total": 3, "committed": 3, "rows": 10}
    assert summary["model"]["name"] == "toy"


def test_reading_a_large_set_keeps_none_of_it_in_memory(tmp_path: Path) -> None:
    rows, dim, batch = 40_000, 512, 1_000
    np.save(tmp_path / "vectors.npy", np.ones((rows, dim), dtype=np.float32))
    store = Store(tmp_path / "store")
    found = store.embeddings(import_embeddings(store, tmp_path / "vectors.npy", name="large"))
    process, largest = psutil.Process(), 0
    before = process.memory_info().rss
    for _, block in found.iter_batches(batch):
        assert block.sum() == block.size
        largest = max(largest, process.memory_info().rss - before)
    found.take(np.arange(0, rows, 100))
    assert process.memory_info().rss - before < 4 * rows * dim / 4
    assert largest < 4 * rows * dim / 4


@pytest.mark.parametrize("spoil", [Path.mkdir, lambda path: path.symlink_to(path.name)])
def test_a_commit_that_cannot_be_read_is_damage_of_its_set_alone(
    make_toy: Callable[..., Toy], spoil: Callable[[Path], None]
) -> None:
    toy = make_toy()
    toy.write_all()
    path = toy.folder / "commits" / "00001.json"
    path.unlink()
    spoil(path)
    with pytest.raises(StoreCorrupt, match=r"commits/00001\.json"):
        _ = toy.store.embeddings(toy.id).rows
    assert [each.id for each in toy.store.entries()] == [toy.id]
    assert any("00001.json" in str(problem) for problem in toy.store.verify(toy.id).problems)
