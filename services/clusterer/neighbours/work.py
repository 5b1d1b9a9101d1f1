"""How a search is run, and the folder in which it keeps what its next attempt can use."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray
from shoal.store.files import replace_file, storage_errors
from shoal.store.npy import map_npy, read_npz, write_npy

from clusterer.data.partitions import OnRows
from clusterer.data.rows import IntArray
from clusterer.neighbours.found import PAIR, Best, PairArray
from clusterer.neighbours.runner import Runner, in_process

SAVE_EVERY_S: Final = 30.0
"""The state of a search for the nearest rows is as large as its result: it is not saved after every block."""
PLAIN: Final = "plain"
"""In place of a compiled kernel: float32 products."""
VERSION: Final = 2
MOST_RANGES: Final = 2048
"""Ranges of blocks that are compared with all later ones; each leaves a file of its own."""
DEFAULT_MEMORY: Final = 2**30

Arrays = dict[str, NDArray[Any]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Options:
    """How a search is run; nothing of it changes what is found.

    Attributes
    ----------
    memory_limit
        Bytes that the search may use beside its result and the blocks of rows that it compares; see `blocks_bytes`.
    folder
        Where its next attempt finds what is done; None keeps all in memory.
    threads
        How many to use; all cores that the process may use by default.
    block
        Rows of a block.
    kernel
        Name of a compiled kernel, or `PLAIN`; the best one that runs by default.
    on_rows
        Progress.
    save_every_s
        Seconds between two copies of the nearest rows in the folder.
    run
        Where all pairs are sought; processes apart from this one need a folder that all of them see.
    """

    memory_limit: int = DEFAULT_MEMORY
    folder: Path | None = None
    threads: int | None = None
    block: int | None = None
    kernel: str | None = None
    on_rows: OnRows | None = None
    save_every_s: float = SAVE_EVERY_S
    run: Runner = in_process


class Work:
    """Files of one search; in memory where there is no folder.

    Parameters
    ----------
    options
        Its folder is created if it does not exist; what another search left there is removed.
    search
        What is sought in what; an earlier attempt at the same search left the same.
    """

    def __init__(self, options: Options, search: Mapping[str, object]) -> None:
        self._folder = options.folder
        self._save_every_s = options.save_every_s
        self._saved = time.monotonic()
        self._runs: dict[int, PairArray] = {}
        self._text = json.dumps({**search, "version": VERSION}, sort_keys=True)
        if self._folder is not None:
            self._open(self._folder)

    def __getstate__(self) -> dict[str, object]:
        # Runs are added by one process alone.
        return {**self.__dict__, "_runs": {}}

    def arrays(self, name: str) -> dict[str, NDArray[np.generic]] | None:
        """Arrays that an earlier attempt kept under a name."""
        return None if self._folder is None else read_kept(self._folder / f"{name}.npz")

    def keep(self, name: str, **arrays: NDArray[np.generic]) -> None:
        """Keep arrays for the next attempt.

        Raises
        ------
        StoreFull, StoreError
            They could not be written. The same holds for everything that is kept here.
        """
        if self._folder is not None:
            replace_file(self._folder / f"{name}.npz", lambda opened: np.savez(opened, allow_pickle=False, **arrays))

    def order(self, at: int, n: int) -> IntArray | None:
        """The order of the ``n`` rows of a set in which an earlier attempt compared them."""
        order = self.mapped(f"order-{at}")
        return None if order is None or order.shape != (n,) else np.asarray(order, np.int64)

    def mapped(self, name: str) -> NDArray[np.generic] | None:
        """An array that an attempt kept under a name, mapped while it is read."""
        if self._folder is None:
            return None
        try:
            return _mapped(self._folder / f"{name}.npy")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("work file unreadable, computed again", file=f"{name}.npy", error=str(error))
            return None

    def keep_mapped(self, name: str, array: NDArray[np.generic]) -> None:
        """Keep an array for the next attempt, or for other processes."""
        if self._folder is not None:
            file = self._folder / f"{name}.npy"
            replace_file(file, lambda opened: write_npy(opened, array))

    def start_anew(self) -> None:
        """Remove everything: what it depends on is lost."""
        self._runs.clear()
        if self._folder is not None:
            self._make(self._folder)

    def best(self, best: Best) -> int:
        """Fill in the nearest rows that an earlier attempt found, and return how many blocks it had compared."""
        kept = self.arrays("nearest")
        if kept is None or kept["rows"].shape != best.rows.shape:
            return 0
        best.rows[:], best.similarity[:] = kept["rows"], kept["similarity"]
        return int(kept["blocks"])

    def keep_best(self, best: Best, blocks: int) -> None:
        """Keep the nearest rows after ``blocks`` blocks, if that was not done lately."""
        if time.monotonic() - self._saved >= self._save_every_s:
            self.keep("nearest", rows=best.rows, similarity=best.similarity, blocks=np.array(blocks))
            self._saved = time.monotonic()

    def runs(self) -> Mapping[int, PairArray]:
        """The runs of pairs so far: one of each range of blocks that was compared, by its number."""
        return self._runs

    def add_run(self, number: int, run: PairArray) -> None:
        """Keep the pairs of a range."""
        if self._folder is None:
            self._runs[number] = run
            return
        self.keep_mapped(f"pairs-{number:06d}", run)
        self._runs[number] = _run(self._folder / f"pairs-{number:06d}.npy")

    def part(self, number: int, size: int) -> NDArray[np.uint8] | None:
        """The sketches of a range of rows that a process kept, ``(size,) uint8``, mapped."""
        found = self.mapped(f"sketches-{number:06d}")
        return None if found is None or found.shape != (size,) else np.asarray(found, np.uint8)

    def _open(self, folder: Path) -> None:
        plan = folder / "search.json"
        with storage_errors(folder):
            if not plan.is_file() or plan.read_bytes() != self._text.encode():
                self._make(folder)
            for file in sorted(folder.glob("pairs-*.npy")):
                try:
                    self._runs[int(file.stem.partition("-")[2])] = _run(file)
                except (OSError, ValueError) as error:
                    _log.warning("work file unreadable, computed again", file=file.name, error=str(error))

    def _make(self, folder: Path) -> None:
        with storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / "search.json", lambda opened: opened.write(self._text.encode()))


class Room:
    """Room for sketches: in memory if they fit, else in files that no other process sees.

    Parameters
    ----------
    options
        Their limit of memory, and the folder that the files lie in.
    size
        Bytes of all sketches.

    Attributes
    ----------
    in_memory
        Whether they fit.
    left
        Bytes that are left of the limit.
    """

    def __init__(self, options: Options, size: int) -> None:
        self._folder = options.folder
        self.in_memory = size <= options.memory_limit
        self.left = options.memory_limit - size if self.in_memory else options.memory_limit
        self._maps: list[mmap.mmap] = []

    def bytes(self, size: int) -> NDArray[np.uint8]:
        """An uninitialised array ``(size,)``."""
        if self.in_memory:
            return np.empty(size, np.uint8)
        folder = self._folder or Path(tempfile.gettempdir())
        with storage_errors(folder), tempfile.TemporaryFile(dir=folder) as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
            self._maps.append(mmap.mmap(opened.fileno(), size))
        return np.frombuffer(self._maps[-1], np.uint8)

    def release(self) -> None:
        """Let the pages of the files go: they stay in the system's page cache, but do not count as memory."""
        for each in self._maps:
            each.madvise(mmap.MADV_DONTNEED)


def read_kept(file: Path) -> Arrays | None:
    """The arrays in a file by name; None if it is missing, or cannot be read and is to be made again."""
    try:
        return read_npz(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("work file unreadable, computed again", file=file.name, error=str(error))
        return None


def _mapped(file: Path) -> NDArray[np.generic]:
    """An array in its file, mapped while it is read."""
    with file.open("rb") as opened:
        found: NDArray[np.generic] = map_npy(opened)
    return found


def _run(file: Path) -> PairArray:
    found = _mapped(file)
    if found.dtype != PAIR:
        raise ValueError(f"{file} has {found.dtype}")
    return np.asarray(found, PAIR)
