"""Labels and splits of images: from a label file, from their folders, or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shoal.errors import LabelsAmbiguous, LabelsInvalid
from shoal.schemas import FolderLevel, ImageSource, LabelFile

from extractor.sources import labels as label_files

HINT = 'Send `images.labels` as {"folder_level": n} to take the nth folder below `path`, from 0, or "none".'

SPLIT = re.compile(r"(?:train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)(?:[-_]?20\d\d)?", re.IGNORECASE)
"""Names of folders that are splits."""
_WRAPPERS = frozenset(
    {"data", "dataset", "files", "images", "image", "img", "imgs", "jpegimages", "jpeg", "jpg", "photos", "pictures"}
    | {"pics", "png", "raw"}
)
"""Common names of a folder that holds all images and is no class, in lower case."""
_SHARD = re.compile(r"\d{5}")
_TRACK = re.compile(r"\d{5}_\d{5}")
"""Files of traffic sign data sets, whose classes are folders of five digits."""
_NAMED_FOLDERS = 5

_Folder = tuple[str, ...]


@dataclass(frozen=True)
class Labelling:
    """Label and split of each path, and where they come from."""

    labels: list[str | None]
    splits: list[str | None]
    source: Literal["file", "folder", "source", "none"]
    message: str
    split_folders: tuple[str, ...] = ()
    wrapper: str | None = None


def label(source: ImageSource, paths: Sequence[str], root: Path) -> Labelling:
    """Label and split of each path: from its folders, from the label file, or none."""
    unsplit: list[str | None] = [None] * len(paths)
    if isinstance(source.labels, LabelFile):
        joined = label_files.read(source.labels, root, paths)
        message = f"Labels come from the file {source.labels.file!r}. {joined.note or ''}".strip()
        return Labelling(joined.labels, unsplit, "file", message)
    if isinstance(source.labels, FolderLevel):
        return _by_level(source.labels.folder_level, paths)
    if source.labels == "none":
        return Labelling([None] * len(paths), unsplit, "none", "The request sets `labels` to `none`.")
    return _by_folders(paths)


def _by_level(level: int, paths: Sequence[str]) -> Labelling:
    folders = [path.split("/")[:-1] for path in paths]
    labels = [folder[level] if level < len(folder) else None for folder in folders]
    if not any(labels):
        deepest = max(map(len, folders))
        raise LabelsInvalid(
            f"`images.labels` is the folder at level {level}, from 0, but no image lies in more than {deepest} "
            f"folder{'' if deepest == 1 else 's'} below `images.path`.",
            field="images.labels",
        )
    message = f"The folder at level {level} below `path` is the class, as the request says."
    return Labelling(labels, [None] * len(paths), "folder", message)


def _by_folders(paths: Sequence[str]) -> Labelling:
    """Labels and splits from folders: which level holds the classes, and which are splits, wrappers or shards.

    Raises
    ------
    LabelsAmbiguous
        Folders that look like splits lie beside others.
    """
    folders = {tuple(path.split("/")[:-1]) for path in paths}
    outer, folders = _unwrapped(folders)
    splits = _splits(folders)
    inner: _Folder = ()
    if splits:
        inner, folders = _unwrapped({folder[1:] for folder in folders if folder})
    tops = sorted({folder[0] for folder in folders if folder})
    shards = _are_shards(folders, paths)
    labelled = bool(tops) and not shards
    labels: list[str | None] = []
    split_of: list[str | None] = []
    for path in paths:
        rest = path.split("/")[len(outer) : -1]
        split = rest[0] if rest and rest[0] in splits else None
        if splits:
            rest = rest[1 + len(inner) :] if split else []
        labels.append(rest[0] if rest and labelled else None)
        split_of.append(split)
    message = _described(outer, splits, inner, tops, shards)
    return Labelling(
        labels, split_of, "folder" if labelled else "none", message, tuple(splits), "/".join(outer) or None
    )


def _described(outer: _Folder, splits: list[str], inner: _Folder, tops: list[str], shards: bool) -> str:
    """How the folders were read, in words."""
    parts = [f"The folder `{'/'.join(outer)}` holds all images and is skipped."] if outer else []
    if splits:
        parts.append(f"The folders {_quoted(splits)} are the splits.")
    if inner:
        parts.append(f"The folder `{'/'.join(inner)}` within them is skipped.")
    if shards:
        parts.append(f"The folders {_quoted(tops)} are numbered shards, so images have no label.")
    elif tops:
        subject = "The next folder" if parts else "The first folder below `path`"
        parts.append(f"{subject} is the class, such as {_quoted(tops)}.")
    else:
        parts.append("Images lie in no class folders, so they have no label.")
    if outer or splits or shards:
        parts.append(HINT)
    return " ".join(parts)


def _unwrapped(folders: set[_Folder]) -> tuple[_Folder, set[_Folder]]:
    """The folders that hold all others, and what lies below them."""
    outer: _Folder = ()
    while () not in folders and len(tops := {folder[0] for folder in folders}) == 1:
        (name,) = tops
        inner = {folder[1:] for folder in folders}
        may_be_class = name.lower() not in _WRAPPERS
        if SPLIT.fullmatch(name) or (may_be_class and () in inner) or (inner == {()} and _SHARD.fullmatch(name)):
            break
        outer, folders = (*outer, name), inner
    return outer, folders


def _splits(folders: set[_Folder]) -> list[str]:
    """The folders named like splits, if there are no others beside them."""
    tops = {folder[0] for folder in folders if folder}
    splits = sorted(name for name in tops if SPLIT.fullmatch(name))
    others = sorted(tops.difference(splits))
    if not splits or not others:
        return splits
    flat = all(len(folder) == 1 for folder in folders if folder and folder[0] in splits)
    if flat and [name.lower() for name in splits] == ["train"]:
        return []  # The vehicle, as one class among others.
    raise LabelsAmbiguous(
        f"The folders {_quoted(splits)} look like splits, but {_quoted(others)} beside them look like classes. Send "
        '`images.labels`: {"folder_level": 0} makes each of these folders a class, {"folder_level": 1} the folders '
        'within them, "none" makes no labels; or send the folder of one split as `images.path`.',
        field="images.labels",
    )


def _are_shards(folders: set[_Folder], paths: Sequence[str]) -> bool:
    """Whether the folders are img2dataset's: five digits, with files alone within them."""
    if not folders or () in folders or not all(len(folder) == 1 and _SHARD.fullmatch(folder[0]) for folder in folders):
        return False
    stems = (path.rpartition("/")[2].partition(".")[0] for path in paths)
    return not all(_TRACK.fullmatch(stem) for stem in stems)


def _quoted(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:_NAMED_FOLDERS]]
    return ", ".join([*shown, "…"] if len(names) > _NAMED_FOLDERS else shown)
