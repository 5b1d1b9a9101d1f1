"""Repair puts back what checksums prove, takes damaged shards out, and leaves whole sets alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from shoal.errors import EmbeddingsNotFound, StoreCorrupt
from shoal.importer import import_embeddings
from shoal.store import Store
from shoal.store.files import record_file

from tests.shared.store.conftest import Toy

FILES = [
    *(
        f"{kind}/{kind}_00001.{end}"
        for kind, end in (("img_emb", "npy"), ("metadata", "parquet"), ("thumbs", "parquet"))
    ),
    "errors/errors_00001.parquet",
    "commits/00001.json",
]


@pytest.fixture
def toy(make_toy: Callable[..., Toy]) -> Toy:
    toy = make_toy(count=30, shard_rows=10, fails=[4, 14, 24])
    toy.write_all()
    return toy


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complete_again(toy: Toy) -> None:
    """What the same extract request does."""
    found = toy.create()
    for shard in found.missing_shards():
        toy.write(shard)
    toy.store.finish_embeddings(toy.id)
    np.testing.assert_array_equal(toy.store.embeddings(toy.id).take(np.arange(27)), toy.kept)
    assert toy.store.verify(toy.id).problems == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 0x55
    path.write_bytes(content)


def test_a_whole_set_stays_as_it_is(toy: Toy) -> None:
    before = content_of(toy.folder)
    assert toy.store.repair(toy.id).untouched
    assert content_of(toy.folder) == before
    assert not toy.store.layout.trash.exists()


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, cut_short, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("deep", [True, False])
def test_a_damaged_shard_is_taken_out_and_written_again(
    toy: Toy, name: str, damage: Callable[[Path], object], deep: bool
) -> None:
    """Fails without: the look of a repair at each committed file."""
    sound = {
        key: value for key, value in content_of(toy.folder).items() if "00001" not in key and "manifest" not in key
    }
    damage(toy.folder / name)
    report = toy.store.repair(toy.id, deep=deep)
    if not (name.startswith("commits") and damage is flip):
        assert report.removed == [1]
        assert toy.store.embeddings(toy.id).missing_shards() == [1]
        assert not any("00001" in key for key in content_of(toy.folder))
    assert (report.left, report.kind) == ([], "images")
    assert toy.store.verify(toy.id).problems == []
    complete_again(toy)
    after = content_of(toy.folder)
    assert {key: after[key] for key in sound} == sound


def test_creating_the_set_again_repairs_it_and_says_so(toy: Toy) -> None:
    flip(toy.folder / "img_emb" / "img_emb_00002.npy")
    flip(toy.folder / "metadata" / "metadata_00000.parquet")
    found = toy.create()
    assert (found.repaired_shards, found.missing_shards(), found.complete) == ((0, 2), [0, 2], False)
    complete_again(toy)
    assert toy.create().repaired_shards == ()


@pytest.mark.parametrize("kind", ["img_emb", "metadata", "thumbs", "errors", "commits"])
def test_exchanged_files_go_back_to_their_places(toy: Toy, kind: str) -> None:
    before = content_of(toy.folder)
    one, two, three = sorted((toy.folder / kind).iterdir())
    aside = one.with_name(".aside")
    for source, target in ((one, aside), (two, one), (three, two), (aside, three)):
        source.rename(target)
    report = toy.store.repair(toy.id)
    assert (report.removed, report.left) == ([], [])
    assert {name.partition("/")[0] for name in report.restored} == {kind}
    assert content_of(toy.folder) == before


def test_a_file_that_was_renamed_goes_back(toy: Toy) -> None:
    before = content_of(toy.folder)
    path = toy.folder / "metadata" / "metadata_00001.parquet"
    path.rename(path.with_name("metadata_00001.parquet.bak"))
    assert toy.store.repair(toy.id).removed == []
    assert content_of(toy.folder) == before


@pytest.mark.parametrize("change", [lambda text: text[:-40], lambda text: text.replace("27", "28"), lambda text: "{}"])
def test_a_damaged_manifest_is_written_anew(toy: Toy, change: Callable[[str], str]) -> None:
    path = toy.folder / "manifest.json"
    path.write_text(change(path.read_text()))
    report = toy.store.repair(toy.id)
    assert (report.restored, report.removed, report.left) == (["manifest.json"], [], [])
    complete_again(toy)


def test_a_lost_manifest_is_written_anew(toy: Toy) -> None:
    (toy.folder / "manifest.json").unlink()
    assert toy.store.repair(toy.id).restored == ["manifest.json"]
    assert toy.store.verify(toy.id).complete


@pytest.mark.parametrize("name", ["plan.json", "listing.parquet"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:30])])
def test_lost_documents_are_left_to_the_request_that_made_them(
    toy: Toy, name: str, damage: Callable[[Path], object]
) -> None:
    damage(toy.folder / name)
    report = toy.store.repair(toy.id)
    assert ([problem.file for problem in report.left], report.removed) == ([name], [])
    vectors = toy.folder / "img_emb" / "img_emb_00001.npy"
    written = vectors.stat().st_ino
    complete_again(toy)
    assert vectors.stat().st_ino == written


def test_a_folder_without_anything_in_it_becomes_the_set(toy: Toy) -> None:
    shutil.rmtree(toy.folder)
    toy.folder.mkdir()
    complete_again(toy)


def test_a_file_in_the_place_of_the_set_makes_room(toy: Toy) -> None:
    shutil.rmtree(toy.folder)
    toy.folder.write_text("not a folder")
    complete_again(toy)


def test_values_that_no_model_gives_are_found_by_a_repair_that_looks_at_them(toy: Toy) -> None:
    path = toy.folder / "img_emb" / "img_emb_00001.npy"
    vectors = np.load(path)
    vectors[3] = np.nan
    np.save(path, vectors)
    commit_path = toy.folder / "commits" / "00001.json"
    commit = json.loads(commit_path.read_text())
    record = record_file(path, "img_emb/img_emb_00001.npy")
    commit["files"] = [
        json.loads(record.model_dump_json()) if each["path"] == record.path else each for each in commit["files"]
    ]
    commit_path.write_text(json.dumps(commit))
    assert toy.store.repair(toy.id, deep=False).removed == []
    assert toy.store.repair(toy.id).removed == [1]
    complete_again(toy)


def test_what_no_commit_names_is_taken_out(toy: Toy) -> None:
    (toy.folder / "img_emb" / "img_emb_00007.npy").write_bytes(b"x")
    assert toy.store.repair(toy.id).restored == ["img_emb/img_emb_00007.npy"]
    assert toy.store.verify(toy.id).problems == []


def test_a_set_being_written_loses_nothing(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    toy.write(1)
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="alive") as writer:
        writer.append(toy.vectors[:5], toy.metadata(range(5)))
        assert toy.store.repair(toy.id).untouched
        writer.append(toy.vectors[5:10], toy.metadata(range(5, 10)))
        assert writer.commit()
    assert toy.store.embeddings(toy.id).missing_shards() == [2]


def test_a_repair_that_is_cut_off_anywhere_can_be_done_again(toy: Toy, tmp_path: Path) -> None:
    flip(toy.folder / "img_emb" / "img_emb_00001.npy")
    flip(toy.folder / "metadata" / "metadata_00002.parquet")
    damaged = tmp_path / "damaged"
    shutil.copytree(toy.folder, damaged)
    original = Path.rename
    for limit in range(50):
        shutil.rmtree(toy.folder)
        shutil.copytree(damaged, toy.folder)
        left = iter(range(limit))

        def rename(path: Path, target: Path, left: Iterator[int] = left) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(path, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            try:
                toy.store.repair(toy.id)
                done = True
            except KeyboardInterrupt:
                done = False
        # Whatever is left, a reader is refused or reads what was committed.
        try:
            found = toy.store.embeddings(toy.id)
            for entry in found.commits:
                start = {0: 0, 1: 9, 2: 18}[entry]
                np.testing.assert_array_equal(found.shard(entry), toy.kept[start : start + 9])
        except StoreCorrupt:
            pass
        complete_again(toy)
        if done:
            break
    assert done
    assert limit > 5


def test_shards_of_an_import_stay_until_the_same_import_writes_them_again(tmp_path: Path) -> None:
    store, vectors = Store(tmp_path / "store"), np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.save(tmp_path / "mine.npy", vectors)
    embeddings_id = import_embeddings(store, tmp_path / "mine.npy", name="mine", shard_rows=10)
    folder = store.layout.embeddings(embeddings_id).folder
    flip(folder / "img_emb" / "img_emb_00001.npy")
    before = content_of(folder)
    report = store.repair(embeddings_id)
    assert (report.kind, report.removed, [each.file for each in report.left]) == ("import", [], ["shard 1"])
    assert content_of(folder) == before
    assert import_embeddings(store, tmp_path / "mine.npy", name="mine", shard_rows=10) == embeddings_id
    np.testing.assert_array_equal(store.embeddings(embeddings_id).take(np.arange(30)), vectors)


def test_a_set_that_is_not_there_cannot_be_repaired(toy: Toy) -> None:
    for name in ("nothing-1", "../embeddings", ""):
        with pytest.raises(EmbeddingsNotFound):
            toy.store.repair(name)


def test_a_repair_waits_for_another_one(toy: Toy) -> None:
    with toy.store.layout.embeddings(toy.id).locked():
        child = os.fork()
        if not child:
            import fcntl

            descriptor = os.open(toy.folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os._exit(0)
            except BlockingIOError:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
