"""Archives of images: one, a folder of them, or those of a pattern; and the labels beside the images in them.

Nothing is unpacked. The listing says where each member's bytes are, and decode processes read them there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol
from urllib.parse import quote

from shoal.deadline import Deadline
from shoal.errors import ArchiveDamaged, ArchiveUnsafe, NoImages, PathNotFound, PathOutsideRoot, SourceInvalid
from shoal.userfiles import open_confined

from extractor.images.decode import IMAGE_SUFFIXES, RAW, RAW_SUFFIXES, SNIFFED_BYTES, sniff, stamp_of, suffix_of
from extractor.sources.names import listed_names
from extractor.sources.patterns import Selection
from extractor.sources.sidecars import Sidecars, key_of
from extractor.sources.source import FIELD, LOST, SNIFFED_FILES, Alive, Contents, Entry, Format, NotTaken, Place, Reason

MOST_MEMBERS = 20_000_000
"""In all archives of a source."""
LONGEST_NAME = 4096
CHECKED_MEMBERS = 20_000
PROGRESS_MEMBERS = 10_000


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes
    ----------
    name
        Its path in the archive.
    where
        What follows the archive's own stamp in the stamp of the image: see `extractor.sources.reading`.
    read
        Its first bytes, at most as many as are asked for.
    lost
        The code of why it cannot be read; None otherwise.
    """

    name: str
    where: str
    read: Callable[[int], bytes]
    lost: str | None = None


class Reader(Protocol):
    """Lists the members of one kind of archive."""

    format: Format
    suffixes: frozenset[str]

    def members(self, file: BinaryIO, name: str) -> Iterator[Member | None]:
        """The members of the archive ``name``; None for each that is no regular file.

        Raises
        ------
        ArchiveDamaged, ArchiveUnsafe, SourceInvalid
            It is no whole archive, or exceeds a limit.
        """
        ...


