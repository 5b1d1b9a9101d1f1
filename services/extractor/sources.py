"""Which images there are: a folder below the data root as a sorted listing with labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import structlog
from shoal.errors import NoImages, PathNotFound
from shoal.paths import confine
from shoal.schemas import ImageSource, LabelFile
from shoal.store.manifest import LISTING_SCHEMA, image_id

from extractor.labels import LabelTable

log = structlog.get_logger(__name__)

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""Endings of the file names that are taken for images, in lower case."""


@dataclass(frozen=True, slots=True, order=True)
class FoundImage:
    """An image file. ``path`` is relative to the source's folder, with forward slashes."""

    path: str
    bytes: int
    mtime_ns: int

    @property
    def stamp(self) -> str:
        """Changes when the file does, so that an edited image makes a new plan."""
        return f"{self.bytes}:{self.mtime_ns}"


def check(source: ImageSource, root: Path) -> None:
    """Refuse a source that cannot work, without listing all of it: it stops at the first image.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        The folder or the label file.
    NoImages
        The folder holds no image.
    LabelsInvalid
        The label file cannot be read or lacks a column.
    """
    folder = source_folder(source, root)
    if next(walk(folder, root.resolve()), None) is None:
        raise no_images(source)
    if isinstance(source.labels, LabelFile):
        LabelTable.check(confine(root, source.labels.file, "images.labels.file"), source.labels, root.resolve())


def list_images(source: ImageSource, root: Path) -> pa.Table:
    """Every image of ``source``, in the order of its path's code points, whatever the file system's order is.

    Parameters
    ----------
    source
        Folder, labels and split.
    root
        The data root. A file whose symlink leaves it is listed all the same: decoding it gives a row of errors.

    Returns
    -------
    pyarrow.Table
        The store's `LISTING_SCHEMA`: image_id, image_path (relative to ``source.path``), label, split, stamp.

    Raises
    ------
    PathOutsideRoot, PathNotFound, NoImages, LabelsInvalid
        As `check` says; also when an image has no row in the label file.
    """
    folder = source_folder(source, root)
    images = sorted(walk(folder, root.resolve()))
    if not images:
        raise no_images(source)
    paths = [image.path for image in images]
    columns: dict[str, list[str | None]] = {
        "image_id": [image_id(path) for path in paths],
        "image_path": [*paths],
        "label": labels_of(source, paths, root),
        "split": [source.split] * len(paths),
        "stamp": [image.stamp for image in images],
    }
    return pa.table(columns, LISTING_SCHEMA)


def source_folder(source: ImageSource, root: Path) -> Path:
    """The source's folder with symlinks resolved.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        It is not a folder below ``root``.
    """
    folder = confine(root, source.path, "images.path")
    if not folder.is_dir():
        raise PathNotFound(
            f"`images.path` is {source.path!r}, which is a file: give the folder that holds the images.",
            field="images.path",
        )
    return folder


def no_images(source: ImageSource) -> NoImages:
    """The error of a folder without images."""
    endings = " ".join(sorted(EXTENSIONS))
    return NoImages(
        f"The folder {source.path!r} holds no image: files that end in {endings} are looked for, in subfolders too.",
        field="images.path",
    )


def labels_of(source: ImageSource, paths: list[str], root: Path) -> list[str | None]:
    """The label of each path: from its first folder, from the label file, or none."""
    if isinstance(source.labels, LabelFile):
        file = confine(root, source.labels.file, "images.labels.file")
        return LabelTable.read(file, source.labels, root.resolve()).labels(paths)
    if source.labels == "none":
        return [None] * len(paths)
    return [path.partition("/")[0] if "/" in path else None for path in paths]


def walk(folder: Path, root: Path) -> Iterator[FoundImage]:
    """Every image file below ``folder``, in no particular order.

    Hidden files and folders are skipped. A symlink to a folder is followed while it stays below ``root`` and does not
    lead back to one of its own parents.
    """
    pending: list[tuple[str, str, tuple[str, ...]]] = [(str(folder), "", (os.path.realpath(folder),))]
    while pending:
        path, prefix, parents = pending.pop()
        try:
            entries = os.scandir(path)
        except OSError as error:
            raise PathNotFound(f"The folder {prefix or '.'!r} cannot be listed: {error.strerror}.") from error
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                relative = prefix + entry.name
                if _is_folder(entry):
                    inner = _followed(entry, relative, parents, root)
                    if inner is not None:
                        pending.append((entry.path, f"{relative}/", (*parents, inner)))
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122 - once an image
                    yield _found(entry, relative)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _followed(entry: os.DirEntry[str], relative: str, parents: tuple[str, ...], root: Path) -> str | None:
    """The folder's real path; None when it is a symlink that must not be followed."""
    if not entry.is_symlink():
        return os.path.join(parents[-1], entry.name)  # noqa: PTH118 - once a folder
    real = os.path.realpath(entry.path)
    if real in parents:
        log.warning("a symlink to one of its own parents is not followed", folder=relative)
        return None
    if not Path(real).is_relative_to(root):
        log.warning("a symlink that leaves the data root is not followed", folder=relative)
        return None
    return real


def _found(entry: os.DirEntry[str], relative: str) -> FoundImage:
    # A name that is not UTF-8 cannot be stored as text: its escaped form is listed, and becomes a row of errors.
    path = relative.encode("utf-8", "backslashreplace").decode("utf-8")
    try:
        status = entry.stat()
    except OSError:
        return FoundImage(path, 0, 0)  # A dangling symlink, or gone already: decoding it says so.
    return FoundImage(path, status.st_size, status.st_mtime_ns)
