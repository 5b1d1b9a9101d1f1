"""A file that lists images: their paths, with a label and a split where it has columns for them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from shoal.deadline import Deadline
from shoal.errors import ImageMissing, ImageOutsideRoot, NoImages, ShoalError, SourceInvalid
from shoal.labels import list_files
from shoal.labels.columns import is_address
from shoal.labels.list_files import ListRow
from shoal.userfiles import UserFile

from extractor.images.decode import stamp_of
from extractor.remote.allowed import NOTHING, Allowed
from extractor.sources import addresses
from extractor.sources.names import is_text
from extractor.sources.reading import DATA
from extractor.sources.source import FIELD, LOST, Alive, Contents, Entry, Format, NotTaken, Place, Reason

LIST_SUFFIXES = frozenset({".txt", ".lst", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq"})
PROGRESS_ROWS = 10_000
CHECKED_ROWS = 1_000
"""How many rows a request's check looks at for one that exists."""


class ListSource:
    """A list of paths, each relative to the list's folder or else to the data root, and of addresses.

    An entry without a file, or one outside the data root, becomes an error row. A path that is listed twice is taken
    once.

    Parameters
    ----------
    name
        The list as the request names it.
    place
        Where it is.
    below_root
        Whether paths may be relative to the data root, too.
    allowed
        Addresses that images may be fetched from.
    """

    format: Format = "list"

    def __init__(self, name: str, place: Place, *, below_root: bool = True, allowed: Allowed = NOTHING) -> None:
        self._below_root, self._allowed = below_root, allowed
        self._name, self._place = name, place
        self._file = UserFile(place.path, f"The list {name!r}", SourceInvalid, {"field": FIELD}, place.links_root)

    def check(self, deadline: Deadline | None) -> None:
        """Refuse a list without paths, or whose first `CHECKED_ROWS` paths all lead nowhere."""
        number = 0
        for number, row in enumerate(list_files.rows(self._file, list_files.detect(self._file)), 1):
            if deadline is not None:
                deadline.check()
            if number > CHECKED_ROWS or not self._entry(row).stamp.startswith(LOST):
                return
        raise self._no_images(number)

    def contents(self, alive: Alive = lambda rows: None) -> Contents:
        """The images in the order of the list."""
        layout = list_files.detect(self._file)
        entries: dict[str, Entry] = {}
        not_taken = NotTaken()
        rows = list_files.rows(self._file, layout)
        for number, row in enumerate(rows, 1):
            if number % PROGRESS_ROWS == 0:
                alive(number)
            entry = self._entry(row)
            before = entries.setdefault(entry.path, entry)
            if before is not entry:
                self._require_same(before, entry, row, layout.unit)
                not_taken.add(Reason.LISTED_TWICE, entry.path)
        if all(entry.stamp.startswith(LOST) for entry in entries.values()):
            raise self._no_images(len(entries))
        labelled = f"the column `{layout.label}` of the list" if layout.label is not None else None
        return Contents(addresses.without_folders([*entries.values()]), not_taken, labelled)

    def _entry(self, row: ListRow) -> Entry:
        if is_address(row.path):
            return addresses.listed(row, self._allowed)
        path, stamp = self._found(row.path)
        return Entry(path, stamp, row.label, row.split)

    def _found(self, written: str) -> tuple[str, str]:
        """The path of an entry as it is listed, and its stamp."""
        folder, root = str(self._place.folder), str(self._place.root)
        bases = ((folder, ""), (root, f"{DATA} "))
        for base, prefix in bases if self._below_root else bases[:1]:
            path = posixpath.normpath(posixpath.join(base, written))
            if not Path(path).is_relative_to(root):
                return _as_listed(written), f"{LOST} {ImageOutsideRoot.code}"
            try:
                status = os.stat(path)  # noqa: PTH116 - once an image
            except (OSError, ValueError):
                continue
            return posixpath.relpath(path, base), prefix + stamp_of(status)
        return _as_listed(written), f"{LOST} {ImageMissing.code}"

    def _require_same(self, before: Entry, entry: Entry, row: ListRow, unit: str) -> None:
        if (before.label, before.split) != (entry.label, entry.split):
            raise self._file.invalid(
                f"names {entry.path!r} twice, with different labels or splits: {before.label!r} ({before.split!r}), "
                f"and {entry.label!r} ({entry.split!r}) in {unit} {row.place}. Keep one row per image.",
                **{unit: row.place},
            )

    def _no_images(self, rows: int) -> ShoalError:
        if not rows:
            return NoImages(f"The list {self._name!r} names no image.", field=FIELD)
        refused = [path for path in islice(self._paths(), CHECKED_ROWS) if is_address(path)]
        if refused:
            return addresses.refusal(refused, self._allowed, self._name)
        first = next(self._paths(), "")
        return NoImages(
            f"None of the files that the list {self._name!r} names exists, such as {first!r}. Paths are relative to "
            "the list's folder or to the data root.",
            field=FIELD,
        )

    def _paths(self) -> Iterator[str]:
        return (row.path for row in list_files.rows(self._file, list_files.detect(self._file)))


def _as_listed(written: str) -> str:
    path = posixpath.normpath(written)
    return path if is_text(path) else repr(path)
