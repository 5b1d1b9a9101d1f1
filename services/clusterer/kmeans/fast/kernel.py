"""The compiled kernel: which library this processor runs, and its functions over numpy arrays."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterer.kmeans.fast.build import VARIANTS, library_path
from clusterer.rows import Float32Array, IntArray, LabelArray

NEEDS = {
    "amx": {"amx_tile", "amx_int8", "avx512_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "avxvnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx2": {"avx2", "fma", "f16c"},
}
"""What each library needs of the processor, as Linux names it."""
BLOCK = 16
STATS = np.dtype([("scale", np.float32), ("error", np.float32), ("norm", np.float32), ("sum", np.int32)])

Bytes = NDArray[np.int8]


class KernelUnavailable(Exception):
    """No compiled kernel runs here; the message says why."""


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


@dataclass(frozen=True)
class Frame:
    """What sketches that are compared must share.

    Attributes
    ----------
    mean
        ``(d,) float32``, subtracted first. Any will do; the nearer the middle of the data, the tighter the bounds.
    signs
        ``(dims,) float32`` of 1 and -1, which the rotation starts with.
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
        *((name, ctypes.c_void_p) for name in ("exact", "packed", "scale", "norm", "error", "low", "high")),
        *((name, ctypes.c_int64) for name in ("k", "d", "dims")),
    )


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("rechecked", "distances", "doubles"))


@dataclass(frozen=True)
class Counts:
    """How rows were decided.

    Attributes
    ----------
    rechecked
        Rows that the bounds left with more than one candidate.
    distances
        Distances that were taken from the data for them.
    doubles
        Distances taken again in float64, to break ties of float32.
    """

    rechecked: int
    distances: int
    doubles: int


@dataclass(frozen=True)
class PackedCentroids:
    """Centroids as the kernel reads them; keeps alive what the structure points to."""

    structure: _Centroids
    arrays: tuple[NDArray[Any], ...]


