"""The landmarks' places: t-SNE with exact forces between all pairs.

As van der Maaten and Hinton (2008), with the initial places and the learning rate of Kobak and Berens (2019) and
Belkina et al. (2019). Each row is drawn to its `NEIGHBOURS` nearest equally, which gives nearly the same maps as
weights by perplexity (Böhm et al., 2022). No force is approximated, so that nothing depends on the order of updates:
all points move at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array
from clusterer.map.kernel import NO_LANDMARK, Graph, Kernel, Lists, Numbers, Panels

NEIGHBOURS: Final = 15
EARLY_STEPS, STEPS = 200, 600
"""Steps with attraction exaggerated, and all steps."""
EXAGGERATION: Final = 12.0
EARLY_MOMENTUM, MOMENTUM = 0.5, 0.8
LEAST_RATE: Final = 50.0
LONGEST_STEP: Final = 5.0
GAIN_UP, GAIN_DOWN, LEAST_GAIN = 0.2, 0.8, 0.01
INITIAL_SIZE: Final = 1e-4
INITIAL_NOISE: Final = 1e-2
"""Relative to the initial size: points that start at one place would never part."""
AXES_ROWS, AXES_ROUNDS = 4096, 24

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Layout:
    """The landmarks on the map.

    Attributes
    ----------
    places
        ``(n, 2) float32``, -1 to 1 on the longer axis.
    spacing
        ``(n,) float32``: how far the points around each one are apart.
    """

    places: Float32Array
    spacing: Float32Array


def lay_out(rows: Float32Array, kernel: Kernel, *, seed: int, on_step: OnStep = lambda _: None) -> Layout:
    """Lay out ``(n, d)`` rows.

    Parameters
    ----------
    on_step
        Called with the number of steps done.
    """
    n = len(rows)
    if n < 2:
        return Layout(np.zeros((n, 2), np.float32), np.ones(n, np.float32))
    rows = scaled(rows)
    graph = neighbour_graph(nearest_of_all(rows, kernel, NEIGHBOURS)[0])
    on_step(0)
    places = framed(descend(initial_places(rows, seed), graph, kernel, on_step))
    _, squared = nearest_of_all(places, kernel, NEIGHBOURS)
    return Layout(places, np.sqrt(squared[:, squared.shape[1] // 3]))


def scaled(rows: Float32Array) -> Float32Array:
    """Rows whose largest magnitude is 1, so that no distance overflows."""
    peak = np.abs(rows).max(initial=0.0)
    return (rows / peak).astype(np.float32) if peak > 0 else rows


def nearest_of_all(rows: Float32Array, kernel: Kernel, k: int) -> tuple[Numbers, Float32Array]:
    """The ``k`` nearest other rows of every row, or all others if they are fewer, and their squared distances."""
    panels = Panels.of(rows)
    itself = np.arange(len(rows), dtype=np.int32)
    groups = np.zeros(len(rows), np.int32)
    return kernel.nearest(rows, groups, panels, Lists.whole(panels), min(k, len(rows) - 1), itself)


def neighbour_graph(nearest: Numbers) -> Graph:
    """Both rows of a pair are drawn to each other if either is among the nearest of the other; twice if both are."""
    n, k = nearest.shape
    found = nearest.ravel() != NO_LANDMARK
    i, j = np.repeat(np.arange(n), k)[found], nearest.ravel()[found].astype(np.int64)
    keys, counts = np.unique(np.concatenate([i * n + j, j * n + i]), return_counts=True)
    starts = np.searchsorted(keys, np.arange(n + 1) * n).astype(np.int64)
    weights = (counts / counts.sum()).astype(np.float32)
    return Graph(starts, (keys % n).astype(np.int32), weights)


def initial_places(rows: Float32Array, seed: int) -> Float64Array:
    """The rows along their two main axes, small, with a little noise."""
    rng = np.random.default_rng(seed)
    projected = np.einsum("nd,dc->nc", rows, main_axes(rows), dtype=np.float64)
    projected -= projected.mean(axis=0)
    size = np.sqrt(np.mean(projected[:, 0] ** 2))
    placed = projected / size if size > 0 else projected
    noisy: Float64Array = INITIAL_SIZE * (placed + INITIAL_NOISE * rng.standard_normal(placed.shape))
    return noisy


def main_axes(rows: Float32Array) -> Float64Array:
    """The two directions ``(d, 2)`` of the largest variance, by power iteration on evenly spread rows.

    Not by LAPACK, whose last bits depend on the number of threads.
    """
    sample = rows[:: -(-len(rows) // AXES_ROWS)].astype(np.float64)
    sample -= sample.mean(axis=0)
    axes = np.random.default_rng(0).standard_normal((rows.shape[1], 2))
    for _ in range(AXES_ROUNDS):
        axes = np.einsum("nd,nc->dc", sample, np.einsum("nd,dc->nc", sample, axes))
        axes[:, 0] /= np.sqrt(np.sum(axes[:, 0] ** 2)) or 1.0
        axes[:, 1] -= axes[:, 0] * np.sum(axes[:, 0] * axes[:, 1])
        axes[:, 1] /= np.sqrt(np.sum(axes[:, 1] ** 2)) or 1.0
    return axes


def descend(initial: Float64Array, graph: Graph, kernel: Kernel, on_step: OnStep) -> Float64Array:
    """Gradient descent with momentum and a gain for each coordinate, all points at once."""
    places, n = initial, len(initial)
    velocity, gains = np.zeros_like(places), np.ones_like(places)
    for step in range(STEPS):
        early = step < EARLY_STEPS
        forces = kernel.forces(places.astype(np.float32), graph)
        pull = EXAGGERATION if early else 1.0
        gradient = pull * forces.attraction.astype(np.float64) - forces.repulsion / forces.sums.sum()
        turned = (gradient > 0) == (velocity > 0)
        gains = np.maximum(np.where(turned, gains * GAIN_DOWN, gains + GAIN_UP), LEAST_GAIN)
        rate = max(n / EXAGGERATION, LEAST_RATE)
        velocity = (EARLY_MOMENTUM if early else MOMENTUM) * velocity - rate * gains * gradient
        length = np.sqrt(np.sum(velocity**2, axis=1, keepdims=True))
        velocity *= np.minimum(1.0, LONGEST_STEP / np.maximum(length, LONGEST_STEP))
        places = places + velocity
        places -= places.mean(axis=0)
        on_step(step + 1)
    return places


def framed(places: Float64Array) -> Float32Array:
    """Places in a frame from -1 to 1 on the longer axis, without changing its proportions."""
    low, high = places.min(axis=0), places.max(axis=0)
    half = float((high - low).max()) / 2
    return np.asarray((places - (low + high) / 2) / (half or 1.0), np.float32)
