"""What every kind of source has in common.

A source lists its images: each with a path as its stable id, a stamp, and a label and a split where the source has
them. The stamp says where an image lies and what must not have changed since: `extractor.sources.reading` turns it into
what a decoder reads, so a frozen listing is enough to continue a job. Files that are not taken are counted by the
reason and the extension.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypedDict

from shoal.deadline import Deadline
from shoal.errors import PathNotFound
from shoal.schemas import ImageSource
from shoal.userfiles import as_text, confine

from extractor.images.decode import Format as ImageFormat
from extractor.sources.patterns import Selection, expanded, is_pattern, split_pattern

SNIFFED_FILES = 10_000
"""After so many files of an extension without an image among them, the rest are not opened."""
EXAMPLES = 3
NAMED_FOLDERS = 20
MOST_GROUPS = 100
"""Further extensions are counted together."""


class Reason(StrEnum):
    """Why a file or a folder is not listed. The values are stable."""

    UNSUPPORTED_FORMAT = "unsupported_format"
    NOT_AN_IMAGE = "not_an_image"
    NOT_LOOKED_INTO = "not_looked_into"
    UNFINISHED = "unfinished_download"
    FILE_UNREADABLE = "file_unreadable"
    NOT_A_FILE = "not_a_file"
    LISTED_TWICE = "listed_twice"
    UNSAFE_NAME = "unsafe_name"
    NOT_NAMED = "not_named"
    EMPTY_FOLDER = "empty_folder"
    FOLDER_UNREADABLE = "folder_unreadable"
    LINK_LEAVES_ROOT = "link_leaves_root"
    LINK_TO_PARENT = "link_to_parent"
    LINK_REPEATS = "link_repeats"


_OF_FILES = {
    Reason.UNSUPPORTED_FORMAT: ("holds {format}, {advice}", "hold {format}, {advice}"),
    Reason.NOT_AN_IMAGE: ("is not an image", "are not images"),
    Reason.NOT_LOOKED_INTO: (
        f"was not opened: none of {SNIFFED_FILES:,} others with this extension is an image",
        f"were not opened: none of {SNIFFED_FILES:,} others with this extension is an image",
    ),
    Reason.UNFINISHED: (
        "looks like an unfinished download: rename it if it is complete",
        "look like unfinished downloads: rename them if they are complete",
    ),
    Reason.FILE_UNREADABLE: ("cannot be read: give the worker permission",) * 2,
    Reason.NOT_A_FILE: (
        "is a pipe, a device or a broken symlink",
        "are pipes, devices or broken symlinks",
    ),
    Reason.UNSAFE_NAME: (
        "would leave the archive's folder by its name",
        "would leave the archive's folder by their names",
    ),
    Reason.NOT_NAMED: ("is not named by a metadata file", "are not named by a metadata file"),
    Reason.LISTED_TWICE: ("is listed twice and taken once", "are listed twice and taken once"),
}
_OF_FOLDERS = {
    Reason.EMPTY_FOLDER: ("{n} folder holds no image: {names}.", "{n} folders hold no image: {names}."),
    Reason.FOLDER_UNREADABLE: (
        "{n} folder cannot be listed, so its images are missing: {names}. Give the worker permission.",
        "{n} folders cannot be listed, so their images are missing: {names}. Give the worker permission.",
    ),
    Reason.LINK_LEAVES_ROOT: (
        "{n} symlink leads out of the data root and is not followed: move its target below the root.",
        "{n} symlinks lead out of the data root and are not followed: move their targets below the root.",
    ),
    Reason.LINK_TO_PARENT: (
        "{n} symlink leads to a folder above the source and is not followed.",
        "{n} symlinks lead to a folder above the source and are not followed.",
    ),
    Reason.LINK_REPEATS: (
        "{n} symlink leads to a folder that is listed already.",
        "{n} symlinks lead to folders that are listed already.",
    ),
}


@dataclass(slots=True)
class _Group:
    count: int = 0
    names: list[str] = field(default_factory=list)


class NotTakenGroup(TypedDict):
    """Files or folders that are not listed for one reason, as in a job's result."""

    reason: str
    suffix: str | None
    count: int
    examples: list[str]
    message: str


@dataclass
class NotTaken:
    """Counts the files and folders that are not listed; its memory does not grow with their number."""

    _groups: dict[tuple[Reason, str | None, ImageFormat | None], _Group] = field(default_factory=dict)

    def add(self, reason: Reason, path: str, suffix: str | None = None, found: ImageFormat | None = None) -> None:
        """Count the file or folder ``path``.

        Parameters
        ----------
        suffix
            Its extension, such as ``.heic``.
        found
            The format of its content.
        """
        key = (reason, suffix, found)
        if key not in self._groups and len(self._groups) >= MOST_GROUPS:
            key = (reason, None, found)
        group = self._groups.setdefault(key, _Group())
        group.count += 1
        # The first by name, so that the file system's order does not matter.
        most = NAMED_FOLDERS if reason in _OF_FOLDERS else EXAMPLES
        if len(group.names) < most or path < group.names[-1]:
            group.names = sorted([*group.names, path])[:most]

    def groups(self) -> list[NotTakenGroup]:
        """One group per reason and extension; those with the most files first."""
        rows = [
            NotTakenGroup(
                reason=reason.value,
                suffix=suffix,
                count=group.count,
                examples=[as_text(name) for name in group.names[:EXAMPLES]],
                message=_message(reason, suffix, found, group),
            )
            for (reason, suffix, found), group in self._groups.items()
        ]
        return sorted(rows, key=lambda row: (-row["count"], row["reason"], str(row["suffix"])))


