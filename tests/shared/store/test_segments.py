"""What an attempt has saved of an unfinished shard: taken up whole or not at all, and gone once the shard counts."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from shoal.errors import StoreError
from shoal.gc import DAY_S, find
from shoal.jobs.queue import JobQueue
from shoal.store import ShardWriter, Store, segments
from shoal.store.table_schemas import METADATA_SCHEMA

from tests.shared.store.conftest import Toy

MakeToy = Callable[..., Toy]


def add(toy: Toy, writer: ShardWriter, image: int) -> None:
    (record,) = toy.metadata([image])
    if image in toy.fails:
        writer.append_error(record.image_id, record.image_path, "image_truncated", "cut off")
    else:
        writer.append(toy.vectors[[image]], [record], [b"RIFF%d" % image if image % 2 else None])


def attempt(toy: Toy, shard: int, *, until: int | None = None, every: int = 3) -> bool | None:
    """Take a shard up, save every ``every`` images; dies when it has done ``until`` images, or else commits."""
    start, stop = toy.plan.shard_range(shard)
    with toy.store.shard_writer(toy.id, shard, attempt=1, owner="test") as writer:
        writer.resume()
        writer.keep_unsaved()
        for image in range(start + writer.done, stop):
            if writer.done == until:
                return None
            add(toy, writer, image)
            if writer.done % every == 0 and (segment := writer.take_unsaved()):
                writer.save(segment)
        return writer.commit()


def parts(toy: Toy, shard: int = 0) -> list[Path]:
    folder = toy.store.layout.embeddings(toy.id).parts(shard)
    return sorted(folder.iterdir()) if folder.is_dir() else []


def data(toy: Toy) -> dict[str, bytes]:
    kinds = ("img_emb", "metadata", "errors", "thumbs")
    return {path.name: path.read_bytes() for kind in kinds for path in (toy.folder / kind).iterdir()}


def resumed(toy: Toy, shard: int = 0) -> int:
    """How many images the next attempt would find done."""
    with toy.store.shard_writer(toy.id, shard, attempt=2, owner="next") as writer:
        writer.resume()
        return writer.done


@pytest.fixture
def toy(make_toy: MakeToy) -> Toy:
    made = make_toy(count=25, shard_rows=20, fails=(1, 4, 24))
    made.create()
    return made


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_resumed_shard_has_the_bytes_of_one_that_was_never_interrupted(
    make_toy: MakeToy, tmp_path: Path, dtype: str
) -> None:
    toy, whole = (make_toy(count=25, shard_rows=20, fails=(1, 4), dtype=dtype, root=tmp_path / n) for n in "ab")
    for each in (toy, whole):
        each.create()
    assert attempt(whole, 0)
    for until in (2, 5, 8, 17):  # the first dies before it saved anything
        attempt(toy, 0, until=until)
    assert resumed(toy) == 15
    assert toy.store.saved_images(toy.id) == 15
    assert attempt(toy, 0)
    assert data(toy) == data(whole)
    assert not parts(toy)
    assert toy.store.saved_images(toy.id) == 20


def test_failed_images_are_told_again(toy: Toy) -> None:
    attempt(toy, 0, until=7)
    with toy.store.shard_writer(toy.id, 0, attempt=2, owner="next") as writer:
        paths = toy.listing.column("image_path").to_pylist()
        assert writer.resume() == [(paths[1], "image_truncated"), (paths[4], "image_truncated")]
        assert (writer.rows, writer.failed) == (4, 2)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _rename(path: Path) -> None:
    path.rename(path.with_name("0000003-0000007-0123456789abcdef.segment"))


@pytest.mark.parametrize("spoil", [_cut, _flip, _empty, _rename])
def test_a_damaged_part_and_what_follows_it_is_passed_over(toy: Toy, spoil: Callable[[Path], None]) -> None:
    attempt(toy, 0, until=10)
    spoil(parts(toy)[1])
    assert resumed(toy) == 3
    assert attempt(toy, 0)
    assert attempt(toy, 1)
    toy.store.finish_embeddings(toy.id)
    assert toy.store.verify(toy.id).ok


def test_another_attempts_part_of_the_same_images_stands_in_for_a_damaged_one(toy: Toy) -> None:
    attempt(toy, 0, until=6)
    kept = parts(toy)
    shutil.copytree(kept[0].parent, toy.folder / "aside")
    shutil.rmtree(kept[0].parent)
    attempt(toy, 0, until=6)
    for path in (toy.folder / "aside").iterdir():
        path.rename(kept[0].parent / path.name)
    _flip(parts(toy)[0])
    assert resumed(toy) == 6


def test_a_part_of_another_shard_or_set_is_passed_over(toy: Toy, make_toy: MakeToy, tmp_path: Path) -> None:
    attempt(toy, 0, until=4)
    other = make_toy(count=25, shard_rows=20, dim=5, root=tmp_path / "other")
    other.create()
    for shard in (0, 1):
        folder = other.store.layout.embeddings(other.id).parts(shard)
        shutil.copytree(parts(toy)[0].parent, folder)
        assert resumed(other, shard) == 0


def test_images_out_of_their_order_are_not_saved(toy: Toy) -> None:
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="test") as writer:
        writer.keep_unsaved()
        add(toy, writer, 2)
        with pytest.raises(StoreError, match="order"):
            writer.take_unsaved()


def test_a_commit_that_lost_removes_the_parts_too(toy: Toy) -> None:
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="slow") as slow:
        slow.keep_unsaved()
        for image in range(20):
            add(toy, slow, image)
        assert attempt(toy, 0)
        segment = slow.take_unsaved()
        assert segment is not None
        slow.save(segment)
        assert not slow.commit()
    assert not parts(toy)


def test_a_save_after_the_set_was_deleted_says_so_and_leaves_nothing(toy: Toy) -> None:
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="late") as writer:
        writer.keep_unsaved()
        add(toy, writer, 0)
        toy.store.delete_embeddings(toy.id)
        segment = writer.take_unsaved()
        assert segment is not None
        with pytest.raises(StoreError, match="deleted"):
            writer.save(segment)
    assert not toy.folder.exists()


def _age(folder: Path) -> None:
    at = time.time() - 3 * DAY_S
    for each in [*folder.rglob("*"), folder]:
        os.utime(each, (at, at))


def test_parts_are_garbage_once_their_shard_counts_and_not_before(toy: Toy, queue: JobQueue) -> None:
    attempt(toy, 0, until=10)
    folder = parts(toy)[0].parent
    half_written = folder / ".0000009-0000012-0.segment.tmp"
    half_written.touch()
    _age(toy.folder)
    assert [garbage.path for garbage in find(Store(toy.store.root), queue)] == [half_written]
    shutil.copytree(folder, toy.folder / "aside")
    attempt(toy, 0)
    shutil.copytree(toy.folder / "aside", folder)
    shutil.rmtree(toy.folder / "aside")
    _age(toy.folder)
    assert [garbage.path for garbage in find(Store(toy.store.root), queue)] == [folder]
    attempt(toy, 1)
    toy.store.finish_embeddings(toy.id)
    assert not (toy.folder / "parts").exists()


def test_rows_are_not_kept_in_memory_unless_asked_for(toy: Toy) -> None:
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="test") as writer:
        writer.append(np.ones((1, 4), np.float32), toy.metadata([0]))
        assert writer.take_unsaved() is None
        assert writer.unsaved_bytes == 0


@pytest.mark.parametrize("saved", ["by this version", "by an earlier one"])
def test_a_part_keeps_the_properties_of_its_images(toy: Toy, monkeypatch: pytest.MonkeyPatch, saved: str) -> None:
    start, stop = toy.plan.shard_range(0)
    rows = [image for image in range(start, stop) if image not in toy.fails]
    known: dict[str, Any] = {
        "brightness": 0.5,
        "luma_1": 0.0,
        "luma_5": 0.25,
        "luma_99": 1.0,
        "entropy": 7.5,
        "sharpness": 321.0,
    }
    records = {image: replace(toy.metadata([image])[0], **known, pixel_hash="0" * 32) for image in rows}
    with monkeypatch.context() as patch:
        if saved == "by an earlier one":
            patch.setattr(segments, "_METADATA", METADATA_SCHEMA.remove(0))
        with toy.store.shard_writer(toy.id, 0, attempt=1, owner="test", properties=True) as writer:
            writer.keep_unsaved()
            for image in range(start, stop):
                if image in toy.fails:
                    add(toy, writer, image)
                else:
                    writer.append(toy.vectors[[image]], [records[image]])
            segment = writer.take_unsaved()
            assert segment is not None
            writer.save(segment)
    with toy.store.shard_writer(toy.id, 0, attempt=2, owner="next", properties=True) as writer:
        writer.resume()
        assert writer.commit()
    (file,) = [path for path in (toy.folder / "metadata").iterdir() if path.name.endswith("0.parquet")]
    found = pq.read_table(file).select([*known, "pixel_hash"]).to_pylist()
    kept = {**known, "pixel_hash": "0" * 32} if saved == "by this version" else dict.fromkeys([*known, "pixel_hash"])
    assert found == [kept] * len(rows)
