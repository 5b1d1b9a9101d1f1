"""``.safetensors``: named tensors, mapped into memory.

References
----------
The format: an 8-byte length, a JSON header of that length, and the tensors' bytes.
"""

from __future__ import annotations

import json
from typing import BinaryIO

import numpy as np

from shoal.importer.formats.base import BFLOAT16, Array, Content, Values, expected_bytes, mapped, unreadable, widened
from shoal.userfiles import UserFile

_MAX_HEADER = 100_000_000
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def read_safetensors(file: UserFile) -> Content:
    """The tensors of a ``.safetensors`` file.

    Raises
    ------
    ImportInvalid
        The file is truncated, or its header is damaged.
    """
    with file.open(None) as opened:
        size = opened.seek(0, 2)
        opened.seek(0)
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise file.invalid("is not a .safetensors file, or is truncated: its header is incomplete. Save it again.")
        try:
            header = json.loads(opened.read(length), object_pairs_hook=_unique)
            header.pop("__metadata__", None)
            arrays = {
                name: _tensor(file, opened, name, entry, 8 + length, size - 8 - length)
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise file.invalid(
                f"is not a .safetensors file, or is damaged: {error!r} in its header. Save it again."
            ) from error
    return Content(file, "tensor", arrays)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _tensor(file: UserFile, opened: BinaryIO, name: str, entry: dict[str, object], first: int, available: int) -> Array:
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError(name)
    begin, end = offsets
    if not all(type(each) is int and 0 <= each < 1 << 62 for each in (begin, end, *shape)):
        raise ValueError(name)
    sizes = tuple(shape)
    if kind not in _DTYPES:
        return Array(name, sizes, np.dtype(object), unreadable, kind, f"holds {kind}, which is not read")
    dtype = np.dtype(_DTYPES[kind])
    needed = expected_bytes(sizes, dtype)
    if end > available:
        raise file.invalid(
            f"is truncated: `{name}` ends at byte {end:,} of its data, and {available:,} bytes are there. "
            "Save it again.",
            key=name,
        )
    if end - begin != needed:
        raise file.invalid(
            f"is damaged: `{name}` {sizes} {kind} takes {needed:,} bytes, and its header says {end - begin:,}. "
            "Save it again.",
            key=name,
        )
    values: Values = np.empty(sizes, dtype)
    if needed:
        values = np.memmap(opened, dtype, "r", first + begin, sizes)
    if kind == "BF16":
        return Array(name, sizes, np.dtype(np.float32), lambda start, stop: widened(values[start:stop]), BFLOAT16)
    return Array(name, sizes, dtype, mapped(values))