def _message(reason: Reason, suffix: str | None, found: ImageFormat | None, group: _Group) -> str:
    one = group.count == 1
    if reason in _OF_FOLDERS:
        names = ", ".join(as_text(name) for name in group.names) + (", …" if group.count > len(group.names) else "")
        return _OF_FOLDERS[reason][not one].format(n=f"{group.count:,}", names=names)
    files = f"{suffix + ' ' if suffix else ''}file{'' if one else 's'}{'' if suffix else ' without a known extension'}"
    predicate = _OF_FILES[reason][not one]
    if found is not None:
        predicate = predicate.format(format=found.name, advice=found.advice)
    return f"{group.count:,} {files} {predicate}."


FIELD = "images.path"
LOST = "lost"
"""What the stamp of an entry begins with that could not be read when it was listed; the error's code follows."""
Alive = Callable[[int], None]
"""Called now and then with the number of files or rows seen; may raise to stop."""
Format = Literal["folder", "list", "tar", "zip", "parquet", "imagefolder", "imagenet"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source lies. All paths have their symlinks resolved.

    Attributes
    ----------
    path
        The folder or file; for a pattern, the folder that holds all of its files.
    folder
        What the paths of the listing are relative to: ``path``, or the folder that holds it.
    root
        The data root.
    links_root
        What symlinks may not leave: ``root``, or ``/`` where they may lead anywhere.
    pattern
        The names below ``folder``, with braces, of a source of several files; else empty.
    """

    path: Path
    folder: Path
    root: Path
    links_root: Path
    pattern: str = ""

    @classmethod
    def of(cls, source: ImageSource, root: Path, *, follow_links: bool) -> Place:
        """The place that ``source`` names below the data root.

        Raises
        ------
        PathOutsideRoot, PathNotFound
            It does not lie below ``root``, or does not exist.
        """
        base, links_root = root.resolve(), Path("/") if follow_links else root.resolve()
        if is_pattern(source.path):
            fixed, pattern = split_pattern(source.path)
            folder = confine(root, fixed, FIELD)
            return cls(folder, folder, base, links_root, pattern)
        path = confine(root, source.path, FIELD)
        if not (path.is_dir() or path.is_file()):
            raise PathNotFound(f"`{FIELD}` is {source.path!r}, which is neither a folder nor a file.", field=FIELD)
        return cls(path, path if path.is_dir() else path.parent, base, links_root)

    def chosen_files(self, suffixes: Collection[str], selection: Selection) -> list[str]:
        """`files`, without those that a selection leaves out; what the path itself names is always taken."""
        files = self.files(suffixes)
        return files if self.path != self.folder else [each for each in files if not selection.leaves_out(each)]

    def files(self, suffixes: Collection[str]) -> list[str]:
        """The files of a source that may consist of several, relative to `folder`.

        Those of the pattern, in its order; the one file; or every file below the folder with one of ``suffixes``,
        sorted by name. A pattern's file that does not exist is among them.
        """
        if self.pattern:
            return expanded(self.pattern)
        if self.path != self.folder:
            return [self.path.name]
        found: list[str] = []
        for folder, inner, names in os.walk(self.folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            files = [Path(folder, name) for name in names if not name.startswith(".")]
            found += [str(file.relative_to(self.folder)) for file in files if file.suffix.lower() in suffixes]
        return sorted(found)


@dataclass(frozen=True, slots=True)
class Entry:
    """An image as a source lists it.

    Attributes
    ----------
    path
        Its id within the source, as text: relative to the source's folder, with forward slashes.
    stamp
        Where it lies and what must not change: see `extractor.sources.reading`.
    label, split
        Those that the source itself names.
    inner
        Its path within its archive, whose folders may be classes; None where that is ``path``.
    """

    path: str
    stamp: str
    label: str | None = None
    split: str | None = None
    inner: str | None = None


class Row(NamedTuple):
    """A row of a listing."""

    path: str
    stamp: str | None


@dataclass(slots=True)
class Contents:
    """Everything that a source holds.

    Attributes
    ----------
    entries
        In a fixed order, each path once.
    not_taken
        What is not listed, and why.
    labelled
        Where the source itself has labels, such as ``the column `label```; None: they come from folders.
    system_entries
        How many hidden and system files were skipped.
    """

    entries: list[Entry]
    not_taken: NotTaken = field(default_factory=NotTaken)
    labelled: str | None = None
    system_entries: int = 0


class Source(Protocol):
    """A kind of source. `tests/extractor/sources/contract.py` is what each must do."""

    format: Format

    def check(self, deadline: Deadline | None) -> None:
        """Refuse a source that cannot work, without reading all of it.

        Raises
        ------
        NoImages
            It holds no image.
        SourceInvalid
            It cannot be read.
        """
        ...

    def contents(self, alive: Alive) -> Contents:
        """Everything that the source holds, in an order that does not depend on the file system.

        Raises
        ------
        NoImages, SourceInvalid
            As for `check`.
        """
        ...
