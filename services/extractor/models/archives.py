"""Extracts the folder of a model from a zip or tar file, which is not trusted."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from shoal.errors import WeightsInvalid

from extractor.models.bucket import MAX_BYTES, is_safe
from extractor.models.download import require_room

MAX_MEMBERS = 10_000
CHUNK = 2**20
MARK = "saved_model.pb"
PREFERRED = "hub"
"""Name of the folder that is extracted if several hold a model."""


@dataclass(frozen=True)
class _Member:
    path: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, kind: Literal["zip", "tar"], target: Path, on_progress: Callable[[], None]) -> None:
    """Write the files of the model's folder in `archive` into the new folder `target`.

    Parameters
    ----------
    on_progress
        Called often; may raise to stop.

    Raises
    ------
    WeightsInvalid
        The archive is damaged or of another kind, holds no model or several, is larger than the limit for a model, or
        holds links, devices, or paths that lead out of it.
    DownloadFailed
        The disk has no room for the files.
    """
    try:
        with _members(archive, kind) as members:
            folder = _model_folder([member.path for member in members], archive)
            wanted = [member for member in members if _below(member.path, folder)]
            require_room(target.parent, sum(member.size for member in wanted))
            target.mkdir(parents=True)
            for member in wanted:
                _write(member, target / member.path[len(folder) :].lstrip("/"), on_progress)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsInvalid(
            f"{archive.name} cannot be unpacked as a {kind} file: {error}.", file=archive.name
        ) from error


def _write(member: _Member, path: Path, on_progress: Callable[[], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, path.open("xb") as file:
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise WeightsInvalid(
                    f"{member.path!r} in the archive is larger than its header says. Download the archive again."
                )
            file.write(chunk)
            on_progress()
    if left:
        raise WeightsInvalid(f"{member.path!r} in the archive is cut off. Download the archive again.")


@contextmanager
def _members(archive: Path, kind: Literal["zip", "tar"]) -> Iterator[list[_Member]]:
    with zipfile.ZipFile(archive) if kind == "zip" else tarfile.open(archive, "r:*") as opened:
        found = _of_zip(opened) if isinstance(opened, zipfile.ZipFile) else _of_tar(opened)
        members: dict[str, _Member] = {}
        total = 0
        for member in found:
            total += member.size
            if len(members) >= MAX_MEMBERS or total > MAX_BYTES:
                raise WeightsInvalid(
                    f"{archive.name} has more than {MAX_MEMBERS:,} files or {MAX_BYTES / 1e9:.0f} GB, the "
                    "limit for a model."
                )
            if not is_safe(member.path):
                raise WeightsInvalid(
                    f"{archive.name} holds {member.path!r}, which leads out of the archive; it is not unpacked."
                )
            if member.path in members:
                raise WeightsInvalid(f"{archive.name} holds {member.path!r} twice; it is not unpacked.")
            members[member.path] = member
        yield list(members.values())


def _of_zip(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if info.is_dir():
            continue
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise WeightsInvalid(
                f"{info.filename!r} in the archive is a link or a device; expected only files and folders."
            )
        yield _Member(info.filename, info.file_size, partial(archive.open, info))


def _of_tar(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise WeightsInvalid(
                f"{info.name!r} in the archive is a link or a device; expected only files and folders."
            )
        path = info.name.removeprefix("./")
        yield _Member(path, info.size, partial(_open_regular, archive, info))


def _open_regular(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(info)
    if opened is None:
        raise tarfile.ReadError(f"{info.name!r} is not a regular file")
    return opened


def _model_folder(paths: list[str], archive: Path) -> str:
    """The folder in the archive that holds the model; ``""`` if no folder does."""
    found = [path.removesuffix(MARK).rstrip("/") for path in paths if PurePosixPath(path).name == MARK]
    preferred = [folder for folder in found if PurePosixPath(folder).name == PREFERRED]
    if len(found) == 1 or len(preferred) == 1:
        return (preferred or found)[0]
    if not found:
        raise WeightsInvalid(f"{archive.name} has no {MARK}, so it is not a TensorFlow model.", file=archive.name)
    raise WeightsInvalid(
        f"{archive.name} holds {len(found)} models, in {', '.join(map(repr, sorted(found)[:5]))}: unpack it, and "
        "import one of these folders with `shoal models import-tf NAME FOLDER`.",
        file=archive.name,
    )


def _below(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def replace_folder(prepared: Path, target: Path) -> None:
    """Move the folder ``prepared`` to ``target``; a folder that is there is removed."""
    shutil.rmtree(target, ignore_errors=True)
    prepared.rename(target)
