"""What lies in a folder below the data root, for a person who picks what to embed: folders, archives, lists.

A look is bounded in entries and in time, and reads no image. Hidden and system entries are left out, and so are
symlinks that leave the root.
"""

from __future__ import annotations

import os
import time
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, Field
from shoal.deadline import Deadline
from shoal.errors import PathNotFound
from shoal.userfiles import below, confine, shortened

from extractor.images.decode import IMAGE_SUFFIXES, suffix_of
from extractor.sources.folder import SYSTEM_NAMES, Budget, Walk
from extractor.sources.kinds import format_of_file
from extractor.sources.patterns import is_pattern
from extractor.sources.source import Format

FIELD = "path"
MOST_SEEN = 50_000
"""Entries of the folder itself that are looked at."""
MOST_LISTED = 1_000
"""Folders, and files, that are listed."""
COUNTED = Budget(entries=100_000, seconds=2.0)
"""How far images are counted, in all folders together."""


class Folder(BaseModel):
    """A folder below the one that is looked at."""

    name: str
    path: str = Field(description="What `images.path` of `POST /extract` names it.")
    images: int = Field(description="Number of images in it, at any depth; at least so many if `exact` is false.")
    exact: bool = Field(description="Whether all of it was counted: counting ends after two seconds.")


class File(BaseModel):
    """An archive, a list or a table of images."""

    name: str
    path: str = Field(description="What `images.path` of `POST /extract` names it.")
    format: Format
    bytes: int


class Folders(BaseModel):
    """What can be embedded of a folder."""

    path: str = Field(description="The folder, relative to the data root; `.` is the root itself.")
    images: int = Field(description="Number of images in it, at any depth; at least so many if `exact` is false.")
    exact: bool = Field(description="Whether all of it was counted.")
    folders: list[Folder] = Field(description="Its folders, by name.")
    files: list[File] = Field(description="Its archives, lists and tables, by name.")
    truncated: bool = Field(description="Whether there is more than is listed: at most 1,000 folders and files are.")


def look(path: str, root: Path, deadline: Deadline | None) -> Folders:
    """What a folder holds that can be embedded.

    Parameters
    ----------
    path
        The folder, relative to the data root.
    root
        The data root.
    deadline
        Of the request; None for no limit.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        The folder does not lie below the root, does not exist or cannot be listed.
    """
    folder, path = confine(root, path, FIELD), below(root, path)
    if not folder.is_dir():
        raise PathNotFound(f"`{FIELD}` is {shortened(path)!r}, which is no folder.", field=FIELD)
    entries, truncated = _entries(folder, path, deadline)
    inner: list[os.DirEntry[str]] = []
    others: list[os.DirEntry[str]] = []
    for entry in entries:
        (inner if _is_folder(entry, root) else others).append(entry)
    files = [file for entry in others if (file := _file(entry, path)) is not None]
    folders = _counted(inner[:MOST_LISTED], path, root, deadline)
    truncated = truncated or max(len(inner), len(files)) > MOST_LISTED
    direct = sum(suffix_of(entry.name) in IMAGE_SUFFIXES for entry in others)
    return Folders(
        path=path,
        images=direct + sum(each.images for each in folders),
        exact=not truncated and all(each.exact for each in folders),
        folders=folders,
        files=files[:MOST_LISTED],
        truncated=truncated,
    )


def _entries(folder: Path, path: str, deadline: Deadline | None) -> tuple[list[os.DirEntry[str]], bool]:
    """The entries that a request can name, by name, and whether there are more than were looked at."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, MOST_SEEN):
                if deadline is not None:
                    deadline.check()
                if not entry.name.startswith(".") and entry.name.lower() not in SYSTEM_NAMES:
                    found.append(entry)
            truncated = next(entries, None) is not None
    except OSError as error:
        raise PathNotFound(f"The folder {path!r} cannot be listed: {error.strerror}.", field=FIELD) from error
    nameable = [entry for entry in found if _can_be_sent(entry.name)]
    return sorted(nameable, key=lambda entry: entry.name), truncated


def _can_be_sent(name: str) -> bool:
    """Whether a request can name it: braces are a pattern there, and JSON holds no bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\\" not in name and not is_pattern(name)


def _is_folder(entry: os.DirEntry[str], root: Path) -> bool:
    try:
        return entry.is_dir() and (not entry.is_symlink() or _stays(entry, root))
    except OSError:
        return False


def _stays(entry: os.DirEntry[str], root: Path) -> bool:
    return Path(os.path.realpath(entry.path)).is_relative_to(root.resolve())


def _file(entry: os.DirEntry[str], folder: str) -> File | None:
    kind = format_of_file(entry.name)
    try:
        # A symlink may lead anywhere: its target can be named where it lies.
        if kind is None or not entry.is_file(follow_symlinks=False):
            return None
        size = entry.stat(follow_symlinks=False).st_size
    except OSError:
        return None
    return File(name=entry.name, path=_joined(folder, entry.name), format=kind, bytes=size)


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _counted(entries: list[os.DirEntry[str]], folder: str, root: Path, deadline: Deadline | None) -> list[Folder]:
    """The folders with their images, as far as `COUNTED` reaches for all of them together."""
    left, ends = COUNTED.entries, time.monotonic() + COUNTED.seconds
    found = []
    for entry in entries:
        budget = Budget(left, max(0.0, ends - time.monotonic()))
        walk = Walk(Path(os.path.realpath(entry.path)), root.resolve(), budget=budget, deadline=deadline)
        try:
            images = sum(1 for _ in walk.images())
        except PathNotFound:
            images = 0  # It cannot be listed: nothing of it would be embedded.
        left -= walk.entries
        path = _joined(folder, entry.name)
        found.append(Folder(name=entry.name, path=path, images=images, exact=not walk.ended_early))
    return found
