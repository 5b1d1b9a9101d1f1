"""A layout of the graph of nearest rows in a few dimensions, by UMAP's forces (McInnes, Healy, Melville 2018).

All points move at once, by the expectation over the edges in place of samples of them: so nothing depends on the order
of updates, and a layout has the same bits for any number of threads. Who pushes whom is drawn with the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from clusterer.data.rows import Float32Array, IntArray, ranges
from clusterer.neighbours import Nearest
from clusterer.reduce.spectral import leading_vectors, normalised_graph

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

EPOCHS: Final = 200
A, B = 1.929, 0.7915
"""Of the curve ``1 / (1 + a d^2b)`` for points that may lie on each other, at a spread of 1."""
PUSHED: Final = 3
"""Random points that push each one, in place of `REPULSION` for each edge."""
REPULSION: Final = 5.0
DAMPING: Final = 0.3
"""Of a step: all forces on a point act at once."""
LONGEST: Final = 4.0
SIZE, NOISE, FADING = 10.0, 1e-4, 12
"""Of the initial layout; how much less exact its eigenvectors are where their eigenvalues are small."""
ROUNDS: Final = 64
AT_ONCE: Final = 16_384
"""Rows whose weights are found together."""
MOVED_VALUES: Final = 2**20
"""Of the edges of the rows that move together in one thread, about; a row near to many has that many edges."""

OnStep = Callable[[int], None]


def umap_coordinates(
    nearest: Nearest, components: int, *, seed: int, threads: int, on_epoch: OnStep = lambda _: None
) -> Float32Array:
    """Coordinates ``(n, c)``, ``c`` at most ``components``, from the eigenvectors of the graph on.

    Parameters
    ----------
    nearest
        The nearest rows of every row.
    on_epoch
        Called with the number of epochs done, of `EPOCHS`.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        _, vectors = leading_vectors(
            normalised_graph(nearest), components + 1, FADING, seed=seed, on_round=lambda _: on_epoch(0)
        )
        initial = vectors[:, 1:] if vectors.shape[1] > 1 else vectors
        return _laid_out(fuzzy_graph(nearest), initial, seed, threads, on_epoch)


def fuzzy_graph(nearest: Nearest) -> csr_matrix:
    """Weights ``(n, n) float32`` from 0 to 1 of the edges, the larger the nearer rows are for both of them.

    Similarities of 0 are no edges. A row without any, such as one of zeros, is its own neighbour: nothing pulls it.
    """
    from scipy.sparse import csr_matrix, diags_array

    n, k = nearest.rows.shape
    weights = np.concatenate([_memberships(1 - nearest.similarity[part]) for part in ranges(n, AT_ONCE)])
    weights[nearest.similarity == 0] = 0
    starts = np.arange(0, n * k + 1, k)
    one = csr_matrix((weights.ravel(), nearest.rows.ravel().astype(np.int32), starts), (n, n))
    other = one.T.tocsr()
    both = csr_matrix(one + other - one.multiply(other), dtype=np.float32)
    alone = np.asarray(both.sum(axis=1)).ravel() == 0
    if alone.any():
        both = csr_matrix(both + diags_array(alone.astype(np.float32)), dtype=np.float32)
        both.eliminate_zeros()
    both.sort_indices()
    return both


def _memberships(distances: Float32Array) -> Float32Array:
    """``exp(-(d - d_1) / s)`` ``(m, k)`` of each row's distances; ``s`` makes them add up to ``log2(k + 1)``."""
    beyond = (distances - distances.min(axis=1, keepdims=True)).astype(np.float64)
    sought = np.log2(distances.shape[1] + 1)
    low, high, scale = np.zeros(len(beyond)), np.full(len(beyond), np.inf), np.ones(len(beyond))
    for _ in range(ROUNDS):
        much = np.exp(-beyond / scale[:, None]).sum(axis=1) > sought
        high, low = np.where(much, scale, high), np.where(much, low, scale)
        scale = np.where(np.isinf(high), 2 * scale, (low + high) / 2)
    # Rows that are all equally far have no scale.
    least = 1e-3 * np.maximum(beyond.mean(axis=1), 1e-12)
    return np.asarray(np.exp(-beyond / np.maximum(scale, least)[:, None]), np.float32)


def _laid_out(graph: csr_matrix, initial: Float32Array, seed: int, threads: int, on_epoch: OnStep) -> Float32Array:
    """The layout after all epochs."""
    n = len(initial)
    rng = np.random.default_rng(seed)
    places = SIZE * initial / np.maximum(np.abs(initial).max(axis=0), 1e-12)
    places = np.asarray(places + NOISE * rng.standard_normal(places.shape), np.float32)
    layout = Layout(graph)
    parts = layout.parts(MOVED_VALUES // places.shape[1])
    with ThreadPoolExecutor(threads) as pool:
        for epoch in range(EPOCHS):
            rate = np.float32(DAMPING * (1 - epoch / EPOCHS))
            pushing = rng.integers(0, n, (PUSHED, n), np.int32)
            before = places

            def move(
                part: slice, before: Float32Array = before, pushing: IntArray = pushing, rate: np.float32 = rate
            ) -> Float32Array:
                return layout.moved(part, before, pushing[:, part], rate)

            places = np.concatenate(list(pool.map(move, parts)))
            on_epoch(epoch + 1)
    return places


class Layout:
    """The forces of a graph's edges, and of random points.

    Parameters
    ----------
    graph
        ``(n, n) float32``, symmetric; every row has an edge.
    """

    def __init__(self, graph: csr_matrix) -> None:
        self._starts, self._others, self._weights = graph.indptr, graph.indices, graph.data
        self._degrees = np.add.reduceat(graph.data, graph.indptr[:-1])

    def parts(self, edges: int) -> list[slice]:
        """All points in ranges of at most so many edges each, or of one point."""
        found, first, n = [], 0, len(self._degrees)
        while first < n:
            last = int(np.searchsorted(self._starts, self._starts[first] + edges, "right")) - 1
            found.append(slice(first, min(max(first + 1, last), n)))
            first = found[-1].stop
        return found

    def moved(self, part: slice, places: Float32Array, pushing: IntArray, rate: np.float32) -> Float32Array:
        """The new places of a range of points ``(m, c)``, given those of all and who pushes each ``(p, m)``."""
        own, starts = places[part], self._starts[part.start : part.stop + 1]
        edges = slice(starts[0], starts[-1])
        apart = np.repeat(own, np.diff(starts), axis=0) - places[self._others[edges]]
        squared = np.einsum("ec,ec->e", apart, apart)
        near = np.maximum(squared, np.float32(1e-12))
        pull = np.float32(-4 * A * B) * near ** np.float32(B - 1) / (1 + np.float32(A) * near ** np.float32(B))
        apart *= (pull * self._weights[edges])[:, None]
        force = np.add.reduceat(apart, starts[:-1] - starts[0])
        share = self._degrees[part] * np.float32(2 * B * REPULSION / PUSHED)
        for others in pushing:
            apart = own - places[others]
            squared = np.einsum("mc,mc->m", apart, apart)
            push = share / ((np.float32(1e-3) + squared) * (1 + np.float32(A) * squared ** np.float32(B)))
            force += push[:, None] * apart
        lengths = np.sqrt(np.einsum("mc,mc->m", force, force))[:, None]
        force *= rate * np.minimum(1, np.float32(LONGEST) / np.maximum(lengths, np.float32(1e-9)))
        return np.asarray(own + force, np.float32)
