"""Forces between points in the plane, and the landmarks nearest to rows: compiled, or with numpy where that is not."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from shoal.host import available_cores

from clusterer.data.rows import Float32Array, Float64Array, IntArray
from clusterer.native.library import MAP, KernelUnavailable, at, load_library

WIDE: Final = 16
"""Landmarks of a panel, and points that are computed together; ``map.h`` has the same."""
TILE_ROWS: Final = 32
"""Rows that read a panel while it is in the cache."""
FAR: Final = 1e15
"""A coordinate so far away that the point there exerts no force."""
PLAIN_ROWS: Final = 256
NO_LANDMARK: Final = -1

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Graph:
    """Whom each of ``n`` points is drawn to, and how strongly.

    Attributes
    ----------
    starts
        ``(n + 1,) int64``: the first entry of each point.
    others
        ``(e,) int32``.
    weights
        ``(e,) float32``; together 1.
    """

    starts: IntArray
    others: Numbers
    weights: Float32Array


@dataclass(frozen=True)
class Forces:
    """Of every point: the sums over the others in the gradient of t-SNE; ``q = 1 / (1 + |y_i - y_j|^2)``.

    Attributes
    ----------
    attraction
        ``(n, 2) float32``: of ``p q (y_i - y_j)``.
    repulsion
        ``(n, 2) float32``: of ``q^2 (y_i - y_j)``.
    sums
        ``(n,) float64``: of ``q``.
    """

    attraction: Float32Array
    repulsion: Float32Array
    sums: Float64Array


@dataclass(frozen=True)
class Panels:
    """Landmarks as the kernel reads them.

    Attributes
    ----------
    values
        ``(panels, d, 16) float32``.
    numbers
        ``(panels, 16) int32``: the landmarks' numbers; -1 where a panel is not full.
    cells
        ``(c + 1,) int64``: the first panel of each cell.
    """

    values: Float32Array
    numbers: Numbers
    cells: IntArray

    @classmethod
    def of(cls, rows: Float32Array, cells: Numbers | None = None) -> Panels:
        """``(n, d)`` landmarks, each in the cell that ``cells`` ``(n,)`` names; all in one by default."""
        cells = np.zeros(len(rows), np.int32) if cells is None else cells
        sizes = np.bincount(cells, minlength=1)
        panels = -(-sizes // WIDE)
        starts = np.concatenate([[0], np.cumsum(panels)]).astype(np.int64)
        numbers = np.full((int(starts[-1]), WIDE), NO_LANDMARK, np.int32)
        order = np.argsort(cells, kind="stable")
        places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        numbers.ravel()[np.repeat(starts[:-1] * WIDE, sizes) + places] = order
        values = np.empty((len(numbers), rows.shape[1], WIDE), np.float32)
        for panel, members in enumerate(numbers):
            values[panel] = rows[members].T  # -1 is the last row, whose values do no harm
        return cls(values, numbers, starts)


@dataclass(frozen=True)
class Lists:
    """What groups of rows are compared with.

    Attributes
    ----------
    starts
        ``(g + 1,) int64``: the first panel of each group's list.
    panels
        ``(p,) int32``.
    """

    starts: IntArray
    panels: Numbers

    @classmethod
    def whole(cls, panels: Panels) -> Lists:
        """One list, of all panels."""
        count = len(panels.numbers)
        return cls(np.array([0, count], np.int64), np.arange(count, dtype=np.int32))


class Kernel(Protocol):
    """What lays out and places."""

    def forces(self, places: Float32Array, graph: Graph) -> Forces:
        """The forces on ``(n, 2)`` points."""
        ...

    def nearest(
        self, rows: Float32Array, groups: Numbers, panels: Panels, lists: Lists, k: int, itself: Numbers | None = None
    ) -> tuple[Numbers, Float32Array]:
        """The ``k`` nearest landmarks of each row among those of its group's list.

        Parameters
        ----------
        rows
            ``(n, d)``.
        groups
            ``(n,)``: the group of each row.
        itself
            ``(n,)``: a landmark that each row is not compared with.

        Returns
        -------
        numbers, squared
            ``(n, k)``, by ascending distance, equal ones by ascending number; -1 and infinity where there are fewer.
        """
        ...


class _Points(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y")),
        *((name, ctypes.c_int64) for name in ("n", "padded")),
        *((name, ctypes.c_void_p) for name in ("starts", "others", "weights")),
    )


class _Landmarks(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_void_p) for name in ("values", "numbers")), ("d", ctypes.c_int64))


class _Searched(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "order", "tiles")),
        ("n_tiles", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("list_starts", "panels", "itself")),
        ("k", ctypes.c_int64),
    )


class CompiledKernel:
    """The functions of the best compiled library, or of the one named.

    Raises
    ------
    KernelUnavailable
        None runs here, or it was compiled from older sources.
    """

    def __init__(self, variant: str | None = None, *, threads: int | None = None) -> None:
        _, self._library = load_library(variant)
        self._threads = threads or available_cores()
        if not hasattr(self._library, MAP[0]):
            raise KernelUnavailable("the compiled kernel is of older sources: build it again")

    def forces(self, places: Float32Array, graph: Graph) -> Forces:
        """As of `Kernel`."""
        n = len(places)
        padded = -(-n // WIDE) * WIDE
        columns = np.full((2, padded), FAR, np.float32)
        columns[:, :n] = places.T
        found = Forces(np.empty((n, 2), np.float32), np.empty((n, 2), np.float32), np.empty(n))
        points = _Points(
            at(columns[0]), at(columns[1]), n, padded, at(graph.starts), at(graph.others), at(graph.weights)
        )
        self._library.shoal_map_forces(
            ctypes.byref(points), at(found.attraction), at(found.repulsion), at(found.sums), self._threads
        )
        return found

    def nearest(
        self, rows: Float32Array, groups: Numbers, panels: Panels, lists: Lists, k: int, itself: Numbers | None = None
    ) -> tuple[Numbers, Float32Array]:
        """As of `Kernel`."""
        rows = np.ascontiguousarray(rows)
        order = np.argsort(groups, kind="stable").astype(np.int64)
        tiles = _tiles(np.bincount(groups, minlength=len(lists.starts) - 1))
        numbers, squared = np.empty((len(rows), k), np.int32), np.empty((len(rows), k), np.float32)
        skipped = None if itself is None else at(itself)
        sought = _Searched(at(rows), at(order), at(tiles), len(tiles), at(lists.starts), at(lists.panels), skipped, k)
        landmarks = _Landmarks(at(panels.values), at(panels.numbers), rows.shape[1])
        self._library.shoal_map_nearest(
            ctypes.byref(sought), ctypes.byref(landmarks), at(numbers), at(squared), self._threads
        )
        return numbers, squared


class PlainKernel:
    """The same with numpy, more slowly; sums are added in another order."""

    def forces(self, places: Float32Array, graph: Graph) -> Forces:
        """As of `Kernel`."""
        n = len(places)
        found = Forces(np.empty((n, 2), np.float32), np.empty((n, 2), np.float32), np.empty(n))
        for first in range(0, n, PLAIN_ROWS):
            part = slice(first, first + PLAIN_ROWS)
            apart = places[part, None] - places[None]
            q = 1 / (1 + np.einsum("ijc,ijc->ij", apart, apart))
            found.sums[part] = q.sum(axis=1, dtype=np.float64) - 1
            found.repulsion[part] = np.einsum("ij,ijc->ic", q * q, apart)
        i = np.repeat(np.arange(n), np.diff(graph.starts))
        apart = places[i] - places[graph.others]
        pull = graph.weights / (1 + np.einsum("ec,ec->e", apart, apart))
        for column in range(2):
            found.attraction[:, column] = np.bincount(i, pull * apart[:, column], n)
        return found

    def nearest(
        self, rows: Float32Array, groups: Numbers, panels: Panels, lists: Lists, k: int, itself: Numbers | None = None
    ) -> tuple[Numbers, Float32Array]:
        """As of `Kernel`."""
        numbers = np.full((len(rows), k), NO_LANDMARK, np.int32)
        squared = np.full((len(rows), k), np.inf, np.float32)
        for group in np.unique(groups):
            chosen = lists.panels[lists.starts[group] : lists.starts[group + 1]]
            filled = panels.numbers[chosen].ravel() != NO_LANDMARK
            ids = panels.numbers[chosen].ravel()[filled]
            values = panels.values[chosen].swapaxes(1, 2).reshape(-1, rows.shape[1])[filled]
            members = np.flatnonzero(groups == group)
            for first in range(0, len(members), PLAIN_ROWS):
                part = members[first : first + PLAIN_ROWS]
                distances = _squares(rows[part], values)
                if itself is not None:
                    distances[ids[None] == itself[part, None]] = np.inf
                order = np.lexsort((np.broadcast_to(ids, distances.shape), distances), axis=1)[:, :k]
                near = np.take_along_axis(distances, order, 1)
                width = order.shape[1]
                squared[part, :width] = near
                numbers[part, :width] = np.where(np.isfinite(near), ids[order], NO_LANDMARK)
        return numbers, squared


def open_kernel() -> Kernel:
    """The compiled kernel, or the plain one where none runs."""
    try:
        return CompiledKernel()
    except KernelUnavailable:
        return PlainKernel()


def _tiles(sizes: IntArray) -> IntArray:
    """``(t, 3) int64``: first row, end, and group of each tile of rows that are sorted by group."""
    counts = -(-sizes // TILE_ROWS)
    groups = np.repeat(np.arange(len(sizes)), counts)
    ends = np.cumsum(sizes)
    within = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = (ends - sizes)[groups] + within * TILE_ROWS
    return np.ascontiguousarray(
        np.stack([first, np.minimum(first + TILE_ROWS, ends[groups]), groups], axis=1), np.int64
    )


def _squares(rows: Float32Array, values: Float32Array) -> Float32Array:
    """Squared distances ``(n, m)`` of rows and landmarks."""
    wide, other = rows.astype(np.float64), values.astype(np.float64)
    products = -2 * (wide @ other.T)
    products += np.einsum("ij,ij->i", wide, wide)[:, None]
    products += np.einsum("ij,ij->i", other, other)
    return np.maximum(products, 0).astype(np.float32)
