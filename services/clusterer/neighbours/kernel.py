"""The compiled kernel's functions that compare rows with rows, over numpy arrays."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, Float64Array, IntArray
from clusterer.kmeans.fast.kernel import STATS, Kernel, Sketch, open_kernel
from clusterer.native.library import JOIN, KernelUnavailable, at, available, i64

GROUP_ROWS, GROUP_COLUMNS = 192, 64
"""Rows of the left side and of the right side that are skipped together; ``join.h`` has the same."""
CAPACITY = 2**21
"""Pairs that one call may return."""
Places = NDArray[np.int32]


class _Side(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "sum", "scale", "norm", "error", "rest", "base")),
        ("dims", ctypes.c_int64),
    )


class _Join(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.POINTER(_Side)) for name in ("left", "brief_left", "right", "brief_right")),
        *((name, ctypes.c_int64) for name in ("n_left", "n_right")),
        *((name, ctypes.c_void_p) for name in ("left_floors", "right_floors", "skip")),
        *((name, ctypes.c_int64) for name in ("same", "capacity")),
    )


@dataclass(frozen=True)
class Sketches:
    """Sketches of rows; see ``join.h``.

    Attributes
    ----------
    q
        ``(n, dims) int8``.
    sum
        ``(n,) int32``.
    scale, norm, error, rest, base
        ``(n,) float32``.
    """

    q: NDArray[np.int8]
    sum: NDArray[np.int32]
    scale: Float32Array
    norm: Float32Array
    error: Float32Array
    rest: Float32Array
    base: Float32Array

    def __getitem__(self, part: slice) -> Sketches:
        return Sketches(*(getattr(self, name)[part] for name in self.__dataclass_fields__))

    def fill(self, part: slice, sketch: Sketch) -> None:
        """Take over what the sketches of some rows are described by."""
        for name in ("sum", "scale", "norm", "error", "rest"):
            getattr(self, name)[part] = sketch.stats[name]

    def structure(self) -> _Side:
        """As the kernel takes them; the arrays must outlive it."""
        return _Side(*(at(getattr(self, name)) for name in self.__dataclass_fields__), self.q.shape[1])


class JoinKernel:
    """The functions of one compiled library.

    Parameters
    ----------
    kernel
        The library and its threads.

    Attributes
    ----------
    fast
        The same.
    stats
        What describes a sketch.

    Raises
    ------
    KernelUnavailable
        The library was compiled from older sources.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.fast = kernel
        self.stats = STATS
        self._library = kernel.library
        if not hasattr(self._library, JOIN[0]):
            raise KernelUnavailable("the compiled kernel is of older sources: build it again")

    def __reduce__(self) -> tuple[object, tuple[int, int]]:
        # Libraries are opened anew in other processes, which may run on other processors.
        return open_like, (self.fast.largest, self.fast.threads)

    def floors(self, sketches: Sketches, k: int) -> Float32Array:
        """What at least ``k`` other rows of a block reach, for each of its rows: ``(n,) float32``, or -inf."""
        floors = np.empty(len(sketches.q), np.float32)
        self._library.shoal_join_floors(
            ctypes.byref(sketches.structure()), i64(len(floors)), i64(k), at(floors), self.fast.threads
        )
        return floors

    def reaching(
        self,
        left: tuple[Sketches, Sketches | None],
        right: tuple[Sketches, Sketches | None],
        floors: tuple[Float32Array, Float32Array],
        skip: NDArray[np.uint8],
        *,
        same: bool,
    ) -> tuple[Places, Places] | None:
        """Places ``(m,)`` of the pairs of two blocks that may reach the lesser of their floors; None if too many.

        Parameters
        ----------
        left, right
            The full and the short sketches of each block.
        floors
            Of the rows of each block.
        skip
            ``(row groups, column groups)``: 1 where no pair can reach a floor.
        same
            Whether both are the same block: then only pairs ``i < j``.
        """
        n, m = len(left[0].q), len(right[0].q)
        mine = np.ascontiguousarray(floors[0], np.float32)
        theirs = np.full(-(-m // GROUP_COLUMNS) * GROUP_COLUMNS, np.inf, np.float32)
        theirs[:m] = floors[1]
        sides = [None if each is None else each.structure() for each in (*left, *right)]
        i, j = np.empty(CAPACITY, np.int32), np.empty(CAPACITY, np.int32)
        join = _Join(
            *(None if side is None else ctypes.pointer(side) for side in sides),
            n, m, at(mine), at(theirs), at(skip), int(same), CAPACITY,
        )  # fmt: skip
        count = ctypes.c_int64()
        self._library.shoal_join_blocks(ctypes.byref(join), at(i), at(j), ctypes.byref(count), self.fast.threads)
        return None if count.value > CAPACITY else (i[: count.value], j[: count.value])

    def lengths(self, rows: Float32Array) -> Float64Array:
        """As `similarity.lengths`."""
        found = np.empty(len(rows), np.float64)
        rows = np.ascontiguousarray(rows)
        n, d = rows.shape
        self._library.shoal_join_lengths(at(rows), i64(n), i64(d), at(found), self.fast.threads)
        return found

    def units(self, rows: Float32Array, lengths: Float64Array) -> Float32Array:
        """Rows ``(n, d)`` scaled to length 1, given their lengths; rows of zeros stay zeros."""
        rows = np.ascontiguousarray(rows)
        found = np.empty_like(rows)
        n, d = rows.shape
        self._library.shoal_join_units(at(rows), i64(n), i64(d), at(lengths), at(found), self.fast.threads)
        return found

    def similarities(
        self, x: Float32Array, y: Float32Array, lengths: tuple[Float64Array, Float64Array], i: Places, j: Places
    ) -> Float32Array:
        """Similarities ``(m,)`` of rows ``x[i]`` and ``y[j]``, as `similarity.similarities`."""
        found = np.empty(len(i), np.float32)
        self._library.shoal_join_compare(
            at(x), at(y), i64(x.shape[1]), at(lengths[0]), at(lengths[1]), at(i), at(j), i64(len(i)), at(found),
            self.fast.threads,
        )  # fmt: skip
        return found

    def add(
        self, best: tuple[IntArray, Float32Array], places: IntArray, rows: IntArray, similarity: Float32Array
    ) -> None:
        """As `Best.add`."""
        self._library.shoal_join_add(
            at(best[0]), at(best[1]), i64(best[0].shape[1]), at(places), at(rows), at(similarity), i64(len(places))
        )


def open_join(variant: str | None = None, *, threads: int | None = None) -> JoinKernel:
    """The best kernel for this processor, or the one named.

    Raises
    ------
    KernelUnavailable
        No kernel can run on this machine.
    """
    return JoinKernel(open_kernel(variant, threads=threads))


def open_like(largest: int, threads: int) -> JoinKernel:
    """The best kernel for this processor whose sketches have values up to ``largest``, as those of another process.

    Raises
    ------
    KernelUnavailable
        No such kernel runs on this machine.
    """
    for variant in available():
        found = open_join(variant, threads=threads)
        if found.fast.largest == largest:
            return found
    raise KernelUnavailable(
        f"No compiled kernel with sketches up to {largest} runs on this processor. Use nodes that all have AVX-512, "
        "AVX-VNNI or AMX, or that all have none of them."
    )
