"""Bodies become files within limits; what is hostile is refused, and nothing is left outside the folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from extractor.uploads import files as limits
from extractor.uploads.files import Files, clean_name
from extractor.uploads.unpack import FORM, MAX_READ, TAR, ZIP, kind_of, unpack
from shoal.errors import QuotaExceeded, UnsupportedMediaType, UploadInvalid

FORM_TYPE = f"{FORM}; boundary=edge"
Unpack = Callable[..., Files]


def tar(entries: dict[str, bytes], **changes: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for attribute, value in changes.items():
                setattr(member, attribute, value)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zipped(entries: dict[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries.items():
            member = zipfile.ZipInfo(name, (2020, 2, 2, 2, 2, 2))
            member.external_attr = mode << 16
            archive.writestr(member, content, method)
    return out.getvalue()


def form(entries: dict[str, bytes]) -> bytes:
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in entries.items()
    ]
    return b"".join(parts) + b"--edge--\r\n"


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {TAR: tar, ZIP: zipped, FORM_TYPE: form}


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpack:
    """``unpacked(body, kind, room_bytes=…)``: the files that a body gives."""

    def run(body: bytes, kind: str, *, room_bytes: int = 2**40, room_files: int = 10**6) -> Files:
        target = tmp_path / "in" / "target"
        target.mkdir(parents=True)
        (tmp_path / "body").write_bytes(body)
        found = Files(target, len(body), room_bytes, room_files)
        unpack(tmp_path / "body", kind, found)
        return found

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_files_keep_their_paths_and_bytes(unpacked: Unpack, kind: str) -> None:
    sent = {"cat/ä 1.png": b"one" * 100_000, "./dog/2.png": b"", "3.png": b"\r\n--edge\r\n"[:7]}
    found = unpacked(KINDS[kind](sent), kind)
    there = {path: (found.folder / path).read_bytes() for path in found.paths}
    assert there == {"cat/ä 1.png": sent["cat/ä 1.png"], "dog/2.png": b"", "3.png": sent["3.png"]}
    assert found.bytes == sum(map(len, sent.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_and_system_files_are_left_out(unpacked: Unpack, kind: str) -> None:
    found = unpacked(KINDS[kind]({"__MACOSX/a.png": b"1", "a/.DS_Store": b"2", "Thumbs.db": b"3", "a.png": b"4"}), kind)
    assert list(found.paths) == ["a.png"]


def test_the_time_of_change_is_kept(unpacked: Unpack) -> None:
    found = unpacked(tar({"a.png": b"1"}, mtime=1_500_000_000), TAR)
    assert (found.folder / "a.png").stat().st_mtime == 1_500_000_000


HOSTILE: tuple[str, ...] = (
    "../a.png",
    "a/../../b.png",
    "/etc/a.png",
    "a\\..\\b.png",
    "C:/a.png",
    "c:a.png",
    "a\nb.png",
    "x" * 300,
)
HOSTILE += ("/".join("a" * 40), "")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_or_breaks_the_folder(name: str) -> None:
    with pytest.raises(UploadInvalid):
        clean_name(name)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_name_writes_nothing_anywhere(unpacked: Unpack, tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(UploadInvalid, match="leads out"):
        unpacked(KINDS[kind]({name: b"1"}), kind)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["body"]


def test_a_name_that_is_not_text_is_refused(unpacked: Unpack) -> None:
    body = tar({"caf\xe9.png": b"1"}).replace("\xe9".encode(), b"\xff\xff")
    with pytest.raises(UploadInvalid):
        unpacked(body, TAR)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_with_links_or_devices_is_refused(unpacked: Unpack, kind: bytes) -> None:
    with pytest.raises(UploadInvalid, match="link, a device"):
        unpacked(tar({"a.png": b""}, type=kind, linkname="/etc/passwd"), TAR)


def test_a_zip_with_links_is_refused(unpacked: Unpack) -> None:
    with pytest.raises(UploadInvalid, match="link or a device"):
        unpacked(zipped({"a.png": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777), ZIP)


def test_an_encrypted_or_oddly_compressed_zip_is_refused(unpacked: Unpack) -> None:
    with pytest.raises(UploadInvalid, match="deflate"):
        unpacked(zipped({"a.png": b"1" * 100}, method=zipfile.ZIP_LZMA), ZIP)


def test_a_password_is_refused(unpacked: Unpack) -> None:
    body = bytearray(zipped({"a.png": b"1"}))
    body[body.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UploadInvalid, match="encrypted"):
        unpacked(bytes(body), ZIP)


def test_a_zip_bomb_stops_at_the_ratio(unpacked: Unpack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 20)
    body = zipped({f"{number}.png": bytes(40 << 20) for number in range(2)})
    assert len(body) < 100_000
    with pytest.raises(UploadInvalid, match="unpacks to more than"):
        unpacked(body, ZIP)
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("*.png")) < 12 << 20


def test_hidden_entries_of_a_bomb_count_too(unpacked: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 20)
    with pytest.raises(UploadInvalid, match="unpacks to more than"):
        unpacked(zipped({".hidden": bytes(40 << 20)}), ZIP)


def test_a_sparse_tar_is_refused(unpacked: Unpack, tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.png")
    member.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(UploadInvalid):
        unpacked(bytes(head) + bytes(1024), TAR)


def test_too_many_entries_are_refused(unpacked: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MEMBERS", 3)
    with pytest.raises(UploadInvalid, match="more than 3 entries"):
        unpacked(tar({f"{number}/": b"" for number in range(4)}, type=tarfile.DIRTYPE), TAR)


def test_a_long_header_is_not_read_into_memory(unpacked: Unpack) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, MAX_READ + 1024
    with pytest.raises(UploadInvalid, match="table of contents"):
        unpacked(member.tobuf() + bytes(MAX_READ + 4096), TAR)


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_is_cut_off_is_refused(unpacked: Unpack, kind: str) -> None:
    body = KINDS[kind]({"a.png": os.urandom(5000), "b.png": os.urandom(5000)})
    if kind == TAR:
        body = body[: len(body) // 512 // 2 * 512 - 512 * 8]
    with pytest.raises(UploadInvalid):
        unpacked(body[:7000] if kind != TAR else body[:6144], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_something_else_is_refused(unpacked: Unpack, kind: str) -> None:
    with pytest.raises(UploadInvalid):
        unpacked(b"GIF89a" + os.urandom(5000), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_one_path_for_two_files_is_refused(unpacked: Unpack, kind: str) -> None:
    with pytest.raises(UploadInvalid, match="twice"):
        unpacked(KINDS[kind]({"a.png": b"1", "./a.png": b"2"}), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_a_folder_too_is_refused(unpacked: Unpack, kind: str) -> None:
    with pytest.raises(UploadInvalid, match="file in one place"):
        unpacked(KINDS[kind]({"a": b"1", "a/b.png": b"2"}), kind)


def test_the_quota_bounds_bytes_and_files(unpacked: Unpack) -> None:
    with pytest.raises(QuotaExceeded, match="bytes"):
        unpacked(tar({"a.png": b"12345"}), TAR, room_bytes=4)


def test_the_quota_bounds_files(unpacked: Unpack) -> None:
    with pytest.raises(QuotaExceeded, match="files"):
        unpacked(tar({"a.png": b"1", "b.png": b"2"}), TAR, room_files=1)


def test_fields_of_a_form_that_are_no_files_are_named(unpacked: Unpack) -> None:
    body = b'--edge\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n--edge--\r\n'
    with pytest.raises(UploadInvalid, match="'colour'"):
        unpacked(body, FORM_TYPE)


@pytest.mark.parametrize("kind", ["", "application/json", "application/gzip", "multipart/form-data", "image/png"])
def test_other_media_types_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        kind_of(kind)
