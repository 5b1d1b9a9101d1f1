"""The files to import, in order, and the arrays of each that make a set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import ImportInvalid
from shoal.importer.formats import SUPPORTED, Array, is_supported, read, reader_name
from shoal.importer.formats.base import expected_bytes
from shoal.importer.keys import Chosen, Keys, choose
from shoal.store.layout import IMG_EMB
from shoal.userfiles import UserFile

_WHAT = f"Import a file ({SUPPORTED}), a folder of such files, or a folder in clip-retrieval's layout"


@dataclass(frozen=True)
class Part:
    """The rows of a set that one file holds."""

    file: Path
    chosen: Chosen

    @property
    def vectors(self) -> Array:
        """``(rows, dim)`` floating point."""
        return self.chosen.embeddings

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.vectors.shape[0]

    @property
    def dim(self) -> int:
        """Length of a row."""
        return self.vectors.shape[1]

    def __str__(self) -> str:
        return f"{self.file}, `{self.vectors.name}`" if self.vectors.name else str(self.file)

    def row_name(self, row: int) -> str:
        """The name of a row that has no path."""
        return f"{self.file.name}{f':{self.vectors.name}' if self.vectors.name else ''}#{row}"

    def close(self) -> None:
        """Release what reading keeps open."""
        for array in self.chosen.all:
            array.close()


@dataclass(frozen=True)
class Limits:
    """How much files of others may hold, before any value is read.

    Attributes
    ----------
    bytes
        Of all arrays that are read, as the files declare them.
    rows
        Of all sets.
    """

    bytes: int
    rows: int

    def check(self, path: Path, sets: Mapping[str, Sequence[Part]]) -> None:
        """Refuse what holds more.

        Raises
        ------
        ImportInvalid
        """
        parts = [part for each in sets.values() for part in each]
        rows = sum(part.rows for part in parts)
        size = sum(expected_bytes(array.shape, array.dtype) for part in parts for array in part.chosen.all)
        if rows > self.rows or size > self.bytes:
            raise ImportInvalid(
                f"{path} declares {rows:,} rows and {size:,} bytes of values; at most {self.rows:,} rows and "
                f"{self.bytes:,} bytes can be imported from it. Check the shapes, or import it in several sets.",
                file=str(path),
                rows=rows,
                bytes=size,
            )


def open_sets(path: Path, keys: Keys) -> dict[str, list[Part]]:
    """Find the files of embeddings at ``path`` and choose their arrays.

    Returns
    -------
    dict of str to list of Part
        By the names of the sets; a single set has no name.

    Raises
    ------
    ImportInvalid
        No file is found, or one is damaged, is not floating point of shape ``(n, dim)``, or differs from the others.
    """
    sets: dict[str, list[Part]] = {}
    files = _files(path)
    for at, file in enumerate(files):
        found = choose(read(UserFile(file, error=ImportInvalid, members={"file": str(file)})), keys)
        names = [each.set for each in found]
        if at and set(names) != set(sets):
            raise ImportInvalid(
                f"{file} has the sets {_quoted(names)}, {files[0]} has {_quoted(list(sets))}: all files of a folder "
                "must have the same. Choose an array with --key.",
                file=str(file),
            )
        for each in found:
            sets.setdefault(each.set, []).append(Part(file, each))
    for parts in sets.values():
        _check_equal(path, parts)
    return sets


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.exists() and is_supported(path.suffix):
            return [path]
        what = "is neither a folder nor a file of embeddings" if path.exists() else "does not exist"
        raise ImportInvalid(f"{path} {what}. {_WHAT}.", file=str(path))
    if files := numbered(path / IMG_EMB, "npy"):
        return files
    found = sorted((each for each in path.iterdir() if is_supported(each.suffix)), key=natural)
    found = [each for each in found if not each.name.startswith(".") and not each.is_dir()]
    if not found:
        raise ImportInvalid(f"{path} has neither {IMG_EMB}/*.npy nor files of embeddings. {_WHAT}.", file=str(path))
    kinds = {reader_name(each.suffix): each for each in found}
    if len(kinds) > 1:
        mixed = " and ".join(each.name for each in kinds.values())
        raise ImportInvalid(
            f"{path} has files of several formats, such as {mixed}: keep the files of one set, in one format, in a "
            "folder.",
            file=str(path),
        )
    return found


def _check_equal(path: Path, parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts:
        if part.dim != first.dim:
            raise ImportInvalid(
                f"{part} has {part.dim} columns, {first} has {first.dim}: all embeddings of a set must have the same "
                "length.",
                file=str(part.file),
            )
        for what, own, others in (
            ("labels", part.chosen.labels, first.chosen.labels),
            ("paths", part.chosen.paths, first.chosen.paths),
        ):
            if (own is None) != (others is None):
                raise ImportInvalid(
                    f"{part} has {'no ' if own is None else ''}{what}, {first} has {'no ' if others is None else ''}"
                    f"{what}: all files of a folder must have the same arrays.",
                    file=str(part.file),
                )
    if not sum(part.rows for part in parts):
        raise ImportInvalid(f"{path} holds no embeddings.", file=str(path))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names if name) or "no names"


def numbered(folder: Path, extension: str) -> list[Path]:
    """The files of ``folder`` by the last number in their names, so that ``_10`` comes after ``_9``."""
    return sorted(folder.glob(f"*.{extension}"), key=lambda file: (number_of(file), file.name))


def number_of(file: Path) -> int:
    """The last number in a file's name; -1 if it has none."""
    digits = re.findall(r"[0-9]+", file.stem)
    return int(digits[-1]) if digits else -1


def natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts names by the numbers in them, each by its value: ``a-2-of-12`` comes before ``a-10-of-12``."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", file.name)
    return [(int(each), "") if each.isdigit() else (-1, each) for each in pieces], file.name
