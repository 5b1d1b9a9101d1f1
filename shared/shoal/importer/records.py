"""What a file says of its rows beside their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shoal.errors import ImportInvalid
from shoal.importer.formats import Array
from shoal.importer.keys import NUMBERS
from shoal.importer.parts import Part
from shoal.labels import text_of
from shoal.userfiles import UserFile

_BLOCK = 1 << 16
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Record:
    """Columns of the rows, not cleaned yet; None where the files do not have one."""

    paths: list[str | None] | None
    labels: list[str | None] | None
    splits: list[str | None] | None
    numbers: Mapping[str, list[int | None]]


def read_arrays(parts: Sequence[Part], *, with_labels: bool) -> Record:
    """What the arrays beside the vectors say of the rows.

    Parameters
    ----------
    with_labels
        False: labels are not read, because a label file has them.

    Raises
    ------
    ImportInvalid
        An array has another number of rows than the vectors, or other values than text and whole numbers.
    """
    return Record(
        paths=_texts(parts, [part.chosen.paths for part in parts]),
        labels=_texts(parts, [part.chosen.labels for part in parts]) if with_labels else None,
        splits=_texts(parts, [part.chosen.splits for part in parts]),
        numbers={name: _numbers(parts, [part.chosen.numbers.get(name) for part in parts]) for name in NUMBERS},
    )


def _texts(parts: Sequence[Part], arrays: Sequence[Array | None]) -> list[str | None] | None:
    if all(array is None for array in arrays):
        return None
    out: list[str | None] = []
    for part, array in zip(parts, arrays, strict=True):
        if array is None:
            out.extend([None] * part.rows)
            continue
        _check(part, array)
        for row, value in _values(array):
            try:
                out.append(text_of(value))
            except TypeError as error:
                raise _named(part, array).invalid(
                    f"row {row}: holds {error}; expected text or whole numbers.", key=array.name, row=row
                ) from error
    return out


def _numbers(parts: Sequence[Part], arrays: Sequence[Array | None]) -> list[int | None]:
    """Whole numbers; None where an array is missing, has another length or another type."""
    out: list[int | None] = []
    for part, array in zip(parts, arrays, strict=True):
        if array is None or array.problem or array.rows != part.rows:
            out.extend([None] * part.rows)
            continue
        out.extend(value if type(value) is int else None for _, value in _values(array))
    return out


def _check(part: Part, array: Array) -> None:
    named = _named(part, array)
    if array.problem:
        raise named.invalid(f"{array.problem}.", key=array.name)
    if len(array.shape) != 1 or array.dtype.kind not in "biufUSO":
        raise named.invalid(
            f"holds {array.shape} {array.type_name}; expected one whole number or text per embedding.", key=array.name
        )
    if array.rows != part.rows:
        raise named.invalid(
            f"has {array.rows} rows, `{part.vectors.name}` has {part.rows}; expected one per embedding.", key=array.name
        )


def _named(part: Part, array: Array) -> UserFile:
    return UserFile(
        part.file, name=f"{part.file}, `{array.name}`,", error=ImportInvalid, members={"file": str(part.file)}
    )


def _values(array: Array) -> Iterator[tuple[int, object]]:
    step = max(1, min(_BLOCK, _BLOCK_BYTES // max(array.dtype.itemsize, 1)))
    for start in range(0, array.rows, step):
        yield from enumerate(array.read(start, min(start + step, array.rows)).tolist(), start)
