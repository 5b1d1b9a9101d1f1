"""The other rows' places: among the landmarks that are nearest to them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, IntArray
from clusterer.map.kernel import NO_LANDMARK, Kernel, Lists, Numbers, Panels
from clusterer.map.layout import Layout

NEAREST: Final = 5
"""Landmarks that a row is placed by."""
FEW: Final = 1024
"""Up to so many landmarks, a row is compared with all of them."""
CANDIDATES: Final = 800
"""Else with about so many, those of the nearest cells."""
REACH: Final = 4.0
"""Landmarks farther on the map than so many spacings from the one in their middle do not count: the mean of points of
two groups would lie in neither."""
SPREAD: Final = 0.5
"""In spacings, how far a row is moved at random, so that rows with the same landmarks do not cover each other."""


class Placer:
    """Places rows by landmarks that are laid out.

    Landmarks lie in cells, around some of themselves; a row is compared with the landmarks of the cells whose centres
    are nearest to that of its own cell.

    Parameters
    ----------
    landmarks
        ``(n, d)`` rows, in the space of the rows to place.
    layout
        Their places.
    """

    def __init__(self, landmarks: Float32Array, layout: Layout, kernel: Kernel) -> None:
        self._layout, self._kernel = layout, kernel
        self._scale = float(np.abs(landmarks).max(initial=0.0)) or 1.0
        landmarks = (landmarks / self._scale).astype(np.float32)
        self._centres, cells = _cells(landmarks, kernel)
        self._panels = Panels.of(landmarks, cells)
        self._lists = _candidates(self._centres, self._panels, kernel)

    def place(self, rows: Float32Array, numbers: IntArray) -> Float32Array:
        """The places ``(m, 2)`` of ``(m, d)`` rows.

        Parameters
        ----------
        numbers
            ``(m,)``: what the random part of each place depends on.
        """
        # A row far outside the landmarks must not overflow; the nearest ones are then those in its direction.
        rows = np.clip(rows / self._scale, -1e6, 1e6).astype(np.float32)
        k = min(NEAREST, len(self._layout.places))
        groups = _nearest_centre(self._centres, rows, self._kernel)
        near, squared = self._kernel.nearest(rows, groups, self._panels, self._lists, k)
        return self._among(near, squared) + self._moved(near[:, 0], numbers)

    def _among(self, near: Numbers, squared: Float32Array) -> Float32Array:
        """The weighted mean of the nearest landmarks, without those that lie apart from the others on the map."""
        weights = np.where(near == NO_LANDMARK, 0.0, 1 / np.maximum(squared.astype(np.float64), 1e-12))
        places = self._layout.places[near].astype(np.float64)
        apart = np.sqrt(np.sum((places[:, :, None] - places[:, None]) ** 2, axis=3))
        cost = np.einsum("mij,mj->mi", apart, weights)
        cost[near == NO_LANDMARK] = np.inf
        middle = np.argmin(cost, axis=1)
        rows = np.arange(len(near))
        reach = REACH * self._layout.spacing[near[rows, middle]]
        weights[apart[rows, middle] > reach[:, None]] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        return np.asarray(np.einsum("mk,mkc->mc", weights, places), np.float32)

    def _moved(self, nearest: Numbers, numbers: IntArray) -> Float32Array:
        """Evenly spread over a disc about the place."""
        first, second = _unit(2 * numbers), _unit(2 * numbers + 1)
        radius = SPREAD * self._layout.spacing[nearest] * np.sqrt(first)
        angle = 2 * np.pi * second
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _cells(landmarks: Float32Array, kernel: Kernel) -> tuple[Float32Array, Numbers]:
    """The centres of the cells, and the cell of each landmark; one cell where there are few landmarks."""
    if len(landmarks) <= FEW:
        return landmarks[:1], np.zeros(len(landmarks), np.int32)
    count = int(np.sqrt(len(landmarks)))
    centres = np.ascontiguousarray(landmarks[np.arange(count) * len(landmarks) // count])
    return centres, _nearest_centre(centres, landmarks, kernel)


def _nearest_centre(centres: Float32Array, rows: Float32Array, kernel: Kernel) -> Numbers:
    if len(centres) == 1:
        return np.zeros(len(rows), np.int32)
    panels = Panels.of(centres)
    numbers, _ = kernel.nearest(rows, np.zeros(len(rows), np.int32), panels, Lists.whole(panels), 1)
    return np.ascontiguousarray(numbers[:, 0])


def _candidates(centres: Float32Array, panels: Panels, kernel: Kernel) -> Lists:
    """For each cell, the panels of the cells nearest to it that together have `CANDIDATES` landmarks, or all."""
    count = len(centres)
    itself = Panels.of(centres)
    order, _ = kernel.nearest(centres, np.zeros(count, np.int32), itself, Lists.whole(itself), count)
    sizes = np.add.reduceat(np.append((panels.numbers != NO_LANDMARK).sum(axis=1), 0), panels.cells[:-1])
    sizes[np.diff(panels.cells) == 0] = 0
    lists = []
    for near in order:
        enough = int(np.searchsorted(np.cumsum(sizes[near]), CANDIDATES)) + 1
        lists.append(np.concatenate([np.arange(panels.cells[c], panels.cells[c + 1]) for c in near[:enough]]))
    starts = np.concatenate([[0], np.cumsum([len(each) for each in lists])]).astype(np.int64)
    return Lists(starts, np.concatenate(lists).astype(np.int32))


def _unit(numbers: IntArray) -> NDArray[np.float64]:
    """Evenly distributed in [0, 1), by the numbers alone (the finaliser of SplitMix64)."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / float(2**53)