class Kernel:
    """One compiled library.

    Parameters
    ----------
    variant
        Its name.
    library
        The file.
    threads
        How many to use.
    """

    def __init__(self, variant: str, library: Path, threads: int) -> None:
        self.variant = variant
        self.threads = threads
        self._library = ctypes.CDLL(str(library))
        if not self._library.shoal_fast_open():
            raise KernelUnavailable("the system refused the processor's AMX tiles")

    def sketch(self, x: NDArray[Any], frame: Frame) -> Sketch:
        """Sketch ``(n, d)`` float32 or float16 rows."""
        q = np.empty((len(x), len(frame.signs)), dtype=np.int8)
        stats = np.empty(len(x), dtype=STATS)
        self.sketch_into(x, frame, q, stats)
        return Sketch(q, stats)

    def sketch_into(self, x: NDArray[Any], frame: Frame, q: Bytes, stats: NDArray[Any]) -> None:
        """Sketch ``(n, d)`` rows into slices of a larger sketch."""
        n, d = x.shape
        self._library.shoal_fast_sketch(
            *_rows(x), _i64(n), _i64(d), _at(frame.mean), _at(frame.signs), _i64(q.shape[1]), _at(q), _at(stats), self.threads
        )  # fmt: skip

    def pack(self, centroids: Float32Array, frame: Frame) -> PackedCentroids:
        """Sketch and lay out ``(k, d) float32`` centroids."""
        exact = np.ascontiguousarray(centroids, dtype=np.float32)
        k, d = exact.shape
        sketch = self.sketch(exact, frame)
        dims = sketch.q.shape[1]
        padded = -(-k // BLOCK) * BLOCK
        packed = np.empty(padded * dims, dtype=np.uint8)
        self._library.shoal_fast_pack(_at(sketch.q), _i64(k), _i64(dims), _at(packed))
        columns = _bounds(sketch, exact, frame, padded)
        arrays = (exact, packed, *columns)
        return PackedCentroids(_Centroids(*(a.ctypes.data for a in arrays), k, d, dims), arrays)

    def assign(
        self, x: NDArray[Any], q: Bytes, stats: NDArray[Any], centroids: PackedCentroids, labels: LabelArray
    ) -> Counts:
        """Write the nearest centroid of each of ``(n, d)`` rows, whose sketches are ``q`` and ``stats``, to ``labels``."""
        counts = _Counts()
        self._library.shoal_fast_assign(
            *_rows(x), _at(q), _at(stats), _i64(len(x)), ctypes.byref(centroids.structure), _at(labels),
            ctypes.byref(counts), self.threads,
        )  # fmt: skip
        return Counts(counts.rechecked, counts.distances, counts.doubles)

    def accumulate(
        self, x: NDArray[Any], before: LabelArray, after: LabelArray, unit: float, sums: IntArray
    ) -> None:
        """Move rows whose label changed from one of the ``(k, d) int64`` sums to another; -1 is no cluster.

        ``sums`` hold the rows times ``unit``, a power of two, as integers: exact, whatever the order.
        """
        n, d = x.shape
        self._library.shoal_fast_accumulate(
            *_rows(x), _i64(n), _i64(d), _at(before), _at(after), ctypes.c_double(unit), _at(sums), self.threads
        )


def _bounds(sketch: Sketch, exact: Float32Array, frame: Frame, padded: int) -> tuple[Float32Array, ...]:
    """What the intervals of the scores need of each centroid, filled up to whole blocks; see ``assign.h``."""
    k = len(exact)
    centred = exact.astype(np.float64) - frame.mean
    half = np.einsum("ij,ij->i", centred, centred) / 2
    q = sketch.q.astype(np.float32)
    rounded = np.sqrt(np.einsum("ij,ij->i", q, q)) * sketch.stats["scale"] * (1 + 1e-5)

    def column(values: NDArray[Any], fill: float) -> Float32Array:
        full = np.full(padded, fill, dtype=np.float32)
        full[:k] = values
        return full

    return (
        column(sketch.stats["scale"], 0.0),
        column(rounded, 0.0),
        column(sketch.stats["error"], 0.0),
        column(half * (1 - 1e-6), np.inf),
        column(half * (1 + 1e-6), np.inf),
    )


def available() -> list[str]:
    """Names of the libraries that are there and that this processor runs, best first."""
    flags = _processor_flags()
    return [variant for variant in VARIANTS if flags >= NEEDS[variant] and library_path(variant).exists()]


def open_kernel(variant: str | None = None, *, threads: int | None = None) -> Kernel:
    """The best kernel for this processor, or the one named.

    Raises
    ------
    KernelUnavailable
        There is none.
    """
    names = available() if variant is None else [name for name in available() if name == variant]
    refusal = KernelUnavailable(_why_not(variant))
    for name in names:
        try:
            return Kernel(name, library_path(name), threads or len(os.sched_getaffinity(0)))
        except (OSError, KernelUnavailable) as error:
            refusal = KernelUnavailable(f"the {name} kernel does not load: {error}")
    raise refusal


def _why_not(variant: str | None) -> str:
    if not any(library_path(name).exists() for name in VARIANTS):
        return "it was not compiled when the package was installed (that needs a C++ compiler on x86-64 Linux)"
    if variant is not None and variant not in VARIANTS:
        return f"there is no kernel named {variant!r}, only {', '.join(VARIANTS)}"
    return "this processor lacks the instructions that it needs (AVX2 at least)"


@cache
def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def _rows(x: NDArray[Any]) -> tuple[ctypes.c_void_p, int]:
    """Address of rows and whether they are float16."""
    if x.dtype not in (np.float32, np.float16) or not x.flags.c_contiguous:
        raise TypeError(f"rows must be C-contiguous float32 or float16, not {x.dtype} with strides {x.strides}")
    return _at(x), int(x.dtype == np.float16)


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _i64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)
