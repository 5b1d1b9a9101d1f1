"""An image of a listing as a decoder receives it: a file, a byte range of an archive, or bytes; and how it is read.

A decode process reads files and archives itself, so that no image passes through another process. What only the parent
can read, such as a column of a Parquet file, arrives as bytes.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

from shoal.errors import ImageRemoved, ImageTooLarge, ImageTruncated, ImageUnreadable

from extractor.images.decode import DECODED, MAX_FILE_BYTES, formats_of, read_image_file

STORED, DEFLATED = 0, 8
"""Methods of a zip file's members that are read."""
_LOCAL_HEADER = 30
_LOCAL_SIGNATURE = b"PK\3\4"


class ListedImage(NamedTuple):
    """A file.

    Attributes
    ----------
    paths
        Where the file may be, relative to the source's folder; the first that exists is read.
    stamp
        What `extractor.images.decode.stamp_of` the file must still be; None to skip the comparison.
    """

    paths: tuple[str, ...]
    stamp: str | None


class TarMember(NamedTuple):
    """A member of an uncompressed tar file.

    Attributes
    ----------
    name
        The image's path, for its extension.
    archive
        Path of the archive, relative to the source's folder.
    stamp
        `stamp_of` the archive when it was listed.
    offset, length
        Where the member's bytes are.
    """

    name: str
    archive: str
    stamp: str
    offset: int
    length: int


class ZipMember(NamedTuple):
    """A member of a zip file.

    Attributes
    ----------
    offset
        Of the member's local header.
    length
        Compressed bytes.
    size
        Bytes once they are decompressed.
    method
        `STORED` or `DEFLATED`.
    crc
        CRC-32 of the decompressed bytes.
    """

    name: str
    archive: str
    stamp: str
    offset: int
    length: int
    size: int
    method: int
    crc: int


class FetchedImage(NamedTuple):
    """An image whose bytes the parent has read: from a table, or from another machine."""

    name: str
    data: bytes


class LostImage(NamedTuple):
    """An image that could not be found or fetched: it becomes an error row."""

    code: str
    message: str


LocatedImage = ListedImage | TarMember | ZipMember | FetchedImage | LostImage


def read_located(
    image: ListedImage | TarMember | ZipMember | FetchedImage | bytes, root: Path, folder: Path
) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of an image's file, and Pillow's names of the formats to try.

    Parameters
    ----------
    root
        Files outside it are refused; symlinks resolved.
    folder
        What the image's path is relative to.

    Raises
    ------
    ImageInvalid
        Why it cannot be read: see `read_image_file`.
    """
    if isinstance(image, bytes):
        return image, DECODED
    if isinstance(image, FetchedImage):
        return image.data, formats_of(image.name)
    if isinstance(image, TarMember):
        part = (image.offset, image.length)
        return read_image_file(root, folder / image.archive, image.stamp, part), formats_of(image.name)
    if isinstance(image, ZipMember):
        return _read_zipped(image, root, folder / image.archive), formats_of(image.name)
    return _read_listed(image, root, folder), formats_of(image.paths[0])


def _read_listed(image: ListedImage, root: Path, folder: Path) -> bytes:
    first: ImageUnreadable | None = None
    for path in image.paths:
        try:
            return read_image_file(root, folder / path, image.stamp)
        except ImageUnreadable as error:
            first = first or error
            if not isinstance(error, ImageRemoved):
                break
    raise first or ImageUnreadable("The file has no name.")


def _read_zipped(image: ZipMember, root: Path, path: Path) -> bytes:
    if image.size > MAX_FILE_BYTES:
        raise ImageTooLarge(f"The file has {image.size:,} bytes; the limit is {MAX_FILE_BYTES:,}.")
    header = read_image_file(root, path, image.stamp, (image.offset, _LOCAL_HEADER))
    if not header.startswith(_LOCAL_SIGNATURE):
        raise ImageUnreadable("The archive has no file where its directory says: make the archive again.")
    names = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    data = read_image_file(root, path, image.stamp, (image.offset + _LOCAL_HEADER + names, image.length))
    if image.method == DEFLATED:
        data = _inflated(data, image.size)
    if len(data) != image.size or zlib.crc32(data) != image.crc:
        raise ImageTruncated("The file's bytes in the archive do not have their checksum: make the archive again.")
    return data


def _inflated(data: bytes, size: int) -> bytes:
    """``data`` decompressed, to one byte more than ``size`` at most."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise ImageTruncated(f"The file cannot be decompressed ({error}): make the archive again.") from error
