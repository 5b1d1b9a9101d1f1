"""Parquet files that hold the images themselves, as Hugging Face publishes them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import BinaryIO, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
from shoal.deadline import Deadline
from shoal.errors import ImageChanged, ImageMissing, ImageRemoved, ImageUnreadable, NoImages, ShoalError, SourceInvalid
from shoal.labels import clean_label, quoted_list, typed_values
from shoal.labels.columns import find_label
from shoal.labels.formats import open_parquet
from shoal.userfiles import UserFile

from extractor.images.decode import stamp_of, suffix_of
from extractor.images.located import FetchedImage, LocatedImage, LostImage
from extractor.sources.names import is_text
from extractor.sources.patterns import Selection
from extractor.sources.source import FIELD, Alive, Contents, Entry, Format, Place, Row

SUFFIXES = frozenset({".parquet", ".pq"})
KIND = "parquet"
_BATCH_ROWS = 1 << 14
_BATCH_IMAGES = 16
_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "img_bytes", "content", "data")
_SPLIT = re.compile(r"(train|validation|valid|val|test|dev)(?=[-_.]|$)")


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a table: of image bytes, which may be a field of a struct, of their paths, labels and splits."""

    image: str
    path: str | None
    label: str | None
    split: str | None
    names: tuple[str, ...] = ()
    """The name of each number of ``label``."""


class _Found(NamedTuple):
    file: str
    row: int
    stamp: str
    path: str | None
    label: str | None
    split: str | None


class ParquetSource:
    """Images in a column of Parquet files: bytes, or Hugging Face's ``{bytes, path}``.

    Parameters
    ----------
    name
        The source as the request names it.
    place
        Where it is.
    selection
        Files that it excludes are not opened.
    """

    format: Format = "parquet"

    def __init__(self, name: str, place: Place, selection: Selection) -> None:
        self._name, self._place = name, place
        self._files = place.chosen_files(SUFFIXES, selection)

    def check(self, deadline: Deadline | None) -> None:
        """Refuse a first file without a column of images, or files without a row."""
        for file in self._files:
            if deadline is not None:
                deadline.check()
            user_file = table_file(self._place, file)
            with user_file.open(None) as opened:
                table = open_parquet(user_file, opened)
                layout_of(user_file, table)
                if table.metadata.num_rows:
                    return
        raise self._no_images()

    def contents(self, alive: Alive = lambda rows: None) -> Contents:
        """The images in the order of the files, and of the rows in each."""
        found: list[_Found] = []
        labels: set[str] = set()
        for file in self._files:
            for row in self._rows(file, labels):
                found.append(row)
                if len(found) % _BATCH_ROWS == 0:
                    alive(len(found))
        if not found:
            raise self._no_images()
        labelled = f"the column {quoted_list(sorted(labels))}" if labels else None
        entries = [Entry(name, row.stamp, row.label, row.split) for name, row in zip(_names(found), found, strict=True)]
        return Contents(entries, labelled=labelled)

    def _rows(self, file: str, labels: set[str]) -> Iterator[_Found]:
        user_file = table_file(self._place, file)
        with user_file.open(None) as opened:
            stamp = stamp_of(os.fstat(opened.fileno()))
            table = open_parquet(user_file, opened)
            layout = layout_of(user_file, table)
            labels.update([layout.label] if layout.label else [])
            split = _SPLIT.match(file.rpartition("/")[2])
            row = 0
            for group in range(table.metadata.num_row_groups):
                cells = _cells(user_file, table, group, layout)
                for at, (path, label, own) in enumerate(cells):
                    where = f"{KIND} {stamp} {group} {at} {quote(layout.image)} {quote(file)}"
                    yield _Found(file, row, where, path, label, own or (split[1] if split else None))
                    row += 1

    def _no_images(self) -> NoImages:
        what = f"{len(self._files):,} Parquet files" if self._files else "no Parquet file"
        return NoImages(f"`{FIELD}` is {self._name!r}, {what} without a row.", field=FIELD)


def table_file(place: Place, file: str) -> UserFile:
    """One of the files of a source."""
    return UserFile(place.folder / file, f"The table {file!r}", SourceInvalid, {"field": FIELD}, place.links_root)


def holds_images(place: Place, file: str) -> bool:
    """Whether a Parquet file has a column of images rather than of paths."""
    user_file = table_file(place, file)
    with user_file.open(None) as opened:
        return _image_column(open_parquet(user_file, opened).schema_arrow) is not None


def layout_of(file: UserFile, table: pq.ParquetFile) -> _Layout:
    """The columns of a table.

    Raises
    ------
    SourceInvalid
        It has no column of images; the message lists its columns.
    """
    schema = table.schema_arrow
    image = _image_column(schema)
    if image is None:
        raise file.invalid(
            f"has no column of images; its columns are {quoted_list(schema.names)}. Images are a column `image` of "
            "bytes, or of a struct with the field `bytes`; a table of paths is read with `format` `list`.",
            columns=schema.names,
        )
    column = schema.field(image.partition(".")[0])
    path = (
        f"{column.name}.path" if pa.types.is_struct(column.type) and column.type.get_field_index("path") >= 0 else None
    )
    classes = _classes(schema)
    plain = [each.name for each in schema if not pa.types.is_nested(each.type) and each.name != column.name]
    label = find_label([name for name in plain if name in classes]) or find_label(plain)
    if label is None and len(classes) == 1:
        label = next(iter(classes))
    split = "split" if "split" in plain else None
    return _Layout(image, path, label, split, classes.get(label or "", ()))


