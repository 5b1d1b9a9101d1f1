"""Which contents have an embedding already: digests in memory that a job and its decode processes share.

A decode process looks a file's sha256 up before it decodes it. The memory holds three arrays of n entries: the first
and the second eight bytes of each digest, sorted by the first, and whether the entry may be used. Half of a sha256 is
enough: finding a second file with the same half takes 2**128 tries.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

HALF = 32
"""Hex digits of a sha256 that are compared."""
_ENTRY_BYTES = 17


class KnownContents:
    """The digests in shared memory.

    Parameters
    ----------
    memory
        What `write_known` filled, mapped.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        count = len(memory) // _ENTRY_BYTES
        self._first = np.frombuffer(memory, np.uint64, count)
        self._second = np.frombuffer(memory, np.uint64, count, 8 * count)
        self._usable = np.frombuffer(memory, np.uint8, count, 16 * count)

    def find(self, sha256: str) -> int | None:
        """The place of a usable entry with this digest, in hex; None if there is none."""
        first, second = np.frombuffer(bytes.fromhex(sha256[:HALF]), np.uint64)
        start = int(np.searchsorted(self._first, first))
        for place in range(start, len(self._first)):
            if self._first[place] != first:
                break
            if self._second[place] == second and self._usable[place]:
                return place
        return None

    def forget(self, places: NDArray[np.bool_]) -> None:
        """Make the entries where ``places``, (n,), is true unusable, for every process; only the writer may."""
        self._usable[places] = 0


def digests_of(hex_digests: list[str]) -> NDArray[np.uint64]:
    """The compared halves of digests in hex, (n, 2).

    Raises
    ------
    ValueError
        One is not hex.
    """
    halves = bytes.fromhex("".join([digest[:HALF] for digest in hex_digests]))
    return np.frombuffer(halves, np.uint64).reshape(-1, 2)


def write_known(descriptor: int, digests: NDArray[np.uint64]) -> tuple[KnownContents, NDArray[np.int64]]:
    """Write digests into shared memory that is empty so far.

    Parameters
    ----------
    digests
        (n, 2) of `digests_of`, n ≥ 1.

    Returns
    -------
    KnownContents
    ndarray
        (n,) int64: which of ``digests`` each entry is. Of equal ones the earliest comes first.
    """
    count = len(digests)
    order = np.argsort(digests[:, 0], kind="stable")
    os.ftruncate(descriptor, count * _ENTRY_BYTES)
    memory = mmap.mmap(descriptor, 0)
    for half in range(2):
        np.frombuffer(memory, np.uint64, count, 8 * count * half)[:] = digests[order, half]
    np.frombuffer(memory, np.uint8, count, 16 * count)[:] = 1
    return KnownContents(memory), order


def read_known(descriptor: int) -> KnownContents | None:
    """What was written, mapped by another process; None while nothing is."""
    if not os.fstat(descriptor).st_size:
        return None
    return KnownContents(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
