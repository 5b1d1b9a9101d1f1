"""Which images there are: a folder below the data root as a sorted listing with labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from shoal.deadline import Deadline
from shoal.errors import LabelsInvalid, NoImages, PathNotFound
from shoal.schemas import FolderLevel, ImageSource, LabelFile
from shoal.store.records import LISTING_SCHEMA, image_id
from shoal.userfiles import confine

from extractor.images.formats import IMAGE_SUFFIXES
from extractor.sources.filenames import listed_names
from extractor.sources.folder import Budget, Walk
from extractor.sources.folder_labels import label_at, recognise
from extractor.sources.labels import LabelTable

CHECK_BUDGET = Budget(entries=20_000, seconds=5.0)
"""What a request may wait for; where it does not do, the job finds out."""


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes
    ----------
    table
        The store's `LISTING_SCHEMA`: image_id, image_path (relative to ``source.path``), label, split, stamp.
    notes
        ``not_taken``: which files and folders were left out and why; ``source``: what was recognised. JSON values.
    """

    table: pa.Table
    notes: dict[str, Any]


@dataclass(frozen=True)
class Labelling:
    """Label and split of each path, and what they were told from."""

    labels: list[str | None]
    splits: list[str | None]
    facts: dict[str, Any]


def check(source: ImageSource, root: Path, *, follow_links: bool = False, deadline: Deadline | None) -> None:
    """Refuse a source that cannot work, without listing all of it: it stops at the first image.

    Parameters
    ----------
    deadline
        Of the request, checked at every entry of the folder; None for no limit.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        The folder or the label file.
    NoImages
        The folder holds no image. A folder so large that this takes long is let pass.
    LabelsInvalid
        The label file cannot be read or lacks a column.
    """
    walk = Walk(source_folder(source, root), links_root(root, follow_links), budget=CHECK_BUDGET, deadline=deadline)
    if next(walk.images(), None) is None and not walk.ended_early:
        raise no_images(source, walk)
    if isinstance(source.labels, LabelFile):
        LabelTable.check(confine(root, source.labels.file, "images.labels.file"), source.labels, root.resolve())


def list_source(
    source: ImageSource,
    root: Path,
    *,
    follow_links: bool = False,
    alive: Callable[[int], None] = lambda entries: None,
) -> Listing:
    """Every image of ``source``, in the order of its path's code points, whatever the file system's order is.

    Parameters
    ----------
    source
        Folder, labels and split.
    root
        The data root. An image whose symlink leaves it is listed all the same: decoding it gives a row of errors.
    follow_links
        Follow symlinks that leave the root.
    alive
        Called now and then with the number of files seen; may raise to give up.

    Raises
    ------
    PathOutsideRoot, PathNotFound, NoImages, LabelsInvalid
        As `check` says; also when an image has no row in the label file.
    LabelsAmbiguous
        Folders may be splits or classes.
    """
    walk = Walk(source_folder(source, root), links_root(root, follow_links), alive=alive, deadline=None)
    found = list(walk.images())
    if not found:
        raise no_images(source, walk)
    walk.note_empty_folders(found)
    names = listed_names([image.path for image in found])
    images = sorted((name, image.stamp) for name, image in zip(names, found, strict=True))
    paths = [name for name, _ in images]
    labelling = label(source, paths, root)
    columns: dict[str, list[str | None]] = {
        "image_id": [image_id(path) for path in paths],
        "image_path": [*paths],
        "label": labelling.labels,
        "split": labelling.splits if source.split is None else [source.split] * len(paths),
        "stamp": [stamp for _, stamp in images],
    }
    facts = {**labelling.facts, "system_entries": walk.system_entries}
    return Listing(pa.table(columns, LISTING_SCHEMA), {"not_taken": walk.not_taken.groups(), "source": facts})


def links_root(root: Path, follow_links: bool) -> Path:
    """Where symlinks may lead."""
    return Path("/") if follow_links else root.resolve()


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


def no_images(source: ImageSource, walk: Walk) -> NoImages:
    """The error of a folder without images, which says what it holds instead."""
    not_taken = walk.not_taken.groups()
    instead = " ".join(str(group["message"]) for group in not_taken[:5])
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    return NoImages(
        f"The folder {source.path!r} holds no image that can be read. {instead or 'It holds no file at all.'} "
        f"Images are told by their content, in subfolders too; usual extensions are {endings}.",
        field="images.path",
        not_taken=not_taken,
    )


def label(source: ImageSource, paths: list[str], root: Path) -> Labelling:
    """Label and split of each path: from its folders, from the label file, or none."""
    labels: list[str | None]
    splits: list[str | None] = [None] * len(paths)
    facts: dict[str, Any] = {"splits": [], "wrapper": None}
    if isinstance(source.labels, LabelFile):
        file = confine(root, source.labels.file, "images.labels.file")
        joined = LabelTable.read(file, source.labels, root.resolve()).join(paths)
        message = f"Labels come from the file {source.labels.file!r}. {joined.note or ''}".strip()
        return Labelling(joined.labels, splits, {**facts, "labels": "file", "message": message})
    if isinstance(source.labels, FolderLevel):
        labels = [label_at(path, source.labels.folder_level) for path in paths]
        if not any(labels):
            deepest = max(path.count("/") for path in paths)
            raise LabelsInvalid(
                f"`images.labels` asks for the folders at level {source.labels.folder_level}, from 0, but no image "
                f"lies in more than {deepest} folder{'' if deepest == 1 else 's'} below `images.path`.",
                field="images.labels",
            )
        message = f"The folder at level {source.labels.folder_level} below `path` is the class, as the request says."
        return Labelling(labels, splits, {**facts, "labels": "folder", "message": message})
    if source.labels == "none":
        labels = [None] * len(paths)
        return Labelling(labels, splits, {**facts, "labels": "none", "message": "The request asks for no labels."})
    found = recognise(paths)
    pairs = [found.of(path) for path in paths]
    facts = {
        "splits": list(found.splits),
        "wrapper": found.wrapper,
        "labels": "folder" if found.labelled else "none",
        "message": found.message,
    }
    return Labelling([pair[0] for pair in pairs], [pair[1] for pair in pairs], facts)