def _image_column(schema: pa.Schema) -> str | None:
    """The column or the field of a struct that holds images' bytes; the likeliest by its name."""
    found: list[tuple[int, str]] = []
    for field in schema:
        key = field.name.lower()
        rank = _IMAGE_NAMES.index(key) if key in _IMAGE_NAMES else len(_IMAGE_NAMES)
        if pa.types.is_struct(field.type):
            at = field.type.get_field_index("bytes")
            if at >= 0 and _is_bytes(field.type.field(at).type):
                found.append((rank, f"{field.name}.bytes"))
        elif _is_bytes(field.type) and rank < len(_IMAGE_NAMES):
            found.append((rank, field.name))
    return min(found)[1] if found else None


def _is_bytes(kind: pa.DataType) -> bool:
    return any(is_it(kind) for is_it in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _classes(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The names of the classes of each column that Hugging Face's metadata describes as such."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and name in schema.names
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _cells(
    file: UserFile, table: pq.ParquetFile, group: int, layout: _Layout
) -> Iterator[tuple[str | None, str | None, str | None]]:
    """Path, label and split of each row of a group."""
    columns = [name for name in (layout.path, layout.label, layout.split) if name is not None]
    if not columns:
        yield from [(None, None, None)] * table.metadata.row_group(group).num_rows
        return
    try:
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
            paths: list[str | None] = [None] * batch.num_rows
            if layout.path is not None:
                paths = [cell and cell["path"] for cell in batch.column(layout.path.partition(".")[0]).to_pylist()]
            labels, splits = (
                [None] * batch.num_rows if name is None else typed_values(file, name, batch.column(name))
                for name in (layout.label, layout.split)
            )
            for path, label, split in zip(paths, labels, splits, strict=True):
                yield path, _named(clean_label(label), layout.names), clean_label(split)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise file.invalid(f"is not a complete Parquet file: {error}.") from error


def _named(label: str | None, names: Sequence[str]) -> str | None:
    """The name of a class; none for a number that is none, such as Hugging Face's -1."""
    if label is None or not names:
        return label
    return names[int(label)] if label.isdigit() and int(label) < len(names) else None


def _names(found: Sequence[_Found]) -> list[str]:
    """The images' paths: their own where all have one and each is another, else file and row."""
    own = [(row.path or "").lstrip("/") for row in found]
    if all(own) and len(set(own)) == len(own) and all(map(is_text, own)):
        return own
    return [f"{row.file}/{row.row:08}{suffix_of(row.path or '') or ''}" for row in found]


# Reading.


class _Slice(NamedTuple):
    stamp: str
    group: int
    column: str
    file: str


def fetched(rows: Iterable[Row], place: Place) -> Iterator[LocatedImage]:
    """The images of rows of tables, read a row group after another; an error row each where that fails."""
    placed = ((row, *_parsed(row)) for row in rows)
    for part, same in groupby(placed, key=lambda each: each[1]):
        wanted = [(row, at) for row, _, at in same]
        done = 0
        try:
            for image in _images(part, wanted, place):
                yield image
                done += 1
        except (ImageChanged, ImageRemoved) as error:
            yield from [LostImage(error.code, error.detail)] * (len(wanted) - done)
        except (ShoalError, pa.ArrowException, OSError, ValueError) as error:
            why = f"The table {part.file!r} cannot be read: {error}."
            yield from [LostImage(ImageUnreadable.code, why)] * (len(wanted) - done)


def _parsed(row: Row) -> tuple[_Slice, int]:
    _, stamp, group, at, column, file = (row.stamp or "").split(" ")
    return _Slice(stamp, int(group), unquote(column), unquote(file)), int(at)


def _images(part: _Slice, wanted: Sequence[tuple[Row, int]], place: Place) -> Iterator[LocatedImage]:
    user_file = table_file(place, part.file)
    if not user_file.path.exists():
        raise ImageRemoved(f"The table {part.file!r} was removed after it was listed. Submit the request again.")
    with user_file.open(None) as opened:
        _require_unchanged(opened, part)
        left = iter(wanted)
        next_one = next(left, None)
        first = 0
        table = open_parquet(user_file, opened)
        for batch in table.iter_batches(_BATCH_IMAGES, row_groups=[part.group], columns=[part.column]):
            _require_unchanged(opened, part)
            while next_one is not None and next_one[1] < first + batch.num_rows:
                yield _image(next_one[0], batch.column(0)[next_one[1] - first].as_py())
                next_one = next(left, None)
            if next_one is None:
                return
            first += batch.num_rows


def _image(row: Row, cell: bytes | dict[str, bytes | None] | None) -> LocatedImage:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if data is None:
        return LostImage(ImageMissing.code, "The row has no bytes of an image.")
    return FetchedImage(row.path, data)


def _require_unchanged(opened: BinaryIO, part: _Slice) -> None:
    if stamp_of(os.fstat(opened.fileno())) != part.stamp:
        raise ImageChanged(
            f"The table {part.file!r} changed after it was listed, so its images are not embedded. Submit the request "
            "again: its new plan lists the table as it is now."
        )
