"""What a decoder reads for each row of a listing, which its stamp alone says.

=============================================================  ==================================================
stamp                                                          the image
=============================================================  ==================================================
``SIZE:MTIME``                                                 a file below the source's folder
``data SIZE:MTIME``                                            a file below the data root
``tar SIZE:MTIME OFFSET LENGTH ARCHIVE``                       bytes of a tar file
``zip SIZE:MTIME OFFSET COMPRESSED BYTES METHOD CRC ARCHIVE``  a member of a zip file
``parquet SIZE:MTIME GROUP ROW COLUMN FILE``                   a cell of a Parquet file, which the parent reads
``url``, ``url ALGORITHM:CHECKSUM``                            at the address that its path is, fetched by the parent
``lost CODE``                                                  an entry that could not be read when it was listed
=============================================================  ==================================================

``SIZE:MTIME`` is `extractor.images.decode.stamp_of` the file. Paths within stamps are percent-encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from urllib.parse import unquote

from shoal.errors import ImageMissing, ImageNotAllowed, ImageOutsideRoot, ImageTooLarge, ImageUnreadable

from extractor.images.located import ListedImage, LocatedImage, LostImage, TarMember, ZipMember
from extractor.remote.fetcher import Fetcher
from extractor.sources import addresses, tables
from extractor.sources.names import candidate_paths
from extractor.sources.source import LOST, Place, Row

DATA = "data"
_WHY_LOST = {
    ImageMissing.code: "The list names this file, but it does not exist below the list's folder or the data root.",
    ImageOutsideRoot.code: "The list names a file outside the data root: move it below the root.",
    ImageNotAllowed.code: "SHOAL_SOURCES_ALLOW did not name the address's host when the list was read. Set it, and "
    "submit the request again. An address must hold no user or password.",
    ImageTooLarge.code: "The file decompresses to more bytes than an image file may have.",
    ImageUnreadable.code: "The archive has the file encrypted, or compressed in a way that is not read: use deflate.",
}


def located_images(rows: Iterable[Row], place: Place, fetcher: Fetcher | None = None) -> Iterator[LocatedImage | None]:
    """What a decoder reads for each of ``rows``, in their order; None whenever the next has not arrived.

    It is consumed as far ahead as images may wait for the network, so whatever must be fetched is fetched meanwhile.

    Parameters
    ----------
    fetcher
        For images on other machines; without one, they are errors.
    """
    for kind, same in groupby(rows, key=_kind):
        if kind == addresses.KIND:
            yield from addresses.fetched(same, fetcher)
        else:
            yield from _READERS[kind](same, place)


def _kind(row: Row) -> str:
    kind = (row.stamp or "").partition(" ")[0]
    return kind if kind in _READERS or kind == addresses.KIND else ""


def _files(rows: Iterable[Row], place: Place) -> Iterator[LocatedImage]:
    for row in rows:
        yield ListedImage(candidate_paths(row.path), row.stamp)


def _files_of_root(rows: Iterable[Row], place: Place) -> Iterator[LocatedImage]:
    for row in rows:
        yield ListedImage((str(place.root / row.path),), (row.stamp or "").partition(" ")[2])


def _tar_members(rows: Iterable[Row], place: Place) -> Iterator[LocatedImage]:
    for row in rows:
        _, stamp, offset, length, archive = (row.stamp or "").split(" ")
        yield TarMember(row.path, unquote(archive), stamp, int(offset), int(length))


def _zip_members(rows: Iterable[Row], place: Place) -> Iterator[LocatedImage]:
    for row in rows:
        _, stamp, *numbers, archive = (row.stamp or "").split(" ")
        offset, length, size, method, crc = map(int, numbers)
        yield ZipMember(row.path, unquote(archive), stamp, offset, length, size, method, crc)


def _lost(rows: Iterable[Row], place: Place) -> Iterator[LocatedImage]:
    for row in rows:
        code = (row.stamp or "").partition(" ")[2]
        yield LostImage(code, _WHY_LOST.get(code, "The entry leads to no file."))


_READERS: dict[str, Callable[[Iterable[Row], Place], Iterator[LocatedImage]]] = {
    "": _files,
    DATA: _files_of_root,
    LOST: _lost,
    "tar": _tar_members,
    "zip": _zip_members,
    tables.KIND: tables.fetched,
}
