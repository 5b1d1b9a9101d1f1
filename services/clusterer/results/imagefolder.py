"""The images of a clustering as a tar archive, a folder a class, as `ImageFolder` of torchvision reads it unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from pydantic_core import to_json
from shoal.class_folders import ClassFolders
from shoal.errors import FileUnusable, InvalidRequest, PathNotFound, PathOutsideRoot
from shoal.store import EmbeddingSet, Store
from shoal.store.uploads import Uploads
from shoal.userfiles import confine, open_confined

from clusterer.results.tools import Export, Image

LEFT_OUT: Final = "left-out.jsonl"
"""The last member, if images are missing: which, and why."""
LISTED: Final = 10_000
"""Images that it names; of more it says how many."""
PIECE: Final = 1 << 18
"""Bytes that are read, and sent, together."""
_BLOCK: Final = 512
_UPLOAD: Final = "upload:"


@dataclass(frozen=True)
class ImageFiles:
    """Where the files of a set's images lie.

    Attributes
    ----------
    root
        Nothing that is not below it is read; its symlinks are resolved.
    folders
        What the paths of images may be relative to, the likeliest first.
    """

    root: Path
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, store: Store, embeddings: EmbeddingSet, data: Path, owner: str | None) -> ImageFiles:
        """The files of a set below the data root, or of an upload of ``owner``.

        Raises
        ------
        InvalidRequest
            The set was imported.
        PathNotFound
            The source is gone.
        UploadNotFound
            The upload is gone, or another key's.
        """
        source = embeddings.plan.source
        if source.kind == "import":
            raise InvalidRequest(
                f"Embeddings {embeddings.id!r} were imported: the service does not know where their images are. "
                "`shoal export --format imagefolder --images FOLDER` takes them from a folder of your machine.",
                field="embeddings",
            )
        root, path = data.resolve(), source.path
        if path.startswith(_UPLOAD):
            upload_id, _, path = path.removeprefix(_UPLOAD).partition("/")
            root = Uploads(store.layout).get(upload_id, owner, "embeddings").layout.images.resolve()
        try:
            found = confine(root, path or ".", "embeddings")
        except (PathNotFound, PathOutsideRoot):
            raise PathNotFound(
                f"The images of {embeddings.id!r} were in {source.path!r}, which is not below the data root any more.",
                field="embeddings",
            ) from None
        # The entries of a list may lie beside it, or anywhere below the root.
        return cls(root, (found,) if found.is_dir() else (found.parent, root))

    @contextmanager
    def open(self, image: Image) -> Iterator[BinaryIO | str]:
        """An image's file; or why it is not exported: ``missing``, ``outside`` the root, or ``changed``."""
        path, found = PurePosixPath(image.path), "missing"
        if path.is_absolute() or ".." in path.parts or "\0" in image.path:
            yield "outside"
            return
        with ExitStack() as opened:
            for folder in self.folders:
                try:
                    file = opened.enter_context(open_confined(self.root, folder / path))
                except PathOutsideRoot:
                    found = "outside"
                except OSError:
                    continue
                else:
                    if image.bytes in {None, os.fstat(file.fileno()).st_size}:
                        yield file
                        return
                    found = "changed"
            yield found


def tar_pieces(export: Export, files: ImageFiles) -> Iterator[bytes]:
    """The archive, in pieces; it ends with `LEFT_OUT` if images are left out.

    Raises
    ------
    PathNotFound
        There is none of the images; before the first piece.
    FileUnusable
        A file became shorter while it was read.
    """
    buffer = bytearray()
    for part in _members(export, files):
        buffer += part
        if len(buffer) >= PIECE:
            yield bytes(buffer)
            buffer.clear()
    buffer += bytes(2 * _BLOCK)
    yield bytes(buffer)


def _members(export: Export, files: ImageFiles) -> Iterator[bytes]:
    folders, left, count, written = ClassFolders([LEFT_OUT]), bytearray(), 0, 0
    for image in export.images():
        with files.open(image) as file:
            if not isinstance(file, str):
                written += 1
                yield from _member(f"{folders.of(image.name)}/{image.path}", file)
                continue
        count += 1
        if count <= LISTED:
            left += to_json({"row": image.row, "image_path": image.path, "why": file}) + b"\n"
    if not written:
        raise PathNotFound(
            f"None of the images of {export.embeddings!r} is a file as it was embedded. Images in archives, in Parquet "
            "files and at addresses are not exported.",
            field="embeddings",
        )
    if count > LISTED:
        left += to_json({"more": count - LISTED}) + b"\n"
    if count:
        yield _header(LEFT_OUT, len(left), 0)
        yield bytes(left) + _padding(len(left))


def _member(name: str, file: BinaryIO) -> Iterator[bytes]:
    status = os.fstat(file.fileno())
    left = status.st_size
    yield _header(name, left, int(status.st_mtime))
    while left:
        part = file.read(min(left, PIECE))
        if not part:
            raise FileUnusable(f"The image {name!r} became shorter while it was read.")
        left -= len(part)
        yield part
    yield _padding(status.st_size)


def _header(name: str, size: int, changed: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, max(changed, 0)
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
