"""The listing of a source: its images in a fixed order, each with its name as text, label, split and stamp."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import pyarrow as pa
from shoal.deadline import Deadline
from shoal.errors import LabelsAmbiguous, LabelsInvalid, NoImages, PathNotFound
from shoal.schemas import FolderLevel, ImageSource, LabelFile
from shoal.store.records import image_id
from shoal.store.table_schemas import LISTING_SCHEMA
from shoal.userfiles import as_text, confine

from extractor.images.decode import IMAGE_SUFFIXES
from extractor.sources import labels as label_files
from extractor.sources.folder import Budget, NotTakenGroup, Walk

CHECK_BUDGET = Budget(entries=20_000, seconds=5.0)
"""How far a request's check walks; in a larger folder the job finds the first image."""
HINT = 'Send `images.labels` as {"folder_level": n} to take the nth folder below `path`, from 0, or "none".'

_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")
_ESCAPED_AS_BYTE = re.compile(r"\\(?:\\|x([89a-f][0-9a-f]))")
_SPLIT = re.compile(r"(?:train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)(?:[-_]?20\d\d)?", re.IGNORECASE)
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


class SourceFacts(TypedDict):
    """How the folders of a source were read, as in a job's result."""

    splits: list[str]
    wrapper: str | None
    labels: Literal["file", "folder", "none"]
    message: str
    system_entries: int


class Notes(TypedDict):
    """What a job's result says about its listing."""

    not_taken: list[NotTakenGroup]
    source: SourceFacts


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    Attributes
    ----------
    table
        The store's `LISTING_SCHEMA`: image_id, image_path (relative to ``source.path``), label, split, stamp.
    notes
        Which files and folders are not listed and why, and how the folders were read.
    """

    table: pa.Table
    notes: Notes


@dataclass(frozen=True)
class Labelling:
    """Label and split of each path, and where they come from."""

    labels: list[str | None]
    splits: list[str | None]
    source: Literal["file", "folder", "none"]
    message: str
    split_folders: tuple[str, ...] = ()
    wrapper: str | None = None


def check(source: ImageSource, root: Path, *, follow_links: bool = False, deadline: Deadline | None) -> None:
    """Refuse a source that cannot work without listing all of it: the walk stops at the first image.

    Parameters
    ----------
    deadline
        Of the request, checked at every entry of the folder; None for no limit.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        The folder or the label file.
    NoImages
        The folder holds no image. A folder larger than `CHECK_BUDGET` passes.
    LabelsInvalid
        The label file cannot be read or lacks a column.
    """
    walk = Walk(source_folder(source, root), links_root(root, follow_links), budget=CHECK_BUDGET, deadline=deadline)
    if next(walk.images(), None) is None and not walk.ended_early:
        raise no_images(source, walk)
    if isinstance(source.labels, LabelFile):
        label_files.check(source.labels, root)


def list_source(
    source: ImageSource,
    root: Path,
    *,
    follow_links: bool = False,
    alive: Callable[[int], None] = lambda entries: None,
) -> Listing:
    """Every image of ``source``, sorted by the code points of its path, whatever the file system's order.

    Parameters
    ----------
    root
        The data root. A symlink to an image outside it is listed: decoding it becomes an error row.
    follow_links
        Follow symlinks that leave the root.
    alive
        Called now and then with the number of files seen; may raise to stop.

    Raises
    ------
    PathOutsideRoot, PathNotFound, NoImages, LabelsInvalid
        As for `check`; also when an image has no row in the label file.
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
    facts = SourceFacts(
        splits=list(labelling.split_folders),
        wrapper=labelling.wrapper,
        labels=labelling.source,
        message=labelling.message,
        system_entries=walk.system_entries,
    )
    return Listing(pa.table(columns, LISTING_SCHEMA), Notes(not_taken=walk.not_taken.groups(), source=facts))


def links_root(root: Path, follow_links: bool) -> Path:
    """The folder that symlinks may not leave."""
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
            f"`images.path` is {source.path!r}, which is a file: send the folder that holds the images.",
            field="images.path",
        )
    return folder


def no_images(source: ImageSource, walk: Walk) -> NoImages:
    """The error for a folder without images; it says what the folder holds instead."""
    not_taken = walk.not_taken.groups()
    instead = " ".join(group["message"] for group in not_taken[:5])
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    return NoImages(
        f"The folder {source.path!r} holds no image that can be read. {instead or 'The folder has no files.'} "
        f"Images are recognised by their content, in subfolders too; usual extensions are {endings}.",
        field="images.path",
        not_taken=not_taken,
    )


# Names. Linux allows any bytes in a file name; the store takes text. Python reads a byte that is not UTF-8 as a lone
# surrogate; the listing writes it as ``\udcXX``, or as ``\xXX`` where the first form may be another file's name.


def is_text(path: str) -> bool:
    """Whether ``path`` can be stored unchanged."""
    return path.isascii() or path.encode("utf-8", "replace") == path.encode("utf-8", "surrogatepass")


def listed_names(paths: Sequence[str]) -> list[str]:
    """``paths`` as the listing stores them, in the same order: as text, and distinct if the paths are.

    A path that is text stays unchanged, whatever the others are.
    """
    odd = [index for index, path in enumerate(paths) if not is_text(path)]
    names = list(paths)
    if not odd:
        return names
    taken = Counter(path for path in paths if is_text(path))
    for index in odd:
        names[index] = next(name for name in _escaped_forms(paths[index]) if not taken[name])
        taken[names[index]] += 1
    return names


def _escaped_forms(path: str) -> Iterator[str]:
    first = as_text(path)
    second = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", path.replace("\\", "\\\\"))
    if "\\" not in path:
        yield first
    yield as_text(second)
    number = 2
    while True:  # No such file exists: it becomes an error row.
        yield f"{first} ({number})"
        number += 1


def candidate_paths(name: str) -> tuple[str, ...]:
    """The paths that ``name`` of a listing may stand for, the most likely first."""
    if "\\" not in name:
        return (name,)
    return (
        name,
        _ESCAPED.sub(lambda match: chr(0xDC00 + int(match[1], 16)), name),
        _ESCAPED_AS_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] else "\\", name),
    )


# Labels and splits.


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
        if _SPLIT.fullmatch(name) or (may_be_class and () in inner) or (inner == {()} and _SHARD.fullmatch(name)):
            break
        outer, folders = (*outer, name), inner
    return outer, folders


def _splits(folders: set[_Folder]) -> list[str]:
    """The folders named like splits, if there are no others beside them."""
    tops = {folder[0] for folder in folders if folder}
    splits = sorted(name for name in tops if _SPLIT.fullmatch(name))
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
