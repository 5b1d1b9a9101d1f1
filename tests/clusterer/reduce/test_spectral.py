"""Coordinates by a random walk on the graph of nearest rows."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, Float32Array
from clusterer.kmeans import NumpyEngine, fit_kmeans
from clusterer.neighbours import nearest_rows
from clusterer.reduce import diffusion_coordinates
from clusterer.reduce.spectral import leading_vectors, normalised_graph
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits


def rings(n: int = 900, seed: int = 0) -> tuple[Float32Array, list[int]]:
    """Three circles around one axis, of directions that no plane parts, with noise in ten dimensions."""
    rng = np.random.default_rng(seed)
    of, angle = np.arange(n) % 3, rng.uniform(0, 2 * np.pi, n)
    radius = 1.0 + of
    rows = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, 1.5)], axis=1)
    rows = np.concatenate([rows, np.zeros((n, 7))], axis=1) + 0.03 * rng.normal(size=(n, 10))
    return rows.astype(np.float32), of.tolist()


def test_rings_that_k_means_cuts_are_found() -> None:
    x, of = rings()
    reduced = diffusion_coordinates(nearest_rows(ArrayRows(x), 10), 3, 8, seed=0)
    plain, found = (
        adjusted_rand_score(of, fit_kmeans(ArrayRows(each), 3, engine=NumpyEngine()).best.fit.labels)
        for each in (x, reduced)
    )
    assert found == 1.0
    assert plain < 0.5


def test_vectors_are_those_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(12, 16))[np.arange(600) % 12] * 2 + rng.normal(size=(600, 16))).astype(np.float32)
    graph = normalised_graph(nearest_rows(ArrayRows(x), 10))
    values, vectors = leading_vectors(graph, 20, 8, seed=0, on_round=lambda _: None)
    exact = np.linalg.eigvalsh(graph.toarray().astype(np.float64))[::-1][:20]
    assert np.abs(values - exact).max() < 1e-4
    assert np.abs(graph @ vectors - vectors * values).max() < 2e-3
    assert np.abs(vectors.T @ vectors - np.eye(20)).max() < 1e-4


def test_a_graph_of_many_parts_has_as_many_ones() -> None:
    x = np.repeat(np.eye(30, dtype=np.float32), 20, axis=0)
    x += 0.01 * np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    nearest = nearest_rows(ArrayRows(x), 5)
    values, _ = leading_vectors(normalised_graph(nearest), 25, 8, seed=0, on_round=lambda _: None)
    assert values == pytest.approx(np.ones(25), abs=1e-5)
    found = diffusion_coordinates(nearest, 25, 64, seed=0)
    apart = found @ found.T
    same = np.arange(600)[:, None] // 20 == np.arange(600) // 20
    assert apart[same].min() > apart[~same].max()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_number_of_threads_changes_no_bit(seed: int) -> None:
    nearest = nearest_rows(ArrayRows(rings()[0]), 10)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(diffusion_coordinates(nearest, 32, 8, seed=seed).tobytes())
    assert found[0] == found[1]


def test_few_rows_have_as_many_coordinates_as_rows() -> None:
    x = np.eye(4, 8, dtype=np.float32)
    assert diffusion_coordinates(nearest_rows(ArrayRows(x), 3), 64, 8, seed=0).shape == (4, 4)


def test_a_row_without_a_neighbour_has_no_direction_and_changes_no_other() -> None:
    x = rings()[0]
    with_zeros = np.insert(x, [0, 300, 700], 0, axis=0)
    alone = ~with_zeros.any(axis=1)
    usual, found = (diffusion_coordinates(nearest_rows(ArrayRows(each), 10), 8, 8, seed=0) for each in (x, with_zeros))
    assert not found[alone].any()
    assert np.allclose(found[~alone] @ found[~alone].T, usual @ usual.T, atol=1e-3)
