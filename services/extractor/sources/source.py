"""What every kind of source has in common.

A source lists its images: each with a path as its stable id, a stamp, and a label and a split where the source has
them. The stamp says where an image lies and what must not have changed since: `extractor.sources.reading` turns it into
what a decoder reads, so a frozen listing is enough to continue a job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from shoal.deadline import Deadline
from shoal.errors import PathNotFound
from shoal.schemas import ImageSource
from shoal.userfiles import confine

from extractor.sources.globs import Selection
from extractor.sources.not_taken import NotTaken
from extractor.sources.patterns import expanded, is_pattern, split_pattern

FIELD = "images.path"
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
