"""ImageNet as its competitions publish it: validation images in one flat folder, their classes in a file elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from shoal.deadline import Deadline
from shoal.errors import SourceInvalid
from shoal.labels import read_csv_columns
from shoal.userfiles import UserFile

from extractor.sources.folder import FolderSource
from extractor.sources.patterns import Selection
from extractor.sources.source import FIELD, Alive, Contents, Entry, Format, Place

SOLUTION = "LOC_val_solution.csv"
LISTS = ("imagenet_2012_validation_synset_labels.txt", "ILSVRC2012_validation_ground_truth.txt")
"""A class a line, in the order of the images' numbers."""
VALIDATION = re.compile(r"ILSVRC2012_(val|test)_(\d{8})\.JPEG", re.IGNORECASE)
_SYNSET = re.compile(r"n\d{8}")
_MOST_BYTES = 64 << 20
_LEVELS = 5
"""How far above the folder the file of classes may lie: Kaggle has it above ``ILSVRC/Data/CLS-LOC/val``."""


class ImageNetSource:
    """A folder of ImageNet's images: training images in folders by class, validation images by the file of classes.

    Parameters
    ----------
    name
        The folder as the request names it.
    place
        Where it is.
    selection
        Which of its files are taken.
    """

    format: Format = "imagenet"

    def __init__(self, name: str, place: Place, selection: Selection) -> None:
        self._name, self._place = name, place
        self._folder = FolderSource(name, place, selection)

    def check(self, deadline: Deadline | None) -> None:
        """Refuse a folder without images, or without the file of classes."""
        self._folder.check(deadline)
        self._file()

    def contents(self, alive: Alive = lambda rows: None) -> Contents:
        """Every image, sorted by its path."""
        file = self._file()
        classes = _classes(UserFile(file, f"The file {file.name!r}", SourceInvalid, {"field": FIELD}, self._place.root))
        found = self._folder.contents(alive)
        entries = [_labelled(entry, classes) for entry in found.entries]
        return replace(found, entries=entries, labelled=f"the file `{file.name}` and folders named by synsets")

    def _file(self) -> Path:
        found = class_file(self._place)
        if found is None:
            raise SourceInvalid(
                f"`{FIELD}` is {self._name!r}, and neither it nor a folder above it has {SOLUTION}, {LISTS[0]} or "
                f"{LISTS[1]}, which say what the validation images show.",
                field=FIELD,
            )
        return found


def class_file(place: Place) -> Path | None:
    """The file with the classes of the validation images, in the folder or above it; None if there is none."""
    for folder in (place.folder, *place.folder.parents[:_LEVELS]):
        if not folder.is_relative_to(place.root):
            return None
        for name in (SOLUTION, *LISTS):
            if (folder / name).is_file():
                return folder / name
    return None


def _classes(file: UserFile) -> dict[int, str]:
    """The class of each validation image, by its number from 1."""
    if file.path.name == SOLUTION:
        classes = {}
        for line, (image, prediction) in read_csv_columns(file, ("ImageId", "PredictionString"), _MOST_BYTES):
            number = (image or "").rpartition("_")[2]
            if not number.isdigit() or not prediction:
                raise file.invalid(f"names no image and class in line {line}.", line=line)
            classes[int(number)] = prediction.split()[0]
        return classes
    return {number: line for number, line in enumerate(file.read_text(_MOST_BYTES).splitlines(), 1) if line}


def _labelled(entry: Entry, classes: dict[int, str]) -> Entry:
    *folders, name = entry.path.split("/")
    found = VALIDATION.fullmatch(name)
    if found:
        label = classes.get(int(found[2])) if found[1].lower() == "val" else None
        return replace(entry, label=label, split=found[1].lower())
    synset = next((folder for folder in reversed(folders) if _SYNSET.fullmatch(folder)), None)
    return replace(entry, label=synset, split="train" if synset else None)
