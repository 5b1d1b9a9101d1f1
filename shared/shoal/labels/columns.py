"""The columns of a label file: which one holds the images' paths, which the labels, and how values are cleaned."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shoal.image_suffixes import IMAGE_SUFFIXES
from shoal.userfiles import UserFile

PATH_COLUMN = "path"
LABEL_COLUMN = "label"
SPLIT_COLUMN = "split"
"""The default columns of a request. Where a file lacks them, columns with similar names are used."""

_BEST_PATHS = (PATH_COLUMN, "image_path")
"""Preferred to all other path columns, in this order."""
_PATHS = frozenset(
    [
        *("image_path", "image_file", "image_filename", "image_name", "image"),
        *("img_path", "img_file", "img_filename", "img_name", "img"),
        *("path", "file_path", "filepath", "relative_path", "rel_path", "relpath"),
        *("file_name", "filename", "file", "key", "url"),
    ]
)
_LABELS = frozenset(
    [
        *("label", "labels", "label_name", "category", "target", "y"),
        *("class", "classes", "class_name", "classname", "class_label"),
    ]
)
KNOWN = _PATHS | _LABELS
"""Names that identify a header line, in lower case."""
CHECKSUMS = ("sha256", "md5")
"""Columns of a list with checksums of the files, in lower case; the first is preferred."""
_ADDRESS = re.compile(r"\s*(https?|s3)://", re.IGNORECASE)
_MAX_LISTED = 20

_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)\.0*")
_SUFFIXES = IMAGE_SUFFIXES
"""A label file may also name images that are not decoded."""


@dataclass(frozen=True)
class Columns:
    """The columns that a request names.

    Attributes
    ----------
    path
        Column with the images' paths. None: detected. Empty: the file has no paths; labels are in the images' order.
    label
        Column with the labels. None or empty: detected.
    """

    path: str | None = None
    label: str | None = None

    @property
    def in_order(self) -> bool:
        """Whether the labels are in the images' order."""
        return self.path == ""

    @property
    def named(self) -> list[str]:
        """The columns that the file must have: those that the request names explicitly."""
        pairs = (self.path, PATH_COLUMN), (self.label, LABEL_COLUMN)
        return [name for name, default in pairs if name and name != default]


@dataclass(frozen=True)
class Chosen:
    """The columns of a file that are read. ``path`` is None where the file has no paths."""

    path: str | None
    label: str


def choose(file: UserFile, names: Sequence[str], requested: Columns, samples: Mapping[str, Sequence[str]]) -> Chosen:
    """Choose among the columns ``names`` of ``file``.

    Parameters
    ----------
    names
        The columns, in their order.
    requested
        The columns that the request names.
    samples
        Some values of each column, as text: a column that holds only names of image files is a path column, whatever
        its name.

    Raises
    ------
    ShoalError
        The file's error: a named column is missing, or the choice is ambiguous. It lists the columns.
    """
    for name in requested.named:
        _require_one(file, names, name)
    path = None if requested.in_order else _path(file, names, requested, samples)
    return Chosen(path, _label(file, names, requested, path))


def columns_of_list(
    file: UserFile, names: Sequence[str], samples: Mapping[str, Sequence[str]]
) -> tuple[str, str | None, str | None]:
    """The columns of a list of images: paths, labels, splits; the last two are None where the list has none.

    Raises
    ------
    ShoalError
        The file's error: it has no column of paths, or several columns may be meant. It lists the columns.
    """
    path = _path(file, names, Columns(), samples)
    if path is None:
        raise file.invalid(
            f"has no column {PATH_COLUMN!r}; its columns are {quoted_list(names)}. Name the column with the images' "
            "paths `path`.",
            column=PATH_COLUMN,
        )
    others = [name for name in names if name != path]
    known = [name for name in others if _key(name) == LABEL_COLUMN] or [
        name for name in others if _key(name) in _LABELS
    ]
    if len(known) > 1:
        raise _ambiguous(file, names, known, "the labels", "label")
    split = next((name for name in others if _key(name) == SPLIT_COLUMN), None)
    return path, known[0] if known else None, split


def _path(file: UserFile, names: Sequence[str], requested: Columns, samples: Mapping[str, Sequence[str]]) -> str | None:
    # Naming `path` and naming no column mean the same, whatever other columns there are.
    default = requested.path or PATH_COLUMN
    if default in names:
        _require_one(file, names, default)
        return default
    others = [name for name in names if name != (requested.label or LABEL_COLUMN)]
    for key in _BEST_PATHS:
        best = [name for name in others if _key(name) == key]
        if len(best) > 1:
            raise _ambiguous(file, names, best, "the images' paths", "path")
        if best:
            return best[0]
    found = [name for name in others if _key(name) in _PATHS]
    if not found:
        found = [name for name in others if samples.get(name) and all(map(looks_like_image, samples[name]))]
    if not found:
        found = [name for name in others if samples.get(name) and all(map(is_address, samples[name]))]
    if len(found) > 1:
        raise _ambiguous(file, names, found, "the images' paths", "path")
    return found[0] if found else None


