"""Labels from folders: which level of them holds the classes, and which are splits, wrappers or numbered shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import LabelsAmbiguous

_SPLIT = re.compile(r"(?:train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev)(?:[-_]?20\d\d)?", re.IGNORECASE)
_WRAPPERS = frozenset(
    {"data", "dataset", "files", "images", "image", "img", "imgs", "jpegimages", "jpeg", "jpg", "photos", "pictures"}
    | {"pics", "png", "raw"}
)
"""What folders are called that hold all images and say nothing about them, in lower case."""
_SHARD = re.compile(r"\d{5}")
_TRACK = re.compile(r"\d{5}_\d{5}")
"""Files of traffic sign sets, whose classes are folders of five digits."""
_NAMED = 5
HINT = 'Send `images.labels` as {"folder_level": n} to take the nth folder below `path`, from 0, or "none".'

_Folder = tuple[str, ...]


@dataclass(frozen=True)
class FolderLabels:
    """How the folders of a path are read.

    Attributes
    ----------
    wrapper
        The folders that all images lie in, which are skipped: ``images``, ``data/images``; None when there is none.
    splits
        The folders at the next level that are taken for splits.
    inner_wrapper
        A folder below every split that is skipped.
    labelled
        Whether the next folder is the class.
    message
        All this in words.
    """

    wrapper: str | None
    splits: tuple[str, ...]
    inner_wrapper: str | None
    labelled: bool
    message: str

    def of(self, path: str) -> tuple[str | None, str | None]:
        """Label and split of an image."""
        folders = path.split("/")[:-1]
        folders = folders[_depth(self.wrapper) :]
        split = folders[0] if folders and folders[0] in self.splits else None
        if self.splits:
            folders = folders[1 + _depth(self.inner_wrapper) :] if split else []
        return folders[0] if folders and self.labelled else None, split


def recognise(paths: Sequence[str]) -> FolderLabels:
    """How the folders of ``paths`` are to be read.

    Raises
    ------
    LabelsAmbiguous
        Folders that look like splits lie beside others.
    """
    folders = {tuple(path.split("/")[:-1]) for path in paths}
    outer, folders = _unwrapped(folders)
    splits = _splits(folders)
    inner: tuple[str, ...] = ()
    if splits:
        inner, folders = _unwrapped({folder[1:] for folder in folders if folder})
    tops = sorted({folder[0] for folder in folders if folder})
    shards = _are_shards(folders, paths)
    labelled = bool(tops) and not shards
    said = [f"The folder `{'/'.join(outer)}` holds all images and is skipped."] if outer else []
    if splits:
        said.append(f"The folders {_listed(splits)} are taken for splits.")
    if inner:
        said.append(f"The folder `{'/'.join(inner)}` within them is skipped.")
    if labelled:
        below = "The next folder" if said else "The first folder below `path`"
        said.append(f"{below} is the class, such as {_listed(tops)}.")
    elif shards:
        said.append(f"The folders {_listed(tops)} are taken for numbered shards, so images have no label.")
    else:
        said.append("Images lie in no class folders, so they have no label.")
    if outer or splits or shards:
        said.append(HINT)
    return FolderLabels("/".join(outer) or None, tuple(splits), "/".join(inner) or None, labelled, " ".join(said))


def label_at(path: str, level: int) -> str | None:
    """The folder of ``path`` at ``level``, from 0; None for images that lie above it."""
    folders = path.split("/")[:-1]
    return folders[level] if level < len(folders) else None


def _unwrapped(folders: set[_Folder]) -> tuple[_Folder, set[_Folder]]:
    """The folders that hold all others, and what lies below them."""
    outer: _Folder = ()
    while () not in folders and len(tops := {folder[0] for folder in folders}) == 1:
        (name,) = tops
        inner = {folder[1:] for folder in folders}
        telling = name.lower() not in _WRAPPERS
        if _SPLIT.fullmatch(name) or (telling and () in inner) or (inner == {()} and _SHARD.fullmatch(name)):
            break
        outer, folders = (*outer, name), inner
    return outer, folders


def _splits(folders: set[_Folder]) -> list[str]:
    """The folders that are splits: those of such a name, when there are no others."""
    tops = {folder[0] for folder in folders if folder}
    splits = sorted(name for name in tops if _SPLIT.fullmatch(name))
    others = sorted(tops.difference(splits))
    if not splits or not others:
        return splits
    flat = all(len(folder) == 1 for folder in folders if folder and folder[0] in splits)
    if flat and [name.lower() for name in splits] == ["train"]:
        return []  # A vehicle among other things.
    raise LabelsAmbiguous(
        f"The folders {_listed(splits)} look like splits, and {_listed(others)} beside them like classes, so labels "
        'cannot be told from folders. Send `images.labels`: {"folder_level": 0} takes each of these folders for a '
        'class, {"folder_level": 1} the folders within them, "none" makes no labels; or send the folder of one split '
        "as `images.path`.",
        field="images.labels",
    )


def _are_shards(folders: set[_Folder], paths: Sequence[str]) -> bool:
    """Whether the folders are img2dataset's: five digits, nothing within them but files."""
    if not folders or () in folders or not all(len(folder) == 1 and _SHARD.fullmatch(folder[0]) for folder in folders):
        return False
    stems = (path.rpartition("/")[2].partition(".")[0] for path in paths)
    return not all(_TRACK.fullmatch(stem) for stem in stems)


def _listed(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:_NAMED]]
    return ", ".join([*shown, "…"] if len(names) > _NAMED else shown)


def _depth(wrapper: str | None) -> int:
    return wrapper.count("/") + 1 if wrapper else 0
