"""Hugging Face's imagefolder: images, and beside them a `metadata` file with the label of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shoal.deadline import Deadline
from shoal.errors import NoImages, SourceInvalid

from extractor.sources.folder import FolderSource
from extractor.sources.labelling import SPLIT
from extractor.sources.lists import ListSource
from extractor.sources.patterns import Selection
from extractor.sources.source import FIELD, Alive, Contents, Entry, Format, NotTaken, Place, Reason

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class ImageFolderSource:
    """The images that the metadata files of a folder and of its splits name by `file_name`.

    Parameters
    ----------
    name
        The folder as the request names it.
    place
        Where it is.
    selection
        Which of its files are taken.
    """

    format: Format = "imagefolder"

    def __init__(self, name: str, place: Place, selection: Selection) -> None:
        self._name, self._place = name, place
        self._folder = FolderSource(name, place, selection)

    def check(self, deadline: Deadline | None) -> None:
        """Refuse a folder without a metadata file, or whose first one names no image."""
        self._list(self._files()[0]).check(deadline)

    def contents(self, alive: Alive = lambda rows: None) -> Contents:
        """The images in the order of the metadata files, and of the rows in each."""
        entries: list[Entry] = []
        not_taken = NotTaken()
        labelled = None
        for file in self._files():
            found = self._list(file).contents(alive)
            prefix = file.rpartition("/")[0]
            labelled = labelled or (found.labelled and "the metadata files")
            entries += [_within(prefix, entry) for entry in found.entries]
        named = {entry.path for entry in entries}
        for entry in self._others(alive):
            if entry.path not in named:
                not_taken.add(Reason.NOT_NAMED, entry.path)
        return Contents(entries, not_taken, labelled)

    def _others(self, alive: Alive) -> list[Entry]:
        try:
            return self._folder.contents(alive).entries
        except NoImages:
            return []

    def _files(self) -> list[str]:
        found = metadata_files(self._place.folder)
        if not found:
            raise SourceInvalid(
                f"`{FIELD}` is {self._name!r}, which has no {NAMES[0]}, {NAMES[1]} or {NAMES[2]}, nor have the folders "
                "of its splits: send `format` `folder`.",
                field=FIELD,
            )
        return found

    def _list(self, file: str) -> ListSource:
        path = self._place.folder / file
        place = replace(self._place, path=path, folder=path.parent)
        return ListSource(f"{self._name}/{file}", place, below_root=False)


def metadata_files(folder: Path) -> list[str]:
    """The metadata files of a folder and of the splits in it, relative to it; one a folder."""
    splits = sorted(each.name for each in folder.iterdir() if SPLIT.fullmatch(each.name) and each.is_dir())
    found = []
    for prefix in ("", *(f"{split}/" for split in splits)):
        found += [f"{prefix}{name}" for name in NAMES if (folder / prefix / name).is_file()][:1]
    return found


def _within(prefix: str, entry: Entry) -> Entry:
    if not prefix:
        return entry
    return replace(entry, path=f"{prefix}/{entry.path}", split=entry.split or prefix)
