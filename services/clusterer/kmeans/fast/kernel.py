"""The compiled kernel's functions over numpy arrays."""

from __future__ import annotations

import ctypes
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shoal.host import available_cores

from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray
from clusterer.native.library import COSINES, at, i64, load_library, rows_at

BLOCK = 16
ROUNDING = 1e-5
"""Bound of the rounding errors of this module in float32 and float64, relative to the length of a vector."""
STATS = np.dtype(
    [
        *((name, np.float32) for name in ("scale", "error", "norm", "rest")),
        ("sum", np.int32),
        ("peak", np.float32),
        ("squares", np.float64),
    ]
)
"""``RowStats`` of ``sketch.h``."""

Bytes = NDArray[np.int8]


@dataclass(frozen=True)
class Sketch:
    """Rows, centred, rotated and rounded to 8 bits: ``z = scale * q + r`` with ``|r| <= error`` and ``|z| <= norm``.

    Attributes
    ----------
    q
        ``(n, dims) int8``; ``dims`` is the number of columns, rounded up to a multiple of 64.
    stats
        ``(n,)`` of `STATS`.
    """

    q: Bytes
    stats: NDArray[Any]

    @classmethod
    def empty(cls, n: int, dims: int) -> Sketch:
        """Uninitialised sketches of ``n`` rows."""
        return cls(np.empty((n, dims), dtype=np.int8), np.empty(n, dtype=STATS))

    def __getitem__(self, part: slice) -> Sketch:
        return Sketch(self.q[part], self.stats[part])


@dataclass(frozen=True)
class Frame:
    """The mean and rotation that comparable sketches share.

    Attributes
    ----------
    mean
        ``(d,) float32``, subtracted first. Any mean is valid; the nearer to that of the data, the tighter the bounds.
    signs
        ``(dims,) float32`` of 1 and -1, the first factor of the rotation.
    """

    mean: Float32Array
    signs: Float32Array

    @classmethod
    def around(cls, mean: Float32Array) -> Frame:
        """The frame about a mean; its signs depend on the number of columns alone."""
        dims = -(-len(mean) // 64) * 64
        signs = np.random.default_rng(dims).choice(np.array([-1.0, 1.0], dtype=np.float32), size=dims)
        return cls(np.ascontiguousarray(mean, dtype=np.float32), signs)


class _Centroids(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("exact", "bytes", "packed")),
        *((name, ctypes.c_void_p) for name in ("scale", "norm", "error", "rest", "low", "high")),
        *((name, ctypes.c_int64) for name in ("k", "d", "dims")),
    )


class _Projection(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("packed", "scale", "zeros", "signs")),
        *((name, ctypes.c_int64) for name in ("dims", "p")),
    )


class _Sought(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("coarse", "fine")),
        *((name, ctypes.c_double) for name in ("coarse_step", "fine_step", "error")),
    )


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("dense", "singles", "rechecked", "distances", "doubles"))


@dataclass(frozen=True)
class Counts:
    """How the labels of the rows were decided.

    Attributes
    ----------
    dense
        Rows whose sketches were multiplied with those of all centroids.
    singles
        Products of sketches, one at a time, for the other rows.
    rechecked
        Rows that the bounds left with more than one candidate.
    distances
        Distances computed from the data for them.
    doubles
        Distances computed again in float64 to break ties of float32.
    """

    dense: int = 0
    singles: int = 0
    rechecked: int = 0
    distances: int = 0
    doubles: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Projection:
    """A matrix ``(dims, p)`` of norm at most 1 onto whose columns short sketches are projected.

    Attributes
    ----------
    matrix
        ``(dims, p) float32``: whole numbers up to 127 times a scale for each column.
    """

    matrix: Float32Array
    frame: Frame
    structure: _Projection
    arrays: tuple[NDArray[Any], ...]

    @classmethod
    def over(cls, matrix: Float32Array, packed: NDArray[np.uint8], scale: Float32Array) -> Projection:
        """From its arrays: the matrix, and its columns as kernels with the same `largest` pack them."""
        dims, p = matrix.shape
        frame = Frame.around(np.zeros(p, dtype=np.float32))
        structure = _Projection(*(a.ctypes.data for a in (packed, scale, frame.mean, frame.signs)), dims, p)
        return cls(matrix, frame, structure, (packed, scale))

    @property
    def p(self) -> int:
        """Number of columns, a multiple of 64."""
        return int(self.matrix.shape[1])


@dataclass(frozen=True)
class Sought:
    """A vector that rows are compared with, in the layout of the kernel, with the arrays that it points to."""

    structure: _Sought
    arrays: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class PackedCentroids:
    """Centroids in the layout of the kernel, with the arrays that the structure points to."""

    structure: _Centroids
    arrays: tuple[NDArray[Any], ...]