def _label(file: UserFile, names: Sequence[str], requested: Columns, path: str | None) -> str:
    default = requested.label or LABEL_COLUMN
    if default in names:
        _require_one(file, names, default)
        return default
    others = [name for name in names if name != path]
    found = [name for name in others if _key(name) == LABEL_COLUMN]
    found = found or [name for name in others if _key(name) in _LABELS]
    if len(found) > 1:
        raise _ambiguous(file, names, found, "the labels", "label")
    if found:
        return found[0]
    if len(others) == 1:
        return others[0]
    raise file.invalid(
        f"has no column {LABEL_COLUMN!r}; its columns are {quoted_list(names)}. Name the label column: "
        "`FILE:PATH_COLUMN:LABEL_COLUMN` on the command line, `label_column` in a request.",
        column=LABEL_COLUMN,
    )


def find_label(names: Sequence[str]) -> str | None:
    """The column of ``names`` that holds labels by its name, `label` first; None if there is none."""
    named = [name for name in names if _key(name) == LABEL_COLUMN] or [name for name in names if _key(name) in _LABELS]
    return named[0] if named else None


def is_path_name(name: str) -> bool:
    """Whether ``name`` is a usual name of a column of image paths."""
    return _key(name) in _PATHS


def is_label_name(name: str) -> bool:
    """Whether ``name`` is a usual name of a column of labels."""
    return _key(name) in _LABELS


def quoted_list(names: Sequence[str]) -> str:
    """Column names, quoted and separated by commas, for a message."""
    shown = ", ".join(repr(name) for name in names[:_MAX_LISTED]) or "(none)"
    return f"{shown}, …" if len(names) > _MAX_LISTED else shown


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _require_one(file: UserFile, names: Sequence[str], name: str) -> None:
    count = names.count(name)
    if count != 1:
        has = "no column" if not count else f"{count} columns"
        raise file.invalid(f"has {has} {name!r}; its columns are {quoted_list(names)}.", column=name)


def _ambiguous(file: UserFile, names: Sequence[str], found: Sequence[str], what: str, which: str) -> Exception:
    return file.invalid(
        f"has several possible columns for {what}: {quoted_list(found)}. Name one of its columns {quoted_list(names)}: "
        f"`FILE:PATH_COLUMN:LABEL_COLUMN` on the command line, `{which}_column` in a request.",
        column=found[0],
    )


def clean_label(value: str | None) -> str | None:
    """A label in the form that is stored, the same for every file format; None for an unlabelled image.

    Leading and trailing white space is removed. An empty text and ``nan``, in any case, mean no label. A whole number
    written as a float becomes an integer: ``1.0`` is ``1``.

    Examples
    --------
    >>> [clean_label(text) for text in (" dog ", "1.0", "007", "1.5", "NaN", " ")]
    ['dog', '1', '007', '1.5', None, None]
    """
    text = (value or "").strip()
    if not text or text.casefold() in {"nan", "-nan", "+nan"}:
        return None
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        return text
    return whole[2] if whole[1] != "-" or whole[2] == "0" else f"-{whole[2]}"


def text_of(value: Any) -> str | None:
    """A single value of a typed table as the text that `clean_label` takes.

    Raises
    ------
    TypeError
        The value is neither text, a whole number nor a boolean; the message says what it is.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal):
        if value != value:  # NaN
            return None
        whole = int(value) if math.isfinite(value) else None
        if whole != value:
            raise TypeError(f"the fraction {value!s}")
        return str(whole)
    if isinstance(value, bytes):  # Some writers of Parquet store text as bytes.
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise TypeError("bytes that are not UTF-8 text") from error
    if isinstance(value, str | int):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def normal_path(path: str) -> str:
    """A path without the differences between writers: surrounding white space, a leading ``./``, backslashes,
    decomposed letters.

    Examples
    --------
    >>> normal_path(r" .\\dir\\1.png ")
    'dir/1.png'
    """
    text = unicodedata.normalize("NFC", path.strip()).replace("\\", "/")
    while text.startswith("./"):
        text = text[2:].lstrip("/").lstrip()
    return text


def checksum_column(names: Sequence[str]) -> str | None:
    """The column of ``names`` that holds the files' checksums, named as its algorithm is; None if there is none."""
    return next((name for key in CHECKSUMS for name in names if name.strip().casefold() == key), None)


def is_address(text: str) -> bool:
    """Whether ``text`` is an address such as ``https://example.org/1`` rather than a path."""
    return _ADDRESS.match(text) is not None


def looks_like_image(text: str) -> bool:
    """Whether ``text`` ends with the extension of an image file."""
    stem, _, suffix = text.strip().rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in _SUFFIXES
