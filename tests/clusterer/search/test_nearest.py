"""The nearest rows are those of brute force, whatever the data, the kernel, the shards and the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer.kmeans.fast.kernel import Frame, Kernel, open_kernel
from clusterer.native.library import available
from clusterer.search import loaded as loading
from clusterer.search import nearest as collecting
from clusterer.search.loaded import LoadedEmbeddings
from clusterer.search.nearest import Nearest, cosines, unit
from hypothesis import given
from hypothesis import strategies as st
from shoal.store import Store

MakeSet = Callable[..., str]
PLENTY = 2**30


def brute(rows: Any, vector: Any, k: int, leave_out: int | None = None) -> tuple[list[int], list[float]]:
    """The answer by its definition, in float64."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    found = np.clip((wide @ vector) / np.where(norms > 0, norms, 1), -1, 1).astype(np.float32)
    order = np.lexsort((np.arange(len(rows)), -found))
    order = order[order != leave_out][:k]
    return order.tolist(), found[order].tolist()


def search(
    loaded: LoadedEmbeddings, vector: Any, k: int, leave_out: int | None = None
) -> tuple[list[int], list[float]]:
    nearest, reader = loaded.nearest(vector, k, leave_out)
    for _ in loaded.scan(nearest, reader):
        pass
    found = nearest.found()
    return found.rows.tolist(), found.similarity.tolist()


def rows_of(kind: str, dim: int, n: int = 700) -> Any:
    rng = np.random.default_rng(dim)
    grouped = rng.normal(size=(9, dim))[rng.integers(0, 9, n)] + 0.3 * rng.normal(size=(n, dim))
    made: dict[str, Callable[[], Any]] = {
        "grouped": lambda: grouped,
        "positive": lambda: np.maximum(rng.normal(size=(n, dim)) + 1, 0),
        "copies": lambda: grouped[rng.integers(0, 5, n)],
        "equal": lambda: np.tile(grouped[:1], (n, 1)),
        "scaled": lambda: grouped[rng.integers(0, 50, n)] * 2.0 ** rng.integers(-3, 4, (n, 1)),
        "zeros": lambda: grouped * (rng.integers(0, 3, (n, 1)) > 0),
        "tiny": lambda: grouped * 1e-42,
        "huge": lambda: grouped * 1e37,
        "spiky": lambda: grouped * (rng.random((n, dim)) < 2 / dim),
    }
    return made[kind]().astype(np.float32)


KINDS = ["grouped", "positive", "copies", "equal", "scaled", "zeros", "tiny", "huge", "spiky"]


