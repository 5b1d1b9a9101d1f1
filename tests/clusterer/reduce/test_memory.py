"""What reductions hold at once does not grow with the number of neighbours or of coordinates."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
from clusterer.data.rows import ArrayRows, Float32Array
from clusterer.jobs.memory import PER_EDGE, PER_VECTOR
from clusterer.neighbours import Among, Nearest
from clusterer.reduce import SmoothedRows, diffusion_coordinates
from clusterer.reduce.umap import Layout, fuzzy_graph

MIB = 2**20


def peak_of(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def ring(n: int, k: int) -> Nearest:
    """Rows in a circle, each next to the ``k`` after it."""
    rows = (np.arange(n)[:, None] + np.arange(1, k + 1)) % n
    return Nearest(rows, np.tile(np.linspace(0.9, 0.5, k, dtype=np.float32), (n, 1)))


def rows_of(n: int, d: int) -> Float32Array:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def test_a_block_of_averaged_rows_is_read_neighbour_by_neighbour() -> None:
    n, d = 2000, 512
    smoothed = SmoothedRows(ArrayRows(rows_of(n, d)), ring(n, 50).rows.astype(np.int32))
    assert peak_of(lambda: smoothed.take(np.arange(n))) < 6 * n * d * 4


def test_copies_of_neighbours_are_ordered_a_few_rows_at_a_time() -> None:
    x = rows_of(2000, 16)
    x[1::2] = x[::2]
    among = Among(ArrayRows(x), 200)
    new = rows_of(1024, 16)
    few = among.nearest(new[:3])
    found: list[Nearest] = []
    assert peak_of(lambda: found.append(among.nearest(new))) < 64 * MIB
    assert np.array_equal(found[0].rows[:3], few.rows)


def test_points_with_many_edges_and_coordinates_move_a_few_at_a_time() -> None:
    n, c = 4000, 200
    near = ring(n, 15)
    near.rows[:, 0] = np.where(np.arange(n) == 7, 8, 7)  # one row near to all
    layout, places = Layout(fuzzy_graph(near)), rows_of(n, c)
    parts = layout.parts(2**20 // c)
    assert np.array_equal(np.concatenate([np.arange(n)[part] for part in parts]), np.arange(n))
    pushing = np.zeros((3, n), np.int64)
    moves = [partial(layout.moved, part, places, pushing[:, part], np.float32(0.1)) for part in parts]
    peaks = [peak_of(move) for move in moves]
    assert max(peaks) < 24 * MIB


def test_eigenvectors_take_what_memory_counts() -> None:
    n, k, c = 8000, 10, 300
    peak = peak_of(lambda: diffusion_coordinates(ring(n, k), c, 4, seed=0))
    assert peak < n * (PER_VECTOR * (c + 16) + PER_EDGE * k) + 32 * MIB
