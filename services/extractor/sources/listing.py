"""The listing of a source: its images in a fixed order, each with its name as text, label, split and stamp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import pyarrow as pa
from shoal.deadline import Deadline
from shoal.errors import NoImages
from shoal.schemas import ImageSource, LabelFile
from shoal.store.records import image_id
from shoal.store.table_schemas import LISTING_SCHEMA

from extractor.remote.allowed import NOTHING, Allowed
from extractor.sources import labels as label_files
from extractor.sources.kinds import open_source
from extractor.sources.labelling import Labelling, label
from extractor.sources.patterns import Selection, spread
from extractor.sources.source import Alive, Contents, Entry, NotTakenGroup


class SourceFacts(TypedDict):
    """How a source was read, as in a job's result."""

    format: str
    splits: list[str]
    wrapper: str | None
    labels: Literal["file", "folder", "source", "none"]
    message: str
    system_entries: int


class Notes(TypedDict):
    """What a job's result says about its listing."""

    not_taken: list[NotTakenGroup]
    source: SourceFacts


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    Attributes
    ----------
    table
        The store's `LISTING_SCHEMA`: image_id, image_path (relative to ``source.path``), label, split, stamp.
    notes
        Which files and folders are not listed and why, and how the source was read.
    """

    table: pa.Table
    notes: Notes


def check(
    source: ImageSource,
    root: Path,
    *,
    follow_links: bool = False,
    allowed: Allowed = NOTHING,
    deadline: Deadline | None,
) -> None:
    """Refuse a source that cannot work without listing all of it.

    Parameters
    ----------
    deadline
        Of the request, checked at every entry of the source; None for no limit.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        The source or the label file.
    NoImages, SourceInvalid
        The source holds no image, or cannot be read, or nothing may be fetched from its addresses.
    LabelsInvalid
        The label file cannot be read or lacks a column.
    """
    open_source(source, root, follow_links=follow_links, allowed=allowed).check(deadline)
    if isinstance(source.labels, LabelFile):
        label_files.check(source.labels, root)


def list_source(
    source: ImageSource,
    root: Path,
    *,
    follow_links: bool = False,
    allowed: Allowed = NOTHING,
    alive: Alive = lambda entries: None,
) -> Listing:
    """Every image of ``source`` that the request takes, in an order that does not depend on the file system.

    Parameters
    ----------
    root
        The data root.
    follow_links
        Follow symlinks that leave the root.
    allowed
        Addresses that images may be fetched from.
    alive
        Called now and then with the number of files or rows seen; may raise to stop.

    Raises
    ------
    PathOutsideRoot, PathNotFound, NoImages, SourceInvalid, LabelsInvalid
        As for `check`; also when an image has no row in the label file.
    LabelsAmbiguous
        Folders may be splits or classes.
    """
    opened = open_source(source, root, follow_links=follow_links, allowed=allowed)
    contents = opened.contents(alive)
    entries = _selected(source, contents.entries)
    labelling = _labelled(source, contents, entries, root)
    taken = spread(len(entries), source.limit)
    splits = labelling.splits if source.split is None else [source.split] * len(entries)
    columns: dict[str, list[str | None]] = {
        "image_id": [image_id(entries[at].path) for at in taken],
        "image_path": [entries[at].path for at in taken],
        "label": [labelling.labels[at] for at in taken],
        "split": [splits[at] for at in taken],
        "stamp": [entries[at].stamp for at in taken],
    }
    facts = SourceFacts(
        format=opened.format,
        splits=list(labelling.split_folders),
        wrapper=labelling.wrapper,
        labels=labelling.source,
        message=labelling.message,
        system_entries=contents.system_entries,
    )
    return Listing(pa.table(columns, LISTING_SCHEMA), Notes(not_taken=contents.not_taken.groups(), source=facts))


def _selected(source: ImageSource, entries: list[Entry]) -> list[Entry]:
    """Those that `include` and `exclude` leave.

    Raises
    ------
    NoImages
        None.
    """
    selection = Selection(source.include, source.exclude)
    if selection:
        entries = [entry for entry in entries if selection.takes(entry.path)]
    if not entries:
        raise NoImages(
            f"`images.include` and `images.exclude` leave no image of {source.path!r}. Patterns match as in "
            "`.gitignore`: `*.jpg` a name at any depth, `cats/**` a path from the source.",
            field="images.include",
        )
    return entries


def _labelled(source: ImageSource, contents: Contents, entries: list[Entry], root: Path) -> Labelling:
    """Label and split of each image: the request decides, then the source's own, then its folders."""
    own_splits = any(entry.split for entry in entries)
    if source.labels == "folder" and contents.labelled is not None:
        labels = [entry.label for entry in entries]
        found = Labelling(labels, [None] * len(entries), "source", f"Labels come from {contents.labelled}.")
    else:
        named = isinstance(source.labels, LabelFile)
        paths = [entry.path if named or entry.inner is None else entry.inner for entry in entries]
        found = label(source, paths, root)
    if not own_splits:
        return found
    splits = sorted({entry.split for entry in entries if entry.split})
    return Labelling(
        found.labels, [entry.split for entry in entries], found.source, found.message, tuple(splits), found.wrapper
    )