class Kernel:
    """One compiled library.

    Parameters
    ----------
    variant
        Its name.
    library
        The loaded library.
    threads
        How many to use.

    Attributes
    ----------
    variant, library, threads
        The same.
    largest
        Largest magnitude of a quantised coordinate.
    single_cost
        Cost of one product of two sketches alone, relative to one within a product of many with many.
    """

    def __init__(self, variant: str, library: ctypes.CDLL, threads: int) -> None:
        self.variant = variant
        self.threads = threads
        self.library = library
        self.library.shoal_fast_single_cost.restype = ctypes.c_double
        self.largest = int(self.library.shoal_fast_largest())
        self.single_cost = float(self.library.shoal_fast_single_cost())

    def sketch(self, x: NDArray[Any], frame: Frame) -> Sketch:
        """Sketch ``(n, d)`` float32 or float16 rows."""
        sketch = Sketch.empty(len(x), len(frame.signs))
        self.sketch_into(x, frame, sketch)
        return sketch

    def sketch_into(self, x: NDArray[Any], frame: Frame, sketch: Sketch) -> None:
        """Sketch ``(n, d)`` rows into given arrays."""
        n, d = x.shape
        self.library.shoal_fast_sketch(
            *rows_at(x), i64(n), i64(d), at(frame.mean), at(frame.signs), i64(len(frame.signs)), at(sketch.q),
            at(sketch.stats), self.threads,
        )  # fmt: skip

    def rotate(self, x: Float32Array, frame: Frame) -> Float32Array:
        """Centre and rotate ``(n, d) float32`` rows, ``(n, dims)``, without rounding them to bytes."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        (n, d), dims = x.shape, len(frame.signs)
        z = np.empty((n, dims), dtype=np.float32)
        self.library.shoal_fast_rotate(at(x), i64(n), i64(d), at(frame.mean), at(frame.signs), i64(dims), at(z))
        return z

    def projection(self, basis: NDArray[Any]) -> Projection:
        """Round ``(dims, p)`` directions to bytes and scale them so that they lengthen no vector."""
        peak = np.abs(basis).max(axis=0)
        steps = self.largest / np.where(peak > 0, peak, 1.0)
        whole = np.ascontiguousarray(np.rint(basis.T * steps[:, None]).astype(np.int8))
        matrix = whole.T * (peak / self.largest)
        longest = float(np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix)[-1])) * (1 + ROUNDING)
        scale = (peak / self.largest / longest).astype(np.float32)
        return Projection.over((whole.T * scale).astype(np.float32), self._pack(whole)[1], scale)

    def project_into(self, sketch: Sketch, projection: Projection, brief: Sketch) -> None:
        """Short sketches of rows from their full ones."""
        self.library.shoal_fast_project(
            at(sketch.q), at(sketch.stats), i64(len(sketch.q)), ctypes.byref(projection.structure), at(brief.q),
            at(brief.stats), self.threads,
        )  # fmt: skip

    def pack(self, centroids: Float32Array, frame: Frame) -> PackedCentroids:
        """Sketch and lay out ``(k, d) float32`` centroids."""
        exact = np.ascontiguousarray(centroids, dtype=np.float32)
        sketch = self.sketch(exact, frame)
        return self._lay_out(exact, sketch, sketch.stats["squares"], np.zeros(len(exact)), np.zeros(len(exact)))

    def pack_brief(self, centroids: Float32Array, frame: Frame, projection: Projection) -> PackedCentroids:
        """Short sketches of ``(k, d) float32`` centroids."""
        exact = np.ascontiguousarray(centroids, dtype=np.float32)
        rotated = self.rotate(exact, frame)
        squares = np.einsum("ij,ij->i", rotated, rotated, dtype=np.float64)
        projected = rotated @ projection.matrix
        kept = np.einsum("ij,ij->i", projected, projected, dtype=np.float64)
        rest = np.sqrt(np.maximum(0.0, squares - kept) + ROUNDING * squares)
        return self._lay_out(
            exact, self.sketch(projected, projection.frame), squares, rest, ROUNDING * np.sqrt(squares)
        )

    def _lay_out(
        self, exact: Float32Array, sketch: Sketch, squares: Float64Array, rest: Float64Array, error: Float64Array
    ) -> PackedCentroids:
        """Add the terms of each centroid in the score intervals, padded to whole blocks; see ``assign.h``."""
        (k, d), dims = exact.shape, sketch.q.shape[1]
        bytes_, packed = self._pack(sketch.q)
        half = squares / 2
        norm = np.sqrt(squares) * (1 + ROUNDING) + sketch.stats["error"]
        columns: tuple[tuple[NDArray[Any], float], ...] = (
            (sketch.stats["scale"], 0.0),
            (norm, 0.0),
            (sketch.stats["error"] + error, 0.0),
            (rest, 0.0),
            (half * (1 - ROUNDING), np.inf),
            (half * (1 + ROUNDING), np.inf),
        )
        arrays: tuple[NDArray[Any], ...] = (exact, bytes_, packed, *(_padded(*column, k) for column in columns))
        return PackedCentroids(_Centroids(*(a.ctypes.data for a in arrays), k, d, dims), arrays)

    def _pack(self, q: Bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        k, dims = q.shape
        bytes_ = np.empty((k, dims), dtype=np.uint8)
        packed = np.empty(-(-k // BLOCK) * BLOCK * dims, dtype=np.uint8)
        self.library.shoal_fast_pack(at(q), i64(k), i64(dims), at(bytes_), at(packed))
        return bytes_, packed

    def assign(
        self,
        x: NDArray[Any],
        sketch: Sketch,
        full: PackedCentroids,
        labels: LabelArray,
        brief: tuple[Sketch, PackedCentroids] | None = None,
    ) -> Counts:
        """Write the nearest centroid of each of ``(n, d)`` rows to ``labels``.

        Parameters
        ----------
        x
            The rows, ``(n, d)`` float32 or float16.
        sketch
            Their sketches.
        full
            The centroids, sketched in the same frame.
        labels
            ``(n,) int32``, overwritten; initially the labels of the last pass, or -1.
        brief
            Short sketches of both, tried first.
        """
        counts = _Counts()
        short_q, short_stats, short = (None, None, None)
        if brief is not None:
            short_q, short_stats, short = at(brief[0].q), at(brief[0].stats), ctypes.byref(brief[1].structure)
        self.library.shoal_fast_assign(
            *rows_at(x), at(sketch.q), at(sketch.stats), ctypes.byref(full.structure), short_q, short_stats, short,
            i64(len(x)), at(labels), ctypes.byref(counts), self.threads,
        )  # fmt: skip
        return Counts(*(getattr(counts, field[0]) for field in counts._fields_))

    def two_nearest(self, x: Float32Array, sketch: Sketch, full: PackedCentroids) -> LabelArray:
        """The two nearest of at least two centroids, ``(n, 2) int32``, nearest first."""
        labels = np.empty((len(x), 2), dtype=np.int32)
        self.library.shoal_fast_two_nearest(
            at(x), at(sketch.q), at(sketch.stats), ctypes.byref(full.structure), i64(len(x)), at(labels),
            ctypes.byref(_Counts()), self.threads,
        )  # fmt: skip
        return labels

    @property
    def has_cosines(self) -> bool:
        """Whether the library has the functions of a search: one that was compiled from older sources has not."""
        return hasattr(self.library, COSINES)

    def sought(self, vector: Float64Array, frame: Frame) -> Sought:
        """A vector ``(d,) float64`` of length 1, in two digits of 8 bits; ``frame`` is that of the rows, about 0."""
        z = self.rotate(vector[None].astype(np.float32), frame)[0].astype(np.float64)
        digits, steps = [], []
        for _ in range(2):
            step = float(np.abs(z).max()) / self.largest or 1.0
            digit = np.rint(z / step)
            z = z - step * digit
            digits.append((digit + self.largest + 1).astype(np.uint8))
            steps.append(step)
        error = float(np.linalg.norm(z)) + ROUNDING
        return Sought(_Sought(*(digit.ctypes.data for digit in digits), *steps, error), tuple(digits))

    def cosines(self, sketch: Sketch, sought: Sought) -> tuple[Float32Array, Float32Array]:
        """Lower and upper bounds ``(n,)`` of the cosines of sketched rows to a vector."""
        n, dims = sketch.q.shape
        low, high = np.empty(n, np.float32), np.empty(n, np.float32)
        self.library.shoal_fast_cosines(
            at(sketch.q), at(sketch.stats), i64(n), i64(dims), ctypes.byref(sought.structure), at(low), at(high),
            self.threads,
        )  # fmt: skip
        return low, high

    def distances(self, x: NDArray[Any], centroids: Float32Array, labels: LabelArray) -> Float32Array:
        """Squared distances ``(n,) float32`` of rows to the centroids that they are labelled with."""
        squared = np.empty(len(x), dtype=np.float32)
        n, d = x.shape
        self.library.shoal_fast_distances(
            *rows_at(x), i64(n), i64(d), at(centroids), at(labels), at(squared), self.threads
        )
        return squared

    def accumulate(self, x: NDArray[Any], before: LabelArray, after: LabelArray, unit: float, sums: IntArray) -> None:
        """Move rows whose label changed from one of the ``(k, d) int64`` sums to another; -1 is no cluster.

        ``sums`` hold the rows times ``unit``, a power of two, as integers: exact, whatever the order.
        """
        n, d = x.shape
        self.library.shoal_fast_accumulate(
            *rows_at(x),
            i64(n),
            i64(d),
            at(before),
            at(after),
            ctypes.c_double(unit),
            at(sums),
            self.threads,
        )


def open_kernel(variant: str | None = None, *, threads: int | None = None) -> Kernel:
    """The best kernel for this processor, or the one named, on all cores that the process may use by default.

    Raises
    ------
    KernelUnavailable
        No kernel can run on this machine.
    """
    name, library = load_library(variant)
    return Kernel(name, library, threads or available_cores())


def _padded(values: NDArray[Any], fill: float, k: int) -> Float32Array:
    """Values of ``k`` centroids, padded to whole blocks."""
    column = np.full(-(-k // BLOCK) * BLOCK, fill, dtype=np.float32)
    column[:k] = values
    return column
