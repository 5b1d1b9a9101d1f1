"""A part of an upload is there as a whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from extractor.uploads.receive import Receiver
from extractor.uploads.unpack import TAR
from shoal.deadline import Deadline
from shoal.errors import UploadInvalid
from shoal.gc import find, remove
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.uploads import Upload
from shoal.web.spool import Spooled

from tests.extractor.uploads.test_unpack import tar

FIRST = {"a.png": b"1", "in/b.png": b"2", "z": b"3"}
SECOND = {"a.png": b"new", "in/new.png": b"4"}


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(Settings(store=tmp_path / "store"), Store(tmp_path / "store"))


@pytest.fixture
def upload_id(receiver: Receiver) -> str:
    """An upload of one part."""
    upload_id = receiver.uploads.create(None, None)[0].id
    send(receiver, upload_id, 0, FIRST)
    return upload_id


def send(receiver: Receiver, upload_id: str, number: int, files: dict[str, bytes]) -> None:
    body = receiver.store.root / "body.tar"
    body.write_bytes(tar(files))
    spooled = Spooled(body, body.stat().st_size, f"{number:064}")
    receiver.add(upload_id, None, number, spooled, TAR, Deadline(60))


def images(upload: Upload) -> dict[str, bytes]:
    """The files that an extraction reads."""
    root = upload.layout.images
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("clash", [{"z/c.png": b"4"}, {"in": b"4"}])
def test_a_part_that_cannot_lie_beside_another_leaves_none_of_its_files(
    receiver: Receiver, upload_id: str, clash: dict[str, bytes]
) -> None:
    """Fails without: the look at all names of a part before it counts."""
    with pytest.raises(UploadInvalid, match="a file in one place and a folder in another"):
        send(receiver, upload_id, 1, {**SECOND, **clash})
    upload = receiver.uploads.get(upload_id, None)
    assert images(upload) == FIRST
    assert list(upload.parts) == [0]
    assert list(find(receiver.store, None, work_age_s=0)) == []
    send(receiver, upload_id, 1, SECOND)
    assert images(upload) == {**FIRST, **SECOND}


@pytest.mark.parametrize("number", [1, 2])
def test_a_part_that_counts_comes_to_its_place_with_whatever_comes_next(
    receiver: Receiver, upload_id: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies between the two; the same part again, or another one.

    Fails without: parts that count being moved to their places with the next one.
    """
    with monkeypatch.context() as patch:
        patch.setattr(Upload, "place", lambda self: None)
        send(receiver, upload_id, 1, SECOND)
    upload = receiver.uploads.get(upload_id, None)
    assert (list(upload.parts), images(upload)) == ([0, 1], FIRST)
    assert list(find(receiver.store, None, work_age_s=0)) == [], "it is no garbage"
    send(receiver, upload_id, number, SECOND)
    receiver.uploads.get(upload_id, None).finish()
    assert images(upload) == {**FIRST, **SECOND}


def test_the_files_of_a_part_are_on_the_disk_before_it_counts(
    receiver: Receiver, upload_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails without: the sync before a part's line is written."""
    upload, seen = receiver.uploads.get(upload_id, None), []

    def sync() -> None:
        [folder] = upload.layout.arrived.iterdir()
        counted = list(receiver.uploads.get(upload_id, None).parts)
        seen.append((counted, sorted(path.name for path in folder.rglob("*.png"))))

    monkeypatch.setattr(os, "sync", sync)
    send(receiver, upload_id, 1, SECOND)
    assert seen == [([0], ["a.png", "new.png"])]


def test_a_part_that_never_counted_is_garbage(receiver: Receiver, upload_id: str) -> None:
    """Fails without: the parts that do not count among what `shoal gc` finds."""
    upload = receiver.uploads.get(upload_id, None)
    arrived = upload.layout.arrived / "1-0123456789abcdef"
    arrived.mkdir(parents=True)
    (arrived / "a.png").write_bytes(b"new")
    upload.finish()
    assert images(upload) == FIRST
    assert [each.path for each in find(receiver.store, None)] == [], "it may arrive now"
    [found] = find(receiver.store, None, work_age_s=0)
    assert (found.path, found.kind) == (arrived, "work")
    assert remove(receiver.store, found) > 0
    assert not arrived.exists()
