"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from shoal.errors import StoreError, StoreFull
from shoal.store.clustering import ClusteringWriter
from shoal.store.files import publish_file, publish_folder, remove_folder, replace_file
from shoal.store.layout import StoreLayout


def test_a_published_file_is_never_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "x"
    assert publish_file(final, lambda file: file.write(b"first"))
    assert not publish_file(final, lambda file: file.write(b"second"))
    assert final.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [final]


def test_of_many_publishers_one_wins(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    won: list[bytes] = []

    def publish(content: bytes) -> None:
        start.wait()
        if publish_file(tmp_path / "x", lambda file: file.write(content)):
            won.append(content)

    threads = [threading.Thread(target=publish, args=(b"%d" % i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / "x").read_bytes()] == won
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("function", [publish_file, replace_file])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_nothing_behind_and_says_so(tmp_path: Path, function: object, code: int) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(StoreFull, match="space"):
        function(tmp_path / "x", fail)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_could_not_be_replaced_stays(tmp_path: Path) -> None:
    final = tmp_path / "x"
    replace_file(final, lambda file: file.write(b"old"))
    replace_file(final, lambda file: file.write(b"new"))

    def fail(file: BinaryIO) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(StoreError, match="broken"):
        replace_file(final, fail)
    assert final.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [final]


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="hard links"):
        publish_file(tmp_path / "x", lambda file: file.write(b"1"))


def test_of_two_folders_the_first_stays(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(name)
    assert publish_folder(tmp_path / "a", tmp_path / "to" / "x")
    assert not publish_folder(tmp_path / "b", tmp_path / "to" / "x")
    assert (tmp_path / "to/x/deep/file").read_text() == "a"
    assert not (tmp_path / "b").exists()


def test_a_removed_folder_is_gone_with_what_was_left_in_the_trash(tmp_path: Path) -> None:
    trash = tmp_path / ".trash"
    (trash / "old").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("1")
    assert remove_folder(tmp_path / "x", trash)
    assert not remove_folder(tmp_path / "x", trash)
    assert list(tmp_path.rglob("*")) == [trash]


@pytest.mark.parametrize("made", [0, 1])
def test_a_result_whose_folders_cannot_be_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    store = StoreLayout(tmp_path)
    store.temporary.mkdir()
    mkdir, left = Path.mkdir, [made]

    def until_full(path: Path, *arguments: object, **options: object) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        left[0] -= 1
        mkdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", until_full)
        with pytest.raises(StoreFull), ClusteringWriter(store, "c-1"):
            pass
    assert list(store.temporary.iterdir()) == []
