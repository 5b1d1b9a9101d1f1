"""Which kind a source is, by the request or by what lies at its path."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import PathNotFound, SourceInvalid
from shoal.schemas import ImageSource

from extractor.sources.folder import FolderSource
from extractor.sources.globs import Selection
from extractor.sources.lists import LIST_SUFFIXES, ListSource
from extractor.sources.source import Format, Place, Source


def open_source(source: ImageSource, root: Path, *, follow_links: bool = False) -> Source:
    """The source that a request names.

    Parameters
    ----------
    root
        The data root.
    follow_links
        Follow symlinks that leave the root.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        Its path; also a file that is no source of images.
    SourceInvalid
        What lies there is not of the format that the request names.
    """
    place = Place.of(source, root, follow_links=follow_links)
    chosen = sniffed(source, place) if source.format == "auto" else source.format
    if chosen == "list":
        return ListSource(source.path, place)
    if not place.path.is_dir():
        raise SourceInvalid(
            f"`images.path` is {source.path!r}, which is a file, but `images.format` is `{chosen}`: send a folder.",
            field="images.format",
        )
    return FolderSource(source.path, place, Selection(source.include, source.exclude))


def sniffed(source: ImageSource, place: Place) -> Format:
    """The format of what lies at a place.

    Raises
    ------
    PathNotFound
        It is a file of none.
    """
    if place.path.is_dir():
        return "folder"
    if place.path.suffix.lower() in LIST_SUFFIXES:
        return "list"
    raise PathNotFound(
        f"`images.path` is {source.path!r}, which is a file: send the folder that holds the images, or a list of their "
        f"paths ({', '.join(sorted(LIST_SUFFIXES))}).",
        field="images.path",
    )
