"""Archives of others: a model's folder comes out of them, and nothing else ever."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from extractor.models import archives
from extractor.models.download import DownloadFailed
from shoal.errors import WeightsInvalid

Kind = Literal["zip", "tar"]
MODEL = {"saved_model.pb": b"graph", "variables/variables.index": b"index", "variables/variables.data": b"x" * 5000}


def write(path: Path, kind: Kind, files: dict[str, bytes]) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def unpack(path: Path, kind: Kind, target: Path) -> dict[str, bytes]:
    archives.unpack(path, kind, target, lambda: None)
    return {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("kind", "folder"), [("tar", "./"), *((k, f) for k in ("zip", "tar") for f in ("", "ResNet50_1x/hub/", "a/b/"))]
)
def test_the_models_folder_comes_out_wherever_it_lies(kind: Kind, folder: str, tmp_path: Path) -> None:
    beside = {"ResNet50_1x/model.ckpt-1.index": b"i", "README": b"r"} if folder not in ("", "./") else {}
    files = {**beside, **{folder + name: content for name, content in MODEL.items()}}
    assert unpack(write(tmp_path / "a", kind, files), kind, tmp_path / "out") == MODEL


def test_of_several_models_the_hub_module_is_meant(tmp_path: Path) -> None:
    files = {f"{folder}/{name}": content for folder in ("m/hub", "m/other") for name, content in MODEL.items()}
    assert unpack(write(tmp_path / "a", "zip", files), "zip", tmp_path / "out") == MODEL
    files = {f"{folder}/{name}": content for folder in ("m/one", "m/two") for name, content in MODEL.items()}
    with pytest.raises(WeightsInvalid, match=r"'m/one', 'm/two'"):
        unpack(write(tmp_path / "b", "zip", files), "zip", tmp_path / "none")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "a//b", "x" * 300])
def test_a_name_that_leads_out_is_refused_and_nothing_written(kind: Kind, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", kind, {**MODEL, name: b"evil"})
    with pytest.raises(WeightsInvalid, match="leads out of the archive"):
        unpack(path, kind, tmp_path / "sub" / "out")
    assert {p.name for p in tmp_path.rglob("*")} <= {"a", "sub"}


def link_in_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("saved_model.pb")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")


def special_in_tar(kind: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("saved_model.pb")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)

    return make


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("zip", link_in_zip),
        *(("tar", special_in_tar(t)) for t in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)),
    ],
)
def test_links_and_devices_are_refused(kind: Kind, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(WeightsInvalid, match="link or a device"):
        unpack(tmp_path / "a", kind, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_more_than_any_model_has_is_refused(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", kind, {**MODEL, "bomb": bytes(200_000)})
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)
    with pytest.raises(WeightsInvalid, match="the limit for a model"):
        unpack(path, kind, tmp_path / "out")
    monkeypatch.setattr(archives, "MAX_BYTES", 10**9)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(WeightsInvalid, match="the limit for a model"):
        unpack(path, kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_is_no_archive_or_damaged_is_refused(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"<html>Sign in</html>" * 100)
    with pytest.raises(WeightsInvalid, match="cannot be unpacked"):
        unpack(tmp_path / "page", kind, tmp_path / "out")
    whole = write(tmp_path / "a", kind, {"saved_model.pb": bytes(range(256)) * 500}).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsInvalid):
        unpack(tmp_path / "cut", kind, tmp_path / "out2")


def test_an_archive_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r"no saved_model\.pb"):
        unpack(write(tmp_path / "a", "zip", {"model.ckpt": b"x"}), "zip", tmp_path / "out")


def test_a_disk_without_room_is_seen_before_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    path = write(tmp_path / "a", "zip", MODEL)
    monkeypatch.setattr("extractor.models.download.shutil.disk_usage", lambda _path: Usage)
    with pytest.raises(DownloadFailed, match="left"):
        unpack(path, "zip", tmp_path / "out")
