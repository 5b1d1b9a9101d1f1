"""An embeddings set that is ready to be searched: bounds in memory, vectors in their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from shoal.deadline import Deadline
from shoal.store.reader import EmbeddingSet

from clusterer.data.rows import Float32Array, Float64Array, IntArray
from clusterer.kmeans.fast.kernel import STATS, Frame, Kernel, Sketch, open_kernel
from clusterer.native.library import KernelUnavailable
from clusterer.search.nearest import TIE, Nearest

Stored = NDArray[np.floating]
"""Rows as they are stored, float16 or float32."""
_log = structlog.get_logger(__name__)

MOST_COLUMNS: Final = 32_768
"""More would overflow the 32-bit sums of products of 8 bits."""
SHORTEST, LONGEST = 1e-15, 1e15
"""Lengths of rows between which float32 neither overflows nor loses digits."""
PIECE_BYTES: Final = 2**25
"""Memory that is scanned in one go, some milliseconds: a small request then waits little behind a search."""
BLOCK_VALUES: Final = 2**20
MOST_MAPPED: Final = 64
"""Shards that one search keeps mapped; each has a file descriptor."""
COLUMNS: Final = ("image_path", "label")


@dataclass(frozen=True)
class LoadedEmbeddings:
    """All that a search needs of a complete embeddings set; immutable, so that many threads may use one.

    Attributes
    ----------
    embeddings
        The set. Its vectors are mapped while a search runs, and not between searches: a file that is mapped takes its
        space on the disk even when the set is deleted.
    shards, offsets
        Numbers of the shards with rows, ``(s,)``, and their first rows and the number of all rows, ``(s + 1,)``.
    kernel, frame, sketch
        The rows in 8 bits, about 0; None where they would not fit, or where no compiled kernel runs.
    norms
        ``(n,) float32``: lengths of the rows, in place of the sketch.
    table
        Paths and labels; None where they would not fit: they are read from the files then.
    """

    embeddings: EmbeddingSet
    shards: tuple[int, ...]
    offsets: IntArray
    kernel: Kernel | None
    frame: Frame
    sketch: Sketch | None
    norms: Float32Array | None
    table: pa.Table | None = field(repr=False)

    @classmethod
    def of(cls, embeddings: EmbeddingSet, limit: int) -> LoadedEmbeddings:
        """Read a set.

        Parameters
        ----------
        limit
            Bytes that the sketch, and the table beside it, may take.

        Raises
        ------
        StoreCorrupt
            A file is missing or damaged.
        """
        kept = [(shard, commit.rows) for shard, commit in embeddings.commits.items() if commit.rows]
        offsets = np.cumsum([0, *(rows for _, rows in kept)], dtype=np.int64)
        kernel = _kernel() if sketch_bytes(embeddings) <= limit and embeddings.dim <= MOST_COLUMNS else None
        frame = Frame.around(np.zeros(embeddings.dim, np.float32))
        sketch = None if kernel is None else Sketch.empty(embeddings.rows, len(frame.signs))
        norms = np.empty(embeddings.rows, np.float32) if sketch is None else None
        for (shard, _), first, stop in zip(kept, offsets[:-1], offsets[1:], strict=True):
            vectors = embeddings.shard(shard)
            if kernel is not None and sketch is not None:
                kernel.sketch_into(vectors, frame, sketch[first:stop])
            elif norms is not None:
                norms[first:stop] = _norms(vectors)
        table = embeddings.metadata(list(COLUMNS)).select(list(COLUMNS)).combine_chunks()
        room = limit - sketch_bytes(embeddings) if sketch is not None else limit
        return cls(
            embeddings=embeddings,
            shards=tuple(shard for shard, _ in kept),
            offsets=offsets,
            kernel=kernel,
            frame=frame,
            sketch=sketch,
            norms=norms,
            table=table if table.nbytes <= room else None,
        )

    @property
    def id(self) -> str:
        """The set's id."""
        return self.embeddings.id

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.embeddings.dim

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.offsets[-1])

    @property
    def bytes(self) -> int:
        """Bytes of memory, about."""
        sketch = 0 if self.sketch is None else self.sketch.q.nbytes + self.sketch.stats.nbytes
        norms = 0 if self.norms is None else self.norms.nbytes
        return int(sketch + norms + (0 if self.table is None else self.table.nbytes))

    def vector(self, row: int) -> Float64Array:
        """The vector of a row, ``(dim,)``."""
        return np.asarray(Reader(self).take(np.array([row]))[0], np.float64)

    def nearest(self, vector: Float64Array, k: int, leave_out: int | None = None) -> tuple[Nearest, Reader]:
        """A search for the ``k`` rows nearest to a vector of length 1; `scan` gives it the bounds."""
        reader = Reader(self)
        return Nearest(vector, k, reader.take, leave_out), reader

    def scan(self, nearest: Nearest, reader: Reader, deadline: Deadline | None = None) -> Iterator[None]:
        """Bounds of the cosines of all rows, piece by piece.

        Raises
        ------
        Unavailable
            The deadline has passed.
        """
        if self.kernel is None or self.sketch is None:
            yield from self._scan_vectors(nearest, reader, deadline)
            return
        sought = self.kernel.sought(nearest.vector, self.frame)
        step = max(1, PIECE_BYTES // self.sketch.q.shape[1])
        for first in range(0, self.rows, step):
            if deadline is not None:
                deadline.check()
            nearest.add(first, *self.kernel.cosines(self.sketch[first : first + step], sought))
            yield

    def _scan_vectors(self, nearest: Nearest, reader: Reader, deadline: Deadline | None) -> Iterator[None]:
        vector = nearest.vector.astype(np.float32)
        rows = max(1, BLOCK_VALUES // self.dim)
        for place, start in enumerate(self.offsets[:-1].tolist()):
            vectors = reader.mapped(place)
            for first in range(0, len(vectors), rows):
                if deadline is not None:
                    deadline.check()
                block = vectors[first : first + rows]
                norms = None if self.norms is None else self.norms[start + first :][: len(block)]
                nearest.add(start + first, *_bounds(block, norms, vector))
                yield

    def described(self, rows: IntArray) -> list[dict[str, object]]:
        """``image_path`` and ``label`` of rows, in their order."""
        if self.table is not None:
            found: list[dict[str, object]] = self.table.take(pa.array(rows)).to_pylist()
            return found
        by_row: dict[int, dict[str, object]] = {}
        left: Sequence[int] = np.unique(rows).tolist()
        while left:
            # The first table ends with the shard of the first row.
            part = next(self.embeddings.iter_metadata(list(COLUMNS), start=left[0]))
            inside = [row for row in left if row < left[0] + part.num_rows]
            taken = part.select(list(COLUMNS)).take(pa.array([row - left[0] for row in inside], pa.int64()))
            by_row.update(zip(inside, taken.to_pylist(), strict=True))
            left = left[len(inside) :]
        return [by_row[row] for row in rows.tolist()]


class Reader:
    """Reads rows of a set during one search."""

    def __init__(self, loaded: LoadedEmbeddings) -> None:
        self._loaded = loaded
        self._shard = lru_cache(MOST_MAPPED)(loaded.embeddings.shard)

    def mapped(self, place: int) -> Stored:
        """The vectors of a shard with rows, by its place among them; a view of its file."""
        return self._shard(self._loaded.shards[place])

    def take(self, rows: IntArray) -> Float32Array:
        """``(n, dim) float32`` vectors of rows, which ascend."""
        offsets = self._loaded.offsets
        out = np.empty((len(rows), self._loaded.dim), np.float32)
        borders = np.searchsorted(rows, offsets)
        for place in np.flatnonzero(borders[:-1] < borders[1:]).tolist():
            lo, hi = borders[place], borders[place + 1]
            out[lo:hi] = self.mapped(place)[rows[lo:hi] - offsets[place]]
        return out


def sketch_bytes(embeddings: EmbeddingSet) -> int:
    """Bytes of the sketch of a set."""
    return embeddings.rows * (-(-embeddings.dim // 64) * 64 + STATS.itemsize)


def _kernel() -> Kernel | None:
    try:
        kernel = open_kernel()
    except KernelUnavailable as error:
        _log.warning("searches read all vectors", reason=str(error))
        return None
    if not kernel.has_cosines:
        _log.warning("searches read all vectors", reason="the compiled kernel is of older sources: build it again")
        return None
    return kernel


def _norms(vectors: Stored) -> Float32Array:
    """Lengths ``(n,)`` of rows; infinite beyond float32."""
    found = np.empty(len(vectors), np.float32)
    rows = max(1, BLOCK_VALUES // vectors.shape[1])
    for first in range(0, len(vectors), rows):
        block = vectors[first : first + rows].astype(np.float64)
        with np.errstate(over="ignore"):
            found[first : first + rows] = np.sqrt(np.einsum("ij,ij->i", block, block))
    return found


def _bounds(vectors: Stored, norms: Float32Array | None, vector: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Bounds ``(n,)`` of the cosines of rows, from products in float32."""
    rows = np.asarray(vectors, np.float32)
    norms = _norms(rows) if norms is None else norms
    with np.errstate(all="ignore"):
        middle = (rows @ vector) / norms
    # The sum of d products, in whatever order, is off by at most d roundings of the product of the lengths.
    slack = np.float32((len(vector) + 8) * 2.0**-23 + 2 * TIE)
    low, high = np.maximum(middle - slack, np.float32(-1)), np.minimum(middle + slack, np.float32(1))
    unsure = ~((norms >= SHORTEST) & (norms <= LONGEST))
    low[unsure], high[unsure] = -1, 1
    return low, high
