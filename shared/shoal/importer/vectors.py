"""The vectors to import: ``.npy`` files mapped into memory, checked in one pass."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ImportInvalid
from shoal.store.layout import IMG_EMB
from shoal.store.npy import NpyInvalid, map_npy
from shoal.userfiles import UserFile

_CHUNK_BYTES = 32 << 20
_ZIP = b"PK\x03\x04"
"""Start of an ``.npz``."""


@dataclass(frozen=True)
class Part:
    """One file of vectors: ``(rows, dim)`` mapped into memory."""

    file: Path
    values: NDArray[Any]


def open_parts(path: Path) -> list[Part]:
    """Open the files of vectors below ``path`` in the order of their numbers.

    Raises
    ------
    ImportInvalid
        There are none, or one is cut off, pickled, not floating point, or of another shape than ``(n, dim)``.
    """
    if path.is_dir():
        files = numbered(path / IMG_EMB, "npy")
        if not files:
            raise ImportInvalid(
                f"{path} has no {IMG_EMB}/*.npy: give one .npy file, or a folder as clip-retrieval writes it.",
                file=str(path),
            )
    elif path.exists() and path.suffix.lower() == ".npy":
        files = [path]
    else:
        what = "is neither a folder nor a .npy file" if path.exists() else "does not exist"
        raise ImportInvalid(f"{path} {what}: give one .npy file, or a clip-retrieval folder.", file=str(path))
    parts = [_open_part(file) for file in files]
    for part in parts:
        if part.values.shape[1] != parts[0].values.shape[1]:
            raise ImportInvalid(
                f"{part.file} has {part.values.shape[1]} columns, {parts[0].file} has {parts[0].values.shape[1]}: all "
                "embeddings of a set have one length.",
                file=str(part.file),
            )
    if not sum(len(part.values) for part in parts):
        raise ImportInvalid(f"{path} holds no embeddings.", file=str(path))
    return parts


def _open_part(file: Path) -> Part:
    named = UserFile(file, error=ImportInvalid, members={"file": str(file)})
    with named.open(None) as opened:
        if opened.read(4) == _ZIP:
            raise named.invalid("is an archive of arrays: give the one .npy with the embeddings.")
        opened.seek(0)
        try:
            values = map_npy(opened)
        except NpyInvalid as error:
            raise named.invalid(
                f"is no complete .npy file of plain numbers: {error}. Save the embeddings with "
                "`np.save(path, embeddings.astype(np.float32))`."
            ) from error
    if values.ndim != 2 or values.shape[1] == 0:
        raise ImportInvalid(f"{file} has the shape {values.shape}: (n, dim) is needed.", file=str(file))
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise ImportInvalid(f"{file} holds {values.dtype}: embeddings are float16, float32 or float64.", file=str(file))
    return Part(file, values)


def numbered(folder: Path, extension: str) -> list[Path]:
    """The files of ``folder`` by the last number in their names, so that ``_10`` comes after ``_9``."""
    return sorted(folder.glob(f"*.{extension}"), key=lambda file: (number_of(file), file.name))


def number_of(file: Path) -> int:
    """The last number in a file's name; -1 where there is none."""
    digits = re.findall(r"[0-9]+", file.stem)
    return int(digits[-1]) if digits else -1


def chunks(parts: Sequence[Part], start: int, stop: int) -> Iterator[tuple[Part, int, int, int]]:
    """Pieces of the rows ``[start, stop)`` of all parts together: part, first and last local row, first global row."""
    offset = 0
    for part in parts:
        lo, hi = max(start - offset, 0), min(stop - offset, len(part.values))
        step = max(1, _CHUNK_BYTES // (part.values.shape[1] * part.values.dtype.itemsize))
        for first in range(lo, hi, step):
            yield part, first, min(first + step, hi), offset + first
        offset += len(part.values)


def check_values(parts: Sequence[Part], dtype: np.dtype[Any]) -> str:
    """SHA-256 over the values of all parts.

    Raises
    ------
    ImportInvalid
        A value is NaN or infinite, or would be as ``dtype``; file and row are named.
    """
    digest = hashlib.sha256()
    for part, lo, hi, _ in chunks(parts, 0, sum(len(part.values) for part in parts)):
        values = np.ascontiguousarray(part.values[lo:hi]).astype(part.values.dtype.newbyteorder("<"), copy=False)
        digest.update(values.dtype.str.encode())
        digest.update(values.data.cast("B"))
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(dtype, copy=False)).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            why = f"a value too large for {dtype}" if np.isfinite(values[row]).all() else "NaN or infinity"
            raise ImportInvalid(
                f"{part.file}, row {lo + row}: holds {why}. Leave such rows out before importing.",
                file=str(part.file),
                row=lo + row,
            )
    return digest.hexdigest()
