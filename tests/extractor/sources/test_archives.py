"""Images in tar and zip files: WebDataset, several archives, labels beside images; damaged and hostile ones."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from extractor.sources import archives, listing, tars, zips
from extractor.sources.patterns import expanded
from shoal.errors import ArchiveDamaged, ArchiveUnsafe, NoImages, PathNotFound, PathOutsideRoot, SourceInvalid
from shoal.schemas import ImageSource
from shoal.settings import Settings

from tests.extractor.sources.contract import SourceContract, column, listed, picture, pictures, read


def write_tar(path: Path, members: dict[str, bytes], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)


def check(settings: Settings, **fields: Any) -> None:
    listing.check(ImageSource(**fields), settings.data, deadline=None)


class TestTar(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        write_tar(data / "set.tar", images)
        return {"path": "set.tar"}


class TestTarOfTars(SourceContract):
    """As ImageNet's training images are packed: a tar file for each class."""

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        inner: dict[str, bytes] = {}
        for label in sorted({name.split("/")[0] for name in images}):
            write_tar(data / "x", {name.split("/")[1]: each for name, each in images.items() if name.startswith(label)})
            inner[f"{label}.tar"] = (data / "x").read_bytes()
            (data / "x").unlink()
        write_tar(data / "train.tar", inner)
        return {"path": "train.tar"}


class TestWebDataset(SourceContract):
    """Shards by a pattern, with the label beside each image."""

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        shards: list[dict[str, bytes]] = [{}, {}]
        for number, (name, content) in enumerate(images.items()):
            members = {f"{number:05}.cls": name.split("/")[0].encode(), f"{number:05}.{name[-3:]}": content}
            shards[number % 2].update(sorted(members.items(), reverse=number % 3 == 0))
        for number, members in enumerate(shards):
            write_tar(data / f"shards/x-{number:02}.tar", members)
        return {"path": "shards/x-{00..01}.tar"}


class TestFolderOfShards(SourceContract):
    """As img2dataset writes them: a caption and its record beside each image, a table beside each shard."""

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        members: dict[str, bytes] = {}
        for number, (name, content) in enumerate(images.items()):
            record = {"caption": f"picture {number}", "label": name.split("/")[0], "status": "success"}
            members |= {
                f"{number:05}.{name[-3:]}": content,
                f"{number:05}.json": json.dumps(record).encode(),
                f"{number:05}.txt": f"picture {number}".encode(),
            }
        write_tar(data / "crawl/00000.tar", members)
        (data / "crawl/00000_stats.json").write_text("{}")
        return {"path": "crawl"}

    def containers(self, data: Path) -> list[Path]:
        return [data / "crawl/00000.tar"]


