"""Every file below a folder: those that are taken, and for each of the others why it is not."""

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
from shoal.errors import PathNotFound, PathOutsideRoot
from shoal.userfiles import open_confined

from extractor.images.decode import stamp_of
from extractor.images.formats import IMAGE_SUFFIXES, RAW, RAW_SUFFIXES, SNIFFED_BYTES, sniff, suffix_of
from extractor.sources.not_taken import NotTakenCounts, Reason

SYSTEM_NAMES = frozenset(
    {"@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information", "lost+found"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
)
"""What systems put into folders of images, in lower case; skipped like hidden files and folders."""
UNFINISHED_SUFFIXES = frozenset({".aria2", ".crdownload", ".download", ".filepart", ".part", ".partial", ".tmp"})
SNIFFED_FILES = 10_000
"""Files of an extension are not looked into any more once so many were and none is an image."""
PROGRESS_ENTRIES = 10_000
_SKIPPED_ERRORS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}


@dataclass(frozen=True, slots=True, order=True)
class FoundImage:
    """An image file.

    Attributes
    ----------
    path
        Relative to the source's folder, with forward slashes; as the system has it, which need not be text.
    stamp
        Changes when the file does, so that an edited image makes a new plan.
    """

    path: str
    stamp: str


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a walk may look at: more is left to another that has the time."""

    entries: int
    seconds: float


class Walk:
    """Every image file below a folder, in no particular order, each folder once.

    Hidden files and what systems leave behind are skipped. A symlink to a folder is followed where it stays below the
    root and leads to no folder above the source; where two paths lead to one folder, the one without a link is taken,
    or else that of the link that comes first by code points.

    Parameters
    ----------
    folder
        The folder, with symlinks resolved.
    root
        The data root, with symlinks resolved; ``/`` where links may lead anywhere.
    budget
        After it the walk ends early, and `ended_early` is set.
    alive
        Called now and then with the number of entries seen; may raise to end the walk.
    deadline
        Of the request that needs the walk; None for no limit.

    Attributes
    ----------
    not_taken
        What was left out so far.
    system_entries
        Hidden and system files and folders.
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
        self._in_vain: Counter[str | None] = Counter()
        self._worthwhile: set[str | None] = set()
        self.not_taken = NotTakenCounts()
        self.system_entries = 0
        self.ended_early = False

    def images(self) -> Iterator[FoundImage]:
        """The images. Once per walk."""
        self._first_visit(self._folder)
        yield from self._below(self._folder, "")
        while self._links and not self.ended_early:
            relative, path = heapq.heappop(self._links)
            if self._may_follow(relative, path):
                self._folders.append(relative)
                yield from self._below(path, f"{relative}/")

    def note_empty_folders(self, images: list[FoundImage]) -> None:
        """Count the topmost folders without an image of ``images``, all that the walk found."""
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
            if name and error.errno in _SKIPPED_ERRORS:
                self.not_taken.add(Reason.FOLDER_UNREADABLE, name)
                return
            if name and isinstance(error, (FileNotFoundError, NotADirectoryError)):
                return  # Removed since its parent was listed.
            raise PathNotFound(f"The folder {name or '.'!r} cannot be listed: {error.strerror}.") from error
        with entries:
            for entry in entries:
                if self._spent():
                    return
                yield entry

    def _spent(self) -> bool:
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
        """Note the folder; False when the walk has been there."""
        try:
            status = os.stat(path)  # noqa: PTH116 - once a folder
        except OSError:
            return True  # Listing it says what is wrong.
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
        """Whether the content is an image's, of a file whose name does not say so; if not, why is counted."""
        if suffix in RAW_SUFFIXES:
            self.not_taken.add(Reason.UNSUPPORTED_FORMAT, relative, suffix, RAW)
            return False
        if suffix in UNFINISHED_SUFFIXES:
            self.not_taken.add(Reason.UNFINISHED, relative, suffix)
            return False
        if suffix not in self._worthwhile and self._in_vain[suffix] >= SNIFFED_FILES:
            self.not_taken.add(Reason.NOT_LOOKED_INTO, relative, suffix)
            return False
        try:
            with open_confined(self._root, Path(entry.path)) as file:
                found = sniff(os.read(file.fileno(), SNIFFED_BYTES))
        except PathOutsideRoot:
            self.not_taken.add(Reason.LINK_LEAVES_ROOT, relative)
            return False
        except OSError as error:
            reason = Reason.FILE_UNREADABLE if error.errno in _SKIPPED_ERRORS else Reason.NOT_A_FILE
            self.not_taken.add(reason, relative, suffix)
            return False
        if found is None:
            self._in_vain[suffix] += 1
            self.not_taken.add(Reason.NOT_AN_IMAGE, relative, suffix)
        elif not found.decoded:
            self.not_taken.add(Reason.UNSUPPORTED_FORMAT, relative, suffix, found)
        else:
            self._worthwhile.add(suffix)
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
        return "0:0"  # A dangling symlink, or gone already: decoding it says so.
