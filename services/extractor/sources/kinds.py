"""Which kind a source is, by the request or by what lies at its path.

An upload is a folder below the store, in place of one below the data root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path, PurePath

from shoal.errors import PathNotFound, ShoalError, SourceInvalid
from shoal.labels import list_files
from shoal.schemas import ExtractRequest, ImageSource, UploadSource
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.uploads import Upload, Uploads, require_complete
from shoal.userfiles import UserFile

from extractor.images.decode import IMAGE_SUFFIXES, suffix_of
from extractor.remote.allowed import NOTHING, Allowed
from extractor.sources import tables
from extractor.sources.archives import ArchiveSource, Reader
from extractor.sources.folder import FolderSource
from extractor.sources.imagefolder import ImageFolderSource, metadata_files
from extractor.sources.imagenet import VALIDATION, ImageNetSource, class_file
from extractor.sources.lists import LIST_SUFFIXES, ListSource
from extractor.sources.patterns import Selection
from extractor.sources.source import FIELD, Format, Place, Source
from extractor.sources.tables import ParquetSource
from extractor.sources.tars import TarReader
from extractor.sources.zips import ZipReader

READERS: Mapping[str, Reader] = {reader.format: reader for reader in (TarReader(), ZipReader())}
"""Of archives, by format."""
LOOKED_AT = 1_000
"""How many entries of a folder say what it is."""


def open_source(source: ImageSource, root: Path, *, follow_links: bool = False, allowed: Allowed = NOTHING) -> Source:
    """The source that a request names.

    Parameters
    ----------
    root
        The data root.
    follow_links
        Follow symlinks that leave the root.
    allowed
        Addresses that images may be fetched from.

    Raises
    ------
    PathOutsideRoot, PathNotFound
        Its path; also a file that is no source of images.
    SourceInvalid
        What lies there is not of the format that the request names.
    """
    place = Place.of(source, root, follow_links=follow_links)
    chosen = sniffed(source, place) if source.format == "auto" else source.format
    selection = Selection(source.include, source.exclude)
    if chosen in READERS:
        return ArchiveSource(READERS[chosen], source.path, place, selection)
    if chosen == "parquet":
        return ParquetSource(source.path, place, selection)
    if place.pattern:
        raise SourceInvalid(
            f"`{FIELD}` is {source.path!r}, but only archives and tables may have braces in their path.",
            field=FIELD,
        )
    if chosen == "list":
        return ListSource(source.path, place, allowed=allowed)
    if not place.path.is_dir():
        raise SourceInvalid(
            f"`{FIELD}` is {source.path!r}, which is a file, but `images.format` is `{chosen}`: send a folder.",
            field="images.format",
        )
    if chosen == "imagefolder":
        return ImageFolderSource(source.path, place, selection)
    if chosen == "imagenet":
        return ImageNetSource(source.path, place, selection)
    return FolderSource(source.path, place, selection)


def sniffed(source: ImageSource, place: Place) -> Format:
    """The format of what lies at a place.

    Raises
    ------
    PathNotFound
        It is a file of none.
    """
    if place.pattern or place.path != place.folder:
        found = format_of_file(place.pattern or place.path.name)
        if found is not None:
            return found if found != "list" or not _is_table(place) else "parquet"
        known = sorted(LIST_SUFFIXES.union(*(reader.suffixes for reader in READERS.values())))
        raise PathNotFound(
            f"`{FIELD}` is {source.path!r}, which is a file: send the folder that holds the images, or a list or "
            f"an archive of them ({', '.join(known)}).",
            field=FIELD,
        )
    try:
        if any(_names_files(place, file) for file in metadata_files(place.folder)):
            return "imagefolder"
        if _is_validation(place) and class_file(place) is not None:
            return "imagenet"
        return _of_folder(place.folder) or "folder"
    except OSError:
        return "folder"  # Its walk says what is wrong.


def _names_files(place: Place, file: str) -> bool:
    """Whether a metadata file has the column that Hugging Face's has."""
    path = place.folder / file
    user_file = UserFile(path, f"The list {file!r}", SourceInvalid, {"field": FIELD}, place.links_root)
    try:
        return "file_name" in list_files.detect(user_file).names
    except ShoalError:
        return False


def _is_validation(place: Place) -> bool:
    """Whether the folder, or ``val`` in it, holds ImageNet's validation images."""
    for folder in (place.folder, place.folder / "val"):
        if folder.is_dir():
            with os.scandir(folder) as entries:
                names = [entry.name for entry in islice(entries, LOOKED_AT) if not entry.name.startswith(".")]
            if names and sum(map(bool, map(VALIDATION.fullmatch, names))) > len(names) // 2:
                return True
    return False


def _is_table(place: Place) -> bool:
    """Whether the Parquet files of a source hold images rather than paths."""
    first = place.files(tables.SUFFIXES)[0]
    return PurePath(first).suffix.lower() in tables.SUFFIXES and tables.holds_images(place, first)


def format_of_file(name: str) -> Format | None:
    """The kind of archive, list or table that a file is, by its name; None for all others."""
    suffix = PurePath(name).suffix.lower()
    if name.lower().endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return "tar"  # Its reader says what to do.
    for reader in READERS.values():
        if suffix in reader.suffixes:
            return reader.format
    return "list" if suffix in LIST_SUFFIXES else None


def _of_folder(folder: Path) -> Format | None:
    """The kind of archive that a folder holds, if it holds neither folders nor images."""
    suffixes = set()
    with os.scandir(folder) as entries:
        for entry in islice(entries, LOOKED_AT):
            suffix = suffix_of(entry.name)
            if entry.name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES or entry.is_dir():
                return None
            suffixes.add(suffix)
    found = [reader.format for reader in READERS.values() if suffixes & reader.suffixes]
    return found[0] if found else "parquet" if suffixes & tables.SUFFIXES else None


def settings_for(source: ImageSource, settings: Settings, store: Store) -> Settings:
    """``settings`` whose data root is the upload, if ``source`` is one: every path of the source is below it.

    Raises
    ------
    UploadNotFound, UploadIncomplete
        The upload is gone, or parts of it are missing.
    """
    if not isinstance(source, UploadSource):
        return settings
    return _rooted(Uploads(store.layout).complete(source.upload), settings)


def settings_of_owner(request: ExtractRequest, settings: Settings, uploads: Uploads, owner: str | None) -> Settings:
    """`settings_for` a request that ``owner`` sends.

    Raises
    ------
    UploadNotFound
        The upload is another key's, or gone.
    UploadIncomplete
    """
    if not isinstance(request.images, UploadSource):
        return settings
    return _rooted(require_complete(uploads.get(request.images.upload, owner)), settings)


def _rooted(upload: Upload, settings: Settings) -> Settings:
    upload.touch()
    # Nothing in it is a symlink; nothing else is to be reached from it.
    return settings.model_copy(update={"data": upload.layout.images, "follow_links": False})


def plan_path(source: ImageSource, path: str) -> str:
    """The path that a plan records: ``upload:<id>`` and the path within, or ``path``."""
    if not isinstance(source, UploadSource):
        return path
    return uploaded_path(source.upload, path)


def uploaded_path(upload_id: str, path: str) -> str:
    """A path within an upload as a plan records it."""
    return f"upload:{upload_id}" if path == "." else f"upload:{upload_id}/{path}"
