"""Every file below a folder: those that are listed as images, and why each of the others is not."""

from __future__ import annotations

import errno
import heapq
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypedDict

from shoal.deadline import Deadline
from shoal.errors import PathNotFound, PathOutsideRoot
from shoal.userfiles import as_text, open_confined

from extractor.images.decode import (
    IMAGE_SUFFIXES,
    RAW,
    RAW_SUFFIXES,
    SNIFFED_BYTES,
    Format,
    sniff,
    stamp_of,
    suffix_of,
)

SYSTEM_NAMES = frozenset(
    {"@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information", "lost+found"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
)
"""Files and folders of operating systems and NAS devices, in lower case; skipped like hidden ones."""
UNFINISHED_SUFFIXES = frozenset({".aria2", ".crdownload", ".download", ".filepart", ".part", ".partial", ".tmp"})
SNIFFED_FILES = 10_000
"""After so many files of an extension without an image among them, the rest are not opened."""
PROGRESS_ENTRIES = 10_000
_UNREADABLE_ERRORS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
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

    _groups: dict[tuple[Reason, str | None, Format | None], _Group] = field(default_factory=dict)

    def add(self, reason: Reason, path: str, suffix: str | None = None, found: Format | None = None) -> None:
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


def _message(reason: Reason, suffix: str | None, found: Format | None, group: _Group) -> str:
    one = group.count == 1
    if reason in _OF_FOLDERS:
        names = ", ".join(as_text(name) for name in group.names) + (", …" if group.count > len(group.names) else "")
        return _OF_FOLDERS[reason][not one].format(n=f"{group.count:,}", names=names)
    files = f"{suffix + ' ' if suffix else ''}file{'' if one else 's'}{'' if suffix else ' without a known extension'}"
    predicate = _OF_FILES[reason][not one]
    if found is not None:
        predicate = predicate.format(format=found.name, advice=found.advice)
    return f"{group.count:,} {files} {predicate}."


@dataclass(frozen=True, slots=True, order=True)
class FoundImage:
    """An image file.

    Attributes
    ----------
    path
        Relative to the source's folder, with forward slashes; bytes that are not UTF-8 are lone surrogates.
    stamp
        `stamp_of` the file: an edited image makes a new plan.
    """

    path: str
    stamp: str


@dataclass(frozen=True, slots=True)
class Budget:
    """How many entries a walk may see, and for how long."""

    entries: int
    seconds: float


class Walk:
    """Every image file below a folder, in any order, each folder once.

    Hidden and system files are skipped. A symlink to a folder is followed if its target is below the root and not above
    the source. Where several paths lead to one folder, the path without a symlink is used, or else that of the first
    symlink by code points.

    Parameters
    ----------
    folder
        The folder, with symlinks resolved.
    root
        The data root, with symlinks resolved; ``/`` where symlinks may lead anywhere.
    budget
        Where the walk ends early, with `ended_early` set.
    alive
        Called every `PROGRESS_ENTRIES` entries with their number; may raise to end the walk.
    deadline
        Of the request that needs the walk; None for no limit.

    Attributes
    ----------
    not_taken
        The files and folders that are not listed, so far.
    system_entries
        The number of hidden and system files and folders.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        *,
        budget: Budget | None = None,
        alive: Callable[[int], None] = lambda entries: None,
        deadline: Deadline | None,
    ) -> None:
        self._folder, self._root = str(folder), root
        self._budget = budget
        self._budget_ends = time.monotonic() + budget.seconds if budget else 0.0
        self._deadline = deadline
        self._alive = alive
        self._entries = 0
        self._visited: set[tuple[int, int]] = set()
        self._links: list[tuple[str, str]] = []
        self._folders: list[str] = []
        self._not_images: Counter[str | None] = Counter()
        self._suffixes_of_images: set[str | None] = set()
        self.not_taken = NotTaken()
        self.system_entries = 0
        self.ended_early = False

    def images(self) -> Iterator[FoundImage]:
        """The images. Callable once per walk."""
        self._first_visit(self._folder)
        yield from self._below(self._folder, "")
        while self._links and not self.ended_early:
            relative, path = heapq.heappop(self._links)
            if self._may_follow(relative, path):
                self._folders.append(relative)
                yield from self._below(path, f"{relative}/")

    def note_empty_folders(self, images: list[FoundImage]) -> None:
        """Count the topmost folders without an image among ``images``, which are all that the walk found."""
        used = {""}
        for folder in {image.path.rpartition("/")[0] for image in images}:
            while folder not in used:
                used.add(folder)
                folder = folder.rpartition("/")[0]
        for folder in sorted(self._folders):
            if folder not in used and folder.rpartition("/")[0] in used:
                self.not_taken.add(Reason.EMPTY_FOLDER, folder)

    def _below(self, path: str, prefix: str) -> Iterator[FoundImage]:
        pending = [(path, prefix)]
        while pending:
            path, prefix = pending.pop()
            for entry in self._listed(path, prefix):
                if self._is_system(entry.name):
                    self.system_entries += 1
                    continue
                relative = prefix + entry.name
                if not _is_folder(entry):
                    yield from self._file(entry, relative)
                elif entry.is_symlink():
                    heapq.heappush(self._links, (relative, entry.path))
                elif self._first_visit(entry.path):
                    self._folders.append(relative)
                    pending.append((entry.path, f"{relative}/"))

    def _listed(self, path: str, prefix: str) -> Iterator[os.DirEntry[str]]:
        try:
            entries = os.scandir(path)
        except OSError as error:
            name = prefix.rstrip("/")
            if name and error.errno in _UNREADABLE_ERRORS:
                self.not_taken.add(Reason.FOLDER_UNREADABLE, name)
                return
            if name and isinstance(error, (FileNotFoundError, NotADirectoryError)):
                return  # Removed after its parent was listed.
            raise PathNotFound(f"The folder {name or '.'!r} cannot be listed: {error.strerror}.") from error
        with entries:
            for entry in entries:
                if self._must_stop():
                    return
                yield entry

    def _must_stop(self) -> bool:
        self._entries += 1
        if self._deadline is not None:
            self._deadline.check()
        if self._entries % PROGRESS_ENTRIES == 0:
            self._alive(self._entries)
        budget = self._budget
        if budget and (self._entries > budget.entries or time.monotonic() > self._budget_ends):
            self.ended_early = True
        return self.ended_early

    @staticmethod
    def _is_system(name: str) -> bool:
        return name.startswith(".") or name.lower() in SYSTEM_NAMES

    def _first_visit(self, path: str) -> bool:
        """Record the folder; False if the walk has visited it."""
        try:
            status = os.stat(path)  # noqa: PTH116 - once a folder
        except OSError:
            return True  # Listing it reports the error.
        identity = (status.st_dev, status.st_ino)
        if identity in self._visited:
            return False
        self._visited.add(identity)
        return True

    def _may_follow(self, relative: str, path: str) -> bool:
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(self._root):
            self.not_taken.add(Reason.LINK_LEAVES_ROOT, relative)
        elif Path(self._folder).is_relative_to(real):
            self.not_taken.add(Reason.LINK_TO_PARENT, relative)
        elif not self._first_visit(real):
            self.not_taken.add(Reason.LINK_REPEATS, relative)
        else:
            return True
        return False

    def _file(self, entry: os.DirEntry[str], relative: str) -> Iterator[FoundImage]:
        suffix = suffix_of(entry.name)
        if suffix in IMAGE_SUFFIXES or self._is_image(entry, relative, suffix):
            yield FoundImage(relative, _stamp(entry))

    def _is_image(self, entry: os.DirEntry[str], relative: str, suffix: str | None) -> bool:
        """Whether a file without an image's extension holds an image; if not, the reason is counted."""
        if suffix in RAW_SUFFIXES:
            self.not_taken.add(Reason.UNSUPPORTED_FORMAT, relative, suffix, RAW)
            return False
        if suffix in UNFINISHED_SUFFIXES:
            self.not_taken.add(Reason.UNFINISHED, relative, suffix)
            return False
        if suffix not in self._suffixes_of_images and self._not_images[suffix] >= SNIFFED_FILES:
            self.not_taken.add(Reason.NOT_LOOKED_INTO, relative, suffix)
            return False
        try:
            with open_confined(self._root, Path(entry.path)) as file:
                found = sniff(os.read(file.fileno(), SNIFFED_BYTES))
        except PathOutsideRoot:
            self.not_taken.add(Reason.LINK_LEAVES_ROOT, relative)
            return False
        except OSError as error:
            reason = Reason.FILE_UNREADABLE if error.errno in _UNREADABLE_ERRORS else Reason.NOT_A_FILE
            self.not_taken.add(reason, relative, suffix)
            return False
        if found is None:
            self._not_images[suffix] += 1
            self.not_taken.add(Reason.NOT_AN_IMAGE, relative, suffix)
        elif not found.decoded:
            self.not_taken.add(Reason.UNSUPPORTED_FORMAT, relative, suffix, found)
        else:
            self._suffixes_of_images.add(suffix)
            return True
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        return stamp_of(entry.stat())
    except OSError:
        return "0:0"  # A broken symlink, or removed already: decoding it reports the error.