@pytest.mark.parametrize("limit", [PLENTY, 0], ids=["sketch", "vectors"])
@pytest.mark.parametrize("dim", [3, 64, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_rows_are_those_of_brute_force(
    store: Store, make_set: MakeSet, kind: str, dim: int, limit: int
) -> None:
    rows = rows_of(kind, dim)
    loaded = LoadedEmbeddings.of(store.embeddings(make_set("mine", rows)), limit)
    assert (loaded.sketch is None) == (limit == 0 or not available())
    sought = [int(row) for row in np.flatnonzero(np.abs(rows).max(axis=1))[:3]]
    for k in (1, 10, 699, 700, 1000):
        for row in sought:
            vector = unit(rows[row].astype(np.float64))
            assert vector is not None
            assert search(loaded, vector, k) == brute(rows, vector, k)
            assert search(loaded, vector, k, row) == brute(rows, vector, k, row)
        vector = unit(np.random.default_rng(k).normal(size=dim))
        assert vector is not None
        assert search(loaded, vector, k) == brute(rows, vector, k)


@pytest.mark.parametrize("limit", [PLENTY, 0])
def test_half_precision_rows_are_searched_as_their_values(
    store: Store, make_set: MakeSet, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    rows = rows_of("grouped", 40).astype(np.float16)
    found = store.embeddings(make_set("half", rows, dtype="float16"))
    assert found.dtype == np.float16
    vector = unit(rows[5].astype(np.float64))
    assert vector is not None
    assert search(LoadedEmbeddings.of(found, limit), vector, 20) == brute(rows, vector, 20)


@pytest.mark.parametrize("limit", [PLENTY, 0])
def test_what_is_done_in_pieces_is_the_same(
    store: Store, make_set: MakeSet, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(loading, "PIECE_BYTES", 64 * 90)
    monkeypatch.setattr(loading, "BLOCK_VALUES", 64 * 30)
    monkeypatch.setattr(loading, "MOST_MAPPED", 1)
    monkeypatch.setattr(collecting, "MOST_PENDING", 20)
    monkeypatch.setattr(collecting, "READ_VALUES", 64 * 7)
    for kind in ("grouped", "copies", "equal"):
        rows = rows_of(kind, 64)
        loaded = LoadedEmbeddings.of(store.embeddings(make_set(kind, rows, shard_rows=61)), limit)
        for row in (0, 60, 61, 350, 699):
            vector = unit(rows[row].astype(np.float64))
            assert vector is not None
            for k in (1, 30):
                assert search(loaded, vector, k, row) == brute(rows, vector, k, row)


@pytest.mark.parametrize("variant", available())
@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_bounds_the_cosines(variant: str, kind: str) -> None:
    rows = rows_of(kind, 200)
    kernel = open_kernel(variant)
    frame = Frame.around(np.zeros(200, np.float32))
    for row in (0, 1, 2, 3):
        vector = unit(rows[row].astype(np.float64))
        if vector is not None:
            low, high = kernel.cosines(kernel.sketch(rows, frame), kernel.sought(vector, frame))
            exact = cosines(rows, vector)
            assert ((low <= exact) & (exact <= high)).all()
            if kind in {"grouped", "positive", "copies"}:
                assert (high - low).max() < 0.1, "bounds are of use"


def test_few_rows_are_read(store: Store, make_set: MakeSet) -> None:
    rows = rows_of("grouped", 64, 20_000)
    loaded = LoadedEmbeddings.of(store.embeddings(make_set("many", rows, shard_rows=20_000)), PLENTY)
    vector = unit(rows[0].astype(np.float64))
    assert vector is not None
    nearest, reader = loaded.nearest(vector, 10)
    read: list[int] = []
    watched = Nearest(vector, 10, lambda wanted: (read.extend(wanted.tolist()), reader.take(wanted))[1])
    for _ in loaded.scan(watched, reader):
        pass
    assert watched.found().rows.tolist() == brute(rows, vector, 10)[0]
    assert len(read) == len(set(read))
    if available():
        assert len(read) < 1000
    assert nearest.found().rows.tolist() == [], "nothing was added to it"


@given(
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60),
    st.integers(1, 12),
    st.integers(1, 20),
    st.data(),
)
def test_any_bounds_give_the_same_rows(exact: list[float], k: int, piece: int, data: st.DataObject) -> None:
    rows = np.array([[each, np.sqrt(1 - each * each)] for each in exact], np.float32)
    vector = np.array([1.0, 0.0])
    wide = np.array(data.draw(st.lists(st.floats(0, 2), min_size=len(rows), max_size=len(rows))), np.float32) + 1e-5
    leave_out = data.draw(st.none() | st.integers(0, len(rows) - 1))
    nearest = Nearest(vector, k, lambda wanted: rows[wanted], leave_out)
    found = cosines(rows, vector)
    for first in range(0, len(rows), piece):
        part = slice(first, first + piece)
        nearest.add(first, np.maximum(found[part] - wide[part], -1), np.minimum(found[part] + wide[part], 1))
    assert (nearest.found().rows.tolist(), nearest.found().similarity.tolist()) == brute(rows, vector, k, leave_out)


def test_a_direction_has_length_1_whatever_the_size_of_the_values() -> None:
    for scale in (1e-320, 1e-200, 1.0, 1e200, 1e308):
        found = unit(np.array([scale, -scale]))
        assert found is not None
        assert found.tolist() == pytest.approx([2**-0.5, -(2**-0.5)])
    assert unit(np.zeros(3)) is None


def test_without_a_kernel_all_vectors_are_read(
    store: Store, make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of("grouped", 16)
    found = store.embeddings(make_set("mine", rows))
    monkeypatch.setattr(Kernel, "has_cosines", False)
    loaded = LoadedEmbeddings.of(found, PLENTY)
    assert loaded.sketch is None
    vector = unit(rows[0].astype(np.float64))
    assert vector is not None
    assert search(loaded, vector, 5) == brute(rows, vector, 5)


def test_paths_come_from_memory_or_from_the_files(store: Store, make_set: MakeSet) -> None:
    rows = rows_of("grouped", 16)
    labels = [None if row % 3 else str(row % 7) for row in range(700)]
    found = store.embeddings(make_set("mine", rows, labels))
    kept, read = LoadedEmbeddings.of(found, PLENTY), LoadedEmbeddings.of(found, 0)
    assert kept.table is not None
    assert read.table is None
    wanted = np.array([699, 0, 99, 100, 350, 0])
    expected = [{"image_path": f"mine/{row:05d}.png", "label": labels[row]} for row in wanted.tolist()]
    assert kept.described(wanted) == read.described(wanted) == expected
    assert kept.described(wanted[:0]) == read.described(wanted[:0]) == []
    assert kept.bytes > read.bytes
