"""A folder of images: every file below it, and why each of those that are not listed is not."""

from __future__ import annotations

import errno
import heapq
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shoal.deadline import Deadline
from shoal.errors import NoImages, PathNotFound, PathOutsideRoot
from shoal.userfiles import open_confined

from extractor.images.decode import (
    IMAGE_SUFFIXES,
    RAW,
    RAW_SUFFIXES,
    SNIFFED_BYTES,
    sniff,
    stamp_of,
    suffix_of,
)
from extractor.sources.names import listed_names
from extractor.sources.patterns import Selection
from extractor.sources.source import (
    SNIFFED_FILES,
    Alive,
    Contents,
    Entry,
    Format,
    NotTaken,
    NotTakenGroup,
    Place,
    Reason,
)

SYSTEM_NAMES = frozenset(
    {"@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information", "lost+found"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
)
"""Files and folders of operating systems and NAS devices, in lower case; skipped like hidden ones."""
UNFINISHED_SUFFIXES = frozenset({".aria2", ".crdownload", ".download", ".filepart", ".part", ".partial", ".tmp"})
PROGRESS_ENTRIES = 10_000
_UNREADABLE_ERRORS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}


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


CHECK_BUDGET = Budget(entries=20_000, seconds=5.0)
"""How far a request's check walks; in a larger folder the job finds the first image."""


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
    selection
        Files and folders that it leaves out are not looked into.

    Attributes
    ----------
    not_taken
        The files and folders that are not listed, so far.
    system_entries
        The number of hidden and system files and folders.
    entries
        How many entries were seen.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        *,
        budget: Budget | None = None,
        alive: Callable[[int], None] = lambda entries: None,
        deadline: Deadline | None,
        selection: Selection | None = None,
    ) -> None:
        self._selection = selection or Selection()
        self._folder, self._root = str(folder), root
        self._budget = budget
        self._budget_ends = time.monotonic() + budget.seconds if budget else 0.0
        self._deadline = deadline
        self._alive = alive
        self.entries = 0
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
                if self._selection.leaves_out(relative):
                    continue
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
        self.entries += 1
        if self._deadline is not None:
            self._deadline.check()
        if self.entries % PROGRESS_ENTRIES == 0:
            self._alive(self.entries)
        budget = self._budget
        if budget and (self.entries > budget.entries or time.monotonic() > self._budget_ends):
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
        if not self._selection.takes(relative):
            return
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


class FolderSource:
    """A folder of images, at any depth.

    Parameters
    ----------
    name
        The folder as the request names it.
    place
        Where it is.
    selection
        Which of its files are taken.
    """

    format: Format = "folder"

    def __init__(self, name: str, place: Place, selection: Selection) -> None:
        self._name, self._place, self._selection = name, place, selection

    def check(self, deadline: Deadline | None) -> None:
        """Refuse a folder without images: the walk stops at the first. A folder larger than `CHECK_BUDGET` passes."""
        walk = self._walk(budget=CHECK_BUDGET, deadline=deadline)
        if next(walk.images(), None) is None and not walk.ended_early:
            raise no_images(self._name, walk.not_taken.groups())

    def contents(self, alive: Alive = lambda entries: None) -> Contents:
        """Every image, sorted by the code points of its path.

        A symlink to an image outside the root is listed: decoding it becomes an error row.
        """
        walk = self._walk(alive=alive)
        found = list(walk.images())
        if not found:
            raise no_images(self._name, walk.not_taken.groups())
        walk.note_empty_folders(found)
        names = listed_names([image.path for image in found])
        images = sorted((name, image.stamp) for name, image in zip(names, found, strict=True))
        entries = [Entry(name, stamp) for name, stamp in images]
        return Contents(entries, walk.not_taken, system_entries=walk.system_entries)

    def _walk(
        self, budget: Budget | None = None, alive: Alive = lambda entries: None, deadline: Deadline | None = None
    ) -> Walk:
        folder, root = self._place.folder, self._place.links_root
        return Walk(folder, root, budget=budget, alive=alive, deadline=deadline, selection=self._selection)


def no_images(name: str, not_taken: list[NotTakenGroup]) -> NoImages:
    """The error for a folder without images; it says what the folder holds instead."""
    instead = " ".join(group["message"] for group in not_taken[:5])
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    return NoImages(
        f"The folder {name!r} holds no image that can be read. {instead or 'The folder has no files.'} "
        f"Images are recognised by their content, in subfolders too; usual extensions are {endings}.",
        field="images.path",
        not_taken=not_taken,
    )