class ArchiveSource:
    """Images in archives.

    Their paths are those in the archive; where there are several archives, below the archive's name.

    Parameters
    ----------
    reader
        Of the kind of archive.
    name
        The source as the request names it.
    place
        Where it is.
    selection
        Archives that it excludes are not opened.
    """

    def __init__(self, reader: Reader, name: str, place: Place, selection: Selection) -> None:
        self.format: Format = reader.format
        self._reader, self._name, self._place = reader, name, place
        self._one = place.path != place.folder
        self._files = place.chosen_files(reader.suffixes, selection)

    def check(self, deadline: Deadline | None) -> None:
        """Refuse archives that are missing or damaged at their start, or whose first members are no images."""
        listing = _Listing(self._one)
        for archive in self._files:
            with self._opened(archive) as (file, _):
                for member in self._reader.members(file, archive):
                    if deadline is not None:
                        deadline.check()
                    if listing.add(archive, "", member) or listing.members > CHECKED_MEMBERS:
                        return
        raise self._no_images(listing.not_taken)

    def contents(self, alive: Alive = lambda members: None) -> Contents:
        """The images in the order of the archives, and of the members in each."""
        listing = _Listing(self._one)
        for archive in self._files:
            with self._opened(archive) as (file, stamp):
                for member in self._reader.members(file, archive):
                    listing.add(archive, f"{self.format} {stamp}", member)
                    if listing.members % PROGRESS_MEMBERS == 0:
                        alive(listing.members)
            listing.end_archive()
        if not listing.images:
            raise self._no_images(listing.not_taken)
        return listing.contents()

    @contextmanager
    def _opened(self, archive: str) -> Iterator[tuple[BinaryIO, str]]:
        """The archive, and its stamp."""
        try:
            with open_confined(self._place.links_root, self._place.folder / archive) as file:
                yield file, stamp_of(os.fstat(file.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            raise PathNotFound(
                f"`{FIELD}` is {self._name!r}: the archive {archive!r} does not exist.", field=FIELD
            ) from None
        except PathOutsideRoot:
            raise PathOutsideRoot(
                f"`{FIELD}` is {self._name!r}: the archive {archive!r} is a symlink that leaves the configured root.",
                field=FIELD,
            ) from None
        except OSError as error:
            raise SourceInvalid(f"The archive {archive!r} cannot be read: {error.strerror}.", field=FIELD) from error

    def _no_images(self, not_taken: NotTaken) -> NoImages:
        groups = not_taken.groups()
        held = " ".join(group["message"] for group in groups[:5])
        what = f"{len(self._files):,} archives" if self._files else "no archive"
        return NoImages(
            f"`{FIELD}` is {self._name!r}, {what} without an image. {held}".strip(), field=FIELD, not_taken=groups
        )


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    stamp: str
    key: str


class _Listing:
    """Collects the members of one archive after another."""

    def __init__(self, one: bool) -> None:
        self._one = one
        self._archive = ""
        self._found: dict[str, _Image] = {}
        self._not_images: Counter[str | None] = Counter()
        self._sidecars = Sidecars()
        self._keys: list[str] = []
        self._entries: list[Entry] = []
        self.not_taken = NotTaken()
        self.members = 0

    @property
    def images(self) -> int:
        return len(self._entries)

    def add(self, archive: str, stamp: str, member: Member | None) -> bool:
        """Whether the member is an image."""
        self._archive = archive
        self.members += 1
        if self.members > MOST_MEMBERS:
            raise ArchiveUnsafe(f"The archives have more than {MOST_MEMBERS:,} members.", field=FIELD)
        if member is None:
            self.not_taken.add(Reason.NOT_A_FILE, archive)
            return False
        shown = f"{archive}/{member.name}"
        if not _is_safe(member.name):
            self.not_taken.add(Reason.UNSAFE_NAME, shown[:LONGEST_NAME])
            return False
        if _is_hidden(member.name):
            return False
        suffix = suffix_of(member.name.rpartition("/")[2])
        if self._sidecars.add(archive, member.name, member.read) or not self._is_image(member, shown, suffix):
            return False
        where = f"{LOST} {member.lost}" if member.lost else f"{stamp} {member.where} {quote(archive)}"
        if self._found.pop(member.name, None):  # As when it is unpacked, the last counts.
            self.not_taken.add(Reason.LISTED_TWICE, shown, suffix)
        self._found[member.name] = _Image(member.name, where, key_of(archive, member.name))
        return True

    def end_archive(self) -> None:
        names = listed_names([*self._found])
        for name, image in zip(names, self._found.values(), strict=True):
            path = name if self._one else f"{self._archive}/{name}"
            self._entries.append(Entry(path, image.stamp, inner=_folders(name)))
            self._keys.append(image.key)
        self._found.clear()

    def contents(self) -> Contents:
        labels, labelled = self._sidecars.labels(self._keys)
        entries = self._entries
        if labelled is not None:
            entries = [
                Entry(entry.path, entry.stamp, label, inner=entry.inner)
                for entry, label in zip(self._entries, labels, strict=True)
            ]
        return Contents(entries, self.not_taken, labelled)

    def _is_image(self, member: Member, shown: str, suffix: str | None) -> bool:
        if suffix in IMAGE_SUFFIXES:
            return True
        if suffix in RAW_SUFFIXES:
            self.not_taken.add(Reason.UNSUPPORTED_FORMAT, shown, suffix, RAW)
            return False
        if self._not_images[suffix] >= SNIFFED_FILES:
            self.not_taken.add(Reason.NOT_LOOKED_INTO, shown, suffix)
            return False
        found = sniff(member.read(SNIFFED_BYTES)) if member.lost is None else None
        if found is None:
            self._not_images[suffix] += 1
            self.not_taken.add(Reason.NOT_AN_IMAGE, shown, suffix)
        elif not found.decoded:
            self.not_taken.add(Reason.UNSUPPORTED_FORMAT, shown, suffix, found)
        return found is not None and found.decoded


def damaged(name: str, why: str) -> ArchiveDamaged:
    """The error for an archive that is not whole."""
    return ArchiveDamaged(
        f"The archive {name!r} is damaged or truncated ({why}). Make or download it again, or leave it out with "
        "`images.exclude`.",
        field=FIELD,
        archive=name,
    )


def _is_safe(name: str) -> bool:
    """Whether the name would stay below the folder that the archive is unpacked in."""
    return (
        0 < len(name) <= LONGEST_NAME and not name.startswith("/") and ".." not in name.split("/") and "\0" not in name
    )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _folders(name: str) -> str:
    """The name whose folders may be classes: those that are archives within the archive, without their extension."""
    return "/".join(part.removesuffix(".tar") for part in name.split("/"))