class TestZip(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        write_zip(data / "set.zip", images)
        return {"path": "set.zip"}


class TestStoredZips(SourceContract):
    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        for label in ("cat", "dog"):
            chosen = {name: each for name, each in images.items() if name.startswith(label)}
            write_zip(data / f"sets/{label}.zip", chosen, zipfile.ZIP_STORED)
        return {"path": "sets", "format": "zip"}


def test_text_that_repeats_is_a_label_and_a_caption_is_none(settings: Settings) -> None:
    names = [f"{number}.png" for number in range(4)]
    texts = {f"{number}.txt": b"cat" if number < 2 else b"dog" for number in range(4)}
    write_tar(settings.data / "a.tar", pictures(tuple(names)) | texts)
    assert column(listed(settings, path="a.tar"), "label") == ["cat", "cat", "dog", "dog"]
    captions = {f"{number}.txt": b"a cat, seen from %d" % number for number in range(4)}
    write_tar(settings.data / "b.tar", pictures(tuple(names)) | captions)
    assert column(listed(settings, path="b.tar"), "label") == [None] * 4


def test_the_order_is_that_of_archives_and_members(settings: Settings) -> None:
    write_tar(settings.data / "s/1.tar", pictures(("b.png", "a.png")))
    write_tar(settings.data / "s/0.tar", pictures(("z.png",)))
    found = listed(settings, path="s/{1..0}.tar")
    assert column(found, "image_path") == ["1.tar/b.png", "1.tar/a.png", "0.tar/z.png"]
    found = listed(settings, path="s", exclude=["1.tar"])
    assert column(found, "image_path") == ["0.tar/z.png"]


def test_what_is_no_image_is_counted(settings: Settings) -> None:
    members = pictures(("a.png", "noext")) | {"notes.md": b"x", "b.psd": b"8BPS\0\1" + bytes(20)}
    members |= {"__MACOSX/a.png": b"x", "sub/.hidden.png": b"x", "../up.png": b"x", "/root.png": b"x"}
    for path, write in (("a.tar", write_tar), ("a.zip", write_zip)):
        write(settings.data / path, members)
        found = listed(settings, path=path)
        assert sorted(column(found, "image_path")) == ["a.png", "noext"]
        reasons = {group["reason"]: group["count"] for group in found.notes["not_taken"]}
        assert reasons == {"not_an_image": 1, "unsupported_format": 1, "unsafe_name": 2}


def test_of_one_name_the_last_member_counts(settings: Settings) -> None:
    with tarfile.open(settings.data / "a.tar", "w") as tar:
        for seed in (1, 2):
            info = tarfile.TarInfo("a.png")
            info.size = len(picture(seed))
            tar.addfile(info, io.BytesIO(picture(seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(settings.data / "a.zip", "w") as file:
            for seed in (1, 2):
                file.writestr("a.png", picture(seed))
    for path in ("a.tar", "a.zip"):
        found = listed(settings, path=path)
        assert read(settings, found, {"path": path}) == [picture(2)]
        assert found.notes["not_taken"][0]["reason"] == "listed_twice"


def test_links_and_devices_in_a_tar_are_not_followed(settings: Settings) -> None:
    with tarfile.open(settings.data / "a.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    with pytest.raises(NoImages, match=r"3 files"):
        listed(settings, path="a.tar")


@pytest.mark.parametrize("name", ["naïve/日本.png", "x" * 200 + "/" + "y" * 200 + ".png", "a%20b c.png"])
def test_long_and_odd_names(settings: Settings, name: str) -> None:
    for path, write in (("a b%.tar", write_tar), ("a b%.zip", write_zip)):
        write(settings.data / path, pictures((name,)))
        found = listed(settings, path=path)
        assert column(found, "image_path") == [name]
        assert read(settings, found, {"path": path}) == [picture(0)]


class TestDamage:
    def test_a_tar_that_is_cut_off_anywhere(self, settings: Settings) -> None:
        write_tar(settings.data / "whole.tar", pictures())
        whole = (settings.data / "whole.tar").read_bytes()
        with tarfile.open(settings.data / "whole.tar") as tar:
            end = max(info.offset_data + info.size for info in tar.getmembers())
        for length in (0, 100, 700, end // 2, end - 1):
            (settings.data / "cut.tar").write_bytes(whole[:length])
            with pytest.raises(ArchiveDamaged, match=r"'cut.tar' is damaged or truncated .* `images.exclude`"):
                listed(settings, path="cut.tar")

    def test_a_header_in_the_middle_that_is_damaged(self, settings: Settings) -> None:
        write_tar(settings.data / "a.tar", pictures())
        with tarfile.open(settings.data / "a.tar") as tar:
            at = tar.getmembers()[3].offset
        content = bytearray((settings.data / "a.tar").read_bytes())
        content[at + 100 : at + 160] = b"\xaa" * 60
        (settings.data / "a.tar").write_bytes(content)
        with pytest.raises(ArchiveDamaged, match=f"the header at byte {at:,} is damaged"):
            listed(settings, path="a.tar")

    def test_one_damaged_shard_can_be_left_out(self, settings: Settings) -> None:
        write_tar(settings.data / "s/0.tar", pictures())
        (settings.data / "s/1.tar").write_bytes(b"no tar" * 1000)
        with pytest.raises(ArchiveDamaged, match=r"'1\.tar'") as caught:
            listed(settings, path="s")
        assert caught.value.members["archive"] == "1.tar"
        assert listed(settings, path="s", exclude=["1.tar"]).table.num_rows == 6

    def test_a_compressed_tar_says_what_to_do(self, settings: Settings) -> None:
        with tarfile.open(settings.data / "a.tar.gz", "w:gz"):
            pass
        for refuse in (check, listed):
            with pytest.raises(SourceInvalid, match="run `gunzip` on it"):
                refuse(settings, path="a.tar.gz")

    def test_a_zip_that_is_cut_off(self, settings: Settings) -> None:
        write_zip(settings.data / "whole.zip", pictures())
        whole = (settings.data / "whole.zip").read_bytes()
        for length in (0, 100, len(whole) // 2, len(whole) - 10):
            (settings.data / "cut.zip").write_bytes(whole[:length])
            with pytest.raises(ArchiveDamaged, match=r"'cut.zip' is damaged"):
                listed(settings, path="cut.zip")

    def test_damaged_members_of_a_zip_are_errors_each(self, settings: Settings) -> None:
        write_zip(settings.data / "a.zip", pictures(("a.png", "b.png", "c.png")), zipfile.ZIP_STORED)
        with zipfile.ZipFile(settings.data / "a.zip") as file:
            offsets = [info.header_offset for info in file.infolist()]
        content = bytearray((settings.data / "a.zip").read_bytes())
        content[offsets[0] : offsets[0] + 4] = b"nope"
        content[offsets[1] + 100] ^= 1
        (settings.data / "a.zip").write_bytes(content)
        found = listed(settings, path="a.zip")
        assert read(settings, found, {"path": "a.zip"}) == ["image_unreadable", "image_truncated", picture(2)]

    def test_a_missing_archive_of_a_pattern_is_named(self, settings: Settings) -> None:
        write_tar(settings.data / "s/0.tar", pictures())
        with pytest.raises(PathNotFound, match=r"the archive '1\.tar' does not exist"):
            listed(settings, path="s/{0..1}.tar")


class TestHostile:
    def test_a_zip_of_far_more_than_its_size(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zips, "SUSPICIOUS_BYTES", 1 << 20)
        write_zip(settings.data / "a.zip", {"a.png": bytes(8 << 20)})
        for refuse in (check, listed):
            with pytest.raises(ArchiveUnsafe, match=r"more than 200 times its size"):
                refuse(settings, path="a.zip")

    def test_members_that_share_bytes(self, settings: Settings) -> None:
        write_zip(settings.data / "a.zip", pictures(("a.png", "b.png")))
        content = bytearray((settings.data / "a.zip").read_bytes())
        second = content.rindex(b"PK\1\2")
        content[second + 42 : second + 46] = struct.pack("<I", 0)
        (settings.data / "a.zip").write_bytes(content)
        with pytest.raises(ArchiveUnsafe, match="members that overlap"):
            listed(settings, path="a.zip")

    def test_a_member_that_lies_about_its_size(self, settings: Settings) -> None:
        write_zip(settings.data / "a.zip", {"a.png": bytes(1 << 20), "b.png": picture(1)})
        content = bytearray((settings.data / "a.zip").read_bytes())
        first = content.index(b"PK\1\2")
        content[first + 24 : first + 28] = struct.pack("<I", 1000)
        (settings.data / "a.zip").write_bytes(content)
        found = listed(settings, path="a.zip")
        assert read(settings, found, {"path": "a.zip"}) == ["image_truncated", picture(1)]

    def test_methods_that_are_not_read(self, settings: Settings) -> None:
        write_zip(settings.data / "a.zip", {"a.png": picture(1)}, zipfile.ZIP_LZMA)
        found = listed(settings, path="a.zip")
        assert read(settings, found, {"path": "a.zip"}) == ["image_unreadable"]

    def test_too_many_members(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archives, "MOST_MEMBERS", 5)
        monkeypatch.setattr(zips, "MOST_MEMBERS", 5)
        write_tar(settings.data / "a.tar", pictures())
        write_zip(settings.data / "a.zip", pictures())
        for path in ("a.tar", "a.zip"):
            with pytest.raises(ArchiveUnsafe, match="members"):
                listed(settings, path=path)

    def test_a_header_that_fills_the_memory(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tars, "LARGEST_HEADER", 1 << 16)
        write_tar(settings.data / "a.tar", {"x" * (1 << 17): b"x"}, format=tarfile.PAX_FORMAT)
        with pytest.raises(ArchiveUnsafe, match="header of more than"):
            listed(settings, path="a.tar")

    def test_an_archive_outside_of_the_root(self, settings: Settings, tmp_path: Path) -> None:
        write_tar(tmp_path / "a.tar", pictures())
        (settings.data / "s").mkdir()
        (settings.data / "s/a1.tar").symlink_to(tmp_path / "a.tar")
        for path in ("s", "s/a{1,2}.tar", "s/a1.tar", "s/{..,1}/../../a.tar"):
            with pytest.raises((PathOutsideRoot, PathNotFound)):
                listed(settings, path=path, format="tar")

    def test_a_pattern_of_too_many_files(self, settings: Settings) -> None:
        with pytest.raises(SourceInvalid, match="more than 100,000 files"):
            listed(settings, path="{0..999999999999}.tar")

    def test_braces_are_for_archives(self, settings: Settings) -> None:
        with pytest.raises(SourceInvalid, match="only archives"):
            listed(settings, path="{a,b}", format="folder")


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("{a,b}.tar", ["a.tar", "b.tar"]),
        ("{8..10}.tar", ["8.tar", "9.tar", "10.tar"]),
        ("{08..10}.tar", ["08.tar", "09.tar", "10.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("plain", ["plain"]),
    ],
)
def test_braces(pattern: str, paths: list[str]) -> None:
    assert expanded(pattern) == paths
