"""A worker of a job on a Ray cluster, as it runs on its node: it holds partitions of rows and runs steps on them."""

from __future__ import annotations

import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shoal.host import use_cores

from clusterer.data.filerows import FileRows, write_rows
from clusterer.data.partitions import Partition, Step, unheard
from clusterer.data.rows import Array, Float32Array, IntArray, MappedRows, RowRange, Rows, StoredRows, in_memory
from clusterer.kmeans import select_engine
from clusterer.kmeans.engine import use_in_process
from clusterer.ray.tasks import require_version

T = TypeVar("T")


@dataclass(frozen=True)
class Read:
    """What reading a range of stored rows has shown.

    Attributes
    ----------
    zeros
        Rows of zeros; None if nothing was read from the store.
    seconds
        Seconds that it took.
    """

    zeros: int | None = None
    seconds: float = 0.0


class Holder:
    """The actor.

    Parameters
    ----------
    cores
        How many it computes on.
    keep_bytes
        Memory for what an engine keeps of the rows from one pass to the next.
    rows_bytes
        Memory for held rows; those beyond it, such as a lost worker's, lie in files of this node.
    """

    def __init__(self, cores: int, keep_bytes: int, rows_bytes: int) -> None:
        use_cores(cores)
        self._keep_bytes = keep_bytes
        self._rows_bytes = rows_bytes
        self._in_memory: dict[str, int] = {}
        self._partitions: dict[str, Partition] = {}

    def use(self, version: str, name: str) -> str:
        """Use an engine, by its name in a request; returns that of the engine picked.

        Raises
        ------
        EngineUnavailable
            The engine cannot run here, or the driver has another version of Shoal.
        """
        require_version(version)
        engine = select_engine(name, keep_bytes=self._keep_bytes)
        use_in_process(engine)
        return engine.name

    def hold(self, key: str, view: Rows, piece: tuple[int, int], *, held: bool) -> Read:
        """Make a partition of a range of a view's rows.

        Parameters
        ----------
        key
            Names the partition.
        piece
            Numbers of the first row and the one after the last.
        held
            Whether the rows are computed once, now; otherwise they are read in each pass.
        """
        part: Rows = RowRange(view, *piece)
        reading = Reading(view)
        if held:
            size = 4 * part.n * part.dim
            if sum(self._in_memory.values()) + size <= self._rows_bytes:
                self._in_memory[key] = size
                part = in_memory(part)
            else:
                part = in_file(part)
        self._partitions[key] = Partition(part, piece[0], view.n)
        return reading.done()

    def run(self, key: str, step: Step[T], *slices: Array) -> tuple[T, Read]:
        """Run a step on a partition."""
        partition = self._partitions[key]
        reading = Reading(partition.rows)
        return step(partition, unheard, *slices), reading.done()

    def take(self, key: str, rows: IntArray) -> Float32Array:
        """Some rows of a partition, by their place in it."""
        return self._partitions[key].rows.take(rows)

    def drop(self, key: str) -> None:
        """Forget a partition."""
        self._partitions.pop(key, None)
        self._in_memory.pop(key, None)


class Reading:
    """Watches the stored rows behind a view while they are read."""

    def __init__(self, view: Rows) -> None:
        self._stored = stored_rows(view)
        self._before = self._stored.read_s if self._stored else 0.0

    def done(self) -> Read:
        """What was read since."""
        if self._stored is None:
            return Read()
        return Read(self._stored.zero_rows, self._stored.read_s - self._before)


def stored_rows(view: Rows) -> StoredRows | None:
    """The rows of the store that a view shows, each in its place; None if it shows others."""
    while isinstance(view, MappedRows | RowRange):
        view = view.source
    return view if isinstance(view, StoredRows) else None


def in_file(rows: Rows) -> FileRows:
    """Rows in a file of this node, which goes with the rows, and when the process ends, however it ends."""
    with tempfile.TemporaryDirectory(prefix="shoal-rows-") as folder:
        file = Path(folder) / "rows.f32"
        write_rows(file, rows)
        opened = os.open(file, os.O_RDONLY)
    # The file has no name any more; its number leads to it.
    found = FileRows.open(Path(f"/proc/self/fd/{opened}"), rows.n, rows.dim)
    weakref.finalize(found, os.close, opened)
    return found
