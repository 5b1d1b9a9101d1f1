"""How files of embeddings are sent: which of a folder, and large ones in pieces that are files of their own."""

from __future__ import annotations

import re
from typing import Final

EMBEDDING_SUFFIXES: Final = frozenset(
    {".npy", ".npz", ".pt", ".pth", ".safetensors", ".h5", ".hdf5", ".parquet", ".pq"}
)
"""Of every format that is imported, in lower case."""
MAX_PIECES: Final = 100_000
_PIECE: Final = re.compile(r"(?P<name>.+)\.piece-(?P<number>[0-9]{6})-of-(?P<count>[0-9]{6})", re.DOTALL)


def piece_name(name: str, number: int, count: int) -> str:
    """The name of one of ``count`` pieces of the file ``name``; ``number`` counts from 0."""
    return f"{name}.piece-{number:06}-of-{count:06}"


def parse_piece(name: str) -> tuple[str, int, int] | None:
    """The file's name, the piece's number and their count; None if ``name`` is not that of a piece."""
    found = _PIECE.fullmatch(name)
    return None if found is None else (found["name"], int(found["number"]), int(found["count"]))
