"""Diffusion coordinates of the graph of nearest rows: rows that many short paths connect have nearly the same ones.

The leading eigenvectors of the graph's normalised adjacency matrix, as Ng, Jordan and Weiss (2001) take them, each
times its eigenvalue to the power of the steps of a random walk, as Coifman and Lafon (2006) do; then rows are scaled to
length 1. The power lets components fade by themselves, so their number matters little.

The eigenvectors are found by subspace iteration with a Chebyshev filter (Zhou, Saad, Tiago and Chelikowsky 2006), which
finds all of an eigenvalue that occurs many times: there are as many ones as the graph has parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array, l2_normalize, ranges
from clusterer.neighbours import Nearest, connected

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

EXTRA, FEWEST = 16, 32
"""Vectors beside those that are sought, since the last ones converge slowly, and the fewest in all."""
DEGREE: Final = 12
"""Of the filter: products with the matrix in each round."""
FEWEST_ROUNDS, MOST_ROUNDS = 3, 30
TOLERANCE: Final = 1e-4
"""Of a residual's length, times what the steps leave of its eigenvalue."""
BLOCK_VALUES: Final = 2**20
"""Of vectors whose products are added at once."""

OnRound = Callable[[int], None]


def diffusion_coordinates(
    nearest: Nearest, components: int, steps: int, *, seed: int, on_round: OnRound = lambda _: None
) -> Float32Array:
    """Coordinates ``(n, c)`` of length 1, ``c`` at most ``components``; the same bits for any number of threads.

    A row that is similar to none, such as one of zeros, has coordinates of 0.

    Parameters
    ----------
    nearest
        The nearest rows of every row; two are connected, with a weight of 1/2 for each that is near to the other.
    steps
        Of the random walk.
    on_round
        Called with the number of rounds done, `MOST_ROUNDS` at most.
    """
    from threadpoolctl import threadpool_limits

    # BLAS adds in another order for another number of threads.
    with threadpool_limits(1, "blas"):
        graph = normalised_graph(nearest)
        values, vectors = leading_vectors(graph, components, steps, seed=seed, on_round=on_round)
        for part in _blocks(vectors):
            vectors[part] *= values**steps
        vectors[np.diff(graph.indptr) == 0] = 0  # Not the direction of what rounding left.
        return l2_normalize(vectors)


def normalised_graph(nearest: Nearest) -> csr_matrix:
    """``D^-1/2 A D^-1/2`` ``(n, n) float32`` of the symmetric graph ``A`` with degrees ``D``.

    Similarities of 0 are no edges: a row of zeros has no other, and would be connected with the first rows.
    """
    from scipy.sparse import csr_matrix, diags_array

    graph = connected(nearest.rows, np.where(nearest.similarity != 0, np.float32(0.5), np.float32(0)))
    graph.eliminate_zeros()
    scale = 1 / np.sqrt(np.maximum(np.asarray(graph.sum(axis=1), np.float64).ravel(), 0.5))
    scaled = diags_array(scale) @ graph @ diags_array(scale)
    return csr_matrix(scaled, dtype=np.float32)


def leading_vectors(
    matrix: csr_matrix, count: int, steps: int, *, seed: int, on_round: OnRound
) -> tuple[Float64Array, Float32Array]:
    """The largest eigenvalues ``(c,)`` of a matrix, not below 0, and their vectors ``(n, c)``; all lie from -1 to 1.

    Eigenvalues whose power is small need not be exact: a residual counts as much as is left of its eigenvalue.
    """
    n = matrix.shape[0]
    width = min(max(count + EXTRA, FEWEST), n)
    block = _orthonormal(np.random.default_rng(seed).standard_normal((n, width), np.float32))
    values, block, residuals = _ritz(matrix, block)
    for number in range(MOST_ROUNDS):
        # An eigenvalue lies within the residual of its approximation.
        left = np.clip(values[:count] + residuals[:count], 0, 1) ** steps * residuals[:count]
        if number >= FEWEST_ROUNDS and left.max() <= TOLERANCE:
            break
        block = _orthonormal(_filtered(matrix, block, float(np.clip(values[-1], -0.5, 0.95))))
        values, block, residuals = _ritz(matrix, block)
        on_round(number + 1)
    kept = block[:, :count]
    signs = np.sign(kept[np.argmax(np.abs(kept), axis=0), np.arange(kept.shape[1])])
    return np.maximum(values[:count], 0.0), kept * signs


def _filtered(matrix: csr_matrix, block: Float32Array, low: float) -> Float32Array:
    """A polynomial of the matrix times a block, which is small for eigenvalues from -1 to ``low`` and grows above."""
    half, middle = (low + 1) / 2, (low - 1) / 2
    # Scaled by the polynomial's value at 1, so that nothing overflows.
    top = half / (1 - middle)
    sigma = top
    before, now = block, _combined(matrix @ block, (sigma / half, -sigma * middle / half), block)
    for _ in range(DEGREE - 1):
        following = 1 / (2 / top - sigma)
        factor = 2 * following / half
        after = _combined(matrix @ now, (factor, -factor * middle), now)
        after = _combined(after, (1.0, -sigma * following), before)
        before, now, sigma = now, after, following
    return now


def _combined(block: Float32Array, factors: tuple[float, float], other: Float32Array) -> Float32Array:
    """The block times a factor, and another one times the other, in the block's place."""
    own, others = np.float32(factors[0]), np.float32(factors[1])
    for part in _blocks(block):
        block[part] *= own
        block[part] += others * other[part]
    return block


def _orthonormal(block: Float32Array) -> Float32Array:
    """An orthonormal basis of the columns, by the eigenvectors of their products, twice."""
    for _ in range(2):
        values, vectors = np.linalg.eigh(_products(block, block))
        scale = 1 / np.sqrt(np.maximum(values, values[-1] * 1e-12))
        block = _times(block, vectors * scale)
    return block


def _ritz(matrix: csr_matrix, block: Float32Array) -> tuple[Float64Array, Float32Array, Float64Array]:
    """Eigenvalues ``(b,)`` in the span of an orthonormal block, descending, their vectors, and residuals' lengths."""
    image = np.asarray(matrix @ block, np.float32)
    values, vectors = np.linalg.eigh(_products(block, image))
    values, vectors = values[::-1], vectors[:, ::-1]
    block, image = _times(block, vectors), _times(image, vectors)
    squares = np.zeros(len(values))
    for part in _blocks(block):
        squares += np.square(image[part] - block[part] * values).sum(axis=0)
    return values, block, np.sqrt(squares)


def _blocks(block: Float32Array) -> Iterator[slice]:
    """Its rows, so many at a time."""
    return ranges(len(block), max(1, BLOCK_VALUES // block.shape[1]))


def _products(left: Float32Array, right: Float32Array) -> Float64Array:
    """``left.T @ right``, symmetric, in float64."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for part in _blocks(left):
        total += left[part].astype(np.float64).T @ right[part].astype(np.float64)
    return (total + total.T) / 2


def _times(block: Float32Array, matrix: Float64Array) -> Float32Array:
    found = np.empty((len(block), matrix.shape[1]), np.float32)
    for part in _blocks(block):
        found[part] = block[part].astype(np.float64) @ matrix
    return found
