"""No reader uses a file that is not the one that was committed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shoal.errors import EmbeddingsNotFound, StoreCorrupt
from shoal.store import EmbeddingSet, Store, files
from shoal.store.files import hash_file, record_file

from tests.shared.store.conftest import Toy

READS: dict[str, Callable[[EmbeddingSet], object]] = {
    "batches": lambda found: [batch for _, batch in found.iter_batches(7)],
    "take": lambda found: found.take(np.array([23, 0, 11])),
    "metadata": lambda found: found.metadata(),
    "labels": lambda found: found.labels(),
    "errors": lambda found: found.errors(),
    "thumbnails": lambda found: found.thumbnails([1, 11, 21]),
}


@pytest.fixture
def toy(make_toy: Callable[..., Toy]) -> Toy:
    toy = make_toy(count=26, shard_rows=10, fails=[4, 14])
    toy.write_all()
    return toy


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def flip(path: Path, where: int = -3) -> None:
    """Change one byte; the size stays."""
    content = bytearray(path.read_bytes())
    content[where] ^= 0x55
    path.write_bytes(content)


def zero(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


@pytest.mark.parametrize(
    ("kind", "reads"),
    [
        ("img_emb", ["batches", "take"]),
        ("metadata", ["metadata", "labels"]),
        ("errors", ["errors"]),
        ("thumbs", ["thumbnails"]),
    ],
)
@pytest.mark.parametrize("damage", ["swapped", "flipped", "zeroed", "missing", "another's"])
def test_a_damaged_file_is_refused_by_every_reader_of_it(toy: Toy, kind: str, reads: list[str], damage: str) -> None:
    extension = "npy" if kind == "img_emb" else "parquet"
    one, other = (toy.folder / kind / f"{kind}_{shard:05}.{extension}" for shard in (0, 1))
    if damage == "swapped":
        swap(one, other)
    elif damage == "another's":
        shutil.copy(one, other)
    elif damage == "missing":
        other.unlink()
    else:
        (flip if damage == "flipped" else zero)(other)
    for read in reads:
        with pytest.raises(StoreCorrupt, match=rf"{kind}_0000[01]\.{extension}.*shoal repair {toy.id}") as caught:
            READS[read](toy.store.embeddings(toy.id))
        assert caught.value.members["file"].startswith(f"embeddings/{toy.id}/{kind}/")


def test_sizes_are_compared_when_a_set_is_opened(toy: Toy) -> None:
    path = toy.folder / "img_emb" / "img_emb_00001.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreCorrupt, match=r"img_emb_00001\.npy has 264 bytes, but 272 were committed"):
        toy.store.embeddings(toy.id)


def test_a_set_without_its_pictures_can_be_opened_and_read(toy: Toy) -> None:
    (toy.folder / "thumbs" / "thumbs_00000.parquet").unlink()
    flip(toy.folder / "thumbs" / "thumbs_00001.parquet")
    found = toy.store.embeddings(toy.id)
    damaged: list[str] = []
    assert set(found.thumbnails(range(24), damaged=damaged)) == {18 + i for i in (1, 3, 5)}
    assert damaged == [f"embeddings/{toy.id}/thumbs/thumbs_0000{shard}.parquet" for shard in (0, 1)]
    assert len(found.take(np.arange(24))) == 24


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("manifest.json", lambda text: text.replace('"rows": 24', '"rows": 23')),
        ("manifest.json", lambda text: text[:40]),
        ("manifest.json", lambda text: "[]"),
        ("plan.json", lambda text: text.replace('"dim": 4', '"dim": 5')),
        ("plan.json", lambda text: text[:40]),
        ("plan.json", lambda text: "7"),
        ("commits/00001.json", lambda text: text.replace('"rows": 9', '"rows": 8')),
        ("commits/00001.json", lambda text: text.replace('"shard": 1', '"shard": 0')),
        ("commits/00001.json", lambda text: ""),
    ],
)
def test_damaged_documents_are_refused_at_the_opening(toy: Toy, name: str, change: Callable[[str], str]) -> None:
    path = toy.folder / name
    path.write_text(change(path.read_text()))
    with pytest.raises(StoreCorrupt, match=rf"embeddings/{toy.id}/{name} "):
        toy.store.embeddings(toy.id)


@pytest.mark.parametrize("name", ["plan.json", "listing.parquet", "commits/00001.json", "commits"])
def test_lost_documents_are_refused_at_the_opening(toy: Toy, name: str) -> None:
    path = toy.folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(StoreCorrupt, match=rf"embeddings/{toy.id}/"):
        toy.store.embeddings(toy.id)


def test_a_changed_listing_is_refused(toy: Toy) -> None:
    flip(toy.folder / "listing.parquet", 200)
    found = toy.store.embeddings(toy.id)
    for read in (found.listing, found.summary):
        with pytest.raises(StoreCorrupt, match=r"listing\.parquet"):
            read()


def test_a_set_that_is_deleted_while_it_is_read_is_not_found(toy: Toy) -> None:
    found = toy.store.embeddings(toy.id)
    toy.store.delete_embeddings(toy.id)
    for read in (*READS.values(), EmbeddingSet.summary):
        with pytest.raises(EmbeddingsNotFound):
            read(found)


def test_a_file_is_hashed_once_as_long_as_it_stays_the_same(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    path = toy.folder / "img_emb" / "img_emb_00001.npy"
    record = record_file(path, "img_emb/img_emb_00001.npy")
    original = hash_file
    monkeypatch.setattr(files, "hash_file", lambda path, **kw: hashed.append(path.name) or original(path, **kw))
    past = path.stat().st_mtime - 3600
    os.utime(path, (past, past))
    monkeypatch.setattr(files, "SETTLED_S", -3600.0)  # the change of its times counts as a change, too
    assert [files.damage_of(path, record) for _ in range(3)] == [None] * 3
    assert hashed == [path.name]
    flip(path)
    assert "checksum" in str(files.damage_of(path, record))
    assert len(hashed) == 2


def test_what_changed_just_now_is_not_taken_for_right_from_memory(toy: Toy) -> None:
    path = toy.folder / "img_emb" / "img_emb_00001.npy"
    found, status = toy.store.embeddings(toy.id), path.stat()
    found.shard(1)
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StoreCorrupt):
        toy.store.embeddings(toy.id).shard(1)


def test_a_renamed_set_stays_readable(toy: Toy) -> None:
    toy.folder.rename(toy.folder.with_name("other-1"))
    assert Store(toy.store.root).embeddings("other-1").take(np.array([0])).shape == (1, 4)
